"""The first form of the ledger."""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None

_ID = sa.BigInteger().with_variant(sa.Integer, "sqlite")


def upgrade() -> None:
    # Before there were migrations, a ledger had these two; the first sweep fills the new ones.
    op.execute("DROP TABLE IF EXISTS objects")
    op.execute("DROP TABLE IF EXISTS unreadable")
    op.create_table(
        "objects",
        sa.Column("id", _ID, primary_key=True, autoincrement=True),
        sa.Column("bucket", sa.String, nullable=False),
        sa.Column("key", sa.String, nullable=False),
        sa.Column("etag", sa.String, nullable=False),
        sa.Column("version_id", sa.String),
        sa.Column("size", sa.BigInteger),
        sa.Column("modified", sa.DateTime),
        sa.Column("source", sa.String, nullable=False),
        sa.Column("first_seen", sa.DateTime, nullable=False),
        sa.Column("dataset", sa.String, nullable=False),
        sa.Column("fate", sa.String, nullable=False),
        sa.Column("reason", sa.String, nullable=False),
        sa.Column("updated", sa.DateTime, nullable=False),
        sa.Column("ready_at", sa.DateTime),
        sa.Column("deliveries", sa.Integer, nullable=False),
        sa.Column("event_id", sa.String),
        sa.Column("look_at", sa.DateTime),
        sa.Column("due", sa.DateTime),
        sa.Column("force", sa.Boolean, nullable=False),
        sa.Column("receipt_at", sa.DateTime),
        sa.Column("after", sa.DateTime),
        sa.Column("output_bucket", sa.String, nullable=False),
        sa.Column("output_key", sa.String, nullable=False),
        sa.Column("output_etag", sa.String, nullable=False),
        sa.UniqueConstraint("bucket", "key", "etag", name="uq_objects"),
    )
    op.create_index("ix_objects_waiting", "objects", ["fate", "dataset", "ready_at"])
    op.create_index("ix_objects_look", "objects", ["fate", "look_at"])
    op.create_index("ix_objects_output", "objects", ["output_key"])
    op.create_table(
        "deliveries",
        sa.Column("id", sa.String, primary_key=True),
        sa.Column("dataset", sa.String, nullable=False),
        sa.Column("number", sa.Integer, nullable=False),
        sa.Column("objects", sa.Integer, nullable=False),
        sa.Column("force", sa.Boolean, nullable=False),
        sa.Column("created", sa.DateTime, nullable=False),
        sa.Column("posted", sa.DateTime),
        sa.Column("holder", sa.String, nullable=False),
        sa.Column("claimed", sa.DateTime, nullable=False),
    )
    op.create_index("ix_deliveries_posted", "deliveries", ["posted"])
    op.create_table(
        "story",
        sa.Column("id", _ID, primary_key=True, autoincrement=True),
        sa.Column("object_id", _ID, nullable=False),
        sa.Column("at", sa.DateTime, nullable=False),
        sa.Column("what", sa.String, nullable=False),
    )
    op.create_index("ix_story_object", "story", ["object_id"])
    op.create_table(
        "unreadable",
        sa.Column("id", sa.String, primary_key=True),
        sa.Column("body", sa.LargeBinary, nullable=False),
        sa.Column("reason", sa.String, nullable=False),
        sa.Column("received", sa.DateTime, nullable=False),
    )
    op.create_index("ix_unreadable_received", "unreadable", ["received"])
    op.create_table(
        "listeners",
        sa.Column("id", sa.String, primary_key=True),
        sa.Column("name", sa.String, nullable=False),
        sa.Column("started", sa.DateTime, nullable=False),
        sa.Column("heartbeat", sa.DateTime, nullable=False),
    )
    op.create_table(
        "sources",
        sa.Column("listener", sa.String, primary_key=True),
        sa.Column("name", sa.String, primary_key=True),
        sa.Column("live", sa.Boolean, nullable=False),
        sa.Column("since", sa.DateTime, nullable=False),
        sa.Column("detail", sa.String, nullable=False),
    )
    op.create_table(
        "sweeps",
        sa.Column("id", sa.Integer, primary_key=True),
        sa.Column("started", sa.DateTime, nullable=False),
        sa.Column("seconds", sa.Float, nullable=False),
        sa.Column("objects", sa.BigInteger, nullable=False),
        sa.Column("receipts", sa.BigInteger, nullable=False),
        sa.Column("new", sa.BigInteger, nullable=False),
        sa.Column("settled", sa.BigInteger, nullable=False),
        sa.Column("reopened", sa.BigInteger, nullable=False),
        sa.Column("orphans", sa.BigInteger, nullable=False),
        sa.Column("unaccounted", sa.BigInteger, nullable=False),
    )
    op.create_table(
        "leases",
        sa.Column("name", sa.String, primary_key=True),
        sa.Column("holder", sa.String, nullable=False),
        sa.Column("until", sa.DateTime, nullable=False),
    )
