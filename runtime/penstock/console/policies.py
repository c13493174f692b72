"""Policies: requirements of each environment, the preview of a change, and the history."""

from __future__ import annotations

import time
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

from flask import Response, request, url_for
from wtforms import HiddenField

from penstock.access import policies as access
from penstock.access.durations import read_duration
from penstock.access.users import Role
from penstock.console.context import EnvironmentView, console_context, current_environment
from penstock.console.forms import ConsoleForm, LineField, TextField
from penstock.console.pages import Scope, page, user
from penstock.console.responses import done, redirect_to, render, show_form
from penstock.db.tables import EnvironmentRow
from penstock.gate.compliance import State
from penstock.gate.descriptions import describe_gate
from penstock.gate.exposure import exposures
from penstock.gate.policy_change import PolicyChange
from penstock.runs.recent_callers import NO_CALLERS, callers_as_csv, recent_callers

PER_PAGE = 25
MAX_VERSION = 2**31 - 1  # of an INTEGER column
CALLERS_SHOWN = 10  # consumers of a pipeline; the others are on the page of its usage
INTERNAL, EXTERNAL = "internal", "external"


class PolicyForm(ConsoleForm):
    """Applies a previewed change; the digest tells whether its effect is still the same."""

    exposure = HiddenField()
    policy = HiddenField()
    digest = HiddenField()
    reason = TextField(
        "Reason",
        "Enter a reason for the history.",
        description="Shown in the policy history and audit log.",
    )
    grace = LineField(
        "Grace",
        description="How long pipelines that would stop keep their old gate.",
    )


@page("/policies", needs=Role.VIEWER, scope=Scope.ANY)
def policies() -> str:
    """Show a card per environment."""
    context = console_context()
    return render(
        "policies.html",
        cards=[_card(context.view(row.name)) for row in _in_order(context.environments())],
        meanings=context.host.evaluator.meanings,
    )


def _in_order(rows: Sequence[EnvironmentRow]) -> list[EnvironmentRow]:
    """Return environments with prod first, the others by name."""
    return sorted(rows, key=lambda row: (row.name != "prod", row.name))


def _card(view: EnvironmentView) -> dict[str, Any]:
    """Count the pipelines that comply now, and under each policy."""
    context = console_context()
    listed = exposures(view.evaluated, view.evaluated_internal, context.host.catalog.broken)
    facts = view.access.environment
    sides = []
    for exposure, policy in ((EXTERNAL, facts.policy), (INTERNAL, facts.internal_policy)):
        pipelines = {
            identifier: evaluation for identifier, side, evaluation in listed if side == exposure
        }
        compliant = sum(evaluation.complies for evaluation in pipelines.values())
        by_policy = context.under_each_policy(view, internal=exposure == INTERNAL)
        sides.append(
            {
                "exposure": exposure,
                "policy": policy,
                "total": len(pipelines),
                "compliant": compliant,
                "not_compliant": len(pipelines) - compliant,
                "in_grace": sum(
                    evaluation.state is State.NON_CONFORMANT for evaluation in pipelines.values()
                ),
                "compliant_under": {
                    option: sum(evaluated[identifier].complies for identifier in pipelines)
                    for option, evaluated in by_policy.items()
                },
            }
        )
    return {"name": view.name, "version": facts.policy_version, "sides": sides}


@page("/e/<env>/policy", needs=Role.VIEWER)
def policies_history() -> str:
    """Show the versions of the policies of an environment."""
    name = current_environment()
    before = request.args.get("before", type=int)
    versions = access.policy_versions(
        console_context().engine,
        name,
        before=None if before is None else min(before, MAX_VERSION),
        limit=PER_PAGE + 1,
    )
    following = None
    if len(versions) > PER_PAGE:
        last = versions[PER_PAGE - 1].version
        following = url_for("console.policies_history", env=name, before=last)
    return render(
        "policy_history.html",
        env=name,
        versions=versions[:PER_PAGE],
        following=following,
        first=url_for("console.policies_history", env=name) if before is not None else None,
    )


def _previewed(name: str, exposure: str, policy: str) -> PolicyChange:
    context = console_context()
    return context.host.evaluator.preview(
        context.view(name).access, policy, internal=exposure == INTERNAL
    )


