"""Pipelines: state and gate in each environment, consumers, runs, routes, and a call to try."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from functools import partial
from typing import Any

from flask import Response, g, request, url_for

from penstock.access.consumers import consumers_of
from penstock.access.pipelines import set_pipeline_enabled
from penstock.access.users import Role
from penstock.console.confirmation import Confirmation
from penstock.console.context import EnvironmentView, console_context, current_environment
from penstock.console.forms import ChoiceField, FilterForm, LineField
from penstock.console.labels import STATE_LABELS
from penstock.console.overview import chart_points, selected_span
from penstock.console.pages import Scope, page, user
from penstock.console.responses import done, render
from penstock.console.try_it import document_of, routes_of, trial
from penstock.errors import UnknownName
from penstock.execution.run_queries import RunQuery, list_runs
from penstock.gate.compliance import Evaluation, State
from penstock.gate.descriptions import describe_gate
from penstock.host.compilation import LoadedPipeline
from penstock.host.served import ServedEnvironment, ServedPipeline
from penstock.runs.statistics import SPANS, calls_of

PER_PAGE = 50
CONSUMERS_PER_PAGE = 30
RUNS_SHOWN = 10
MAX_FIND_LENGTH = 80
# States that need attention come first.
ORDER = (State.BLOCKED, State.NON_CONFORMANT, State.DISABLED, State.SERVED, State.INTERNAL)

# By environment: an entry for each listener that a pipeline is for.
Entries = dict[str, list[dict[str, Any]]]


class PipelineFilter(FilterForm):
    """Filters and sorts the list."""

    find = LineField("Name", render_kw={"type": "search", "placeholder": "Part of a name"})
    state = ChoiceField("State", [("", "any"), *STATE_LABELS.items()], default="")
    sort = ChoiceField(
        "Sort by",
        [("name", "name"), ("calls", "calls, most first"), ("state", "state, blocked first")],
        default="name",
    )


def _entries(views: Iterable[EnvironmentView]) -> dict[str, Entries]:
    """Return the state of each pipeline by its ID, as the processes of each environment have it."""
    entries: dict[str, Entries] = {}
    for view in views:
        facts, served = view.access.environment, _served_in(view)
        policies = {"external": facts.policy, "internal": facts.internal_policy, "none": None}
        for item in served.pipelines:
            entry = {
                "state": item.state.value,
                "exposure": item.listener,
                "policy": policies[item.listener],
                "until": item.until,
                "evaluated": item,
                "own": served.own,
                "reported": served.reported,
            }
            entries.setdefault(item.pipeline, {}).setdefault(view.name, []).append(entry)
    return entries


def _served_in(view: EnvironmentView) -> ServedEnvironment:
    """Return what an environment's processes serve; read once for a page."""
    read: dict[str, ServedEnvironment] = g.setdefault("served", {})
    if view.name not in read:
        read[view.name] = console_context().served(view)
    return read[view.name]


def _views() -> list[EnvironmentView]:
    context = console_context()
    return [context.view(name) for name in context.environment_names()]


def _urgency(entries: Iterable[Mapping[str, Any]]) -> int:
    return min((ORDER.index(entry["evaluated"].state) for entry in entries), default=len(ORDER))


def _sort_key(sort: str, row: Mapping[str, Any]) -> tuple[Any, ...]:
    first = 0
    if sort == "calls":
        first = -row["calls"]
    elif sort == "state":
        first = min(_urgency(entries) for entries in row["entries"].values())
    return first, row["name"], row["id"]


def _rows(views: list[EnvironmentView], calls: Mapping[str, Any]) -> list[dict[str, Any]]:
    loaded = console_context().host.catalog.loaded
    return [
        {
            "id": identifier,
            "entries": entries,
            # None: processes of other environments serve it, and this one has not loaded it.
            "item": loaded.get(identifier),
            "name": identifier.partition("/")[2],
            "versions": sorted(
                {entry["evaluated"].version for listed in entries.values() for entry in listed}
            ),
            "calls": sum(calls[view.name][identifier] for view in views),
        }
        for identifier, entries in _entries(views).items()
    ]


