"""Commands that list, enable and disable pipelines, and designate login flows."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import click

from penstock.access import pipelines as access
from penstock.access.snapshot import Snapshot
from penstock.cli.base import (
    Context,
    env_option,
    env_required,
    pass_context,
    show_json,
)
from penstock.cli.deployments import note_other_plugins
from penstock.cli.listings import Listing, listing_options, show_rows
from penstock.gate.exposure import Listed, exposure_document, exposures


@click.group()
def pipeline() -> None:
    """Enable and disable pipelines.

    Name a pipeline by its id (v1/orders), or by its name (orders) for all its major versions.
    """


def _set_enabled(context: Context, name: str, environment: str, *, enabled: bool) -> None:
    identifiers = access.set_pipeline_enabled(
        context.engine,
        context.actor,
        environment,
        name,
        context.host.catalog.offered,
        enabled=enabled,
    )
    click.echo(f"{'enabled' if enabled else 'disabled'} in {environment}: {', '.join(identifiers)}")


@pipeline.command("disable")
@click.argument("name", metavar="PIPELINE")
@env_required
@pass_context
def pipeline_disable(context: Context, name: str, environment: str) -> None:
    """Disable a pipeline in an environment."""
    _set_enabled(context, name, environment, enabled=False)


@pipeline.command("enable")
@click.argument("name", metavar="PIPELINE")
@env_required
@pass_context
def pipeline_enable(context: Context, name: str, environment: str) -> None:
    """Enable a disabled pipeline in an environment."""
    _set_enabled(context, name, environment, enabled=True)


@click.group("login-flow")
def login_flow() -> None:
    """Designate login flows: pipelines that may issue tokens.

    Name a pipeline by its id (v1/login), or by its name (login) for all its major versions.
    """


@login_flow.command("designate")
@click.argument("name", metavar="PIPELINE")
@env_required
@pass_context
def login_flow_designate(context: Context, name: str, environment: str) -> None:
    """Allow a pipeline to issue tokens in an environment."""
    identifiers = access.set_login_flow(
        context.engine,
        context.actor,
        environment,
        name,
        context.host.catalog.offered,
        designated=True,
    )
    click.echo(f"designated as login flow in {environment}: {', '.join(identifiers)}")
    for identifier in identifiers:
        if not context.host.catalog.is_login_flow(identifier):
            click.echo(
                f"warning: the trigger of {identifier} does not declare login=True, so it can't"
                " issue tokens",
                err=True,
            )


@login_flow.command("withdraw")
@click.argument("name", metavar="PIPELINE")
@env_required
@pass_context
def login_flow_withdraw(context: Context, name: str, environment: str) -> None:
    """Stop a pipeline from issuing tokens in an environment."""
    identifiers = access.set_login_flow(
        context.engine,
        context.actor,
        environment,
        name,
        context.host.catalog.offered,
        designated=False,
    )
    click.echo(f"no longer a login flow in {environment}: {', '.join(identifiers)}")


@click.command()
@env_option
@listing_options
@pass_context
def pipelines(context: Context, environment: str | None, listing: Listing) -> None:
    """List pipelines with version, URL, policy and state, by the plugins of this command.

    A note on standard error says where the processes of the environment have other plugins.
    """
    access, evaluated = evaluate(context, context.environment(environment))
    policies = {
        "external": access.environment.policy,
        "internal": access.environment.internal_policy,
        "none": None,
    }
    rows = [
        {
            **exposure_document(
                identifier, exposure, replace(item, pipeline=offer.pipeline), offer.plugin
            ),
            "policy": policies[exposure],
        }
        for identifier, exposure, item in evaluated
        for offer in context.host.catalog.offers(identifier)
    ]
    columns = (
        "name",
        "version",
        "url",
        "exposure",
        "toggles",
        "policy",
        "state",
        "requires",
        "plugin",
        "deprecated",
        "sunset",
        "why",
    )
    show_rows(rows, listing, columns, _cursor, empty="no plugin offers a pipeline")
    for problem in context.host.catalog.faults(
        {identifier: item for identifier, _, item in evaluated}
    ):
        click.echo(f"plugin error: {problem}", err=True)
    for doubt in access.unreadable_rows:
        click.echo(f"unreadable: {doubt}", err=True)
    note_other_plugins(context, access.environment.name)


def _cursor(row: Mapping[str, object]) -> str:
    return f"{row['exposure']}:{row['name']}:{row['version']}:{row['plugin']}"


def evaluate(
    context: Context, environment: str, *, whole: bool = False
) -> tuple[Snapshot, list[Listed]]:
    """Return an environment's access data, and the state of each pipeline on each listener.

    The data of consumers are among them with `whole` alone.
    """
    access, evaluated = context.host.evaluator.evaluate_environment(
        context.engine, environment, context.box, whole=whole
    )
    return access, exposures(evaluated.external, evaluated.internal, context.host.catalog.broken)


@click.command()
@env_option
@click.option("--internal", is_flag=True, help="The API of the internal listener.")
@pass_context
def openapi(context: Context, environment: str | None, internal: bool) -> None:
    """Print the OpenAPI 3.1 document of an environment."""
    name = context.environment(environment)
    _, evaluated = context.host.evaluator.evaluate_environment(context.engine, name, context.box)
    from penstock.web.openapi.document import (  # noqa: PLC0415  it imports Flask, which other commands do not need
        describe,
    )

    show_json(
        describe(
            context.host.catalog,
            name,
            evaluated.on(internal=internal),
            "" if internal else context.settings.url,
        )
    )


COMMANDS = (pipeline, pipelines, login_flow, openapi)
