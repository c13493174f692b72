"""What a consumer may call: a row for each pipeline, a checkbox for each environment."""

from __future__ import annotations

from typing import Any

from flask import request

from penstock.access.consumers import Associations, ConsumerDetails
from penstock.access.pipelines import in_order
from penstock.console.context import console_context
from penstock.console.forms import ConsoleForm

NO_LISTENER = "none"  # of a pipeline that only its schedule or other pipelines start


class AssociationsForm(ConsoleForm):
    """Sends a checkbox per pipeline and environment; the page renders the boxes itself."""


def associations_in(cells: str, new: str) -> Associations:
    """Return the associations in the form: values ENVIRONMENT/PIPELINE, and environments."""
    pairs = [value.partition("/") for value in request.form.getlist(cells)]
    return Associations(
        frozenset((environment, pipeline) for environment, _, pipeline in pairs),
        frozenset(request.form.getlist(new)),
    )


def changed_environments(**_: str) -> set[str]:
    """Return the environments in which the form changes the access of a consumer."""
    before, after = associations_in("seen", "seen_new"), associations_in("on", "new")
    pairs = before.pipelines ^ after.pipelines
    return {environment for environment, _ in pairs} | (before.new_pipelines ^ after.new_pipelines)


def access_values(consumer: ConsumerDetails, form: ConsoleForm) -> dict[str, Any]:
    """Return the values of the matrix.

    It has the pipelines that calls can reach, and those that the consumer has access to already.
    """
    context = console_context()
    environments = context.environment_names()
    associated = {name: set(consumer.associations.get(name, ())) for name in environments}
    checked = {f"{name}/{pipeline}" for name in environments for pipeline in associated[name]}
    seen, seen_new = checked, consumer.new_pipelines
    checked_new = seen_new
    if (sent := form.sent) is not None:
        checked, checked_new = set(sent.getlist("on")), sent.getlist("new")
        seen, seen_new = set(sent.getlist("seen")), sent.getlist("seen_new")
    loaded = context.host.catalog.loaded
    reported = {name: context.served(context.view(name)) for name in environments}
    known = {item.pipeline for served in reported.values() for item in served.pipelines}
    reachable = {
        item.pipeline
        for served in reported.values()
        for item in served.pipelines
        if item.listener != NO_LISTENER
    } | {
        identifier
        for identifier, item in loaded.items()
        if item.pipeline.trigger.external or item.pipeline.trigger.internal
    }
    return {
        "identifiers": in_order(reachable.union(*associated.values())),
        "associated": associated,
        "checked": checked,
        "checked_new": checked_new,
        "seen": seen,
        "seen_new": seen_new,
        "served": {
            name: {item.pipeline for item in served.served} for name, served in reported.items()
        },
        "loaded": known | set(loaded),
        "summaries": {identifier: item.pipeline.summary for identifier, item in loaded.items()},
    }
