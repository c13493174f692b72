"""Series over time of calls, latencies, rejected calls and durable runs, for charts.

Counts are stored by minute for two hours, then by hour. So an interval is an hour at least, unless
all of it lies within the last two hours.
"""

from __future__ import annotations

import time
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import zip_longest
from typing import NamedTuple, cast

import msgspec

from penstock.contracts.outcomes import CLASSES, RUN, class_of
from penstock.db import call_sums, consumer_counts
from penstock.db.call_counts import HOUR, MINUTES_KEPT_S
from penstock.db.call_sums import Intervals, Kind
from penstock.db.consumer_counts import UsageFilter
from penstock.db.engine import Engine, reading
from penstock.runs.statistics import Sum

MAX_SERIES = 6  # the rest is one series, "other"
OTHER = "other"
QUANTILES = (("p50", 0.5), ("p95", 0.95), ("p99", 0.99))
# What each metric is shown by; the first is usual.
BY: Mapping[str, tuple[str, ...]] = {
    "calls": ("class", "reason", "pipeline", "consumer"),
    "latency": ("quantile", "pipeline"),
    "rejections": ("reason", "pipeline", "consumer"),
    "runs": ("class", "pipeline"),
}


class Series(NamedTuple):
    """A line of a chart: one value for each interval; None is a gap."""

    name: str
    values: Sequence[float | None]


