"""API keys of consumers."""

from __future__ import annotations

import secrets
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

from penstock import audit
from penstock.access.lookup import ConsumerPlace, consumer_in, consumer_row, environment_row
from penstock.access.texts import check_text
from penstock.contracts.keys import digest_of, make_api_key
from penstock.db import api_keys as stored
from penstock.db.api_keys import KeyFilter
from penstock.db.engine import Engine, reading
from penstock.db.tables import ApiKeyRow, ConsumerRow, EnvironmentRow
from penstock.db.unit_of_work import AccessChange, RowReader
from penstock.errors import PenstockError, UnknownName


@dataclass(frozen=True, slots=True)
class NewKey:
    """A key at the only moment at which it can be seen."""

    id: str
    key: str = field(repr=False)
    consumer: str
    environment: str
    expires_at: datetime | None


@dataclass(frozen=True, slots=True)
class ListedKey:
    """A key as operators see it.

    `state` is usable, disabled, consumer disabled, expired or revoked. `successor` shows the end
    of the key that replaced it, and `successor_id` is its id.
    """

    id: str
    consumer: str
    environment: str
    note: str
    created_at: datetime
    expires_at: datetime | None
    last_used_at: datetime | None
    shown_as: str
    state: str
    successor: str | None = None
    successor_id: str | None = None

    @property
    def ended(self) -> bool:
        """Whether it is revoked or has expired, so that it can't be used again."""
        return self.state in {"revoked", "expired"}


def shown_key(environment: str, end: str) -> str:
    """Return a key as pages show it: its environment and its last characters."""
    return f"pk_{environment}_…{end}"


def _moment(when: timedelta | datetime | None, now: datetime) -> datetime | None:
    return now + when if isinstance(when, timedelta) else when


def create_key(
    engine: Engine,
    actor: str,
    consumer: str,
    environment: str,
    *,
    expires: timedelta | datetime | None = None,
    note: str = "",
) -> NewKey:
    """Create an API key, of which only the digest is stored.

    `expires` is a time from now or a moment; None: never. Raises UsageError and UnknownName.
    """
    check_text("note", note)
    with audit.change(
        engine, actor, audit.Action.KEY_CREATED, consumer, environment=environment
    ) as (rows, detail):
        place = consumer_in(rows, consumer, environment)
        key = _add_key(rows, place, consumer, environment, expires=expires, note=note)
        detail.update(
            key=key.id,
            expires_at=key.expires_at.isoformat() if key.expires_at else None,
            note=note,
        )
        return key


def _add_key(
    rows: AccessChange,
    place: ConsumerPlace,
    consumer: str,
    environment: str,
    *,
    expires: timedelta | datetime | None,
    note: str,
) -> NewKey:
    now = datetime.now(UTC)
    key = NewKey(
        f"key_{secrets.token_hex(6)}",
        make_api_key(environment),
        consumer,
        environment,
        _moment(expires, now),
    )
    rows.add(
        ApiKeyRow,
        {
            **place.of(ApiKeyRow),
            ApiKeyRow.id: key.id,
            ApiKeyRow.digest: digest_of(key.key),
            ApiKeyRow.last_four: key.key[-4:],
            ApiKeyRow.note: note,
            ApiKeyRow.enabled: True,
            ApiKeyRow.created_at: now,
            ApiKeyRow.expires_at: key.expires_at,
        },
    )
    return key


def rotate_key(
    engine: Engine, actor: str, key_id: str, until: timedelta | datetime
) -> tuple[NewKey, datetime]:
    """Create a key's successor; return it, and when the old key expires.

    `until` is a time from now or a moment; the old key never gets a longer life. Raises
    UnknownName, and PenstockError where the old key has ended, is disabled or was replaced.
    """
    now = datetime.now(UTC)
    action, where = audit.Action.KEY_ROTATED, _environment_of(engine, key_id)
    with audit.change(engine, actor, action, key_id, environment=where) as (rows, detail):
        old = require_key(rows, key_id)
        detail["consumer"] = _consumer_of(rows, old)
        _require_rotatable(rows, old, now)
        environment = rows.names_by_id(EnvironmentRow)[old.environment_id]
        consumer = rows.names_by_id(ConsumerRow)[old.consumer_id]
        key = _add_key(
            rows,
            ConsumerPlace(old.environment_id, old.consumer_id),
            consumer,
            environment,
            expires=old.expires_at - old.created_at if old.expires_at else None,
            note=old.note,
        )
        latest = _moment(until, now) or now
        ends = min(latest, old.expires_at or latest)
        rows.set(
            ApiKeyRow,
            {ApiKeyRow.id: key_id},
            {ApiKeyRow.expires_at: ends, ApiKeyRow.replaced_by: key.id},
        )
        detail.update(successor=key.id, environment=environment, ends=ends.isoformat())
        return key, ends


def _require_rotatable(rows: RowReader, key: ApiKeyRow, now: datetime) -> None:
    """Raise PenstockError where a key has ended, is disabled, or has a successor in use."""
    if has_ended(key, now):
        raise PenstockError(f"key {key.id} has ended; create a new one with `penstock key create`")
    if not key.enabled:
        raise PenstockError(
            f"key {key.id} is disabled, and its successor would not be; enable it first with"
            f" `penstock key enable {key.id}`"
        )
    if key.replaced_by is None:
        return
    successor = rows.find(ApiKeyRow, {ApiKeyRow.id: key.replaced_by})
    if successor is not None and not has_ended(successor, now):
        raise PenstockError(
            f"key {key.id} was replaced by {successor.id} already; rotate that one instead"
        )


