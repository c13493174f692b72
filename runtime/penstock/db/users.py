"""Sessions of the console's users: looked up at every request, deleted when they end.

They carry no revision.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

import sqlalchemy as sa

from penstock.db.engine import Engine, writing
from penstock.db.tables import user_networks, user_sessions, users
from penstock.db.unit_of_work import Row, RowReader


def find_user(connection: sa.Connection, folded: str) -> Row | None:
    """Return the user whose name is this one, its letters in lower case; names are ASCII."""
    return (
        connection.execute(sa.select(users).where(sa.func.lower(users.c.name) == folded))
        .mappings()
        .first()
    )


def is_name_taken(rows: RowReader, folded: str) -> bool:
    """Say whether a user has this name, whatever the case of its letters."""
    return any(name.lower() == folded for name in rows.names("users"))


def find_session(connection: sa.Connection, digest: bytes) -> Row | None:
    """Return the session whose token has that digest, with its user, or None."""
    query = (
        sa.select(user_sessions, users.c.name, users.c.role, users.c.active)
        .join(users, users.c.id == user_sessions.c.user_id)
        .where(user_sessions.c.digest == digest)
    )
    return connection.execute(query).mappings().first()


def touch_session(engine: Engine, session_id: int, now: datetime) -> None:
    """Note that a session was used."""
    with writing(engine) as connection:
        connection.execute(
            sa.update(user_sessions).where(user_sessions.c.id == session_id).values(seen_at=now)
        )


def purge_sessions(engine: Engine, now: datetime, *, networks: datetime) -> None:
    """Forget sessions whose time is up, and networks from which nobody signed in since a moment."""
    with writing(engine) as connection:
        connection.execute(sa.delete(user_sessions).where(user_sessions.c.expires_at <= now))
        connection.execute(sa.delete(user_networks).where(user_networks.c.signed_in_at <= networks))


def sessions_of(
    connection: sa.Connection, user_id: int, *, now: datetime, idle_since: datetime
) -> Sequence[Row]:
    """Return the sessions of a user that are still good, last used first."""
    query = sa.select(user_sessions).where(
        user_sessions.c.user_id == user_id,
        user_sessions.c.expires_at > now,
        user_sessions.c.seen_at > idle_since,
    )
    return (
        connection.execute(query.order_by(user_sessions.c.seen_at.desc(), user_sessions.c.id))
        .mappings()
        .all()
    )
