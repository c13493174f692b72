"""Calls by consumer, key, pipeline and class of outcome, by hour.

Days that are over have totals (see `consumer_totals`), which are read in place of their hours.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite

from penstock.contracts.outcomes import CLASSES
from penstock.db.engine import Engine, writing
from penstock.db.paging import containing
from penstock.db.run_tables import ConsumerCountRow, ConsumerTotalRow
from penstock.db.tables import ApiKeyRow, ConsumerRow, EnvironmentRow

HOUR, DAY = 3600, 86_400
NOT_KNOWN, OTHERS = 0, -1  # in place of the id of a consumer
ROW = ConsumerCountRow
Counts = type[ConsumerCountRow] | type[ConsumerTotalRow]
KEY = (
    ROW.environment_id,
    ROW.since,
    ROW.consumer_id,
    ROW.key_id,
    ROW.pipeline,
    ROW.outcome_class,
)


class CountKey(NamedTuple):
    """What calls are counted by: `since` is the start of an hour, in seconds since the epoch.

    `consumer_id` is NOT_KNOWN and `key_id` empty where the caller is not known.
    """

    since: int
    consumer_id: int
    key_id: str
    pipeline: str
    outcome_class: str


def add(engine: Engine, environment_id: int, counted: Mapping[CountKey, int]) -> None:
    """Add calls to those that are stored. Raises DatabaseUnavailable."""
    with writing(engine) as connection:
        dialect = postgresql if connection.dialect.name == "postgresql" else sqlite
        insert = dialect.insert(ROW.table)
        query = insert.on_conflict_do_update(
            index_elements=KEY, set_={"calls": ROW.calls + insert.excluded.calls}
        )
        # In one order in all processes, so that no two of them wait for each other.
        rows = [
            {"environment_id": environment_id, "calls": calls, **_columns(key)}
            for key, calls in sorted(counted.items())
        ]
        connection.execute(query, rows)


def _columns(key: CountKey) -> dict[str, object]:
    since, consumer_id, key_id, pipeline, outcome_class = key
    return {
        "since": since,
        "consumer_id": consumer_id,
        "key_id": key_id,
        "pipeline": pipeline,
        "outcome_class": outcome_class,
    }


@dataclass(frozen=True, slots=True)
class UsageFilter:
    """Which calls are added up; None or empty leaves none out. Moments are in seconds."""

    environment_id: int | None = None
    consumer_id: int | None = None
    key_id: str | None = None
    pipelines: Sequence[str] = ()
    since: int | None = None
    until: int | None = None
    search: str = ""
    environments: Collection[int] | None = None

    def environment_ids(self, connection: sa.Connection) -> list[int]:
        """Return the ids of the environments whose calls are added up."""
        if self.environment_id is not None:
            return [self.environment_id]
        if self.environments is not None:
            return list(self.environments)
        return list(connection.scalars(sa.select(EnvironmentRow.id)))

    def conditions(self, row: Counts = ROW) -> list[sa.ColumnElement[bool]]:
        """Return the conditions of a query of counts, or of totals."""
        conditions: list[sa.ColumnElement[bool]] = []
        if self.environment_id is not None:
            conditions.append(row.environment_id == self.environment_id)
        if self.environments is not None:
            conditions.append(row.environment_id.in_(self.environments))
        if self.consumer_id is not None:
            conditions.append(row.consumer_id == self.consumer_id)
        if self.key_id is not None:
            conditions.append(row.key_id == self.key_id)
        if self.pipelines:
            conditions.append(row.pipeline.in_(self.pipelines))
        if self.since is not None:
            conditions.append(row.since >= self.since // HOUR * HOUR)
        if self.until is not None:
            conditions.append(row.since < self.until)
        if self.search:
            consumers = sa.select(ConsumerRow.id).where(containing(self.search, ConsumerRow.name))
            keys = sa.select(ApiKeyRow.id).where(containing(self.search, ApiKeyRow.last_four))
            conditions.append(
                containing(self.search, row.pipeline)
                | row.consumer_id.in_(consumers)
                | row.key_id.in_(keys)
            )
        return conditions


class UsageRow(NamedTuple):
    """Calls of one group: fields of what it is not grouped by are None."""

    environment: str | None
    consumer: str | None
    key_id: str | None
    key_end: str | None
    pipeline: str | None
    calls: int
    succeeded: int
    client_errors: int
    rejected: int
    failed: int
    last: int


def totalled_until(connection: sa.Connection, environment_id: int) -> int:
    """Return the moment before which days have totals, 0 where none has.

    In seconds since the epoch. Before the first total there are no counts either.
    """
    row = ConsumerTotalRow
    query = (
        sa.select(row.since)
        .where(row.environment_id == environment_id)
        .order_by(row.since.desc())
        .limit(1)
    )
    last = connection.scalar(query)
    return 0 if last is None else last + DAY


def counts_of(connection: sa.Connection, chosen: UsageFilter, step: int = DAY) -> sa.Subquery:
    """Return the counts that are chosen; of whole days the totals, if `step` is of days.

    `since` is the start of the hour or the day, `last` that of the hour of the last call.
    """
    selects = list[sa.Select[Any]]()
    for number in chosen.environment_ids(connection):
        first = -(-((chosen.since or 0) // HOUR * HOUR) // DAY) * DAY
        last = totalled_until(connection, number) if step % DAY == 0 else 0
        if chosen.until is not None:
            last = min(last, chosen.until // DAY * DAY)
        own = [*chosen.conditions(), ROW.environment_id == number]
        if first >= last:
            selects.append(_columns_of(ROW).where(*own))
            continue
        selects += [
            _columns_of(ROW).where(*own, side) for side in (ROW.since < first, ROW.since >= last)
        ]
        total = ConsumerTotalRow
        selects.append(
            _columns_of(total).where(
                *chosen.conditions(total),
                total.environment_id == number,
                total.since >= first,
                total.since < last,
            )
        )
    return sa.union_all(*selects or [_columns_of(ROW).where(sa.false())]).subquery()


def _columns_of(row: Counts) -> sa.Select[Any]:
    last = row.last if row is ConsumerTotalRow else row.since
    fields = (*(getattr(row, column.name) for column in KEY), row.calls)
    return sa.select(*fields, last.label("last"))


# What calls are grouped by.
GROUPS: Mapping[str, tuple[str, ...]] = {
    "consumer": ("environment_id", "consumer_id"),
    "key": ("environment_id", "consumer_id", "key_id"),
    "pipeline": ("environment_id", "pipeline"),
}


def usage(connection: sa.Connection, chosen: UsageFilter, by: str, limit: int) -> list[UsageRow]:
    """Return the groups with the most calls; `by` is consumer, key or pipeline."""
    counted = counts_of(connection, chosen).c
    grouped, calls = [counted[name] for name in GROUPS[by]], sa.func.sum(counted.calls)

    def part(name: str) -> sa.ColumnElement[int]:
        return sa.func.sum(sa.case((counted.outcome_class == name, counted.calls), else_=0))

    largest = (
        sa.select(
            *grouped,
            calls.label("calls"),
            *(part(name).label(name) for name in CLASSES),
            sa.func.max(counted.last).label("last"),
        )
        .group_by(*grouped)
        .having(calls > 0)
        .order_by(calls.desc(), *grouped)
        .limit(limit)
        .subquery()
    )
    # The names are joined to the few groups that remain.
    consumer, key = largest.c.get("consumer_id"), largest.c.get("key_id")
    source = largest.join(EnvironmentRow.table, EnvironmentRow.id == largest.c.environment_id)
    if consumer is not None:
        source = source.outerjoin(ConsumerRow.table, ConsumerRow.id == consumer)
    if key is not None:
        source = source.outerjoin(ApiKeyRow.table, ApiKeyRow.id == key)
    names = (
        EnvironmentRow.name,
        sa.null() if consumer is None else ConsumerRow.name,
        sa.null() if key is None else key,
        sa.null() if key is None else ApiKeyRow.last_four,
        largest.c.get("pipeline", sa.null()),
    )
    numbers = [largest.c[name] for name in ("calls", *CLASSES, "last")]
    query = sa.select(*names, *numbers).select_from(source)
    query = query.order_by(largest.c.calls.desc(), *(largest.c[name] for name in GROUPS[by]))
    return [
        UsageRow(*row[: len(names)], *(int(value or 0) for value in row[len(names) :]))
        for row in connection.execute(query)
    ]


def by_interval(
    connection: sa.Connection, chosen: UsageFilter, step: int
) -> list[tuple[int, str, int]]:
    """Return calls by class and hour, or by day where `step` is of days.

    The moment is the start in seconds since the epoch.
    """
    counted = counts_of(connection, chosen, step).c
    query = sa.select(counted.since, counted.outcome_class, sa.func.sum(counted.calls)).group_by(
        counted.since, counted.outcome_class
    )
    return [(row[0], row[1], int(row[2])) for row in connection.execute(query)]


def by_consumer(
    connection: sa.Connection,
    chosen: UsageFilter,
    outcome_class: str | None,
    limit: int,
    step: int = HOUR,
) -> list[tuple[int, str | None, int]]:
    """Return calls by consumer and hour, or day, for the consumers with the most.

    Those of all others have None for a consumer. `outcome_class` None is any; `step` as in
    `by_interval`.
    """
    counted = counts_of(connection, chosen, step).c
    of_class = [counted.outcome_class == outcome_class] if outcome_class is not None else []
    calls = sa.func.sum(counted.calls)
    most = (
        sa.select(counted.consumer_id)
        .where(*of_class)
        .group_by(counted.consumer_id)
        .order_by(calls.desc(), counted.consumer_id)
        .limit(limit)
    )
    shown = [row[0] for row in connection.execute(most)]
    number = sa.case((counted.consumer_id.in_(shown), counted.consumer_id), else_=OTHERS).label(
        "shown"
    )
    query = sa.select(counted.since, number, calls).where(*of_class)
    rows: list[Any] = list(connection.execute(query.group_by(counted.since, number)))
    names = {row[0]: row[1] for row in connection.execute(_names_of(shown))}
    return [
        (row[0], None if row[1] == OTHERS else names.get(row[1], "(not known)"), int(row[2]))
        for row in rows
    ]


def _names_of(ids: Sequence[int]) -> sa.Select[int, str]:
    return sa.select(ConsumerRow.id, ConsumerRow.name).where(ConsumerRow.id.in_(ids))


class ConsumerCalls(NamedTuple):
    """The calls of a consumer; `last` is the start of the hour of the last one."""

    calls: int
    failed: int
    rejected: int
    last: int


def of_consumers(
    connection: sa.Connection, chosen: UsageFilter, consumers: Sequence[int]
) -> dict[int, ConsumerCalls]:
    """Return the calls of some consumers by their ids; `chosen` names no text to search for."""
    query = (
        sa.select(
            ROW.consumer_id,
            sa.func.sum(ROW.calls),
            *(
                sa.func.sum(sa.case((ROW.outcome_class == name, ROW.calls), else_=0))
                for name in ("failed", "rejected")
            ),
            sa.func.max(ROW.since),
        )
        .where(*chosen.conditions(), ROW.consumer_id.in_(consumers))
        .group_by(ROW.consumer_id)
    )
    rows = connection.execute(query)
    return {row[0]: ConsumerCalls(*(int(value) for value in row[1:])) for row in rows}


class CallerRow(NamedTuple):
    """A consumer that called a pipeline, with the number of all callers and of all their calls.

    `last` is the start of the hour of its last call, in seconds since the epoch.
    """

    pipeline: str
    consumer: str
    calls: int
    last: int
    number: int
    total: int


def callers(connection: sa.Connection, chosen: UsageFilter, most: int | None) -> list[CallerRow]:
    """Return the known callers of pipelines, those with the most calls first.

    At most `most` for each pipeline, None returns all. Rejected calls do not count.
    """
    counts = counts_of(connection, chosen)
    pairs = (
        sa.select(
            counts.c.pipeline,
            counts.c.consumer_id,
            sa.func.sum(counts.c.calls).label("calls"),
            sa.func.max(counts.c.last).label("last"),
        )
        .where(counts.c.consumer_id != NOT_KNOWN, counts.c.outcome_class != "rejected")
        .group_by(counts.c.pipeline, counts.c.consumer_id)
        .subquery()
    )
    pipeline = pairs.c.pipeline
    place = sa.func.row_number().over(
        partition_by=pipeline, order_by=(pairs.c.calls.desc(), pairs.c.consumer_id)
    )
    ranked = sa.select(
        pairs,
        place.label("place"),
        sa.func.count().over(partition_by=pipeline).label("number"),
        sa.func.sum(pairs.c.calls).over(partition_by=pipeline).label("total"),
    ).subquery()
    names = ("calls", "last", "number", "total")
    query = (
        sa.select(ranked.c.pipeline, ConsumerRow.name, *(ranked.c[name] for name in names))
        .join_from(ranked, ConsumerRow.table, ConsumerRow.id == ranked.c.consumer_id)
        .order_by(ranked.c.pipeline, ranked.c.place)
    )
    if most is not None:
        query = query.where(ranked.c.place <= most)
    return [
        CallerRow(row[0], row[1], *(int(value) for value in row[2:]))
        for row in connection.execute(query)
    ]


def purge(engine: Engine, environment_id: int, before: int) -> None:
    """Delete the counts before a moment."""
    with writing(engine) as connection:
        connection.execute(
            sa.delete(ROW.table).where(ROW.environment_id == environment_id, ROW.since < before)
        )
