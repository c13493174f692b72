"""Counts of calls: by minute for two hours, then by hour."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite

from penstock.db.engine import Engine, writing
from penstock.db.run_tables import CallCountRow

MINUTE, HOUR = 60, 3600
MINUTES_KEPT_S = 2 * HOUR
KEY = (
    CallCountRow.environment_id,
    CallCountRow.span,
    CallCountRow.since,
    CallCountRow.pipeline,
    CallCountRow.outcome,
    CallCountRow.process,
)
COUNTED = (CallCountRow.calls, CallCountRow.micros, CallCountRow.buckets)


@dataclass(frozen=True, slots=True)
class CallCount:
    """Calls to a pipeline with one outcome, that a process answered within a span of seconds.

    `since` in seconds since the epoch; `micros` is their whole duration in microseconds, and
    `buckets` their histogram.
    """

    environment_id: int
    span: int
    since: int
    pipeline: str
    outcome: str
    process: str
    calls: int
    micros: int
    buckets: Sequence[int]

    def plus(self, row: CallCountRow) -> CallCount:
        """Return these calls and those of a row."""
        return replace(
            self,
            calls=self.calls + row.calls,
            micros=self.micros + row.micros,
            buckets=add_buckets(self.buckets, row.buckets),
        )


def write(engine: Engine, counts: Sequence[CallCount]) -> None:
    """Write what a process has counted so far of a minute.

    It replaces what that process wrote before. Raises DatabaseUnavailable.
    """
    with writing(engine) as connection:
        _put(connection, counts)


def _put(connection: sa.Connection, counts: Sequence[CallCount]) -> None:
    dialect = postgresql if connection.dialect.name == "postgresql" else sqlite
    insert = dialect.insert(CallCountRow.table)
    query = insert.on_conflict_do_update(
        index_elements=KEY, set_={item.name: insert.excluded[item.name] for item in COUNTED}
    )
    connection.execute(
        query, [{name: getattr(count, name) for name in CallCountRow.names} for count in counts]
    )


def roll_up(engine: Engine, environment_id: int, now: float) -> set[int]:
    """Add the counts of old minutes to those of their hours; return the hours that changed.

    Several processes may do so at once: rows that one deletes, no other returns.
    """
    until = int(now - MINUTES_KEPT_S) // HOUR * HOUR
    with writing(engine) as connection:
        minutes = (
            sa.delete(CallCountRow.table)
            .where(
                CallCountRow.environment_id == environment_id,
                CallCountRow.span == MINUTE,
                CallCountRow.since < until,
            )
            .returning(*CallCountRow.columns)
        )
        hours: dict[tuple[int, str, str], CallCount] = {}
        for values in connection.execute(minutes):
            row = CallCountRow.of(values)
            key = (row.since // HOUR * HOUR, row.pipeline, row.outcome)
            hour = hours.get(key) or CallCount(environment_id, HOUR, *key, "", 0, 0, ())
            hours[key] = hour.plus(row)
        for hour in hours.values():
            stored = _hour(connection, hour)
            _put(connection, [hour if stored is None else hour.plus(stored)])
    return {hour.since for hour in hours.values()}


def _hour(connection: sa.Connection, hour: CallCount) -> CallCountRow | None:
    """Return the row of an hour, locked, or None."""
    query = CallCountRow.select().where(*(item == getattr(hour, item.name) for item in KEY))
    return CallCountRow.fetch_first(connection, query.with_for_update())


def add_buckets(first: Sequence[int], second: Sequence[int]) -> list[int]:
    """Return the sums of two histograms' buckets."""
    longer, shorter = (first, second) if len(first) >= len(second) else (second, first)
    return [
        value + (shorter[index] if index < len(shorter) else 0)
        for index, value in enumerate(longer)
    ]


def read(
    connection: sa.Connection, environment_id: int, *, since: int, span: int | None = None
) -> list[CallCountRow]:
    """Return the counts from a moment on, oldest first."""
    query = (
        CallCountRow.select()
        .where(CallCountRow.environment_id == environment_id, CallCountRow.since >= since)
        .order_by(CallCountRow.since)
    )
    if span is not None:
        query = query.where(CallCountRow.span == span)
    return CallCountRow.fetch(connection, query)


def purge(engine: Engine, environment_id: int, before: int) -> None:
    """Delete the counts before a moment."""
    with writing(engine) as connection:
        connection.execute(
            sa.delete(CallCountRow.table).where(
                CallCountRow.environment_id == environment_id, CallCountRow.since < before
            )
        )
