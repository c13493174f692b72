"""The public keys of outside issuers.

Fetched, kept, refreshed in the background, and once on a `kid` that is not known.
"""

from __future__ import annotations

import http.client
import json
import logging
import math
import socket
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import NoReturn
from urllib.parse import urlsplit

from penstock import CredentialRejected, KeySet, PublicKey, TrustedIssuer, read_key_set

REFRESH = 600.0  # seconds after which a set is fetched again, beside the calls
RETRY = 30.0  # seconds between two fetches: unknown kids and a provider that is away cause no storm
OLDEST = 86_400.0  # seconds that keys are good for while their provider can't be reached
PATIENCE = 5.0  # seconds that a provider may take, and that a call waits for it
LARGEST = 1024 * 1024  # bytes of a document
_log = logging.getLogger(__name__)
LOOPBACK = frozenset({"localhost", "127.0.0.1", "::1"})


@dataclass(slots=True)
class _Set:
    keys: KeySet = field(default_factory=KeySet)
    fetched_at: float = -math.inf
    tried_at: float = -math.inf
    fetching: threading.Lock = field(default_factory=threading.Lock)


class KeySets:
    """The sets of all issuers, by where they come from.

    A call reads a dict; it waits for the network only where the key is not there.
    """

    def __init__(self, fetch: Callable[[str], object] | None = None) -> None:
        self._fetch = fetch or _fetch
        self._sets: dict[tuple[str, str | None], _Set] = {}
        self._files: dict[TrustedIssuer, KeySet] = {}
        self._lock = threading.Lock()

    def named(self, trusted: TrustedIssuer, kid: str | None) -> tuple[PublicKey, ...]:
        """Return the keys of an issuer that a token with this `kid` may be signed with.

        Raises CredentialRejected where there is none.
        """
        if trusted.keys is not None:
            if trusted not in self._files:
                self._files[trusted] = _read(trusted, {"keys": list(trusted.keys)}, KeySet())
            return self._files[trusted].candidates(kid) or _unknown(self._files[trusted], kid)
        with self._lock:
            known = self._sets.setdefault((trusted.issuer, trusted.jwks_url), _Set())
        now = time.monotonic()
        found = known.keys.candidates(kid) if now - known.fetched_at < OLDEST else ()
        if not found:
            self._begin(trusted, known)
            if known.fetching.acquire(timeout=PATIENCE):  # whoever fetches holds it
                known.fetching.release()
            fresh = time.monotonic() - known.fetched_at < OLDEST
            return (known.keys.candidates(kid) if fresh else ()) or _unknown(known.keys, kid)
        if now - known.fetched_at >= REFRESH:
            self._begin(trusted, known)
        return found

    def _begin(self, trusted: TrustedIssuer, known: _Set) -> None:
        """Fetch a set in the background, unless that is under way or was tried a moment ago."""
        if not known.fetching.acquire(blocking=False):
            return
        now = time.monotonic()
        if now - known.tried_at < RETRY:
            known.fetching.release()
            return
        known.tried_at = now
        threading.Thread(
            target=self._refresh, args=(trusted, known), name="penstock-jwks", daemon=True
        ).start()

    def _refresh(self, trusted: TrustedIssuer, known: _Set) -> None:
        try:
            keys = _read(
                trusted, self._fetch(trusted.jwks_url or self._discover(trusted.issuer)), known.keys
            )
            known.keys = keys
            if keys.keys:
                known.fetched_at = time.monotonic()
        except (OSError, ValueError, RecursionError, http.client.HTTPException):
            pass  # what is known goes on, until it is too old
        finally:
            known.fetching.release()

    def _discover(self, issuer: str) -> str:
        """Return where an issuer's keys are (OpenID Connect Discovery 1.0 section 4)."""
        document = self._fetch(issuer.rstrip("/") + "/.well-known/openid-configuration")
        if (
            not isinstance(document, dict)
            or document.get("issuer") != issuer
            or not isinstance(document.get("jwks_uri"), str)
        ):
            raise ValueError("the provider's configuration is not that of this issuer")
        url: str = document["jwks_uri"]
        return url


def _read(trusted: TrustedIssuer, document: object, before: KeySet) -> KeySet:
    """Return what a set holds, and log each key that is not used, unless it was so before.

    Raises ValueError.
    """
    keys = read_key_set(document)
    for key in keys.rejected:
        if key not in before.rejected:
            _log.warning("not used of the keys of %s: %s", trusted.issuer, key)
    return keys


def _unknown(keys: KeySet, kid: str | None) -> NoReturn:
    why = next(
        (f"its issuer's {key}" for key in keys.rejected if key.kid == kid),
        "its issuer has no such key, or can't be reached",
    )
    raise CredentialRejected(why)


class _NoRedirects(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, *_: object) -> None:
        """Follow none: keys come from where the operator said."""


class _Bounded(http.client.HTTPConnection):
    """A connection that ends after a time, whatever is still to come.

    A timeout bounds each read, and there may be many.
    """

    def connect(self) -> None:
        """Connect, and have it ended."""
        super().connect()
        timer = threading.Timer(PATIENCE, _end, (self.sock,))
        timer.daemon = True
        timer.start()


class _BoundedTls(_Bounded, http.client.HTTPSConnection):
    """The same over TLS."""


class _Http(urllib.request.HTTPHandler):
    def http_open(self, request: urllib.request.Request) -> http.client.HTTPResponse:
        return self.do_open(_Bounded, request)


class _Https(urllib.request.HTTPSHandler):
    def https_open(self, request: urllib.request.Request) -> http.client.HTTPResponse:
        return self.do_open(_BoundedTls, request)


def _end(connection: socket.socket) -> None:
    with suppress(OSError):
        # Below TLS, which another thread is reading.
        socket.socket.shutdown(connection, socket.SHUT_RDWR)


def _fetch(url: str) -> object:
    """Return a JSON document. Raises OSError, ValueError or HTTPException."""
    parts = urlsplit(url)
    if parts.scheme != "https" and not (parts.scheme == "http" and parts.hostname in LOOPBACK):
        raise ValueError("not https")
    opener = urllib.request.build_opener(_NoRedirects, _Http, _Https)
    request = urllib.request.Request(  # noqa: S310  checked above
        url, headers={"Accept": "application/json", "User-Agent": "penstock"}
    )
    with opener.open(request, timeout=PATIENCE) as response:
        body = response.read(LARGEST + 1)
    if len(body) > LARGEST:
        raise ValueError("too large")
    return json.loads(body)
