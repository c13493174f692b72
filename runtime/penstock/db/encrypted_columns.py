"""Whatever is encrypted at rest, a page at a time.

All columns that hold such values, ours and those of the engine of durable runs.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

from penstock.db import engine_tables, tables
from penstock.db.engine import Connection, Engine, reading, writing
from penstock.db.unit_of_work import AccessChange

ROWS = 500  # in a page, at most
BYTES = 8 * 1024 * 1024  # in a page, unless one value alone has more
# Of what Fernet encrypts; the engine keeps a few values of its own in other formats.
BEGINNING = b"gAAAA"

Key = tuple[Any, ...]
Values = dict[Key, bytes]


@dataclass(frozen=True, slots=True)
class Place:
    """A column of encrypted values.

    `keys` name the rows of a table of the engine, which are not told by our own schema.
    """

    table: str
    column: str
    keys: tuple[str, ...] = ()

    @property
    def access(self) -> bool:
        """Whether it is access data: processes are told of its changes, by a revision."""
        return not self.keys and "revision" in tables.metadata.tables[self.table].c

    def __str__(self) -> str:
        """Name it for people."""
        return f"{self.table}.{self.column}"


RUN, STEP = ("workflow_uuid",), ("workflow_uuid", "function_id")
PLACES = (
    Place("signing_keys", "private_encrypted"),
    Place("credentials", "sealed"),
    Place("pipeline_secrets", "sealed"),
    Place("callback_targets", "sealed"),
    Place("kept_replies", "reply"),
    Place("run_details", "bodies"),
    Place("workflow_schedules", "context", ("schedule_id",)),
    Place("workflow_status", "inputs", RUN),
    Place("workflow_status", "output", RUN),
    Place("workflow_status", "error", RUN),
    Place("workflow_input", "inputs", RUN),
    Place("workflow_output", "output", RUN),
    Place("workflow_output", "error", RUN),
    Place("operation_outputs", "output", STEP),
    Place("operation_outputs", "error", STEP),
    Place("notifications", "message", ("message_uuid",)),
    Place("workflow_events", "value", ("workflow_uuid", "key")),
    Place("workflow_events_history", "value", ("workflow_uuid", "key", "function_id")),
    Place("streams", "value", ("workflow_uuid", "key", "offset")),
)


def pages(engine: Engine, place: Place) -> Iterator[Values]:
    """Yield all encrypted values of a column by the keys of their rows, a page at a time.

    Each page is read in a transaction of its own.

    Raises DatabaseUnavailable.
    """
    _, keys, column = _parts(engine, place)
    after: Key | None = None
    while True:
        with reading(engine) as connection:
            last, more = _page_end(connection, keys, column, after)
            if last is None:
                return
            query = sa.select(*keys, column).where(
                *_between(keys, after, last), column.is_not(None)
            )
            rows = connection.execute(query).all()
        values = {tuple(row[:-1]): _bytes(row[-1]) for row in rows}
        yield {
            key: value
            for key, value in values.items()
            if value and (not place.keys or value.startswith(BEGINNING))
        }
        if not more:
            return
        after = last


def _page_end(
    connection: Connection,
    keys: Sequence[Any],
    column: Any,  # noqa: ANN401  SQLAlchemy's
    after: Key | None,
) -> tuple[Key | None, bool]:
    """Return the key of a page's last row, None where there is no row, and whether more may follow.

    Values may be large, or tiny.
    """
    query = (
        sa.select(*keys, sa.func.length(column))
        .where(*_between(keys, after, None), column.is_not(None))
        .order_by(*keys)
        .limit(ROWS)
    )
    last, size = None, 0
    rows = connection.execute(query).all()
    for row in rows:
        size += row[-1]
        if last is not None and size > BYTES:
            return last, True
        last = tuple(row[:-1])
    return last, len(rows) == ROWS


def _between(
    keys: Sequence[Any], after: Key | None, last: Key | None
) -> list[sa.ColumnElement[bool]]:
    bounds = [sa.tuple_(*keys) > sa.tuple_(*_bound(keys, after))] if after is not None else []
    return bounds + (
        [sa.tuple_(*keys) <= sa.tuple_(*_bound(keys, last))] if last is not None else []
    )


def _bound(keys: Sequence[Any], values: Key) -> list[sa.BindParameter[Any]]:
    return [
        (
            sa.literal(value, key.type)
            if not isinstance(key.type, sa.types.NullType)
            else sa.literal(value)
        )
        for key, value in zip(keys, values, strict=True)
    ]


def replace(engine: Engine, place: Place, pairs: dict[Key, tuple[bytes, bytes]]) -> int:
    """Put values in the place of others, where those are still there; return how many that were.

    Not for access data. Raises DatabaseUnavailable.

    A row that another transaction works on is left as it is: nothing is waited for while rows are
    locked here, so no two can wait for each other.
    """
    source, keys, column = _parts(engine, place)
    number = 0
    with writing(engine) as connection:
        free = (
            sa.select(*keys)
            .where(sa.tuple_(*keys).in_(list(pairs)))
            .with_for_update(skip_locked=True, key_share=True)
        )
        for row in connection.execute(free).all():
            old, new = (
                value if not place.keys else value.decode("ascii") for value in pairs[tuple(row)]
            )
            same = [key == value for key, value in zip(keys, row, strict=True)]
            number += connection.execute(
                sa.update(source).where(*same, column == old).values({column.name: new})
            ).rowcount
    return number


def replace_in(rows: AccessChange, place: Place, pairs: dict[Key, tuple[bytes, bytes]]) -> int:
    """Do that with access data, as part of a change to it."""
    names = [key.name for key in tables.metadata.tables[place.table].primary_key.columns]
    return sum(
        rows.set(
            place.table,
            {**dict(zip(names, key, strict=True)), place.column: old},
            **{place.column: new},
        )
        for key, (old, new) in pairs.items()
    )


def _parts(engine: Engine, place: Place) -> tuple[Any, list[Any], Any]:
    """Return a place's table, the columns that name its rows, and the column itself."""
    if place.keys:
        table: Any = engine_tables.table(
            place.table, *place.keys, place.column, dialect=engine.dialect.name
        )
        return table, [table.c[name] for name in place.keys], table.c[place.column]
    table = tables.metadata.tables[place.table]
    return table, list(table.primary_key.columns), table.c[place.column]


def _bytes(value: str | bytes) -> bytes:
    return value.encode("utf-8", "replace") if isinstance(value, str) else value
