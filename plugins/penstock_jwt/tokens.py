"""Sign and verify tokens.

The only module that speaks PyJWT. RFC 8725 is the checklist, RFC 9068 the shape.
"""

from __future__ import annotations

import json
import math
import re
import secrets
import threading
import time
from collections import OrderedDict
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from hashlib import sha256
from typing import Any, NoReturn, TypeVar

import jwt
from cryptography.hazmat.primitives import serialization
from jwt.algorithms import ECAlgorithm, OKPAlgorithm, RSAAlgorithm
from jwt.utils import base64url_decode

from penstock import (
    AccessView,
    Authenticator,
    Caller,
    CredentialRejected,
    PublicKey,
    RequestHead,
    SigningKey,
    Token,
    TokenIssuer,
    TokenNotIssued,
    TrustedIssuer,
)
from penstock_jwt.outside import KeySets

Kept = TypeVar("Kept")
LEEWAY = 30
TYPE = "at+jwt"
OUTSIDE_TYPES = frozenset({"at+jwt", "application/at+jwt", "jwt", ""})
# Seconds after which a token is held against its issuer's keys once more: they may have been
# withdrawn.
PROVE_AGAIN = 600.0
REGISTERED = frozenset({"iss", "aud", "sub", "client_id", "iat", "nbf", "exp", "jti", "scope"})
DANGEROUS = frozenset({"jku", "x5u", "x5c", "x5t", "jwk", "crit", "b64", "zip", "enc"})
# Some providers send a certificate's thumbprint beside the `kid`; it is not looked at.
HARMLESS_OUTSIDE = frozenset({"x5t"})
CACHED = 8192
MAX_HEADER = 8190  # bytes of a header field, where the setting says nothing else
# What the server counts of the field beside the token.
AROUND_TOKEN = len("Authorization: Bearer \r\n")
SCOPE = re.compile(r"[\x21\x23-\x5b\x5d-\x7e]+")  # RFC 6749 section 3.3
# Whatever comes after it: what is no token then is refused.
BEARER = re.compile(r"bearer(?=[^\x21-\x7e]|$)", re.IGNORECASE)
LATEST = 2**53  # seconds since the epoch: whole numbers are exact up to here (RFC 8259 section 6)


def _verifier(key: SigningKey) -> Any:  # noqa: ANN401  PyJWT takes many kinds of key
    return (
        key.private if key.algorithm == "HS256" else serialization.load_pem_public_key(key.public)
    )


def _signer(key: SigningKey) -> Any:  # noqa: ANN401  PyJWT takes many kinds of key
    return (
        key.private
        if key.algorithm == "HS256"
        else serialization.load_pem_private_key(key.private, None)
    )


