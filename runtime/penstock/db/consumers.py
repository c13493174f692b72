"""Consumers, a page at a time by name, and the numbers of their pipelines and keys."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from datetime import datetime

import sqlalchemy as sa

from penstock.db.paging import containing
from penstock.db.tables import ApiKeyRow, AssociationRow, ConsumerRow, EnvironmentRow

Counts = dict[tuple[int, int], int]  # by the ids of a consumer and an environment


def page(
    connection: sa.Connection, *, find: str = "", after: str | None = None, limit: int = 50
) -> list[ConsumerRow]:
    """Return the consumers whose names contain a text, by name; a page begins after a name."""
    query = ConsumerRow.select().order_by(ConsumerRow.name).limit(limit)
    if find:
        query = query.where(containing(find, ConsumerRow.name))
    if after is not None:
        query = query.where(ConsumerRow.name > after)
    return ConsumerRow.fetch(connection, query)


def names_of(connection: sa.Connection, ids: Collection[int]) -> dict[int, str]:
    """Return the names of consumers by their ids."""
    if not ids:
        return {}
    query = sa.select(ConsumerRow.id, ConsumerRow.name).where(ConsumerRow.id.in_(ids))
    return {row[0]: row[1] for row in connection.execute(query)}


def counts(connection: sa.Connection, ids: Sequence[int], now: datetime) -> tuple[Counts, Counts]:
    """Return the numbers of pipelines and of usable keys of consumers in each environment."""
    # The index of associations begins with the environment.
    environments = list(connection.scalars(sa.select(EnvironmentRow.id)))
    by = AssociationRow.consumer_id, AssociationRow.environment_id
    pipelines = (
        sa.select(*by, sa.func.count())
        .where(
            AssociationRow.environment_id.in_(environments),
            AssociationRow.consumer_id.in_(ids),
            AssociationRow.active,
            AssociationRow.pipeline.contains("/"),  # the previous release stored names
        )
        .group_by(*by)
    )
    by = ApiKeyRow.consumer_id, ApiKeyRow.environment_id
    keys = (
        sa.select(*by, sa.func.count())
        .where(
            ApiKeyRow.consumer_id.in_(ids),
            ApiKeyRow.enabled,
            ApiKeyRow.revoked_at.is_(None),
            sa.or_(ApiKeyRow.expires_at.is_(None), ApiKeyRow.expires_at > now),
        )
        .group_by(*by)
    )
    return {(row[0], row[1]): row[2] for row in connection.execute(pipelines)}, {
        (row[0], row[1]): row[2] for row in connection.execute(keys)
    }


def with_access(
    connection: sa.Connection,
    environment_id: int,
    pipeline: str,
    *,
    after: str | None = None,
    limit: int = 50,
) -> list[ConsumerRow]:
    """Return the consumers with access to a pipeline in an environment, by name."""
    query = (
        ConsumerRow.select()
        .where(_has_access(environment_id, pipeline))
        .order_by(ConsumerRow.name)
        .limit(limit)
    )
    if after is not None:
        query = query.where(ConsumerRow.name > after)
    return ConsumerRow.fetch(connection, query)


def count_with_access(connection: sa.Connection, environment_id: int, pipeline: str) -> int:
    """Return the number of consumers with access to a pipeline in an environment."""
    query = (
        sa.select(sa.func.count())
        .select_from(ConsumerRow.table)
        .where(_has_access(environment_id, pipeline))
    )
    return connection.scalar(query) or 0


def _has_access(environment_id: int, pipeline: str) -> sa.ColumnElement[bool]:
    return sa.exists().where(
        AssociationRow.environment_id == environment_id,
        AssociationRow.consumer_id == ConsumerRow.id,
        AssociationRow.pipeline == pipeline,
        AssociationRow.active,
    )
