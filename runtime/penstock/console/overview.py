"""The first page: how an environment is doing, and what needs a hand."""

from __future__ import annotations

import time

from flask import Response, jsonify, request

from penstock.access.users import Role
from penstock.console.context import console_context
from penstock.console.pages import environment, page, render
from penstock.db.engine import reading
from penstock.db.processes import alive
from penstock.gate.compliance import SERVED_STATES, State
from penstock.host.housekeeping import SERVING_TIMEOUT_S
from penstock.runs.statistics import SPANS, Seen


def span() -> str:
    """Return the time that the user looks at."""
    asked = request.args.get("span", "hour")
    return asked if asked in SPANS else "hour"


def _seen(name: str, chosen: str) -> Seen:
    here = console_context()
    return here.traffic.seen(
        here.engine, here.view(name).access.environment.id, chosen, time.time()
    )


@page("/", needs=Role.VIEWER)
def overview() -> str:
    """Show how an environment is doing."""
    here, name, chosen = console_context(), environment(), span()
    view = here.view(name)
    facts = view.access.environment
    with reading(here.engine) as connection:
        processes = alive(connection, facts.id, silent=SERVING_TIMEOUT_S)
    ready, checks = here.host.health.checks()
    return render(
        "overview.html",
        env=name,
        environments=here.environments(),
        span=chosen,
        spans=list(SPANS),
        facts=facts,
        seen=_seen(name, chosen),
        served=view.of_state(*SERVED_STATES),
        refused=view.of_state(State.BLOCKED, State.NON_CONFORMANT),
        disabled=view.of_state(State.DISABLED),
        warnings=[(id_, item) for id_, item in view.evaluated.items() if item.warnings],
        problems=here.host.catalog.problems,
        doubts=view.access.unreadable_rows,
        processes=processes,
        ready=ready,
        checks=checks,
    )


@page("/overview/figures", needs=Role.VIEWER)
def overview_figures() -> str:
    """Show the figures and charts anew; the page asks for it now and then."""
    name, chosen = environment(), span()
    return render(
        "_figures.html", env=name, span=chosen, spans=list(SPANS), seen=_seen(name, chosen)
    )


@page("/overview/points", needs=Role.VIEWER)
def overview_points() -> Response:
    """Return what the charts draw."""
    return drawn(_seen(environment(), span()))


def drawn(seen: Seen) -> Response:
    """Return what the charts draw of what was seen."""
    points = seen.points[:-1]  # the last one is not over, and would look like a fall
    return jsonify(
        calls=[
            [moment for moment, _ in points],
            [item.succeeded for _, item in points],
            [item.turned_away for _, item in points],
            [item.faults for _, item in points],
        ],
        latency=[
            [moment for moment, _ in points],
            *([item.quantile(part) for _, item in points] for part in (0.5, 0.95)),
        ],
    )
