"""A pipeline at a glance: its state everywhere, and what became of its calls in an environment."""

from __future__ import annotations

import time
from typing import Any

from flask import Response, request, url_for

from penstock.access.pipelines import set_pipeline_enabled
from penstock.access.users import Role
from penstock.console.charts import Chart
from penstock.console.confirmation import Confirmation
from penstock.console.context import console_context, current_environment
from penstock.console.markers import markers_of
from penstock.console.pages import Scope, page, user
from penstock.console.pipeline_page import ShownPipeline, operates, show_tab, shown_pipeline
from penstock.console.pipeline_states import Entry
from penstock.console.responses import done
from penstock.console.series import chart_of
from penstock.console.time_range import TimeRange, time_range
from penstock.execution.run_queries import RunQuery, most_frequent
from penstock.execution.usage_queries import UsageQuery, usage_of
from penstock.gate.descriptions import describe_gate
from penstock.runs.pipeline_calls import NO_CALLS, calls_by_pipeline, last_day
from penstock.runs.series import environment_activity, intervals, series_of

MAX_ROWS = 6  # of a list of errors, reasons or consumers


@page("/pipelines/<major>/<name>", needs=Role.VIEWER, scope=Scope.ANY)
def pipelines_one(major: str, name: str) -> str:
    """Show the state of a pipeline everywhere, and its calls in one environment."""
    shown, environment, span = shown_pipeline(major, name), current_environment(), time_range()
    return show_tab(
        "pipeline.html",
        shown,
        env=environment,
        span=span,
        gates={
            name: [gate_sentence(shown, entry) for entry in listed]
            for name, listed in shown.entries.items()
        },
        calls=_calls(shown),
        requires=_required_credentials(shown),
        enabled={view.name: view.access.pipeline(shown.id).enabled for view in shown.views},
        operates={view.name: operates(view.name) for view in shown.views},
        charts=_charts(shown, environment, span),
        **_figures(shown, environment, span),
    )


def _calls(shown: ShownPipeline) -> dict[str, int]:
    """Return the calls of the last day in each environment."""
    engine, now = console_context().engine, time.time()
    return {
        view.name: calls_by_pipeline(engine, last_day(view.access.environment.id, now), [shown.id])
        .get(shown.id, NO_CALLS)
        .calls
        for view in shown.views
    }


def gate_sentence(shown: ShownPipeline, entry: Entry) -> str:
    """Return what a call must present, in a sentence.

    Of processes with other plugins only their report is known.
    """
    authenticators, item = console_context().host.catalog.plugins.authenticators, entry.item
    view = shown.view(entry.environment)
    evaluated = view.evaluated_internal if item.listener == "internal" else view.evaluated
    own = evaluated.get(item.pipeline)
    if entry.own and own is not None:
        return describe_gate(own, authenticators)
    if not item.served:
        return "No call is accepted."
    nouns = {each.name: each.noun for each in authenticators}
    required = " + ".join(nouns.get(name, name) for name in sorted(item.requires))
    return f"Requires {required or 'no credentials'}, by the report of its processes."


def _required_credentials(shown: ShownPipeline) -> list[str]:
    if shown.item is None:
        return []
    authenticators = console_context().host.catalog.plugins.authenticators
    nouns = {each.name: each.noun for each in authenticators}
    return [nouns.get(name, name) for name in sorted(shown.item.pipeline.trigger.toggles)]


def _charts(
    shown: ShownPipeline, environment: str, span: TimeRange
) -> list[tuple[str, str, Chart, str]]:
    """Return the charts: ID, title, chart, and the address that a live page polls."""
    kinds = [("calls", "class", "Calls by outcome"), ("latency", "quantile", "Latency of calls")]
    if shown.item is not None and shown.item.durable:
        kinds.append(("runs", "class", "Durable runs by status"))
    markers, charts = markers_of(environment, span), []
    for metric, by, title in kinds:
        query: dict[str, Any] = {"metric": metric, "by": by, "pipeline": shown.id, "poll": 1}
        query |= span.query
        url = url_for("console.series", env=environment, **query)
        chart = chart_of(environment, metric, by, span, markers, shown.id)
        charts.append((metric, title, chart, url if span.live else ""))
    return charts


def _figures(shown: ShownPipeline, environment: str, span: TimeRange) -> dict[str, Any]:
    """Return numbers of calls, and the most frequent errors, reasons and consumers."""
    engine, facts = console_context().engine, shown.view(environment).access.environment
    chosen = intervals(facts.id, span.start, span.end, span.bucket_s, shown.id)
    asked = RunQuery(environment, (shown.id,), since=span.start, until=span.end)
    usage = UsageQuery(environment, pipelines=(shown.id,), since=span.start, until=span.end)
    reasons = series_of(engine, "rejections", "reason", chosen)
    return {
        "activity": environment_activity(engine, environment, chosen),
        "errors": most_frequent(engine, asked).error_types[:MAX_ROWS],
        "reasons": [
            (reason.name, int(sum(value or 0 for value in reason.values))) for reason in reasons
        ],
        "consumers": usage_of(engine, usage, "consumer", limit=MAX_ROWS),
    }


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
