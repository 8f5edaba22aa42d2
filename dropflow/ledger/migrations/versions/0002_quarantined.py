"""How many rows of an object were set aside: the next receipt, or sweep without a ledger, tells."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    op.add_column("objects", sa.Column("quarantined", sa.Integer, nullable=False, server_default="0"))
