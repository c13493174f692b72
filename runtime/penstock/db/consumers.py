"""Consumers as people look at them: a page at a time by name, with how much each may do."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

import sqlalchemy as sa

from penstock.db.tables import api_keys, associations, consumers, environments
from penstock.db.unit_of_work import Row


def page(
    connection: sa.Connection, *, find: str = "", after: str | None = None, limit: int = 50
) -> list[Row]:
    """Return consumers by name, those that hold a text.

    A page goes on after the last name of the one before.
    """
    query = sa.select(consumers).order_by(consumers.c.name).limit(limit)
    if find:
        query = query.where(sa.func.lower(consumers.c.name).contains(find.lower(), autoescape=True))
    if after is not None:
        query = query.where(consumers.c.name > after)
    return list(connection.execute(query).mappings())


def numbers(
    connection: sa.Connection, ids: Sequence[int], now: datetime
) -> tuple[dict[tuple[int, int], int], dict[tuple[int, int], int]]:
    """Return how many pipelines and usable keys consumers have in each environment.

    The consumers are given and returned by their ids.
    """
    # Their index begins with the environment.
    everywhere = list(connection.scalars(sa.select(environments.c.id)))
    whose = associations.c.consumer_id, associations.c.environment_id
    held = (
        sa.select(*whose, sa.func.count())
        .where(
            associations.c.environment_id.in_(everywhere),
            associations.c.consumer_id.in_(ids),
            associations.c.active,
        )
        .where(associations.c.pipeline.contains("/"))  # a name alone is of the release before
        .group_by(*whose)
    )
    whose = api_keys.c.consumer_id, api_keys.c.environment_id
    good = sa.or_(api_keys.c.expires_at.is_(None), api_keys.c.expires_at > now)
    keys = (
        sa.select(*whose, sa.func.count())
        .where(
            api_keys.c.consumer_id.in_(ids),
            api_keys.c.enabled,
            api_keys.c.revoked_at.is_(None),
            good,
        )
        .group_by(*whose)
    )
    return {(row[0], row[1]): row[2] for row in connection.execute(held)}, {
        (row[0], row[1]): row[2] for row in connection.execute(keys)
    }


def associated(
    connection: sa.Connection,
    environment_id: int,
    pipeline: str,
    *,
    after: str | None = None,
    limit: int = 50,
) -> list[Row]:
    """Return the consumers that are associated with a pipeline in an environment, by name."""
    query = (
        sa.select(consumers)
        .where(_may_call(environment_id, pipeline))
        .order_by(consumers.c.name)
        .limit(limit)
    )
    if after is not None:
        query = query.where(consumers.c.name > after)
    return list(connection.execute(query).mappings())


def count_associated(connection: sa.Connection, environment_id: int, pipeline: str) -> int:
    """Return how many there are."""
    return (
        connection.scalar(
            sa.select(sa.func.count())
            .select_from(consumers)
            .where(_may_call(environment_id, pipeline))
        )
        or 0
    )


def _may_call(environment_id: int, pipeline: str) -> sa.ColumnElement[bool]:
    here = (
        associations.c.environment_id == environment_id,
        associations.c.consumer_id == consumers.c.id,
    )
    return sa.exists().where(*here, associations.c.pipeline == pipeline, associations.c.active)
