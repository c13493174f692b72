"""Issue tokens in login flows, and publish the keys that others verify them with."""

from __future__ import annotations

import json
import secrets
import time
from collections.abc import Mapping
from typing import Any

import jwt
from cryptography.hazmat.primitives import serialization
from jwt.algorithms import ECAlgorithm, OKPAlgorithm, RSAAlgorithm

from penstock import AccessView, SigningKey, Token, TokenIssuer, TokenNotIssued
from penstock_jwt.strict_json import STRICT_JSON
from penstock_jwt.tokens import AROUND_TOKEN, MAX_HEADER
from penstock_jwt.verification import SCOPE, TYPE

REGISTERED = frozenset({"iss", "aud", "sub", "client_id", "iat", "nbf", "exp", "jti", "scope"})


class Issuer(TokenIssuer):
    """Signs tokens with the environment's current key."""

    def __init__(self, issuer: str, max_header: int = MAX_HEADER) -> None:
        self._issuer = issuer
        self._max_length = max_header - AROUND_TOKEN

    def issue(
        self,
        access: AccessView,
        consumer: str,
        *,
        subject: str,
        scopes: frozenset[str],
        lifetime: float | None,
        claims: Mapping[str, object],
        now: float,
    ) -> Token:
        """Return a token bound to that consumer. Raises TokenNotIssued.

        `lifetime` is in seconds, None for the environment's limit. `now` is in seconds since the
        epoch.
        """
        seconds = _lifetime(lifetime, access.environment.token_lifetime)
        _check(subject, scopes, claims)
        key = next(
            (key for key in access.signing_keys().values() if key.verify_until is None), None
        )
        if key is None:
            raise TokenNotIssued(
                "this environment has no signing key; `penstock signing-key rotate` makes one"
            )
        issued_at = int(now)
        scope = " ".join(sorted(scopes))
        payload = {
            **claims,
            "iss": self._issuer,
            "aud": access.environment.name,
            "sub": subject,
            "client_id": consumer,
            "iat": issued_at,
            "nbf": issued_at,
            "exp": issued_at + seconds,
            "jti": secrets.token_urlsafe(16),
            "scope": scope,
        }
        return Token(self._sign(payload, claims, key), expires_in=seconds, scope=scope)

    def _sign(
        self, payload: Mapping[str, object], claims: Mapping[str, object], key: SigningKey
    ) -> str:
        try:
            # PyJWT would sign NaN, and {1: 0, "1": 0}, which the gate rejects.
            STRICT_JSON.decode(json.dumps(claims, allow_nan=False))
            signed = jwt.encode(
                dict(payload),
                _load(key),
                algorithm=key.algorithm,
                headers={"kid": key.kid, "typ": TYPE},
            )
        except (TypeError, ValueError, RecursionError) as error:
            raise TokenNotIssued(f"a claim is no JSON: {error}") from error
        if len(signed) > self._max_length:
            raise TokenNotIssued(
                f"the token would have {len(signed)} characters; a header holds {self._max_length}"
                " (PENSTOCK_MAX_HEADER): leave some claims out"
            )
        return signed


def key_set(access: AccessView) -> bytes:
    """Return the public keys that sign or still verify, as a JWK set (RFC 7517)."""
    keys = []
    now = time.time()
    for key in access.signing_keys().values():
        if key.algorithm == "HS256" or (key.verify_until is not None and key.verify_until <= now):
            continue
        public: Any = serialization.load_pem_public_key(key.public)
        kinds = {"EdDSA": OKPAlgorithm, "ES256": ECAlgorithm, "RS256": RSAAlgorithm}
        jwk: dict[str, Any] = kinds[key.algorithm].to_jwk(public, as_dict=True)  # type: ignore[attr-defined]  # all three have it
        jwk.pop("key_ops", None)
        keys.append({**jwk, "kid": key.kid, "alg": key.algorithm, "use": "sig"})
    return json.dumps({"keys": keys}).encode()


def _lifetime(lifetime: float | None, limit: float) -> int:
    """Return the lifetime of a token in seconds. Raises TokenNotIssued."""
    if lifetime is None:
        lifetime = limit
    if not 1 <= lifetime <= limit:
        raise TokenNotIssued(
            f"a token of this environment lives 1 to {limit} seconds, not {lifetime}"
        )
    return int(lifetime)


def _check(subject: object, scopes: frozenset[str], claims: Mapping[str, object]) -> None:
    """Raise TokenNotIssued for a subject, a scope or a claim that a token can't have."""
    if not subject or not isinstance(subject, str):
        raise TokenNotIssued("a token needs a subject")
    if not all(isinstance(scope, str) and SCOPE.fullmatch(scope) for scope in scopes):
        raise TokenNotIssued("a scope is a word without spaces")
    taken = REGISTERED.intersection(claims)
    if taken:
        raise TokenNotIssued(f"the claim {min(taken)!r} can't be set by a pipeline")


def _load(key: SigningKey) -> Any:  # noqa: ANN401  PyJWT takes many kinds of key
    if key.algorithm == "HS256":
        return key.private
    return serialization.load_pem_private_key(key.private, None)
