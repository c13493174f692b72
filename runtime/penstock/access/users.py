"""Users of the console, and their roles."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from string import ascii_lowercase, ascii_uppercase

from penstock import audit
from penstock.access.lookup import environment_row
from penstock.access.passwords import hash_password, verify_password
from penstock.access.seen import require_seen, state_token
from penstock.db import users as stored
from penstock.db.engine import Engine, reading
from penstock.db.tables import EnvironmentRow, UserRoleRow, UserRow
from penstock.db.unit_of_work import AccessChange, RowReader, Values
from penstock.errors import AlreadyExists, UnknownName, UsageError, quoted

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._@+-]{0,79}")
NO_ROLE = "none"  # stored for a user who has roles in single environments alone
LOWER_CASE = str.maketrans(ascii_uppercase, ascii_lowercase)


class Role(StrEnum):
    """The permissions of a user: read, change access, or manage users too."""

    VIEWER = "viewer"
    OPERATOR = "operator"
    ADMIN = "admin"

    def may(self, needed: Role) -> bool:
        """Return whether this role includes another one."""
        order = list(Role)
        return order.index(self) >= order.index(needed)


@dataclass(frozen=True, slots=True)
class ListedUser:
    """A user as others see it. `state` is active or disabled; `password`: whether there is one.

    `role` is the role in all environments, or "none"; `roles` those in single environments.
    """

    name: str
    role: str
    created_at: datetime
    signed_in_at: datetime | None
    state: str
    password: bool
    roles: Mapping[str, str]


def folded(name: str) -> str:
    """Return a name without spaces and tabs around it, its ASCII letters in lower case.

    No other character is changed or removed: U+212A does not become k, and U+00A0 stays, so such a
    name is that of no user. No two users have the same folded name.
    """
    return name.strip(" \t").translate(LOWER_CASE)


def create_user(
    engine: Engine,
    actor: str,
    name: str,
    role: Role,
    password: str | None,
    *,
    environments: Collection[str] = (),
) -> str:
    """Create a user with a role in all environments, or in some alone; return the stored name.

    It is folded, unless the user has no password and signs in with the identity provider only.
    Raises UsageError, AlreadyExists and UnknownName.
    """
    name = name.strip(" \t") if password is None else folded(name)
    if not NAME.fullmatch(name):
        raise UsageError(
            f"{quoted(name)} can't name a user; use 1 to 80 letters, digits and . _ @ + -, a letter"
            " or digit first"
        )
    hashed = hash_password(folded(name), password) if password is not None else None
    with audit.change(engine, actor, audit.Action.USER_CREATED, name) as (rows, detail):
        if any(other.lower() == folded(name) for other in rows.names(UserRow)):
            raise AlreadyExists("user", name)
        user_id = rows.add(
            UserRow,
            {
                UserRow.name: name,
                UserRow.role: NO_ROLE if environments else role.value,
                UserRow.password: hashed,
                UserRow.active: True,
                UserRow.created_at: datetime.now(UTC),
            },
        )
        for environment in environments:
            _put_role(rows, user_id, environment, role)
        detail.update(role=role.value, password=password is not None)
        if environments:
            detail["environments"] = sorted(environments)
    return name


def list_users(engine: Engine) -> list[ListedUser]:
    """Return all users by name."""
    with reading(engine) as connection:
        rows = RowReader(connection).all(UserRow)
        roles: dict[int, dict[str, str]] = {}
        for given in stored.environment_roles(connection):
            roles.setdefault(given.user_id, {})[given.environment] = given.role
    return [
        ListedUser(
            row.name,
            row.role,
            row.created_at,
            row.signed_in_at,
            state="active" if row.active else "disabled",
            password=row.password is not None,
            roles=roles.get(row.id, {}),
        )
        for row in sorted(rows, key=lambda row: row.name)
    ]


def roles_token(user: ListedUser) -> str:
    """Return the token of a user's roles, for the form that replaces one (`access.seen`)."""
    return state_token([user.role, dict(user.roles)])


