"""API keys with the names of their consumers, and when they were last used."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import sqlalchemy as sa

from penstock.db.engine import Engine, writing
from penstock.db.paging import containing, rows_after
from penstock.db.rows import Col, joined
from penstock.db.tables import ApiKeyRow, ConsumerRow, EnvironmentRow

_SUCCESSOR = ApiKeyRow.table.alias("successor")


class NamedKeyRow(ApiKeyRow):
    """An API key with the names of its consumer and environment, and the end of its successor."""

    consumer: Col[str] = joined(ConsumerRow.name)
    consumer_enabled: Col[bool] = joined(ConsumerRow.enabled)
    environment: Col[str] = joined(EnvironmentRow.name)
    successor_end: Col[str | None] = joined(_SUCCESSOR.c.last_four)


@dataclass(frozen=True, slots=True)
class KeyFilter:
    """Which keys a listing has; a field that is None or False leaves none out.

    `live_at` leaves out the keys that were revoked or had expired at a moment. `idle_since`: last
    used before that moment or, if never used, created before it. `search`: a text in the names of
    the consumer, the note, the id or the last characters of the key. `environments`: their ids.
    """

    environment_id: int | None = None
    consumer_id: int | None = None
    live_at: datetime | None = None
    idle_since: datetime | None = None
    expires_until: datetime | None = None
    never_used: bool = False
    no_expiry: bool = False
    disabled_consumers: bool = False
    search: str = ""
    digest: bytes | None = None
    last_four: str | None = None
    id_prefix: str | None = None
    environments: Collection[int] | None = None

    def conditions(self) -> list[sa.ColumnElement[bool]]:
        """Return the conditions of a query that joins consumers."""
        conditions = [
            column == number
            for column, number in (
                (ApiKeyRow.environment_id, self.environment_id),
                (ApiKeyRow.consumer_id, self.consumer_id),
                (ApiKeyRow.digest, self.digest),
                (ApiKeyRow.last_four, self.last_four),
            )
            if number is not None
        ]
        if self.id_prefix is not None:
            conditions.append(ApiKeyRow.id.startswith(self.id_prefix, autoescape=True))
        if self.environments is not None:
            conditions.append(ApiKeyRow.environment_id.in_(self.environments))
        conditions += self._times()
        if self.never_used:
            conditions.append(ApiKeyRow.last_used_at.is_(None))
        if self.no_expiry:
            conditions.append(ApiKeyRow.expires_at.is_(None))
        if self.disabled_consumers:
            conditions.append(~ConsumerRow.enabled)
        if self.search:
            columns = (ConsumerRow.name, ApiKeyRow.note, ApiKeyRow.id, ApiKeyRow.last_four)
            conditions.append(containing(self.search, *columns))
        return conditions

    def _times(self) -> list[sa.ColumnElement[bool]]:
        conditions = []
        if self.live_at is not None:
            conditions.append(_live(self.live_at))
        if self.idle_since is not None:
            last_use = sa.func.coalesce(ApiKeyRow.last_used_at, ApiKeyRow.created_at)
            conditions.append(last_use <= self.idle_since)
        if self.expires_until is not None:
            conditions.append(ApiKeyRow.expires_at <= self.expires_until)
        return conditions


def _live(now: datetime) -> sa.ColumnElement[bool]:
    return ApiKeyRow.revoked_at.is_(None) & (
        ApiKeyRow.expires_at.is_(None) | (ApiKeyRow.expires_at > now)
    )


_SOURCE = ApiKeyRow.table.join(ConsumerRow.table, ConsumerRow.id == ApiKeyRow.consumer_id).join(
    EnvironmentRow.table, EnvironmentRow.id == ApiKeyRow.environment_id
)
_NAMED = _SOURCE.outerjoin(_SUCCESSOR, _SUCCESSOR.c.id == ApiKeyRow.replaced_by)


def list_keys(
    connection: sa.Connection,
    chosen: KeyFilter,
    *,
    after: str | None = None,
    limit: int | None = None,
) -> list[NamedKeyRow]:
    """Return keys, oldest first; a page begins after the key of an id."""
    order = (ApiKeyRow.created_at, ApiKeyRow.id)
    query = NamedKeyRow.select().select_from(_NAMED).where(*chosen.conditions()).order_by(*order)
    if after is not None:
        query = query.where(rows_after(connection, ApiKeyRow.table, ApiKeyRow.id, after, order))
    return NamedKeyRow.fetch(connection, query.limit(limit))


def of_ids(identifiers: Collection[str]) -> sa.Select[Any]:
    """Return the query of keys by their ids, oldest first."""
    return (
        NamedKeyRow.select()
        .select_from(_NAMED)
        .where(ApiKeyRow.id.in_(identifiers))
        .order_by(ApiKeyRow.created_at, ApiKeyRow.id)
    )


def get(connection: sa.Connection, identifier: str) -> NamedKeyRow | None:
    """Return a key by its id, or None."""
    query = NamedKeyRow.select().select_from(_NAMED).where(ApiKeyRow.id == identifier)
    return NamedKeyRow.fetch_first(connection, query)


def last_characters(connection: sa.Connection, identifiers: Collection[str]) -> dict[str, str]:
    """Return the last characters of keys by their ids."""
    if not identifiers:
        return {}
    query = sa.select(ApiKeyRow.id, ApiKeyRow.last_four).where(ApiKeyRow.id.in_(identifiers))
    return {row[0]: row[1] for row in connection.execute(query)}


def count_keys(connection: sa.Connection, chosen: KeyFilter) -> int:
    """Return the number of keys that match."""
    query = sa.select(sa.func.count()).select_from(_SOURCE).where(*chosen.conditions())
    return connection.scalar(query) or 0


def touch_keys(engine: Engine, used: Mapping[str, datetime]) -> None:
    """Write when keys were last used. It changes no access, and writes no revision."""
    earlier = sa.or_(
        ApiKeyRow.last_used_at.is_(None), ApiKeyRow.last_used_at < sa.bindparam("moment")
    )
    query = (
        sa.update(ApiKeyRow.table)
        .where(ApiKeyRow.id == sa.bindparam("key"), earlier)
        .values({ApiKeyRow.last_used_at: sa.bindparam("moment")})
    )
    with writing(engine) as connection:
        connection.execute(
            query, [{"key": key, "moment": moment} for key, moment in sorted(used.items())]
        )
