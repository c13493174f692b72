"""One consumer: its tabs, its description, what it may call, and what stops its calls."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from flask import Response, request, url_for

from penstock.access import consumers as access
from penstock.access.consumers import ConsumerDetails
from penstock.access.credentials import (
    ListedCredential,
    list_credentials,
    revoke_credential,
)
from penstock.access.seen import state_token
from penstock.access.signing_keys import revoke_tokens
from penstock.access.texts import LONGEST
from penstock.access.users import Role
from penstock.console import consumer_tabs as tabs
from penstock.console.confirmation import Confirmation
from penstock.console.consumer_access import (
    AssociationsForm,
    access_values,
    associations_in,
    changed_environments,
)
from penstock.console.context import console_context, environment_filter
from penstock.console.forms import LineField, ReplacingForm
from penstock.console.pages import Scope, page, user
from penstock.console.responses import done, show_form
from penstock.errors import UnknownName

TITLES: Mapping[str, str] = {
    "activity": "Activity",
    "access": "Access",
    "keys": "Keys and credentials",
    "limits": "Limits",
    "runs": "Runs",
    "audit": "Audit",
}
BUILDERS: Mapping[str, Callable[[ConsumerDetails], dict[str, Any]]] = {
    "activity": tabs.activity,
    "keys": tabs.keys,
    "limits": tabs.limits,
    "runs": tabs.runs,
    "audit": tabs.events,
}
FILTERED = frozenset({"activity", "limits", "runs"})  # tabs of one environment, or of all


class DescriptionForm(ReplacingForm):
    """Replaces the description of a consumer."""

    description = LineField(
        "Description",
        description=f"Who this is, and whom to ask. At most {LONGEST['description']} characters.",
    )


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


@page("/consumers/<name>", needs=Role.VIEWER, scope=Scope.ANY)
def consumers_one(name: str) -> Response:
    """Show a tab of a consumer: ?tab= names it."""
    return _show(name, request.args.get("tab", "activity"), AssociationsForm())


def _show(name: str, tab: str, form: AssociationsForm) -> Response:
    """Return the page of a consumer. Raises UnknownName."""
    context, tab = console_context(), tab if tab in TITLES else "activity"
    consumer = visible(access.show_consumer(context.engine, name))
    values = access_values(consumer, form) if tab == "access" else BUILDERS[tab](consumer)
    chosen = environment_filter()
    return show_form(
        "consumer.html",
        form,
        consumer=consumer,
        tab=tab,
        tabs=[
            (title, url_for("console.consumers_one", name=name, tab=word, env=chosen), word == tab)
            for word, title in TITLES.items()
        ],
        environments=context.environment_names(),
        facets=_environments(name, tab, chosen) if tab in FILTERED else [],
        **values,
    )


def _environments(name: str, tab: str, chosen: str | None) -> list[dict[str, object]]:
    """Return the environments as links that filter; the one that is on leads to all."""
    names = console_context().environment_names()
    span = {key: value for key, value in request.args.items() if key in {"from", "to"}}
    options = [
        {
            "text": env,
            "url": url_for(
                "console.consumers_one",
                name=name,
                tab=tab,
                env=None if env == chosen else env,
                **span,  # type: ignore[arg-type]  # a part of the query
            ),
            "on": env == chosen,
        }
        for env in names
    ]
    return [{"name": "Environment", "options": options}] if len(names) > 1 else []


@page("/consumers/<name>/pipelines", needs=Role.VIEWER, scope=Scope.ANY)
def consumers_pipelines(name: str) -> Response:
    """Show the pipelines that a consumer may call."""
    return _show(name, "access", AssociationsForm())


@page("/consumers/<name>/pipelines", needs=Role.OPERATOR, method="POST", scope=changed_environments)
def consumers_associate(name: str) -> Response:
    """Save the checkboxes that were changed, in all environments at once."""
    context, form = console_context(), AssociationsForm()
    with form.faults_at("pipelines"):
        before, after = associations_in("seen", "seen_new"), associations_in("on", "new")
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
        return done(message, "consumers_one", name=name, tab="access")
    return _show(name, "access", form)


@page("/consumers/<name>/description", needs=Role.OPERATOR)
def consumers_description(name: str) -> Response:
    """Show the form for the description of a consumer."""
    saved = _description(name)
    return _show_description(name, DescriptionForm(description=saved, seen=state_token(saved)))


def _description(name: str) -> str:
    return access.show_consumer(console_context().engine, name).description


def _show_description(name: str, form: DescriptionForm) -> Response:
    return show_form("consumer_description.html", form, name=name)


@page("/consumers/<name>/description", needs=Role.OPERATOR, method="POST")
def consumers_describe(name: str) -> Response:
    """Replace the description of a consumer."""
    form = DescriptionForm()
    with form.faults_at("description"):
        access.describe_consumer(
            console_context().engine, user().name, name, form.description.data, seen=form.seen_token
        )
        return done(f"Description of {name} saved.", "consumers_one", name=name)
    return _show_description(name, form)


def _confirm_disable(name: str) -> Confirmation:
    return Confirmation(
        f"Disable {name}? Its calls are rejected within a second, in every environment.",
        verb="Disable consumer",
        other="Keep active",
        back=url_for("console.consumers_one", name=name),
    )


@page("/consumers/<name>/disable", needs=Role.OPERATOR, method="POST", confirm=_confirm_disable)
def consumers_disable(name: str) -> Response:
    """Disable a consumer in every environment."""
    access.set_consumer_enabled(console_context().engine, user().name, name, enabled=False)
    return done(f"{name} disabled in every environment.", "consumers_one", name=name)


@page("/consumers/<name>/enable", needs=Role.OPERATOR, method="POST")
def consumers_enable(name: str) -> Response:
    """Enable a consumer."""
    access.set_consumer_enabled(console_context().engine, user().name, name, enabled=True)
    return done(f"{name} enabled.", "consumers_one", name=name)


def _of_form(**_: str) -> list[str]:
    return [request.values.get("environment", "")]


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


def _credential_of(name: str, identifier: str) -> ListedCredential:
    """Return a credential. Raises UnknownName where the consumer of the page has none of the id."""
    for row in list_credentials(console_context().engine, consumer=name):
        if row.id == identifier:
            return row
    raise UnknownName("credential", identifier, fix=f"the page of {name} lists its credentials")


def _of_credential(name: str, identifier: str) -> list[str]:
    try:
        return [_credential_of(name, identifier).environment]
    except UnknownName:
        return []


def _confirm_credential_revoke(name: str, identifier: str) -> Confirmation:
    row = _credential_of(name, identifier)
    return Confirmation(
        f"Revoke the {row.kind} credential {row.name} of {name} in {row.environment}? Calls with"
        " this credential are rejected within a second, and its secret is deleted.",
        verb="Revoke credential",
        other="Keep credential",
        back=url_for("console.consumers_one", name=name, tab="keys"),
    )


@page(
    "/consumers/<name>/credentials/<identifier>/revoke",
    needs=Role.OPERATOR,
    method="POST",
    scope=_of_credential,
    confirm=_confirm_credential_revoke,
)
def consumers_credential_revoke(name: str, identifier: str) -> Response:
    """Revoke a credential of an authenticator plugin, which can't be undone."""
    row = _credential_of(name, identifier)
    revoke_credential(console_context().engine, user().name, identifier)
    message = f"Credential {row.name} revoked in {row.environment}."
    return done(message, "consumers_one", name=name, tab="keys")