def _passes(row: Mapping[str, Any], find: str, state: str) -> bool:
    if find.lower() not in row["id"].lower():
        return False
    states = {entry["state"] for entries in row["entries"].values() for entry in entries}
    return not state or state in states


@page("/pipelines", needs=Role.VIEWER, scope=Scope.ANY)
def pipelines() -> str:
    """List pipelines, the environments side by side."""
    engine, views, form = console_context().engine, _views(), PipelineFilter()
    valid, now = form.is_valid(), time.time()
    find, state, sort = form.find.data[:MAX_FIND_LENGTH], form.state.data, form.sort.data
    calls = {view.name: calls_of(engine, view.access.environment.id, "day", now) for view in views}
    rows = _rows(views, calls)
    loaded = len(rows)
    rows = sorted((row for row in rows if _passes(row, find, state)), key=partial(_sort_key, sort))
    after = request.args.get("after")
    start = next((index + 1 for index, row in enumerate(rows) if row["id"] == after), 0)
    query = form.query() if valid else {}
    shown = rows[start : start + PER_PAGE]
    following = None
    if len(rows) > start + PER_PAGE:
        following = url_for("console.pipelines", after=shown[-1]["id"], **query)
    return render(
        "pipelines.html",
        form=form,
        rows=shown,
        environments=[view.name for view in views],
        unreported=[view.name for view in views if not _served_in(view).reported],
        calls=calls,
        query=query,
        following=following,
        first=url_for("console.pipelines", **query) if start else None,
        loaded=loaded,
    )


def _loaded_pipeline(major: str, name: str) -> tuple[str, LoadedPipeline]:
    loaded, identifier = console_context().host.catalog.loaded, f"{major}/{name}"
    if identifier not in loaded:
        raise UnknownName("pipeline", identifier, loaded)
    return identifier, loaded[identifier]


@page("/pipelines/<major>/<name>", needs=Role.VIEWER, scope=Scope.ANY)
def pipelines_one(major: str, name: str) -> str:
    """Show a pipeline."""
    identifier, item = _loaded_pipeline(major, name)
    environment, views = current_environment(), _views()
    view = next(view for view in views if view.name == environment)
    return render(
        "pipeline.html",
        id=identifier,
        item=item,
        env=environment,
        environments=[each.name for each in views],
        span=selected_span(),
        spans=list(SPANS),
        query={"major": major, "name": name},
        **_cards(identifier, views),
        **_activity(identifier, environment),
        **_usage(identifier, item, view),
    )


def _cards(identifier: str, views: list[EnvironmentView]) -> dict[str, Any]:
    """Return the state of a pipeline in each environment."""
    context, now = console_context(), time.time()
    entries = _entries(views).get(identifier, {})
    return {
        "entries": entries,
        "gates": {
            view.name: [_gate(view, entry) for entry in entries.get(view.name, [])]
            for view in views
        },
        "calls": {
            view.name: calls_of(context.engine, view.access.environment.id, "day", now)[identifier]
            for view in views
        },
        "requires": _required_credentials(identifier),
        "enabled": {view.name: view.access.pipeline(identifier).enabled for view in views},
    }


def _gate(view: EnvironmentView, entry: Mapping[str, Any]) -> str:
    """Return what a call must present, in a sentence.

    Of processes with other plugins only their report is known.
    """
    authenticators = console_context().host.catalog.plugins.authenticators
    item: ServedPipeline = entry["evaluated"]
    evaluated = view.evaluated_internal if item.listener == "internal" else view.evaluated
    own = evaluated.get(item.pipeline)
    if entry["own"] and own is not None:
        return describe_gate(own, authenticators)
    if not item.served:
        return "No call is accepted."
    nouns = {each.name: each.noun for each in authenticators}
    required = " + ".join(nouns.get(name, name) for name in sorted(item.requires))
    return f"Requires {required or 'no credentials'}, by the report of its processes."


def _required_credentials(identifier: str) -> list[str]:
    host = console_context().host
    nouns = {each.name: each.noun for each in host.catalog.plugins.authenticators}
    toggles = host.catalog.loaded[identifier].pipeline.trigger.toggles
    return [nouns.get(toggle, toggle) for toggle in sorted(toggles)]


