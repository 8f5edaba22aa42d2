"""A sweep says which buckets it could not list."""

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"


def upgrade() -> None:
    op.add_column("sweeps", sa.Column("unswept", sa.String, nullable=False, server_default=""))
