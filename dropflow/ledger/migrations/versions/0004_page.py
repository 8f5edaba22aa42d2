"""The page lists objects by fate and dataset, the last changed first."""

from alembic import op

revision = "0004"
down_revision = "0003"


def upgrade() -> None:
    op.create_index("ix_objects_page", "objects", ["fate", "dataset", "updated", "id"])
