"""Versions of policies, each with the policy that it replaced."""

from __future__ import annotations

import sqlalchemy as sa

from penstock.db.rows import Col, joined
from penstock.db.tables import PolicyVersionRow


def _replaced() -> sa.ScalarSelect[str]:
    earlier = PolicyVersionRow.table.alias()
    return (
        sa.select(earlier.c.policy)
        .where(
            earlier.c.environment_id == PolicyVersionRow.environment_id,
            earlier.c.exposure == PolicyVersionRow.exposure,
            earlier.c.version < PolicyVersionRow.version,
        )
        .order_by(earlier.c.version.desc())
        .limit(1)
        .scalar_subquery()
    )


class ReplacingPolicyRow(PolicyVersionRow):
    """A policy version; `replaced` is the policy of its listener before it, None of the first."""

    replaced: Col[str | None] = joined(_replaced())


def versions(
    connection: sa.Connection, environment_id: int, *, before: int | None, limit: int
) -> list[ReplacingPolicyRow]:
    """Return an environment's policy versions before a version, newest first."""
    query = ReplacingPolicyRow.select().where(PolicyVersionRow.environment_id == environment_id)
    if before is not None:
        query = query.where(PolicyVersionRow.version < before)
    return ReplacingPolicyRow.fetch(
        connection, query.order_by(PolicyVersionRow.version.desc()).limit(limit)
    )
