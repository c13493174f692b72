"""One HTTP call in progress: what is known of it from its arrival to its record."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

import msgspec

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


class Exchange(msgspec.Struct, eq=False):
    """The state of one call.

    `values` are those of the path's parameters. `run` is the id of its run and `request_id` the
    caller's own. `began` is a `time.perf_counter()` reading and `deadline` a `time.monotonic()`
    one. `caller` is set once the gate has accepted the call, `runner` once its handler begins.
    `claims` are of messages that count once. `refusal` is what the watchdog answered while the
    handler was still busy, and `close` says that the connection ends with the reply.
    """

    environ: Environ
    place: Place
    values: list[str]
    method: str
    run: str
    request_id: str | None
    began: float
    endpoint: Endpoint | None = None
    caller: Caller | None = None
    call: Call | None = None
    runner: Inline | None = None
    deadline: float | None = None
    claims: tuple[MessageClaim, ...] = ()
    rates: list[tuple[str, str]] = []  # msgspec copies defaults
    awaits_body: bool = False
    recorded: bool = False
    close: bool = False
    refusal: Refusal | None = None

    @classmethod
    def of(cls, environ: Environ, place: Place, values: list[str]) -> Exchange:
        """Return the state of a call that arrives now."""
        began = time.perf_counter()
        sent = environ.get("HTTP_X_REQUEST_ID")
        request_id = sent if sent and REQUEST_ID.fullmatch(sent) and masked(sent) == sent else None
        method = environ["REQUEST_METHOD"]
        return cls(environ, place, values, method, new_run_id(), request_id, began)

    @property
    def repeats(self) -> bool:
        """Whether it is a copy of a call that counts once, with that call's Idempotency-Key.

        Such a copy may have the stored reply alone.
        """
        return bool(self.claims) and not all(claim.owned for claim in self.claims)

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
