"""Row types: each column has a field of its type, and a row is frozen."""

from __future__ import annotations

from datetime import datetime
from types import NoneType
from typing import Any, get_args, get_type_hints

import pytest
import sqlalchemy as sa

from penstock.db import audit_events, consumer_settings, runs, users
from penstock.db.columns import LONG_AGO, Blob, Flag, Json, Moment, Outcome, RunId
from penstock.db.rows import Col, Row
from penstock.db.schema import ROW_TYPES, metadata
from penstock.db.tables import LimitRow, UserRow, UserSessionRow

VALUES = {
    Moment: datetime,
    RunId: str,
    Outcome: str,
    Flag: bool,
    sa.Boolean: bool,
    Blob: bytes,
    sa.LargeBinary: bytes,
    sa.Integer: int,
    sa.BigInteger: int,
    sa.SmallInteger: int,
    sa.Float: float,
    sa.String: str,
    sa.Text: str,
    Json: Any,
    sa.JSON: Any,
}


def fields(kind: type[Row]) -> dict[str, Any]:
    """Return the annotated types of a row type's fields."""
    hints = get_type_hints(kind)
    return {
        name: get_args(hint)[0]
        for name, hint in hints.items()
        if getattr(hint, "__origin__", None) is Col
    }


def value_type(column: sa.Column[Any]) -> Any:
    """Return the type that values of a column are read as."""
    for kind in type(column.type).__mro__:
        if kind in VALUES:
            return VALUES[kind]
    raise AssertionError(column)


def test_each_table_has_one_row_type() -> None:
    assert sorted(kind.table.name for kind in ROW_TYPES) == sorted(metadata.tables)


@pytest.mark.parametrize("kind", ROW_TYPES, ids=lambda kind: kind.__name__)
def test_fields_and_columns_have_the_same_names_order_and_types(kind: type[Row]) -> None:
    annotated = fields(kind)
    assert set(annotated) == set(kind.names)
    assert kind.names == tuple(kind.table.columns.keys())
    for column in kind.table.columns:
        assert getattr(kind, column.name) is column
        expected = value_type(column)
        if expected is not Any:
            optional = expected | NoneType if column.nullable else expected
            assert annotated[column.name] == optional, column


@pytest.mark.parametrize(
    "kind", [runs.FullRunRow, users.SessionRow, consumer_settings.NamedLimitRow]
)
def test_a_joined_row_type_adds_its_fields_to_those_of_its_base(kind: type[Row]) -> None:
    assert set(fields(kind)) == set(kind.names)
    assert len(kind.columns) == len(kind.names)
    base = kind.__mro__[-3]
    assert kind.names[: len(base.names)] == base.names


def test_a_row_is_frozen_and_its_repr_has_the_primary_key_alone() -> None:
    row = UserRow.of([7, "ann", "admin", "$argon2id$", True, LONG_AGO, None])

    with pytest.raises(AttributeError, match=r"rows are frozen: UserRow\.role"):
        row.role = "viewer"  # type: ignore[misc,assignment]  # what mypy rejects fails too
    with pytest.raises(AttributeError, match="rows are frozen"):
        del row.role
    assert (row.role, repr(row)) == ("admin", "UserRow(id=7)")


def test_a_row_needs_a_value_for_each_column() -> None:
    with pytest.raises(ValueError, match="shorter"):
        LimitRow.of([1, 2, 3])


def test_columns_of_a_row_type_make_queries() -> None:
    query = UserSessionRow.select().where(UserSessionRow.user_id == 7)

    assert "FROM user_sessions" in str(query)
    assert "user_sessions.user_id = :user_id_1" in str(query)
    assert audit_events.AuditEventRow.table.name == "audit_events"
