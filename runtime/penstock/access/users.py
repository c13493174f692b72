"""Users of the console: who they are, what they may do, and the sessions in which they do it."""

from __future__ import annotations

import re
import secrets
import threading
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from hashlib import sha256
from string import ascii_lowercase, ascii_uppercase

from argon2 import PasswordHasher
from argon2.exceptions import InvalidHashError, VerificationError

from penstock import audit
from penstock.contracts.networks import caller_network
from penstock.db import users as stored
from penstock.db.engine import Engine, reading
from penstock.db.unit_of_work import AccessChange, Row, RowReader
from penstock.errors import AlreadyExists, UnknownName, UsageError

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._@+-]{0,79}")
FOLDED = str.maketrans(ascii_uppercase, ascii_lowercase)
SHORTEST, LONGEST = 12, 1024  # characters of a password
IDLE = timedelta(hours=1)  # without a request, and a session is over
NOTED = timedelta(seconds=60)  # how exactly it is kept when a session was last used
REMEMBERED = timedelta(days=90)  # since a user signed in from an address
# Hashing takes tens of milliseconds of a core and tens of megabytes: guessing must not take them
# all.
AT_ONCE = 2
# An unknown user costs as much time as a wrong password.
NOBODY = (
    "$argon2id$v=19$m=65536,t=3,p=4$uHTSQXSWywBzep3VSFaCAg"
    "$Z3M4ks3w0hNXS1jQnopYEqp5OvfkJaqB8q0JBf5w5zw"
)

_hasher = PasswordHasher()
_hashing = threading.BoundedSemaphore(AT_ONCE)


class Role(StrEnum):
    """What a user may do: look, change access, or also say who the users are."""

    VIEWER = "viewer"
    OPERATOR = "operator"
    ADMIN = "admin"

    def may(self, needed: Role) -> bool:
        """Say whether this role includes another one."""
        order = list(Role)
        return order.index(self) >= order.index(needed)


@dataclass(frozen=True, slots=True)
class SignedIn:
    """Who makes a request, and in which session."""

    user_id: int
    name: str
    role: Role
    session_id: int
    address: str


def folded(name: str) -> str:
    """Return a name as people may type it.

    Spaces and tabs around it go, and its ASCII letters become lower case.

    No other character changes or goes: U+212A is no k, and U+00A0 is part of a name, which then is
    nobody's. No two users have names that are the same folded.
    """
    return name.strip(" \t").translate(FOLDED)


def create_user(engine: Engine, actor: str, name: str, role: Role, password: str | None) -> str:
    """Create a user, and return the name as it is kept.

    Folded, or as it is where the identity provider alone vouches for it.
    """
    name = name.strip(" \t") if password is None else folded(name)
    if not NAME.fullmatch(name):
        raise UsageError(
            f"{name!r} can't name a user; use 1 to 80 letters, digits and . _ @ + -, a letter or"
            " digit first"
        )
    hashed = _hashed(name, password) if password is not None else None
    with audit.change(engine, actor, audit.Action.USER_CREATED, name) as (rows, detail):
        if stored.is_name_taken(rows, folded(name)):
            raise AlreadyExists("user", name)
        rows.add(
            "users",
            name=name,
            role=role.value,
            password=hashed,
            active=True,
            created_at=datetime.now(UTC),
        )
        detail.update(role=role.value, password=password is not None)
    return name


def make_password() -> str:
    """Make a password that nobody guesses."""
    return secrets.token_urlsafe(18)


def _hashed(name: str, password: str) -> str:
    if not SHORTEST <= len(password) <= LONGEST:
        raise UsageError(f"a password has at least {SHORTEST} characters and at most {LONGEST}")
    if folded(name) in password.lower() or len(set(password)) < 5:  # noqa: PLR2004  what is less is a repetition
        raise UsageError("a password must not hold the user's name, nor repeat a few characters")
    with _hashing:
        return _hasher.hash(password)


def list_users(engine: Engine) -> list[dict[str, object]]:
    """Return all users by name, without what is secret of them."""
    with reading(engine) as connection:
        rows = RowReader(connection).all("users")
    return [
        {
            **{column: row[column] for column in ("name", "role", "created_at", "signed_in_at")},
            "state": "active" if row["active"] else "disabled",
            "password": row["password"] is not None,
        }
        for row in sorted(rows, key=lambda row: row["name"])
    ]


def set_role(engine: Engine, actor: str, name: str, role: Role) -> None:
    """Change what a user may do, from the next request on."""
    with audit.change(engine, actor, audit.Action.USER_ROLE_SET, name) as (rows, detail):
        row = _row(rows, name)
        if role is not Role.ADMIN:
            _keep_an_admin(rows, row)
        rows.set("users", {"id": row["id"]}, role=role.value)
        detail.update(role=role.value, before=row["role"])


def set_user_enabled(engine: Engine, actor: str, name: str, *, enabled: bool) -> None:
    """Let a user in again, or keep them out and end their sessions."""
    action = audit.Action.USER_ENABLED if enabled else audit.Action.USER_DISABLED
    with audit.change(engine, actor, action, name) as (rows, _):
        row = _row(rows, name)
        if not enabled:
            _keep_an_admin(rows, row)
            rows.end_sessions(row["id"])
        rows.set("users", {"id": row["id"]}, active=enabled)


