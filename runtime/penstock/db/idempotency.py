"""Kept replies: what a call with an `Idempotency-Key` was answered.

They are no access data: they carry no revision.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime

import sqlalchemy as sa
from sqlalchemy.exc import IntegrityError

from penstock.db.engine import DatabaseUnavailable, Engine, writing
from penstock.db.tables import idempotent_replies as kept
from penstock.db.unit_of_work import Row

PURGED_AT_A_TIME = 500
ATTEMPTS = 5


def claim(
    engine: Engine, digest: bytes, body: bytes, claimed: str, now: datetime, lease: datetime
) -> Row | None:
    """Claim a key, and return None; or return what is kept under it. Raises DatabaseUnavailable.

    What has expired, or whose claim's lease has ended without a reply, can be claimed anew.
    """
    with writing(engine) as connection:
        connection.execute(sa.delete(kept).where(kept.c.digest == digest, kept.c.expires_at <= now))
        for _ in range(ATTEMPTS):
            try:
                with connection.begin_nested():
                    connection.execute(
                        sa.insert(kept).values(
                            digest=digest, body=body, claim=claimed, expires_at=lease
                        )
                    )
            except IntegrityError:
                found = (
                    connection.execute(sa.select(kept).where(kept.c.digest == digest))
                    .mappings()
                    .first()
                )
                if found is not None:
                    return found  # else it was given back in between
            else:
                return None
    raise DatabaseUnavailable("a key is claimed and given back too fast")


class Taken(Exception):
    """Another call has kept a reply under this key meanwhile."""


def find(connection: sa.Connection, digest: bytes, now: datetime) -> Row | None:
    """Return what is kept under a key."""
    return (
        connection.execute(sa.select(kept).where(kept.c.digest == digest, kept.c.expires_at > now))
        .mappings()
        .first()
    )


def put(
    connection: sa.Connection,
    digest: bytes,
    body: bytes,
    reply: bytes,
    now: datetime,
    expires_at: datetime,
) -> None:
    """Keep a reply under a key as part of a transaction. Raises Taken."""
    connection.execute(sa.delete(kept).where(kept.c.digest == digest, kept.c.expires_at <= now))
    try:
        connection.execute(
            sa.insert(kept).values(
                digest=digest, body=body, claim="", reply=reply, expires_at=expires_at
            )
        )
    except IntegrityError as error:
        raise Taken from error


def renew(engine: Engine, claims: Mapping[str, bytes], lease: datetime) -> None:
    """Lengthen the leases of claims, by claim the digest of its key. Raises DatabaseUnavailable."""
    with writing(engine) as connection:
        for claimed, digest in claims.items():
            mine = kept.c.digest == digest, kept.c.claim == claimed, kept.c.expires_at < lease
            connection.execute(sa.update(kept).where(*mine).values(expires_at=lease))


def keep(engine: Engine, digest: bytes, claimed: str, reply: bytes, expires_at: datetime) -> None:
    """Keep the reply under a key, for whom it was claimed. Raises DatabaseUnavailable."""
    with writing(engine) as connection:
        connection.execute(
            sa.update(kept)
            .where(kept.c.digest == digest, kept.c.claim == claimed)
            .values(reply=reply, expires_at=expires_at)
        )


def release(engine: Engine, digest: bytes, claimed: str) -> None:
    """Give a key back that was claimed and has no reply. Raises DatabaseUnavailable."""
    with writing(engine) as connection:
        connection.execute(
            sa.delete(kept).where(
                kept.c.digest == digest, kept.c.claim == claimed, kept.c.reply.is_(None)
            )
        )


def purge(engine: Engine, now: datetime) -> int:
    """Delete expired replies, a few at a time; return how many. Raises DatabaseUnavailable."""
    with writing(engine) as connection:
        expired = (
            sa.select(kept.c.digest)
            .where(kept.c.expires_at <= now)
            .limit(PURGED_AT_A_TIME)
            .scalar_subquery()
        )
        return connection.execute(sa.delete(kept).where(kept.c.digest.in_(expired))).rowcount
