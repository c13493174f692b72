"""Run migrations on the connection that `penstock db upgrade` hands over."""

from alembic import context

from penstock.db.schema import metadata

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=metadata,
    transactional_ddl=True,
    compare_type=True,
)
context.run_migrations()
