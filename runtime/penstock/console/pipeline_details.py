"""Routes, schedule, settings and history of a pipeline."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from flask import url_for

from penstock import audit
from penstock.access.users import Role
from penstock.access.variables import StoredSecret
from penstock.console.context import (
    EnvironmentView,
    console_context,
    current_environment,
    environment_names,
)
from penstock.console.pages import Scope, page, user
from penstock.console.pipeline_page import ShownPipeline, operates, show_tab, shown_pipeline
from penstock.console.pipeline_states import served_by
from penstock.console.schedules import schedule_rows
from penstock.console.try_it import document_of, routes_of, trial
from penstock.contracts.variables import SecretNeed
from penstock.gate.compliance import Evaluation
from penstock.gate.needs import needs_of
from penstock.host.deployment_list import deployments_of

UPCOMING_TICKS = 5
EVENTS_SHOWN = DEPLOYMENTS_SHOWN = 20


@page("/pipelines/<major>/<name>/routes", needs=Role.VIEWER, scope=Scope.ANY)
def pipelines_routes(major: str, name: str) -> str:
    """Show the routes of a pipeline with their schemas, and a call to try as a command."""
    shown, environment = shown_pipeline(major, name), current_environment()
    example, routes = None, list[object]()
    if shown.item is not None:
        view = shown.view(environment)
        evaluated, internal = _evaluation(view, shown.id)
        document = document_of(shown.id, view, evaluated)
        routes = [*routes_of(shown.id, shown.item, document)]
        if evaluated is not None and shown.item.endpoints:
            example = trial(shown.id, shown.item, document, view, evaluated, internal=internal)
    return show_tab("pipeline_routes.html", shown, env=environment, routes=routes, trial=example)


def _evaluation(view: EnvironmentView, identifier: str) -> tuple[Evaluation | None, bool]:
    """Return the evaluation on the listener that serves a pipeline, and whether it is internal.

    The external listener comes first. None where the environment's processes do not serve it.
    """
    if not any(item.pipeline == identifier for item in served_by(view).served):
        return None, False
    for internal, evaluated in ((False, view.evaluated), (True, view.evaluated_internal)):
        evaluation = evaluated.get(identifier)
        if evaluation is not None and evaluation.served:
            return evaluation, internal
    return None, False


@page("/pipelines/<major>/<name>/schedule", needs=Role.VIEWER, scope=Scope.ANY)
def pipelines_schedule(major: str, name: str) -> str:
    """Show the next and the last ticks of a pipeline's schedules."""
    shown, environment = shown_pipeline(major, name), current_environment()
    rows = schedule_rows(environment, pipeline=shown.id, upcoming=UPCOMING_TICKS)
    return show_tab("pipeline_schedule.html", shown, env=environment, rows=rows)


@dataclass(frozen=True, slots=True)
class NeedState:
    """A variable or a secret that a pipeline needs, in an environment.

    `fault` says why one that is set is not met. `url` sets it.
    """

    met: bool
    fault: str
    expires_at: float | None
    url: str


@page("/pipelines/<major>/<name>/settings", needs=Role.VIEWER, scope=Scope.ANY)
def pipelines_settings(major: str, name: str) -> str:
    """Show what a pipeline needs, how it runs durably, and what its runs record."""
    shown = shown_pipeline(major, name)
    rows = {row.name: row for row in console_context().environments()}
    return show_tab(
        "pipeline_settings.html",
        shown,
        needs=_needs(shown),
        operates={view.name: operates(view.name) for view in shown.views},
        facts=rows,
        sensitive={view.name: sorted(view.access.sensitive) for view in shown.views},
    )


def _needs(shown: ShownPipeline) -> list[tuple[str, str, dict[str, NeedState]]]:
    """Return each need: its kind, its name, and its state by environment."""
    if shown.item is None or shown.item.broken:
        return []
    found: dict[tuple[str, str], dict[str, NeedState]] = {}
    for view in shown.views:
        for key, state in _needs_in(shown, view):
            found.setdefault(key, {})[view.name] = state
    return [(*key, states) for key, states in found.items()]


def _fault_of(secret: StoredSecret | None, pipeline: str) -> str:
    """Return why a secret that is set can't be read."""
    if secret is None:
        return ""
    now = time.time()
    expired = secret.expires_at is not None and secret.expires_at <= now
    return "expired" if expired else f"not for {pipeline}"


def _needs_in(
    shown: ShownPipeline, view: EnvironmentView
) -> Iterator[tuple[tuple[str, str], NeedState]]:
    pipelines = shown.item.pipeline if shown.item is not None else None
    for need, violation in () if pipelines is None else needs_of(pipelines, view.access):
        secret = isinstance(need, SecretNeed)
        name = need.name if isinstance(need, SecretNeed) else need
        stored = view.access.secrets.get(name) if secret else None
        endpoint = "settings_secret_new" if secret else "settings_variable_new"
        state = NeedState(
            met=violation is None,
            fault=_fault_of(stored, shown.id) if violation is not None else "",
            expires_at=stored.expires_at if stored is not None else None,
            url=url_for(f"console.{endpoint}", env=view.name, name=name),
        )
        yield ("secret" if secret else "variable", name), state


@page("/pipelines/<major>/<name>/history", needs=Role.VIEWER, scope=Scope.ANY)
def pipelines_history(major: str, name: str) -> str:
    """Show the deployments in which a pipeline changed, and the audit events about it."""
    shown, engine = shown_pipeline(major, name), console_context().engine
    visible: Sequence[str] | None = None if user().role is not None else environment_names()
    return show_tab(
        "pipeline_history.html",
        shown,
        deployments=deployments_of(engine, environment_names(), shown.id, limit=DEPLOYMENTS_SHOWN),
        events=audit.events_about(engine, shown.id, environments=visible, limit=EVENTS_SHOWN),
    )
