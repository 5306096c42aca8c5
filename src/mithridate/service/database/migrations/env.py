"""Run by Alembic: hands it the connection of the service."""

from alembic import context

from mithridate.service.database.tables import METADATA

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=METADATA,
    # SQLite cannot alter a column; Alembic then makes a new table and moves the rows.
    render_as_batch=True,
)
with context.begin_transaction():
    context.run_migrations()
