"""The token authenticator: takes bearer tokens, and remembers which it has verified.

Verifying a signature takes a large part of a call, so results are remembered by the digest of the
token until keys or revocations change. What changes with time is checked at each call.
"""

from __future__ import annotations

import re
import threading
from collections import OrderedDict
from collections.abc import Mapping
from hashlib import sha256
from typing import TypeVar

from penstock import AccessView, Authenticator, Caller, CredentialRejected, RequestHead
from penstock_jwt.verification import TokenVerifier, VerifiedToken

Result = TypeVar("Result")
LEEWAY_S = 30
MAX_CACHED = 8192
MAX_HEADER = 8190  # bytes of a header field, unless the setting says otherwise
# The part of the field beside the token, as the server counts it.
AROUND_TOKEN = len("Authorization: Bearer \r\n")
# The scheme. An empty or malformed rest is taken as a token too, so that it is rejected as one.
BEARER = re.compile(r"bearer(?=[^\x21-\x7e]|$)", re.IGNORECASE)


class Tokens(Authenticator):
    """Accepts a bearer token (RFC 6750) of the consumer whose key came with it."""

    name = "jwt"
    noun = "token"
    refusal = "invalid-token"
    challenge = "Bearer"
    needs = frozenset({"api_key"})
    credential_headers = ("Authorization",)

    def __init__(self, issuer: str, max_header: int = MAX_HEADER) -> None:
        self._verifier = TokenVerifier(issuer, max_header - AROUND_TOKEN)
        self._cache: OrderedDict[bytes, VerifiedToken] = OrderedDict()
        # Tokens that can never become valid, with the reason.
        self._bad: OrderedDict[bytes, str] = OrderedDict()
        self._cache_version = -1
        self._lock = threading.Lock()

    def find(self, head: RequestHead, access: AccessView) -> str | None:  # noqa: ARG002  the same in every environment
        """Return the bearer token; None for any other scheme."""
        value = head.header("Authorization")
        if value is None:
            return None
        scheme = BEARER.match(value)
        return value[scheme.end() :].strip(" \t") if scheme is not None else None

    def verify(self, credential: str, access: AccessView, caller: Caller, now: float) -> Caller:
        """Return the caller with subject, scopes and claims. Raises CredentialRejected."""
        digest = sha256(credential.encode("utf-8", "surrogateescape")).digest()
        token = self._verified(credential, digest, access, now)
        if now >= token.ends + LEEWAY_S or now >= token.verify_until:
            with self._lock:
                self._cache.pop(digest, None)
            raise CredentialRejected("expired")
        if now < token.starts - LEEWAY_S:
            raise CredentialRejected("not yet valid")
        if token.ends - token.issued_at > access.environment.token_lifetime:
            raise CredentialRejected("its lifetime is longer than this environment allows")
        if access.token_revoked(token.jti, token.consumer, token.issued_at):
            raise CredentialRejected("revoked")
        if caller.consumer is None or caller.consumer != token.consumer:
            raise CredentialRejected("not bound to the consumer of the key that came with it")
        return Caller(
            caller.consumer,
            caller.consumer_id,
            caller.key_id,
            token.subject,
            token.scopes,
            token.claims,
        )

    def security_scheme(self) -> Mapping[str, object]:
        """Return the OpenAPI description of bearer tokens."""
        return {"type": "http", "scheme": "bearer", "bearerFormat": "JWT"}

    def _verified(
        self, credential: str, digest: bytes, access: AccessView, now: float
    ) -> VerifiedToken:
        """Return what a token proves, from memory if it was verified before."""
        version = access.tokens_version
        if version != self._cache_version:
            with self._lock:
                self._cache.clear()
                self._bad.clear()
                self._cache_version = version
        cached = self._cache.get(digest)
        if cached is not None and now < cached.reverify_at:
            return cached
        if digest in self._bad:
            raise CredentialRejected(self._bad.get(digest, "seen before"))
        try:
            verified = self._verifier.verify(credential, access, now)
        except CredentialRejected as error:
            # An outside issuer may publish other keys the next moment.
            if not access.trusted_issuers():
                self._remember(self._bad, version, digest, str(error))
            raise
        self._remember(self._cache, version, digest, verified)
        return verified

    def _remember(
        self, cache: OrderedDict[bytes, Result], version: int, digest: bytes, result: Result
    ) -> None:
        with self._lock:
            if self._cache_version == version:
                cache[digest] = result
                if len(cache) > MAX_CACHED:
                    cache.popitem(last=False)
