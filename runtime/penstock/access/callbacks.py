"""Callback targets.

Where the end of a consumer's durable runs may be told, and the secret that signs it.
"""

from __future__ import annotations

import base64
import re
import secrets
from dataclasses import dataclass, field
from urllib.parse import SplitResult, unquote, urlsplit

from penstock import audit
from penstock.access.encryption import SecretBox
from penstock.access.lookup import consumer_in, listed_of_consumers
from penstock.db.engine import Engine
from penstock.errors import UnknownName, UsageError

LONGEST = 255
PORTS = {"https": 443, "http": 80}
KIND = "whsec_"  # as the Standard Webhooks specification writes secrets


@dataclass(frozen=True, slots=True)
class CallbackTarget:
    """A URL below which a consumer may have callbacks sent.

    `private` says that it may be on a private network.
    """

    prefix: str
    private: bool
    secret: bytes = field(repr=False)

    def takes(self, url: str) -> bool:
        """Say whether a URL is below this one.

        The same scheme, host and port, and a path that begins with its segments.
        """
        try:
            wanted, mine = urlsplit(url), urlsplit(self.prefix)
            same = _origin(wanted) == _origin(mine)
        except ValueError:
            return False
        path = mine.path.rstrip("/")
        below = wanted.path == path or wanted.path.startswith(path + "/")
        return (
            same
            and below
            and _straight(url, wanted.path)
            and wanted.username is None
            and wanted.password is None
        )


def _straight(url: str, path: str) -> bool:
    """Say whether whoever reads a URL finds the same path in it.

    Nothing leads upwards, however it is written, or is no URL's character.
    """
    segments = [unquote(segment) for segment in path.split("/")]
    plain = all(32 < ord(character) < 127 and character != "\\" for character in url)  # noqa: PLR2004  the printable ones of ASCII
    return plain and not any(
        segment in {".", ".."} or re.search(r"[/\\\x00-\x1f]", segment) for segment in segments
    )


def _origin(url: SplitResult) -> tuple[str, str | None, int | None]:
    return url.scheme, url.hostname, url.port or PORTS.get(url.scheme)


def shown(secret: bytes) -> str:
    """Return a secret as its consumer is told it."""
    return KIND + base64.b64encode(secret).decode()


def allow_callbacks(
    engine: Engine,
    actor: str,
    consumer: str,
    environment: str,
    prefix: str,
    box: SecretBox,
    *,
    private: bool,
) -> str:
    """Let a consumer have callbacks sent below a URL, and return the new secret that signs them."""
    try:
        parts = urlsplit(prefix)
        good = (
            parts.scheme in PORTS
            and bool(parts.hostname)
            and len(prefix) <= LONGEST
            and (parts.port or 1) > 0
        )
    except ValueError:
        good = False
    if not good or parts.query or parts.fragment or parts.username is not None:
        raise UsageError(
            f"{prefix!r} is no URL to send callbacks below; write one such as"
            " https://erp.acme.example/hooks"
        )
    if parts.scheme == "http" and not private:
        raise UsageError("callbacks go over https; plain http is for private networks (--private)")
    secret = secrets.token_bytes(32)
    with audit.change(
        engine, actor, audit.Action.CALLBACK_ALLOWED, consumer, environment=environment
    ) as (rows, detail):
        where = consumer_in(rows, consumer, environment)
        rows.put(
            "callback_targets",
            {**where, "prefix": prefix},
            private=private,
            sealed=box.encrypt(secret),
            active=True,
        )
        detail.update(prefix=prefix, private=private)
    return shown(secret)


def remove_callbacks(
    engine: Engine, actor: str, consumer: str, environment: str, prefix: str
) -> None:
    """Send a consumer no more callbacks below a URL; its secret is wiped."""
    with audit.change(
        engine, actor, audit.Action.CALLBACK_REMOVED, consumer, environment=environment
    ) as (rows, detail):
        where = consumer_in(rows, consumer, environment)
        known = [row["prefix"] for row in rows.all("callback_targets", **where, active=True)]
        if prefix not in known:
            raise UnknownName(f"callback target of {consumer!r} in {environment!r}", prefix, known)
        rows.set("callback_targets", {**where, "prefix": prefix}, active=False, sealed=b"")
        detail["prefix"] = prefix


def list_callbacks(
    engine: Engine,
    *,
    environment: str | None = None,
    consumer: str | None = None,
    after: int | None = None,
    limit: int | None = None,
) -> list[dict[str, object]]:
    """Return callback targets, without their secrets, by environment and consumer.

    A page of them goes on after an id.
    """
    return listed_of_consumers(
        engine,
        "callback_targets",
        ("prefix", "private"),
        environment,
        consumer,
        after=after,
        limit=limit,
    )
