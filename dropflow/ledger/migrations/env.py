"""Alembic's entry: runs the versions on the connection that `Database` has opened."""

from alembic import context

context.configure(connection=context.config.attributes["connection"])
context.run_migrations()
