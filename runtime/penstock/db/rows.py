"""Typed rows: a class is both a table and its rows.

`LimitRow.rate` is a column, for queries; `row.rate` of a row that was read is its value. So a table
and its rows are declared once, and mypy sees each place that names a column:

    class LimitRow(Row, table="limits"):
        id: Col[int] = column(BigId, primary_key=True)
        rate: Col[str] = column(String(32))

    query = LimitRow.select().where(LimitRow.id == 3)
    rates = [row.rate for row in LimitRow.fetch(connection, query)]

A class below a row type adds columns of other tables, for queries that join (`joined`). Rows are
frozen. SQLAlchemy's ORM has classes of this kind too, but its instances are mutable, are tracked by
a session, and cost several times as much to create.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, ClassVar, Generic, Never, Self, TypeVar, overload

import sqlalchemy as sa

Value_co = TypeVar("Value_co", covariant=True)
AnyColumn = sa.Column[Any]

metadata = sa.MetaData(
    naming_convention={
        "ix": "ix_%(column_0_label)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "ck": "ck_%(table_name)s_%(constraint_name)s",
        "fk": "fk_%(table_name)s_%(column_0_name)s_%(referred_table_name)s",
        "pk": "pk_%(table_name)s",
    }
)


class Col(Generic[Value_co]):
    """The type of a column: `sa.Column[T]` of the class, `T` of a row.

    For mypy only: at run time the attribute of the class is SQLAlchemy's column itself.
    """

    @overload
    def __get__(self, row: None, owner: object) -> sa.Column[Value_co]: ...
    @overload
    def __get__(self, row: object, owner: object) -> Value_co: ...
    def __get__(self, row: object, owner: object) -> Any:
        """Return the column of the class, or the value of a row."""
        raise NotImplementedError

    def __set__(self, row: object, value: Never) -> None:
        """Raise: rows are frozen."""
        raise NotImplementedError


def column(*arguments: Any, nullable: bool = False, **options: Any) -> Any:  # noqa: ANN401  SQLAlchemy's arguments; the annotation of the attribute has the type
    """Return a column of a table; its name is that of the attribute.

    The arguments are those of `sqlalchemy.Column`; a column is NOT NULL unless it says otherwise.
    """
    return sa.Column(*arguments, nullable=nullable, **options)


class _Joined:
    """A column that a class adds to its row type."""

    def __init__(self, expression: sa.ColumnElement[Any]) -> None:
        self.expression = expression


def joined(expression: sa.ColumnElement[Any]) -> Any:  # noqa: ANN401  the annotation of the attribute has the type
    """Return a column that queries take from another table, or compute."""
    return _Joined(expression)


class Row:
    """A row of a table, frozen. Its attributes are the columns."""

    table: ClassVar[sa.Table]
    columns: ClassVar[tuple[sa.ColumnElement[Any], ...]] = ()
    names: ClassVar[tuple[str, ...]] = ()
    indexes: ClassVar[tuple[sa.Index | sa.UniqueConstraint, ...]] = ()
    sqlite_rowid: ClassVar[bool] = True

    def __init_subclass__(cls, *, table: str | None = None) -> None:
        """Create the table, or add the columns of joined tables to those of the base."""
        own = dict(cls.__dict__)
        if table is not None:
            columns = {name: item for name, item in own.items() if isinstance(item, sa.Column)}
            for name, item in columns.items():
                item.name = item.key = name
            cls.table = sa.Table(
                table,
                metadata,
                *columns.values(),
                *cls.indexes,
                sqlite_with_rowid=cls.sqlite_rowid,
            )
            cls.columns, cls.names = tuple(columns.values()), tuple(columns)
            return
        for name, item in own.items():
            if isinstance(item, _Joined):
                cls.columns += (item.expression.label(name),)
                cls.names += (name,)
                setattr(cls, name, item.expression)

    @classmethod
    def of(cls, values: Iterable[object]) -> Self:
        """Return a row of the values of all columns, in their order."""
        row = object.__new__(cls)
        # Past __setattr__, and a third of the time that it would take.
        row.__dict__.update(zip(cls.names, values, strict=True))
        return row

    @classmethod
    def select(cls) -> sa.Select[Any]:
        """Return a query for all columns of this row type."""
        return sa.select(*cls.columns)

    @classmethod
    def fetch(
        cls,
        connection: sa.Connection,
        query: sa.Select[Any],
        parameters: Mapping[str, object] | None = None,
    ) -> list[Self]:
        """Return the rows of a query that began with `select`."""
        return [cls.of(values) for values in connection.execute(query, parameters)]

    @classmethod
    def fetch_first(cls, connection: sa.Connection, query: sa.Select[Any]) -> Self | None:
        """Return the first row of a query that began with `select`, or None."""
        values = connection.execute(query.limit(1)).first()
        return None if values is None else cls.of(values)

    def __setattr__(self, name: str, value: object) -> None:
        """Raise AttributeError."""
        raise AttributeError(f"rows are frozen: {type(self).__name__}.{name}")

    def __delattr__(self, name: str) -> None:
        """Raise AttributeError."""
        raise AttributeError(f"rows are frozen: {type(self).__name__}.{name}")

    def __repr__(self) -> str:
        """Name the primary key alone: other columns may be confidential."""
        key = ", ".join(
            f"{item.name}={self.__dict__[item.name]!r}" for item in self.table.primary_key.columns
        )
        return f"{type(self).__name__}({key})"
