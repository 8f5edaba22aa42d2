"""`dropflow backup` and `dropflow restore`: the ledger comes back in either database, and nothing else gets in."""

import json
import random
import stat
import threading
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from zipfile import ZIP_DEFLATED, ZipFile

import pytest
import sqlalchemy as sa
from test_cli import run
from test_migrations import VERSIONS

from dropflow.backup import MANIFEST, Manifest, back_up, restore
from dropflow.errors import BackupError
from dropflow.ledger import Fate, Ledger, Settlement
from dropflow.ledger.rows import KEPT, dump
from dropflow.ledger.tables import metadata
from dropflow.objects import ObjectCreated, ObjectRef
from dropflow.settings import PROJECT, Settings, load_settings

OBJECT = {
    "id": 7,
    "bucket": "raw",
    "key": "churn/ä \U0001f600.csv",
    "etag": "e",
    "version_id": None,
    "size": 12,
    "modified": None,
    "source": "webhook",
    "first_seen": "2026-11-01T08:00:00.000001",
    "dataset": "churn",
    "fate": "rejected",
    "reason": "row 3",
    "updated": "2026-11-01T08:00:01",
    "ready_at": None,
    "deliveries": 1,
    "event_id": None,
    "look_at": None,
    "due": None,
    "force": False,
    "receipt_at": None,
    "after": None,
    "output_bucket": "",
    "output_key": "",
    "output_etag": "",
    "quarantined": 0,
}


