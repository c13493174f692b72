"""Settings of consumers in environments, with the names of both, a page at a time."""

from __future__ import annotations

from typing import TypeVar

import sqlalchemy as sa

from penstock.db.paging import containing, rows_after
from penstock.db.rows import AnyColumn, Col, joined
from penstock.db.tables import (
    AddressRuleRow,
    CallbackTargetRow,
    ConsumerRow,
    ConsumerScopedRow,
    EnvironmentRow,
    LimitRow,
)

Setting = TypeVar("Setting", bound=ConsumerScopedRow)


class NamedLimitRow(LimitRow):
    """A rate limit with the names of its consumer and its environment."""

    consumer: Col[str] = joined(ConsumerRow.name)
    environment: Col[str] = joined(EnvironmentRow.name)


class NamedAddressRuleRow(AddressRuleRow):
    """A network rule with the names of its consumer and its environment."""

    consumer: Col[str] = joined(ConsumerRow.name)
    environment: Col[str] = joined(EnvironmentRow.name)


class NamedCallbackTargetRow(CallbackTargetRow):
    """A callback target with the names of its consumer and its environment."""

    consumer: Col[str] = joined(ConsumerRow.name)
    environment: Col[str] = joined(EnvironmentRow.name)


def list_settings(  # noqa: PLR0913  one argument a filter
    connection: sa.Connection,
    kind: type[Setting],
    order_by: AnyColumn,
    environment_id: int | None,
    consumer_id: int | None,
    *,
    search: str = "",
    after: int | None = None,
    limit: int | None = None,
) -> list[Setting]:
    """Return active settings by environment, consumer and a column.

    None stands for all environments or all consumers. `search` is a text in the consumer's name or
    in that column. A page begins after the row of id `after`, and has at most `limit` rows.
    """
    source = kind.table
    joins = source.join(ConsumerRow.table, ConsumerRow.id == kind.consumer_id).join(
        EnvironmentRow.table, EnvironmentRow.id == kind.environment_id
    )
    order = (EnvironmentRow.name, ConsumerRow.name, order_by, source.c.id)
    query = kind.select().select_from(joins).where(source.c.active).order_by(*order)
    if kind.table is LimitRow.table:  # the previous release stored names of pipelines
        query = query.where(LimitRow.pipeline.contains("/") | (LimitRow.pipeline == ""))
    if environment_id is not None:
        query = query.where(kind.environment_id == environment_id)
    if consumer_id is not None:
        query = query.where(kind.consumer_id == consumer_id)
    if search:
        query = query.where(containing(search, ConsumerRow.name, order_by))
    if after is not None:
        query = query.where(rows_after(connection, joins, source.c.id, after, order))
    return kind.fetch(connection, query.limit(limit))
