"""The keys that sign an environment's tokens, and which tokens are revoked."""

from __future__ import annotations

import secrets
from datetime import UTC, datetime, timedelta

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa

from penstock import audit
from penstock.access.encryption import SecretBox
from penstock.access.lookup import environment_row, named
from penstock.contracts.access import LEEWAY, MAX_TOKEN_LIFETIME
from penstock.db.engine import Engine, reading
from penstock.db.unit_of_work import AccessChange, Row, RowReader
from penstock.errors import PenstockError, UnknownName, UsageError

ALGORITHMS = ("EdDSA", "ES256", "RS256", "HS256")


def _make(algorithm: str) -> tuple[bytes, bytes]:
    """Return a new private and public key, PEM; for HS256 a secret and nothing."""
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
    """Make a key that signs from now on.

    The ones before it verify until their longest token has expired.
    """
    now = datetime.now(UTC)
    rows.set(
        "signing_keys",
        {"environment_id": environment_id, "verify_until": None, "dropped_at": None},
        verify_until=now + MAX_TOKEN_LIFETIME + LEEWAY,
    )
    kid = secrets.token_hex(8)
    private, public = _make(algorithm)
    rows.add(
        "signing_keys",
        kid=kid,
        environment_id=environment_id,
        algorithm=algorithm,
        public=public,
        private_encrypted=box.encrypt(private),
        created_at=now,
    )
    return kid


def rotate_signing_key(
    engine: Engine, actor: str, environment: str, box: SecretBox, *, algorithm: str | None = None
) -> str:
    """Let a new key sign and return its `kid`."""
    if algorithm is not None and algorithm not in ALGORITHMS:
        raise UsageError(
            f"{algorithm!r} signs no tokens here; choose one of {', '.join(ALGORITHMS)}"
        )
    with audit.change(
        engine, actor, audit.Action.SIGNING_KEY_ROTATED, environment, environment=environment
    ) as (rows, detail):
        row = environment_row(rows, environment)
        chosen = algorithm or row["algorithm"]
        if algorithm:
            rows.set("environments", {"id": row["id"]}, algorithm=algorithm)
        detail["kid"] = add_signing_key(rows, row["id"], chosen, box)
        detail["algorithm"] = chosen
        return str(detail["kid"])


def drop_signing_key(
    engine: Engine, actor: str, environment: str, kid: str, box: SecretBox
) -> str | None:
    """End a key at once with every token it signed.

    Return the `kid` of its successor if it was the one that signs.
    """
    with audit.change(
        engine, actor, audit.Action.SIGNING_KEY_DROPPED, kid, environment=environment
    ) as (rows, detail):
        row = environment_row(rows, environment)
        known = rows.all("signing_keys", environment_id=row["id"], dropped_at=None)
        key = next((key for key in known if key["kid"] == kid), None)
        if key is None:
            raise UnknownName("signing key", kid, (key["kid"] for key in known))
        rows.set("signing_keys", {"kid": kid}, dropped_at=datetime.now(UTC), private_encrypted=b"")
        if key["verify_until"] is not None:
            return None
        detail["successor"] = add_signing_key(rows, row["id"], row["algorithm"], box)
        return str(detail["successor"])


def list_signing_keys(engine: Engine, environment: str) -> list[dict[str, object]]:
    """Return the environment's signing keys with their state.

    Signs, verifies, expired or dropped.
    """
    now = datetime.now(UTC)
    with reading(engine) as connection:
        reader = RowReader(connection)
        rows = reader.all("signing_keys", environment_id=environment_row(reader, environment)["id"])

    def state(row: Row) -> str:
        if row["dropped_at"]:
            return "dropped"
        if row["verify_until"] is None:
            return "signs"
        return "verifies" if row["verify_until"] > now else "expired"

    fields = ("kid", "algorithm", "created_at", "verify_until")
    return [
        {**{name: row[name] for name in fields}, "state": state(row)}
        for row in sorted(rows, key=lambda row: row["created_at"])
    ]


def revoke_tokens(
    engine: Engine,
    actor: str,
    environment: str,
    *,
    jti: str | None = None,
    consumer: str | None = None,
) -> None:
    """Revoke one token by its `jti`, or every token of a consumer issued up to now."""
    if (jti is None) == (consumer is None):
        raise UsageError("name either a token's jti or --consumer")
    if jti is not None and not 0 < len(jti) <= 255:  # noqa: PLR2004  the column's width
        raise PenstockError("a jti has 1 to 255 characters")
    now = datetime.now(UTC)
    with audit.change(
        engine, actor, audit.Action.TOKENS_REVOKED, jti or consumer or "", environment=environment
    ) as (rows, detail):
        row = environment_row(rows, environment)
        if consumer is not None:
            named(rows, "consumer", consumer)
            detail["consumer"] = consumer
        # `iat` counts whole seconds: a token of this very second is revoked with the rest.
        before = now.replace(microsecond=0) + timedelta(seconds=1) if consumer is not None else None
        rows.add(
            "revocations",
            environment_id=row["id"],
            jti=jti,
            consumer=consumer,
            issued_before=before,
            forget_at=now + MAX_TOKEN_LIFETIME + 2 * LEEWAY,
        )
