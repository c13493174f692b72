"""Consumers: the list, one consumer, and the pipelines that it may call in each environment."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from flask import Response, request, url_for

from penstock.access import consumers as access
from penstock.access.consumers import Associations, ConsumerDetails
from penstock.access.pipelines import in_order
from penstock.access.signing_keys import revoke_tokens
from penstock.access.users import Role
from penstock.console.confirmation import Confirmation
from penstock.console.context import console_context
from penstock.console.forms import ChoiceField, ConsoleForm, FilterForm, LineField
from penstock.console.pages import Scope, page, user
from penstock.console.responses import done, render, show_form
from penstock.gate.compliance import SERVED_STATES

PER_PAGE = 50
MAX_FIND_LENGTH = 64
MAX_ENDED_KEYS = 20  # expired and revoked keys on the page of a consumer
LIFETIMES = (
    ("", "never"),
    ("1d", "in a day"),
    ("7d", "in a week"),
    ("30d", "in 30 days"),
    ("90d", "in 90 days"),
    ("365d", "in a year"),
)
GRACES = (
    ("1h", "old key expires in an hour"),
    ("1d", "old key expires in a day"),
    ("7d", "old key expires in a week"),
    ("30d", "old key expires in 30 days"),
)


class FindForm(FilterForm):
    """Finds consumers by a part of their name."""

    find = LineField("Find by name", render_kw={"type": "search", "placeholder": "Part of a name"})


class NewConsumerForm(ConsoleForm):
    """Creates a consumer."""

    name = LineField(
        "Name",
        "Enter a name.",
        description="Letters, digits, dots, dashes and underscores, 64 at most. It can't be"
        " changed later.",
    )
    description = LineField("Description", description="Who this is, and whom to ask.")


class NewKeyForm(ConsoleForm):
    """Creates a key of a consumer."""

    environment = ChoiceField("Environment", checked_by_domain=True)
    expires = ChoiceField("Expires", LIFETIMES, checked_by_domain=True, default="90d")
    note = LineField("Note")


class AssociationsForm(ConsoleForm):
    """Sends a checkbox per pipeline and environment; the page renders the boxes itself."""


def _of_form(**_: str) -> list[str]:
    return [request.values.get("environment", "")]


def _associated(**_: str) -> set[str]:
    """Return the environments in which the form changes the access of a consumer."""
    before, after = _associations("seen", "seen_new"), _associations("on", "new")
    pairs = before.pipelines ^ after.pipelines
    return {environment for environment, _ in pairs} | (before.new_pipelines ^ after.new_pipelines)


def visible(consumer: ConsumerDetails) -> ConsumerDetails:
    """Return a consumer without what it has in environments that the user may not see."""
    names = set(console_context().environment_names())
    return replace(
        consumer,
        associations={
            name: pipelines for name, pipelines in consumer.associations.items() if name in names
        },
        new_pipelines=[name for name in consumer.new_pipelines if name in names],
        keys=[key for key in consumer.keys if key.environment in names],
    )


@page("/consumers", needs=Role.VIEWER, scope=Scope.ANY)
def consumers() -> str:
    """List consumers."""
    context, form, after = console_context(), FindForm(), request.args.get("after")
    find = form.find.data[:MAX_FIND_LENGTH]
    rows = access.page_consumers(context.engine, find=find, after=after, limit=PER_PAGE + 1)
    query: dict[str, Any] = {"find": find} if find else {}
    following = None
    if len(rows) > PER_PAGE:
        following = url_for("console.consumers", after=rows[PER_PAGE - 1].name, **query)
    return render(
        "consumers.html",
        form=form,
        consumers=rows[:PER_PAGE],
        environments=context.environment_names(),
        find=find,
        following=following,
        first=url_for("console.consumers", **query) if after else None,
    )


@page("/new-consumer", needs=Role.OPERATOR)
def consumers_new() -> Response:
    """Show the form for a consumer."""
    return show_form("consumer_new.html", NewConsumerForm())


@page("/new-consumer", needs=Role.OPERATOR, method="POST")
def consumers_create() -> Response:
    """Create a consumer."""
    form = NewConsumerForm()
    name = form.name.data
    if form.is_valid():
        with form.faults_at("name"):
            access.create_consumer(
                console_context().engine, user().name, name, form.description.data
            )
            return done(
                f"{name} created. Next: create a key and grant access.", "consumers_one", name=name
            )
    return show_form("consumer_new.html", form)


@page("/consumers/<name>", needs=Role.VIEWER, scope=Scope.ANY)
def consumers_one(name: str) -> Response:
    """Show a consumer."""
    return show_consumer(name, NewKeyForm(environment=console_context().settings.environment))


def show_consumer(name: str, form: NewKeyForm) -> Response:
    """Return the page of a consumer. Raises UnknownName."""
    context = console_context()
    consumer = visible(access.show_consumer(context.engine, name))
    environments = context.environment_names()
    form.environment.offer((environment, environment) for environment in environments)
    keys = list(reversed(consumer.keys))
    ended = [key for key in keys if key.state in {"revoked", "expired"}]
    return show_form(
        "consumer.html",
        form,
        consumer=consumer,
        environments=environments,
        keys=[key for key in keys if key not in ended],
        ended=ended[:MAX_ENDED_KEYS],
        older=max(0, len(ended) - MAX_ENDED_KEYS),
        graces=GRACES,
    )


def _confirm_disable(name: str) -> Confirmation:
    return Confirmation(
        f"Disable {name}? Its calls are rejected within a second, in every environment.",
        verb="Disable consumer",
        other="Keep active",
        back=url_for("console.consumers_one", name=name),
    )


@page(
    "/consumers/<name>/disable",
    needs=Role.OPERATOR,
    method="POST",
    confirm=_confirm_disable,
)
def consumers_disable(name: str) -> Response:
    """Disable a consumer in every environment."""
    access.set_consumer_enabled(console_context().engine, user().name, name, enabled=False)
    return done(f"{name} disabled in every environment.", "consumers_one", name=name)


@page("/consumers/<name>/enable", needs=Role.OPERATOR, method="POST")
def consumers_enable(name: str) -> Response:
    """Enable a consumer."""
    access.set_consumer_enabled(console_context().engine, user().name, name, enabled=True)
    return done(f"{name} enabled.", "consumers_one", name=name)


def _confirm_tokens_revoke(name: str) -> Confirmation:
    environment = request.args.get("environment", "")
    return Confirmation(
        f"Revoke all tokens of {name} in {environment}? The consumer has to log in again.",
        verb="Revoke tokens",
        other="Keep tokens",
        back=url_for("console.consumers_one", name=name),
        fields={"environment": environment},
    )


@page(
    "/consumers/<name>/tokens/revoke",
    needs=Role.OPERATOR,
    method="POST",
    scope=_of_form,
    confirm=_confirm_tokens_revoke,
)
def consumers_tokens_revoke(name: str) -> Response:
    """Revoke all tokens of a consumer in an environment."""
    environment = request.form.get("environment", "")
    revoke_tokens(console_context().engine, user().name, environment, consumer=name)
    return done(f"All tokens of {name} revoked in {environment}.", "consumers_one", name=name)


@page("/consumers/<name>/pipelines", needs=Role.VIEWER, scope=Scope.ANY)
def consumers_pipelines(name: str) -> Response:
    """Show the pipelines that a consumer may call: a row each, a checkbox per environment."""
    return _show_access(name, AssociationsForm())


@page("/consumers/<name>/pipelines", needs=Role.OPERATOR, method="POST", scope=_associated)
def consumers_associate(name: str) -> Response:
    """Save the checkboxes that were changed, in all environments at once."""
    context, form = console_context(), AssociationsForm()
    with form.faults_at("pipelines"):
        before, after = _associations("seen", "seen_new"), _associations("on", "new")
        added, removed, waiting = access.save_associations(
            context.engine, user().name, name, before, after, context.host.catalog.offered
        )
        changes = [
            f"{added} added" if added else "",
            f"{removed} removed" if removed else "",
            f"{waiting} waiting for a second approval" if waiting else "",
            "new pipelines changed" if before.new_pipelines != after.new_pipelines else "",
        ]
        summary = ", ".join(change for change in changes if change)
        message = f"Access of {name} saved: {summary}." if summary else "Nothing changed."
        return done(message, "consumers_one", name=name)
    return _show_access(name, form)


def _associations(cells: str, new: str) -> Associations:
    """Return the associations in the form: values ENVIRONMENT/PIPELINE, and environments."""
    pairs = [value.partition("/") for value in request.form.getlist(cells)]
    return Associations(
        frozenset((environment, pipeline) for environment, _, pipeline in pairs),
        frozenset(request.form.getlist(new)),
    )


def _show_access(name: str, form: AssociationsForm) -> Response:
    context = console_context()
    consumer = visible(access.show_consumer(context.engine, name))
    environments = context.environment_names()
    associated = {
        environment: set(consumer.associations.get(environment, ())) for environment in environments
    }
    checked = {
        f"{environment}/{pipeline}"
        for environment in environments
        for pipeline in associated[environment]
    }
    seen, seen_new = checked, consumer.new_pipelines
    checked_new = seen_new
    if (sent := form.sent) is not None:
        checked, checked_new = set(sent.getlist("on")), sent.getlist("new")
        seen, seen_new = set(sent.getlist("seen")), sent.getlist("seen_new")
    loaded = context.host.catalog.loaded
    return show_form(
        "consumer_pipelines.html",
        form,
        consumer=consumer,
        environments=environments,
        identifiers=in_order(set(loaded).union(*associated.values())),
        associated=associated,
        checked=checked,
        checked_new=checked_new,
        seen=seen,
        seen_new=seen_new,
        served={
            environment: {
                identifier
                for identifier, _, _ in context.view(environment).in_state(*SERVED_STATES)
            }
            for environment in environments
        },
        loaded=loaded,
        summaries={identifier: item.pipeline.summary for identifier, item in loaded.items()},
    )
