"""The first page: the state of each environment, and what needs attention."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any

from flask import url_for

from penstock.access.users import Role
from penstock.console.attention import causes_of
from penstock.console.charts import Chart, Marker
from penstock.console.context import (
    EnvironmentView,
    console_context,
    current_environment,
    environment_filter,
    environment_names,
)
from penstock.console.listing import sort_of
from penstock.console.markers import markers_of
from penstock.console.pages import Scope, page
from penstock.console.responses import render
from penstock.console.series import chart_of
from penstock.console.time_range import TimeRange, time_range
from penstock.db.durable_runs import backlogs
from penstock.db.engine import reading
from penstock.db.processes import alive
from penstock.durable.status import received_at
from penstock.execution.usage_queries import UsageQuery, usage_of
from penstock.gate.compliance import State
from penstock.host.housekeeping import SERVING_TIMEOUT_S
from penstock.host.served import ServedEnvironment
from penstock.runs.series import (
    Activity,
    environment_activity,
    intervals,
    pipeline_activity,
)

MAX_CAUSES = 5  # on the overview; a page of its own has all
MAX_ROWS = 6  # of a list of pipelines or consumers


@dataclass(frozen=True, slots=True)
class Card:
    """An environment at a glance."""

    view: EnvironmentView
    served: ServedEnvironment
    activity: Activity
    web: int
    workers: int

    @property
    def blocked(self) -> int:
        """The number of pipelines that are blocked or do not comply."""
        return len(self.served.in_state(State.BLOCKED, State.NON_CONFORMANT))

    @property
    def disabled(self) -> int:
        """The number of disabled pipelines."""
        return len(self.served.in_state(State.DISABLED))


def _card(environment: str, span: TimeRange) -> Card:
    context = console_context()
    view = context.view(environment)
    identifier = view.access.environment.id
    chosen = intervals(identifier, span.start, span.end, span.bucket_s)
    with reading(context.engine) as connection:
        processes = alive(connection, identifier, silent=SERVING_TIMEOUT_S)
    workers = sum(process.kind == "worker" for process in processes)
    return Card(
        view,
        context.served(view),
        environment_activity(context.engine, environment, chosen),
        len(processes) - workers,
        workers,
    )


def _queue(environment_id: int) -> tuple[int, datetime | None]:
    """Return the number of durable runs that wait, and when the oldest was received."""
    with reading(console_context().engine) as connection:
        waiting = backlogs(connection, environment_id).values()
    oldest = min((received_at(item.oldest) for item in waiting), default=None)
    return sum(item.number for item in waiting), oldest


@page("/", needs=Role.VIEWER, scope=Scope.ONE)
def overview() -> str:
    """Show the environments of the user, and the calls of one of them."""
    context, environment, span = console_context(), current_environment(), time_range()
    sort = sort_of(("calls", "failed", "p95"), default="-calls")
    cards = [_card(name, span) for name in environment_names()]
    own = next(card for card in cards if card.view.name == environment)
    asked = environment_filter()
    shown = [card for card in cards if asked is None or card.view.name == asked]
    causes = causes_of((card.view, card.served) for card in shown)
    facts = own.view.access.environment
    chosen = intervals(facts.id, span.start, span.end, span.bucket_s)
    markers = markers_of(environment, span)
    ready, checks = context.host.health.checks()
    return render(
        "overview.html",
        env=environment,
        span=span,
        cards=cards,
        shown=shown,
        own=own,
        causes=causes[:MAX_CAUSES],
        more=max(0, len(causes) - MAX_CAUSES),
        asked=asked,
        charts=_charts(environment, span, markers),
        sort=sort,
        pipelines=pipeline_activity(context.engine, chosen, sort.by, MAX_ROWS),
        consumers=usage_of(
            context.engine,
            UsageQuery(environment, since=span.start, until=span.end),
            "consumer",
            limit=MAX_ROWS,
        ),
        queue=_queue(facts.id),
        ready=ready,
        checks=checks,
    )


def _charts(
    environment: str, span: TimeRange, markers: tuple[Marker, ...]
) -> list[tuple[str, str, Chart, str]]:
    """Return the charts: ID, title, chart, and the address that a live page polls."""
    kinds = (("calls", "class", "Calls by outcome"), ("latency", "quantile", "Latency of calls"))
    charts = []
    for metric, by, title in kinds:
        query: dict[str, Any] = {"metric": metric, "by": by, "poll": 1, **span.query}
        url = url_for("console.series", env=environment, **query) if span.live else ""
        charts.append((metric, title, chart_of(environment, metric, by, span, markers), url))
    return charts


@page("/overview/attention", needs=Role.VIEWER, scope=Scope.ANY)
def overview_attention() -> str:
    """Show all that needs attention in the environments of the user, or in one of them."""
    context, asked = console_context(), environment_filter()
    views = [context.view(name) for name in environment_names() if asked in {None, name}]
    causes = causes_of((view, context.served(view)) for view in views)
    return render("attention.html", causes=causes, asked=asked)
