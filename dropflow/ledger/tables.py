"""The ledger's tables. All times are UTC without zone; `migrations/` brings a database to this form."""

import sqlalchemy as sa

metadata = sa.MetaData()
_ID = sa.BigInteger().with_variant(sa.Integer, "sqlite")

objects = sa.Table(
    "objects",
    metadata,
    sa.Column("id", _ID, primary_key=True, autoincrement=True),
    sa.Column("bucket", sa.String, nullable=False),
    sa.Column("key", sa.String, nullable=False),
    sa.Column("etag", sa.String, nullable=False),  # "" while only the key is known
    sa.Column("version_id", sa.String),
    sa.Column("size", sa.BigInteger),
    sa.Column("modified", sa.DateTime),
    sa.Column("source", sa.String, nullable=False),
    sa.Column("first_seen", sa.DateTime, nullable=False),
    sa.Column("dataset", sa.String, nullable=False),  # "" until it has been matched
    sa.Column("fate", sa.String, nullable=False),
    sa.Column("reason", sa.String, nullable=False),
    sa.Column("updated", sa.DateTime, nullable=False),
    sa.Column("ready_at", sa.DateTime),  # may be dispatched from then on; null: waits for its marker
    sa.Column("deliveries", sa.Integer, nullable=False),
    sa.Column("event_id", sa.String),  # of the last delivery
    sa.Column("look_at", sa.DateTime),  # when to look for its receipt unasked
    sa.Column("due", sa.DateTime),  # when to ask Prefect why there is no receipt
    sa.Column("force", sa.Boolean, nullable=False),
    sa.Column("receipt_at", sa.DateTime),  # when the receipt that settled it was written
    sa.Column("after", sa.DateTime),  # replayed: only a receipt written later settles it
    sa.Column("output_bucket", sa.String, nullable=False),
    sa.Column("output_key", sa.String, nullable=False),
    sa.Column("output_etag", sa.String, nullable=False),
    sa.Column("quarantined", sa.Integer, nullable=False, server_default="0"),  # rows set aside
    sa.UniqueConstraint("bucket", "key", "etag", name="uq_objects"),
    sa.Index("ix_objects_waiting", "fate", "dataset", "ready_at"),
    sa.Index("ix_objects_look", "fate", "look_at"),
    sa.Index("ix_objects_output", "output_key"),
    sa.Index("ix_objects_page", "fate", "dataset", "updated", "id"),
)

deliveries = sa.Table(
    "deliveries",
    metadata,
    sa.Column("id", sa.String, primary_key=True),  # the event's id: posting it again is no second event
    sa.Column("dataset", sa.String, nullable=False),
    sa.Column("number", sa.Integer, nullable=False),
    sa.Column("objects", sa.Integer, nullable=False),
    sa.Column("force", sa.Boolean, nullable=False),
    sa.Column("created", sa.DateTime, nullable=False),
    sa.Column("posted", sa.DateTime),
    sa.Column("holder", sa.String, nullable=False),
    sa.Column("claimed", sa.DateTime, nullable=False),
    sa.Index("ix_deliveries_posted", "posted"),
)

story = sa.Table(
    "story",
    metadata,
    sa.Column("id", _ID, primary_key=True, autoincrement=True),
    sa.Column("object_id", _ID, nullable=False),
    sa.Column("at", sa.DateTime, nullable=False),
    sa.Column("what", sa.String, nullable=False),
    sa.Index("ix_story_object", "object_id"),
)

notices = sa.Table(
    "notices",  # an object's new fate, a file that is missing, or late: to be told
    metadata,
    sa.Column("id", _ID, primary_key=True, autoincrement=True),
    sa.Column("at", sa.DateTime, nullable=False),
    sa.Column("dataset", sa.String, nullable=False),
    sa.Column("kind", sa.String, nullable=False),
    sa.Column("bucket", sa.String, nullable=False),
    sa.Column("key", sa.String, nullable=False),
    sa.Column("reason", sa.String, nullable=False),
    sa.Column("cause", sa.String, nullable=False),  # what the reasons of the same fault have in common
    sa.Column("seconds", sa.Float),  # from the object's last write to its receipt
    sa.Column("run_id", sa.String, nullable=False),
    sa.Column("report_key", sa.String, nullable=False),
    sa.Column("message", sa.String),  # that tells of it; null: none yet; "": none ever
    sa.Index("ix_notices_untold", "message", "dataset", "kind", "cause", "id", "at"),
    sa.Index("ix_notices_key", "bucket", "key"),
)