@page("/e/<env>/policy/change", needs=Role.VIEWER)
def policies_preview() -> Response:
    """Show what another policy would change."""
    if "policy" not in request.args:  # after a fault, Enter in the address bar leads here
        return redirect_to(url_for("console.policies"))
    name = current_environment()
    exposure, policy = request.args.get("exposure", EXTERNAL), request.args["policy"]
    change = _previewed(name, exposure, policy)
    access.record_preview(
        console_context().engine, user().name, name, change.after, internal=change.internal
    )
    return _show_change(change, PolicyForm())


def _show_change(change: PolicyChange, form: PolicyForm) -> Response:
    context = console_context()
    environment_id = context.view(change.environment).access.environment.id
    authenticators = context.host.catalog.plugins.authenticators
    form.grace.description = _grace_text(datetime.now(UTC))
    return show_form(
        "policy_change.html",
        form,
        change=change,
        exposure=INTERNAL if change.internal else EXTERNAL,
        meanings=context.host.evaluator.meanings,
        callers=recent_callers(
            context.engine, environment_id, _affected(change), time.time(), CALLERS_SHOWN
        ),
        no_callers=NO_CALLERS,
        schedules=_schedules(change),
        gates={
            identifier: describe_gate(evaluation, authenticators)
            for identifier, evaluation in (*change.changed.items(), *change.starts.items())
        },
    )


def _affected(change: PolicyChange) -> list[str]:
    """Return the pipelines whose callers have to know of a change."""
    return [*change.stops, *change.changed]


def _grace_text(now: datetime) -> str:
    ends = ", ".join(
        f"{text} on {now + timedelta(days=days):%-d %B, %H:%M} UTC"
        for text, days in (("7d", 7), ("2w", 14))
    )
    return (
        "How long pipelines that would stop keep their old gate: 12h, 7d or 2w."
        f" From now on, it ends after {ends}. Empty: they stop at once."
    )


def _schedules(change: PolicyChange) -> dict[str, str]:
    """Return what becomes of the schedules of pipelines that stop."""
    view = console_context().view(change.environment)
    others = view.evaluated if change.internal else view.evaluated_internal
    texts = {}
    for identifier, evaluation in change.stops.items():
        if evaluation.pipeline.schedules:
            other = others.get(identifier)
            served = other is not None and other.served
            listener = EXTERNAL if change.internal else INTERNAL
            texts[identifier] = (
                f"Its schedule continues: the {listener} listener serves it."
                if served
                else "Its schedule stops too."
            )
    return texts


@page("/e/<env>/policy/callers", needs=Role.VIEWER)
def policies_callers() -> Response:
    """Send the callers of the pipelines that another policy would stop or change, as CSV."""
    if "policy" not in request.args:
        return redirect_to(url_for("console.policies"))
    environment = current_environment()
    exposure = request.args.get("exposure", EXTERNAL)
    change = _previewed(environment, exposure, request.args["policy"])
    context = console_context()
    environment_id = context.view(environment).access.environment.id
    lines = callers_as_csv(context.engine, environment_id, _affected(change), time.time())
    name = f"penstock-callers-{environment}-{datetime.now(UTC):%Y%m%d-%H%M%S}.csv"
    headers = {"Content-Disposition": f'attachment; filename="{name}"'}
    return Response(lines, content_type="text/csv; charset=utf-8", headers=headers)


def _until(grace: timedelta) -> str:
    return f"{datetime.now(UTC) + grace:%-d %B %Y, %H:%M} UTC"


@page("/e/<env>/policy/change", needs=Role.OPERATOR, method="POST")
def policies_set() -> Response:
    """Apply a change whose effect is still the one of the preview."""
    name = current_environment()
    form = PolicyForm()
    change = _previewed(name, form.exposure.data or "", form.policy.data or "")
    if form.digest.data != change.digest:
        form.add_fault(
            "digest", "The effect has changed since this preview. Review it and apply again."
        )
        return _show_change(change, form)
    grace = None
    form.is_valid()
    with form.faults_at("grace"):
        grace = read_duration(form.grace.data) if form.grace.data else None
    if not form.has_faults:
        with form.faults_at("grace"):
            access.set_policy(
                console_context().engine,
                user().name,
                name,
                change.after,
                served=change.served,
                stopping=change.stops,
                grace=grace,
                reason=form.reason.data.strip(),
                internal=change.internal,
            )
            kept = f" What it would stop is served until {_until(grace)}." if grace else ""
            return done(
                f"The {form.exposure.data} policy of {name} is {change.after} now.{kept}",
                "policies_history",
                env=name,
            )
    return _show_change(change, form)
