"""What the engine of durable runs keeps in its own tables, where its client has no door to it.

A run is postponed, and columns are named.

The tables are the engine's, and so is what they mean; its minor release is pinned, and tests do all
of this on its real tables.
"""

from __future__ import annotations

import time

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import JSONB

from penstock.db.engine import Engine

SCHEMA = "dbos"  # on PostgreSQL; SQLite has none
MS = 1000
POSTPONED = "postponed"  # the attribute of a run that was postponed: how often that was
ATTRIBUTES = sa.JSON().with_variant(JSONB(), "postgresql")


def table(name: str, *columns: str, dialect: str) -> sa.TableClause:
    """Return a table of the engine, with the columns that are wanted."""
    typed = [
        sa.column(column, ATTRIBUTES) if column == "attributes" else sa.column(column)
        for column in columns
    ]
    return sa.table(name, *typed, schema=SCHEMA if dialect == "postgresql" else None)


def delay_run(
    engine: Engine, run: str, holder: str, until: float, times: int, *, keep_deadline: bool
) -> bool:
    """Take a run from a worker process, and delay it until `until`, in seconds since the epoch.

    Return whether that process had it.

    It is the engine's own way to take a run from one process, and its state for what waits for a
    moment, in one statement. Without its deadline the run gets a new one when it begins.
    """
    values: dict[str, object] = {
        "status": "DELAYED",
        "owner_xid": None,
        "started_at_epoch_ms": None,
        "delay_until_epoch_ms": int(until * MS),
        "updated_at": int(time.time() * MS),
        "attributes": {POSTPONED: times},
    }
    if not keep_deadline:
        values["workflow_deadline_epoch_ms"] = None
    runs = table(
        "workflow_status", "workflow_uuid", "executor_id", *values, dialect=engine.dialect.name
    )
    mine = runs.c.workflow_uuid == run, runs.c.status == "PENDING", runs.c.executor_id == holder
    with engine.begin() as connection:
        return connection.execute(sa.update(runs).where(*mine).values(values)).rowcount > 0


def start_delayed_runs(engine: Engine, application: str) -> None:
    """Start the delayed runs now, and no run that waits for another reason."""
    runs = table(
        "workflow_status",
        "status",
        "application_name",
        "delay_until_epoch_ms",
        "attributes",
        dialect=engine.dialect.name,
    )
    waits = (
        runs.c.status == "DELAYED",
        runs.c.application_name == application,
        sa.cast(runs.c.attributes, sa.Text).contains(f'"{POSTPONED}"'),
    )
    with engine.begin() as connection:
        connection.execute(
            sa.update(runs).where(*waits).values(delay_until_epoch_ms=int(time.time() * MS))
        )
