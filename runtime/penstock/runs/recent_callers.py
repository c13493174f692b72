"""The consumers that called pipelines in the last seven days, from hourly and daily counts."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime

from penstock.contracts.csv_lines import csv_line
from penstock.db import consumer_counts
from penstock.db.consumer_counts import CallerRow, UsageFilter
from penstock.db.engine import Engine, reading

DAYS = 7
DAY_S = 86_400
CSV_HEAD = ("pipeline", "consumer", "calls", "share", "last_call")


@dataclass(frozen=True, slots=True)
class PipelineCallers:
    """The consumers of a pipeline with the most calls, the number of all, and of their calls.

    Rejected calls do not count.
    """

    first: tuple[CallerRow, ...] = ()
    number: int = 0
    calls: int = 0


NO_CALLERS = PipelineCallers()


def recent_callers(
    engine: Engine, environment_id: int, pipelines: Collection[str], now: float, most: int
) -> dict[str, PipelineCallers]:
    """Return the callers of each pipeline (id), `most` of them with the most calls.

    Raises DatabaseUnavailable.
    """
    found: dict[str, list[CallerRow]] = {}
    for row in _rows(engine, environment_id, pipelines, now, most):
        found.setdefault(row.pipeline, []).append(row)
    return {
        pipeline: PipelineCallers(tuple(rows), rows[0].number, rows[0].total)
        for pipeline, rows in found.items()
    }


def callers_as_csv(
    engine: Engine, environment_id: int, pipelines: Collection[str], now: float
) -> Iterator[str]:
    """Yield all callers of some pipelines as lines of CSV. `last_call` is its hour."""
    yield csv_line(CSV_HEAD)
    for row in _rows(engine, environment_id, pipelines, now, None):
        share = f"{row.calls / row.total:.4f}"
        last = f"{datetime.fromtimestamp(row.last, UTC):%Y-%m-%dT%H:%MZ}"
        yield csv_line((row.pipeline, row.consumer, str(row.calls), share, last))


def _rows(
    engine: Engine, environment_id: int, pipelines: Collection[str], now: float, most: int | None
) -> list[CallerRow]:
    if not pipelines:  # an empty filter would choose all
        return []
    chosen = UsageFilter(
        environment_id=environment_id, pipelines=tuple(pipelines), since=int(now) - DAYS * DAY_S
    )
    with reading(engine) as connection:
        return consumer_counts.callers(connection, chosen, most)
