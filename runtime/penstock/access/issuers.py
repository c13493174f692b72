"""Outside token issuers: identity providers whose tokens an environment takes beside its own."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any
from urllib.parse import urlsplit

from penstock import audit
from penstock.access.find import environment_row, named
from penstock.contracts.access import TrustedIssuer
from penstock.db.engine import Engine, reading
from penstock.db.rows import Reader
from penstock.errors import Mistaken, Unknown

LOOPBACK = frozenset({"localhost", "127.0.0.1", "::1"})
PUBLIC = frozenset({"RSA", "EC", "OKP"})
PRIVATE = frozenset({"d", "k", "p", "q", "dp", "dq", "qi"})


def check_url(what: str, url: str) -> None:
    """Refuse what is no https URL; plain http is for providers on this very host."""
    try:
        parts = urlsplit(url)
        good = parts.scheme == "https" or (parts.scheme == "http" and parts.hostname in LOOPBACK)
    except ValueError:
        raise Mistaken(f"{what} {url!r} is no URL") from None
    if not good or not parts.hostname or parts.fragment:
        raise Mistaken(f"{what} {url!r} is no https URL")
    if parts.username is not None or parts.password is not None:
        raise Mistaken(f"{what} must not hold a user or a password")


def read_keys(text: str) -> list[dict[str, Any]]:
    """Return the public keys of a JWK set (RFC 7517). Raises Mistaken, also where one is private or symmetric."""
    try:
        keys = json.loads(text)["keys"]
        good = isinstance(keys, list) and bool(keys) and all(isinstance(key, dict) for key in keys)
    except (ValueError, KeyError, TypeError, RecursionError):
        good = False
    if not good:
        raise Mistaken('that is no JWK set: {"keys": […]}')
    for key in keys:
        if key.get("kty") not in PUBLIC or PRIVATE & key.keys():
            raise Mistaken("the JWK set holds a key that is private or symmetric; give public keys alone")
    return list(keys)


def said_of(  # noqa: PLR0913  one argument a fact
    issuer: str,
    audience: str,
    *,
    jwks_url: str | None = None,
    jwks: str | None = None,
    consumer: str | None = None,
    consumer_claim: str = "client_id",
    mapped: Iterable[str] = (),
    scope_claim: str = "scope",
) -> TrustedIssuer:
    """Return an issuer as an operator says it: keys at a URL, as a JWK set, or by discovery; `mapped` are VALUE=CONSUMER. Raises Mistaken."""
    pairs = [pair.rpartition("=") for pair in mapped]
    if jwks_url and jwks is not None:
        raise Mistaken("give the URL of a JWK set or the set itself, not both")
    if consumer and pairs:
        raise Mistaken("name one consumer or map values of the claim to consumers, not both")
    if not all(value and name for value, _, name in pairs):
        raise Mistaken("a value of the claim is mapped to its consumer as VALUE=CONSUMER")
    return TrustedIssuer(
        issuer=issuer,
        audience=audience,
        jwks_url=jwks_url,
        keys=tuple(read_keys(jwks)) if jwks is not None else None,
        consumer=consumer,
        consumer_claim=consumer_claim,
        consumers={value: name for value, _, name in pairs},
        scope_claim=scope_claim,
    )


def trust_issuer(engine: Engine, actor: str, environment: str, trusted: TrustedIssuer, *, own: str) -> None:
    """Take an outside issuer's tokens in an environment; what was said of it before is replaced."""
    if trusted.issuer == own:
        raise Mistaken(f"{own!r} is the issuer of our own tokens (PENSTOCK_ISSUER)")
    if len(trusted.issuer) > 255 or not trusted.audience:  # noqa: PLR2004  the column's length
        raise Mistaken("an issuer has at most 255 characters, and an audience is needed")
    if trusted.keys is None:
        check_url("the JWK set's URL" if trusted.jwks_url else "the issuer", trusted.jwks_url or trusted.issuer)
    with audit.change(engine, actor, audit.Action.ISSUER_TRUSTED, trusted.issuer, environment=environment) as (rows, detail):
        for consumer in {*trusted.consumers.values(), *([trusted.consumer] if trusted.consumer else [])}:
            named(rows, "consumer", consumer)
        values = {
            "audience": trusted.audience,
            "jwks_url": trusted.jwks_url,
            "keys": None if trusted.keys is None else list(trusted.keys),
            "consumer": trusted.consumer,
            "consumer_claim": trusted.consumer_claim,
            "consumers": dict(trusted.consumers),
            "scope_claim": trusted.scope_claim,
        }
        rows.put("issuers", {"environment_id": environment_row(rows, environment)["id"], "issuer": trusted.issuer}, **values, active=True)
        detail.update(values)


def distrust_issuer(engine: Engine, actor: str, environment: str, issuer: str) -> None:
    """Take an outside issuer's tokens no more."""
    with audit.change(engine, actor, audit.Action.ISSUER_DISTRUSTED, issuer, environment=environment) as (rows, _):
        environment_id = environment_row(rows, environment)["id"]
        known = [row["issuer"] for row in rows.all("issuers", environment_id=environment_id, active=True)]
        if issuer not in known:
            raise Unknown(f"trusted issuer of {environment!r}", issuer, known)
        rows.set("issuers", {"environment_id": environment_id, "issuer": issuer}, active=False)


def list_issuers(engine: Engine, environment: str | None = None) -> list[dict[str, object]]:
    """Return trusted issuers by environment."""
    with reading(engine) as connection:
        reader = Reader(connection)
        match = {"environment_id": environment_row(reader, environment)["id"]} if environment else {}
        environments = reader.names_by_id("environments")
        return [
            {
                "environment": environments[row["environment_id"]],
                "issuer": row["issuer"],
                "audience": row["audience"],
                "keys": f"{len(row['keys'])} from a file" if row["keys"] else row["jwks_url"] or "by discovery",
                "consumer": row["consumer"] or _mapping(row["consumer_claim"], row["consumers"]),
                "scope_claim": row["scope_claim"],
            }
            for row in reader.all("issuers", **match, active=True)
        ]


def _mapping(claim: str, consumers: Mapping[str, str]) -> str:
    pairs = ", ".join(f"{value}={name}" for value, name in sorted(consumers.items()))
    return f"claim {claim}" + (f": {pairs}" if pairs else "")
