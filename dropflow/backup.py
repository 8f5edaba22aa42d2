"""One archive of what is in no bucket: the ledger, dataset and automation files, audit log, settings.

A zip file of JSON lines and of files as they are. Nothing in it is executed when it is read, and nothing it
names is written outside the folders it is meant for. Prefect's database is not in it.
"""

import os
import re
import shutil
import zlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, Literal
from zipfile import ZIP_DEFLATED, BadZipFile, ZipFile, ZipInfo

from pydantic import BaseModel, ConfigDict, ValidationError

from dropflow import __version__, audit_log
from dropflow.errors import BackupError
from dropflow.ledger import Ledger
from dropflow.ledger.database import version_of
from dropflow.ledger.rows import KEPT, dump, load
from dropflow.settings import PREFIX, SECRETS, Settings

MANIFEST, SETTINGS = "manifest.json", "settings.env"
_ROWS = re.compile(r"ledger/([a-z_]{1,60})\.jsonl")
_YAML = re.compile(r"(datasets|automations)/([^/\\\x00-\x1f]{1,200}\.yaml)")
LARGEST_FILE = 4 * 2**20
"""Bytes of a file that is read as a whole; and of a row."""
MOST_MEMBERS = 10_000
MOST_RATIO = 200
"""An archive grows by no more than that when it is read: rows by ten to thirty."""


class Manifest(BaseModel):
    """What an archive says of itself."""

    model_config = ConfigDict(extra="forbid", strict=True)

    format: Literal[1] = 1
    dropflow: str = __version__
    ledger_version: str
    made: str
    rows: dict[str, int]


@dataclass(frozen=True)
class Restored:
    """What was brought back. `left`: files that were there already, with other content."""

    made: str
    rows: dict[str, int]
    written: list[Path]
    left: list[Path]


def back_up(settings: Settings, ledger: Ledger, target: Path) -> Manifest:
    """Write the archive, readable by its owner alone; listeners may be at work.

    Raises BackupError when the target is there already or cannot be written.
    """
    if target.exists():
        raise BackupError(f"{target} is there already: give another name")
    unfinished = target.with_name(f".{target.name}.unfinished")
    try:
        unfinished.unlink(missing_ok=True)
        with (
            open(os.open(unfinished, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600), "w+b") as file,
            ZipFile(file, "w", ZIP_DEFLATED) as archive,
        ):
            manifest = _write(archive, settings, ledger)
            archive.close()
            file.flush()
            os.fsync(file.fileno())
        unfinished.rename(target)
    except OSError as error:
        raise BackupError(f"{target} cannot be written: {error.strerror}") from error
    finally:
        unfinished.unlink(missing_ok=True)
    return manifest


def restore(settings: Settings, source: Path) -> Restored:
    """Fill an empty ledger from an archive, and put files where there are none of that name.

    Raises BackupError, and then nothing was changed, when the archive is damaged, is none of ours or of a
    newer Dropflow, or the ledger is not empty.
    """
    with _opened(source) as archive:
        members = {member.filename: member for member in archive.infolist()}
        _check(members, archive, source.stat().st_size)
        manifest = _manifest(archive, members[MANIFEST])
        targets = dict(_targets(settings, members))
        found = {_ROWS.fullmatch(name): member for name, member in members.items()}
        rows = {match[1]: _lines(archive, member) for match, member in found.items() if match}
        if rows.keys() != manifest.rows.keys():
            raise BackupError(f"its {MANIFEST} tells of other tables than it holds")
        ledger = Ledger(settings.ledger)
        try:
            load(ledger.database, manifest.ledger_version, rows, manifest.rows)
        finally:
            ledger.close()
        outcome = {path: _put(archive, members[name], path) for name, path in targets.items()}
    written = [path for path, done in outcome.items() if done == "written"]
    left = [path for path, done in outcome.items() if done == "left"]
    return Restored(manifest.made, manifest.rows, written, left)


def _write(archive: ZipFile, settings: Settings, ledger: Ledger) -> Manifest:
    rows: dict[str, int] = {}
    made = datetime.now(UTC).isoformat(timespec="seconds")
    with ledger.database.snapshot() as db:
        version = version_of(db)
        assert version
        for name in KEPT:
            with archive.open(f"ledger/{name}.jsonl", "w", force_zip64=True) as member:
                rows[name] = _copy_lines(dump(db, name), member)
    for folder, path in (
        ("datasets", settings.datasets_dir),
        ("automations", settings.automations_dir),
    ):
        for file in sorted(path.glob("*.yaml")):
            archive.write(file, f"{folder}/{file.name}")
    if (log := settings.data_dir / audit_log.FILE).exists():
        archive.write(log, audit_log.FILE)
    archive.writestr(SETTINGS, _settings(settings))
    manifest = Manifest(ledger_version=version, made=made, rows=rows)
    archive.writestr(MANIFEST, manifest.model_dump_json(indent=2))
    return manifest


