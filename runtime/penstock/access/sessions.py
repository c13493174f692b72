"""Sessions of the console's users."""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from hashlib import sha256

from penstock import audit
from penstock.access.users import NO_ROLE, Role, folded, user_row
from penstock.contracts.networks import caller_network
from penstock.db import users as stored
from penstock.db.engine import Engine, reading
from penstock.db.tables import UserNetworkRow, UserRow, UserSessionRow
from penstock.db.unit_of_work import RowReader
from penstock.errors import UsageError

IDLE_TIMEOUT = timedelta(hours=1)
LAST_USE_PRECISION = timedelta(seconds=60)
NETWORK_RETENTION = timedelta(days=90)  # since a user signed in from it
MAX_ADDRESS_LENGTH, MAX_AGENT_LENGTH = 64, 255  # the lengths of their columns


@dataclass(frozen=True, slots=True)
class SignedIn:
    """The user of a request, and the session.

    `role` is the role in all environments, None without one; `roles` those in single environments.
    """

    user_id: int
    name: str
    role: Role | None
    session_id: int
    address: str
    roles: Mapping[str, Role]

    def role_in(self, environment: str) -> Role | None:
        """Return the higher of the user's roles in an environment; None: it must stay unknown."""
        given = [role for role in (self.role, self.roles.get(environment)) if role is not None]
        return max(given, key=list(Role).index, default=None)

    @property
    def highest_role(self) -> Role | None:
        """The highest role that the user has in any environment."""
        given = [role for role in (self.role, *self.roles.values()) if role is not None]
        return max(given, key=list(Role).index, default=None)


def begin_session(
    engine: Engine, name: str, *, lifetime: timedelta, address: str, agent: str, how: str
) -> str:
    """Sign a user in and return the session's token, of which only a digest is stored.

    Raises UsageError where the user may not sign in.
    """
    token, now = secrets.token_urlsafe(32), datetime.now(UTC)
    address = address[:MAX_ADDRESS_LENGTH]
    stored.purge_sessions(engine, now, networks=now - NETWORK_RETENTION)
    with audit.change(engine, name, audit.Action.USER_SIGNED_IN, name) as (rows, detail):
        row = rows.find(UserRow, {UserRow.name: name})
        if row is None or not row.active:
            raise UsageError("this user may not sign in")
        rows.set(UserRow, {UserRow.id: row.id}, {UserRow.signed_in_at: now})
        rows.add(
            UserSessionRow,
            {
                UserSessionRow.user_id: row.id,
                UserSessionRow.digest: _digest(token),
                UserSessionRow.created_at: now,
                UserSessionRow.seen_at: now,
                UserSessionRow.expires_at: now + lifetime,
                UserSessionRow.address: address,
                UserSessionRow.agent: agent[:MAX_AGENT_LENGTH],
            },
        )
        if network := caller_network(address):
            rows.put(
                UserNetworkRow,
                {UserNetworkRow.user_id: row.id, UserNetworkRow.network: network},
                {UserNetworkRow.signed_in_at: now},
            )
        detail.update(address=address, how=how)
    return token


def is_known_address(engine: Engine, name: str, address: str) -> bool:
    """Return whether a user signed in from an address within the last 90 days.

    For IPv6 it is the network of the address.
    """
    network, since = caller_network(address[:MAX_ADDRESS_LENGTH]), datetime.now(UTC)
    with reading(engine) as connection:
        user = stored.find_user(connection, folded(name)) if network else None
        row = (
            RowReader(connection).find(
                UserNetworkRow,
                {UserNetworkRow.user_id: user.id, UserNetworkRow.network: network},
            )
            if user is not None
            else None
        )
    return row is not None and row.signed_in_at > since - NETWORK_RETENTION


def _digest(token: str) -> bytes:
    return sha256(token.encode()).digest()


def find_session(engine: Engine, token: str, *, note: bool = True) -> SignedIn | None:
    """Return the user who is signed in with a token, or None where its session has ended.

    `note` writes that the session was used.
    """
    now = datetime.now(UTC)
    with reading(engine) as connection:
        row = stored.find_session(connection, _digest(token))
        given = stored.environment_roles(connection, row.user_id) if row is not None else []
    if (
        row is None
        or not row.active
        or row.expires_at <= now
        or row.seen_at <= now - IDLE_TIMEOUT
        or row.role not in {*Role, NO_ROLE}
    ):
        return None
    if note and row.seen_at <= now - LAST_USE_PRECISION:
        stored.touch_session(engine, row.id, now)
    return SignedIn(
        row.user_id,
        row.name,
        None if row.role == NO_ROLE else Role(row.role),
        row.id,
        row.address,
        # A role that can't be read grants nothing.
        {item.environment: Role(item.role) for item in given if item.role in set(Role)},
    )


def list_sessions(engine: Engine, name: str) -> list[UserSessionRow]:
    """Return a user's sessions that have not ended, last used first. Raises UnknownName."""
    now = datetime.now(UTC)
    with reading(engine) as connection:
        row = user_row(RowReader(connection), name)
        return stored.list_sessions(connection, row.id, now=now, idle_since=now - IDLE_TIMEOUT)


def end_sessions(
    engine: Engine, actor: str, name: str, *, session_id: int | None = None, keep: int | None = None
) -> int:
    """End one session of a user, or all of them except `keep`; return how many were ended.

    Raises UnknownName.
    """
    with audit.change(engine, actor, audit.Action.USER_SESSIONS_ENDED, name) as (rows, detail):
        detail["sessions"] = ended = rows.end_sessions(
            user_row(rows, name).id, session_id=session_id, keep=keep
        )
    return ended


def sign_out(engine: Engine, user: SignedIn) -> None:
    """End the session of a request."""
    with audit.change(engine, user.name, audit.Action.USER_SIGNED_OUT, user.name) as (rows, _):
        rows.end_sessions(user.user_id, session_id=user.session_id)
