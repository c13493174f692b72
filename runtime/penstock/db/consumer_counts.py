"""Calls by consumer, key, pipeline and class of outcome, by hour."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite

from penstock.db.engine import Engine, writing
from penstock.db.paging import containing
from penstock.db.rows import AnyColumn
from penstock.db.run_tables import ConsumerCountRow
from penstock.db.tables import ApiKeyRow, ConsumerRow, EnvironmentRow

HOUR = 3600
NOT_KNOWN = 0  # in place of the id of a consumer
ROW = ConsumerCountRow
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

    def conditions(self) -> list[sa.ColumnElement[bool]]:
        """Return the conditions of a query that joins consumers."""
        conditions: list[sa.ColumnElement[bool]] = []
        if self.environment_id is not None:
            conditions.append(ROW.environment_id == self.environment_id)
        if self.environments is not None:
            conditions.append(ROW.environment_id.in_(self.environments))
        if self.consumer_id is not None:
            conditions.append(ROW.consumer_id == self.consumer_id)
        if self.key_id is not None:
            conditions.append(ROW.key_id == self.key_id)
        if self.pipelines:
            conditions.append(ROW.pipeline.in_(self.pipelines))
        if self.since is not None:
            conditions.append(ROW.since >= self.since // HOUR * HOUR)
        if self.until is not None:
            conditions.append(ROW.since < self.until)
        if self.search:
            texts = (ROW.pipeline, ConsumerRow.name, ApiKeyRow.last_four)
            conditions.append(containing(self.search, *texts))
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


GROUPS: Mapping[str, tuple[AnyColumn, ...]] = {
    "consumer": (EnvironmentRow.name, ConsumerRow.name),
    "key": (EnvironmentRow.name, ConsumerRow.name, ROW.key_id, ApiKeyRow.last_four),
    "pipeline": (EnvironmentRow.name, ROW.pipeline),
}


def usage(connection: sa.Connection, chosen: UsageFilter, by: str, limit: int) -> list[UsageRow]:
    """Return the groups with the most calls; `by` is consumer, key or pipeline."""
    grouped = GROUPS[by]
    calls = sa.func.sum(ROW.calls)

    def part(name: str) -> sa.ColumnElement[int]:
        return sa.func.sum(sa.case((ROW.outcome_class == name, ROW.calls), else_=0))

    fields: dict[AnyColumn, str] = {
        EnvironmentRow.name: "environment",
        ConsumerRow.name: "consumer",
        ROW.key_id: "key_id",
        ApiKeyRow.last_four: "key_end",
        ROW.pipeline: "pipeline",
    }
    names = [fields[column] for column in grouped]
    query = (
        sa.select(
            *grouped,
            calls,
            *(part(name) for name in ("succeeded", "client_error", "rejected", "failed")),
            sa.func.max(ROW.since),
        )
        .select_from(
            ROW.table.join(EnvironmentRow.table, EnvironmentRow.id == ROW.environment_id)
            .outerjoin(ConsumerRow.table, ConsumerRow.id == ROW.consumer_id)
            .outerjoin(ApiKeyRow.table, ApiKeyRow.id == ROW.key_id)
        )
        .where(*chosen.conditions())
        .group_by(*grouped)
        .order_by(calls.desc(), *grouped)
        .limit(limit)
    )
    empty = dict.fromkeys(("environment", "consumer", "key_id", "key_end", "pipeline"))
    rows = []
    for values in connection.execute(query):
        group = empty | dict(zip(names, values, strict=False))
        numbers = [int(value or 0) for value in values[len(names) :]]
        rows.append(UsageRow(*group.values(), *numbers))  # type: ignore[arg-type]  # in this order
    return rows


def by_hour(connection: sa.Connection, chosen: UsageFilter) -> list[tuple[int, str, int]]:
    """Return calls by hour (seconds since the epoch) and class."""
    query = (
        sa.select(ROW.since, ROW.outcome_class, sa.func.sum(ROW.calls))
        .select_from(ROW.table.outerjoin(ConsumerRow.table, ConsumerRow.id == ROW.consumer_id))
        .where(*chosen.conditions())
        .group_by(ROW.since, ROW.outcome_class)
    )
    return [(row[0], row[1], int(row[2])) for row in connection.execute(query)]


def by_consumer(
    connection: sa.Connection, chosen: UsageFilter, outcome_class: str | None, limit: int
) -> list[tuple[int, str | None, int]]:
    """Return calls by hour and consumer for the consumers with the most.

    Those of all others have None for a consumer. `outcome_class` None is any.
    """
    conditions = chosen.conditions()
    if outcome_class is not None:
        conditions.append(ROW.outcome_class == outcome_class)
    calls = sa.func.sum(ROW.calls)
    source = ROW.table.outerjoin(ConsumerRow.table, ConsumerRow.id == ROW.consumer_id)
    most = (
        sa.select(ROW.consumer_id)
        .select_from(source)
        .where(*conditions)
        .group_by(ROW.consumer_id)
        .order_by(calls.desc(), ROW.consumer_id)
        .limit(limit)
    )
    shown = [row[0] for row in connection.execute(most)]
    name = sa.case(
        (ROW.consumer_id.in_(shown), sa.func.coalesce(ConsumerRow.name, "(not known)")),
        else_=sa.null(),
    ).label("shown_name")
    query = (
        sa.select(ROW.since, name, calls)
        .select_from(source)
        .where(*conditions)
        .group_by(ROW.since, name)
    )
    return [(row[0], row[1], int(row[2])) for row in connection.execute(query)]


def purge(engine: Engine, environment_id: int, before: int) -> None:
    """Delete the counts before a moment."""
    with writing(engine) as connection:
        connection.execute(
            sa.delete(ROW.table).where(ROW.environment_id == environment_id, ROW.since < before)
        )
