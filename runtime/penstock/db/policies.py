"""Versions of policies, each with the one that it took the place of."""

from __future__ import annotations

import sqlalchemy as sa

from penstock.db.tables import policy_versions
from penstock.db.unit_of_work import Row


def versions(
    connection: sa.Connection, environment_id: int, *, before: int | None, limit: int
) -> list[Row]:
    """Return an environment's policy versions, newest first, those before a version."""
    earlier = policy_versions.alias()
    replaced = (
        sa.select(earlier.c.policy)
        .where(
            earlier.c.environment_id == policy_versions.c.environment_id,
            earlier.c.exposure == policy_versions.c.exposure,
            earlier.c.version < policy_versions.c.version,
        )
        .order_by(earlier.c.version.desc())
        .limit(1)
        .scalar_subquery()
    )
    query = sa.select(policy_versions, replaced.label("replaced")).where(
        policy_versions.c.environment_id == environment_id
    )
    if before is not None:
        query = query.where(policy_versions.c.version < before)
    return list(
        connection.execute(query.order_by(policy_versions.c.version.desc()).limit(limit)).mappings()
    )
