"""Policies.

What each environment asks of its pipelines and calls, what another one would change, and who
changed it when and why.
"""

from __future__ import annotations

import time
from typing import Any

from flask import Response, request, url_for

from penstock.access import policies as access
from penstock.access.durations import read_duration
from penstock.access.users import Role
from penstock.console.context import View, console_context
from penstock.console.pages import Form, done, page, render, show_form, user
from penstock.gate.compliance import State
from penstock.gate.descriptions import describe_gate
from penstock.gate.exposure import exposures
from penstock.gate.policy_change import PolicyChange

PAGE = 25
MOST = 2**31 - 1  # a version that the database can hold
SHOWN = 8  # consumers of a pipeline; the others are named when they are asked for
INTERNAL, EXTERNAL = "internal", "external"


@page("/policies", needs=Role.VIEWER)
def policies() -> str:
    """Show a card for each environment."""
    here = console_context()
    rows = here.environments()
    if user().role.may(Role.OPERATOR):
        # Who looks here chooses next.
        here.callers.get_ready(here.engine, [row["id"] for row in rows], time.time())
    return render(
        "policies.html",
        cards=[_card(here.view(str(row["name"]))) for row in rows],
        meanings=here.host.evaluator.meanings,
    )


def _card(view: View) -> dict[str, Any]:
    """Count what complies, as it is and as it would be under each policy."""
    here = console_context()
    listed = exposures(view.evaluated, view.evaluated_internal, here.host.catalog.broken)
    facts = view.access.environment
    sides = []
    for exposure, policy in ((EXTERNAL, facts.policy), (INTERNAL, facts.internal_policy)):
        mine = {name: item for name, on, item in listed if on == exposure}
        under = here.under_each_policy(view, internal=exposure == INTERNAL)
        sides.append(
            {
                "exposure": exposure,
                "policy": policy,
                "all": len(mine),
                "good": sum(item.complies for item in mine.values()),
                "bad": sum(not item.complies for item in mine.values()),
                "grace": sum(item.state is State.NON_CONFORMANT for item in mine.values()),
                "would": {
                    option: sum(evaluated[name].complies for name in mine)
                    for option, evaluated in under.items()
                },
            }
        )
    return {"name": view.name, "version": facts.policy_version, "sides": sides}


@page("/policies/<name>", needs=Role.VIEWER)
def policies_history(name: str) -> str:
    """Show the versions of an environment's policies."""
    here = console_context()
    before = request.args.get("before", type=int)
    found = access.policy_versions(
        here.engine, name, before=None if before is None else min(before, MOST), limit=PAGE + 1
    )
    onward = (
        url_for("console.policies_history", name=name, before=found[PAGE - 1]["version"])
        if len(found) > PAGE
        else None
    )
    back = url_for("console.policies_history", name=name) if before is not None else None
    return render(
        "policy_history.html",
        env=name,
        versions=found[:PAGE],
        onward=onward,
        back=back,
        now=time.time(),
    )


def _asked(name: str, exposure: str, policy: str) -> PolicyChange:
    here = console_context()
    return here.host.evaluator.preview(
        here.view(name).access, policy, internal=exposure == INTERNAL
    )


@page("/policies/<name>/change", needs=Role.OPERATOR)
def policies_preview(name: str) -> Response:
    """Show what another policy would do, before it is set."""
    change = _asked(name, request.args.get("exposure", EXTERNAL), request.args.get("policy", ""))
    return _change(change, Form())


def _change(change: PolicyChange, form: Form) -> Response:
    here = console_context()
    view = here.view(change.environment)
    concerned = [*change.stops, *change.changed]
    authenticators = here.host.catalog.plugins.authenticators
    return show_form(
        "policy_change.html",
        form,
        change=change,
        exposure=INTERNAL if change.internal else EXTERNAL,
        meanings=here.host.evaluator.meanings,
        shown=SHOWN,
        callers=here.callers.of(here.engine, view.access.environment.id, concerned, time.time()),
        words={
            name: describe_gate(item, authenticators)
            for name, item in (*change.changed.items(), *change.starts.items())
        },
    )


@page("/policies/<name>/callers", needs=Role.OPERATOR)
def policies_callers(name: str) -> str:
    """Name those who called a pipeline of late that the preview had no room for."""
    here, pipeline = console_context(), request.args.get("pipeline", "")
    found = here.callers.of(
        here.engine, here.view(name).access.environment.id, [pipeline], time.time()
    )
    return render("_callers.html", names=found[pipeline][SHOWN:])


@page("/policies/<name>/change", needs=Role.OPERATOR, method="POST")
def policies_set(name: str) -> Response:
    """Set a policy, if what it does is still what was shown."""
    here, form = console_context(), Form()
    change = _asked(name, form["exposure"], form["policy"])
    if form["digest"] != change.digest:
        form.errors["digest"] = (
            "What this would do is different from what you saw. Look at it again."
        )
        return _change(change, form)
    if not (reason := form["reason"].strip()):
        form.errors["reason"] = "Say why, for those who read the history."
    grace = None
    with form.blaming("grace"):
        grace = read_duration(form["grace"]) if form["grace"] else None
    if not form.errors:
        with form.blaming("grace"):
            access.set_policy(
                here.engine,
                user().name,
                name,
                change.after,
                served=change.served,
                stopping=change.stops,
                grace=grace,
                reason=reason,
                internal=change.internal,
            )
            return done(
                f"The {form['exposure']} policy of {name} is {change.after} now.",
                "policies_history",
                name=name,
            )
    return _change(change, form)