def _copy_lines(lines: Iterable[bytes], member: IO[bytes]) -> int:
    number = 0
    for line in lines:
        member.write(line)
        number += 1
    return number


def _settings(settings: Settings) -> str:
    lines = ["# What was set when the backup was made. Secrets are not in it."]
    for name in sorted(settings.model_fields_set):
        variable = f"{PREFIX}{name.upper()}"
        value = getattr(settings, name)
        lines.append(f"# {variable}: a secret" if name in SECRETS else f"{variable}={value}")
    return "\n".join(lines) + "\n"


@contextmanager
def _opened(source: Path) -> Iterator[ZipFile]:
    try:
        with ZipFile(source) as archive:
            yield archive
    except OSError as error:
        raise BackupError(f"{source}: {error.strerror or error}") from error
    # What zipfile raises when it meets what it does not expect is no single family.
    except (BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError) as error:
        raise BackupError(f"{source} is damaged, or no backup of Dropflow's: {error}") from error
    except BackupError as error:
        raise BackupError(f"{source}: {error}") from error


def _check(members: dict[str, ZipInfo], archive: ZipFile, size: int) -> None:
    """Nothing but what a backup holds, and no more than it can. Raises BackupError."""
    if len(members) < len(archive.infolist()):
        raise BackupError("it holds a name twice")
    if MANIFEST not in members:
        raise BackupError(f"it has no {MANIFEST}: no backup of Dropflow's")
    known = {MANIFEST, SETTINGS, audit_log.FILE}
    for name in members:
        if name not in known and not _ROWS.fullmatch(name) and not _YAML.fullmatch(name):
            raise BackupError(f"it holds {name[:200]!r}, which no backup has; nothing was restored")
    if len(members) > MOST_MEMBERS or sum(m.file_size for m in members.values()) > MOST_RATIO * size:
        raise BackupError("it would grow out of all proportion; nothing was restored")
    # A second reading, so that damage is told before anything was made of what comes before it.
    if damaged := archive.testzip():
        raise BadZipFile(f"the checksum of {damaged} is another")


def _manifest(archive: ZipFile, member: ZipInfo) -> Manifest:
    try:
        return Manifest.model_validate_json(_whole(archive, member))
    except ValidationError as error:
        fields = ", ".join(".".join(map(str, problem["loc"])) for problem in error.errors())
        raise BackupError(f"{MANIFEST} is not what this Dropflow writes ({fields})") from error


def _whole(archive: ZipFile, member: ZipInfo) -> bytes:
    if member.file_size > LARGEST_FILE:
        raise BackupError(f"{member.filename} is larger than {LARGEST_FILE:,} bytes")
    return archive.read(member)


def _lines(archive: ZipFile, member: ZipInfo) -> Iterator[bytes]:
    with archive.open(member) as file:
        while line := file.readline(LARGEST_FILE + 1):
            if len(line) > LARGEST_FILE:
                raise BackupError(f"{member.filename}: a row is longer than {LARGEST_FILE:,} bytes")
            yield line


def _targets(settings: Settings, members: dict[str, ZipInfo]) -> Iterator[tuple[str, Path]]:
    folders = {"datasets": settings.datasets_dir, "automations": settings.automations_dir}
    for name in members:
        if found := _YAML.fullmatch(name):
            yield name, folders[found[1]] / found[2]
    if audit_log.FILE in members:
        yield audit_log.FILE, settings.data_dir / audit_log.FILE


def _put(archive: ZipFile, member: ZipInfo, path: Path) -> Literal["written", "same", "left"]:
    """A file that is there stays as it is."""
    mode = 0o600 if path.name == audit_log.FILE else 0o644
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with (
            open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode), "wb") as file,
            archive.open(member) as content,
        ):
            shutil.copyfileobj(content, file)
    except FileExistsError:
        is_same = path.stat().st_size == member.file_size and path.read_bytes() == archive.read(member)
        return "same" if is_same else "left"
    except OSError as error:
        raise BackupError(f"{path} cannot be written: {error.strerror}; the ledger was restored") from error
    return "written"