def settings_of(folder: Path, ledger_url: str | None = None) -> Settings:
    """A data directory and folders of datasets and automations of its own."""
    for name in ("datasets", "automations"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    return load_settings(
        folder / "data",
        env_file=folder / "none",
        datasets_dir=folder / "datasets",
        automations_dir=folder / "automations",
        ledger_url=ledger_url,
        s3_endpoint="https://minio.example.com",
        s3_secret_key="a-secret-of-the-store",
    )


def fill(ledger: Ledger) -> None:
    """Something in every table that is kept: objects of all fates, a delivery, what waits to be told."""
    now = datetime.now(UTC)
    refs = [ObjectRef("raw", f"churn/{number} ä.csv", f"e{number}") for number in range(1500)]
    ledger.record(ObjectCreated(ref, "webhook") for ref in refs)
    while found := ledger.unmatched(1000):
        ledger.match((entry, "churn", now) for entry in found)
    delivery = ledger.outbox.claim("churn", "a-listener", 4)
    assert delivery
    ledger.outbox.posted(delivery, now, now)
    outcomes = [(Fate.PROCESSED, ""), (Fate.REJECTED, "row 3: 'Atlantis' is no country")]
    ledger.settle(
        Settlement(ref, "churn", *outcomes[number % 2], datetime.now(UTC))
        for number, ref in enumerate(delivery.refs[:90])
    )
    ledger.keep_unreadable(b"\x00\xff{", "is no JSON")
    ledger.deadlines.begin("churn", now)
    group = next(group for group in ledger.notices.untold() if group.kind == "rejected")
    ledger.notices.compose(group, ["ops"], lambda number: json.dumps({"number": number}))
    ledger.watch.report("a-listener", "webhook", live=True)
    ledger.watch.lease("sweep", "a-listener", 30)


def content(ledger: Ledger) -> dict[str, list[bytes]]:
    with ledger.database.snapshot() as db:
        return {name: list(dump(db, name)) for name in KEPT}


def forget_everything(url: str) -> None:
    engine = sa.create_engine(url)
    with engine.begin() as db:
        metadata.drop_all(db)
        db.execute(sa.text("DROP TABLE IF EXISTS alembic_version"))
    engine.dispose()


@pytest.fixture
def elsewhere(postgres: str) -> Iterator[str]:
    """An empty PostgreSQL."""
    forget_everything(postgres)
    yield postgres
    forget_everything(postgres)


def test_from_sqlite_to_postgresql_and_back_without_a_difference(tmp_path: Path, elsewhere: str) -> None:
    first, second, third = (
        settings_of(tmp_path / "first"),
        settings_of(tmp_path / "second", elsewhere),
        settings_of(tmp_path / "third"),
    )
    ledger = Ledger(first.ledger)
    fill(ledger)
    before = content(ledger)
    assert all(before[name] for name in KEPT)
    back_up(first, ledger, tmp_path / "first.zip")
    ledger.close()

    assert restore(second, tmp_path / "first.zip").rows == {name: len(rows) for name, rows in before.items()}
    ledger = Ledger(second.ledger)
    assert content(ledger) == before
    back_up(second, ledger, tmp_path / "second.zip")
    # Ids go on where they were.
    assert ledger.record([ObjectCreated(ObjectRef("raw", "churn/new.csv", "e"), "sweep")]) == 1
    ledger.close()

    restore(third, tmp_path / "second.zip")
    ledger = Ledger(third.ledger)
    assert content(ledger) == before
    assert not ledger.watch.sources(), "nobody listens here yet"
    assert ledger.watch.lease("sweep", "another-listener", 30), "nobody holds what a dead listener held"
    # What waited to be told still does.
    assert {(group.kind, group.number) for group in ledger.notices.untold()} == {("success", 45)}
    posting = ledger.notices.due("ops")
    assert posting
    assert posting.content == '{"number": 45}'
    ledger.close()


@pytest.mark.parametrize("database", ["sqlite", "postgresql"])
def test_it_is_of_one_moment_while_listeners_write(
    database: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    url = request.getfixturevalue("elsewhere") if database == "postgresql" else None
    settings = settings_of(tmp_path, url)
    ledger = Ledger(settings.ledger)
    stopped = threading.Event()

    def write() -> None:
        number = 0
        while not stopped.is_set():
            ref = ObjectRef("raw", f"churn/{(number := number + 1)}.csv", "e")
            # One transaction makes the object, and what is to be told of it.
            ledger.record([ObjectCreated(ref, "sweep")], [settled(ref)])

    writer = threading.Thread(target=write)
    writer.start()
    try:
        for number in range(5):
            made = back_up(settings, ledger, tmp_path / f"{number}.zip")
            assert made.rows["objects"] == made.rows["story"]
    finally:
        stopped.set()
        writer.join()
        ledger.close()
    assert made.rows["objects"]


def settled(ref: ObjectRef) -> Settlement:
    return Settlement(ref, "churn", Fate.PROCESSED, "", datetime.now(UTC))


def archive_of(path: Path, members: dict[str, bytes], **manifest: object) -> Path:
    """A backup that anybody can have made."""
    rows = {name[7:-6]: text.count(b"\n") for name, text in members.items() if name.startswith("ledger/")}
    told = {"ledger_version": VERSIONS[-1], "made": "2026-11-27T08:00:00+00:00", "rows": rows, **manifest}
    with ZipFile(path, "w", ZIP_DEFLATED) as archive:
        archive.writestr(MANIFEST, json.dumps({"format": 1, "dropflow": "0.1.0", **told}))
        for name, text in members.items():
            archive.writestr(name, text)
    return path


def line(**changed: object) -> bytes:
    return json.dumps({**OBJECT, **changed}).encode() + b"\n"


@pytest.mark.parametrize("version", VERSIONS)
def test_one_of_every_earlier_version_is_brought_to_todays(version: str, tmp_path: Path) -> None:
    row = {name: value for name, value in OBJECT.items() if name != "quarantined" or version != VERSIONS[0]}
    members = {"ledger/objects.jsonl": json.dumps(row).encode() + b"\n"}
    settings = settings_of(tmp_path)
    restore(settings, archive_of(tmp_path / "old.zip", members, ledger_version=version))
    ledger = Ledger(settings.ledger)
    (entry,) = ledger.lookup("raw", ["churn/ä \U0001f600.csv"]).values()
    ledger.close()
    assert (entry.fate, entry.reason, entry.quarantined) == (Fate.REJECTED, "row 3", 0)


HOSTILE: dict[str, tuple[dict[str, bytes], dict[str, object], str]] = {
    "newer": ({}, {"ledger_version": "9999"}, "version 9999, this Dropflow knows .*: upgrade it first"),
    "another format": ({}, {"format": 2}, r"manifest.json is not what this Dropflow writes \(format\)"),
    "traversal": ({"datasets/../../evil.yaml": b"x"}, {}, "which no backup has"),
    "absolute": ({"/etc/evil.yaml": b"x"}, {}, "which no backup has"),
    "backslash": ({"datasets/..\\evil.yaml": b"x"}, {}, "which no backup has"),
    "code": ({"datasets/evil.py": b"x"}, {}, "which no backup has"),
    "pickle": ({"ledger/objects.pickle": b"x"}, {}, "which no backup has"),
    "bomb": ({"audit.log": bytes(50 * 2**20)}, {}, "out of all proportion"),
    "no such table": ({"ledger/alembic_version.jsonl": b"{}\n"}, {}, "which is no table"),
    "of processes": ({"ledger/leases.jsonl": b"{}\n"}, {}, "which is no table"),
    "another column": (
        {"ledger/objects.jsonl": line(owner="x")},
        {},
        "line 1: expected the columns id, bucket",
    ),
    "a text for a number": (
        {"ledger/objects.jsonl": line() + line(size="12")},
        {},
        "objects, line 2: a value",
    ),
    "true for a number": ({"ledger/objects.jsonl": line(size=True)}, {}, "objects, line 1: a value"),
    "nothing for a key": ({"ledger/objects.jsonl": line(key=None)}, {}, "objects, line 1: a value"),
    "no time": ({"ledger/objects.jsonl": line(updated="yesterday")}, {}, "objects, line 1: a value"),
    "deep": ({"ledger/objects.jsonl": b"[" * 50_000 + b"\n"}, {}, "objects, line 1: a value"),
    "no JSON": ({"ledger/objects.jsonl": b"\x80\n"}, {}, "objects, line 1: a value"),
    "fewer rows": (
        {"ledger/objects.jsonl": line()},
        {"rows": {"objects": 2}},
        "objects has 1 rows, 2 are told of",
    ),
    "other tables": ({"ledger/objects.jsonl": line()}, {"rows": {"story": 1}}, "tells of other tables"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_what_is_no_backup_is_refused_and_nothing_is_restored(name: str, tmp_path: Path) -> None:
    members, manifest, told = HOSTILE[name]
    settings = settings_of(tmp_path)
    members = {"datasets/first.yaml": b"name: first", **members}
    with pytest.raises(BackupError, match=told):
        restore(settings, archive_of(tmp_path / "hostile.zip", members, **manifest))
    ledger = Ledger(settings.ledger)
    assert not any(content(ledger).values())
    ledger.close()
    assert [path.name for path in tmp_path.rglob("*.yaml")] == []


DAMAGED: dict[str, Callable[[bytes], bytes]] = {
    "cut off": lambda whole: whole[: len(whole) // 2],
    "a byte": lambda whole: whole[:900] + bytes([whole[900] ^ 1]) + whole[901:],
    "empty": lambda _: b"",
}


@pytest.mark.parametrize("name", DAMAGED)
def test_a_damaged_one_is_refused(name: str, tmp_path: Path) -> None:
    settings = settings_of(tmp_path)
    members = {"ledger/objects.jsonl": b"".join(line(id=n, key=f"churn/{n}.csv") for n in range(1, 200))}
    path = archive_of(tmp_path / "damaged.zip", members)
    path.write_bytes(DAMAGED[name](path.read_bytes()))
    with pytest.raises(BackupError, match="is damaged, or no backup of Dropflow's"):
        restore(settings, path)


def test_a_row_that_is_too_long_is_refused(tmp_path: Path) -> None:
    # Of random text: it must not be refused for its proportion.
    noise = random.Random(1).randbytes(3 * 2**20).hex()
    path = archive_of(tmp_path / "long.zip", {"ledger/objects.jsonl": line(reason=noise)})
    with pytest.raises(BackupError, match="a row is longer than"):
        restore(settings_of(tmp_path), path)


def test_a_ledger_that_holds_anything_or_is_listened_to_is_left_as_it_is(tmp_path: Path) -> None:
    settings = settings_of(tmp_path)
    path = archive_of(tmp_path / "backup.zip", {"ledger/objects.jsonl": line()})
    ledger = Ledger(settings.ledger)
    ledger.watch.beat("a-listener", "here")
    with pytest.raises(BackupError, match="a listener is at work"):
        restore(settings, path)
    ledger.watch.leave("a-listener")
    ledger.keep_unreadable(b"x", "is no JSON")
    before = content(ledger)
    with pytest.raises(BackupError, match="the ledger is not empty, and a backup replaces nothing"):
        restore(settings, path)
    assert content(ledger) == before
    ledger.close()


def test_by_command_with_files_and_without_secrets(tmp_path: Path) -> None:
    settings = settings_of(tmp_path / "here")
    for name in ("churn", "iris"):
        (settings.datasets_dir / f"{name}.yaml").write_text((PROJECT / f"datasets/{name}.yaml").read_text())
    ledger = Ledger(settings.ledger)
    fill(ledger)
    ledger.close()
    (settings.data_dir / "audit.log").write_text('{"what": "replay"}\n')
    secrets = {"DROPFLOW_S3_SECRET_KEY": "a-secret-of-the-store", "DROPFLOW_NOTIFY_URLS": "slack://T/o/ken"}

    def command(folder: str, *arguments: str, **more: str) -> tuple[int, str]:
        there = {
            "DROPFLOW_DATA_DIR": str(tmp_path / folder / "data"),
            "DROPFLOW_DATASETS_DIR": str(tmp_path / folder / "datasets"),
            "DROPFLOW_AUTOMATIONS_DIR": str(tmp_path / folder / "automations"),
        }
        done = run(*arguments, cwd=tmp_path, **there, **more)
        assert "Traceback" not in done.stderr
        return done.returncode, done.stdout + done.stderr

    assert command("there", "backup", "backup.zip")[0] == 2
    code, told = command("here", "backup", "backup.zip", **secrets)
    assert (code, told) == (0, "wrote backup.zip: 1,500 objects, 90 notices, 1 messages\n")
    assert stat.S_IMODE((tmp_path / "backup.zip").stat().st_mode) == 0o600
    with ZipFile(tmp_path / "backup.zip") as archive:
        everything = b"".join(archive.read(name) for name in archive.namelist())
        kept = archive.read("settings.env").decode()
    assert all(secret.encode() not in everything for secret in secrets.values())
    assert "# DROPFLOW_S3_SECRET_KEY: a secret" in kept
    assert f"DROPFLOW_DATASETS_DIR={settings.datasets_dir}" in kept
    code, told = command("here", "backup", "backup.zip")
    assert code == 2
    assert "backup.zip is there already: give another name" in told

    there = settings_of(tmp_path / "there")
    (there.datasets_dir / "iris.yaml").write_text("name: mine\n")
    code, told = command("there", "restore", "backup.zip")
    assert code == 0, told
    assert "1,500 objects, 90 notices, 1 messages" in told
    assert f"left as it is {there.datasets_dir}/iris.yaml: the backup has another" in told
    assert (there.datasets_dir / "iris.yaml").read_text() == "name: mine\n"
    assert (there.datasets_dir / "churn.yaml").read_text() == (PROJECT / "datasets/churn.yaml").read_text()
    log = (there.data_dir / "audit.log").read_text().splitlines()
    assert [json.loads(entry)["what"] for entry in log] == ["replay", "restore"]
    code, told = command("there", "restore", "backup.zip")
    assert code == 2
    assert "the ledger is not empty" in told


def test_a_manifest_is_what_it_says(tmp_path: Path) -> None:
    settings = settings_of(tmp_path)
    ledger = Ledger(settings.ledger)
    made = back_up(settings, ledger, tmp_path / "empty.zip")
    ledger.close()
    assert made.ledger_version == VERSIONS[-1]
    assert datetime.fromisoformat(made.made) > datetime.now(UTC) - timedelta(minutes=5)
    with ZipFile(tmp_path / "empty.zip") as archive:
        assert Manifest.model_validate_json(archive.read(MANIFEST)) == made
