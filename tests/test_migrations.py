"""A ledger of any earlier version is brought to today's, with what is in it."""

from pathlib import Path

import pytest
import sqlalchemy as sa
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory

from dropflow.errors import LedgerError
from dropflow.ledger import Fate, Ledger
from dropflow.ledger.database import MIGRATIONS
from dropflow.ledger.tables import metadata

CONFIG = Config()
CONFIG.set_main_option("script_location", str(MIGRATIONS))
SCRIPTS = list(ScriptDirectory.from_config(CONFIG).walk_revisions())
VERSIONS = sorted(script.revision for script in SCRIPTS)
OBJECT = (
    "INSERT INTO objects (bucket, key, etag, source, first_seen, dataset, fate, reason, updated, deliveries, force,"
    " output_bucket, output_key, output_etag) VALUES ('raw', 'churn/a.csv', 'e', 'webhook', '2026-11-01 08:00:00',"
    " 'churn', 'rejected', 'row 3', '2026-11-01 08:00:01', 1, 0, '', '', '')"
)


def ledger_of(version: str, path: Path) -> sa.Engine:
    """A ledger as it was in that version, with one rejected object."""
    engine = sa.create_engine(f"sqlite:///{path}")
    with engine.begin() as db:
        CONFIG.attributes["connection"] = db
        command.upgrade(CONFIG, version)
        db.execute(sa.text(OBJECT))
    return engine


@pytest.mark.parametrize("version", VERSIONS)
def test_a_ledger_of_every_version_is_brought_to_todays_and_loses_nothing(
    version: str, tmp_path: Path
) -> None:
    ledger_of(version, tmp_path / "ledger.sqlite").dispose()
    ledger = Ledger(f"sqlite:///{tmp_path / 'ledger.sqlite'}")
    with ledger.database.read() as db:
        context = MigrationContext.configure(db)
        assert context.get_current_revision() == VERSIONS[-1]
        assert compare_metadata(context, metadata) == []
    (entry,) = ledger.lookup("raw", ["churn/a.csv"]).values()
    assert (entry.fate, entry.reason, entry.quarantined) == (Fate.REJECTED, "row 3", 0)
    ledger.close()


def test_migrations_only_go_forward() -> None:
    assert [script.down_revision for script in reversed(SCRIPTS)] == [None, *VERSIONS[:-1]]
    assert not any(hasattr(script.module, "downgrade") for script in SCRIPTS)


def test_a_ledger_of_a_newer_version_is_refused_and_left_as_it_is(tmp_path: Path) -> None:
    engine = ledger_of(VERSIONS[-1], tmp_path / "ledger.sqlite")
    with engine.begin() as db:
        db.execute(sa.text("UPDATE alembic_version SET version_num = '9999'"))
    with pytest.raises(
        LedgerError, match=r"a newer Dropflow has brought the ledger to version 9999.*upgrade"
    ):
        Ledger(f"sqlite:///{tmp_path / 'ledger.sqlite'}")
    with engine.connect() as db:
        assert db.execute(sa.text("SELECT version_num FROM alembic_version")).scalar() == "9999"
        assert db.execute(sa.text("SELECT count(*) FROM objects")).scalar() == 1
    engine.dispose()
