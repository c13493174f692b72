"""Consumers: who may call which pipeline in which environment, and their API keys."""

from __future__ import annotations

from typing import Any

from flask import Response, request, url_for

from penstock.access import api_keys
from penstock.access import consumers as access
from penstock.access.consumers import Associations
from penstock.access.durations import read_duration
from penstock.access.pipelines import in_order
from penstock.access.signing_keys import revoke_tokens
from penstock.access.users import Role
from penstock.console.context import console_context
from penstock.console.pages import Form, done, page, render, show_form, user
from penstock.gate.compliance import SERVED_STATES

PAGE = 50
ENDED = 20  # keys that have ended, shown
LIFETIMES = (
    ("", "for ever"),
    ("1d", "a day"),
    ("7d", "a week"),
    ("30d", "30 days"),
    ("90d", "90 days"),
    ("365d", "a year"),
)
GRACES = (
    ("1h", "end in an hour"),
    ("1d", "end in a day"),
    ("7d", "end in a week"),
    ("30d", "end in 30 days"),
)


def _environments() -> list[str]:
    return [row.name for row in console_context().environments()]


@page("/consumers", needs=Role.VIEWER)
def consumers() -> str:
    """List consumers."""
    find, after = request.args.get("find", "").strip()[:64], request.args.get("after")
    found = access.page_consumers(console_context().engine, find=find, after=after, limit=PAGE + 1)
    kept: dict[str, Any] = {"find": find} if find else {}
    onward = (
        url_for("console.consumers", after=found[PAGE - 1]["name"], **kept)
        if len(found) > PAGE
        else None
    )
    back = url_for("console.consumers", **kept) if after else None
    return render(
        "consumers.html",
        consumers=found[:PAGE],
        environments=_environments(),
        find=find,
        onward=onward,
        back=back,
    )


@page("/new-consumer", needs=Role.OPERATOR)
def consumers_new() -> Response:
    """Show the form for a consumer."""
    return show_form("consumer_new.html", Form())


@page("/new-consumer", needs=Role.OPERATOR, method="POST")
def consumers_create() -> Response:
    """Make a consumer."""
    form = Form()
    name = form["name"].strip()
    with form.blaming("name"):
        access.create_consumer(
            console_context().engine, user().name, name, form["description"].strip()
        )
        return done(
            f"{name} is made. Give it a key, and say what it may call.", "consumers_one", name=name
        )
    return show_form("consumer_new.html", form)


@page("/consumers/<name>", needs=Role.VIEWER)
def consumers_one(name: str) -> Response:
    """Show a consumer."""
    return _one(name, Form(expires="90d", environment=console_context().settings.environment))


def _one(name: str, form: Form) -> Response:
    here = console_context()
    found = access.show_consumer(here.engine, name)
    names = _environments()
    keys = list(reversed(found.keys))
    ended = [key for key in keys if key.state in {"revoked", "expired"}]
    return show_form(
        "consumer.html",
        form,
        one=found,
        environments=names,
        pairs=[(item, item) for item in names],
        keys=[key for key in keys if key not in ended],
        ended=ended[:ENDED],
        older=max(0, len(ended) - ENDED),
        lifetimes=LIFETIMES,
        graces=GRACES,
    )


@page("/consumers/<name>/disable", needs=Role.OPERATOR, method="POST")
def consumers_disable(name: str) -> Response:
    """Keep a consumer out everywhere."""
    access.set_consumer_enabled(console_context().engine, user().name, name, enabled=False)
    return done(f"{name} is kept out, in every environment.", "consumers_one", name=name)


@page("/consumers/<name>/enable", needs=Role.OPERATOR, method="POST")
def consumers_enable(name: str) -> Response:
    """Let a consumer in again."""
    access.set_consumer_enabled(console_context().engine, user().name, name, enabled=True)
    return done(f"{name} may call again.", "consumers_one", name=name)


@page("/consumers/<name>/tokens/revoke", needs=Role.OPERATOR, method="POST")
def consumers_tokens_revoke(name: str) -> Response:
    """End all tokens of a consumer in an environment."""
    environment = Form()["environment"]
    revoke_tokens(console_context().engine, user().name, environment, consumer=name)
    return done(f"All tokens of {name} in {environment} have ended.", "consumers_one", name=name)


