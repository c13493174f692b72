"""Rejected calls: written in batches, read a page at a time, purged a few at a time."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass

import sqlalchemy as sa

from penstock.db.consumers import names_of
from penstock.db.engine import Engine, writing
from penstock.db.paging import containing, most_common
from penstock.db.rows import AnyColumn, Col, joined
from penstock.db.run_tables import RejectedCallRow
from penstock.db.tables import ApiKeyRow, ConsumerRow, EnvironmentRow

PURGED_AT_A_TIME = 500
MAX_COUNTED = 10_000  # of which the most frequent reasons, consumers and addresses are found


class NamedRejectedCallRow(RejectedCallRow):
    """A rejected call with the names of its environment and consumer, and the end of its key."""

    environment: Col[str] = joined(EnvironmentRow.name)
    consumer: Col[str | None] = joined(ConsumerRow.name)
    key_end: Col[str | None] = joined(ApiKeyRow.last_four)


_SOURCE = (
    RejectedCallRow.table.join(
        EnvironmentRow.table, EnvironmentRow.id == RejectedCallRow.environment_id
    )
    .outerjoin(ConsumerRow.table, ConsumerRow.id == RejectedCallRow.consumer_id)
    .outerjoin(ApiKeyRow.table, ApiKeyRow.id == RejectedCallRow.key_id)
)


@dataclass(frozen=True, slots=True)
class RejectedFilter:
    """Which rejected calls a listing has; a field that is None or empty leaves none out.

    `since` and `until` are ids, the second excluded. `search`: a text in the pipeline, the path,
    the reason, the address or the names of the consumer.
    """

    environment_id: int | None = None
    problem: str | None = None
    consumer_id: int | None = None
    key_id: str | None = None
    pipelines: Sequence[str] = ()
    address: str | None = None
    request_id: str | None = None
    since: str | None = None
    until: str | None = None
    search: str = ""

    def conditions(self) -> list[sa.ColumnElement[bool]]:
        """Return the conditions of a query that joins consumers."""
        row = RejectedCallRow
        equal: tuple[tuple[AnyColumn, object], ...] = (
            (row.environment_id, self.environment_id),
            (row.problem, self.problem),
            (row.consumer_id, self.consumer_id),
            (row.key_id, self.key_id),
            (row.address, self.address),
            (row.request_id, self.request_id),
        )
        conditions = [column == value for column, value in equal if value is not None]
        if self.request_id is not None:
            conditions.append(row.request_id.is_not(None))  # as the partial index has it
        if self.pipelines:
            conditions.append(row.pipeline.in_(self.pipelines))
        if self.since is not None:
            conditions.append(row.id >= self.since)
        if self.until is not None:
            conditions.append(row.id < self.until)
        if self.search:
            texts = (row.pipeline, row.path, row.problem, row.reason, row.address)
            conditions.append(containing(self.search, *texts, ConsumerRow.name))
        return conditions


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


def count_left_out(engine: Engine, left_out: Mapping[str, int]) -> None:
    """Store how many calls were not kept after a call, by its id."""
    table = RejectedCallRow.table
    change = (
        sa.update(table)
        .where(table.c.id == sa.bindparam("last"))
        .values(left_out=sa.bindparam("number"))
    )
    with writing(engine) as connection:
        connection.execute(
            change, [{"last": last, "number": number} for last, number in left_out.items()]
        )


def get(connection: sa.Connection, identifier: str) -> RejectedCallRow | None:
    """Return the rejected call with an id, or None."""
    query = RejectedCallRow.select().where(RejectedCallRow.id == identifier)
    return RejectedCallRow.fetch_first(connection, query)


def named(connection: sa.Connection, identifier: str) -> NamedRejectedCallRow | None:
    """Return the rejected call with an id, with the names of what it concerns, or None."""
    query = NamedRejectedCallRow.select().select_from(_SOURCE)
    return NamedRejectedCallRow.fetch_first(
        connection, query.where(RejectedCallRow.id == identifier)
    )


def page(
    connection: sa.Connection,
    chosen: RejectedFilter,
    *,
    before: str | None = None,
    limit: int = 50,
) -> list[NamedRejectedCallRow]:
    """Return rejected calls, newest first; the next page is before the last id of a page."""
    query = (
        NamedRejectedCallRow.select()
        .select_from(_SOURCE)
        .where(*chosen.conditions())
        .order_by(RejectedCallRow.id.desc())
        .limit(limit)
    )
    if before is not None:
        query = query.where(RejectedCallRow.id < before)
    return NamedRejectedCallRow.fetch(connection, query)


def most_frequent(
    connection: sa.Connection, chosen: RejectedFilter, *, limit: int
) -> list[list[tuple[str, int]]]:
    """Return the most frequent reasons, consumers and addresses among the newest calls that match.

    That is among the newest 10,000: a page that counts a hundred thousand rows is a slow one.
    """
    row = RejectedCallRow
    source = _SOURCE if chosen.search else row.table
    newest = (
        sa.select(row.problem, row.consumer_id, row.address)
        .select_from(source)
        .where(*chosen.conditions())
        .order_by(row.id.desc())
        .limit(MAX_COUNTED)
        .subquery()
    )
    groups = connection.execute(sa.select(*newest.c, sa.func.count()).group_by(*newest.c)).all()
    reasons, consumers, addresses = (most_common(groups, place, limit) for place in range(3))
    names = names_of(connection, {int(number) for number, _ in consumers})
    consumers = [(names.get(int(number), number), calls) for number, calls in consumers]
    return [reasons, consumers, addresses]


def count_of_consumers(
    connection: sa.Connection, environment_id: int, since: str, *, limit: int
) -> int:
    """Return how many stored calls since an id are of known consumers, at most `limit`."""
    known = (
        sa.select(RejectedCallRow.id)
        .where(
            RejectedCallRow.environment_id == environment_id,
            RejectedCallRow.consumer_id.is_not(None),
            RejectedCallRow.id >= since,
        )
        .limit(limit)
        .subquery()
    )
    return connection.scalar(sa.select(sa.func.count()).select_from(known)) or 0


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
