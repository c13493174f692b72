"""Deployments: each start and reload with what changed, and the processes that are alive."""

from __future__ import annotations

from flask import request, url_for

from penstock.access.users import Role
from penstock.console.context import console_context, environment_filter, environment_names
from penstock.console.forms import ChoiceField, FilterForm, LineField
from penstock.console.pages import Scope, page
from penstock.console.responses import render
from penstock.errors import UnknownName
from penstock.gate.compliance import State
from penstock.host.deployment_list import (
    find_deployment,
    list_deployments,
    list_processes,
    plugin_text,
)
from penstock.host.process_report import ProcessReport, ReportedPipeline

PER_PAGE = 50
MAX_FIND_LENGTH = 100
PIPELINES_SHOWN = 200


class DeploymentFilter(FilterForm):
    """Filters deployments."""

    env = ChoiceField("Environment", checked_by_domain=True)
    find = LineField("Search", render_kw={"type": "search", "placeholder": "plugin, host, user"})

    def __init__(self) -> None:
        super().__init__()
        self.env.offer([("", "all"), *((name, name) for name in environment_names())])


def _chosen() -> list[str]:
    """Return the environment in the query, else all that the user sees. Raises UnknownName."""
    name = environment_filter()
    return environment_names() if name is None else [name]


@page("/deployments", needs=Role.VIEWER, scope=Scope.ANY)
def deployments() -> str:
    """List deployments of all environments, newest first."""
    context, form, environments = console_context(), DeploymentFilter(), _chosen()
    query = form.query() if form.is_valid() else {}
    after = request.args.get("after")
    rows = list_deployments(
        context.engine,
        environments,
        search=(form.find.data or "")[:MAX_FIND_LENGTH],
        after=after,
        limit=PER_PAGE + 1,
    )
    following = None
    if len(rows) > PER_PAGE:
        following = url_for("console.deployments", after=rows[PER_PAGE - 1].id, **query)
    return render(
        "deployments.html",
        form=form,
        env=environment_filter(),
        rows=rows[:PER_PAGE],
        query=query,
        following=following,
        first=url_for("console.deployments", **query) if after else None,
    )


@page("/deployments/<identifier>", needs=Role.VIEWER, scope=Scope.ANY)
def deployments_one(identifier: str) -> str:
    """Show a deployment: what changed, its plugins, and its pipelines with their state."""
    details = find_deployment(console_context().engine, identifier)
    if details.deployment.environment not in environment_names():
        raise UnknownName("deployment", identifier)
    report = details.report
    pipelines = () if report is None else tuple(sorted(report.pipelines, key=_urgency))
    return render(
        "deployment.html",
        deployment=details.deployment,
        report=report,
        plugins=_plugin_texts(report),
        pipelines=pipelines[:PIPELINES_SHOWN],
        number=len(pipelines),
    )


@page("/deployments/processes", needs=Role.VIEWER, scope=Scope.ANY)
def deployments_processes() -> str:
    """List the processes that are alive, and what each of them serves."""
    rows = list_processes(console_context().engine, _chosen())
    return render("processes.html", env=environment_filter(), rows=rows)


def _plugin_texts(report: ProcessReport | None) -> list[str]:
    return [] if report is None else [plugin_text(plugin) for plugin in report.plugins]


def _urgency(pipeline: ReportedPipeline) -> tuple[bool, str, str]:
    return pipeline.state != State.BLOCKED, pipeline.id, pipeline.listener