def _activity(identifier: str, environment: str) -> dict[str, Any]:
    """Return the consumers and the newest runs of a pipeline in an environment."""
    engine, after = console_context().engine, request.args.get("after")
    number, consumers = consumers_of(
        engine, environment, identifier, after=after, limit=CONSUMERS_PER_PAGE + 1
    )
    major, _, name = identifier.partition("/")
    query: dict[str, Any] = {"major": major, "name": name, "env": environment}
    following = None
    if len(consumers) > CONSUMERS_PER_PAGE:
        last = consumers[CONSUMERS_PER_PAGE - 1].name
        following = url_for("console.pipelines_one", after=last, **query)
    return {
        "number": number,
        "consumers": consumers[:CONSUMERS_PER_PAGE],
        "following": following,
        "first": url_for("console.pipelines_one", **query) if after else None,
        "runs": list_runs(engine, RunQuery(environment, (identifier,)), limit=RUNS_SHOWN),
    }


def _usage(identifier: str, item: LoadedPipeline, view: EnvironmentView) -> dict[str, Any]:
    """Return the routes of a pipeline, and a call to try where it is served."""
    evaluated, internal = _served(view, identifier)
    document = document_of(identifier, view, evaluated)
    example = None
    if evaluated is not None and item.endpoints:
        example = trial(identifier, item, document, view, evaluated, internal=internal)
    return {"routes": routes_of(identifier, item, document), "trial": example}


def _served(view: EnvironmentView, identifier: str) -> tuple[Evaluation | None, bool]:
    """Return the evaluation on the listener that serves a pipeline, and whether it is internal.

    The external listener comes first. None where the environment's processes do not serve it.
    """
    served = _served_in(view).served
    if not any(item.pipeline == identifier for item in served):
        return None, False
    for internal, evaluated in ((False, view.evaluated), (True, view.evaluated_internal)):
        evaluation = evaluated.get(identifier)
        if evaluation is not None and evaluation.served:
            return evaluation, internal
    return None, False


@page("/pipelines/<major>/<name>/points", needs=Role.VIEWER, scope=Scope.ONE)
def pipelines_points(major: str, name: str) -> Response:
    """Return the points of the charts."""
    context, (identifier, _) = console_context(), _loaded_pipeline(major, name)
    view = context.view(current_environment())
    return chart_points(
        context.traffic.seen(
            context.engine,
            view.access.environment.id,
            selected_span(),
            time.time(),
            pipelines=frozenset({identifier}),
        )
    )


def _of_form(**_: str) -> list[str]:
    return [request.values.get("environment", "")]


def _set_enabled(major: str, name: str, *, enabled: bool) -> Response:
    context, identifier = console_context(), f"{major}/{name}"
    environment = request.form.get("environment", "")
    set_pipeline_enabled(
        context.engine,
        user().name,
        environment,
        identifier,
        context.host.catalog.offered,
        enabled=enabled,
    )
    message = f"{identifier} disabled in {environment}."
    if enabled:
        message = f"{identifier} enabled in {environment}. It is served if it complies."
    return done(message, "pipelines_one", major=major, name=name, env=environment)


def _confirm_disable(major: str, name: str) -> Confirmation:
    environment = request.args.get("environment", "")
    return Confirmation(
        f"Disable {major}/{name} in {environment}? Its calls are rejected within a second. Other"
        " major versions stay enabled.",
        verb="Disable pipeline",
        other="Keep enabled",
        back=url_for("console.pipelines_one", major=major, name=name, env=environment or None),
        fields={"environment": environment},
    )


@page(
    "/pipelines/<major>/<name>/disable",
    needs=Role.OPERATOR,
    method="POST",
    scope=_of_form,
    confirm=_confirm_disable,
)
def pipelines_disable(major: str, name: str) -> Response:
    """Disable a pipeline in an environment."""
    return _set_enabled(major, name, enabled=False)


@page("/pipelines/<major>/<name>/enable", needs=Role.OPERATOR, method="POST", scope=_of_form)
def pipelines_enable(major: str, name: str) -> Response:
    """Enable a pipeline in an environment."""
    return _set_enabled(major, name, enabled=True)
