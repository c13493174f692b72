"""Changes that wait for a second approval: the list, approve and reject."""

from __future__ import annotations

from flask import Response, url_for

from penstock.access import approved_changes
from penstock.access.users import Role
from penstock.audit import approvals
from penstock.console.confirmation import Confirmation
from penstock.console.context import console_context
from penstock.console.pages import Scope, page, user
from penstock.console.responses import done, render
from penstock.errors import UnknownName
from penstock.gate.policy_change import PolicyChange

SHOWN = 100


def _environment_of(number: int) -> list[str]:
    """Return the environment of a change in a list, empty where there is none."""
    try:
        return [approvals.show_change(console_context().engine, number).environment]
    except UnknownName:
        return []


@page("/changes", needs=Role.VIEWER, scope=Scope.ANY)
def changes() -> str:
    """List changes that needed an approval, newest first."""
    context = console_context()
    names = context.environment_names()
    rows = [
        change
        for change in approvals.list_changes(context.engine, limit=SHOWN)
        if change.environment in names
    ]
    return render("changes.html", changes=rows)


def _confirm_approve(number: int) -> Confirmation:
    change = approvals.show_change(console_context().engine, number)
    return Confirmation(
        f"Apply change {number} of {change.author} in {change.environment}?",
        verb="Approve change",
        other="Leave pending",
        back=url_for("console.changes"),
    )


def _confirm_reject(number: int) -> Confirmation:
    change = approvals.show_change(console_context().engine, number)
    return Confirmation(
        f"Reject change {number} of {change.author} in {change.environment}?",
        verb="Reject change",
        other="Leave pending",
        back=url_for("console.changes"),
    )


@page(
    "/changes/<int:number>/approve",
    needs=Role.OPERATOR,
    method="POST",
    scope=_environment_of,
    confirm=_confirm_approve,
)
def changes_approve(number: int) -> Response:
    """Apply a change of another user exactly as it was proposed."""
    context = console_context()

    def preview(environment: str, policy: str, internal: bool) -> PolicyChange:
        access = context.view(environment).access
        return context.host.evaluator.preview(access, policy, internal=internal)

    change = approved_changes.approve(
        context.engine,
        user().name,
        number,
        offered=context.host.catalog.offered,
        own_issuer=context.settings.issuer,
        preview=preview,
    )
    return done(f"Change {number} of {change.author} applied in {change.environment}.", "changes")


@page(
    "/changes/<int:number>/reject",
    needs=Role.OPERATOR,
    method="POST",
    scope=_environment_of,
    confirm=_confirm_reject,
)
def changes_reject(number: int) -> Response:
    """Reject a change."""
    change = approved_changes.reject(console_context().engine, user().name, number)
    return done(f"Change {number} of {change.author} rejected.", "changes")
