"""Rejected calls: written in batches, read a page at a time, purged a few at a time."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass

import sqlalchemy as sa

from penstock.db.engine import Engine, writing
from penstock.db.run_tables import RejectedCallRow

PURGED_AT_A_TIME = 500


@dataclass(frozen=True, slots=True)
class RejectedCall:
    """A rejected call.

    `id` is that of the reply, `path` is redacted, `scopes` are those of the caller's token.
    """

    id: str
    environment_id: int
    pipeline: str
    problem: str
    address: str
    reason: str | None
    consumer_id: int | None
    http_status: int | None = None
    method: str | None = None
    path: str | None = None
    route: str | None = None
    detail: str | None = None
    key_id: str | None = None
    scopes: str | None = None
    request_id: str | None = None


def record(connection: sa.Connection, samples: Sequence[RejectedCall]) -> None:
    """Write samples."""
    connection.execute(sa.insert(RejectedCallRow.table), [asdict(sample) for sample in samples])


def get(connection: sa.Connection, identifier: str) -> RejectedCallRow | None:
    """Return the rejected call with an id, or None."""
    query = RejectedCallRow.select().where(RejectedCallRow.id == identifier)
    return RejectedCallRow.fetch_first(connection, query)


def page(
    connection: sa.Connection, environment_id: int, *, before: str | None = None, limit: int = 50
) -> list[RejectedCallRow]:
    """Return samples, newest first; the next page is before the last id of a page."""
    query = (
        RejectedCallRow.select()
        .where(RejectedCallRow.environment_id == environment_id)
        .order_by(RejectedCallRow.id.desc())
        .limit(limit)
    )
    if before is not None:
        query = query.where(RejectedCallRow.id < before)
    return RejectedCallRow.fetch(connection, query)


def purge(engine: Engine, environment_id: int, before: str) -> int:
    """Delete at most 500 samples older than an id; return how many."""
    with writing(engine) as connection:
        old = (
            sa.select(RejectedCallRow.id)
            .where(RejectedCallRow.environment_id == environment_id, RejectedCallRow.id < before)
            .limit(PURGED_AT_A_TIME)
        )
        return connection.execute(
            sa.delete(RejectedCallRow.table).where(RejectedCallRow.id.in_(old.scalar_subquery()))
        ).rowcount
