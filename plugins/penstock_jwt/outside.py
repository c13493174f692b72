"""The public keys of outside issuers, fetched over HTTPS or read from a file.

A call reads a dict. A set is refreshed in the background, and once more for a `kid` that is not in
it. Only then a call waits for the network, `FETCH_TIMEOUT_S` at most.
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

REFRESH_AFTER_S = 600.0  # a set is fetched again in the background
RETRY_AFTER_S = 30.0  # after each fetch: unknown kids and an outage of the provider cause no storm
MAX_AGE_S = 86_400.0  # of keys while their provider can't be reached
FETCH_TIMEOUT_S = 5.0  # of a fetch, and of a call that waits for it
MAX_DOCUMENT_BYTES = 1024 * 1024
_log = logging.getLogger(__name__)
LOOPBACK = frozenset({"localhost", "127.0.0.1", "::1"})


@dataclass(slots=True)
class _Set:
    keys: KeySet = field(default_factory=KeySet)
    fetched_at: float = -math.inf
    tried_at: float = -math.inf
    fetching: threading.Lock = field(default_factory=threading.Lock)


class KeySets:
    """The key sets of all issuers, by issuer and URL.

    Calls of several threads share one fetch: the thread that fetches holds the set's lock.
    """

    def __init__(self, fetch: Callable[[str], object] | None = None) -> None:
        self._fetch = fetch or _fetch
        self._sets: dict[tuple[str, str | None], _Set] = {}
        self._files: dict[TrustedIssuer, KeySet] = {}
        self._lock = threading.Lock()

    def named(self, trusted: TrustedIssuer, kid: str | None) -> tuple[PublicKey, ...]:
        """Return the keys of an issuer that may have signed a token with this `kid`.

        Raises CredentialRejected if there is none.
        """
        if trusted.keys is not None:
            if trusted not in self._files:
                self._files[trusted] = _read(trusted, {"keys": list(trusted.keys)}, KeySet())
            return self._files[trusted].candidates(kid) or _unknown(self._files[trusted], kid)
        with self._lock:
            key_set = self._sets.setdefault((trusted.issuer, trusted.jwks_url), _Set())
        now = time.monotonic()
        keys = key_set.keys.candidates(kid) if now - key_set.fetched_at < MAX_AGE_S else ()
        if not keys:
            self._begin(trusted, key_set)
            if key_set.fetching.acquire(timeout=FETCH_TIMEOUT_S):  # the end of the fetch
                key_set.fetching.release()
            fresh = time.monotonic() - key_set.fetched_at < MAX_AGE_S
            return (key_set.keys.candidates(kid) if fresh else ()) or _unknown(key_set.keys, kid)
        if now - key_set.fetched_at >= REFRESH_AFTER_S:
            self._begin(trusted, key_set)
        return keys

    def _begin(self, trusted: TrustedIssuer, key_set: _Set) -> None:
        """Fetch a set in the background, unless a fetch is under way or was tried a moment ago."""
        if not key_set.fetching.acquire(blocking=False):
            return
        now = time.monotonic()
        if now - key_set.tried_at < RETRY_AFTER_S:
            key_set.fetching.release()
            return
        key_set.tried_at = now
        threading.Thread(
            target=self._refresh, args=(trusted, key_set), name="penstock-jwks", daemon=True
        ).start()

    def _refresh(self, trusted: TrustedIssuer, key_set: _Set) -> None:
        try:
            keys = _read(
                trusted,
                self._fetch(trusted.jwks_url or self._discover(trusted.issuer)),
                key_set.keys,
            )
            key_set.keys = keys
            if keys.keys:
                key_set.fetched_at = time.monotonic()
        except (OSError, ValueError, RecursionError, http.client.HTTPException):
            pass  # the keys that are there are used until they are too old
        finally:
            key_set.fetching.release()

    def _discover(self, issuer: str) -> str:
        """Return the URL of an issuer's keys (OpenID Connect Discovery 1.0 section 4)."""
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
    """Return the keys of a document, and log each key that can't be used, once.

    Raises ValueError.
    """
    keys = read_key_set(document)
    for key in keys.rejected:
        if key not in before.rejected:
            _log.warning("not used of the keys of %s: %s", trusted.issuer, key)
    return keys


def _unknown(keys: KeySet, kid: str | None) -> NoReturn:
    reason = next(
        (f"its issuer's {key}" for key in keys.rejected if key.kid == kid),
        "its issuer has no such key, or can't be reached",
    )
    raise CredentialRejected(reason)


class _NoRedirects(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, *_: object) -> None:
        """Follow no redirect: keys come from the URL that the operator has set."""


class _Bounded(http.client.HTTPConnection):
    """A connection that ends after FETCH_TIMEOUT_S in any case.

    A socket timeout would bound each read, and a provider may cause many of them.
    """

    def connect(self) -> None:
        """Connect, and start the timer that ends the connection."""
        super().connect()
        timer = threading.Timer(FETCH_TIMEOUT_S, _end, (self.sock,))
        timer.daemon = True
        timer.start()


class _BoundedTls(_Bounded, http.client.HTTPSConnection):
    """A bounded connection over TLS."""


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
    with opener.open(request, timeout=FETCH_TIMEOUT_S) as response:
        body = response.read(MAX_DOCUMENT_BYTES + 1)
    if len(body) > MAX_DOCUMENT_BYTES:
        raise ValueError("too large")
    return json.loads(body)
