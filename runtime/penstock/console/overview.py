"""The first page: the state of an environment, and what needs attention."""

from __future__ import annotations

import time

from flask import Response, jsonify, request

from penstock.access.users import Role
from penstock.console.context import console_context, current_environment
from penstock.console.pages import Scope, page
from penstock.console.responses import render
from penstock.db.engine import reading
from penstock.db.processes import alive
from penstock.gate.compliance import State
from penstock.host.housekeeping import SERVING_TIMEOUT_S
from penstock.runs.statistics import SPANS, Seen


def selected_span() -> str:
    """Return the time span in the query: a key of SPANS."""
    span = request.args.get("span", "hour")
    return span if span in SPANS else "hour"


def _statistics(environment: str, span: str) -> Seen:
    context = console_context()
    environment_id = context.view(environment).access.environment.id
    return context.traffic.seen(context.engine, environment_id, span, time.time())


@page("/", needs=Role.VIEWER, scope=Scope.ONE)
def overview() -> str:
    """Show the state of an environment."""
    context, environment, span = console_context(), current_environment(), selected_span()
    view = context.view(environment)
    facts, served = view.access.environment, context.served(view)
    with reading(context.engine) as connection:
        processes = alive(connection, facts.id, silent=SERVING_TIMEOUT_S)
    ready, checks = context.host.health.checks()
    return render(
        "overview.html",
        env=environment,
        environments=context.environment_names(),
        span=span,
        spans=list(SPANS),
        facts=facts,
        statistics=_statistics(environment, span),
        served=served,
        blocked=served.in_state(State.BLOCKED, State.NON_CONFORMANT),
        disabled=served.in_state(State.DISABLED),
        warnings=[item for item in served.pipelines if item.warnings],
        unreadable=view.access.unreadable_rows,
        processes=processes,
        ready=ready,
        checks=checks,
    )


@page("/overview/figures", needs=Role.VIEWER, scope=Scope.ONE)
def overview_figures() -> str:
    """Show the figures alone; the page polls them."""
    environment, span = current_environment(), selected_span()
    return render("_figures.html", span=span, statistics=_statistics(environment, span))


@page("/overview/points", needs=Role.VIEWER, scope=Scope.ONE)
def overview_points() -> Response:
    """Return the points of the charts."""
    return chart_points(_statistics(current_environment(), selected_span()))


def chart_points(statistics: Seen) -> Response:
    """Return the points of the charts as JSON: a list of times, then a list per line."""
    points = statistics.points[:-1]  # the last interval is not over and would look like a drop
    times = [at for at, _ in points]
    return jsonify(
        calls=[
            times,
            [interval.succeeded for _, interval in points],
            [interval.turned_away for _, interval in points],
            [interval.faults for _, interval in points],
        ],
        latency=[
            times,
            *([interval.quantile(part) for _, interval in points] for part in (0.5, 0.95)),
        ],
    )
