"""Credentials of consumers that an authenticator plugin keeps here.

Passwords' hashes, signing secrets, names of certificates.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable
from datetime import UTC, datetime, timedelta

from penstock import audit
from penstock.access.encryption import SecretBox
from penstock.access.lookup import consumer_in, environment_row, named
from penstock.db.engine import Engine, reading
from penstock.db.unit_of_work import RowReader
from penstock.errors import AlreadyExists, UnknownName, UsageError

Enrol = Callable[[str, str], tuple[str, bytes]]


def add_credential(  # noqa: PLR0913  one argument a fact
    engine: Engine,
    actor: str,
    consumer: str,
    environment: str,
    *,
    kind: str,
    name: str,
    secret: str,
    box: SecretBox,
    enrol: Enrol,
    most: int | None = None,
    expires: timedelta | None = None,
    note: str = "",
) -> tuple[str, str]:
    """Keep a credential, sealed, as its authenticator wants it kept; return its id and its name.

    `most` may be kept of that kind there.
    """
    try:
        name, kept = enrol(name, secret)
    except ValueError as error:
        raise UsageError(str(error)) from None
    if not name or len(name) > 255:  # noqa: PLR2004  the column's length
        raise UsageError("a credential has a name of at most 255 characters; give --name")
    now = datetime.now(UTC)
    with audit.change(
        engine, actor, audit.Action.CREDENTIAL_ADDED, consumer, environment=environment
    ) as (rows, detail):
        where = consumer_in(rows, consumer, environment)
        held = rows.all(
            "credentials", environment_id=where["environment_id"], kind=kind, revoked_at=None
        )
        if most is not None and len(held) >= most:
            raise UsageError(
                f"{environment} has {len(held)} {kind} credentials, and each call is tried with"
                " them all; revoke some that have had their day"
            )
        for row in held:
            if row["name"] == name:
                raise AlreadyExists(f"{kind} credential", name)
            if (
                kept
                and row["consumer_id"] != where["consumer_id"]
                and secrets.compare_digest(box.decrypt(row["sealed"]), kept)
            ):
                raise UsageError(
                    "another consumer has that very secret, and calls could not be told apart; give"
                    " each its own"
                )
        identifier = f"cred_{secrets.token_hex(6)}"
        expires_at = now + expires if expires else None
        rows.add(
            "credentials",
            id=identifier,
            **where,
            kind=kind,
            name=name,
            sealed=box.encrypt(kept),
            note=note,
            created_at=now,
            expires_at=expires_at,
        )
        detail.update(
            credential=identifier,
            kind=kind,
            name=name,
            expires_at=expires_at.isoformat() if expires_at else None,
            note=note,
        )
    return identifier, name


def revoke_credential(engine: Engine, actor: str, identifier: str) -> None:
    """End a credential for good, and wipe what was kept; twice is harmless."""
    with audit.change(engine, actor, audit.Action.CREDENTIAL_REVOKED, identifier) as (rows, _):
        row = rows.find("credentials", id=identifier)
        if row is None:
            raise UnknownName(
                "credential",
                identifier,
                (row["id"] for row in rows.all("credentials")),
                fix="`penstock credential list` shows their ids",
            )
        if row["revoked_at"] is None:
            rows.set("credentials", {"id": identifier}, revoked_at=datetime.now(UTC), sealed=b"")


def list_credentials(
    engine: Engine, *, environment: str | None = None, consumer: str | None = None
) -> list[dict[str, object]]:
    """Return credentials, oldest first, without what is secret of them."""
    now = datetime.now(UTC)
    with reading(engine) as connection:
        reader = RowReader(connection)
        match: dict[str, object] = {}
        if environment:
            match["environment_id"] = environment_row(reader, environment)["id"]
        if consumer:
            match["consumer_id"] = named(reader, "consumer", consumer)["id"]
        environments, consumers = (
            reader.names_by_id("environments"),
            reader.names_by_id("consumers"),
        )
        rows = sorted(
            reader.all("credentials", **match), key=lambda row: (row["created_at"], row["id"])
        )
    return [
        {
            "consumer": consumers[row["consumer_id"]],
            "environment": environments[row["environment_id"]],
            "state": (
                "revoked"
                if row["revoked_at"]
                else "expired"
                if row["expires_at"] and row["expires_at"] <= now
                else "usable"
            ),
            **{column: row[column] for column in ("id", "kind", "name", "expires_at", "note")},
        }
        for row in rows
    ]
