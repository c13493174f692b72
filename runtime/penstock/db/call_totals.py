"""Counts of calls added up: of all pipelines by minute, hour and day, and of each pipeline by day.

A chart of three months over 200 pipelines would read half a million counts, and one of the last
hour ten thousand for each process. Totals of hours and days are computed from the counts of hours
that are over; where counts arrive late, those of their day are computed again. So they can be
computed at any time, by any process, and in the same way each time.

Totals of minutes go from the last hour with a total to a few minutes ago. A process that could not
write its minutes in time is missing in them, until its hour has a total.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite

from penstock.db.call_counts import HOUR, MINUTE, add_buckets
from penstock.db.engine import Engine, reading, writing
from penstock.db.run_tables import CallCountRow, CallTotalRow

ROW = CallTotalRow
DAY = 86_400
ALL = ""  # in place of a pipeline: all of them together
MINUTES_SETTLED_S = 300  # after which no process usually adds to a minute
MINUTES_USED_S = 4 * HOUR  # before the last one; where totals of hours are older, counts are read
MAX_DAYS = 10  # that one call of `add_up` computes: the first finds those of months
KEY = (ROW.environment_id, ROW.span, ROW.since, ROW.pipeline, ROW.outcome)


@dataclass(slots=True)
class _Total:
    calls: int = 0
    micros: int = 0
    buckets: list[int] = field(default_factory=list)

    def add(self, row: CallCountRow) -> None:
        self.calls += row.calls
        self.micros += row.micros
        self.buckets = add_buckets(self.buckets, row.buckets)


def totalled_until(connection: sa.Connection, environment_id: int, span: int) -> int:
    """Return the moment before which totals of a span exist, 0 where there are none.

    In seconds since the epoch. Before the first total there are no counts either.
    """
    query = (
        sa.select(ROW.since)
        .where(ROW.environment_id == environment_id, ROW.span == span)
        .order_by(ROW.since.desc())
        .limit(1)
    )
    last = connection.scalar(query)
    return 0 if last is None else last + span


def add_up(engine: Engine, environment_id: int, until: float, changed: Iterable[int] = ()) -> None:
    """Compute the totals of the hours before a moment that have none, and of days that changed.

    `until` and the moments within changed days are in seconds since the epoch. Raises
    DatabaseUnavailable.
    """
    until = int(until) // HOUR * HOUR
    days = {moment // DAY * DAY for moment in changed}
    with reading(engine) as connection:
        begin = totalled_until(connection, environment_id, HOUR)
        begin = begin or _first_hour(connection, environment_id, until)
    days.update(range(begin // DAY * DAY, until, DAY) if begin < until else ())
    for day in sorted(days)[:MAX_DAYS]:
        with writing(engine) as connection:
            _put(connection, environment_id, _totals(connection, environment_id, day, until))


def add_up_minutes(engine: Engine, environment_id: int, now: float) -> None:
    """Compute the totals of the settled minutes that have none, after the hours with totals.

    Delete those that no page reads any more. Raises DatabaseUnavailable.
    """
    until = int(now - MINUTES_SETTLED_S) // MINUTE * MINUTE
    with reading(engine) as connection:
        hours = totalled_until(connection, environment_id, HOUR)
        begin = max(totalled_until(connection, environment_id, MINUTE), hours)
    if begin >= until or begin < until - MINUTES_USED_S:
        return
    with writing(engine) as connection:
        query = _counts(environment_id, MINUTE, begin, until)
        totals = {(MINUTE, until - MINUTE, ALL, "succeeded"): _Total()}
        for row in CallCountRow.fetch(connection, query):
            totals.setdefault((MINUTE, row.since, ALL, row.outcome), _Total()).add(row)
        _put(connection, environment_id, totals)
        connection.execute(
            sa.delete(ROW.table).where(
                ROW.environment_id == environment_id,
                ROW.span == MINUTE,
                ROW.since < until - 2 * MINUTES_USED_S,
            )
        )


def _counts(environment_id: int, span: int, begin: int, end: int) -> sa.Select[Any]:
    return CallCountRow.select().where(
        CallCountRow.environment_id == environment_id,
        CallCountRow.span == span,
        CallCountRow.since >= begin,
        CallCountRow.since < end,
    )


def _first_hour(connection: sa.Connection, environment_id: int, until: int) -> int:
    query = (
        sa.select(CallCountRow.since)
        .where(CallCountRow.environment_id == environment_id, CallCountRow.span == HOUR)
        .order_by(CallCountRow.since)
        .limit(1)
    )
    first = connection.scalar(query)
    return until if first is None else first


def _totals(
    connection: sa.Connection, environment_id: int, day: int, until: int
) -> dict[tuple[int, int, str, str], _Total]:
    """Return the totals of the hours of a day and, once it is over, of the day."""
    end = min(day + DAY, until)
    query = _counts(environment_id, HOUR, day, end)
    totals: dict[tuple[int, int, str, str], _Total] = {
        # An hour without calls has a total too: the last one says how far they go.
        (HOUR, end - HOUR, ALL, "succeeded"): _Total()
    }
    if end == day + DAY:
        totals[DAY, day, ALL, "succeeded"] = _Total()
    for row in CallCountRow.fetch(connection, query):
        keys = [(HOUR, row.since, ALL, row.outcome)]
        if end == day + DAY:
            keys += [(DAY, day, ALL, row.outcome), (DAY, day, row.pipeline, row.outcome)]
        for key in keys:
            totals.setdefault(key, _Total()).add(row)
    return totals


def _put(
    connection: sa.Connection,
    environment_id: int,
    totals: dict[tuple[int, int, str, str], _Total],
) -> None:
    dialect = postgresql if connection.dialect.name == "postgresql" else sqlite
    insert = dialect.insert(ROW.table)
    query = insert.on_conflict_do_update(
        index_elements=KEY,
        set_={
            item.name: insert.excluded[item.name] for item in (ROW.calls, ROW.micros, ROW.buckets)
        },
    )
    # In one order in all processes, so that no two of them wait for each other.
    rows = [
        {
            "environment_id": environment_id,
            "span": span,
            "since": since,
            "pipeline": pipeline,
            "outcome": outcome,
            "calls": total.calls,
            "micros": total.micros,
            "buckets": total.buckets,
        }
        for (span, since, pipeline, outcome), total in sorted(totals.items())
    ]
    connection.execute(query, rows)


def purge(engine: Engine, environment_id: int, before: int) -> None:
    """Delete the totals before a moment."""
    with writing(engine) as connection:
        connection.execute(
            sa.delete(ROW.table).where(
                ROW.environment_id == environment_id,
                ROW.span.in_((HOUR, DAY)),
                ROW.since < before // DAY * DAY,
            )
        )
