"""The keys that sign an environment's tokens, and which tokens are revoked."""

from __future__ import annotations

import secrets
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa

from penstock import audit
from penstock.access.encryption import SecretBox
from penstock.access.lookup import consumer_row, environment_row
from penstock.contracts.access import LEEWAY, MAX_TOKEN_LIFETIME
from penstock.db.engine import Engine, reading
from penstock.db.tables import EnvironmentRow, RevocationRow, SigningKeyRow
from penstock.db.unit_of_work import AccessChange, RowReader
from penstock.errors import PenstockError, UnknownName, UsageError, quoted

ALGORITHMS = ("EdDSA", "ES256", "RS256", "HS256")
MAX_JTI_LENGTH = 255  # the length of its column


@dataclass(frozen=True, slots=True)
class ListedSigningKey:
    """A signing key as operators see it. `state` is signs, verifies, expired or dropped."""

    kid: str
    algorithm: str
    created_at: datetime
    verify_until: datetime | None
    state: str


def _generate(algorithm: str) -> tuple[bytes, bytes]:
    """Return a new private and public key in PEM; for HS256 a secret and no public key."""
    if algorithm == "HS256":
        return secrets.token_bytes(32), b""
    private: ed25519.Ed25519PrivateKey | ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey
    if algorithm == "EdDSA":
        private = ed25519.Ed25519PrivateKey.generate()
    elif algorithm == "ES256":
        private = ec.generate_private_key(ec.SECP256R1())
    else:
        private = rsa.generate_private_key(65537, 2048)
    pem = serialization.Encoding.PEM
    return (
        private.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()),
        private.public_key().public_bytes(pem, serialization.PublicFormat.SubjectPublicKeyInfo),
    )


def add_signing_key(rows: AccessChange, environment_id: int, algorithm: str, box: SecretBox) -> str:
    """Add a key that signs from now on, and return its `kid`.

    The previous key verifies until the last token that it signed has expired.
    """
    now = datetime.now(UTC)
    rows.set(
        SigningKeyRow,
        {
            SigningKeyRow.environment_id: environment_id,
            SigningKeyRow.verify_until: None,
            SigningKeyRow.dropped_at: None,
        },
        {SigningKeyRow.verify_until: now + MAX_TOKEN_LIFETIME + LEEWAY},
    )
    kid = secrets.token_hex(8)
    private, public = _generate(algorithm)
    rows.add(
        SigningKeyRow,
        {
            SigningKeyRow.kid: kid,
            SigningKeyRow.environment_id: environment_id,
            SigningKeyRow.algorithm: algorithm,
            SigningKeyRow.public: public,
            SigningKeyRow.private_encrypted: box.encrypt(private),
            SigningKeyRow.created_at: now,
        },
    )
    return kid


def rotate_signing_key(
    engine: Engine, actor: str, environment: str, box: SecretBox, *, algorithm: str | None = None
) -> str:
    """Replace the key that signs and return the `kid` of the new one.

    Raises UsageError and UnknownName.
    """
    if algorithm is not None and algorithm not in ALGORITHMS:
        raise UsageError(
            f"{quoted(algorithm)} signs no tokens here; choose one of {', '.join(ALGORITHMS)}"
        )
    with audit.change(
        engine, actor, audit.Action.SIGNING_KEY_ROTATED, environment, environment=environment
    ) as (rows, detail):
        row = environment_row(rows, environment)
        if algorithm:
            rows.set(
                EnvironmentRow,
                {EnvironmentRow.id: row.id},
                {EnvironmentRow.algorithm: algorithm},
            )
        detail["kid"] = kid = add_signing_key(rows, row.id, algorithm or row.algorithm, box)
        detail["algorithm"] = algorithm or row.algorithm
        return kid


def drop_signing_key(
    engine: Engine, actor: str, environment: str, kid: str, box: SecretBox
) -> str | None:
    """Drop a key: every token that it signed is rejected from now on.

    Return the `kid` of its successor where it was the key that signs, else None. Raises
    UnknownName.
    """
    with audit.change(
        engine, actor, audit.Action.SIGNING_KEY_DROPPED, kid, environment=environment
    ) as (rows, detail):
        row = environment_row(rows, environment)
        keys = rows.all(
            SigningKeyRow,
            {SigningKeyRow.environment_id: row.id, SigningKeyRow.dropped_at: None},
        )
        key = next((key for key in keys if key.kid == kid), None)
        if key is None:
            raise UnknownName("signing key", kid, (key.kid for key in keys))
        rows.set(
            SigningKeyRow,
            {SigningKeyRow.kid: kid},
            {
                SigningKeyRow.dropped_at: datetime.now(UTC),
                SigningKeyRow.private_encrypted: b"",
            },
        )
        if key.verify_until is not None:
            return None
        detail["successor"] = successor = add_signing_key(rows, row.id, row.algorithm, box)
        return successor


def list_signing_keys(engine: Engine, environment: str) -> list[ListedSigningKey]:
    """Return an environment's signing keys, oldest first. Raises UnknownName."""
    now = datetime.now(UTC)
    with reading(engine) as connection:
        reader = RowReader(connection)
        environment_id = environment_row(reader, environment).id
        rows = reader.all(SigningKeyRow, {SigningKeyRow.environment_id: environment_id})
    return [
        ListedSigningKey(row.kid, row.algorithm, row.created_at, row.verify_until, _state(row, now))
        for row in sorted(rows, key=lambda row: row.created_at)
    ]


def _state(row: SigningKeyRow, now: datetime) -> str:
    if row.dropped_at:
        return "dropped"
    if row.verify_until is None:
        return "signs"
    return "verifies" if row.verify_until > now else "expired"


def revoke_tokens(
    engine: Engine,
    actor: str,
    environment: str,
    *,
    jti: str | None = None,
    consumer: str | None = None,
) -> None:
    """Revoke one token by its `jti`, or every token of a consumer issued up to now.

    Raises UsageError, UnknownName and PenstockError.
    """
    if (jti is None) == (consumer is None):
        raise UsageError("name either a token's jti or --consumer")
    if jti is not None and not 0 < len(jti) <= MAX_JTI_LENGTH:
        raise PenstockError("a jti has 1 to 255 characters")
    now = datetime.now(UTC)
    with audit.change(
        engine, actor, audit.Action.TOKENS_REVOKED, jti or consumer or "", environment=environment
    ) as (rows, detail):
        row = environment_row(rows, environment)
        if consumer is not None:
            consumer_row(rows, consumer)
            detail["consumer"] = consumer
        # `iat` counts whole seconds: tokens of the current second are revoked too.
        before = now.replace(microsecond=0) + timedelta(seconds=1) if consumer is not None else None
        rows.add(
            RevocationRow,
            {
                RevocationRow.environment_id: row.id,
                RevocationRow.jti: jti,
                RevocationRow.consumer: consumer,
                RevocationRow.issued_before: before,
                RevocationRow.forget_at: now + MAX_TOKEN_LIFETIME + 2 * LEEWAY,
            },
        )
