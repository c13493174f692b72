"""Verify all of a token that does not change with time: signature, header and claims.

RFC 8725 is the checklist, RFC 9068 the format. The algorithm is the key's and never the header's,
and keys are looked up by `kid`: of what a token says of keys, nothing else is used.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any

import jwt
from cryptography.hazmat.primitives import serialization
from jwt.types import Options

from penstock import AccessView, CredentialRejected, PublicKey, SigningKey, TrustedIssuer
from penstock_jwt.outside import KeySets
from penstock_jwt.strict_json import CLAIMS, HEADER, token_part

TYPE = "at+jwt"
OUTSIDE_TYPES = frozenset({"at+jwt", "application/at+jwt", "jwt", ""})
# After which a token is verified again with its issuer's keys: they may have been withdrawn.
REVERIFY_S = 600.0
DANGEROUS = frozenset({"jku", "x5u", "x5c", "x5t", "jwk", "crit", "b64", "zip", "enc"})
# Some providers send a certificate's thumbprint beside the `kid`. It is ignored.
HARMLESS_OUTSIDE = frozenset({"x5t"})
SCOPE = re.compile(r"[\x21\x23-\x5b\x5d-\x7e]+")  # RFC 6749 section 3.3
# Seconds since the epoch: whole numbers are exact up to here (RFC 8259 section 6).
MAX_MOMENT = 2**53
NOT_VERIFIABLE = jwt.PyJWTError, ValueError, TypeError, AttributeError, RecursionError
# Each is checked by the authenticator against the clock of the call.
CHECKED_AT_EACH_CALL: Options = {
    "verify_exp": False,
    "verify_nbf": False,
    "verify_iat": False,
}


@dataclass(frozen=True, slots=True)
class VerifiedToken:
    """A token whose signature and claims are valid.

    Left to check at each call: the clock, the key's end, and revocation. All moments are in seconds
    since the epoch.
    """

    consumer: str
    subject: str
    scopes: frozenset[str]
    claims: Mapping[str, object]
    jti: str
    issued_at: float
    starts: float
    ends: float
    verify_until: float
    reverify_at: float = math.inf


class TokenVerifier:
    """Verifies tokens of an environment's own keys, and of the issuers that it trusts."""

    def __init__(self, issuer: str, max_length: int) -> None:
        self._issuer = issuer
        self._max_length = max_length
        self._keys: dict[str, tuple[SigningKey, Any]] = {}
        self._outside = KeySets()

    def verify(self, token: str, access: AccessView, now: float) -> VerifiedToken:
        """Return what a token proves. Raises CredentialRejected."""
        if len(token) > self._max_length:
            raise CredentialRejected("too long")
        # PyJWT rejects anything else that is not base64url. Padding would be a second spelling of
        # the same token (RFC 7515 section 2).
        if "=" in token:
            raise CredentialRejected("padded")
        trusted = _claimed_issuer(token, access)
        if trusted is not None:
            return self._verify_outside(token, trusted, now)
        return self._verify_own(token, access)

    def _verify_own(self, token: str, access: AccessView) -> VerifiedToken:
        try:
            header = token_part(token, HEADER)
            if not DANGEROUS.isdisjoint(header):
                raise CredentialRejected("its header asks for more than is supported")
            key = access.signing_keys().get(header.get("kid", ""))
            if (
                key is None
                or header.get("alg") != key.algorithm
                or str(header.get("typ", "")).lower() != TYPE
            ):
                raise CredentialRejected("unknown kid, or another alg or typ")
            claims = jwt.decode(
                token,
                self._verification_key(key),
                algorithms=[key.algorithm],
                issuer=self._issuer,
                options={
                    **CHECKED_AT_EACH_CALL,
                    "enforce_minimum_key_length": True,
                    "require": ["iss", "aud", "sub", "client_id", "iat", "nbf", "exp", "jti"],
                    "verify_aud": False,  # exactly one audience, below
                },
            )
            token_part(token, CLAIMS)
        except NOT_VERIFIABLE as error:
            raise CredentialRejected(f"not verifiable: {type(error).__name__}") from error
        if claims["aud"] != access.environment.name:
            raise CredentialRejected("for another audience")
        return _verified(claims, math.inf if key.verify_until is None else key.verify_until)

    def _verify_outside(self, token: str, trusted: TrustedIssuer, now: float) -> VerifiedToken:
        """Verify a token of an outside issuer with that issuer's keys, and no others."""
        try:
            header = token_part(token, HEADER)
            dangerous = not (DANGEROUS - HARMLESS_OUTSIDE).isdisjoint(header)
            if dangerous or str(header.get("typ", "")).lower() not in OUTSIDE_TYPES:
                raise CredentialRejected(
                    "its header asks for more than is supported, or is of another typ"
                )
            if "kid" in header and not isinstance(header["kid"], str):
                raise CredentialRejected("a kid that is no text")
            keys = [
                key
                for key in self._outside.named(trusted, header.get("kid"))
                if header.get("alg") in key.algorithms
            ]
            claims = _outside_claims(token, trusted, keys, header.get("alg"))
            token_part(token, CLAIMS)
        except NOT_VERIFIABLE as error:
            raise CredentialRejected(f"not verifiable: {type(error).__name__}") from error
        own_names = {
            "client_id": _consumer(claims, trusted),
            "nbf": claims.get("nbf", claims["iat"]),
            "jti": claims.get("jti") or "-",
            "scope": _scopes(claims, trusted),
        }
        verified = _verified({**claims, **own_names}, math.inf)
        return replace(verified, claims=claims, reverify_at=now + REVERIFY_S)

    def _verification_key(self, key: SigningKey) -> Any:  # noqa: ANN401  PyJWT takes many kinds of key
        loaded = self._keys.get(key.kid)
        if loaded is None or loaded[0].public != key.public:
            loaded = self._keys[key.kid] = (key, _load(key))
        return loaded[1]