@dataclass(frozen=True, slots=True)
class _Proven:
    """A token whose signature and claims held.

    What is left to check is the clock, the key and revocation.
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
    prove_again_at: float = math.inf


class Tokens(Authenticator):
    """Takes a bearer token (RFC 6750) of this environment's login flow.

    The token must be of the consumer whose key came with it.
    """

    name = "jwt"
    noun = "token"
    refusal = "invalid-token"
    challenge = "Bearer"
    needs = frozenset({"api_key"})
    credential_headers = ("Authorization",)

    def __init__(self, issuer: str, max_header: int = MAX_HEADER) -> None:
        self._issuer = issuer
        self._longest = max_header - AROUND_TOKEN
        self._cache: OrderedDict[bytes, _Proven] = OrderedDict()
        # Tokens that no clock makes good, and why.
        self._bad: OrderedDict[bytes, str] = OrderedDict()
        self._cache_version = -1
        self._lock = threading.Lock()
        self._keys: dict[str, tuple[SigningKey, Any]] = {}
        self._outside = KeySets()

    def find(self, head: RequestHead, access: AccessView) -> str | None:  # noqa: ARG002  the same in every environment
        """Return the bearer token; any other scheme is not ours."""
        value = head.header("Authorization")
        if value is None:
            return None
        scheme = BEARER.match(value)
        return value[scheme.end() :].strip(" \t") if scheme is not None else None

    def verify(self, credential: str, access: AccessView, caller: Caller, now: float) -> Caller:
        """Return the caller with subject, scopes and claims."""
        digest = sha256(credential.encode("utf-8", "surrogateescape")).digest()
        proven = self._known(credential, digest, access, now)
        if now >= proven.ends + LEEWAY or now >= proven.verify_until:
            with self._lock:
                self._cache.pop(digest, None)
            raise CredentialRejected("expired")
        if now < proven.starts - LEEWAY:
            raise CredentialRejected("not yet valid")
        if proven.ends - proven.issued_at > access.environment.token_lifetime:
            raise CredentialRejected("its lifetime is longer than this environment allows")
        if access.token_revoked(proven.jti, proven.consumer, proven.issued_at):
            raise CredentialRejected("revoked")
        if caller.consumer is None or caller.consumer != proven.consumer:
            raise CredentialRejected("not bound to the consumer of the key that came with it")
        return Caller(
            caller.consumer,
            caller.consumer_id,
            caller.key_id,
            proven.subject,
            proven.scopes,
            proven.claims,
        )

    def _known(self, credential: str, digest: bytes, access: AccessView, now: float) -> _Proven:
        """Return what a token proves, from memory if it was seen before."""
        version = access.tokens_version
        if version != self._cache_version:
            with self._lock:
                self._cache.clear()
                self._bad.clear()
                self._cache_version = version
        proven = self._cache.get(digest)
        if proven is not None and now < proven.prove_again_at:
            return proven
        if digest in self._bad:
            raise CredentialRejected(self._bad.get(digest, "seen before"))
        try:
            proven = self._prove(credential, access, now)
        except CredentialRejected as error:
            if not access.trusted_issuers():  # whose keys may be others the next moment
                self._keep(self._bad, version, digest, str(error))
            raise
        self._keep(self._cache, version, digest, proven)
        return proven

    def _keep(
        self, cache: OrderedDict[bytes, Kept], version: int, digest: bytes, what: Kept
    ) -> None:
        with self._lock:
            if self._cache_version == version:
                cache[digest] = what
                if len(cache) > CACHED:
                    cache.popitem(last=False)

    def security_scheme(self) -> Mapping[str, object]:
        """Describe bearer tokens."""
        return {"type": "http", "scheme": "bearer", "bearerFormat": "JWT"}

    def _prove(self, token: str, access: AccessView, now: float) -> _Proven:
        """Check all that does not change with time."""
        if len(token) > self._longest:
            raise CredentialRejected("too long")
        # PyJWT refuses whatever else is not base64url; padding would be a second spelling (RFC 7515
        # section 2).
        if "=" in token:
            raise CredentialRejected("padded")
        trusted = _trusted(token, access)
        if trusted is not None:
            return self._prove_outside(token, trusted, now)
        try:
            header = _object(token, 0)
            if not DANGEROUS.isdisjoint(header):
                raise CredentialRejected("its header asks for more than we do")
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
                    "enforce_minimum_key_length": True,
                    "require": ["iss", "aud", "sub", "client_id", "iat", "nbf", "exp", "jti"],
                    "verify_exp": False,  # against the call's clock, in verify
                    "verify_nbf": False,
                    "verify_iat": False,
                    "verify_aud": False,  # exactly one audience, below
                },
            )
            _object(token, 1)
        except (jwt.PyJWTError, ValueError, TypeError, AttributeError, RecursionError) as error:
            raise CredentialRejected(f"not verifiable: {type(error).__name__}") from error
        if claims["aud"] != access.environment.name:
            raise CredentialRejected("for another audience")
        return self._proven(claims, math.inf if key.verify_until is None else key.verify_until)

    def _prove_outside(self, token: str, trusted: TrustedIssuer, now: float) -> _Proven:
        """Check a token of an outside issuer.

        Only that issuer's keys count, and of what the token says of keys, only their `kid`.
        """
        try:
            header = _object(token, 0)
            if (
                not (DANGEROUS - HARMLESS_OUTSIDE).isdisjoint(header)
                or str(header.get("typ", "")).lower() not in OUTSIDE_TYPES
            ):
                raise CredentialRejected(
                    "its header asks for more than we do, or is of another typ"
                )
            if "kid" in header and not isinstance(header["kid"], str):
                raise CredentialRejected("a kid that is no text")
            keys = [
                key
                for key in self._outside.named(trusted, header.get("kid"))
                if header.get("alg") in key.algorithms
            ]
            claims = _claims_outside(token, trusted, keys, header.get("alg"))
            _object(token, 1)
        except (jwt.PyJWTError, ValueError, TypeError, AttributeError, RecursionError) as error:
            raise CredentialRejected(f"not verifiable: {type(error).__name__}") from error
        scopes = claims.get(trusted.scope_claim) or ""
        if isinstance(scopes, list) and all(isinstance(scope, str) for scope in scopes):
            scopes = " ".join(scope for scope in scopes if SCOPE.fullmatch(scope))
        ours = {
            "client_id": _consumer(claims, trusted),
            "nbf": claims.get("nbf", claims["iat"]),
            "jti": claims.get("jti") or "-",
            "scope": scopes,
        }
        proven = self._proven({**claims, **ours}, math.inf)
        return replace(proven, claims=claims, prove_again_at=now + PROVE_AGAIN)

    @staticmethod
    def _proven(claims: dict[str, Any], verify_until: float) -> _Proven:
        times = [claims["iat"], claims["nbf"], claims["exp"]]
        texts = [claims["sub"], claims["client_id"], claims["jti"], claims.get("scope", "")]
        if not all(
            isinstance(moment, int | float)
            and not isinstance(moment, bool)
            and 0 <= moment < LATEST
            for moment in times
        ):
            raise CredentialRejected("a time that is no moment")
        if not all(isinstance(text, str) for text in texts) or not all(texts[:3]):
            raise CredentialRejected("a claim of the wrong type")
        return _Proven(
            consumer=texts[1],
            subject=texts[0],
            scopes=frozenset(texts[3].split(" ")) - {""},  # the space alone (RFC 6749 section 3.3)
            claims=claims,
            jti=texts[2],
            issued_at=times[0],
            starts=max(times[0], times[1]),
            ends=times[2],
            verify_until=verify_until,
        )

    def _verification_key(self, key: SigningKey) -> Any:  # noqa: ANN401  PyJWT takes many kinds of key
        known = self._keys.get(key.kid)
        if known is None or known[0].public != key.public:
            known = self._keys[key.kid] = (key, _verifier(key))
        return known[1]


def _object(token: str, part: int) -> dict[str, Any]:
    """Return a token's header (0) or claims (1).

    A JSON object in UTF-8, in which no name comes twice. Raises ValueError or TypeError.

    `jwt.decode` reads them once more; it would take other encodings, and the last of two members.
    """
    text = base64url_decode(token.split(".", 2)[part].encode()).decode("utf-8")
    found = _JSON.decode(text)
    if not isinstance(found, dict):
        raise TypeError("it is no object")
    return found


def _distinct(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    members = dict(pairs)
    if len(members) != len(pairs):
        raise ValueError("a name comes twice")
    return members


def _no_json(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is no JSON")


_JSON = json.JSONDecoder(object_pairs_hook=_distinct, parse_constant=_no_json)


def _claims_outside(
    token: str, trusted: TrustedIssuer, keys: list[PublicKey], algorithm: str | None
) -> dict[str, Any]:
    """Return the claims that one of these keys signed.

    Raises CredentialRejected, and what PyJWT raises.
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
                    "enforce_minimum_key_length": True,
                    "require": ["iss", "aud", "sub", "iat", "exp"],
                    "verify_exp": False,  # against the call's clock, in verify
                    "verify_nbf": False,
                    "verify_iat": False,
                },
            )
    raise CredentialRejected(
        "not signed by its issuer's key" if keys else "another alg than its key's"
    )


