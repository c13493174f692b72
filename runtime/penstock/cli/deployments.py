"""`penstock ps` and `penstock deployments`: who serves what, since when, and what changed."""

from __future__ import annotations

import click
import msgspec

from penstock.cli.base import (
    Context,
    format_option,
    pass_context,
    show,
    show_json,
)
from penstock.cli.listings import Listing, listing_options, show_page, show_rows
from penstock.host.deployment_list import (
    DeploymentDetails,
    ProcessFacts,
    find_deployment,
    list_deployments,
    list_processes,
    plugin_text,
)

SHORT_ID_LENGTH = 12
PROCESS_COLUMNS = (
    "environment",
    "host",
    "pid",
    "kind",
    "since",
    "revision",
    "policy_version",
    "served",
    "blocked",
    "started_by",
    "plugins",
)
DEPLOYMENT_COLUMNS = (
    "id",
    "at",
    "environment",
    "host",
    "started_by",
    "served",
    "blocked",
    "processes",
    "what_changed",
)
PIPELINE_COLUMNS = ("pipeline", "listener", "version", "plugin", "state", "reasons")

one_env_option = click.option(
    "--env", "environment", metavar="E", help="Only this environment. Default: all."
)


@click.command()
@one_env_option
@listing_options
@pass_context
def ps(context: Context, environment: str | None, listing: Listing) -> None:
    """List the processes that are alive, and what each of them serves.

    `policy version` is that of the policy which a process applies; (behind) marks one that has not
    read the newest change yet. Plugins of Penstock itself are not listed; `penstock deployments
    show` lists them.
    """
    rows = [_process_row(item) for item in list_processes(context.engine, _chosen(environment))]
    show_rows(rows, listing, PROCESS_COLUMNS, lambda row: row["id"], empty="no process is alive")


def _chosen(environment: str | None) -> list[str] | None:
    return None if environment is None else [environment]


def _process_row(item: ProcessFacts) -> dict[str, object]:
    version: object = item.policy_version
    if item.behind:
        version = f"{item.policy_version} (behind)"
    return {
        "id": item.id,
        "environment": item.environment,
        "host": item.host,
        "pid": item.pid,
        "kind": item.kind if item.serves or item.served is None else f"{item.kind}, no pipelines",
        "since": item.since,
        "revision": item.revision,
        "policy_version": version,
        "served": item.served,
        "blocked": item.blocked,
        "started_by": item.started_by,
        "plugins": item.own_plugins,
    }


@click.group()
def deployments() -> None:
    """List starts and reloads of processes, and what changed at each."""


@deployments.command("list")
@one_env_option
@listing_options
@pass_context
def deployments_list(context: Context, environment: str | None, listing: Listing) -> None:
    """List deployments, newest first: a start or reload of an environment's processes on a host.

    `--search` is a text in the host, the user or the changes, such as the name of a plugin or a
    pipeline.
    """
    rows = list_deployments(
        context.engine,
        _chosen(environment),
        search=listing.search,
        after=listing.cursor,
        limit=listing.fetched,
    )
    if listing.form == "table":
        show_page(
            [
                {name: getattr(row, name) for name in DEPLOYMENT_COLUMNS}
                | {"id": row.id[:SHORT_ID_LENGTH], "cursor": row.id}
                for row in rows
            ],
            listing,
            DEPLOYMENT_COLUMNS,
            lambda row: row["cursor"],
            empty="no deployments yet",
        )
        return
    show_page(rows, listing, DEPLOYMENT_COLUMNS, lambda row: row.id)


@deployments.command("show")
@click.argument("deployment")
@format_option
@pass_context
def deployments_show(context: Context, deployment: str, form: str) -> None:
    """Show a deployment: what changed, its plugins, and its pipelines with their state.

    DEPLOYMENT is the ID of a deployment, or the beginning of it.
    """
    details = find_deployment(context.engine, deployment)
    if form == "json":
        show_json(_document(details))
        return
    item, report = details.deployment, details.report
    click.echo(f"deployment      {item.id}")
    click.echo(f"environment     {item.environment}")
    click.echo(f"host            {item.host}")
    click.echo(f"at              {item.at:%Y-%m-%d %H:%M:%SZ}")
    click.echo(f"started by      {item.started_by}")
    click.echo(f"policy version  {item.policy_version}")
    click.echo(f"processes       {item.processes or 'none is alive'}")
    click.echo(f"before          {item.previous or 'none is known'}")
    click.echo(f"changes         {item.what_changed}")
    if report is None:
        return
    click.echo(f"plugins         {', '.join(map(plugin_text, report.plugins)) or 'none'}")
    click.echo()
    show(_pipeline_rows(details), form, PIPELINE_COLUMNS, empty="no pipelines")


def _pipeline_rows(details: DeploymentDetails) -> list[dict[str, object]]:
    report = details.report
    return [
        {
            "pipeline": item.id,
            "listener": item.listener,
            "version": item.version,
            "plugin": item.plugin,
            "state": item.state,
            "reasons": [f"{each.reason}; {each.fix}" for each in item.reasons],
        }
        for item in (report.pipelines if report is not None else ())
    ]


def _document(details: DeploymentDetails) -> dict[str, object]:
    item, report = details.deployment, details.report
    return {
        **{name: getattr(item, name) for name in DEPLOYMENT_COLUMNS},
        "policy_version": item.policy_version,
        "previous": item.previous,
        "changes": msgspec.to_builtins(item.changes),
        "report": None if report is None else msgspec.to_builtins(report),
    }


def note_other_plugins(context: Context, environment: str) -> None:
    """Print to standard error that the processes of an environment have other plugins, if so."""
    others = [
        item
        for item in list_processes(context.engine, [environment])
        if item.serves and item.code != context.host.catalog.code
    ]
    if others:
        click.echo(
            f"note: processes of {environment} run other plugins than this command;"
            f" `penstock ps --env {environment}` lists them",
            err=True,
        )


COMMANDS = (ps, deployments)
