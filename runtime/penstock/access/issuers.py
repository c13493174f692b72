"""Outside token issuers: identity providers whose tokens an environment accepts."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from urllib.parse import urlsplit

from penstock import audit
from penstock.access.lookup import consumer_row, environment_row, in_environment
from penstock.access.seen import require_seen
from penstock.audit.approvals import Kind, gate
from penstock.contracts.access import TrustedIssuer
from penstock.contracts.jwks import KeySet, read_key_set
from penstock.db.engine import Engine, reading
from penstock.db.tables import EnvironmentRow, IssuerRow
from penstock.db.unit_of_work import RowReader, Values
from penstock.errors import UnknownName, UsageError, quoted

LOOPBACK = frozenset({"localhost", "127.0.0.1", "::1"})
VISIBLE = re.compile(r"[\x21-\x7e]{1,255}")  # 255 is the length of the column
MAX_AUDIENCE_LENGTH = 255
URI = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*:\S+")


@dataclass(frozen=True, slots=True)
class ListedIssuer:
    """A trusted issuer as operators see it.

    `keys` is where its keys come from, and `consumer` how a token names its consumer.
    """

    environment: str
    issuer: str
    audience: str
    keys: str
    consumer: str
    scope_claim: str


def check_url(what: str, url: str) -> None:
    """Raise UsageError where a URL is not https; http is accepted for this host alone."""
    try:
        parts = urlsplit(url)
        good = parts.scheme == "https" or (parts.scheme == "http" and parts.hostname in LOOPBACK)
        good = good and VISIBLE.fullmatch(url) is not None and parts.port != 0
    except ValueError:
        raise UsageError(f"{what} {quoted(url)} is no URL") from None
    if not good or not parts.hostname or parts.fragment:
        raise UsageError(f"{what} {quoted(url)} is no https URL")
    if parts.username is not None or parts.password is not None:
        raise UsageError(f"{what} must not contain a user or a password")


def check_issuer(issuer: str) -> None:
    """Raise UsageError where a text can't be an `iss`.

    That is a URI, or a name without a colon (RFC 7519 section 2).
    """
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
            f"{quoted(issuer)} can be no issuer; write the iss of its tokens, such as"
            " https://id.example.com (1 to 255 visible ASCII characters)"
        )


def read_keys(text: str) -> KeySet:
    """Return the keys of a JWK set (RFC 7517).

    Raises UsageError with the reasons where no key can verify signatures, and where a key is
    private: such a key must be sent nowhere.
    """
    try:
        key_set = read_key_set(json.loads(text))
    except (ValueError, RecursionError):
        raise UsageError('that is no JWK set: {"keys": […]}') from None
    private = [str(key) for key in key_set.rejected if key.private]
    if private:
        raise UsageError(
            "the JWK set contains a key that is private or symmetric; give public keys alone:"
            f" {'; '.join(private)}"
        )
    if not key_set.keys:
        raise UsageError(
            "no key of the JWK set can verify tokens:"
            f" {'; '.join(str(key) for key in key_set.rejected)}"
        )
    return key_set


def parse_issuer(  # noqa: PLR0913  one argument a fact
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
    """Return an issuer from an operator's options: keys at a URL, in a JWK set, or by discovery.

    Each of `mapped` is VALUE=CONSUMER. Raises UsageError.
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