def _load(key: SigningKey) -> Any:  # noqa: ANN401  PyJWT takes many kinds of key
    if key.algorithm == "HS256":
        return key.private
    return serialization.load_pem_public_key(key.public)


def _verified(claims: dict[str, Any], verify_until: float) -> VerifiedToken:
    """Return a verified token. Raises CredentialRejected for claims of wrong types."""
    moments = [claims["iat"], claims["nbf"], claims["exp"]]
    texts = [claims["sub"], claims["client_id"], claims["jti"], claims.get("scope", "")]
    if not all(
        isinstance(moment, int | float)
        and not isinstance(moment, bool)
        and 0 <= moment < MAX_MOMENT
        for moment in moments
    ):
        raise CredentialRejected("a time that is no moment")
    if not all(isinstance(text, str) for text in texts) or not all(texts[:3]):
        raise CredentialRejected("a claim of the wrong type")
    return VerifiedToken(
        consumer=texts[1],
        subject=texts[0],
        scopes=frozenset(texts[3].split(" ")) - {""},  # the space alone (RFC 6749 section 3.3)
        claims=claims,
        jti=texts[2],
        issued_at=moments[0],
        starts=max(moments[0], moments[1]),
        ends=moments[2],
        verify_until=verify_until,
    )


def _claimed_issuer(token: str, access: AccessView) -> TrustedIssuer | None:
    """Return the trusted issuer that a token names.

    The name is not verified yet: it only decides whose keys must have signed the token.
    """
    issuers = access.trusted_issuers()
    if not issuers:
        return None
    try:
        claims = jwt.decode(token, options={"verify_signature": False})
    except NOT_VERIFIABLE:
        return None
    issuer = claims.get("iss")
    return issuers.get(issuer) if isinstance(issuer, str) else None


def _outside_claims(
    token: str, trusted: TrustedIssuer, keys: list[PublicKey], algorithm: str | None
) -> dict[str, Any]:
    """Return the claims that one of these keys signed.

    Raises CredentialRejected and the exceptions of PyJWT.
    """
    for key in keys:
        with suppress(jwt.InvalidSignatureError):
            return jwt.decode(
                token,
                key.key,
                algorithms=[str(algorithm)],
                issuer=trusted.issuer,
                audience=trusted.audience,
                options={
                    **CHECKED_AT_EACH_CALL,
                    "enforce_minimum_key_length": True,
                    "require": ["iss", "aud", "sub", "iat", "exp"],
                },
            )
    raise CredentialRejected(
        "not signed by its issuer's key" if keys else "another alg than its key's"
    )


def _consumer(claims: Mapping[str, Any], trusted: TrustedIssuer) -> object:
    """Return the name of the consumer that a token's claims stand for; empty if for none."""
    if trusted.consumer is not None:
        return trusted.consumer
    value = claims.get(trusted.consumer_claim)
    if not isinstance(value, str):
        return ""
    return trusted.consumers.get(value, "") if trusted.consumers else value


def _scopes(claims: Mapping[str, Any], trusted: TrustedIssuer) -> object:
    """Return the scopes of a token, separated by spaces; some issuers send them as a list."""
    scopes = claims.get(trusted.scope_claim) or ""
    if isinstance(scopes, list) and all(isinstance(scope, str) for scope in scopes):
        return " ".join(scope for scope in scopes if SCOPE.fullmatch(scope))
    return scopes