def has_ended(key: ApiKeyRow, now: datetime) -> bool:
    """Return whether a key is revoked or has expired."""
    return bool(key.revoked_at or (key.expires_at and key.expires_at <= now))


def revoke_key(engine: Engine, actor: str, key_id: str) -> None:
    """Revoke a key; a revoked one stays as it is. Raises UnknownName."""
    action, where = audit.Action.KEY_REVOKED, _environment_of(engine, key_id)
    with audit.change(engine, actor, action, key_id, environment=where) as (rows, detail):
        row = require_key(rows, key_id)
        detail["consumer"] = _consumer_of(rows, row)
        if not row.revoked_at:
            rows.set(ApiKeyRow, {ApiKeyRow.id: key_id}, {ApiKeyRow.revoked_at: datetime.now(UTC)})


def set_key_enabled(engine: Engine, actor: str, key_id: str, *, enabled: bool) -> None:
    """Enable or disable a key. Raises UnknownName, and PenstockError where it is revoked."""
    action = audit.Action.KEY_ENABLED if enabled else audit.Action.KEY_DISABLED
    where = _environment_of(engine, key_id)
    with audit.change(engine, actor, action, key_id, environment=where) as (rows, detail):
        row = require_key(rows, key_id)
        detail["consumer"] = _consumer_of(rows, row)
        if row.revoked_at:
            raise PenstockError(
                f"key {key_id} is revoked, which is final; create a new one with `penstock key"
                " create`"
            )
        rows.set(ApiKeyRow, {ApiKeyRow.id: key_id}, {ApiKeyRow.enabled: enabled})


def _environment_of(engine: Engine, key_id: str) -> str:
    """Return the environment of a key, which never changes. Raises UnknownName."""
    with reading(engine) as connection:
        reader = RowReader(connection)
        return reader.names_by_id(EnvironmentRow)[require_key(reader, key_id).environment_id]


def _consumer_of(rows: RowReader, key: ApiKeyRow) -> str | None:
    consumer = rows.find(ConsumerRow, {ConsumerRow.id: key.consumer_id})
    return consumer.name if consumer is not None else None


def require_key(rows: RowReader, key_id: str) -> ApiKeyRow:
    """Return a key. Raises UnknownName."""
    row = rows.find(ApiKeyRow, {ApiKeyRow.id: key_id})
    if row is None:
        raise UnknownName(
            "key",
            key_id,
            rows.near(ApiKeyRow.id, key_id),
            fix="`penstock key list` shows their ids",
        )
    return row


@dataclass(frozen=True, slots=True)
class KeyQuery:
    """Which keys to list; a field that is None, False or empty leaves none out.

    `unused` and `expiring` are durations: not used for that time, or about to expire within it. A
    query with one of the last five fields leaves out keys that are revoked or have expired.
    """

    environment: str | None = None
    consumer: str | None = None
    search: str = ""
    unused: timedelta | None = None
    expiring: timedelta | None = None
    never_used: bool = False
    no_expiry: bool = False
    disabled_consumers: bool = False

    def of_rows(self, reader: RowReader, now: datetime) -> KeyFilter:
        """Return the filter of rows at a moment. Raises UnknownName."""
        live = (
            self.unused is not None
            or self.expiring is not None
            or self.never_used
            or self.no_expiry
            or self.disabled_consumers
        )
        return KeyFilter(
            environment_id=environment_row(reader, self.environment).id
            if self.environment
            else None,
            consumer_id=consumer_row(reader, self.consumer).id if self.consumer else None,
            live_at=now if live else None,
            idle_since=now - self.unused if self.unused is not None else None,
            expires_until=now + self.expiring if self.expiring is not None else None,
            never_used=self.never_used,
            no_expiry=self.no_expiry,
            disabled_consumers=self.disabled_consumers,
            search=self.search,
        )


def list_keys(
    engine: Engine,
    query: KeyQuery | None = None,
    *,
    after: str | None = None,
    limit: int | None = None,
) -> list[ListedKey]:
    """Return keys, oldest first; a page begins after an id. Raises UnknownName."""
    with reading(engine) as connection:
        chosen = (query or KeyQuery()).of_rows(RowReader(connection), datetime.now(UTC))
        rows = stored.list_keys(connection, chosen, after=after, limit=limit)
    return [listed_key(row) for row in rows]


def count_keys(engine: Engine, query: KeyQuery) -> int:
    """Return the number of keys. Raises UnknownName."""
    with reading(engine) as connection:
        return stored.count_keys(
            connection, query.of_rows(RowReader(connection), datetime.now(UTC))
        )


def find_key(engine: Engine, key_id: str) -> ListedKey | None:
    """Return a key by its id, or None."""
    with reading(engine) as connection:
        row = stored.get(connection, key_id)
    return None if row is None else listed_key(row)


def listed_key(row: stored.NamedKeyRow) -> ListedKey:
    """Return a key as operators see it."""
    if row.revoked_at:
        state = "revoked"
    elif row.expires_at and row.expires_at <= datetime.now(UTC):
        state = "expired"
    else:
        state = "usable" if row.enabled else "disabled"
        if row.enabled and not row.consumer_enabled:
            state = "consumer disabled"
    return ListedKey(
        id=row.id,
        consumer=row.consumer,
        environment=row.environment,
        note=row.note,
        created_at=row.created_at,
        expires_at=row.expires_at,
        last_used_at=row.last_used_at,
        shown_as=shown_key(row.environment, row.last_four),
        state=state,
        successor=shown_key(row.environment, row.successor_end) if row.successor_end else None,
        successor_id=row.replaced_by,
    )
