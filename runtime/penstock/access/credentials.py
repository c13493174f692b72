"""Consumers' credentials for authenticator plugins.

For example hashes of passwords, signing secrets, and names of certificates.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from penstock import audit
from penstock.access.encryption import SecretBox
from penstock.access.lookup import ConsumerPlace, consumer_in, consumer_row, environment_row
from penstock.db import credentials as stored
from penstock.db.engine import Engine, reading
from penstock.db.tables import CredentialRow
from penstock.db.unit_of_work import AccessChange, RowReader
from penstock.errors import AlreadyExists, UnknownName, UsageError

MAX_NAME_LENGTH = 255  # the length of its column
Enrol = Callable[[str, str], tuple[str, bytes]]


@dataclass(frozen=True, slots=True)
class ListedCredential:
    """A credential as operators see it, without its secret.

    `state` is usable, expired or revoked.
    """

    consumer: str
    environment: str
    state: str
    id: str
    kind: str
    name: str
    expires_at: datetime | None
    note: str


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
    """Store a credential, encrypted, as its authenticator enrols it; return its id and its name.

    `most` is how many of its kind an environment may have. Raises UsageError, UnknownName and
    AlreadyExists.
    """
    name, enrolled = _enrolled(enrol, name, secret)
    now = datetime.now(UTC)
    with audit.change(
        engine, actor, audit.Action.CREDENTIAL_ADDED, consumer, environment=environment
    ) as (rows, detail):
        place = consumer_in(rows, consumer, environment)
        others = _usable(rows, place, kind)
        _require_room(others, most, kind, environment)
        _require_unique(others, place, kind, name, enrolled, box)
        identifier = f"cred_{secrets.token_hex(6)}"
        expires_at = now + expires if expires else None
        rows.add(
            CredentialRow,
            {
                **place.of(CredentialRow),
                CredentialRow.id: identifier,
                CredentialRow.kind: kind,
                CredentialRow.name: name,
                CredentialRow.sealed: box.encrypt(enrolled),
                CredentialRow.note: note,
                CredentialRow.created_at: now,
                CredentialRow.expires_at: expires_at,
            },
        )
        detail.update(
            credential=identifier,
            kind=kind,
            name=name,
            expires_at=expires_at.isoformat() if expires_at else None,
            note=note,
        )
    return identifier, name


def _enrolled(enrol: Enrol, name: str, secret: str) -> tuple[str, bytes]:
    try:
        name, enrolled = enrol(name, secret)
    except ValueError as error:
        raise UsageError(str(error)) from None
    if not name or len(name) > MAX_NAME_LENGTH:
        raise UsageError("a credential has a name of at most 255 characters; give --name")
    return name, enrolled


def _usable(rows: AccessChange, place: ConsumerPlace, kind: str) -> list[CredentialRow]:
    return rows.all(
        CredentialRow,
        {
            CredentialRow.environment_id: place.environment_id,
            CredentialRow.kind: kind,
            CredentialRow.revoked_at: None,
        },
    )


def _require_room(
    others: list[CredentialRow], most: int | None, kind: str, environment: str
) -> None:
    if most is not None and len(others) >= most:
        raise UsageError(
            f"{environment} has {len(others)} {kind} credentials, and each call is tried with them"
            " all; revoke some that are not used any more"
        )


def _require_unique(
    others: list[CredentialRow],
    place: ConsumerPlace,
    kind: str,
    name: str,
    enrolled: bytes,
    box: SecretBox,
) -> None:
    for row in others:
        if row.name == name:
            raise AlreadyExists(f"{kind} credential", name)
        if (
            enrolled
            and row.consumer_id != place.consumer_id
            and secrets.compare_digest(box.decrypt(row.sealed), enrolled)
        ):
            raise UsageError(
                "another consumer has the same secret, so their calls could not be distinguished;"
                " give each consumer its own"
            )


def revoke_credential(engine: Engine, actor: str, identifier: str) -> None:
    """Revoke a credential and delete its secret; a revoked one stays as it is.

    Raises UnknownName.
    """
    with audit.change(engine, actor, audit.Action.CREDENTIAL_REVOKED, identifier) as (rows, _):
        row = rows.find(CredentialRow, {CredentialRow.id: identifier})
        if row is None:
            raise UnknownName(
                "credential",
                identifier,
                (other.id for other in rows.all(CredentialRow)),
                fix="`penstock credential list` shows their ids",
            )
        if row.revoked_at is None:
            rows.set(
                CredentialRow,
                {CredentialRow.id: identifier},
                {CredentialRow.revoked_at: datetime.now(UTC), CredentialRow.sealed: b""},
            )


def list_credentials(
    engine: Engine,
    *,
    environment: str | None = None,
    consumer: str | None = None,
    search: str = "",
    after: str | None = None,
    limit: int | None = None,
) -> list[ListedCredential]:
    """Return credentials, oldest first; a page begins after an id. Raises UnknownName."""
    now = datetime.now(UTC)
    with reading(engine) as connection:
        reader = RowReader(connection)
        rows = stored.list_credentials(
            connection,
            environment_row(reader, environment).id if environment else None,
            consumer_row(reader, consumer).id if consumer else None,
            search=search,
            after=after,
            limit=limit,
        )
    return [
        ListedCredential(
            row.consumer,
            row.environment,
            _state(row, now),
            row.id,
            row.kind,
            row.name,
            row.expires_at,
            row.note,
        )
        for row in rows
    ]


def _state(row: CredentialRow, now: datetime) -> str:
    if row.revoked_at:
        return "revoked"
    return "expired" if row.expires_at and row.expires_at <= now else "usable"
