"""The audit trail, a page at a time, newest first."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from datetime import datetime

import sqlalchemy as sa

from penstock.db.rows import AnyColumn
from penstock.db.tables import AuditEventRow

MAX_SEARCHED = 20_000  # events, for a text in their details


def page(  # noqa: PLR0913  one argument a filter
    connection: sa.Connection,
    *,
    actor: str | None = None,
    action: str | None = None,
    environment: str | None = None,
    subject: str | None = None,
    since: datetime | None = None,
    before: int | None = None,
    limit: int,
    environments: Collection[str] | None = None,
    text: str | None = None,
    subjects: Collection[str] | None = None,
    first: int | None = None,
) -> list[AuditEventRow]:
    """Return events, newest first.

    An action that ends with a colon stands for all actions with that beginning. The next page is
    before the last id of a page. With `first`, no event with a lower id is read.
    """
    query = AuditEventRow.select().order_by(AuditEventRow.id.desc()).limit(limit)
    if first is not None:
        query = query.where(AuditEventRow.id >= first)
    for column, value in (
        (AuditEventRow.actor, actor),
        (AuditEventRow.environment, environment),
        (AuditEventRow.subject, subject),
    ):
        if value is not None:
            query = query.where(column == value)
    if action is not None:
        query = query.where(
            AuditEventRow.action.startswith(action, autoescape=True)
            if action.endswith(":")
            else AuditEventRow.action == action
        )
    if text:
        parts = (
            AuditEventRow.actor,
            AuditEventRow.action,
            AuditEventRow.subject,
            sa.cast(AuditEventRow.detail, sa.Text),
        )
        query = query.where(sa.or_(*(part.icontains(text, autoescape=True) for part in parts)))
    if environments is not None:
        query = query.where(AuditEventRow.environment.in_(environments))
    if subjects is not None:
        query = query.where(AuditEventRow.subject.in_(subjects))
    if since is not None:
        query = query.where(AuditEventRow.at >= since)
    if before is not None:
        query = query.where(AuditEventRow.id < before)
    return AuditEventRow.fetch(connection, query)


def about(
    connection: sa.Connection, name: str, *, environments: Collection[str] | None, limit: int
) -> list[AuditEventRow]:
    """Return the newest events whose subject is a name, or whose detail has it, newest first.

    Only the newest events are searched: no index finds a text in a detail.
    """
    newest = sa.select(sa.func.max(AuditEventRow.id)).scalar_subquery()
    detail = sa.cast(AuditEventRow.detail, sa.Text)
    query = (
        AuditEventRow.select()
        .where(
            AuditEventRow.id > newest - MAX_SEARCHED,
            sa.or_(
                AuditEventRow.subject == name,
                detail.contains(f'"{name}"', autoescape=True),
            ),
        )
        .order_by(AuditEventRow.id.desc())
        .limit(limit)
    )
    if environments is not None:
        query = query.where(AuditEventRow.environment.in_(environments))
    return AuditEventRow.fetch(connection, query)


def add(connection: sa.Connection, values: Mapping[AnyColumn, object]) -> None:
    """Write an event."""
    connection.execute(sa.insert(AuditEventRow.table).values(dict(values)))


def last_id(connection: sa.Connection) -> int:
    """Return the id of the newest event; 0 without events."""
    return connection.scalar(sa.select(sa.func.max(AuditEventRow.id))) or 0


def find(connection: sa.Connection, number: int) -> AuditEventRow | None:
    """Return an event by its id, or None."""
    return AuditEventRow.fetch_first(
        connection, AuditEventRow.select().where(AuditEventRow.id == number)
    )
