"""Callback targets: URLs that receive callbacks when a consumer's durable runs end.

Each has a secret that signs its callbacks.
"""

from __future__ import annotations

import base64
import re
import secrets
from dataclasses import dataclass, field
from urllib.parse import SplitResult, unquote, urlsplit

from penstock import audit
from penstock.access.encryption import SecretBox
from penstock.access.lookup import consumer_in, list_named_settings
from penstock.access.seen import require_seen
from penstock.db.consumer_settings import NamedCallbackTargetRow
from penstock.db.engine import Engine
from penstock.db.tables import CallbackTargetRow
from penstock.errors import UnknownName, UsageError, quoted

MAX_PREFIX_LENGTH = 255  # the length of its column
PORTS = {"https": 443, "http": 80}
WEBHOOK_PREFIX = "whsec_"  # of the Standard Webhooks specification


@dataclass(frozen=True, slots=True)
class CallbackTarget:
    """A URL prefix to which callbacks of a consumer may be sent.

    `private` allows addresses of private networks.
    """

    prefix: str
    private: bool
    secret: bytes = field(repr=False)

    def matches(self, url: str) -> bool:
        """Return whether a URL has this prefix.

        Its scheme, host and port are the same, and its path begins with the prefix's segments.
        """
        try:
            target, prefix = urlsplit(url), urlsplit(self.prefix)
            same_origin = _origin(target) == _origin(prefix)
        except ValueError:
            return False
        path = prefix.path.rstrip("/")
        below = target.path == path or target.path.startswith(path + "/")
        return (
            same_origin
            and below
            and _is_unambiguous(url, target.path)
            and target.username is None
            and target.password is None
        )


def _is_unambiguous(url: str, path: str) -> bool:
    """Return whether every parser of URLs sees the same path.

    No segment leads upwards, in any encoding, and all characters are those of URLs.
    """
    segments = [unquote(segment) for segment in path.split("/")]
    plain = all(32 < ord(character) < 127 and character != "\\" for character in url)  # noqa: PLR2004  the printable ones of ASCII
    return plain and not any(
        segment in {".", ".."} or re.search(r"[/\\\x00-\x1f]", segment) for segment in segments
    )


def _origin(url: SplitResult) -> tuple[str, str | None, int | None]:
    return url.scheme, url.hostname, url.port or PORTS.get(url.scheme)


def encode_secret(secret: bytes) -> str:
    """Return a secret in the form of the Standard Webhooks specification."""
    return WEBHOOK_PREFIX + base64.b64encode(secret).decode()


@dataclass(frozen=True, slots=True)
class AllowedCallbacks:
    """The secret that signs callbacks, and whether another one is not valid any more."""

    secret: str = field(repr=False)
    replaced: bool


def allow_callbacks(  # noqa: PLR0913  one argument a fact
    engine: Engine,
    actor: str,
    consumer: str,
    environment: str,
    prefix: str,
    box: SecretBox,
    *,
    private: bool,
    seen: str | None = None,
) -> AllowedCallbacks:
    """Allow callbacks of a consumer to a URL prefix, and return the new secret that signs them.

    A prefix that is allowed already gets another secret. `seen` is the token of what is replaced
    (`access.seen`). Raises UsageError, UnknownName and Outdated.
    """
    try:
        parts = urlsplit(prefix)
        good = (
            parts.scheme in PORTS
            and bool(parts.hostname)
            and len(prefix) <= MAX_PREFIX_LENGTH
            and (parts.port or 1) > 0
        )
    except ValueError:
        good = False
    if not good or parts.query or parts.fragment or parts.username is not None:
        raise UsageError(
            f"{quoted(prefix)} is no URL to send callbacks below; write one such as"
            " https://erp.acme.example/hooks"
        )
    if parts.scheme == "http" and not private:
        raise UsageError("callbacks go over https; plain http is for private networks (--private)")
    secret = secrets.token_bytes(32)
    with audit.change(
        engine, actor, audit.Action.CALLBACK_ALLOWED, consumer, environment=environment
    ) as (rows, detail):
        place = consumer_in(rows, consumer, environment)
        match = {**place.of(CallbackTargetRow), CallbackTargetRow.prefix: prefix}
        row = rows.find(CallbackTargetRow, match)
        current = row if row is not None and row.active else None
        saved = [(prefix, "allowed; its signing secret is replaced" if current else "not allowed")]
        state = current.revision if current is not None else None
        require_seen(seen, state, f"the callback target {prefix}", saved)
        rows.put(
            CallbackTargetRow,
            match,
            {
                CallbackTargetRow.private: private,
                CallbackTargetRow.sealed: box.encrypt(secret),
                CallbackTargetRow.active: True,
            },
        )
        detail.update(prefix=prefix, private=private)
    return AllowedCallbacks(encode_secret(secret), replaced=current is not None)


def remove_callbacks(
    engine: Engine, actor: str, consumer: str, environment: str, prefix: str
) -> None:
    """Remove a callback target of a consumer, and delete its secret. Raises UnknownName."""
    with audit.change(
        engine, actor, audit.Action.CALLBACK_REMOVED, consumer, environment=environment
    ) as (rows, detail):
        match = consumer_in(rows, consumer, environment).of(CallbackTargetRow)
        active = rows.all(CallbackTargetRow, {**match, CallbackTargetRow.active: True})
        prefixes = [row.prefix for row in active]
        if prefix not in prefixes:
            raise UnknownName(
                f"callback target of {quoted(consumer)} in {quoted(environment)}", prefix, prefixes
            )
        rows.set(
            CallbackTargetRow,
            {**match, CallbackTargetRow.prefix: prefix},
            {CallbackTargetRow.active: False, CallbackTargetRow.sealed: b""},
        )
        detail["prefix"] = prefix


@dataclass(frozen=True, slots=True)
class ListedCallback:
    """A callback target as operators see it, without its secret."""

    id: int
    environment: str
    consumer: str
    prefix: str
    private: bool


def list_callbacks(
    engine: Engine,
    *,
    environment: str | None = None,
    consumer: str | None = None,
    search: str = "",
    after: int | None = None,
    limit: int | None = None,
) -> list[ListedCallback]:
    """Return callback targets by environment and consumer; a page begins after an id.

    Raises UnknownName.
    """
    rows = list_named_settings(
        engine,
        NamedCallbackTargetRow,
        CallbackTargetRow.prefix,
        environment,
        consumer,
        search=search,
        after=after,
        limit=limit,
    )
    return [
        ListedCallback(row.id, row.environment, row.consumer, row.prefix, row.private)
        for row in rows
    ]