def check_trusted(trusted: TrustedIssuer, *, own: str) -> None:
    """Raise UsageError where an issuer can't be trusted; `own` is that of Penstock's tokens."""
    if trusted.issuer == own:
        raise UsageError(f"{quoted(own)} is the issuer of our own tokens (PENSTOCK_ISSUER)")
    check_issuer(trusted.issuer)
    if (
        not trusted.audience.strip()
        or len(trusted.audience) > MAX_AUDIENCE_LENGTH
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


def trust_issuer(
    engine: Engine,
    actor: str,
    environment: str,
    trusted: TrustedIssuer,
    *,
    own: str,
    seen: str | None = None,
) -> bool:
    """Trust an outside issuer in an environment; return whether previous options were replaced.

    `own` is the issuer of Penstock's tokens. `seen` is the token of the options that are replaced
    (`access.seen`). Raises UsageError, UnknownName and Outdated.
    """
    check_trusted(trusted, own=own)
    with audit.change(
        engine, actor, audit.Action.ISSUER_TRUSTED, trusted.issuer, environment=environment
    ) as (rows, detail):
        for consumer in {
            *trusted.consumers.values(),
            *([trusted.consumer] if trusted.consumer else []),
        }:
            consumer_row(rows, consumer)
        values: Values = {
            IssuerRow.audience: trusted.audience,
            IssuerRow.jwks_url: trusted.jwks_url,
            IssuerRow.keys: None if trusted.keys is None else [dict(key) for key in trusted.keys],
            IssuerRow.consumer: trusted.consumer,
            IssuerRow.consumer_claim: trusted.consumer_claim,
            IssuerRow.consumers: dict(trusted.consumers),
            IssuerRow.scope_claim: trusted.scope_claim,
        }
        row = environment_row(rows, environment)
        match: Values = {
            IssuerRow.environment_id: row.id,
            IssuerRow.issuer: trusted.issuer,
        }
        stored = rows.find(IssuerRow, match)
        current = stored if stored is not None and stored.active else None
        state = _state_of(current, values)
        require_seen(seen, state, f"the issuer {trusted.issuer}", _saved(current))
        gate(
            rows,
            detail,
            row,
            Kind.ISSUER,
            trusted.issuer,
            request={column.key: value for column, value in values.items()},
            state=state,
        )
        rows.put(IssuerRow, match, {**values, IssuerRow.active: True})
        detail.update({column.key: value for column, value in values.items()})
    return current is not None


def _state_of(row: IssuerRow | None, values: Values) -> object:
    return None if row is None else {column.key: getattr(row, column.key) for column in values}


def _saved(row: IssuerRow | None) -> list[tuple[str, str]]:
    """Return the options of a trusted issuer as texts."""
    if row is None:
        return [("Issuer", "not trusted")]
    return [
        ("Audience", row.audience),
        ("Signing keys", _keys(row)),
        ("Consumer", _consumer(row)),
        ("Claim that holds scopes", row.scope_claim),
    ]


def _keys(row: IssuerRow) -> str:
    return f"{len(row.keys)} from a file" if row.keys else row.jwks_url or "by discovery"


def _consumer(row: IssuerRow) -> str:
    return row.consumer or _mapping(row.consumer_claim, row.consumers)


def distrust_issuer(engine: Engine, actor: str, environment: str, issuer: str) -> None:
    """Stop trusting an outside issuer in an environment. Raises UnknownName."""
    with audit.change(
        engine, actor, audit.Action.ISSUER_DISTRUSTED, issuer, environment=environment
    ) as (rows, _):
        match: Values = {IssuerRow.environment_id: environment_row(rows, environment).id}
        trusted = [row.issuer for row in rows.all(IssuerRow, {**match, IssuerRow.active: True})]
        if issuer not in trusted:
            raise UnknownName(f"trusted issuer of {quoted(environment)}", issuer, trusted)
        rows.set(IssuerRow, {**match, IssuerRow.issuer: issuer}, {IssuerRow.active: False})


def list_issuers(engine: Engine, environment: str | None = None) -> list[ListedIssuer]:
    """Return trusted issuers by environment. Raises UnknownName."""
    with reading(engine) as connection:
        reader = RowReader(connection)
        match = in_environment(reader, IssuerRow, environment)
        environments = reader.names_by_id(EnvironmentRow)
        rows = reader.all(IssuerRow, {**match, IssuerRow.active: True})
    return [
        ListedIssuer(
            environments[row.environment_id],
            row.issuer,
            row.audience,
            _keys(row),
            _consumer(row),
            row.scope_claim,
        )
        for row in rows
    ]


def _mapping(claim: str, consumers: Mapping[str, str]) -> str:
    pairs = ", ".join(f"{value}={name}" for value, name in sorted(consumers.items()))
    return f"claim {claim}" + (f": {pairs}" if pairs else "")
