"""Outside token issuers: identity providers whose tokens an environment takes beside its own."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from urllib.parse import urlsplit

from penstock import audit
from penstock.access.lookup import environment_row, named
from penstock.contracts.access import TrustedIssuer
from penstock.contracts.jwks import KeySet, read_key_set
from penstock.db.engine import Engine, reading
from penstock.db.unit_of_work import RowReader
from penstock.errors import UnknownName, UsageError

LOOPBACK = frozenset({"localhost", "127.0.0.1", "::1"})
VISIBLE = re.compile(r"[\x21-\x7e]{1,255}")  # 255 is the column's length
LONGEST_AUDIENCE = 255
URI = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*:\S+")


def check_url(what: str, url: str) -> None:
    """Refuse what is no https URL; plain http is for providers on this very host."""
    try:
        parts = urlsplit(url)
        good = parts.scheme == "https" or (parts.scheme == "http" and parts.hostname in LOOPBACK)
        good = good and VISIBLE.fullmatch(url) is not None and parts.port != 0
    except ValueError:
        raise UsageError(f"{what} {url!r} is no URL") from None
    if not good or not parts.hostname or parts.fragment:
        raise UsageError(f"{what} {url!r} is no https URL")
    if parts.username is not None or parts.password is not None:
        raise UsageError(f"{what} must not hold a user or a password")


def check_issuer(issuer: str) -> None:
    """Refuse what can be no `iss`: a URI, or a name without a colon (RFC 7519 section 2)."""
    try:
        parts = urlsplit(issuer)
        good = VISIBLE.fullmatch(issuer) is not None and (
            ":" not in issuer or URI.fullmatch(issuer) is not None
        )
        good = good and (parts.scheme not in {"http", "https"} or bool(parts.hostname))
    except ValueError:
        good = False
    if not good:
        raise UsageError(
            f"{issuer!r} can be no issuer; write the iss of its tokens, such as"
            " https://id.example.com (1 to 255 visible ASCII characters)"
        )


def read_keys(text: str) -> KeySet:
    """Return what a JWK set (RFC 7517) holds.

    Raises UsageError where no key of it can verify signatures, saying why for each, and where one
    is private: such a key must go nowhere.
    """
    try:
        found = read_key_set(json.loads(text))
    except (ValueError, RecursionError):
        raise UsageError('that is no JWK set: {"keys": […]}') from None
    private = [str(key) for key in found.rejected if key.private]
    if private:
        raise UsageError(
            "the JWK set holds a key that is private or symmetric; give public keys alone:"
            f" {'; '.join(private)}"
        )
    if not found.keys:
        raise UsageError(
            "no key of the JWK set can verify tokens:"
            f" {'; '.join(str(key) for key in found.rejected)}"
        )
    return found


def said_of(  # noqa: PLR0913  one argument a fact
    issuer: str,
    audience: str,
    *,
    jwks_url: str | None = None,
    keys: KeySet | None = None,
    consumer: str | None = None,
    consumer_claim: str = "client_id",
    mapped: Iterable[str] = (),
    scope_claim: str = "scope",
) -> TrustedIssuer:
    """Return an issuer as an operator says it: keys at a URL, as a JWK set, or by discovery.

    `mapped` are VALUE=CONSUMER. Raises UsageError.
    """
    pairs = [pair.rpartition("=") for pair in mapped]
    if jwks_url and keys is not None:
        raise UsageError("give the URL of a JWK set or the set itself, not both")
    if consumer and pairs:
        raise UsageError("name one consumer or map values of the claim to consumers, not both")
    if not all(value and name for value, _, name in pairs):
        raise UsageError("a value of the claim is mapped to its consumer as VALUE=CONSUMER")
    return TrustedIssuer(
        issuer=issuer,
        audience=audience,
        jwks_url=jwks_url,
        keys=tuple(key.jwk for key in keys.keys) if keys is not None else None,
        consumer=consumer,
        consumer_claim=consumer_claim,
        consumers={value: name for value, _, name in pairs},
        scope_claim=scope_claim,
    )


def trust_issuer(
    engine: Engine, actor: str, environment: str, trusted: TrustedIssuer, *, own: str
) -> None:
    """Take an outside issuer's tokens in an environment; what was said of it before is replaced."""
    if trusted.issuer == own:
        raise UsageError(f"{own!r} is the issuer of our own tokens (PENSTOCK_ISSUER)")
    check_issuer(trusted.issuer)
    if (
        not trusted.audience.strip()
        or len(trusted.audience) > LONGEST_AUDIENCE
        or not trusted.audience.isprintable()
    ):
        raise UsageError(
            "an audience is needed: the aud of its tokens, 1 to 255 printable characters"
        )
    if not trusted.consumer_claim or not trusted.scope_claim:
        raise UsageError("a claim has a name; leave the option out for the usual one")
    if trusted.keys is None:
        check_url(
            "the JWK set's URL" if trusted.jwks_url else "the issuer",
            trusted.jwks_url or trusted.issuer,
        )
    with audit.change(
        engine, actor, audit.Action.ISSUER_TRUSTED, trusted.issuer, environment=environment
    ) as (rows, detail):
        for consumer in {
            *trusted.consumers.values(),
            *([trusted.consumer] if trusted.consumer else []),
        }:
            named(rows, "consumer", consumer)
        values = {
            "audience": trusted.audience,
            "jwks_url": trusted.jwks_url,
            "keys": None if trusted.keys is None else [dict(key) for key in trusted.keys],
            "consumer": trusted.consumer,
            "consumer_claim": trusted.consumer_claim,
            "consumers": dict(trusted.consumers),
            "scope_claim": trusted.scope_claim,
        }
        rows.put(
            "issuers",
            {"environment_id": environment_row(rows, environment)["id"], "issuer": trusted.issuer},
            **values,
            active=True,
        )
        detail.update(values)


def distrust_issuer(engine: Engine, actor: str, environment: str, issuer: str) -> None:
    """Take an outside issuer's tokens no more."""
    with audit.change(
        engine, actor, audit.Action.ISSUER_DISTRUSTED, issuer, environment=environment
    ) as (rows, _):
        environment_id = environment_row(rows, environment)["id"]
        known = [
            row["issuer"] for row in rows.all("issuers", environment_id=environment_id, active=True)
        ]
        if issuer not in known:
            raise UnknownName(f"trusted issuer of {environment!r}", issuer, known)
        rows.set("issuers", {"environment_id": environment_id, "issuer": issuer}, active=False)


def list_issuers(engine: Engine, environment: str | None = None) -> list[dict[str, object]]:
    """Return trusted issuers by environment."""
    with reading(engine) as connection:
        reader = RowReader(connection)
        match = (
            {"environment_id": environment_row(reader, environment)["id"]} if environment else {}
        )
        environments = reader.names_by_id("environments")
        return [
            {
                "environment": environments[row["environment_id"]],
                "issuer": row["issuer"],
                "audience": row["audience"],
                "keys": (
                    f"{len(row['keys'])} from a file"
                    if row["keys"]
                    else row["jwks_url"] or "by discovery"
                ),
                "consumer": row["consumer"] or _mapping(row["consumer_claim"], row["consumers"]),
                "scope_claim": row["scope_claim"],
            }
            for row in reader.all("issuers", **match, active=True)
        ]


def _mapping(claim: str, consumers: Mapping[str, str]) -> str:
    pairs = ", ".join(f"{value}={name}" for value, name in sorted(consumers.items()))
    return f"claim {claim}" + (f": {pairs}" if pairs else "")