def _trusted(token: str, access: AccessView) -> TrustedIssuer | None:
    """Return the outside issuer that a token says it is of.

    What it says is only believed as far as whose keys it is held against.
    """
    issuers = access.trusted_issuers()
    if not issuers:
        return None
    try:
        claims = jwt.decode(token, options={"verify_signature": False})
    except (jwt.PyJWTError, ValueError, TypeError, AttributeError, RecursionError):
        return None
    said = claims.get("iss")
    return issuers.get(said) if isinstance(said, str) else None


def _consumer(claims: Mapping[str, Any], trusted: TrustedIssuer) -> object:
    """Return the consumer's name that a token's claims mean; nothing where they mean none."""
    if trusted.consumer is not None:
        return trusted.consumer
    value = claims.get(trusted.consumer_claim)
    if not isinstance(value, str):
        return ""
    return trusted.consumers.get(value, "") if trusted.consumers else value


class Issuer(TokenIssuer):
    """Signs tokens with the environment's current key."""

    def __init__(self, issuer: str, max_header: int = MAX_HEADER) -> None:
        self._issuer = issuer
        self._longest = max_header - AROUND_TOKEN

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
        """Return a token bound to that consumer."""
        limit = access.environment.token_lifetime
        if lifetime is None:
            lifetime = limit
        if not 1 <= lifetime <= limit:
            raise TokenNotIssued(
                f"a token of this environment lives 1 to {limit} seconds, not {lifetime}"
            )
        seconds = int(lifetime)
        if not subject or not isinstance(subject, str):
            raise TokenNotIssued("a token needs a subject")
        if not all(isinstance(scope, str) and SCOPE.fullmatch(scope) for scope in scopes):
            raise TokenNotIssued("a scope is a word without spaces")
        taken = REGISTERED.intersection(claims)
        if taken:
            raise TokenNotIssued(f"the claim {min(taken)!r} can't be set by a pipeline")
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
        try:
            # PyJWT would sign NaN, and {1: 0, "1": 0}, which the gate rejects.
            _JSON.decode(json.dumps(claims, allow_nan=False))
            signed = jwt.encode(
                payload,
                _signer(key),
                algorithm=key.algorithm,
                headers={"kid": key.kid, "typ": TYPE},
            )
        except (TypeError, ValueError, RecursionError) as error:
            raise TokenNotIssued(f"a claim is no JSON: {error}") from error
        if len(signed) > self._longest:
            raise TokenNotIssued(
                f"the token would have {len(signed)} characters; a header holds {self._longest}"
                " (PENSTOCK_MAX_HEADER): leave some claims out"
            )
        return Token(access_token=signed, expires_in=seconds, scope=scope)


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
