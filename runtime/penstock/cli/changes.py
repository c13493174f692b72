"""Commands that show, approve and reject changes that need a second approval."""

from __future__ import annotations

import click

from penstock.access import approved_changes
from penstock.audit import approvals
from penstock.cli.base import (
    Context,
    env_option,
    format_option,
    login_name,
    pass_context,
    show,
    show_json,
)
from penstock.gate.policy_change import PolicyChange


@click.group()
def changes() -> None:
    """List, approve and reject changes that wait for a second approval."""


@changes.command("list")
@env_option
@click.option("--all", "decided", is_flag=True, help="Also those that are decided or expired.")
@click.option("--limit", type=click.IntRange(1, 1000), default=50, help="Number of changes.")
@format_option
@pass_context
def changes_list(
    context: Context, environment: str | None, decided: bool, limit: int, form: str
) -> None:
    """List changes that wait for an approval, newest first."""
    show(
        approvals.list_changes(
            context.engine, environment=environment, pending=not decided, limit=limit
        ),
        form,
        ("id", "environment", "kind", "subject", "author", "created_at", "expires_at", "state"),
        empty="no change waits",
    )


@changes.command("show")
@click.argument("number", type=click.IntRange(1, 2**31))
@pass_context
def changes_show(context: Context, number: int) -> None:
    """Show a change with all its values, as JSON."""
    change = approvals.show_change(context.engine, number)
    show_json({name: getattr(change, name) for name in approvals.ListedChange.__slots__})


@changes.command("approve")
@click.argument("number", type=click.IntRange(1, 2**31))
@pass_context
def changes_approve(context: Context, number: int) -> None:
    """Apply a change of another person exactly as it was proposed.

    The approver is the user who is logged in to the operating system; --actor does not count.
    """
    evaluator = context.host.evaluator

    def preview(environment: str, policy: str, internal: bool) -> PolicyChange:
        access, _ = evaluator.evaluate_environment(context.engine, environment, context.box)
        return evaluator.preview(access, policy, internal=internal)

    change = approved_changes.approve(
        context.engine,
        login_name(),
        number,
        offered=context.host.catalog.offered,
        own_issuer=context.settings.issuer,
        preview=preview,
    )
    click.echo(f"change {number} of {change.author} applied in {change.environment}")


@changes.command("reject")
@click.argument("number", type=click.IntRange(1, 2**31))
@pass_context
def changes_reject(context: Context, number: int) -> None:
    """Reject a change; nothing of it is applied."""
    change = approved_changes.reject(context.engine, context.actor, number)
    click.echo(f"change {number} of {change.author} rejected")


COMMANDS = (changes,)
