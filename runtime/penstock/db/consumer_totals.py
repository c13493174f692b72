"""Calls by consumer, key, pipeline and class, added up by day from the counts of hours."""

from __future__ import annotations

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite

from penstock.db.consumer_counts import DAY, KEY, totalled_until
from penstock.db.engine import Engine, reading, writing
from penstock.db.run_tables import ConsumerCountRow, ConsumerTotalRow

ROW, COUNT = ConsumerTotalRow, ConsumerCountRow
MAX_DAYS = 10  # that one call of `add_up` computes: the first finds those of months
AGAIN_S = 6 * 3600  # for which the last day is computed again: counts may arrive late


def add_up(engine: Engine, environment_id: int, now: float) -> None:
    """Compute the totals of the days that are over and have none.

    The last day is computed again for some hours. Raises DatabaseUnavailable.
    """
    until = int(now) // DAY * DAY
    with reading(engine) as connection:
        begin = totalled_until(connection, environment_id)
        begin = begin or _first_day(connection, environment_id, until)
    if begin == until and now - until < AGAIN_S:
        begin -= DAY
    for day in range(begin, until, DAY)[:MAX_DAYS]:
        with writing(engine) as connection:
            _put(connection, environment_id, day)


def _first_day(connection: sa.Connection, environment_id: int, until: int) -> int:
    query = (
        sa.select(COUNT.since)
        .where(COUNT.environment_id == environment_id)
        .order_by(COUNT.since)
        .limit(1)
    )
    first = connection.scalar(query)
    return until if first is None else first // DAY * DAY


def _put(connection: sa.Connection, environment_id: int, day: int) -> None:
    """Write the totals of a day, in place of those that are stored."""
    groups = (COUNT.consumer_id, COUNT.key_id, COUNT.pipeline, COUNT.outcome_class)
    query = (
        sa.select(
            COUNT.environment_id,
            sa.literal(day, COUNT.since.type).label("since"),
            *groups,
            sa.func.sum(COUNT.calls).label("calls"),
            sa.func.max(COUNT.since).label("last"),
        )
        .where(COUNT.environment_id == environment_id, COUNT.since >= day, COUNT.since < day + DAY)
        .group_by(COUNT.environment_id, *groups)
        .order_by(*groups)  # in one order in all processes: no two of them wait for each other
    )
    dialect = postgresql if connection.dialect.name == "postgresql" else sqlite
    insert = dialect.insert(ROW.table).from_select(ROW.names, query)
    connection.execute(
        insert.on_conflict_do_update(
            index_elements=[column.name for column in KEY],
            set_={name: insert.excluded[name] for name in ("calls", "last")},
        )
    )
    if totalled_until(connection, environment_id) < day + DAY:  # a day without calls
        empty = {
            ROW.environment_id: environment_id,
            ROW.since: day,
            ROW.consumer_id: 0,
            ROW.key_id: "",
            ROW.pipeline: "",
            ROW.outcome_class: "succeeded",
            ROW.calls: 0,
            ROW.last: day,
        }
        connection.execute(dialect.insert(ROW.table).values(empty).on_conflict_do_nothing())


def purge(engine: Engine, environment_id: int, before: int) -> None:
    """Delete the totals of the days before a moment."""
    with writing(engine) as connection:
        connection.execute(
            sa.delete(ROW.table).where(
                ROW.environment_id == environment_id, ROW.since < before // DAY * DAY
            )
        )
