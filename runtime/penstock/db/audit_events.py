"""The audit trail: read a page at a time by key, newest first."""

from __future__ import annotations

from datetime import datetime

import sqlalchemy as sa

from penstock.db.tables import audit_events as events
from penstock.db.unit_of_work import Row


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
) -> list[Row]:
    """Return events, newest first.

    An action that ends with a colon means all that begin so, and `before` is the last id of the
    page before.
    """
    query = sa.select(events).order_by(events.c.id.desc()).limit(limit)
    for column, value in (
        (events.c.actor, actor),
        (events.c.environment, environment),
        (events.c.subject, subject),
    ):
        if value is not None:
            query = query.where(column == value)
    if action is not None:
        query = query.where(
            events.c.action.startswith(action, autoescape=True)
            if action.endswith(":")
            else events.c.action == action
        )
    if since is not None:
        query = query.where(events.c.at >= since)
    if before is not None:
        query = query.where(events.c.id < before)
    return list(connection.execute(query).mappings())
