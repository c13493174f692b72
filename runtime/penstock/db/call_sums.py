"""Stored counts of calls and of durable runs, added up in the database for charts.

Where there are totals (see `call_totals`), they are read in place of the counts: whole days of a
long time, and hours of all pipelines together.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Literal, NamedTuple

import sqlalchemy as sa

from penstock.contracts.outcomes import FAULTS, REJECTIONS, RUN
from penstock.db.call_counts import HOUR, MINUTE
from penstock.db.call_totals import ALL, DAY, MINUTES_USED_S, totalled_until
from penstock.db.rows import AnyColumn
from penstock.db.run_tables import CallCountRow, CallTotalRow

Kind = Literal["calls", "runs", "rejections"]
Counts = type[CallCountRow] | type[CallTotalRow]


@dataclass(frozen=True, slots=True)
class Intervals:
    """Intervals of `step` seconds in an environment, from a moment on and before another.

    Moments are in seconds since the epoch; `start` is a multiple of `step`. `pipeline` is the id of
    one pipeline, empty for all.
    """

    environment_id: int
    start: int
    end: int
    step: int
    pipeline: str = ""

    @property
    def times(self) -> list[int]:
        """The start of each interval."""
        return list(range(self.start, self.end, self.step))

    @property
    def of_days(self) -> bool:
        """Whether a day lies within one interval."""
        return self.step % DAY == 0 or self.step >= self.end


@dataclass(frozen=True, slots=True)
class _Part:
    """A part of the time, and the table that has its counts in the fewest rows."""

    table: Counts
    spans: tuple[int, ...]
    start: int
    end: int


def _parts(connection: sa.Connection, chosen: Intervals, *, apart: bool) -> Iterator[_Part]:
    """Yield the parts of the time, with a part for each table; `apart` is by pipeline."""
    number, end = chosen.environment_id, chosen.end
    first = -(-chosen.start // DAY) * DAY
    last = min(end // DAY * DAY, totalled_until(connection, number, DAY)) if chosen.of_days else 0
    known = (0, 0) if apart else _known(connection, number)
    if first >= last:
        yield from _fine_parts(chosen.start, end, *known)
        return
    yield from _fine_parts(chosen.start, first, *known)
    yield _Part(CallTotalRow, (DAY,), first, last)
    yield from _fine_parts(last, end, *known)


def _known(connection: sa.Connection, environment_id: int) -> tuple[int, int]:
    """Return the moments before which there are totals of hours, and of minutes after these."""
    hours, minutes = (totalled_until(connection, environment_id, span) for span in (HOUR, MINUTE))
    return hours, minutes if hours >= minutes - MINUTES_USED_S else 0


def _fine_parts(start: int, end: int, hours: int, minutes: int) -> Iterator[_Part]:
    """Yield the parts of a time without whole days.

    Before `hours` there are totals of hours, from there to `minutes` those of minutes.
    """
    middle = min(end // HOUR * HOUR, hours) if start % HOUR == 0 else start
    if start < middle:
        yield _Part(CallTotalRow, (HOUR,), start, middle)
        start = middle
    if hours <= start < (settled := min(end // MINUTE * MINUTE, minutes)):
        yield _Part(CallTotalRow, (MINUTE,), start, settled)
        start = settled
    if start < end:
        yield _Part(CallCountRow, (MINUTE, HOUR), start, end)


def _rows(
    connection: sa.Connection,
    chosen: Intervals,
    kind: Kind,
    *,
    apart: bool,
    pipelines: Sequence[str] | None = None,
) -> sa.Subquery:
    """Return the counts of a time, with the start of their intervals as `moment`.

    `apart` is by pipeline, `pipelines` are the ids of some of them.
    """
    if chosen.pipeline:
        apart, pipelines = True, [chosen.pipeline]
    return sa.union_all(
        *(
            sa.select(
                (part.table.since - part.table.since % chosen.step).label("moment"),
                part.table.pipeline,
                part.table.outcome,
                part.table.calls,
                part.table.micros,
                sa.cast(part.table.buckets, sa.Text).label("buckets"),
            ).where(*_conditions(part, chosen, kind, apart=apart, pipelines=pipelines))
            for part in _parts(connection, chosen, apart=apart)
        )
    ).subquery()


def _conditions(
    part: _Part,
    chosen: Intervals,
    kind: Kind,
    *,
    apart: bool,
    pipelines: Sequence[str] | None,
) -> Iterator[sa.ColumnElement[bool]]:
    """Yield the conditions of a part; the primary key of its table serves them."""
    table = part.table
    yield table.environment_id == chosen.environment_id
    yield table.span.in_(part.spans)
    yield table.since >= part.start
    yield table.since < part.end
    yield _of_kind(table.outcome, kind)
    if table is CallTotalRow:
        yield table.pipeline != ALL if apart else table.pipeline == ALL
    if pipelines is not None:
        yield table.pipeline.in_(pipelines)


def _of_kind(outcome: AnyColumn, kind: Kind) -> sa.ColumnElement[bool]:
    text = sa.cast(outcome, sa.String)
    if kind == "rejections":
        return text.in_(sorted(REJECTIONS))
    return text.like(f"{RUN}%") if kind == "runs" else text.not_like(f"{RUN}%")


def sums(
    connection: sa.Connection,
    chosen: Intervals,
    kind: Kind,
    by: Literal["outcome", "pipeline"],
) -> list[tuple[int, str, int]]:
    """Return the calls or runs of each interval by outcome or pipeline: its start, name, number."""
    rows = _rows(connection, chosen, kind, apart=by == "pipeline").c
    name = rows.outcome if by == "outcome" else rows.pipeline
    query = sa.select(rows.moment, name, sa.func.sum(rows.calls)).group_by(rows.moment, name)
    return [(row[0], row[1], int(row[2])) for row in connection.execute(query)]


def totals(connection: sa.Connection, chosen: Intervals) -> list[tuple[str, str, int]]:
    """Return the calls to each pipeline by outcome: pipeline, outcome, number."""
    whole = replace(chosen, step=chosen.end)
    rows = _rows(connection, whole, "calls", apart=True).c
    query = sa.select(rows.pipeline, rows.outcome, sa.func.sum(rows.calls)).group_by(
        rows.pipeline, rows.outcome
    )
    return [(row[0], row[1], int(row[2])) for row in connection.execute(query)]


class PipelineInterval(NamedTuple):
    """The calls to a pipeline within an interval, and how many of them failed or were rejected."""

    moment: int
    pipeline: str
    calls: int
    failed: int
    rejected: int


def by_pipeline(
    connection: sa.Connection, chosen: Intervals, pipelines: Sequence[str] | None = None
) -> list[PipelineInterval]:
    """Return the calls of each interval to each pipeline, or to some of them by their ids."""
    rows = _rows(connection, chosen, "calls", apart=True, pipelines=pipelines).c
    outcome = sa.cast(rows.outcome, sa.String)
    query = sa.select(
        rows.moment,
        rows.pipeline,
        sa.func.sum(rows.calls),
        *(
            sa.func.sum(sa.case((outcome.in_(sorted(outcomes)), rows.calls), else_=0))
            for outcomes in (FAULTS, REJECTIONS - FAULTS)
        ),
    ).group_by(rows.moment, rows.pipeline)
    return [
        PipelineInterval(row[0], row[1], *(int(number) for number in row[2:]))
        for row in connection.execute(query)
    ]


def histograms(
    connection: sa.Connection, chosen: Intervals, pipelines: Sequence[str] | None = None
) -> list[tuple[int, str, str]]:
    """Return the latencies of calls by interval: its start, pipeline, and histograms.

    The histograms are JSON arrays with commas between them: a row for each stored count would take
    most of the time of a page. Without `pipelines` all are added up, under an empty name.
    """
    apart = pipelines is not None
    rows = _rows(connection, chosen, "calls", apart=apart, pipelines=pipelines).c
    text = sa.func.aggregate_strings(rows.buckets, ",")
    groups = [rows.moment, rows.pipeline] if apart else [rows.moment]
    name = rows.pipeline if apart else sa.literal("")
    query = sa.select(rows.moment, name, text).where(rows.micros > 0).group_by(*groups)
    return [(row[0], row[1], row[2]) for row in connection.execute(query)]
