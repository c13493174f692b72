"""Sensitive fields of an environment: what is never written of the bodies of its runs."""

from __future__ import annotations

import re
from collections.abc import Iterable

from penstock import audit
from penstock.access.lookup import environment_row
from penstock.db.engine import Engine, reading
from penstock.db.unit_of_work import RowReader
from penstock.errors import UnknownName, UsageError

WRONG_POINTER = re.compile(r"~(?![01])")  # RFC 6901 section 3
LONGEST = 255


def add_fields(engine: Engine, actor: str, environment: str, fields: Iterable[str]) -> None:
    """Hide fields from now on: names at any depth, or JSON Pointers."""
    with audit.change(
        engine, actor, audit.Action.SENSITIVE_ADDED, environment, environment=environment
    ) as (rows, detail):
        environment_id = environment_row(rows, environment)["id"]
        detail["fields"] = sorted(set(fields))
        for field in detail["fields"]:
            if (
                not field
                or len(field) > LONGEST
                or not field.isprintable()
                or (field.startswith("/") and WRONG_POINTER.search(field))
            ):
                raise UsageError(
                    f"{field!r} names no field; write its name, such as password, or a JSON"
                    " Pointer, such as /card/number"
                )
            rows.put(
                "sensitive_fields", {"environment_id": environment_id, "field": field}, active=True
            )


def remove_fields(engine: Engine, actor: str, environment: str, fields: Iterable[str]) -> None:
    """Hide fields no more."""
    with audit.change(
        engine, actor, audit.Action.SENSITIVE_REMOVED, environment, environment=environment
    ) as (rows, detail):
        environment_id = environment_row(rows, environment)["id"]
        known = {
            row["field"]
            for row in rows.all("sensitive_fields", environment_id=environment_id, active=True)
        }
        detail["fields"] = sorted(set(fields))
        for field in detail["fields"]:
            if field not in known:
                raise UnknownName(f"sensitive field of {environment!r}", field, known)
            rows.set(
                "sensitive_fields", {"environment_id": environment_id, "field": field}, active=False
            )


def list_fields(engine: Engine, environment: str | None = None) -> list[dict[str, object]]:
    """Return the fields by environment."""
    with reading(engine) as connection:
        reader = RowReader(connection)
        match = (
            {"environment_id": environment_row(reader, environment)["id"]} if environment else {}
        )
        environments = reader.names_by_id("environments")
        rows = [
            {"environment": environments[row["environment_id"]], "field": row["field"]}
            for row in reader.all("sensitive_fields", **match, active=True)
        ]
    return sorted(rows, key=lambda row: (str(row["environment"]), str(row["field"])))
