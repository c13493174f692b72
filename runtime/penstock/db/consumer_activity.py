"""Consumers with their calls: a page of them in some order, and the calls of a page over time."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import NamedTuple

import sqlalchemy as sa

from penstock.db.consumer_counts import UsageFilter, counts_of
from penstock.db.paging import containing
from penstock.db.run_tables import ConsumerCountRow
from penstock.db.tables import ApiKeyRow, ConsumerRow

COUNT = ConsumerCountRow
PARTS = 10_000  # of a share, so that it is a whole number on both databases


@dataclass(frozen=True, slots=True)
class ConsumerFilter:
    """Which consumers are listed: a text in their names, and whether they are enabled."""

    find: str = ""
    enabled: bool | None = None

    def conditions(self) -> list[sa.ColumnElement[bool]]:
        """Return the conditions of a query."""
        conditions: list[sa.ColumnElement[bool]] = []
        if self.find:
            conditions.append(containing(self.find, ConsumerRow.name))
        if self.enabled is not None:
            conditions.append(ConsumerRow.enabled == self.enabled)
        return conditions


def count_by_state(connection: sa.Connection, chosen: ConsumerFilter) -> dict[bool, int]:
    """Return the numbers of enabled and disabled consumers of a filter."""
    query = (
        sa.select(ConsumerRow.enabled, sa.func.count())
        .where(*chosen.conditions())
        .group_by(ConsumerRow.enabled)
    )
    return {bool(row[0]): row[1] for row in connection.execute(query)}


class Place(NamedTuple):
    """Where a page begins: after the consumer of a name, and of a value of the order."""

    value: int
    name: str


def page_by_name(
    connection: sa.Connection,
    chosen: ConsumerFilter,
    *,
    descending: bool,
    after: Place | None,
    limit: int,
) -> list[ConsumerRow]:
    """Return consumers by name."""
    order = ConsumerRow.name.desc() if descending else ConsumerRow.name
    query = ConsumerRow.select().where(*chosen.conditions()).order_by(order).limit(limit)
    if after is not None:
        name = ConsumerRow.name
        query = query.where(name < after.name if descending else name > after.name)
    return ConsumerRow.fetch(connection, query)


def page_by_calls(
    connection: sa.Connection,
    chosen: ConsumerFilter,
    calls: UsageFilter,
    by: str,
    *,
    descending: bool,
    after: Place | None,
    limit: int,
) -> list[tuple[ConsumerRow, int]]:
    """Return consumers by calls, by the share of rejected ones or by the last one.

    `by` is calls, rejected or last. Each has the value that it is ordered by.
    """
    rows = counts_of(connection, calls).c
    whole = sa.cast(sa.func.sum(rows.calls), sa.BigInteger)
    rejected = sa.func.sum(sa.case((rows.outcome_class == "rejected", rows.calls), else_=0))
    values = {
        "calls": whole,
        "rejected": sa.cast(rejected, sa.BigInteger) * PARTS // whole,
        "last": sa.func.max(rows.last),
    }
    sums = (
        sa.select(rows.consumer_id, values[by].label("value"))
        .group_by(rows.consumer_id)
        .having(whole > 0)
        .subquery()
    )
    value = sa.func.coalesce(sums.c.value, 0)
    query = (
        ConsumerRow.select()
        .add_columns(value)
        .select_from(ConsumerRow.table.outerjoin(sums, sums.c.consumer_id == ConsumerRow.id))
        .where(*chosen.conditions())
        .order_by(value.desc() if descending else value, ConsumerRow.name)
        .limit(limit)
    )
    if after is not None:
        beyond = value < after.value if descending else value > after.value
        query = query.where(beyond | ((value == after.value) & (ConsumerRow.name > after.name)))
    return [(ConsumerRow.of(row[:-1]), int(row[-1])) for row in connection.execute(query)]


class Interval(NamedTuple):
    """The calls of a consumer in an interval; `last` is the start of the hour of the last one."""

    calls: int
    rejected: int
    last: int


def over_time(
    connection: sa.Connection,
    consumers: Sequence[int],
    environments: Collection[int],
    since: int,
    step: int,
) -> dict[int, dict[int, Interval]]:
    """Return the calls of consumers by their id and the number of an interval of `step` seconds."""
    interval = ((COUNT.since - since) // step).label("interval")
    rejected = sa.case((COUNT.outcome_class == "rejected", COUNT.calls), else_=0)
    query = (
        sa.select(
            COUNT.consumer_id,
            interval,
            sa.func.sum(COUNT.calls),
            sa.func.sum(rejected),
            sa.func.max(COUNT.since),
        )
        .where(
            COUNT.environment_id.in_(environments),
            COUNT.consumer_id.in_(consumers),
            COUNT.since >= since,
        )
        .group_by(COUNT.consumer_id, interval)
    )
    found: dict[int, dict[int, Interval]] = {}
    for row in connection.execute(query):
        numbers = Interval(int(row[2]), int(row[3]), int(row[4]))
        found.setdefault(row[0], {})[int(row[1])] = numbers
    return found


class KeyFacts(NamedTuple):
    """The usable keys of a consumer: how many, how many expire soon, and the last use of any."""

    usable: int
    expiring: int
    last_used: datetime | None


def key_facts(
    connection: sa.Connection,
    consumers: Sequence[int],
    environments: Collection[int],
    now: datetime,
    soon: datetime,
) -> dict[int, KeyFacts]:
    """Return facts about the keys of consumers by their id; `soon` is the moment of expiry."""
    row = ApiKeyRow
    usable = row.enabled & row.revoked_at.is_(None)
    usable &= row.expires_at.is_(None) | (row.expires_at > now)

    def number(condition: sa.ColumnElement[bool]) -> sa.ColumnElement[int]:
        return sa.func.sum(sa.case((condition, 1), else_=0))

    query = (
        sa.select(
            row.consumer_id,
            number(usable),
            number(usable & (row.expires_at <= soon)),
            sa.func.max(row.last_used_at),
        )
        .where(row.consumer_id.in_(consumers), row.environment_id.in_(environments))
        .group_by(row.consumer_id)
    )
    return {
        found[0]: KeyFacts(int(found[1]), int(found[2]), found[3])
        for found in connection.execute(query)
    }
