"""Leases: one process at a time does some work, and another one continues when it is gone."""

from __future__ import annotations

from datetime import datetime, timedelta

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite

from penstock.db.alert_tables import LeaseRow
from penstock.db.engine import Engine, reading, writing
from penstock.db.processes import now_of


def acquire(engine: Engine, name: str, holder: str, lifetime_s: float) -> bool:
    """Take or renew a lease; return False while another process has it.

    A lease that another process has costs one read. Raises DatabaseUnavailable.
    """
    with reading(engine) as connection:
        row = _row(connection, name)
        if row is not None and row.holder != holder and row.until > now_of(connection):
            return False
    with writing(engine) as connection:
        now = now_of(connection)
        values = {
            LeaseRow.holder: holder,
            LeaseRow.renewed_at: now,
            LeaseRow.until: now + timedelta(seconds=lifetime_s),
        }
        # A row that another process wrote meanwhile has another end, and is left as it is.
        free = sa.or_(LeaseRow.holder == holder, LeaseRow.until <= now)
        change = sa.update(LeaseRow.table).where(LeaseRow.name == name, free).values(values)
        if connection.execute(change).rowcount:
            return True
        dialect = postgresql if connection.dialect.name == "postgresql" else sqlite
        insert = dialect.insert(LeaseRow.table).values({LeaseRow.name: name, **values})
        # PostgreSQL does not report how many rows were inserted; a row that is returned was.
        first = insert.on_conflict_do_nothing().returning(LeaseRow.name)
        return connection.execute(first).first() is not None


def release(engine: Engine, name: str, holder: str) -> None:
    """Give a lease back, so that another process continues at once."""
    with writing(engine) as connection:
        held = sa.update(LeaseRow.table).where(LeaseRow.name == name, LeaseRow.holder == holder)
        connection.execute(held.values({LeaseRow.until: now_of(connection)}))


def renewed_at(engine: Engine, name: str) -> datetime | None:
    """Return when a lease was last renewed, None where it never was."""
    with reading(engine) as connection:
        row = _row(connection, name)
    return row.renewed_at if row is not None else None


def _row(connection: sa.Connection, name: str) -> LeaseRow | None:
    return LeaseRow.fetch_first(connection, LeaseRow.select().where(LeaseRow.name == name))