def set_password(
    engine: Engine, actor: str, name: str, password: str, *, keep: int | None = None
) -> None:
    """Give a user another password and end their sessions, but the one to keep."""
    hashed = _hashed(name, password)
    with audit.change(engine, actor, audit.Action.USER_PASSWORD_SET, name) as (rows, detail):
        row = _row(rows, name)
        rows.set("users", {"id": row["id"]}, password=hashed)
        detail["sessions_ended"] = rows.end_sessions(row["id"], keep=keep)


def _row(reader: RowReader, name: str) -> Row:
    row = reader.find("users", name=name)
    if row is None:
        raise UnknownName(
            "user",
            name,
            reader.names("users"),
            fix=f"`penstock user create {name} --role viewer` makes it",
        )
    return row


def _keep_an_admin(rows: AccessChange, row: Row) -> None:
    others = [
        other
        for other in rows.all("users", role=Role.ADMIN.value, active=True)
        if other["id"] != row["id"]
    ]
    if row["role"] == Role.ADMIN and row["active"] and not others:
        raise UsageError(f"{row['name']} is the last admin; make another one first")


def check_password(engine: Engine, name: str, password: str) -> str | None:
    """Return the user's name if the password is theirs and they may come in, else None.

    That takes the same time whatever is wrong.
    """
    with reading(engine) as connection:
        row = stored.find_user(connection, folded(name))
    known = row["password"] if row is not None and row["password"] else NOBODY
    right = False
    with suppress(VerificationError, InvalidHashError), _hashing:
        right = _hasher.verify(known, password[: LONGEST + 1])
    return row["name"] if right and row is not None and row["password"] and row["active"] else None


def find_vouched_for(engine: Engine, said: str, *, fold: bool) -> str | None:
    """Return the user of the name that an identity provider says, exactly.

    With `fold`, for e-mail, whatever case its ASCII letters have.
    """
    if not NAME.fullmatch(said):
        return None
    with reading(engine) as connection:
        row = stored.find_user(connection, said.translate(FOLDED))
    return row["name"] if row is not None and (fold or row["name"] == said) else None


def begin_session(
    engine: Engine, name: str, *, lifetime: timedelta, address: str, agent: str, how: str
) -> str:
    """Sign a user in and return the session's token, of which a digest alone is kept.

    Raises UsageError where the user may not.
    """
    token, now = secrets.token_urlsafe(32), datetime.now(UTC)
    stored.purge_sessions(engine, now, networks=now - REMEMBERED)
    with audit.change(engine, name, audit.Action.USER_SIGNED_IN, name) as (rows, detail):
        row = rows.find("users", name=name)
        if row is None or not row["active"]:
            raise UsageError("this user may not sign in")
        rows.set("users", {"id": row["id"]}, signed_in_at=now)
        values = {
            "created_at": now,
            "seen_at": now,
            "expires_at": now + lifetime,
            "address": address[:64],
            "agent": agent[:255],
        }
        rows.add("user_sessions", user_id=row["id"], digest=_digest(token), **values)
        if network := caller_network(address[:64]):
            rows.put("user_networks", {"user_id": row["id"], "network": network}, signed_in_at=now)
        detail.update(address=address[:64], how=how)
    return token


def is_known_address(engine: Engine, name: str, address: str) -> bool:
    """Say whether a user was signed in from an address within the last 90 days.

    Of IPv6 the address's network counts.
    """
    network, since = caller_network(address[:64]), datetime.now(UTC) - REMEMBERED
    with reading(engine) as connection:
        reader = RowReader(connection)
        user = stored.find_user(connection, folded(name)) if network else None
        row = (
            reader.find("user_networks", user_id=user["id"], network=network)
            if user is not None
            else None
        )
    return row is not None and row["signed_in_at"] > since


def _digest(token: str) -> bytes:
    return sha256(token.encode()).digest()


def find_session(engine: Engine, token: str, *, note: bool = True) -> SignedIn | None:
    """Return who is signed in with a token, or None where its session is over.

    `note` that it was used.
    """
    now = datetime.now(UTC)
    with reading(engine) as connection:
        row = stored.find_session(connection, _digest(token))
    if (
        row is None
        or not row["active"]
        or row["expires_at"] <= now
        or row["seen_at"] <= now - IDLE
        or row["role"] not in set(Role)
    ):
        return None
    if note and row["seen_at"] <= now - NOTED:
        stored.touch_session(engine, row["id"], now)
    return SignedIn(row["user_id"], row["name"], Role(row["role"]), row["id"], row["address"])


def list_sessions(engine: Engine, name: str) -> list[Row]:
    """Return a user's sessions that are not over, last used first."""
    now = datetime.now(UTC)
    with reading(engine) as connection:
        row = _row(RowReader(connection), name)
        return list(stored.sessions_of(connection, row["id"], now=now, idle_since=now - IDLE))


def end_sessions(
    engine: Engine, actor: str, name: str, *, session_id: int | None = None, keep: int | None = None
) -> int:
    """End one session of a user, or all of them but the one to keep; return how many there were."""
    with audit.change(engine, actor, audit.Action.USER_SESSIONS_ENDED, name) as (rows, detail):
        detail["sessions"] = ended = rows.end_sessions(
            _row(rows, name)["id"], session_id=session_id, keep=keep
        )
    return ended


def sign_out(engine: Engine, user: SignedIn) -> None:
    """End the session in which a user asks for it."""
    with audit.change(engine, user.name, audit.Action.USER_SIGNED_OUT, user.name) as (rows, _):
        rows.end_sessions(user.user_id, session_id=user.session_id)
