"""One HTTP call in progress: what is known of it from its arrival to its record."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

from penstock.access.replay_guard import MessageClaim
from penstock.contracts.call import Call, Caller
from penstock.contracts.masks import masked
from penstock.endpoints.endpoint import Endpoint
from penstock.endpoints.router import Place
from penstock.errors import Refusal
from penstock.http.addresses import client_address
from penstock.runs.ids import REQUEST_ID, new_run_id
from penstock.runs.steps import Inline
from penstock.settings import Settings

Environ = dict[str, Any]


class Exchange:
    """The state of one call.

    `run` is the id of its run and `request_id` the caller's own. `caller` is set once the gate has
    accepted the call, `runner` once its handler begins. `deadline` is a `time.monotonic()` reading.
    `claims` are of messages that count once. `refusal` is what the watchdog answered while the
    handler was still busy, and `close` says that the connection ends with the reply.
    """

    __slots__ = (
        "awaits_body",
        "began",
        "call",
        "caller",
        "claims",
        "close",
        "deadline",
        "endpoint",
        "environ",
        "method",
        "place",
        "rates",
        "recorded",
        "refusal",
        "request_id",
        "run",
        "runner",
        "values",
    )

    def __init__(self, environ: Environ, place: Place, values: list[str]) -> None:
        self.began = time.perf_counter()
        self.environ = environ
        self.place = place
        self.values = values  # of the path's parameters
        self.method: str = environ["REQUEST_METHOD"]
        self.run = new_run_id()
        sent = environ.get("HTTP_X_REQUEST_ID")
        self.request_id = (
            sent if sent and REQUEST_ID.fullmatch(sent) and masked(sent) == sent else None
        )
        self.endpoint: Endpoint | None = None
        self.caller: Caller | None = None
        self.call: Call | None = None
        self.runner: Inline | None = None
        self.deadline: float | None = None
        self.claims: tuple[MessageClaim, ...] = ()
        self.rates: list[tuple[str, str]] = []
        self.awaits_body = False
        self.recorded = False
        self.close = False
        self.refusal: Refusal | None = None

    @property
    def repeats(self) -> bool:
        """Whether it is a copy of a call that counts once, with that call's Idempotency-Key.

        Such a copy may have the stored reply alone.
        """
        return not all(claim.owned for claim in self.claims)

    @property
    def seconds(self) -> float:
        """The seconds since its arrival."""
        return time.perf_counter() - self.began


def reason_of(refusal: Refusal) -> str | None:
    """Return why a credential was rejected, for log and record: the caller never sees it."""
    return (
        str(refusal.__cause__)
        if refusal.__cause__ is not None and refusal.status in {401, 403}
        else None
    )


def request_path(environ: Environ) -> str:
    """Return the path as text.

    WSGI passes its bytes as one character each (PEP 3333). Raises UnicodeDecodeError.
    """
    path: str = environ["PATH_INFO"]
    return path if path.isascii() else path.encode("latin-1").decode("utf-8")


def request_query(environ: Environ) -> str:
    """Return the query as text. Bytes that are not escaped are UTF-8, as in the path."""
    query: str = environ.get("QUERY_STRING", "")
    return query if query.isascii() else query.encode("latin-1").decode("utf-8", "replace")


def request_headers(environ: Environ) -> Mapping[str, str]:
    """Return the request's headers by name in lower case."""
    fields = {
        name[5:].replace("_", "-").lower(): value
        for name, value in environ.items()
        if name.startswith("HTTP_")
    }
    for name in ("CONTENT_TYPE", "CONTENT_LENGTH"):
        if environ.get(name):
            fields[name.replace("_", "-").lower()] = environ[name]
    return fields


def address_of_caller(settings: Settings, environ: Environ) -> str:
    """Return the network address of a caller, as far as a trusted proxy says."""
    return client_address(environ, settings.trusted_proxies, settings.forwarded_header)
