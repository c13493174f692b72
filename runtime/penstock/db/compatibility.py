"""Check whether this release works with the schema of a database.

That is its own schema, or one that a newer release has expanded. A release may add tables, nullable
columns, columns with a default of the server, indexes and longer texts (expand). It may not drop,
rename or retype what the previous release uses, nor require values that it does not write
(contract): that takes two releases. The check reads the schema of the database itself, so it also
works for releases that are newer than this one.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import sqlalchemy as sa

from penstock.db.engine import Engine, reading
from penstock.db.schema import metadata

Key = tuple[str, ...]


def contracted(engine: Engine, own: sa.MetaData = metadata) -> list[str]:
    """Return the problems that a release with these tables has, none where it works.

    Raises DatabaseUnavailable.
    """
    with reading(engine) as connection:
        return [problem for table in own.sorted_tables for problem in _of_table(connection, table)]


def _of_table(connection: sa.Connection, table: sa.Table) -> Iterator[str]:
    inspector = sa.inspect(connection)
    if not inspector.has_table(table.name):
        yield f"table {table.name} is gone"
        return
    columns = {column["name"]: column for column in inspector.get_columns(table.name)}
    for column in table.columns:
        if (actual := columns.get(column.name)) is None:
            yield f"column {table.name}.{column.name} is gone"
        elif column.nullable and not actual["nullable"]:
            yield f"column {table.name}.{column.name} must have a value"
        elif not _holds(actual["type"], column.type, connection.dialect):
            yield f"column {table.name}.{column.name} has another type"
    for name, actual in columns.items():
        if name not in table.columns and not actual["nullable"] and actual["default"] is None:
            yield f"column {table.name}.{name} is new and must have a value"
    yield from _of_rules(inspector, table)


def _of_rules(inspector: Any, table: sa.Table) -> Iterator[str]:  # noqa: ANN401  SQLAlchemy's inspector
    """Yield constraints that this release does not know, and unique keys that it lacks."""
    unique = {
        tuple(sorted(item["column_names"])) for item in inspector.get_unique_constraints(table.name)
    }
    unique |= {
        tuple(sorted(item["column_names"]))
        for item in inspector.get_indexes(table.name)
        if item["unique"]
    }
    expected = {_key(item) for item in table.constraints if isinstance(item, sa.UniqueConstraint)}
    expected |= {_key(index) for index in table.indexes if index.unique}
    for names in sorted(expected - unique):
        yield f"{table.name} is not unique by {', '.join(names)} any more"
    for names in sorted(unique - expected):
        yield f"{table.name} must be unique by {', '.join(names)}"
    primary = inspector.get_pk_constraint(table.name)["constrained_columns"]
    if sorted(primary) != sorted(column.name for column in table.primary_key):
        yield f"{table.name} has another primary key"
    pointing = {
        tuple(sorted(key.parent.name for key in item.elements))
        for item in table.foreign_key_constraints
    }
    for item in inspector.get_foreign_keys(table.name):
        if tuple(sorted(item["constrained_columns"])) not in pointing:
            yield (
                f"column {table.name}.{', '.join(item['constrained_columns'])} must refer to"
                f" {item['referred_table']}"
            )
    for item in inspector.get_check_constraints(table.name):
        yield f"{table.name} has the new rule {item['sqltext']}"


def _key(item: sa.UniqueConstraint | sa.Index) -> Key:
    return tuple(sorted(column.name for column in item.columns))


def _holds(
    actual: sa.types.TypeEngine[Any], own: sa.types.TypeEngine[Any], dialect: sa.Dialect
) -> bool:
    """Return whether a column stores every value of ours: the same kind, and not shorter."""
    ours = own.dialect_impl(dialect)
    while isinstance(ours, sa.types.TypeDecorator):
        ours = ours.impl_instance.dialect_impl(dialect)
    if isinstance(actual, sa.String) and isinstance(ours, sa.String):
        return actual.length is None or (ours.length is not None and actual.length >= ours.length)
    if isinstance(actual, sa.Integer) and isinstance(ours, sa.Integer):
        return _bytes(actual) >= _bytes(ours)
    return actual._type_affinity is ours._type_affinity  # noqa: SLF001  it has no public name


def _bytes(kind: sa.Integer) -> int:
    return 2 if isinstance(kind, sa.SmallInteger) else 8 if isinstance(kind, sa.BigInteger) else 4
