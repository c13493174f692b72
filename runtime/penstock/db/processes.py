"""Processes and their heartbeats.

The database's clock counts, because hosts' clocks differ.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import NamedTuple

import sqlalchemy as sa

from penstock.db.engine import Engine, writing
from penstock.db.run_tables import ProcessRow


class DeadWorker(NamedTuple):
    """A worker whose runs another worker recovers.

    `ended` is True where it stopped as it was asked to; `seen_at` is its last heartbeat; `again` is
    True where its recovery was begun before.
    """

    id: str
    ended: bool
    seen_at: datetime
    again: bool


def now_of(connection: sa.Connection) -> datetime:
    """Return the database's time; SQLite has no clock, and one host."""
    if connection.dialect.name == "sqlite":
        return datetime.now(UTC)
    return connection.execute(sa.select(sa.func.now())).scalar_one()


def register(
    engine: Engine,
    process: str,
    *,
    kind: str,
    environment_id: int,
    host: str,
    pid: int,
    pipelines: Sequence[str] | None = None,
) -> None:
    """Write that a process runs; `pipelines` are those whose runs a worker performs, None: all."""
    with writing(engine) as connection:
        now = now_of(connection)
        connection.execute(
            sa.insert(ProcessRow.table).values(
                {
                    ProcessRow.id: process,
                    ProcessRow.kind: kind,
                    ProcessRow.environment_id: environment_id,
                    ProcessRow.host: host,
                    ProcessRow.pid: pid,
                    ProcessRow.started_at: now,
                    ProcessRow.seen_at: now,
                    ProcessRow.ended: False,
                    ProcessRow.pipelines: None if pipelines is None else list(pipelines),
                }
            )
        )


def heartbeat(engine: Engine, process: str, *, ended: bool = False) -> bool:
    """Write that a process still runs, or that it ends.

    Return False if another process recovers its runs.
    """
    with writing(engine) as connection:
        query = sa.update(ProcessRow.table).where(
            ProcessRow.id == process, ProcessRow.taken_by.is_(None)
        )
        return bool(
            connection.execute(
                query.values({ProcessRow.seen_at: now_of(connection), ProcessRow.ended: ended})
            ).rowcount
        )


def claim_dead_workers(
    engine: Engine, environment_id: int, by: str, *, silent: float, lease: float
) -> list[DeadWorker]:
    """Claim the workers that ended, or sent no heartbeat for `silent` seconds, and return them.

    One process alone claims each. Those that `by` has claimed and not unregistered are returned
    again. A claim ends after `lease` seconds, for its process may have died.
    """
    with writing(engine) as connection:
        now = now_of(connection)
        dead = sa.or_(ProcessRow.ended, ProcessRow.seen_at < now - timedelta(seconds=silent))
        free = sa.or_(
            ProcessRow.taken_by.is_(None),
            ProcessRow.taken_by == by,
            ProcessRow.taken_at < now - timedelta(seconds=lease),
        )
        query = ProcessRow.select().where(
            ProcessRow.environment_id == environment_id,
            ProcessRow.kind == "worker",
            ProcessRow.id != by,
            dead,
            free,
        )
        rows = ProcessRow.fetch(
            connection, query.order_by(ProcessRow.id).with_for_update(skip_locked=True)
        )
        claim = sa.update(ProcessRow.table).where(ProcessRow.id.in_([row.id for row in rows]))
        connection.execute(claim.values({ProcessRow.taken_by: by, ProcessRow.taken_at: now}))
        return [
            DeadWorker(row.id, row.ended, row.seen_at, row.taken_by is not None) for row in rows
        ]


def unregister(engine: Engine, process: str) -> None:
    """Delete a process that has no runs left to recover."""
    with writing(engine) as connection:
        connection.execute(sa.delete(ProcessRow.table).where(ProcessRow.id == process))


def delete_silent_servers(engine: Engine, environment_id: int, *, silent: float) -> None:
    """Delete serving processes that sent no heartbeat for `silent` seconds.

    Workers stay: other workers recover their runs first.
    """
    with writing(engine) as connection:
        gone = ProcessRow.seen_at < now_of(connection) - timedelta(seconds=silent)
        connection.execute(
            sa.delete(ProcessRow.table).where(
                ProcessRow.environment_id == environment_id, ProcessRow.kind == "serve", gone
            )
        )


def process_ids(connection: sa.Connection) -> set[str]:
    """Return the ids of all processes that run, or have died and have runs to recover."""
    return set(connection.scalars(sa.select(ProcessRow.id)))


def alive(connection: sa.Connection, environment_id: int, *, silent: float) -> list[ProcessRow]:
    """Return the processes that sent a heartbeat within `silent` seconds, by kind."""
    query = ProcessRow.select().where(
        ProcessRow.environment_id == environment_id,
        ~ProcessRow.ended,
        ProcessRow.seen_at >= now_of(connection) - timedelta(seconds=silent),
    )
    return ProcessRow.fetch(connection, query.order_by(ProcessRow.kind, ProcessRow.started_at))
