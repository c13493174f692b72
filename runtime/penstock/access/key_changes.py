"""Change several API keys at once: in one transaction, with an audit event for each of them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import UTC, datetime
from enum import StrEnum

from penstock import audit
from penstock.access.api_keys import ListedKey, listed_key
from penstock.db import api_keys as stored
from penstock.db.engine import Engine, reading
from penstock.db.rows import AnyColumn
from penstock.db.tables import ApiKeyRow
from penstock.db.unit_of_work import access_change
from penstock.errors import UnknownName, UsageError

MAX_KEYS = 200  # of one change: people have to read their list


class KeyAct(StrEnum):
    """What is done with keys. `expire` only shortens their life, and `extend` only prolongs it."""

    REVOKE = "revoke"
    DISABLE = "disable"
    EXPIRE = "expire"
    EXTEND = "extend"


ACTIONS: Mapping[KeyAct, audit.Action] = {
    KeyAct.REVOKE: audit.Action.KEY_REVOKED,
    KeyAct.DISABLE: audit.Action.KEY_DISABLED,
    KeyAct.EXPIRE: audit.Action.KEY_EXPIRY_SET,
    KeyAct.EXTEND: audit.Action.KEY_EXPIRY_SET,
}


def _shortens(key: ListedKey, until: datetime) -> bool:
    return not key.ended and (key.expires_at is None or key.expires_at > until)


def _prolongs(key: ListedKey, until: datetime) -> bool:
    return not key.ended and key.expires_at is not None and key.expires_at < until


CHANGES: Mapping[KeyAct, Callable[[ListedKey, datetime], bool]] = {
    KeyAct.REVOKE: lambda key, _: key.state != "revoked",
    KeyAct.DISABLE: lambda key, _: not key.ended and key.state != "disabled",
    KeyAct.EXPIRE: _shortens,
    KeyAct.EXTEND: _prolongs,
}


def changed_by(keys: Iterable[ListedKey], act: KeyAct, until: datetime) -> list[ListedKey]:
    """Return the keys that an act would change; the others are so already, or have ended."""
    return [key for key in keys if CHANGES[act](key, until)]


def require_bounded(number: int) -> None:
    """Raise UsageError where one change would have too many keys."""
    if number > MAX_KEYS:
        raise UsageError(
            f"one change has at most {MAX_KEYS} keys; choose fewer, or use filters that leave fewer"
        )


def find_keys(engine: Engine, ids: Sequence[str]) -> list[ListedKey]:
    """Return keys by their ids. Raises UsageError and UnknownName."""
    require_bounded(len(set(ids)))
    with reading(engine) as connection:
        return _found(stored.NamedKeyRow.fetch(connection, stored.of_ids(ids)), ids)


def _found(rows: Iterable[stored.NamedKeyRow], ids: Sequence[str]) -> list[ListedKey]:
    keys = [listed_key(row) for row in rows]
    known = {key.id for key in keys}
    for identifier in ids:
        if identifier not in known:
            raise UnknownName("key", identifier, fix="`penstock key list` shows their ids")
    return keys


def change_keys(
    engine: Engine, actor: str, ids: Sequence[str], act: KeyAct, until: datetime | None = None
) -> list[ListedKey]:
    """Change keys in one transaction, and return those that were changed.

    `until` is when they expire, for expire and extend. Raises UsageError and UnknownName; then no
    key is changed.
    """
    require_bounded(len(set(ids)))
    now = datetime.now(UTC)
    moment = until or now
    values: dict[AnyColumn, object] = {ApiKeyRow.expires_at: moment}
    if act is KeyAct.REVOKE:
        values = {ApiKeyRow.revoked_at: now}
    elif act is KeyAct.DISABLE:
        values = {ApiKeyRow.enabled: False}
    with access_change(engine) as rows:
        keys = _found(rows.fetch(stored.NamedKeyRow, stored.of_ids(ids)), ids)
        changed = changed_by(keys, act, moment)
        for key in changed:
            rows.set(ApiKeyRow, {ApiKeyRow.id: key.id}, values)
            detail: dict[str, object] = {"consumer": key.consumer}
            if ApiKeyRow.expires_at in values:
                before = key.expires_at.isoformat() if key.expires_at else "never"
                detail |= {"before": before, "expires_at": moment.isoformat()}
            audit.note(rows, actor, ACTIONS[act], key.id, detail, environment=key.environment)
    return changed
