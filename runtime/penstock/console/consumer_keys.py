"""API keys of a consumer: create, rotate, disable, enable, revoke."""

from __future__ import annotations

import time

import msgspec
from flask import Response, request, session, url_for

from penstock.access import api_keys
from penstock.access.durations import read_duration
from penstock.access.encryption import UnknownKey
from penstock.access.users import Role
from penstock.console.confirmation import Confirmation
from penstock.console.consumers import NewKeyForm, show_consumer
from penstock.console.context import console_context
from penstock.console.pages import page, user
from penstock.console.responses import done, redirect_to, render
from penstock.errors import UnknownName

NEW_KEY = "new_key"  # in the session
SHOWN_FOR_S = 300.0


def _of_form(**_: str) -> list[str]:
    return [request.values.get("environment", "")]


def _of_key(name: str, key_id: str) -> list[str]:
    """Return the environment of a key in a list, empty where the consumer has no such key."""
    try:
        keys = api_keys.list_keys(console_context().engine, api_keys.KeyQuery(consumer=name))
    except UnknownName:
        return []
    return [key.environment for key in keys if key.id == key_id]


@page("/consumers/<name>/keys", needs=Role.OPERATOR, method="POST", scope=_of_form)
def consumers_key_create(name: str) -> Response:
    """Create a key, and show it once."""
    form, lifetime = NewKeyForm(), None
    if form.is_valid():
        with form.faults_at("expires"):
            lifetime = read_duration(form.expires.data) if form.expires.data else None
    if not form.has_faults:
        with form.faults_at("environment"):
            key = api_keys.create_key(
                console_context().engine,
                user().name,
                name,
                form.environment.data or "",  # a request may lack the field
                expires=lifetime,
                note=form.note.data,
            )
            return _show_key(key)
    return show_consumer(name, form)


def _require_key_of(consumer: str, key_id: str) -> api_keys.ListedKey:
    """Return a key. Raises UnknownName where the consumer of the page has no such key."""
    for key in api_keys.list_keys(console_context().engine, api_keys.KeyQuery(consumer=consumer)):
        if key.id == key_id:
            return key
    raise UnknownName("key", key_id, fix=f"the page of {consumer} lists its keys")


def _show_key(key: api_keys.NewKey, note: str = "") -> Response:
    """Redirect to the page that shows a new key once; a reload does not create another one.

    The key travels in the session's cookie, encrypted with the secret key of the servers.
    """
    content = {"id": key.id, "key": key.key, "note": note, "until": time.time() + SHOWN_FOR_S}
    session[NEW_KEY] = console_context().box.encrypt(msgspec.json.encode(content)).decode()
    return redirect_to(url_for("console.consumers_key_shown", name=key.consumer, key_id=key.id))


def _sealed_key(key_id: str) -> tuple[str, str] | None:
    """Return a new key and its note, the first time; None afterwards."""
    sealed = session.pop(NEW_KEY, None)
    if sealed is None:
        return None
    try:
        content = msgspec.json.decode(console_context().box.decrypt(sealed.encode()))
    except UnknownKey:
        return None
    if content["id"] != key_id or content["until"] < time.time():
        return None
    return content["key"], content["note"]


@page("/consumers/<name>/keys/<key_id>", needs=Role.OPERATOR, scope=_of_key)
def consumers_key_shown(name: str, key_id: str) -> Response:
    """Show a new key once."""
    context, key = console_context(), _require_key_of(name, key_id)
    opened = _sealed_key(key_id)
    return Response(
        render(
            "consumer_key.html",
            key=key,
            secret=opened[0] if opened is not None else None,
            note=opened[1] if opened is not None else "",
            header=context.settings.api_key_headers[0],
        )
    )


def _confirm_rotate(name: str, key_id: str) -> Confirmation:
    key = _require_key_of(name, key_id)
    grace = request.args.get("grace", "")
    return Confirmation(
        f"Rotate key {key.shown_as} of {name}? A new key is created; the old key expires after"
        f" {grace or 'its grace'}.",
        verb="Rotate key",
        other="Keep key",
        back=url_for("console.consumers_one", name=name),
        fields={"grace": grace},
        danger=False,
    )


@page(
    "/consumers/<name>/keys/<key_id>/rotate",
    needs=Role.OPERATOR,
    method="POST",
    scope=_of_key,
    confirm=_confirm_rotate,
)
def consumers_key_rotate(name: str, key_id: str) -> Response:
    """Create the successor of a key, and show it once."""
    form = NewKeyForm()
    _require_key_of(name, key_id)
    with form.faults_at(f"rotate-{key_id}"):
        grace = read_duration(request.form.get("grace", ""))
        key, expires = api_keys.rotate_key(console_context().engine, user().name, key_id, grace)
        return _show_key(key, f"The old key {key_id} works until {expires:%Y-%m-%d %H:%M} UTC.")
    return show_consumer(name, form)


def _confirm_revoke(name: str, key_id: str) -> Confirmation:
    key = _require_key_of(name, key_id)
    return Confirmation(
        f"Revoke key {key.shown_as} of {name}? Calls with this key are rejected within a second."
        " This can't be undone.",
        verb="Revoke key",
        other="Keep key",
        back=url_for("console.consumers_one", name=name),
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
    _require_key_of(name, key_id)
    api_keys.revoke_key(console_context().engine, user().name, key_id)
    return done(f"Key {key_id} revoked.", "consumers_one", name=name)


@page("/consumers/<name>/keys/<key_id>/disable", needs=Role.OPERATOR, method="POST", scope=_of_key)
def consumers_key_disable(name: str, key_id: str) -> Response:
    """Disable a key."""
    _require_key_of(name, key_id)
    api_keys.set_key_enabled(console_context().engine, user().name, key_id, enabled=False)
    return done(f"Key {key_id} disabled.", "consumers_one", name=name)


@page("/consumers/<name>/keys/<key_id>/enable", needs=Role.OPERATOR, method="POST", scope=_of_key)
def consumers_key_enable(name: str, key_id: str) -> Response:
    """Enable a key."""
    _require_key_of(name, key_id)
    api_keys.set_key_enabled(console_context().engine, user().name, key_id, enabled=True)
    return done(f"Key {key_id} enabled.", "consumers_one", name=name)
