"""Write `.env` for docker-compose.yaml, every secret random: `python3 -m dropflow.first_run`.

It needs Python and nothing else: a machine that runs containers need not have Dropflow installed.
"""

import argparse
import os
import secrets
import sys
from pathlib import Path

PROFILES = ("minio", "server", "listener", "worker")
NEEDED_BY = {
    "MINIO_ROOT_USER": {"minio"},
    "MINIO_ROOT_PASSWORD": {"minio"},
    "LISTENER_S3_ACCESS_KEY": {"minio", "listener"},
    "LISTENER_S3_SECRET_KEY": {"minio", "listener"},
    "WORKER_S3_ACCESS_KEY": {"minio", "worker"},
    "WORKER_S3_SECRET_KEY": {"minio", "worker"},
    "POSTGRES_PASSWORD": {"server"},
    "PREFECT_DB_PASSWORD": {"server"},
    "LEDGER_DB_PASSWORD": {"server", "listener"},
    "REDIS_PASSWORD": {"server"},
    "DROPFLOW_PREFECT_AUTH": {"server", "listener", "worker"},
    "DROPFLOW_WEBHOOK_TOKEN": {"minio", "listener"},
    "DROPFLOW_PAGE_TOKEN": {"listener"},
}
"""Each secret, and the profiles of docker-compose.yaml that use it."""
NAMES = {"MINIO_ROOT_USER": "root", "LISTENER_S3_ACCESS_KEY": "listener", "WORKER_S3_ACCESS_KEY": "worker"}
"""Those that name somebody."""
ELSEWHERE = "elsewhere"
"""Compose wants every variable of the file, also those of services that run on other machines."""


class FirstRunError(Exception):
    """It cannot be written; the message says what to do."""


def new_secrets() -> dict[str, str]:
    """Random values, of characters that mean nothing in a URL, a shell or YAML; a store takes 40 at most."""
    values = {name: secrets.token_hex(20) for name in NEEDED_BY}
    values |= {name: f"{who}-{secrets.token_hex(4)}" for name, who in NAMES.items()}
    return {**values, "DROPFLOW_PREFECT_AUTH": f"admin:{values['DROPFLOW_PREFECT_AUTH']}"}


def for_profiles(known: dict[str, str], profiles: set[str], address: str) -> dict[str, str]:
    """What a machine that runs only these profiles is told: its own secrets, and where the others are."""
    own = {name: known[name] if NEEDED_BY[name] & profiles else ELSEWHERE for name in NEEDED_BY}
    addresses = {
        "STORE_URL": f"http://{address}:9000",
        "PREFECT_URL": f"http://{address}:4200",
        "PREFECT_UI_URL": known.get("PREFECT_UI_URL", f"http://{address}:4200"),
        "POSTGRES_HOST": address,
    }
    return {**own, **addresses}


def write(path: Path, values: dict[str, str], profiles: set[str]) -> None:
    """Write a file that only its owner may read. Raises FirstRunError, too where it is there already."""
    lines = [
        "# For docker-compose.yaml, by `python3 -m dropflow.first_run`. Holds secrets: never commit it.",
        f"COMPOSE_PROFILES={','.join(name for name in PROFILES if name in profiles)}",
        *(f"{name}={value}" for name, value in values.items()),
    ]
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        raise FirstRunError(
            f"{path} is there already and was left as it is: volumes were made with its passwords"
        ) from None
    except OSError as error:
        raise FirstRunError(f"{path} cannot be made: {error.strerror}") from None
    try:
        with open(descriptor, "w", encoding="utf-8") as file:
            file.write("\n".join(lines) + "\n")
    except OSError as error:
        # Half of it would be taken for the whole next time.
        path.unlink()
        raise FirstRunError(f"{path} cannot be written: {error.strerror}") from None


def read(path: Path) -> dict[str, str]:
    """The variables of a file that `write` has written. Raises FirstRunError."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except FileNotFoundError:
        raise FirstRunError(f"there is no {path}: run it without --only first") from None
    except (OSError, UnicodeDecodeError) as error:
        raise FirstRunError(f"{path} cannot be read: {error}") from None
    pairs = (line.partition("=") for line in lines if not line.startswith("#"))
    values = {name: value for name, _, value in pairs}
    if missing := [name for name in NEEDED_BY if not values.get(name)]:
        raise FirstRunError(f"{path} lacks {', '.join(missing)}")
    return values


def main() -> None:
    parser = argparse.ArgumentParser(prog="python3 -m dropflow.first_run", description=__doc__)
    parser.add_argument("--env-file", type=Path, default=Path(".env"), help="[.env]")
    parser.add_argument(
        "--only",
        metavar="PROFILE",
        nargs="+",
        choices=PROFILES,
        help=f"write <env-file>.PROFILE for another machine, with what these need ({', '.join(PROFILES)})",
    )
    parser.add_argument("--at", metavar="ADDRESS", help="of this machine, as the other one reaches it")
    given = parser.parse_args()
    if bool(given.only) != bool(given.at):
        parser.error("--only and --at go together")
    try:
        written = _another(given.env_file, given.only, given.at) if given.only else _first(given.env_file)
    except FirstRunError as error:
        sys.exit(f"Error: {error}")
    sys.stdout.write(f"wrote {written}\n")


def _first(path: Path) -> Path:
    write(path, new_secrets(), set(PROFILES))
    return path


def _another(path: Path, profiles: list[str], address: str) -> Path:
    to_write = path.with_name(f"{path.name}.{'-'.join(profiles)}")
    write(to_write, for_profiles(read(path), set(profiles), address), set(profiles))
    return to_write


if __name__ == "__main__":
    main()
