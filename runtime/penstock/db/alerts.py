"""Alert rules with their states, and the queue of their messages."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite

from penstock.db.alert_tables import AlertMessageRow, AlertRuleRow, AlertStateRow
from penstock.db.engine import Engine, writing
from penstock.db.rows import AnyColumn, Col, joined
from penstock.db.tables import EnvironmentRow

CLAIM_S = 120.0  # for which a process alone sends a message: longer than any attempt
PENDING = "pending"


class StatefulRuleRow(AlertRuleRow):
    """A rule with the name of its environment and its state, which is NULL before it has one."""

    environment: Col[str] = joined(EnvironmentRow.name)
    sequence: Col[int | None] = joined(AlertStateRow.sequence)
    status: Col[str | None] = joined(AlertStateRow.status)
    since: Col[datetime | None] = joined(AlertStateRow.since)
    fired_at: Col[datetime | None] = joined(AlertStateRow.fired_at)
    resolved_at: Col[datetime | None] = joined(AlertStateRow.resolved_at)
    summary: Col[str | None] = joined(AlertStateRow.summary)
    subjects: Col[list[str] | None] = joined(AlertStateRow.subjects)
    announced: Col[list[str] | None] = joined(AlertStateRow.announced)


def rules(
    connection: sa.Connection, environment_id: int | None = None, *, active: bool = True
) -> list[StatefulRuleRow]:
    """Return rules with their states by environment and name; without `active` removed ones too."""
    source = AlertRuleRow.table.join(
        EnvironmentRow.table, EnvironmentRow.id == AlertRuleRow.environment_id
    ).outerjoin(AlertStateRow.table, AlertStateRow.rule_id == AlertRuleRow.id)
    query = StatefulRuleRow.select().select_from(source)
    if environment_id is not None:
        query = query.where(AlertRuleRow.environment_id == environment_id)
    if active:
        query = query.where(AlertRuleRow.active)
    return StatefulRuleRow.fetch(connection, query.order_by(EnvironmentRow.name, AlertRuleRow.name))


def add_missing(connection: sa.Connection, values: Sequence[Mapping[AnyColumn, object]]) -> None:
    """Insert rules, except those whose name is in use; several processes may do so at once."""
    dialect = postgresql if connection.dialect.name == "postgresql" else sqlite
    for each in values:
        insert = dialect.insert(AlertRuleRow.table).values(dict(each))
        connection.execute(insert.on_conflict_do_nothing())


def put_state(
    connection: sa.Connection,
    rule_id: int,
    sequence: int | None,
    values: Mapping[AnyColumn, object],
) -> bool:
    """Replace the state that a process has read; return False where another replaced it before.

    `sequence` is that of the state that was read, None where there was none.
    """
    table = AlertStateRow.table
    if sequence is not None:
        same = AlertStateRow.rule_id == rule_id, AlertStateRow.sequence == sequence
        change = sa.update(table).where(*same)
        stored = {**values, AlertStateRow.sequence: sequence + 1}
        return bool(connection.execute(change.values(stored)).rowcount)
    dialect = postgresql if connection.dialect.name == "postgresql" else sqlite
    first = {**values, AlertStateRow.rule_id: rule_id, AlertStateRow.sequence: 1}
    # The number of inserted rows is not known on PostgreSQL; a row that is returned was inserted.
    insert = dialect.insert(table).values(first).on_conflict_do_nothing()
    return connection.execute(insert.returning(AlertStateRow.rule_id)).first() is not None


def add_messages(connection: sa.Connection, values: Sequence[Mapping[AnyColumn, object]]) -> None:
    """Write messages that are to be sent."""
    for each in values:
        connection.execute(sa.insert(AlertMessageRow.table).values(dict(each)))


def due(
    connection: sa.Connection, now: datetime, channels: Sequence[str], *, limit: int
) -> list[AlertMessageRow]:
    """Return messages that may be sent now, oldest first.

    A message waits for earlier ones about its rule to its receiver: firing comes before resolved.
    """
    earlier = AlertMessageRow.table.alias()
    waits = sa.exists().where(
        earlier.c.rule_id == AlertMessageRow.rule_id,
        earlier.c.channel == AlertMessageRow.channel,
        earlier.c.target == AlertMessageRow.target,
        earlier.c.state == PENDING,
        earlier.c.id < AlertMessageRow.id,
    )
    query = (
        AlertMessageRow.select()
        .where(
            AlertMessageRow.state == PENDING,
            AlertMessageRow.due_at <= now,
            AlertMessageRow.channel.in_(channels),
            _unclaimed(now),
            ~waits,
        )
        .order_by(AlertMessageRow.due_at, AlertMessageRow.id)
        .limit(limit)
    )
    return AlertMessageRow.fetch(connection, query)


def _unclaimed(now: datetime) -> sa.ColumnElement[bool]:
    return sa.or_(AlertMessageRow.claimed_until.is_(None), AlertMessageRow.claimed_until < now)


def claim(engine: Engine, message: AlertMessageRow, now: datetime) -> bool:
    """Count another attempt of a message; return False where another process sends it."""
    change = sa.update(AlertMessageRow.table).where(
        AlertMessageRow.id == message.id,
        AlertMessageRow.state == PENDING,
        AlertMessageRow.attempt == message.attempt,
        _unclaimed(now),
    )
    with writing(engine) as connection:
        values = {
            AlertMessageRow.attempt: message.attempt + 1,
            AlertMessageRow.claimed_until: now + timedelta(seconds=CLAIM_S),
        }
        return bool(connection.execute(change.values(values)).rowcount)


def settle(engine: Engine, message: str, values: Mapping[AnyColumn, object]) -> None:
    """Write the result of an attempt, and let others claim the message."""
    change = sa.update(AlertMessageRow.table).where(AlertMessageRow.id == message)
    with writing(engine) as connection:
        connection.execute(change.values({**values, AlertMessageRow.claimed_until: None}))


def give_up(engine: Engine, now: datetime, before: datetime, result: str) -> None:
    """Mark messages as failed that were written before a moment and are pending still."""
    change = sa.update(AlertMessageRow.table).where(
        AlertMessageRow.state == PENDING, AlertMessageRow.created_at < before, _unclaimed(now)
    )
    with writing(engine) as connection:
        connection.execute(
            change.values(
                {
                    AlertMessageRow.state: "failed",
                    AlertMessageRow.ended_at: now,
                    AlertMessageRow.result: result,
                }
            )
        )


def purge(engine: Engine, before: datetime) -> None:
    """Delete messages that ended before a moment."""
    ended = sa.delete(AlertMessageRow.table).where(
        AlertMessageRow.state != PENDING, AlertMessageRow.due_at < before
    )
    with writing(engine) as connection:
        connection.execute(ended)


def messages(
    connection: sa.Connection,
    rule_ids: Sequence[int],
    *,
    ids: Sequence[str] | None = None,
    limit: int,
) -> list[AlertMessageRow]:
    """Return the newest messages of rules, newest first; with `ids` those alone."""
    query = AlertMessageRow.select().where(AlertMessageRow.rule_id.in_(rule_ids))
    if ids is not None:
        query = query.where(AlertMessageRow.id.in_(ids))
    return AlertMessageRow.fetch(connection, query.order_by(AlertMessageRow.id.desc()).limit(limit))


def last_sent(connection: sa.Connection, rule_ids: Sequence[int]) -> dict[int, datetime]:
    """Return when the last message of each rule was sent."""
    query = sa.select(AlertMessageRow.rule_id, sa.func.max(AlertMessageRow.ended_at)).where(
        AlertMessageRow.rule_id.in_(rule_ids), AlertMessageRow.state == "sent"
    )
    rows = connection.execute(query.group_by(AlertMessageRow.rule_id))
    return {row[0]: row[1] for row in rows if row[1] is not None}


def count_firing(connection: sa.Connection, environment_id: int) -> int:
    """Return how many rules of an environment fire."""
    query = (
        sa.select(sa.func.count())
        .select_from(
            AlertRuleRow.table.join(AlertStateRow.table, AlertStateRow.rule_id == AlertRuleRow.id)
        )
        .where(
            AlertRuleRow.environment_id == environment_id,
            AlertRuleRow.active,
            AlertStateRow.status == "firing",
        )
    )
    return connection.scalar(query) or 0
