"""Users of the console and their sessions, which are read at each request.

They carry no revision.
"""

from __future__ import annotations

from datetime import datetime

import sqlalchemy as sa

from penstock.db.engine import Engine, writing
from penstock.db.rows import Col, joined
from penstock.db.tables import (
    EnvironmentRow,
    UserNetworkRow,
    UserRoleRow,
    UserRow,
    UserSessionRow,
)


class SessionRow(UserSessionRow):
    """A session with its user."""

    name: Col[str] = joined(UserRow.name)
    role: Col[str] = joined(UserRow.role)
    active: Col[bool] = joined(UserRow.active)


def find_user(connection: sa.Connection, folded: str) -> UserRow | None:
    """Return the user whose name in lower case is `folded`, or None; names are ASCII."""
    return UserRow.fetch_first(
        connection, UserRow.select().where(sa.func.lower(UserRow.name) == folded)
    )


def find_session(connection: sa.Connection, digest: bytes) -> SessionRow | None:
    """Return the session whose token has that digest, or None."""
    query = (
        SessionRow.select()
        .join(UserRow.table, UserRow.id == UserSessionRow.user_id)
        .where(UserSessionRow.digest == digest)
    )
    return SessionRow.fetch_first(connection, query)


class EnvironmentRoleRow(UserRoleRow):
    """The role of a user in an environment, with the environment's name."""

    environment: Col[str] = joined(EnvironmentRow.name)


def environment_roles(
    connection: sa.Connection, user_id: int | None = None
) -> list[EnvironmentRoleRow]:
    """Return the roles of a user, or of all users, in single environments by name."""
    query = (
        EnvironmentRoleRow.select()
        .join(EnvironmentRow.table, EnvironmentRow.id == UserRoleRow.environment_id)
        .order_by(EnvironmentRow.name)
    )
    if user_id is not None:
        query = query.where(UserRoleRow.user_id == user_id)
    return EnvironmentRoleRow.fetch(connection, query)


def touch_session(engine: Engine, session_id: int, now: datetime) -> None:
    """Write that a session was used."""
    with writing(engine) as connection:
        connection.execute(
            sa.update(UserSessionRow.table)
            .where(UserSessionRow.id == session_id)
            .values({UserSessionRow.seen_at: now})
        )


def purge_sessions(engine: Engine, now: datetime, *, networks: datetime) -> None:
    """Delete expired sessions, and networks that no user signed in from since `networks`."""
    with writing(engine) as connection:
        connection.execute(sa.delete(UserSessionRow.table).where(UserSessionRow.expires_at <= now))
        connection.execute(
            sa.delete(UserNetworkRow.table).where(UserNetworkRow.signed_in_at <= networks)
        )


def list_sessions(
    connection: sa.Connection, user_id: int, *, now: datetime, idle_since: datetime
) -> list[UserSessionRow]:
    """Return a user's sessions that have neither expired nor been idle, last used first."""
    query = UserSessionRow.select().where(
        UserSessionRow.user_id == user_id,
        UserSessionRow.expires_at > now,
        UserSessionRow.seen_at > idle_since,
    )
    return UserSessionRow.fetch(
        connection, query.order_by(UserSessionRow.seen_at.desc(), UserSessionRow.id)
    )
