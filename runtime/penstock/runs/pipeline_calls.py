"""The calls of pipelines in a time, for lists of pipelines: how many, how they went, and when."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from penstock.db import call_sums
from penstock.db.call_sums import Intervals
from penstock.db.engine import Engine, reading

DAY_S, STEP_S = 86_400, 2 * 3600  # of a list: the last day, by two hours


@dataclass(frozen=True, slots=True)
class PipelineCalls:
    """The calls of a pipeline in a time. `points` are those of each interval, oldest first."""

    points: Sequence[int] = ()
    calls: int = 0
    failed: int = 0
    rejected: int = 0

    @property
    def failed_share(self) -> float:
        """The share of calls that failed by a server fault, from 0 to 1."""
        return self.failed / self.calls if self.calls else 0.0


NO_CALLS = PipelineCalls()


def last_day(environment_id: int, now: float) -> Intervals:
    """Return the intervals of the last day of an environment."""
    return Intervals(environment_id, int(now - DAY_S) // STEP_S * STEP_S, int(now) + 1, STEP_S)


def calls_by_pipeline(
    engine: Engine, chosen: Intervals, pipelines: Sequence[str] | None = None
) -> dict[str, PipelineCalls]:
    """Return the calls of pipelines by their ids: of all, or of some."""
    if pipelines is not None and not pipelines:
        return {}
    with reading(engine) as connection:
        rows = call_sums.by_pipeline(connection, chosen, pipelines)
    points: dict[str, list[int]] = {}
    numbers: dict[str, list[int]] = {}
    for row in rows:
        at = max(0, (row.moment - chosen.start) // chosen.step)
        points.setdefault(row.pipeline, [0] * len(chosen.times))[at] += row.calls
        counted = numbers.setdefault(row.pipeline, [0, 0, 0])
        for place, number in enumerate((row.calls, row.failed, row.rejected)):
            counted[place] += number
    return {name: PipelineCalls(points[name], *counted) for name, counted in numbers.items()}


def total_calls(engine: Engine, chosen: Intervals) -> dict[str, PipelineCalls]:
    """Return the calls of all pipelines in a time, without intervals."""
    whole = Intervals(chosen.environment_id, chosen.start, chosen.end, chosen.end)
    return calls_by_pipeline(engine, whole)
