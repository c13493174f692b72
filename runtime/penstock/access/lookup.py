"""Find things by the names operators use, or say what was meant."""

from __future__ import annotations

from penstock.db.engine import Engine, reading
from penstock.db.unit_of_work import Row, RowReader, of_consumers
from penstock.errors import UnknownName


def named(reader: RowReader, kind: str, name: str) -> Row:
    """Return the environment or consumer of that name; raise Unknown with the nearest right one."""
    row = reader.find(f"{kind}s", name=name)
    if row is None:
        raise UnknownName(
            kind,
            name,
            reader.names(f"{kind}s"),
            fix=f"`penstock {'env' if kind == 'environment' else kind} create {name}` makes it",
        )
    return row


def environment_row(reader: RowReader, name: str) -> Row:
    """Return the environment of that name; raise UnknownName."""
    return named(reader, "environment", name)


def consumer_in(reader: RowReader, consumer: str, environment: str) -> dict[str, int]:
    """Return the ids that name a consumer in an environment; raise UnknownName."""
    return {
        "environment_id": environment_row(reader, environment)["id"],
        "consumer_id": named(reader, "consumer", consumer)["id"],
    }


def listed_of_consumers(
    engine: Engine,
    table: str,
    columns: tuple[str, ...],
    environment: str | None,
    consumer: str | None,
    *,
    after: int | None = None,
    limit: int | None = None,
) -> list[dict[str, object]]:
    """Return what is in force for consumers, each with its id. Raise UnknownName.

    The keys are environment, consumer and the first of the columns.
    """
    with reading(engine) as connection:
        reader = RowReader(connection)
        environment_id = environment_row(reader, environment)["id"] if environment else None
        consumer_id = named(reader, "consumer", consumer)["id"] if consumer else None
        rows = of_consumers(
            connection, table, columns[0], environment_id, consumer_id, after=after, limit=limit
        )
        return [
            {name: row[name] for name in ("id", "environment", "consumer", *columns)}
            for row in rows
        ]
