"""Claimed keys and idempotent replies: the stored reply of a call with an `Idempotency-Key`.

They are no access data, and carry no revision.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime

import sqlalchemy as sa
from sqlalchemy.exc import IntegrityError

from penstock.db.engine import Engine, writing
from penstock.db.failures import DatabaseUnavailable
from penstock.db.run_tables import IdempotentReplyRow

PURGED_AT_A_TIME = 500
CLAIM_ATTEMPTS = 5
REPLIES = IdempotentReplyRow.table


class AlreadyStored(Exception):
    """Another call has stored a reply under this key meanwhile."""


def claim(
    engine: Engine, digest: bytes, body: bytes, claimed: str, now: datetime, lease: datetime
) -> IdempotentReplyRow | None:
    """Claim a key until `lease` and return None, or return the row of the call that has it.

    A key can be claimed again once its row has expired. Raises DatabaseUnavailable.
    """
    values = {
        IdempotentReplyRow.digest: digest,
        IdempotentReplyRow.body: body,
        IdempotentReplyRow.claim: claimed,
        IdempotentReplyRow.expires_at: lease,
    }
    query = IdempotentReplyRow.select().where(IdempotentReplyRow.digest == digest)
    with writing(engine) as connection:
        _delete_expired(connection, digest, now)
        for _ in range(CLAIM_ATTEMPTS):
            try:
                with connection.begin_nested():
                    connection.execute(sa.insert(REPLIES).values(values))
            except IntegrityError:
                row = IdempotentReplyRow.fetch_first(connection, query)
                if row is not None:
                    return row  # else it was released in between
            else:
                return None
    raise DatabaseUnavailable("a key is claimed and released too fast")


def _delete_expired(connection: sa.Connection, digest: bytes, now: datetime) -> None:
    connection.execute(
        sa.delete(REPLIES).where(
            IdempotentReplyRow.digest == digest, IdempotentReplyRow.expires_at <= now
        )
    )


def find(connection: sa.Connection, digest: bytes, now: datetime) -> IdempotentReplyRow | None:
    """Return the row of a key that has not expired, or None."""
    return IdempotentReplyRow.fetch_first(
        connection,
        IdempotentReplyRow.select().where(
            IdempotentReplyRow.digest == digest, IdempotentReplyRow.expires_at > now
        ),
    )


def put(
    connection: sa.Connection,
    digest: bytes,
    body: bytes,
    reply: bytes,
    now: datetime,
    expires_at: datetime,
) -> None:
    """Store a reply under a key as part of a transaction. Raises AlreadyStored."""
    _delete_expired(connection, digest, now)
    values = {
        IdempotentReplyRow.digest: digest,
        IdempotentReplyRow.body: body,
        IdempotentReplyRow.claim: "",
        IdempotentReplyRow.reply: reply,
        IdempotentReplyRow.expires_at: expires_at,
    }
    try:
        connection.execute(sa.insert(REPLIES).values(values))
    except IntegrityError as error:
        raise AlreadyStored from error


def renew(engine: Engine, claims: Mapping[str, bytes], lease: datetime) -> None:
    """Extend the leases of claims: the digest of its key by each claim.

    Raises DatabaseUnavailable.
    """
    with writing(engine) as connection:
        for claimed, digest in claims.items():
            connection.execute(
                sa.update(REPLIES)
                .where(*_of_claim(digest, claimed), IdempotentReplyRow.expires_at < lease)
                .values({IdempotentReplyRow.expires_at: lease})
            )


def store(engine: Engine, digest: bytes, claimed: str, reply: bytes, expires_at: datetime) -> None:
    """Store the reply of the call that claimed a key. Raises DatabaseUnavailable."""
    values = {IdempotentReplyRow.reply: reply, IdempotentReplyRow.expires_at: expires_at}
    with writing(engine) as connection:
        connection.execute(sa.update(REPLIES).where(*_of_claim(digest, claimed)).values(values))


def release(engine: Engine, digest: bytes, claimed: str) -> None:
    """Release a claimed key that has no reply. Raises DatabaseUnavailable."""
    with writing(engine) as connection:
        connection.execute(
            sa.delete(REPLIES).where(
                *_of_claim(digest, claimed), IdempotentReplyRow.reply.is_(None)
            )
        )


def _of_claim(digest: bytes, claimed: str) -> tuple[sa.ColumnElement[bool], ...]:
    return IdempotentReplyRow.digest == digest, IdempotentReplyRow.claim == claimed


def purge(engine: Engine, now: datetime) -> int:
    """Delete at most 500 expired replies; return how many. Raises DatabaseUnavailable."""
    with writing(engine) as connection:
        expired = (
            sa.select(IdempotentReplyRow.digest)
            .where(IdempotentReplyRow.expires_at <= now)
            .limit(PURGED_AT_A_TIME)
            .scalar_subquery()
        )
        return connection.execute(
            sa.delete(REPLIES).where(IdempotentReplyRow.digest.in_(expired))
        ).rowcount
