"""The first page: how an environment is doing, and what needs a hand."""

from __future__ import annotations

import time

from flask import Response, jsonify, request

from penstock.access.users import Role
from penstock.console.desk import desk
from penstock.console.pages import environment, page, render
from penstock.db.engine import reading
from penstock.db.runs import alive
from penstock.gate.compliance import State
from penstock.host import SILENT
from penstock.runs.traffic import SPANS, Seen

SERVED = (State.SERVED, State.NON_CONFORMANT)


def _span() -> str:
    asked = request.args.get("span", "hour")
    return asked if asked in SPANS else "hour"


def _seen(name: str, span: str) -> Seen:
    here = desk()
    return here.traffic.seen(here.engine, here.view(name).access.environment.id, span, time.time())


@page("/", needs=Role.VIEWER)
def overview() -> str:
    """Show how an environment is doing."""
    here, name, span = desk(), environment(), _span()
    view = here.view(name)
    facts = view.access.environment
    with reading(here.engine) as connection:
        processes = alive(connection, facts.id, silent=SILENT)
    ready, checks = here.host.checks()
    return render(
        "overview.html",
        env=name,
        environments=here.environments(),
        span=span,
        spans=list(SPANS),
        facts=facts,
        seen=_seen(name, span),
        served=view.of_state(*SERVED),
        refused=view.of_state(State.REFUSED, State.NON_CONFORMANT),
        disabled=view.of_state(State.DISABLED),
        warnings=[(id_, item) for id_, item in view.judged.items() if item.warnings],
        mistakes=here.host.mistakes,
        processes=processes,
        ready=ready,
        checks=checks,
    )


@page("/overview/figures", needs=Role.VIEWER)
def overview_figures() -> str:
    """Show the figures and charts anew; the page asks for it now and then."""
    name, span = environment(), _span()
    return render("_figures.html", env=name, span=span, spans=list(SPANS), seen=_seen(name, span))


@page("/overview/points", needs=Role.VIEWER)
def overview_points() -> Response:
    """Return what the charts draw."""
    points = _seen(environment(), _span()).points[:-1]  # the last one is not over, and would look like a fall
    return jsonify(
        calls=[
            [moment for moment, _ in points],
            [item.succeeded for _, item in points],
            [item.turned_away for _, item in points],
            [item.faults for _, item in points],
        ],
        latency=[[moment for moment, _ in points], *([item.quantile(part) for _, item in points] for part in (0.5, 0.95))],
    )
