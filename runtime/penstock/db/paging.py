"""Parts of the queries of listings: a text in some columns, and the rows after a page."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

import sqlalchemy as sa

from penstock.db.rows import AnyColumn


def containing(text: str, *columns: AnyColumn) -> sa.ColumnElement[bool]:
    """Return the condition that one of the columns contains a text, in any case."""
    return sa.or_(
        *(sa.func.lower(column).contains(text.lower(), autoescape=True) for column in columns)
    )


def rows_after(
    connection: sa.Connection,
    source: sa.FromClause,
    key: AnyColumn,
    last: object,
    order: Sequence[AnyColumn],
) -> sa.ColumnElement[bool]:
    """Return the condition of the rows that follow the row of key `last` in an order.

    No row follows one that does not exist: a page after it is empty, instead of the first again.
    """
    values = connection.execute(sa.select(*order).select_from(source).where(key == last)).first()
    if values is None:
        return sa.false()
    after: sa.ColumnElement[bool] = sa.tuple_(*order) > sa.tuple_(*_literals(order, values))
    return after


def _literals(order: Sequence[AnyColumn], values: Sequence[Any]) -> list[sa.BindParameter[Any]]:
    return [sa.literal(value, column.type) for column, value in zip(order, values, strict=True)]


def most_common(groups: Iterable[Sequence[Any]], place: int, limit: int) -> list[tuple[str, int]]:
    """Return the most frequent values at a place of groups, whose last value is their number.

    Values that are missing or empty are left out.
    """
    numbers = Counter[str]()
    for group in groups:
        if group[place] not in {None, ""}:
            numbers[str(group[place])] += group[-1]
    return sorted(numbers.items(), key=lambda pair: (-pair[1], pair[0]))[:limit]
