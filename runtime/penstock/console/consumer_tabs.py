"""The tabs of a consumer's page: what each of them shows."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import quantiles
from typing import Any

from flask import url_for

from penstock import audit
from penstock.access.callbacks import list_callbacks
from penstock.access.consumers import ConsumerDetails
from penstock.access.credentials import list_credentials
from penstock.access.limits import list_limits, list_networks
from penstock.console.charts import Chart, Line
from penstock.console.context import console_context, environment_filter, environment_names
from penstock.console.pages import user
from penstock.console.series import CLASS_KINDS, CLASS_LABELS
from penstock.console.time_range import time_range
from penstock.contracts.outcomes import CLASSES
from penstock.durable.run_view import RunView
from penstock.execution.run_queries import RunQuery, list_runs
from penstock.execution.usage_queries import Usage, UsageQuery, calls_by_interval, usage_of

MAX_ENDED_KEYS = 20  # expired and revoked keys
MAX_CREDENTIALS = 100
MAX_USED = 20  # pipelines and keys with the most calls
MEASURED_RUNS = 200  # whose latency is shown
RUNS_SHOWN = 25
EVENTS_SHOWN = 30
MAX_SETTINGS = 100
MAX_SUBJECTS = 200  # keys whose events are shown


def shown_environments() -> list[str]:
    """Return the environment of the filter, or all that the user sees."""
    chosen = environment_filter()
    return environment_names() if chosen is None else [chosen]


def activity(consumer: ConsumerDetails) -> dict[str, Any]:
    """Return calls over time, by pipeline and by key, and the latency of the newest runs."""
    engine, span, names = console_context().engine, time_range("7d"), shown_environments()
    asked = UsageQuery(consumer=consumer.name, since=span.start, until=span.end, environments=names)
    times, numbers = calls_by_interval(engine, asked, span.start, span.end, span.bucket_s)
    by_pipeline = usage_of(engine, asked, "pipeline", limit=MAX_USED)
    return {
        "span": span,
        "chart": Chart(times, _lines(numbers), link=_runs_link(consumer.name, names)),
        "sums": {name: sum(values) for name, values in numbers.items()},
        "calls": sum(sum(values) for values in numbers.values()),
        "last_call": max((row.last for row in by_pipeline), default=None),
        "by_pipeline": by_pipeline,
        "by_key": _with_names(consumer, usage_of(engine, asked, "key", limit=MAX_USED)),
        "latency": _latency(consumer.name, names),
    }


def _lines(numbers: dict[str, list[int]]) -> list[Line]:
    return [
        Line(CLASS_LABELS.get(name, name), CLASS_KINDS[name], numbers[name])
        for name in CLASSES
        if name in numbers
    ]


def _runs_link(consumer: str, names: Sequence[str]) -> str:
    """Return the address of the runs of an interval, "" where there are several environments."""
    if len(names) != 1:
        return ""
    return url_for("console.runs", env=names[0], consumer=consumer) + "&from={from}&to={to}"


def _with_names(consumer: ConsumerDetails, rows: Sequence[Usage]) -> list[tuple[Usage, bool]]:
    """Return the rows, and whether each is of a key with a page."""
    known = {key.id for key in consumer.keys}
    return [(row, row.key_id in known) for row in rows]


def newest_runs(consumer: str, names: Sequence[str], limit: int) -> list[RunView]:
    """Return the newest runs of a consumer in some environments."""
    engine = console_context().engine
    rows = [
        run
        for name in names
        for run in list_runs(engine, RunQuery(name, consumer=consumer), limit=limit)
    ]
    return sorted(rows, key=lambda run: run.id, reverse=True)[:limit]


def _latency(consumer: str, names: Sequence[str]) -> tuple[float, float, int] | None:
    """Return p50 and p95 of the newest HTTP calls in seconds, and their number; None without."""
    runs = newest_runs(consumer, names, MEASURED_RUNS)
    measured = [run.ms / 1000 for run in runs if run.ms is not None and not run.durable]
    if not measured:
        return None
    cuts = quantiles(measured, n=20, method="inclusive") if len(measured) > 1 else measured * 19
    return cuts[9], cuts[18], len(measured)


def keys(consumer: ConsumerDetails) -> dict[str, Any]:
    """Return the keys of a consumer, and its credentials of authenticator plugins."""
    names = environment_names()
    ended = [key for key in reversed(consumer.keys) if key.ended]
    credentials = list_credentials(
        console_context().engine, consumer=consumer.name, limit=MAX_CREDENTIALS
    )
    return {
        "keys": [key for key in reversed(consumer.keys) if not key.ended],
        "ended": ended[:MAX_ENDED_KEYS],
        "older": max(0, len(ended) - MAX_ENDED_KEYS),
        "credentials": [row for row in credentials if row.environment in names],
    }


def limits(consumer: ConsumerDetails) -> dict[str, Any]:
    """Return the rate limits, network rules and callback targets of a consumer."""
    engine, names = console_context().engine, shown_environments()

    def visible(rows: Sequence[Any]) -> list[Any]:
        return [row for row in rows if row.environment in names]

    return {
        "shown": names,
        "limits": visible(list_limits(engine, consumer=consumer.name, limit=MAX_SETTINGS)),
        "networks": visible(list_networks(engine, consumer=consumer.name, limit=MAX_SETTINGS)),
        "callbacks": visible(list_callbacks(engine, consumer=consumer.name, limit=MAX_SETTINGS)),
    }


def runs(consumer: ConsumerDetails) -> dict[str, Any]:
    """Return the newest runs of a consumer."""
    names = shown_environments()
    return {"shown": names, "runs": newest_runs(consumer.name, names, RUNS_SHOWN)}


def events(consumer: ConsumerDetails) -> dict[str, Any]:
    """Return the newest audit events of a consumer and its keys."""
    newest = [key.id for key in reversed(consumer.keys)][:MAX_SUBJECTS]
    rows = audit.events(
        console_context().engine,
        limit=EVENTS_SHOWN + 1,
        subjects=[consumer.name, *newest],
        environments=None if user().role is not None else environment_names(),
    )
    return {
        "events": rows[:EVENTS_SHOWN],
        "more": len(rows) > EVENTS_SHOWN,
    }
