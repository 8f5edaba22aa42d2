"""What is to be told, the messages made of it, which channel has taken them; and by when files are due."""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"

_ID = sa.BigInteger().with_variant(sa.Integer, "sqlite")


def upgrade() -> None:
    op.create_table(
        "notices",
        sa.Column("id", _ID, primary_key=True, autoincrement=True),
        sa.Column("at", sa.DateTime, nullable=False),
        sa.Column("dataset", sa.String, nullable=False),
        sa.Column("kind", sa.String, nullable=False),
        sa.Column("bucket", sa.String, nullable=False),
        sa.Column("key", sa.String, nullable=False),
        sa.Column("reason", sa.String, nullable=False),
        sa.Column("cause", sa.String, nullable=False),
        sa.Column("seconds", sa.Float),
        sa.Column("run_id", sa.String, nullable=False),
        sa.Column("report_key", sa.String, nullable=False),
        sa.Column("message", sa.String),
    )
    op.create_index("ix_notices_untold", "notices", ["message", "dataset", "kind", "cause", "id", "at"])
    op.create_index("ix_notices_key", "notices", ["bucket", "key"])
    op.create_table(
        "messages",
        sa.Column("id", sa.String, primary_key=True),
        sa.Column("at", sa.DateTime, nullable=False),
        sa.Column("dataset", sa.String, nullable=False),
        sa.Column("kind", sa.String, nullable=False),
        sa.Column("cause", sa.String, nullable=False),
        sa.Column("content", sa.Text, nullable=False),
    )
    op.create_index("ix_messages_at", "messages", ["at"])
    op.create_table(
        "sends",
        sa.Column("message", sa.String, primary_key=True),
        sa.Column("channel", sa.String, primary_key=True),
        sa.Column("tries", sa.Integer, nullable=False),
        sa.Column("due", sa.DateTime),
        sa.Column("sent", sa.DateTime),
        sa.Column("error", sa.String, nullable=False),
    )
    op.create_index("ix_sends_due", "sends", ["due"])
    op.create_table(
        "deadlines",
        sa.Column("dataset", sa.String, primary_key=True),
        sa.Column("due", sa.DateTime, nullable=False),
        sa.Column("after", sa.DateTime, nullable=False),
        sa.Column("missing", sa.Boolean, nullable=False),
        sa.Column("verdict", sa.String, nullable=False),
    )
