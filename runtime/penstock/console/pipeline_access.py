"""Who may call a pipeline and who does; access is granted and removed here."""

from __future__ import annotations

import time
from typing import Any

from flask import Response, request, url_for

from penstock.access.consumers import associate, consumers_of, dissociate
from penstock.access.users import Role
from penstock.console.confirmation import Confirmation
from penstock.console.context import console_context, current_environment
from penstock.console.forms import ConsoleForm, LineField
from penstock.console.pages import Scope, page, user
from penstock.console.pipeline_page import operates, show_tab, shown_pipeline
from penstock.console.responses import done
from penstock.execution.run_queries import RunQuery, list_runs
from penstock.execution.usage_queries import callers_of

CONSUMERS_PER_PAGE = 50
RUNS_SHOWN = 20
CALLS_S = 7 * 86_400  # in which calls of consumers are counted


class GrantForm(ConsoleForm):
    """Grants a consumer access to a pipeline."""

    consumer = LineField("Consumer", "Enter the name of a consumer.")


@page("/pipelines/<major>/<name>/consumers", needs=Role.VIEWER, scope=Scope.ANY)
def pipelines_consumers(major: str, name: str) -> Response:
    """List the consumers with access to a pipeline, with their calls."""
    return _show_consumers(major, name, GrantForm(), current_environment())


def _show_consumers(major: str, name: str, form: GrantForm, environment: str) -> Response:
    engine, after = console_context().engine, request.args.get("after")
    shown = shown_pipeline(major, name)
    number, rows = consumers_of(
        engine, environment, shown.id, after=after, limit=CONSUMERS_PER_PAGE + 1
    )
    listed, place = rows[:CONSUMERS_PER_PAGE], shown.query | {"env": environment}
    following = None
    if len(rows) > CONSUMERS_PER_PAGE:
        following = url_for("console.pipelines_consumers", after=listed[-1].name, **place)
    ids = [row.id for row in listed]
    calls = callers_of(engine, environment, shown.id, ids, time.time() - CALLS_S)
    html = show_tab(
        "pipeline_consumers.html",
        shown,
        env=environment,
        form=form,
        number=number,
        consumers=[(row, calls.get(row.id)) for row in listed],
        following=following,
        first=url_for("console.pipelines_consumers", **place) if after else None,
        operates=operates(environment),
    )
    return Response(html, status=422 if form.has_faults else 200)


def _of_form(**_: str) -> list[str]:
    return [request.values.get("environment", "")]


@page("/pipelines/<major>/<name>/consumers", needs=Role.OPERATOR, method="POST", scope=_of_form)
def pipelines_grant(major: str, name: str) -> Response:
    """Grant a consumer access to a pipeline in an environment."""
    context, form = console_context(), GrantForm()
    environment, identifier = request.form.get("environment", ""), f"{major}/{name}"
    if form.is_valid():
        with form.faults_at("consumer"):
            consumer, offered = form.consumer.data, context.host.catalog.offered
            associate(context.engine, user().name, consumer, [identifier], environment, offered)
            message = f"{consumer} may call {identifier} in {environment}."
            return done(message, "pipelines_consumers", major=major, name=name, env=environment)
    return _show_consumers(major, name, form, environment)


def _confirm_remove(major: str, name: str) -> Confirmation:
    values = {each: request.args.get(each, "") for each in ("environment", "consumer")}
    environment, consumer = values["environment"], values["consumer"]
    back: dict[str, Any] = {"major": major, "name": name, "env": environment or None}
    return Confirmation(
        f"Remove the access of {consumer} to {major}/{name} in {environment}? Its calls are"
        " rejected within a second.",
        verb="Remove access",
        other="Keep access",
        back=url_for("console.pipelines_consumers", **back),
        fields=values,
    )


@page(
    "/pipelines/<major>/<name>/consumers/remove",
    needs=Role.OPERATOR,
    method="POST",
    scope=_of_form,
    confirm=_confirm_remove,
)
def pipelines_withdraw(major: str, name: str) -> Response:
    """Remove a consumer's access to a pipeline in an environment."""
    environment, identifier = request.form.get("environment", ""), f"{major}/{name}"
    consumer = request.form.get("consumer", "")
    dissociate(console_context().engine, user().name, consumer, [identifier], environment)
    message = f"{consumer} may no longer call {identifier} in {environment}."
    return done(message, "pipelines_consumers", major=major, name=name, env=environment)


@page("/pipelines/<major>/<name>/runs", needs=Role.VIEWER, scope=Scope.ANY)
def pipelines_runs(major: str, name: str) -> str:
    """List the newest runs of a pipeline."""
    shown, environment = shown_pipeline(major, name), current_environment()
    asked = RunQuery(environment, (shown.id,))
    runs = list_runs(console_context().engine, asked, limit=RUNS_SHOWN)
    return show_tab("pipeline_runs.html", shown, env=environment, runs=runs, limit=RUNS_SHOWN)