@page("/consumers/<name>/keys", needs=Role.OPERATOR, method="POST")
def consumers_key_create(name: str) -> Response:
    """Make a key, which is shown this once."""
    form = Form()
    lifetime = None
    with form.blaming("expires"):
        lifetime = read_duration(form["expires"]) if form["expires"] else None
    if not form.errors:
        with form.blaming("environment"):
            made = api_keys.create_key(
                console_context().engine,
                user().name,
                name,
                form["environment"],
                expires=lifetime,
                note=form["note"].strip(),
            )
            return _once(made, "")
    return _one(name, form)


def _once(made: api_keys.NewKey, more: str) -> Response:
    return Response(render("consumer_key.html", made=made, more=more))


@page("/consumers/<name>/keys/<key_id>/rotate", needs=Role.OPERATOR, method="POST")
def consumers_key_rotate(name: str, key_id: str) -> Response:
    """Make a key's successor, which is shown this once."""
    form = Form()
    with form.blaming(f"rotate-{key_id}"):
        made, ends = api_keys.rotate_key(
            console_context().engine, user().name, key_id, read_duration(form["grace"])
        )
        return _once(made, f"The old one, {key_id}, goes on until {ends:%Y-%m-%d %H:%M} UTC.")
    return _one(name, form)


@page("/consumers/<name>/keys/<key_id>/revoke", needs=Role.OPERATOR, method="POST")
def consumers_key_revoke(name: str, key_id: str) -> Response:
    """End a key for good."""
    api_keys.revoke_key(console_context().engine, user().name, key_id)
    return done(f"The key {key_id} is revoked.", "consumers_one", name=name)


@page("/consumers/<name>/keys/<key_id>/disable", needs=Role.OPERATOR, method="POST")
def consumers_key_disable(name: str, key_id: str) -> Response:
    """Switch a key off."""
    api_keys.set_key_enabled(console_context().engine, user().name, key_id, enabled=False)
    return done(f"The key {key_id} is switched off.", "consumers_one", name=name)


@page("/consumers/<name>/keys/<key_id>/enable", needs=Role.OPERATOR, method="POST")
def consumers_key_enable(name: str, key_id: str) -> Response:
    """Switch a key on again."""
    api_keys.set_key_enabled(console_context().engine, user().name, key_id, enabled=True)
    return done(f"The key {key_id} works again.", "consumers_one", name=name)


@page("/consumers/<name>/pipelines", needs=Role.VIEWER)
def consumers_pipelines(name: str) -> Response:
    """Show which pipelines a consumer may call: a row each, with a box for each environment."""
    return _matrix(name, Form())


@page("/consumers/<name>/pipelines", needs=Role.OPERATOR, method="POST")
def consumers_associate(name: str) -> Response:
    """Save the boxes that were changed, of all environments at once."""
    here, form = console_context(), Form()
    with form.blaming("pipelines"):
        seen, wanted = _sent(form, "seen", "seen_new"), _sent(form, "on", "new")
        added, removed = access.save_associations(
            here.engine, user().name, name, seen, wanted, here.host.catalog.offered
        )
        turned = len(seen.new_pipelines ^ wanted.new_pipelines)
        said = [
            f"{added} added" if added else "",
            f"{removed} taken away" if removed else "",
            "new pipelines set" if turned else "",
        ]
        what = ", ".join(text for text in said if text)
        return done(
            f"Saved: {what}." if what else "Nothing was changed.", "consumers_one", name=name
        )
    return _matrix(name, form)


def _sent(form: Form, pairs: str, new: str) -> Associations:
    cells = [value.partition("/") for value in form.all(pairs)]
    return Associations(
        frozenset((environment, pipeline) for environment, _, pipeline in cells),
        frozenset(form.all(new)),
    )


def _matrix(name: str, form: Form) -> Response:
    here = console_context()
    found = access.show_consumer(here.engine, name)
    environments = _environments()
    served = {
        environment: {
            identifier for identifier, _, _ in here.view(environment).of_state(*SERVED_STATES)
        }
        for environment in environments
    }
    held = {
        environment: set(found.associations.get(environment, ())) for environment in environments
    }
    identifiers = in_order(set(here.host.catalog.loaded).union(*held.values()))
    summaries = {
        identifier: item.pipeline.summary for identifier, item in here.host.catalog.loaded.items()
    }
    chosen = (
        set(form.all("on"))
        if form.errors
        else {
            f"{environment}/{pipeline}"
            for environment in environments
            for pipeline in held[environment]
        }
    )
    return show_form(
        "consumer_pipelines.html",
        form,
        one=found,
        environments=environments,
        identifiers=identifiers,
        held=held,
        chosen=chosen,
        served=served,
        loaded=here.host.catalog.loaded,
        summaries=summaries,
    )