messages = sa.Table(
    "messages",
    metadata,
    sa.Column("id", sa.String, primary_key=True),
    sa.Column("at", sa.DateTime, nullable=False),
    sa.Column("dataset", sa.String, nullable=False),
    sa.Column("kind", sa.String, nullable=False),
    sa.Column("cause", sa.String, nullable=False),
    sa.Column("content", sa.Text, nullable=False),
    sa.Index("ix_messages_at", "at"),
)

sends = sa.Table(
    "sends",  # one message to one channel
    metadata,
    sa.Column("message", sa.String, primary_key=True),
    sa.Column("channel", sa.String, primary_key=True),
    sa.Column("tries", sa.Integer, nullable=False),
    sa.Column("due", sa.DateTime),  # of the next try; null: sent, or given up
    sa.Column("sent", sa.DateTime),
    sa.Column("error", sa.String, nullable=False),
    sa.Index("ix_sends_due", "due"),
)

deadlines = sa.Table(
    "deadlines",
    metadata,
    sa.Column("dataset", sa.String, primary_key=True),
    sa.Column("due", sa.DateTime, nullable=False),  # the last one that was judged
    sa.Column("after", sa.DateTime, nullable=False),  # what came later counts for the next one
    sa.Column("missing", sa.Boolean, nullable=False),
    sa.Column("verdict", sa.String, nullable=False),  # for Prefect; "" once it was told
)

unreadable = sa.Table(
    "unreadable",
    metadata,
    sa.Column("id", sa.String, primary_key=True),
    sa.Column("body", sa.LargeBinary, nullable=False),
    sa.Column("reason", sa.String, nullable=False),
    sa.Column("received", sa.DateTime, nullable=False),
    sa.Index("ix_unreadable_received", "received"),
)

listeners = sa.Table(
    "listeners",
    metadata,
    sa.Column("id", sa.String, primary_key=True),
    sa.Column("name", sa.String, nullable=False),
    sa.Column("started", sa.DateTime, nullable=False),
    sa.Column("heartbeat", sa.DateTime, nullable=False),
)

sources = sa.Table(
    "sources",
    metadata,
    sa.Column("listener", sa.String, primary_key=True),
    sa.Column("name", sa.String, primary_key=True),
    sa.Column("live", sa.Boolean, nullable=False),
    sa.Column("since", sa.DateTime, nullable=False),
    sa.Column("detail", sa.String, nullable=False),
)

sweeps = sa.Table(
    "sweeps",
    metadata,
    sa.Column("id", sa.Integer, primary_key=True),  # 1: only the last sweep is kept
    sa.Column("started", sa.DateTime, nullable=False),
    sa.Column("seconds", sa.Float, nullable=False),
    sa.Column("objects", sa.BigInteger, nullable=False),
    sa.Column("receipts", sa.BigInteger, nullable=False),
    sa.Column("new", sa.BigInteger, nullable=False),
    sa.Column("settled", sa.BigInteger, nullable=False),
    sa.Column("reopened", sa.BigInteger, nullable=False),
    sa.Column("orphans", sa.BigInteger, nullable=False),
    sa.Column("unaccounted", sa.BigInteger, nullable=False),
    sa.Column("unswept", sa.String, nullable=False, server_default=""),
)

leases = sa.Table(
    "leases",
    metadata,
    sa.Column("name", sa.String, primary_key=True),
    sa.Column("holder", sa.String, nullable=False),
    sa.Column("until", sa.DateTime, nullable=False),
)
