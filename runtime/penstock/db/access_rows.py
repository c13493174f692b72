"""Read the access data of an environment: everything that changed after a revision.

Who only asks what is served needs no consumers, and who asks about one call needs one of them. With
`consumers`, rows of other consumers are not read: there may be a million.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from datetime import datetime
from functools import cache
from typing import Any, TypeVar, cast

import sqlalchemy as sa

from penstock.db.rows import Row
from penstock.db.tables import (
    AddressRuleRow,
    ApiKeyRow,
    AssociationRow,
    CallbackTargetRow,
    ConsumerRow,
    CredentialRow,
    GraceRow,
    IssuerRow,
    LimitRow,
    PipelineRow,
    PipelineSecretRow,
    RevocationRow,
    SensitiveFieldRow,
    SigningKeyRow,
    VariableRow,
)

KEYS_PER_FETCH = 10_000

# Tables that are read as a whole where any of their rows has changed: what a row contained before
# is dropped, however it was changed.
WHOLE_TABLES: tuple[type[Row], ...] = (
    GraceRow,
    PipelineRow,
    CredentialRow,
    SigningKeyRow,
    IssuerRow,
    LimitRow,
    AddressRuleRow,
    VariableRow,
    PipelineSecretRow,
    SensitiveFieldRow,
    CallbackTargetRow,
)
# Large tables of which only the changed rows are read. The largest, API keys, has `keys_since`.
CHANGED_ROW_TABLES: tuple[type[Row], ...] = (ConsumerRow, AssociationRow, RevocationRow)
# What consumers have, in addition to their keys.
CONSUMER_TABLES = frozenset[type[Row]](
    {
        ConsumerRow,
        AssociationRow,
        RevocationRow,
        CredentialRow,
        LimitRow,
        AddressRuleRow,
        CallbackTargetRow,
    }
)

RowType = TypeVar("RowType", bound=Row)
# Digest, id, consumer, end, whether it is enabled, whether it was revoked.
KeyValues = tuple[bytes, str, int, datetime | None, bool | None, bool]


class Changes:
    """Rows that changed, by their type: `changes[LimitRow]` is a list of `LimitRow`."""

    def __init__(self, rows: Mapping[type[Row], list[Row]]) -> None:
        self._rows = rows

    def __getitem__(self, kind: type[RowType]) -> list[RowType]:
        return cast("list[RowType]", self._rows[kind])

    def has(self, *kinds: type[Row]) -> bool:
        """Return whether rows of any of these types changed."""
        return any(self._rows[kind] for kind in kinds)


def changed_since(
    connection: sa.Connection,
    environment_id: int,
    since: int,
    consumers: Collection[str] | None = None,
) -> Changes:
    """Return the access data of an environment that changed after a revision, without its keys.

    All rows of a small table with a change, and the changed rows of a large table. `consumers` are
    the names of those whose rows are read; None: all.
    """
    values: dict[str, object] = {"environment": environment_id, "since": since}
    if consumers is None:
        queries = _changes_queries()
    else:
        queries = _queries_of_some()
        values["consumers"] = list(consumers)
    return Changes(
        {
            kind: []
            if kind in CONSUMER_TABLES and consumers is not None and not consumers
            else kind.fetch(connection, query, values)
            for kind, query in queries.items()
        }
    )


@cache
def _changes_queries() -> dict[type[Row], sa.Select[Any]]:
    """Return the query for each table, with parameters: to build all of them takes 10 ms."""
    return {kind: _changes_query(kind) for kind in (*WHOLE_TABLES, *CHANGED_ROW_TABLES)}


@cache
def _queries_of_some() -> dict[type[Row], sa.Select[Any]]:
    """Return the same queries for the rows of some consumers, by the parameter `consumers`."""
    return {
        kind: query.where(_of_consumers(kind)) if kind in CONSUMER_TABLES else query
        for kind, query in _changes_queries().items()
    }


def _of_consumers(kind: type[Row]) -> sa.ColumnElement[bool]:
    names: sa.BindParameter[str] = sa.bindparam("consumers", expanding=True)
    if kind is ConsumerRow:
        return ConsumerRow.name.in_(names)
    if kind is RevocationRow:
        return RevocationRow.consumer.in_(names)
    ids = sa.select(ConsumerRow.id).where(ConsumerRow.name.in_(names))
    in_ids: sa.ColumnElement[bool] = kind.table.c.consumer_id.in_(ids)
    return in_ids


def _changes_query(kind: type[Row]) -> sa.Select[Any]:
    source = kind.table
    environment: sa.BindParameter[int] = sa.bindparam("environment")
    since: sa.BindParameter[int] = sa.bindparam("since")
    in_environment = (
        source.c.environment_id == environment if "environment_id" in source.c else sa.true()
    )
    after = source.c.revision > since
    if kind in WHOLE_TABLES:
        other = source.alias()
        after = sa.exists().where(other.c.environment_id == environment, other.c.revision > since)
    return (
        kind.select()
        .where(in_environment, after)
        .order_by(source.c.revision, *source.primary_key.columns)
    )


def keys_since(
    connection: sa.Connection,
    environment_id: int,
    since: int,
    consumers: Collection[str] | None = None,
) -> Iterator[KeyValues]:
    """Yield the API keys of an environment that changed after a revision.

    There may be a million: each is a tuple, and no more than `KEYS_PER_FETCH` are in memory.
    `consumers` are the names of those whose keys are read; None: all.
    """
    if consumers is not None and not consumers:
        return
    query = (
        sa.select(
            ApiKeyRow.digest,
            ApiKeyRow.id,
            ApiKeyRow.consumer_id,
            ApiKeyRow.expires_at,
            ApiKeyRow.enabled,
            ApiKeyRow.revoked_at.is_not(None),
        )
        .where(ApiKeyRow.environment_id == environment_id, ApiKeyRow.revision > since)
        .order_by(ApiKeyRow.revision)
    )
    if consumers is not None:
        ids = sa.select(ConsumerRow.id).where(ConsumerRow.name.in_(consumers))
        query = query.where(ApiKeyRow.consumer_id.in_(ids))
    for values in connection.execution_options(yield_per=KEYS_PER_FETCH).execute(query):
        yield tuple(values)  # type: ignore[misc]  # a row as a tuple has no types
