"""All values that are encrypted at rest, a page at a time.

They are in columns of ours, and in columns of the engine of durable runs.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

from penstock.db import engine_tables
from penstock.db.alert_tables import AlertRuleRow
from penstock.db.engine import Connection, Engine, reading, writing
from penstock.db.rows import Row
from penstock.db.run_tables import IdempotentReplyRow, RunDetailRow
from penstock.db.tables import CallbackTargetRow, CredentialRow, PipelineSecretRow, SigningKeyRow
from penstock.db.unit_of_work import AccessChange

MAX_PAGE_ROWS = 500
MAX_PAGE_BYTES = 8 * 1024 * 1024  # unless one value is longer
# Each Fernet token begins so. The engine stores a few values of its own in other formats.
TOKEN_PREFIX = b"gAAAA"

Key = tuple[Any, ...]
Values = dict[Key, bytes]


@dataclass(frozen=True, slots=True)
class EncryptedColumn:
    """A column of encrypted values.

    `keys` name the rows of a table of the engine; our own tables have a primary key in `kind`.
    """

    table: str
    column: str
    kind: type[Row] | None = None
    keys: tuple[str, ...] = ()

    @classmethod
    def of(cls, kind: type[Row], column: sa.Column[Any]) -> EncryptedColumn:
        """Return a column of a table of ours."""
        return cls(kind.table.name, column.name, kind)

    @property
    def access(self) -> bool:
        """Whether it is access data: a change of it needs a revision."""
        return self.kind is not None and "revision" in self.kind.names

    def __str__(self) -> str:
        """Return its name for users."""
        return f"{self.table}.{self.column}"


RUN, STEP = ("workflow_uuid",), ("workflow_uuid", "function_id")
COLUMNS = (
    EncryptedColumn.of(SigningKeyRow, SigningKeyRow.private_encrypted),
    EncryptedColumn.of(CredentialRow, CredentialRow.sealed),
    EncryptedColumn.of(PipelineSecretRow, PipelineSecretRow.sealed),
    EncryptedColumn.of(CallbackTargetRow, CallbackTargetRow.sealed),
    EncryptedColumn.of(AlertRuleRow, AlertRuleRow.sealed),
    EncryptedColumn.of(IdempotentReplyRow, IdempotentReplyRow.reply),
    EncryptedColumn.of(RunDetailRow, RunDetailRow.bodies),
    EncryptedColumn("workflow_schedules", "context", keys=("schedule_id",)),
    EncryptedColumn("workflow_status", "inputs", keys=RUN),
    EncryptedColumn("workflow_status", "output", keys=RUN),
    EncryptedColumn("workflow_status", "error", keys=RUN),
    EncryptedColumn("workflow_input", "inputs", keys=RUN),
    EncryptedColumn("workflow_output", "output", keys=RUN),
    EncryptedColumn("workflow_output", "error", keys=RUN),
    EncryptedColumn("operation_outputs", "output", keys=STEP),
    EncryptedColumn("operation_outputs", "error", keys=STEP),
    EncryptedColumn("notifications", "message", keys=("message_uuid",)),
    EncryptedColumn("workflow_events", "value", keys=("workflow_uuid", "key")),
    EncryptedColumn(
        "workflow_events_history", "value", keys=("workflow_uuid", "key", "function_id")
    ),
    EncryptedColumn("streams", "value", keys=("workflow_uuid", "key", "offset")),
)


def pages(engine: Engine, place: EncryptedColumn) -> Iterator[Values]:
    """Yield the encrypted values of a column by the keys of their rows, a page at a time.

    Each page is read in its own transaction. Raises DatabaseUnavailable.
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
            if value and (not place.keys or value.startswith(TOKEN_PREFIX))
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
    """Return the key of a page's last row, or None, and whether more rows may follow.

    Values may be large, or tiny.
    """
    query = (
        sa.select(*keys, sa.func.length(column))
        .where(*_between(keys, after, None), column.is_not(None))
        .order_by(*keys)
        .limit(MAX_PAGE_ROWS)
    )
    last, size = None, 0
    rows = connection.execute(query).all()
    for row in rows:
        size += row[-1]
        if last is not None and size > MAX_PAGE_BYTES:
            return last, True
        last = tuple(row[:-1])
    return last, len(rows) == MAX_PAGE_ROWS


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


def replace(engine: Engine, place: EncryptedColumn, pairs: dict[Key, tuple[bytes, bytes]]) -> int:
    """Replace values with others, by the keys of their rows, where they have not changed meanwhile.

    Return how many were replaced. It is not for access data. Raises DatabaseUnavailable.

    Rows that another transaction has locked are skipped: nothing is waited for while rows are
    locked here, so there is no deadlock.
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


def replace_in(
    rows: AccessChange, place: EncryptedColumn, pairs: dict[Key, tuple[bytes, bytes]]
) -> int:
    """Do the same with access data, as part of a change to it."""
    if place.kind is None:
        raise ValueError(place.table)
    keys, column = place.kind.table.primary_key.columns, place.kind.table.c[place.column]
    return sum(
        rows.set(place.kind, {**dict(zip(keys, key, strict=True)), column: old}, {column: new})
        for key, (old, new) in pairs.items()
    )


def _parts(engine: Engine, place: EncryptedColumn) -> tuple[Any, list[Any], Any]:
    """Return the table, the columns that name its rows, and the column itself."""
    if place.kind is None:
        table: Any = engine_tables.table(
            place.table, *place.keys, place.column, dialect=engine.dialect.name
        )
        return table, [table.c[name] for name in place.keys], table.c[place.column]
    table = place.kind.table
    return table, list(table.primary_key.columns), table.c[place.column]


def _bytes(value: str | bytes) -> bytes:
    return value.encode("utf-8", "replace") if isinstance(value, str) else value
