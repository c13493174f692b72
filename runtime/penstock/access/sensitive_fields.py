"""Sensitive fields of an environment: fields that are never stored of the bodies of its runs."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

from penstock import audit
from penstock.access.lookup import environment_row, in_environment
from penstock.db.engine import Engine, reading
from penstock.db.tables import EnvironmentRow, SensitiveFieldRow
from penstock.db.unit_of_work import RowReader, Values
from penstock.errors import UnknownName, UsageError, quoted

INVALID_ESCAPE = re.compile(r"~(?![01])")  # of a JSON Pointer, RFC 6901 section 3
MAX_FIELD_LENGTH = 255


@dataclass(frozen=True, slots=True)
class ListedField:
    """A sensitive field of an environment."""

    environment: str
    field: str


def add_fields(engine: Engine, actor: str, environment: str, fields: Iterable[str]) -> None:
    """Add sensitive fields: names at any depth, or JSON Pointers.

    Raises UsageError and UnknownName.
    """
    with audit.change(
        engine, actor, audit.Action.SENSITIVE_ADDED, environment, environment=environment
    ) as (rows, detail):
        match = _of_environment(rows, environment)
        detail["fields"] = added = sorted(set(fields))
        for field in added:
            if not _is_field(field):
                raise UsageError(
                    f"{quoted(field)} names no field; write its name, such as password, or a JSON"
                    " Pointer, such as /card/number"
                )
            rows.put(
                SensitiveFieldRow,
                {**match, SensitiveFieldRow.field: field},
                {SensitiveFieldRow.active: True},
            )


def _of_environment(rows: RowReader, environment: str) -> Values:
    return {SensitiveFieldRow.environment_id: environment_row(rows, environment).id}


def _is_field(text: str) -> bool:
    return (
        0 < len(text) <= MAX_FIELD_LENGTH
        and text.isprintable()
        and not (text.startswith("/") and INVALID_ESCAPE.search(text))
    )


def remove_fields(engine: Engine, actor: str, environment: str, fields: Iterable[str]) -> None:
    """Remove sensitive fields. Raises UnknownName."""
    with audit.change(
        engine, actor, audit.Action.SENSITIVE_REMOVED, environment, environment=environment
    ) as (rows, detail):
        match = _of_environment(rows, environment)
        active = rows.all(SensitiveFieldRow, {**match, SensitiveFieldRow.active: True})
        listed = {row.field for row in active}
        detail["fields"] = removed = sorted(set(fields))
        for field in removed:
            if field not in listed:
                raise UnknownName(f"sensitive field of {quoted(environment)}", field, listed)
            rows.set(
                SensitiveFieldRow,
                {**match, SensitiveFieldRow.field: field},
                {SensitiveFieldRow.active: False},
            )


def list_fields(engine: Engine, environment: str | None = None) -> list[ListedField]:
    """Return sensitive fields by environment. Raises UnknownName."""
    with reading(engine) as connection:
        reader = RowReader(connection)
        match = in_environment(reader, SensitiveFieldRow, environment)
        environments = reader.names_by_id(EnvironmentRow)
        rows = reader.all(SensitiveFieldRow, {**match, SensitiveFieldRow.active: True})
    fields = [ListedField(environments[row.environment_id], row.field) for row in rows]
    return sorted(fields, key=lambda item: (item.environment, str(item.field)))
