"""API keys of a consumer: create, rotate, disable, enable, revoke; and the page of one key."""

from __future__ import annotations

import time
from datetime import datetime

import msgspec
from flask import Response, request, session, url_for

from penstock.access import api_keys
from penstock.access.api_keys import ListedKey
from penstock.access.consumers import show_consumer
from penstock.access.encryption import UnknownKey
from penstock.access.users import Role
from penstock.console.confirmation import Confirmation
from penstock.console.context import console_context, current_environment
from penstock.console.key_forms import (
    USUAL_GRACE,
    USUAL_LIFETIME,
    NewKeyForm,
    RotateForm,
    end_of,
    today,
)
from penstock.console.pages import Scope, page, user
from penstock.console.responses import done, redirect_to, render, show_form
from penstock.console.try_it import document_of, trial
from penstock.errors import UnknownName
from penstock.gate.compliance import SERVED_STATES

NEW_KEY = "new_key"  # in the session
SHOWN_FOR_S = 300.0


def _of_form(**_: str) -> list[str]:
    return [request.values.get("environment", "")]


def _of_key(name: str, key_id: str) -> list[str]:
    """Return the environment of a key in a list, empty where the consumer has no such key."""
    try:
        return [_require_key_of(name, key_id).environment]
    except UnknownName:
        return []


def _require_key_of(consumer: str, key_id: str) -> ListedKey:
    """Return a key. Raises UnknownName where the consumer of the page has no such key."""
    fix = f"the page of {consumer} lists its keys"
    key = api_keys.find_key(console_context().engine, key_id)
    if key is None or key.consumer != consumer:
        raise UnknownName("key", key_id, fix=fix)
    return key


def operated_environments() -> list[str]:
    """Return the environments in which the user may change access."""
    return [
        name
        for name in console_context().environment_names()
        if (role := user().role_in(name)) is not None and role.may(Role.OPERATOR)
    ]


@page("/consumers/<name>/keys/new", needs=Role.OPERATOR, scope=Scope.ANY)
def consumers_key_new(name: str) -> Response:
    """Show the form for a key."""
    form = NewKeyForm(environment=current_environment(), ends=today() + USUAL_LIFETIME)
    return _show_new(name, form)


def _show_new(name: str, form: NewKeyForm) -> Response:
    consumer = show_consumer(console_context().engine, name)
    names = operated_environments()
    form.environment.offer((environment, environment) for environment in names)
    return show_form("consumer_key_new.html", form, consumer=consumer, today=today())


@page("/consumers/<name>/keys/new", needs=Role.OPERATOR, method="POST", scope=_of_form)
def consumers_key_create(name: str) -> Response:
    """Create a key, and redirect to the page that shows it once."""
    form, expires = NewKeyForm(), None
    if form.is_valid():
        expires = form.expires_at()
    if not form.has_faults:
        with form.faults_at("note", environment="environment"):
            key = api_keys.create_key(
                console_context().engine,
                user().name,
                name,
                form.environment.data or "",  # a request may lack the field
                expires=expires,
                note=form.note.data,
            )
            return _show_key(key)
    return _show_new(name, form)


def _show_key(key: api_keys.NewKey, old: str = "", ends: datetime | None = None) -> Response:
    """Redirect to the page that shows a new key once; a reload does not create another one.

    The key travels in the session's cookie, encrypted with the secret key of the servers.
    """
    content = {
        "id": key.id,
        "key": key.key,
        "old": old,
        "ends": ends.timestamp() if ends is not None else 0,
        "until": time.time() + SHOWN_FOR_S,
    }
    session[NEW_KEY] = console_context().box.encrypt(msgspec.json.encode(content)).decode()
    return redirect_to(url_for("console.consumers_key", name=key.consumer, key_id=key.id))


def _sealed_key(key_id: str) -> dict[str, object] | None:
    """Return a new key and what it replaced, the first time; None afterwards."""
    sealed = session.get(NEW_KEY)
    if sealed is None:
        return None
    try:
        content: dict[str, object] = msgspec.json.decode(
            console_context().box.decrypt(sealed.encode())
        )
    except UnknownKey:
        return None
    if content["id"] != key_id:
        return None
    del session[NEW_KEY]
    return content if float(str(content["until"])) >= time.time() else None


@page("/consumers/<name>/keys/<key_id>", needs=Role.VIEWER, scope=_of_key)
def consumers_key(name: str, key_id: str) -> str:
    """Show a key; a new one in clear, once, to the operator who created it."""
    context, key = console_context(), _require_key_of(name, key_id)
    opened = _sealed_key(key_id)
    secret = str(opened["key"]) if opened is not None else None
    return render(
        "consumer_key.html",
        key=key,
        opened=opened,
        secret=secret,
        header=context.settings.api_key_headers[0],
        example=_example_call(key, secret) if secret is not None else "",
    )


