"""The public keys of outside issuers: fetched, kept, refreshed in the background, and once on a `kid` that is not known."""

from __future__ import annotations

import http.client
import json
import math
import socket
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, NoReturn
from urllib.parse import urlsplit

import jwt

from penstock import CredentialRejected, TrustedIssuer

REFRESH = 600.0  # seconds after which a set is fetched again, beside the calls
RETRY = 30.0  # seconds between two fetches: unknown kids and a provider that is away cause no storm
OLDEST = 86_400.0  # seconds that keys are good for while their provider can't be reached
PATIENCE = 5.0  # seconds that a provider may take, and that a call waits for it
LARGEST = 1024 * 1024  # bytes of a document
LOOPBACK = frozenset({"localhost", "127.0.0.1", "::1"})
ALGORITHMS: Mapping[tuple[str, str | None], frozenset[str]] = {
    ("RSA", None): frozenset({"RS256", "PS256"}),
    ("EC", "P-256"): frozenset({"ES256"}),
    ("EC", "P-384"): frozenset({"ES384"}),
    ("OKP", "Ed25519"): frozenset({"EdDSA"}),
}


@dataclass(frozen=True, slots=True)
class OutsideKey:
    """A public key, and the algorithms it may be used with."""

    key: Any
    algorithms: frozenset[str]


@dataclass(slots=True)
class _Set:
    keys: Mapping[str, OutsideKey] = field(default_factory=dict)
    fetched_at: float = -math.inf
    tried_at: float = -math.inf
    fetching: threading.Lock = field(default_factory=threading.Lock)


def read_set(document: object) -> dict[str, OutsideKey]:
    """Return the keys of a JWK set (RFC 7517) by `kid`: those that can verify signatures; what is private, symmetric or odd is left out."""
    listed = document.get("keys") if isinstance(document, dict) else None
    keys: dict[str, OutsideKey] = {}
    for item in listed if isinstance(listed, list) else []:
        if not isinstance(item, dict) or item.get("use", "sig") != "sig" or {"d", "k"} & item.keys():
            continue
        kind, curve = item.get("kty"), item.get("crv")
        allowed = ALGORITHMS.get((str(kind), None if kind == "RSA" else str(curve)), frozenset())
        if item.get("alg") is not None:
            allowed &= {item["alg"]} if isinstance(item["alg"], str) else frozenset[str]()
        if not allowed:
            continue
        try:
            key = jwt.PyJWK(item, algorithm=min(allowed)).key
        except (jwt.PyJWTError, ValueError, TypeError):
            continue
        keys[str(item.get("kid", ""))] = OutsideKey(key, allowed)
    return keys


class KeySets:
    """The sets of all issuers, by where they come from. A call reads a dict; it waits for the network only where the key is not there."""

    def __init__(self, fetch: Callable[[str], object] | None = None) -> None:
        self._fetch = fetch or _fetch
        self._sets: dict[tuple[str, str | None], _Set] = {}
        self._files: dict[TrustedIssuer, dict[str, OutsideKey]] = {}
        self._lock = threading.Lock()

    def key(self, trusted: TrustedIssuer, kid: str | None) -> OutsideKey:
        """Return an issuer's key; a token without a `kid` fits where there is one key alone. Raises CredentialRejected."""
        if trusted.keys is not None:
            if trusted not in self._files:
                self._files[trusted] = read_set({"keys": [dict(key) for key in trusted.keys]})
            return _chosen(self._files[trusted], kid) or _unknown()
        with self._lock:
            known = self._sets.setdefault((trusted.issuer, trusted.jwks_url), _Set())
        now = time.monotonic()
        found = _chosen(known.keys, kid) if now - known.fetched_at < OLDEST else None
        if found is None:
            self._begin(trusted, known)
            if known.fetching.acquire(timeout=PATIENCE):  # whoever fetches holds it
                known.fetching.release()
            fresh = time.monotonic() - known.fetched_at < OLDEST
            return (_chosen(known.keys, kid) if fresh else None) or _unknown()
        if now - known.fetched_at >= REFRESH:
            self._begin(trusted, known)
        return found

    def _begin(self, trusted: TrustedIssuer, known: _Set) -> None:
        """Begin to fetch a set beside the calls, unless that is going on or was tried a moment ago."""
        if not known.fetching.acquire(blocking=False):
            return
        now = time.monotonic()
        if now - known.tried_at < RETRY:
            known.fetching.release()
            return
        known.tried_at = now
        threading.Thread(target=self._refresh, args=(trusted, known), name="penstock-jwks", daemon=True).start()

    def _refresh(self, trusted: TrustedIssuer, known: _Set) -> None:
        try:
            keys = read_set(self._fetch(trusted.jwks_url or self._discover(trusted.issuer)))
            if keys:
                known.keys = keys
                known.fetched_at = time.monotonic()
        except (OSError, ValueError, RecursionError, http.client.HTTPException):
            pass  # what is known goes on, until it is too old
        finally:
            known.fetching.release()

    def _discover(self, issuer: str) -> str:
        """Return where an issuer's keys are (OpenID Connect Discovery 1.0 section 4)."""
        document = self._fetch(issuer.rstrip("/") + "/.well-known/openid-configuration")
        if not isinstance(document, dict) or document.get("issuer") != issuer or not isinstance(document.get("jwks_uri"), str):
            raise ValueError("the provider's configuration is not that of this issuer")
        url: str = document["jwks_uri"]
        return url


def _chosen(keys: Mapping[str, OutsideKey], kid: str | None) -> OutsideKey | None:
    if kid is None:
        return next(iter(keys.values())) if len(keys) == 1 else None
    return keys.get(kid)


def _unknown() -> NoReturn:
    raise CredentialRejected("its issuer has no such key, or can't be reached")


class _NoRedirects(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, *_: object) -> None:
        """Follow none: keys come from where the operator said."""


class _Bounded(http.client.HTTPConnection):
    """A connection that ends after a time, whatever is still to come: a timeout bounds each read, and there may be many."""

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
        socket.socket.shutdown(connection, socket.SHUT_RDWR)  # below TLS, which another thread is reading


def _fetch(url: str) -> object:
    """Return a JSON document. Raises OSError, ValueError or HTTPException."""
    parts = urlsplit(url)
    if parts.scheme != "https" and not (parts.scheme == "http" and parts.hostname in LOOPBACK):
        raise ValueError("not https")
    opener = urllib.request.build_opener(_NoRedirects, _Http, _Https)
    request = urllib.request.Request(url, headers={"Accept": "application/json", "User-Agent": "penstock"})  # noqa: S310  checked above
    with opener.open(request, timeout=PATIENCE) as response:
        body = response.read(LARGEST + 1)
    if len(body) > LARGEST:
        raise ValueError("too large")
    return json.loads(body)
