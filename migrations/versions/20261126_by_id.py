"""Pipelines are named by their ids in access data.

Room for them, and ids in place of names as far as the database knows any.
"""

from collections import defaultdict

import sqlalchemy as sa
from alembic import op

revision = "20261126_by_id"
down_revision = "20261126_run_failures"
branch_labels = None
depends_on = None

COLUMNS = (("associations", "pipeline"), ("limits", "pipeline"), ("pipelines", "name"))


def upgrade() -> None:
    """Go forward.

    Safe beside processes of the previous release: they look at rows of names alone, which stay as
    they are.
    """
    op.add_column(
        "environments", sa.Column("by_id", sa.Boolean(), nullable=False, server_default=sa.false())
    )
    for table, column in COLUMNS:
        with op.batch_alter_table(table) as batch:
            batch.alter_column(
                column, existing_type=sa.String(63), type_=sa.String(80), existing_nullable=False
            )
    connection = op.get_bind()
    ids = _known(connection)
    if ids:
        number = connection.execute(
            sa.text("UPDATE revision SET value = value + 1 RETURNING value")
        ).scalar()
        for (environment_id, name), identifiers in sorted(ids.items()):
            for identifier in sorted(identifiers):
                _copy(connection, environment_id, name, identifier, number)
        _secrets(connection, ids, number)


def _known(connection: sa.Connection) -> dict[tuple[int, str], set[str]]:
    """Return the ids that calls were counted for, or that have a grace, by environment and name."""
    found: defaultdict[tuple[int, str], set[str]] = defaultdict(set)
    for table in ("call_counts", "graces"):
        for environment_id, identifier in connection.execute(
            sa.text(f"SELECT DISTINCT environment_id, pipeline FROM {table}")  # noqa: S608  two names
        ):
            major, slash, name = identifier.partition("/")
            if slash and name and major[:1] == "v" and major[1:].isdecimal():
                found[environment_id, name].add(identifier)
    return found


def _copy(
    connection: sa.Connection, environment_id: int, name: str, identifier: str, number: int
) -> None:
    """Copy the rows of a name to an id."""
    for table, column in COLUMNS:
        names = [
            item["name"]
            for item in sa.inspect(connection).get_columns(table)
            if item["name"] != "id"
        ]
        source = sa.table(table, *map(sa.column, names))
        values = [
            {column: sa.literal(identifier), "revision": sa.literal(number)}.get(
                item, source.c[item]
            )
            for item in names
        ]
        query = sa.select(*values).where(
            source.c.environment_id == environment_id, source.c[column] == name
        )
        connection.execute(sa.insert(source).from_select(names, query))


def _secrets(connection: sa.Connection, ids: dict[tuple[int, str], set[str]], number: int) -> None:
    """Add ids beside the names of the pipelines that may have a secret."""
    secrets = sa.table(
        "pipeline_secrets",
        sa.column("id"),
        sa.column("environment_id"),
        sa.column("pipelines", sa.JSON),
        sa.column("revision"),
    )
    for row in connection.execute(sa.select(secrets)).mappings().all():
        names = row["pipelines"] if isinstance(row["pipelines"], list) else []
        more = {
            identifier
            for name in names
            for identifier in ids.get((row["environment_id"], name), ())
        }
        if more:
            query = sa.update(secrets).where(secrets.c.id == row["id"])
            connection.execute(query.values(pipelines=sorted({*names, *more}), revision=number))


def downgrade() -> None:
    """Drop the column.

    The rows of ids stay, and the columns stay wide: the release before reads names alone.
    """
    op.drop_column("environments", "by_id")
