"""Stored counts of calls and of durable runs, added up in the database for charts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import sqlalchemy as sa

from penstock.contracts.outcomes import FAULTS, REJECTIONS, RUN
from penstock.db.call_counts import HOUR, MINUTE
from penstock.db.run_tables import CallCountRow

ROW = CallCountRow
OUTCOME = sa.cast(ROW.outcome, sa.String)
KINDS = {
    "calls": OUTCOME.not_like(f"{RUN}%"),
    "runs": OUTCOME.like(f"{RUN}%"),
    "rejections": OUTCOME.in_(sorted(REJECTIONS)),
}
Kind = Literal["calls", "runs", "rejections"]


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

    def conditions(self) -> list[sa.ColumnElement[bool]]:
        """Return the conditions of a query; the primary key serves them."""
        conditions = [
            ROW.environment_id == self.environment_id,
            ROW.span.in_((MINUTE, HOUR)),
            ROW.since >= self.start,
            ROW.since < self.end,
        ]
        return [*conditions, ROW.pipeline == self.pipeline] if self.pipeline else conditions


def sums(
    connection: sa.Connection,
    chosen: Intervals,
    kind: Kind,
    by: Literal["outcome", "pipeline"],
) -> list[tuple[int, str, int]]:
    """Return the calls or runs of each interval by outcome or pipeline: its start, name, number."""
    moment = (ROW.since - ROW.since % chosen.step).label("moment")
    name = ROW.outcome if by == "outcome" else ROW.pipeline
    query = (
        sa.select(moment, name, sa.func.sum(ROW.calls))
        .where(*chosen.conditions(), KINDS[kind])
        .group_by(moment, name)
    )
    return [(row[0], row[1], int(row[2])) for row in connection.execute(query)]


def totals(connection: sa.Connection, chosen: Intervals) -> list[tuple[str, str, int]]:
    """Return the calls to each pipeline by outcome: pipeline, outcome, number."""
    query = (
        sa.select(ROW.pipeline, ROW.outcome, sa.func.sum(ROW.calls))
        .where(*chosen.conditions(), KINDS["calls"])
        .group_by(ROW.pipeline, ROW.outcome)
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
    moment = (ROW.since - ROW.since % chosen.step).label("moment")
    conditions = [*chosen.conditions(), KINDS["calls"]]
    if pipelines is not None:
        conditions.append(ROW.pipeline.in_(pipelines))
    query = (
        sa.select(
            moment,
            ROW.pipeline,
            sa.func.sum(ROW.calls),
            *(
                sa.func.sum(sa.case((OUTCOME.in_(sorted(outcomes)), ROW.calls), else_=0))
                for outcomes in (FAULTS, REJECTIONS - FAULTS)
            ),
        )
        .where(*conditions)
        .group_by(moment, ROW.pipeline)
    )
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
    moment = (ROW.since - ROW.since % chosen.step).label("moment")
    text = sa.func.aggregate_strings(sa.cast(ROW.buckets, sa.Text), ",")
    conditions = [*chosen.conditions(), KINDS["calls"], ROW.micros > 0]
    if pipelines is None:
        query = sa.select(moment, sa.literal(""), text).where(*conditions).group_by(moment)
    else:
        query = (
            sa.select(moment, ROW.pipeline, text)
            .where(*conditions, ROW.pipeline.in_(pipelines))
            .group_by(moment, ROW.pipeline)
        )
    return [(row[0], row[1], row[2]) for row in connection.execute(query)]
