"""Two listener processes on one real PostgreSQL ledger; and the ledger's behaviour there."""

import os
import random
import signal
import subprocess
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path

import httpx
import pytest
import sqlalchemy as sa
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext
from command_line import LISTEN
from conftest import wait_until
from fake_prefect import FakePrefect, fake_prefect
from test_parsing import body, record

from dropflow.embedded.processes import LOOPBACK, free_port
from dropflow.errors import LedgerError, TransientError
from dropflow.ledger import Fate, Ledger, Settlement
from dropflow.ledger import database as ledger_database
from dropflow.ledger.database import Database
from dropflow.ledger.tables import metadata
from dropflow.objects import ObjectCreated, ObjectRef
from dropflow.settings import Settings
from dropflow.storage import ObjectStore

OBJECTS = 400
TOKEN = "a-token-for-the-tests"


@pytest.fixture
def shared(postgres: str) -> Iterator[Ledger]:
    ledger = Ledger(postgres)
    with ledger.database.write() as db:
        for table in metadata.sorted_tables:
            db.execute(sa.delete(table))
    yield ledger
    ledger.close()


def test_whoever_begins_and_falls_silent_loses_its_locks(
    postgres: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A listener that is cut off in the middle must not keep the others from delivering."""
    monkeypatch.setattr(ledger_database, "IDLE_SECONDS", 1)
    silent, other = Database(postgres), Database(postgres)
    lock = sa.select(sa.func.pg_advisory_xact_lock(1))

    def falls_silent() -> None:
        with silent.write() as begun:
            begun.execute(lock)
            with other.write() as db:
                db.execute(sa.text("SET LOCAL lock_timeout = '20s'"))
                db.execute(lock)
            begun.execute(lock)

    with pytest.raises(TransientError, match="idle-in-transaction"):
        falls_silent()
    for one in (silent, other):
        assert abs(one.set_clock()) < timedelta(seconds=5)
        one.close()


class ListenerProcess:
    """`dropflow listen` with a webhook of its own, which tests kill and start again."""

    def __init__(self, settings: Settings, prefect: FakePrefect, ledger_url: str) -> None:
        assert settings.s3_access_key
        assert settings.s3_secret_key
        self.port = free_port()
        self._http = httpx.Client(
            base_url=f"http://{LOOPBACK}:{self.port}",
            headers={"Authorization": f"Bearer {TOKEN}"},
            timeout=5,
        )
        settings.data_dir.mkdir(exist_ok=True)
        self.log_file = settings.data_dir / f"listener-{self.port}.log"
        self._environment = {
            "PATH": os.environ["PATH"],
            "HOME": os.environ.get("HOME", "/"),
            "DROPFLOW_DATA_DIR": str(settings.data_dir),
            "DROPFLOW_S3_ENDPOINT": str(settings.s3_endpoint),
            "DROPFLOW_S3_ACCESS_KEY": settings.s3_access_key.get_secret_value(),
            "DROPFLOW_S3_SECRET_KEY": settings.s3_secret_key.get_secret_value(),
            "DROPFLOW_PREFECT_API_URL": prefect.url,
            "DROPFLOW_LEDGER_URL": ledger_url,
            "DROPFLOW_LISTEN_STREAM": "false",
            "DROPFLOW_WEBHOOK_PORT": str(self.port),
            "DROPFLOW_WEBHOOK_TOKEN": TOKEN,
            "DROPFLOW_SWEEP_SECONDS": "3",
            # No run comes of these events: long patience, room for all of them in flight.
            "DROPFLOW_RECEIPT_SECONDS": "1000",
            "DROPFLOW_RUNS_PER_DATASET": "10000",
        }
        self.start()

    def start(self) -> None:
        with self.log_file.open("ab") as log:
            self.process = subprocess.Popen(LISTEN, env=self._environment, stderr=log)

    def ready(self) -> bool:
        try:
            return self._http.get("/healthz").is_success
        except httpx.TransportError:
            return False

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()

    def tell(self, ref: ObjectRef) -> None:
        """A notification; nobody tells again when the listener is not there."""
        try:
            self._http.post("/notifications", content=body(record(ref.key, eTag=ref.etag)))
        except httpx.TransportError:
            return


def test_hundreds_of_objects_make_one_event_each_whoever_is_killed(
    settings: Settings, store: ObjectStore, shared: Ledger, postgres: str
) -> None:
    choice = random.Random(7)
    with fake_prefect() as prefect:
        pair = [ListenerProcess(settings, prefect, postgres) for _ in range(2)]
        try:
            for listener in pair:
                wait_until(listener.ready, 60, "a listener")
            for number in range(OBJECTS):
                ref = store.put("raw", f"churn/{number}.csv", b"%d" % number, "text/csv")
                for listener in choice.sample(pair, choice.choice([0, 1, 2, 2])):
                    listener.tell(ref)
                if number in (120, 240):
                    victim = pair[number // 240]
                    victim.kill()
                    victim.start()
            wait_until(lambda: len(set(prefect.keys)) == OBJECTS, 90, "an event for every object")
            wait_until(lambda: shared.counts() == {"churn": {Fate.DISPATCHED: OBJECTS}}, 30)
        finally:
            for listener in pair:
                listener.process.send_signal(signal.SIGTERM)
            stopping = time.monotonic()
            codes = [listener.process.wait(20) for listener in pair]
    assert codes == [0, 0]
    assert time.monotonic() - stopping < 10
    doubled = [key for key, times in Counter(prefect.keys).items() if times > 1]
    assert doubled == []


def refs(number: int) -> list[ObjectRef]:
    return [ObjectRef("raw", f"churn/{n}.csv", f"{n:032x}") for n in range(number)]


@pytest.fixture(params=["sqlite", "postgresql"])
def either(request: pytest.FixtureRequest) -> Ledger:
    return request.getfixturevalue("ledger" if request.param == "sqlite" else "shared")  # type: ignore[no-any-return]


def test_the_migrations_make_what_the_tables_declare(either: Ledger) -> None:
    with either.database.read() as db:
        assert compare_metadata(MigrationContext.configure(db), metadata) == []


def test_both_databases_tell_the_same_story(either: Ledger) -> None:
    known = refs(3)
    assert either.record(ObjectCreated(ref, "webhook") for ref in [*known, *known]) == 3
    assert either.record(ObjectCreated(ref, "sweep") for ref in known) == 0
    now = datetime.now(UTC)
    either.match((entry, "churn", now) for entry in either.unmatched(10))
    delivery = either.outbox.claim("churn", "me", 1)
    assert delivery is not None
    assert delivery.refs == known
    assert either.outbox.claim("churn", "me", 1) is None
    assert either.outbox.unposted("me") == [delivery]
    assert either.outbox.unposted("another") == []
    either.outbox.posted(delivery, now, now)
    assert either.outbox.unposted("me") == []
    assert len(either.outbox.to_look_after(10, timedelta(minutes=1))) == 3
    assert either.outbox.to_look_after(10, timedelta(minutes=1)) == []
    outcome = Settlement(known[0], "churn", Fate.REJECTED, "is empty", now)
    assert len(either.settle([outcome, outcome])) >= 1
    assert either.settle([outcome]) == []
    (entry,) = either.search(fates=[Fate.REJECTED])
    assert either.story(entry)[0][1].startswith("delivery 1: event")
    either.outbox.redeliver(list(either.search(fates=[Fate.DISPATCHED])), "no run", now)
    assert either.counts() == {"churn": {Fate.REJECTED: 1, Fate.PENDING: 2}}
    either.keep_unreadable(b"\0\xff", "no JSON\0")
    either.keep_unreadable(b"\0\xff", "no JSON\0")
    assert either.unreadable() == 1
    either.watch.beat("l", "here 1")
    either.watch.report("l", "webhook", live=True)
    assert [source.live for source in either.watch.sources()] == [True]
    assert either.watch.lease("sweep", "l", 10)
    assert not either.watch.lease("sweep", "m", 10)
    either.watch.leave("l")
    assert either.watch.lease("sweep", "m", 10)


def test_claims_at_the_same_time_share_nothing(either: Ledger) -> None:
    known = refs(400)
    either.record(ObjectCreated(ref, "webhook") for ref in known)
    either.match((entry, "churn", datetime.now(UTC)) for entry in either.unmatched(1000))
    with either.database.write() as db:
        db.execute(sa.text("UPDATE objects SET deliveries = 2"))  # so that ten leave at a time

    def claim(holder: int) -> list[str]:
        found = []
        while delivery := either.outbox.claim("churn", str(holder), 1000):
            found += [ref.key for ref in delivery.refs]
        return found

    with ThreadPoolExecutor(8) as pool:
        claimed = [key for keys in pool.map(claim, range(8)) for key in keys]
    assert sorted(claimed) == sorted(ref.key for ref in known)


def test_no_more_leaves_than_may_be_in_flight(either: Ledger) -> None:
    either.record(ObjectCreated(ref, "webhook") for ref in refs(1600))
    either.match((entry, "churn", datetime.now(UTC)) for entry in either.unmatched(2000))
    with ThreadPoolExecutor(8) as pool:
        claims = list(pool.map(lambda n: either.outbox.claim("churn", str(n), 2), range(8)))
    assert sum(claim is not None for claim in claims) == 2


def test_a_database_that_cannot_be_reached_is_a_passing_trouble() -> None:
    with pytest.raises(TransientError, match="the ledger"):
        Ledger(f"postgresql+psycopg://someone:a-secret@{LOOPBACK}:9/none")


@pytest.fixture
def without_rights(postgres: str) -> Iterator[str]:
    """The URL of a role that may connect, and nothing else."""
    owner = Database(postgres)
    with owner.write() as db:
        db.execute(sa.text("CREATE ROLE nobody LOGIN PASSWORD 'none'"))
    yield sa.make_url(postgres).set(username="nobody", password="none").render_as_string(hide_password=False)
    with owner.write() as db:
        db.execute(sa.text("DROP ROLE nobody"))
    owner.close()


def test_a_role_that_lacks_rights_is_told_so_with_what_to_do(shared: Ledger, without_rights: str) -> None:
    assert shared.counts() == {}
    with pytest.raises(TransientError, match=r"permission denied for .*: the role of DROPFLOW_LEDGER_URL"):
        Ledger(without_rights)


def test_a_file_that_is_no_database_is_called_damaged(tmp_path: Path) -> None:
    (tmp_path / "ledger.sqlite").write_bytes(b"no database" * 1000)
    with pytest.raises(LedgerError, match="damaged: delete it"):
        Ledger(f"sqlite:///{tmp_path}/ledger.sqlite")


@pytest.mark.parametrize("key", ["malformed.csv", "not a database.csv"])
def test_a_key_does_not_have_the_ledger_called_damaged(either: Ledger, key: str) -> None:
    without_etag = ObjectRef("raw", key, None)  # type: ignore[arg-type]
    with pytest.raises(LedgerError, match="refuses a value: IntegrityError"):
        either.record([ObjectCreated(without_etag, "webhook")])


def test_a_url_that_makes_no_sense_is_told_without_its_password() -> None:
    for url in ("nosuchdatabase://someone:a-secret@host/name", "a-secret", "x://a-secret:b:c/"):
        with pytest.raises(LedgerError) as error:
            Ledger(url)
        assert "a-secret" not in str(error.value)


def test_a_ledger_of_the_time_before_migrations_is_made_anew(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/ledger.sqlite"
    old = sa.create_engine(url)
    with old.begin() as db:
        db.execute(sa.text("CREATE TABLE objects (bucket TEXT, key TEXT, etag TEXT, fate TEXT)"))
        db.execute(sa.text("INSERT INTO objects VALUES ('raw', 'k', 'e', 'pending')"))
    old.dispose()
    ledger = Ledger(url)
    assert ledger.counts() == {}
    ledger.close()


def test_the_ledger_survives_a_restart_and_knows_when_it_was_deleted(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/ledger.sqlite"
    ledger = Ledger(url)
    ref = ObjectRef("raw", "churn/ü.csv", "e", 3, "v1")
    ledger.record([ObjectCreated(ref, "stream")])
    ledger.close()
    again = Ledger(url)
    assert [entry.ref for entry in again.unmatched(10)] == [ref]
    assert not again.gone
    for path in tmp_path.glob("ledger.sqlite*"):
        path.unlink()
    assert again.gone
    again.close()


def test_the_ledger_commits_durably(ledger: Ledger) -> None:
    with ledger.database.read() as db:
        assert db.execute(sa.text("PRAGMA journal_mode")).scalar() == "wal"
        assert db.execute(sa.text("PRAGMA synchronous")).scalar() == 2