def set_role(
    engine: Engine,
    actor: str,
    name: str,
    role: Role | None,
    *,
    environment: str | None = None,
    seen: str | None = None,
) -> str:
    """Set a user's role in all environments or in one, from the next request on; return the former.

    None withdraws the role. `seen` is the token that `roles_token` returned. Raises UsageError,
    UnknownName and Outdated.
    """
    with audit.change(engine, actor, audit.Action.USER_ROLE_SET, name, environment=environment) as (
        rows,
        detail,
    ):
        row = user_row(rows, name)
        word = role.value if role is not None else NO_ROLE
        places = rows.names_by_id(EnvironmentRow)
        given = rows.all(UserRoleRow, {UserRoleRow.user_id: row.id})
        roles = {places[item.environment_id]: item.role for item in given}
        saved = [("All environments", row.role), *sorted(roles.items())]
        require_seen(seen, [row.role, roles], f"the roles of {name}", saved)
        if environment is not None:
            before = _put_role(rows, row.id, environment, role)
            detail.update(role=word, before=before)
            return before
        if role is not Role.ADMIN:
            _require_other_admin(rows, row)
        rows.set(UserRow, {UserRow.id: row.id}, {UserRow.role: word})
        detail.update(role=word, before=row.role)
        return row.role


def _put_role(rows: AccessChange, user_id: int, environment: str, role: Role | None) -> str:
    """Set or withdraw a user's role in an environment; return the role before."""
    match: Values = {
        UserRoleRow.user_id: user_id,
        UserRoleRow.environment_id: environment_row(rows, environment).id,
    }
    before = rows.find(UserRoleRow, match)
    if role is None:
        rows.delete(UserRoleRow, match)
    else:
        rows.put(UserRoleRow, match, {UserRoleRow.role: role.value})
    return before.role if before is not None else NO_ROLE


def set_user_enabled(engine: Engine, actor: str, name: str, *, enabled: bool) -> None:
    """Enable a user, or disable them and end their sessions. Raises UsageError and UnknownName."""
    action = audit.Action.USER_ENABLED if enabled else audit.Action.USER_DISABLED
    with audit.change(engine, actor, action, name) as (rows, _):
        row = user_row(rows, name)
        if not enabled:
            _require_other_admin(rows, row)
            rows.end_sessions(row.id)
        rows.set(UserRow, {UserRow.id: row.id}, {UserRow.active: enabled})


def set_password(
    engine: Engine, actor: str, name: str, password: str, *, keep: int | None = None
) -> None:
    """Set a user's password and end their sessions except `keep`.

    Raises UsageError and UnknownName.
    """
    hashed = hash_password(folded(name), password)
    with audit.change(engine, actor, audit.Action.USER_PASSWORD_SET, name) as (rows, detail):
        row = user_row(rows, name)
        rows.set(UserRow, {UserRow.id: row.id}, {UserRow.password: hashed})
        detail["sessions_ended"] = rows.end_sessions(row.id, keep=keep)


def user_row(reader: RowReader, name: str) -> UserRow:
    """Return the user of that name. Raises UnknownName."""
    row = reader.find(UserRow, {UserRow.name: name})
    if row is None:
        raise UnknownName(
            "user",
            name,
            reader.names(UserRow),
            fix=f"`penstock user create {name} --role viewer` creates it",
        )
    return row


def _require_other_admin(rows: AccessChange, row: UserRow) -> None:
    admins = rows.all(UserRow, {UserRow.role: Role.ADMIN.value, UserRow.active: True})
    if row.role == Role.ADMIN and row.active and all(other.id == row.id for other in admins):
        raise UsageError(f"{row.name} is the last admin; create another one first")


def check_password(engine: Engine, name: str, password: str) -> str | None:
    """Return the user's name where the password is right and they may sign in, else None.

    It takes the same time in all cases.
    """
    with reading(engine) as connection:
        row = stored.find_user(connection, folded(name))
    right = verify_password(row.password if row is not None else None, password)
    return row.name if right and row is not None and row.active else None


def known_name(engine: Engine, name: str) -> str | None:
    """Return the name of the user of that name as it is stored, or None."""
    with reading(engine) as connection:
        row = stored.find_user(connection, folded(name))
    return row.name if row is not None else None


def find_provider_user(engine: Engine, name: str, *, fold: bool) -> str | None:
    """Return the user with exactly the name that an identity provider sends, or None.

    With `fold`, for e-mail addresses, the case of ASCII letters makes no difference.
    """
    if not NAME.fullmatch(name):
        return None
    with reading(engine) as connection:
        row = stored.find_user(connection, name.translate(LOWER_CASE))
    return row.name if row is not None and (fold or row.name == name) else None
