"""Commands that manage environments and their access policies."""

from __future__ import annotations

from datetime import timedelta

import click

from penstock.access import environments, policies
from penstock.access.parsing import RECORDED
from penstock.cli.base import (
    DURATION,
    Context,
    format_option,
    pass_context,
    show,
)
from penstock.cli.listings import Listing, listing_options, show_rows
from penstock.errors import UsageError


@click.group()
def env() -> None:
    """List, create and edit environments."""


@env.command("list")
@listing_options
@pass_context
def env_list(context: Context, listing: Listing) -> None:
    """List environments."""
    rows = environments.list_environments(context.engine)
    show_rows(
        rows,
        listing,
        (
            "name",
            "policy",
            "policy_version",
            "token_lifetime",
            "keys_in_query",
            "algorithm",
            "run_retention",
            "record_bodies",
            "second_approval",
            "created_at",
        ),
        lambda row: row.name,
    )


@env.command("create")
@click.argument("name")
@pass_context
def env_create(context: Context, name: str) -> None:
    """Create an environment with the strictest policy."""
    environments.create_environment(context.engine, context.actor, name, context.box)
    click.echo(f"environment {name} created, policy {environments.STRICTEST_POLICY}")


@env.command("set")
@click.argument("name")
@click.option("--token-lifetime", type=DURATION, help="Max token lifetime, 24h at most.")
@click.option(
    "--keys-in-query",
    type=click.Choice(["on", "off"]),
    help="Whether API keys in the query string are accepted.",
)
@click.option("--run-retention", type=DURATION, help="Run retention: time until runs are deleted.")
@click.option(
    "--record-bodies",
    type=click.Choice(RECORDED),
    help="Bodies that pipelines may record at most.",
)
@click.option(
    "--second-approval",
    type=click.Choice(["on", "off"]),
    help="Whether changes that widen access wait for the approval of another operator.",
)
@pass_context
def env_set(
    context: Context,
    name: str,
    token_lifetime: timedelta | None,
    keys_in_query: str | None,
    run_retention: timedelta | None,
    record_bodies: str | None,
    second_approval: str | None,
) -> None:
    """Change the limits of an environment."""
    environments.change_environment(
        context.engine,
        context.actor,
        name,
        environments.EnvironmentChange(
            token_lifetime=int(token_lifetime.total_seconds()) if token_lifetime else None,
            keys_in_query=keys_in_query == "on" if keys_in_query else None,
            run_retention=int(run_retention.total_seconds()) if run_retention else None,
            record_bodies=record_bodies,
            second_approval=second_approval == "on" if second_approval else None,
        ),
    )
    click.echo(f"environment {name} changed")


@click.group()
def policy() -> None:
    """Show and set the access policies of environments."""


@policy.command("show")
@click.argument("environment", required=False)
@format_option
@pass_context
def policy_show(context: Context, environment: str | None, form: str) -> None:
    """Show all policies, or the policy history of one environment."""
    if environment is None:
        show(
            environments.list_environments(context.engine),
            form,
            ("name", "policy", "internal_policy", "policy_version"),
        )
        return
    rows = policies.policy_versions(context.engine, environment)
    show(
        rows,
        form,
        ("version", "exposure", "policy", "reason", "actor", "grace_until", "created_at"),
    )


@policy.command("set")
@click.argument("environment")
@click.argument("option", metavar="POLICY")
@click.option(
    "--grace", type=DURATION, help="Time for which pipelines that would stop keep the old policy."
)
@click.option("--internal", is_flag=True, help="Set the policy of the internal listener.")
@click.option("--reason", default="", help="Reason, for the audit log.")
@click.option("--dry-run", is_flag=True, help="Preview the change; apply nothing.")
@click.option("--yes", is_flag=True, help="Apply without a confirmation prompt.")
@pass_context
def policy_set(  # noqa: PLR0913, PLR0917  one argument an option
    context: Context,
    environment: str,
    option: str,
    grace: timedelta | None,
    internal: bool,
    reason: str,
    dry_run: bool,
    yes: bool,
) -> None:
    """Set the policy of an environment after a preview.

    The preview lists the pipelines that stop or start being served.
    """
    if internal and grace:
        raise UsageError("the internal policy has no grace period; remove --grace")
    snapshot, _ = context.host.evaluator.evaluate_environment(
        context.engine, environment, context.box
    )
    change = context.host.evaluator.preview(snapshot, option, internal=internal)
    if dry_run:
        policies.record_preview(
            context.engine, context.actor, environment, option, internal=internal
        )
    click.echo(f"{environment}{' (internal)' if internal else ''}: {change.before} -> {option}")
    for name, item in change.stops.items():
        click.echo(
            f"  {'keeps the old policy for now' if grace else 'stops'}: {name}: "
            + "; ".join(violation.fix for violation in item.violations)
        )
    for name, item in change.starts.items():
        click.echo(f"  starts: {name}" + "".join(f" (warning: {text})" for text in item.warnings))
    if not change.stops and not change.starts:
        click.echo("  no pipeline stops or starts")
    if dry_run:
        click.echo("dry run: nothing was changed")
        return
    if change.stops and not grace and not yes:
        count = len(change.stops)
        pipelines = "1 pipeline" if count == 1 else f"{count} pipelines"
        click.confirm(f"{pipelines} will stop being served. Apply {option}?", abort=True)
    policies.set_policy(
        context.engine,
        context.actor,
        environment,
        option,
        served=change.served,
        stopping=change.stops,
        grace=grace,
        reason=reason,
        internal=internal,
    )
    click.echo("policy applied")


COMMANDS = (env, policy)
