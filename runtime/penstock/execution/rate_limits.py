"""Rate limits in use: the rates that pipelines bring, calls counted now, and rejected calls.

Calls that are counted now are known where all processes count in one store. In the memory of a
process they are known to that process alone, and not shown.
"""

from __future__ import annotations

from dataclasses import dataclass

from penstock.access.lookup import environment_row
from penstock.access.pipelines import in_order
from penstock.contracts.rates import Rate
from penstock.db.call_counts import HOUR
from penstock.db.call_sums import Intervals, totals
from penstock.db.consumer_settings import NamedLimitRow
from penstock.db.engine import Engine, reading
from penstock.db.unit_of_work import RowReader
from penstock.gate.rates import EVERYWHERE, Limiter
from penstock.host.catalog import Catalog

RATE_LIMITED = "rate-limited"


@dataclass(frozen=True, slots=True)
class PipelineRate:
    """A rate that a pipeline brings.

    `used` are the calls counted now, None where they are not known or counted for each caller.
    `rejected` are the calls to the pipeline that any limit rejected.
    """

    pipeline: str
    rate: str
    by: str
    used: int | None
    rejected: int


def pipeline_rates(
    engine: Engine, catalog: Catalog, limiter: Limiter, environment: str, start: float, end: float
) -> list[PipelineRate]:
    """Return the rates of all pipelines, by pipeline, with rejected calls of a time.

    The time is in seconds since the epoch, and begins with a whole hour. Raises UnknownName.
    """
    with reading(engine) as connection:
        environment_id = environment_row(RowReader(connection), environment).id
        first = int(start) // HOUR * HOUR
        counted = totals(connection, Intervals(environment_id, first, int(end) + 1, HOUR))
    rejected = {pipeline: calls for pipeline, outcome, calls in counted if outcome == RATE_LIMITED}
    return [
        PipelineRate(
            identifier,
            rate.text,
            rate.by,
            limiter.used(f"{environment}/{identifier}", rate) if rate.by == "pipeline" else None,
            rejected.get(identifier, 0),
        )
        for identifier in in_order(catalog.loaded)
        if not catalog.loaded[identifier].broken
        for rate in catalog.loaded[identifier].pipeline.trigger.rate
    ]


def limit_used(limiter: Limiter, limit: NamedLimitRow) -> int | None:
    """Return the calls that a consumer's limit counts now; None where they are not known."""
    if limit.by != "consumer":
        return None
    place = (
        f"{limit.environment}/{limit.pipeline} of {limit.consumer}"
        if limit.pipeline
        else f"{limit.environment} of {limit.consumer}{EVERYWHERE}"
    )
    return limiter.used(place, Rate.of(limit.rate, limit.by), limit.consumer)
