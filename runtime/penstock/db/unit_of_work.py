"""Find rows, and change them.

Everything that changes access data goes through an `AccessChange`, which writes one revision to all
the rows that it changes. What revisions are for is in `db/history.py`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, TypeVar

import sqlalchemy as sa

from penstock.db.engine import Engine, writing
from penstock.db.history import delete_marks_before, next_revision
from penstock.db.postgres import CHANNEL
from penstock.db.rows import AnyColumn, Row
from penstock.db.tables import NamedRow, UserSessionRow

RowType = TypeVar("RowType", bound=Row)
Values = Mapping[AnyColumn, object]  # a value for each column
MAX_NEAR = 1_000  # values that a wrong name is compared with


class RowReader:
    """Finds rows by the values of their columns; None matches NULL."""

    def __init__(self, connection: sa.Connection) -> None:
        self._connection = connection

    def find(self, kind: type[RowType], match: Values) -> RowType | None:
        """Return the first row that matches, or None."""
        return kind.fetch_first(self._connection, _select(kind, match))

    def all(self, kind: type[RowType], match: Values | None = None) -> list[RowType]:
        """Return every row that matches, in order of creation."""
        return kind.fetch(self._connection, _select(kind, match or {}))

    def fetch(self, kind: type[RowType], query: sa.Select[Any]) -> list[RowType]:
        """Return the rows of a query that the module of their kind built."""
        return kind.fetch(self._connection, query)

    def names_by_id(self, kind: type[NamedRow]) -> dict[int, str]:
        """Return all names in a table, by id."""
        rows = self._connection.execute(sa.select(kind.id, kind.name))
        return {row[0]: row[1] for row in rows}

    def names(self, kind: type[NamedRow]) -> list[str]:
        """Return all names in a table, sorted."""
        return list(self._connection.scalars(sa.select(kind.name).order_by(kind.name)))

    def near(self, column: AnyColumn, text: str) -> list[str]:
        """Return the values of a column that are next to a text in their order, 1,000 at most.

        One of them may be meant by a wrong text. The column has an index.
        """
        halves = (
            sa.select(column).where(column >= text).order_by(column),
            sa.select(column).where(column < text).order_by(column.desc()),
        )
        return [
            value
            for half in halves
            for value in self._connection.scalars(half.limit(MAX_NEAR // 2))
        ]


class AccessChange(RowReader):
    """One transaction on access data. All rows that it writes carry `revision`."""

    def __init__(self, connection: sa.Connection, revision: int) -> None:
        super().__init__(connection)
        self.revision = revision

    def add(self, kind: type[Row], values: Values) -> Any:  # noqa: ANN401  the type of its primary key
        """Insert a row and return its primary key."""
        result = self._connection.execute(
            sa.insert(kind.table).values(self._with_revision(kind, values))
        )
        return result.inserted_primary_key[0] if result.inserted_primary_key else None

    def set(self, kind: type[Row], match: Values, values: Values) -> int:
        """Update the rows that match and return how many there were."""
        return self._connection.execute(
            sa.update(kind.table).where(*_equal(match)).values(self._with_revision(kind, values))
        ).rowcount

    def put(self, kind: type[Row], match: Values, values: Values) -> bool:
        """Update the row that matches, or insert it; return whether the row is different now."""
        row = self.find(kind, match)
        if row is None:
            self.add(kind, {**match, **values})
        elif any(getattr(row, column.key) != value for column, value in values.items()):
            self.set(kind, match, values)
        else:
            return False
        return True

    def copy(self, kind: type[Row], match: Values, changed: Values) -> None:
        """Insert a copy of each row that matches, with some values changed.

        A copy is skipped where a unique constraint forbids it, because such a row exists.
        """
        source = kind.table
        other = source.alias()
        key = next(
            set(constraint.columns.keys())
            for constraint in source.constraints
            if isinstance(constraint, sa.UniqueConstraint)
        )
        values: dict[str, sa.ColumnElement[Any]] = {
            column.name: column for column in source.columns if not column.primary_key
        }
        values |= {
            column.name: sa.literal(value, column.type)
            for column, value in self._with_revision(kind, changed).items()
        }
        exists = sa.exists().where(*(other.c[name] == values[name] for name in key))
        query = sa.select(*values.values()).where(*_equal(match), ~exists)
        self._connection.execute(sa.insert(source).from_select(list(values), query))

    def delete(self, kind: type[Row], match: Values) -> int:
        """Delete the rows that match and return how many there were. It is not for access data."""
        return self._connection.execute(sa.delete(kind.table).where(*_equal(match))).rowcount

    def delete_history(self) -> None:
        """Delete the marks of all earlier revisions.

        Every process then reads all access data again.
        """
        delete_marks_before(self._connection, self.revision)

    def end_sessions(
        self, user_id: int, *, session_id: int | None = None, keep: int | None = None
    ) -> int:
        """Delete one session of a user of the console, or all of them except `keep`.

        Return how many were deleted.
        """
        query = sa.delete(UserSessionRow.table).where(UserSessionRow.user_id == user_id)
        if session_id is not None:
            query = query.where(UserSessionRow.id == session_id)
        if keep is not None:
            query = query.where(UserSessionRow.id != keep)
        return self._connection.execute(query).rowcount

    def _with_revision(self, kind: type[Row], values: Values) -> dict[sa.Column[Any], object]:
        stamp = kind.table.c.get("revision")
        return {**values} if stamp is None else {**values, stamp: self.revision}


def _select(kind: type[Row], match: Values) -> sa.Select[Any]:
    return kind.select().where(*_equal(match)).order_by(*kind.table.primary_key.columns)


def _equal(match: Values) -> list[sa.ColumnElement[bool]]:
    return [column == value for column, value in match.items()]


@contextmanager
def access_change(engine: Engine) -> Iterator[AccessChange]:
    """Open a transaction with the next revision of access data. Raises DatabaseUnavailable.

    On PostgreSQL it notifies the listening processes when it commits.
    """
    with writing(engine) as connection:
        revision = next_revision(connection)
        yield AccessChange(connection, revision)
        if connection.dialect.name == "postgresql":
            connection.execute(
                sa.text("SELECT pg_notify(:channel, :revision)"),
                {"channel": CHANNEL, "revision": str(revision)},
            )
