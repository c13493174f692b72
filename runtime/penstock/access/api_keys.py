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

    `state` is usable, disabled, consumer disabled, expired or revoked.
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


def create_key(
    engine: Engine,
    actor: str,
    consumer: str,
    environment: str,
    *,
    expires: timedelta | None = None,
    note: str = "",
) -> NewKey:
    """Create an API key, of which only the digest is stored. Raises UnknownName and UsageError."""
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
    expires: timedelta | None,
    note: str,
) -> NewKey:
    now = datetime.now(UTC)
    key = NewKey(
        f"key_{secrets.token_hex(6)}",
        make_api_key(environment),
        consumer,
        environment,
        now + expires if expires else None,
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
    engine: Engine, actor: str, key_id: str, grace: timedelta
) -> tuple[NewKey, datetime]:
    """Create a key's successor; return it, and when the old key expires.

    That is after the grace period, or when the old key would expire anyway. Raises UnknownName, and
    PenstockError where the old key has ended.
    """
    now = datetime.now(UTC)
    action, where = audit.Action.KEY_ROTATED, _environment_of(engine, key_id)
    with audit.change(engine, actor, action, key_id, environment=where) as (rows, detail):
        old = _row(rows, key_id)
        detail["consumer"] = _consumer_of(rows, old)
        if old.revoked_at or (old.expires_at and old.expires_at <= now):
            raise PenstockError(
                f"key {key_id} has ended; create a new one with `penstock key create`"
            )
        environment = rows.names_by_id(EnvironmentRow)[old.environment_id]
        key = _add_key(
            rows,
            ConsumerPlace(old.environment_id, old.consumer_id),
            rows.names_by_id(ConsumerRow)[old.consumer_id],
            environment,
            expires=old.expires_at - old.created_at if old.expires_at else None,
            note=old.note,
        )
        ends = min(now + grace, old.expires_at or now + grace)
        rows.set(ApiKeyRow, {ApiKeyRow.id: key_id}, {ApiKeyRow.expires_at: ends})
        detail.update(successor=key.id, environment=environment, ends=ends.isoformat())
        return key, ends


def revoke_key(engine: Engine, actor: str, key_id: str) -> None:
    """Revoke a key; a revoked one stays as it is. Raises UnknownName."""
    action, where = audit.Action.KEY_REVOKED, _environment_of(engine, key_id)
    with audit.change(engine, actor, action, key_id, environment=where) as (rows, detail):
        row = _row(rows, key_id)
        detail["consumer"] = _consumer_of(rows, row)
        if not row.revoked_at:
            rows.set(ApiKeyRow, {ApiKeyRow.id: key_id}, {ApiKeyRow.revoked_at: datetime.now(UTC)})


def set_key_enabled(engine: Engine, actor: str, key_id: str, *, enabled: bool) -> None:
    """Enable or disable a key. Raises UnknownName, and PenstockError where it is revoked."""
    action = audit.Action.KEY_ENABLED if enabled else audit.Action.KEY_DISABLED
    where = _environment_of(engine, key_id)
    with audit.change(engine, actor, action, key_id, environment=where) as (rows, detail):
        row = _row(rows, key_id)
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
        return reader.names_by_id(EnvironmentRow)[_row(reader, key_id).environment_id]


def _consumer_of(rows: RowReader, key: ApiKeyRow) -> str | None:
    consumer = rows.find(ConsumerRow, {ConsumerRow.id: key.consumer_id})
    return consumer.name if consumer is not None else None


def _row(rows: RowReader, key_id: str) -> ApiKeyRow:
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
        shown_as=f"pk_{row.environment}_…{row.last_four}",
        state=state,
    )
