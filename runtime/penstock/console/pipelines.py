"""Pipelines.

What became of each in each environment, what its calls must present, who may call it, and how it is
doing.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from functools import partial
from typing import Any

from flask import Response, request, url_for

from penstock.access.consumers import consumers_of
from penstock.access.pipelines import set_pipeline_enabled
from penstock.access.users import Role
from penstock.console.context import View, console_context
from penstock.console.overview import drawn, span
from penstock.console.pages import Form, done, environment, page, render, user
from penstock.console.try_it import document_of, routes_of, trial
from penstock.errors import UnknownName
from penstock.execution.operating import list_runs
from penstock.gate.compliance import Evaluation, State
from penstock.gate.descriptions import describe_gate
from penstock.gate.exposure import described, exposures
from penstock.host.compilation import LoadedPipeline
from penstock.runs.statistics import SPANS, calls_of

PAGE = 50
CONSUMERS = 30
RUNS = 10
SORTS = ("name", "calls", "state")
# What needs a hand comes first.
ORDER = (State.BLOCKED, State.NON_CONFORMANT, State.DISABLED, State.SERVED, State.INTERNAL)


def _listed(views: Iterable[View]) -> dict[str, dict[str, list[dict[str, Any]]]]:
    """Return what there is to say of each pipeline, by its id and environment.

    An entry for each listener it is for.
    """
    host = console_context().host
    found: dict[str, dict[str, list[dict[str, Any]]]] = {}
    for view in views:
        facts = view.access.environment
        policies = {"external": facts.policy, "internal": facts.internal_policy, "none": None}
        for identifier, exposure, evaluated in exposures(
            view.evaluated, view.evaluated_internal, host.catalog.broken
        ):
            said = described(
                identifier, exposure, evaluated, host.catalog.loaded[identifier].plugin
            )
            at = found.setdefault(identifier, {}).setdefault(view.name, [])
            at.append(said | {"policy": policies[exposure], "evaluated": evaluated})
    return found


def _views() -> list[View]:
    here = console_context()
    return [here.view(str(row["name"])) for row in here.environments()]


def _urgency(entries: Iterable[Mapping[str, Any]]) -> int:
    return min((ORDER.index(entry["evaluated"].state) for entry in entries), default=len(ORDER))


def _place(sort: str, row: Mapping[str, Any]) -> tuple[Any, ...]:
    """Return what a row is sorted by."""
    first = {
        "calls": -row["calls"],
        "state": min(_urgency(entries) for entries in row["at"].values()),
    }.get(sort, 0)
    return first, row["item"].pipeline.name, row["id"]


@page("/pipelines", needs=Role.VIEWER)
def pipelines() -> str:
    """List pipelines, the environments side by side."""
    here, views = console_context(), _views()
    find, state, sort = (
        request.args.get(name, "").strip()[:80] for name in ("find", "state", "sort")
    )
    sort = sort if sort in SORTS else SORTS[0]
    listed = _listed(views)
    now = time.time()
    calls = {
        view.name: calls_of(here.engine, view.access.environment.id, "day", now) for view in views
    }
    rows: list[dict[str, Any]] = [
        {
            "id": identifier,
            "at": at,
            "item": here.host.catalog.loaded[identifier],
            "calls": sum(calls[view.name][identifier] for view in views),
        }
        for identifier, at in listed.items()
        if find.lower() in identifier.lower()
        and (
            not state
            or any(entry["state"] == state for entries in at.values() for entry in entries)
        )
    ]
    rows.sort(key=partial(_place, sort))
    after = request.args.get("after")
    start = next((place + 1 for place, row in enumerate(rows) if row["id"] == after), 0)
    kept: dict[str, Any] = {
        name: value
        for name, value in (
            ("find", find),
            ("state", state),
            ("sort", sort if sort != SORTS[0] else ""),
        )
        if value
    }
    shown = rows[start : start + PAGE]
    return render(
        "pipelines.html",
        rows=shown,
        environments=[view.name for view in views],
        calls=calls,
        find=find,
        state=state,
        states=[item.value for item in State],
        sort=sort,
        sorts=SORTS,
        kept=kept,
        onward=(
            url_for("console.pipelines", after=shown[-1]["id"], **kept)
            if len(rows) > start + PAGE
            else None
        ),
        back=url_for("console.pipelines", **kept) if start else None,
        loaded=len(listed),
    )


def _found(major: str, name: str) -> tuple[str, LoadedPipeline]:
    loaded, identifier = console_context().host.catalog.loaded, f"{major}/{name}"
    if identifier not in loaded:
        raise UnknownName("pipeline", identifier, loaded)
    return identifier, loaded[identifier]


@page("/pipelines/<major>/<name>", needs=Role.VIEWER)
def pipelines_one(major: str, name: str) -> str:
    """Show a pipeline."""
    here, (identifier, item) = console_context(), _found(major, name)
    env, views = environment(), _views()
    view = next(view for view in views if view.name == env)
    now = time.time()
    entries = _listed(views)[identifier]
    authenticators = here.host.catalog.plugins.authenticators
    after = request.args.get("after")
    number, some = consumers_of(here.engine, env, identifier, after=after, limit=CONSUMERS + 1)
    here_too: dict[str, Any] = {"major": major, "name": name, "env": env}
    evaluated, internal = _served(view, identifier)
    document = document_of(identifier, view, evaluated)
    return render(
        "pipeline.html",
        id=identifier,
        item=item,
        entries=entries,
        words={
            where: [describe_gate(entry["evaluated"], authenticators) for entry in found]
            for where, found in entries.items()
        },
        calls={
            other.name: calls_of(here.engine, other.access.environment.id, "day", now)[identifier]
            for other in views
        },
        enabled={other.name: other.access.pipeline(identifier).enabled for other in views},
        env=env,
        environments=[other.name for other in views],
        span=span(),
        spans=list(SPANS),
        kept={"major": major, "name": name},
        number=number,
        consumers=some[:CONSUMERS],
        onward=(
            url_for("console.pipelines_one", after=some[CONSUMERS - 1]["name"], **here_too)
            if len(some) > CONSUMERS
            else None
        ),
        back=url_for("console.pipelines_one", **here_too) if after else None,
        runs=list_runs(here.engine, environment=env, pipelines=[identifier], limit=RUNS),
        routes=routes_of(identifier, item, document),
        trying=(
            trial(identifier, item, document, view, evaluated, internal=internal)
            if evaluated is not None and item.endpoints
            else None
        ),
    )


def _served(view: View, identifier: str) -> tuple[Evaluation | None, bool]:
    """Return the judgement of the listener that serves a pipeline, and whether it is internal.

    The outside listener comes first.
    """
    sides = [
        (side[identifier], side is view.evaluated_internal)
        for side in (view.evaluated, view.evaluated_internal)
        if identifier in side
    ]
    return next(((item, internal) for item, internal in sides if item.served), (None, False))


@page("/pipelines/<major>/<name>/points", needs=Role.VIEWER)
def pipelines_points(major: str, name: str) -> Response:
    """Return what the charts draw."""
    here, (identifier, _) = console_context(), _found(major, name)
    view = here.view(environment())
    return drawn(
        here.traffic.seen(
            here.engine,
            view.access.environment.id,
            span(),
            time.time(),
            pipelines=frozenset({identifier}),
        )
    )


def _switch(major: str, name: str, *, enabled: bool) -> Response:
    here, where, identifier = console_context(), Form()["environment"], f"{major}/{name}"
    set_pipeline_enabled(
        here.engine, user().name, where, identifier, here.host.catalog.offered, enabled=enabled
    )
    what = (
        f"{identifier} is served again in {where}, if it complies."
        if enabled
        else f"{identifier} is switched off in {where}."
    )
    return done(what, "pipelines_one", major=major, name=name, env=where)


@page("/pipelines/<major>/<name>/disable", needs=Role.OPERATOR, method="POST")
def pipelines_disable(major: str, name: str) -> Response:
    """Stop serving a pipeline in an environment."""
    return _switch(major, name, enabled=False)


@page("/pipelines/<major>/<name>/enable", needs=Role.OPERATOR, method="POST")
def pipelines_enable(major: str, name: str) -> Response:
    """Serve a pipeline again in an environment."""
    return _switch(major, name, enabled=True)