def _example_call(key: ListedKey, secret: str) -> str:
    """Return a curl command that calls a pipeline with a key, "" where it may call none."""
    context = console_context()
    view = context.view(key.environment)
    granted = show_consumer(context.engine, key.consumer).associations.get(key.environment, [])
    for identifier in granted:
        evaluated, item = (
            view.evaluated.get(identifier),
            context.host.catalog.loaded.get(identifier),
        )
        if evaluated is None or item is None or evaluated.state not in SERVED_STATES:
            continue
        if item.endpoints:
            document = document_of(identifier, view, evaluated)
            example = trial(identifier, item, document, view, evaluated, internal=False)
            return str(example["command"]).replace("$API_KEY", secret)
    return ""


@page("/consumers/<name>/keys/<key_id>/rotate", needs=Role.OPERATOR, scope=_of_key)
def consumers_key_rotation(name: str, key_id: str) -> Response:
    """Ask when the old key ends, before a key is rotated."""
    key = _require_key_of(name, key_id)
    usual = today() + USUAL_GRACE
    latest = key.expires_at.date() if key.expires_at is not None else usual
    return _show_rotation(key, RotateForm(ends=min(usual, latest)))


def _show_rotation(key: ListedKey, form: RotateForm) -> Response:
    return show_form("consumer_key_rotate.html", form, key=key, today=today())


@page("/consumers/<name>/keys/<key_id>/rotate", needs=Role.OPERATOR, method="POST", scope=_of_key)
def consumers_key_rotate(name: str, key_id: str) -> Response:
    """Create the successor of a key, and redirect to the page that shows it once."""
    form, old = RotateForm(), _require_key_of(name, key_id)
    if form.is_valid() and form.ends.data is None:
        form.add_fault("ends", "Choose the date on which the old key ends.")
    if form.ends.data is not None and not form.has_faults:
        with form.faults_at("ends"):
            key, ends = api_keys.rotate_key(
                console_context().engine, user().name, key_id, end_of(form.ends.data)
            )
            return _show_key(key, old.shown_as, ends)
    return _show_rotation(_require_key_of(name, key_id), form)


def _confirm_revoke(name: str, key_id: str) -> Confirmation:
    key = _require_key_of(name, key_id)
    return Confirmation(
        f"Revoke key {key.shown_as} of {name} in {key.environment}? Calls with this key are"
        " rejected within a second. This can't be undone.",
        verb="Revoke key",
        other="Keep key",
        back=url_for("console.consumers_key", name=name, key_id=key_id),
    )


@page(
    "/consumers/<name>/keys/<key_id>/revoke",
    needs=Role.OPERATOR,
    method="POST",
    scope=_of_key,
    confirm=_confirm_revoke,
)
def consumers_key_revoke(name: str, key_id: str) -> Response:
    """Revoke a key, which can't be undone."""
    key = _require_key_of(name, key_id)
    api_keys.revoke_key(console_context().engine, user().name, key_id)
    return done(f"Key {key.shown_as} revoked.", "consumers_key", name=name, key_id=key_id)


def _confirm_disable(name: str, key_id: str) -> Confirmation:
    key = _require_key_of(name, key_id)
    return Confirmation(
        f"Disable key {key.shown_as} of {name} in {key.environment}? Calls with this key are"
        " rejected within a second, until it is enabled.",
        verb="Disable key",
        other="Keep active",
        back=url_for("console.consumers_key", name=name, key_id=key_id),
    )


@page(
    "/consumers/<name>/keys/<key_id>/disable",
    needs=Role.OPERATOR,
    method="POST",
    scope=_of_key,
    confirm=_confirm_disable,
)
def consumers_key_disable(name: str, key_id: str) -> Response:
    """Disable a key."""
    return _set_enabled(name, key_id, enabled=False)


@page("/consumers/<name>/keys/<key_id>/enable", needs=Role.OPERATOR, method="POST", scope=_of_key)
def consumers_key_enable(name: str, key_id: str) -> Response:
    """Enable a key."""
    return _set_enabled(name, key_id, enabled=True)


def _set_enabled(name: str, key_id: str, *, enabled: bool) -> Response:
    key = _require_key_of(name, key_id)
    api_keys.set_key_enabled(console_context().engine, user().name, key_id, enabled=enabled)
    word = "enabled" if enabled else "disabled"
    return done(f"Key {key.shown_as} {word}.", "consumers_key", name=name, key_id=key_id)
