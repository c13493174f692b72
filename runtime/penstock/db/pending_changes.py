"""Changes that wait for a second approval."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime

import sqlalchemy as sa

from penstock.db.rows import AnyColumn, Col, joined
from penstock.db.tables import EnvironmentRow, PendingChangeRow


class NamedPendingChangeRow(PendingChangeRow):
    """A change with the name of its environment."""

    environment: Col[str] = joined(EnvironmentRow.name)


def _select() -> sa.Select[tuple[object, ...]]:
    return NamedPendingChangeRow.select().join(
        EnvironmentRow.table, EnvironmentRow.id == PendingChangeRow.environment_id
    )


def add(connection: sa.Connection, values: Mapping[AnyColumn, object]) -> int:
    """Write a change and return its number."""
    result = connection.execute(sa.insert(PendingChangeRow.table).values(dict(values)))
    return int(result.inserted_primary_key[0]) if result.inserted_primary_key else 0


def find(connection: sa.Connection, number: int) -> NamedPendingChangeRow | None:
    """Return a change by its number, or None."""
    return NamedPendingChangeRow.fetch_first(
        connection, _select().where(PendingChangeRow.id == number)
    )


def page(
    connection: sa.Connection,
    *,
    environment: str | None = None,
    pending_at: datetime | None = None,
    limit: int,
) -> list[NamedPendingChangeRow]:
    """Return changes, newest first; with `pending_at` those that wait at that moment."""
    query = _select().order_by(PendingChangeRow.id.desc()).limit(limit)
    if environment is not None:
        query = query.where(EnvironmentRow.name == environment)
    if pending_at is not None:
        query = query.where(
            PendingChangeRow.state == "pending", PendingChangeRow.expires_at > pending_at
        )
    return NamedPendingChangeRow.fetch(connection, query)
