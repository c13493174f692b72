"""API keys with the names of their consumers, and when they were last used."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime

import sqlalchemy as sa

from penstock.db.engine import Engine, writing
from penstock.db.rows import Col, joined
from penstock.db.tables import ApiKeyRow, ConsumerRow, EnvironmentRow


class NamedKeyRow(ApiKeyRow):
    """An API key with the names of its consumer and its environment."""

    consumer: Col[str] = joined(ConsumerRow.name)
    environment: Col[str] = joined(EnvironmentRow.name)


def list_keys(
    connection: sa.Connection, environment_id: int | None, consumer_id: int | None
) -> list[NamedKeyRow]:
    """Return keys, oldest first; None stands for all environments or all consumers."""
    query = (
        NamedKeyRow.select()
        .join(ConsumerRow.table, ConsumerRow.id == ApiKeyRow.consumer_id)
        .join(EnvironmentRow.table, EnvironmentRow.id == ApiKeyRow.environment_id)
        .order_by(ApiKeyRow.created_at, ApiKeyRow.id)
    )
    if environment_id is not None:
        query = query.where(ApiKeyRow.environment_id == environment_id)
    if consumer_id is not None:
        query = query.where(ApiKeyRow.consumer_id == consumer_id)
    return NamedKeyRow.fetch(connection, query)


def touch_keys(engine: Engine, used: Mapping[str, datetime]) -> None:
    """Write when keys were last used. It changes no access, and writes no revision."""
    earlier = sa.or_(
        ApiKeyRow.last_used_at.is_(None), ApiKeyRow.last_used_at < sa.bindparam("moment")
    )
    query = (
        sa.update(ApiKeyRow.table)
        .where(ApiKeyRow.id == sa.bindparam("key"), earlier)
        .values({ApiKeyRow.last_used_at: sa.bindparam("moment")})
    )
    with writing(engine) as connection:
        connection.execute(
            query, [{"key": key, "moment": moment} for key, moment in sorted(used.items())]
        )