def intervals(
    environment_id: int, start: float, end: float, step: int, pipeline: str = ""
) -> Intervals:
    """Return intervals of `step` seconds, or longer ones where counts are stored by the hour."""
    if start < time.time() - MINUTES_KEPT_S:
        step = max(HOUR, -(-step // HOUR) * HOUR)
    return Intervals(environment_id, int(start) // step * step, int(end) + 1, step, pipeline)


def series_of(engine: Engine, metric: str, by: str, chosen: Intervals) -> list[Series]:
    """Return the series of a metric; the largest first, at most six and the rest.

    `metric` and `by` are names of BY. Latencies are in seconds, of HTTP calls alone.
    """
    if metric == "latency":
        return latencies(engine, chosen) if by == "quantile" else _by_pipeline(engine, chosen)
    kind = cast("Kind", metric)
    with reading(engine) as connection:
        if by == "consumer":
            pipelines = [chosen.pipeline] if chosen.pipeline else []
            asked = UsageFilter(
                chosen.environment_id, None, None, pipelines, chosen.start, chosen.end
            )
            of_class = "rejected" if metric == "rejections" else None
            counted = consumer_counts.by_consumer(
                connection, asked, of_class, MAX_SERIES, chosen.step
            )
            return largest(counted, chosen)
        rows = call_sums.sums(
            connection, chosen, kind, "pipeline" if by == "pipeline" else "outcome"
        )
    if by == "class" and metric == "calls":
        return by_class(rows, chosen)
    return largest(((at, name.removeprefix(RUN), calls) for at, name, calls in rows), chosen)


def by_class(rows: Iterable[tuple[int, str, int]], chosen: Intervals) -> list[Series]:
    """Return the calls of each class of outcome, in the order of CLASSES."""
    lines = _lines(((at, class_of(outcome), calls) for at, outcome, calls in rows), chosen)
    return [Series(name, lines.get(name) or [0] * len(chosen.times)) for name in CLASSES]


def largest(rows: Iterable[tuple[int, str | None, int]], chosen: Intervals) -> list[Series]:
    """Return the series with the highest sums, and as one the others, and those without a name."""
    lines = _lines(rows, chosen)
    others = [lines.pop(None)] if None in lines else []
    ranked = sorted(lines.items(), key=lambda line: (-sum(line[1]), line[0] or ""))
    shown = [Series(name or "", values) for name, values in ranked[:MAX_SERIES]]
    others += [values for _, values in ranked[MAX_SERIES:]]
    if others:
        shown.append(Series(OTHER, [sum(at) for at in zip(*others, strict=True)]))
    return shown


def _lines(
    rows: Iterable[tuple[int, str | None, int]], chosen: Intervals
) -> dict[str | None, list[int]]:
    lines: dict[str | None, list[int]] = {}
    number = len(chosen.times)
    for at, name, calls in rows:
        index = max(0, (at - chosen.start) // chosen.step)  # an hour may begin before the first
        lines.setdefault(name, [0] * number)[index] += calls
    return lines


def latencies(engine: Engine, chosen: Intervals) -> list[Series]:
    """Return p50, p95 and p99 of each interval, in seconds."""
    with reading(engine) as connection:
        rows = call_sums.histograms(connection, chosen)
    by_moment = {at: _histogram(text) for at, _, text in rows}
    return [
        Series(name, [_quantile(by_moment.get(at), part) for at in chosen.times])
        for name, part in QUANTILES
    ]


def _by_pipeline(engine: Engine, chosen: Intervals) -> list[Series]:
    """Return p95 of the pipelines with the most calls, in seconds."""
    with reading(engine) as connection:
        busiest = Counter[str]()
        for _, name, calls in call_sums.sums(connection, chosen, "calls", "pipeline"):
            busiest[name] += calls
        names = [name for name, _ in busiest.most_common(MAX_SERIES)]
        rows = call_sums.histograms(connection, chosen, names)
    found = {(at, name): _histogram(text) for at, name, text in rows}
    return [
        Series(name, [_quantile(found.get((at, name)), 0.95) for at in chosen.times])
        for name in names
    ]


def _histogram(text: str) -> Sum:
    rows = msgspec.json.decode(f"[{text}]", type=list[list[int]])
    return Sum(buckets=[sum(column) for column in zip_longest(*rows, fillvalue=0)])


def _quantile(found: Sum | None, part: float) -> float | None:
    return None if found is None else found.quantile(part)


@dataclass(frozen=True, slots=True)
class Activity:
    """The calls of an environment or a pipeline in a time; `p95` is in seconds."""

    name: str
    calls: int
    succeeded: int
    client_errors: int
    rejected: int
    failed: int
    p95: float | None


def activity(name: str, outcomes: Iterable[tuple[str, int]], p95: float | None = None) -> Activity:
    """Return the calls of some outcomes, added up by class."""
    numbers: Counter[str] = Counter()
    for outcome, calls in outcomes:
        numbers[class_of(outcome)] += calls
    return Activity(
        name=name,
        calls=numbers.total(),
        succeeded=numbers["succeeded"],
        client_errors=numbers["client_error"],
        rejected=numbers["rejected"],
        failed=numbers["failed"],
        p95=p95,
    )


def environment_activity(engine: Engine, name: str, chosen: Intervals) -> Activity:
    """Return the calls of an environment, or of the pipeline that is chosen."""
    whole = replace(chosen, step=chosen.end)
    with reading(engine) as connection:
        outcomes = call_sums.sums(connection, whole, "calls", "outcome")
        rows = call_sums.histograms(connection, whole)
    p95 = _histogram(rows[0][2]).quantile(0.95) if rows else None
    return activity(name, ((outcome, calls) for _, outcome, calls in outcomes), p95)


def pipeline_activity(engine: Engine, chosen: Intervals, order: str, limit: int) -> list[Activity]:
    """Return the busiest, most failing or slowest pipelines; `order` is calls, failed or p95."""
    whole = Intervals(chosen.environment_id, chosen.start, chosen.end, chosen.end)
    outcomes: dict[str, list[tuple[str, int]]] = defaultdict(list)
    with reading(engine) as connection:
        for pipeline, outcome, calls in call_sums.totals(connection, chosen):
            outcomes[pipeline].append((outcome, calls))
        found = [activity(name, rows) for name, rows in outcomes.items()]
        if order != "p95":
            found = sorted(found, key=partial(_rank, order))[:limit]
        rows = call_sums.histograms(connection, whole, [item.name for item in found])
    slow = {name: _histogram(text).quantile(0.95) for _, name, text in rows}
    timed = (replace(item, p95=slow.get(item.name)) for item in found)
    return sorted(timed, key=partial(_rank, order))[:limit]


def _rank(order: str, item: Activity) -> tuple[float, int, str]:
    return -(getattr(item, order) or 0), -item.calls, item.name
