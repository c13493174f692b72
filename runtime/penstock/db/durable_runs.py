"""Durable runs from their acceptance to their end."""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, NamedTuple

import sqlalchemy as sa

from penstock import clock
from penstock.db.run_tables import IS_UNFINISHED, DurableRunRow, RunDetailRow, RunRow
from penstock.db.runs import RunStateRow

LOCKED_NEAR_LIMIT = 200  # runs: no more are accepted at the same moment
BACKLOG_LOCK = 0x70656E  # the namespace of our advisory locks on PostgreSQL
ENDING = (RunRow.status, RunRow.http_status, RunRow.problem, RunRow.detail, RunRow.error_type)


@dataclass(frozen=True, slots=True)
class NewRun:
    """The record of a durable run that was accepted."""

    id: str
    environment_id: int
    pipeline: str
    version: str
    route: str
    consumer_id: int | None = None
    subject: str | None = None
    parent: str | None = None
    redelivers: str | None = None
    request_id: str | None = None
    key_id: str | None = None
    from_step: int | None = None


@dataclass(frozen=True, slots=True)
class End:
    """How a durable run ended; None where a value is not known.

    `steps`, `bodies` and `failure` are encoded as in the columns.
    """

    run: str
    status: str
    http_status: int | None = None
    micros: int | None = None
    problem: str | None = None
    detail: str | None = None
    steps: bytes | None = None
    bodies: bytes | None = None
    failure: bytes | None = None
    started_at: datetime | None = None
    ended_at: datetime | None = None  # used without `micros`; None: now
    error_type: str | None = None


class FinishedRun(NamedTuple):
    """A run whose end was written."""

    id: str
    consumer_id: int | None
    callback_url: str | None
    status: str


class Backlog(NamedTuple):
    """How many accepted runs of a pipeline have not started, and the id of the oldest."""

    number: int
    oldest: str


def count_waiting(connection: sa.Connection, environment_id: int, pipeline: str, limit: int) -> int:
    """Return how many accepted runs of a pipeline have not started, at most `limit`.

    Near the limit an advisory lock has one transaction count at a time, until it ends: a
    transaction can't see what others have not committed.
    """
    number = _count_waiting(connection, environment_id, pipeline, limit)
    if number < limit - LOCKED_NEAR_LIMIT or connection.dialect.name == "sqlite":
        return number
    connection.execute(
        sa.select(
            sa.func.pg_advisory_xact_lock(
                BACKLOG_LOCK, zlib.crc32(f"{environment_id} {pipeline}".encode()) - 2**31
            )
        )
    )
    return _count_waiting(connection, environment_id, pipeline, limit)


def _count_waiting(
    connection: sa.Connection, environment_id: int, pipeline: str, limit: int
) -> int:
    waiting = (
        sa.select(RunRow.id)
        .where(
            RunRow.environment_id == environment_id,
            RunRow.pipeline == pipeline,
            RunRow.status == "accepted",
            _unfinished(),
        )
        .limit(limit)
        .subquery()
    )
    return connection.scalar(sa.select(sa.func.count()).select_from(waiting)) or 0


def backlogs(connection: sa.Connection, environment_id: int) -> dict[str, Backlog]:
    """Return the runs that wait, by pipeline."""
    # PostgreSQL 15 has no min(uuid).
    oldest = sa.func.min(
        sa.cast(RunRow.id, sa.Text) if connection.dialect.name == "postgresql" else RunRow.id
    )
    query = sa.select(RunRow.pipeline, sa.func.count(), oldest).where(
        RunRow.environment_id == environment_id, RunRow.status == "accepted", _unfinished()
    )
    return {
        row[0]: Backlog(row[1], row[2])
        for row in connection.execute(query.group_by(RunRow.pipeline))
    }


def _unfinished() -> sa.ColumnElement[bool]:
    """Return the condition of the partial index `ix_runs_waiting`, as the index has it."""
    return sa.text(IS_UNFINISHED)  # type: ignore[return-value]  # a text is any condition


def _qualified_unfinished() -> sa.ColumnElement[bool]:
    """Return the same condition for queries that join `runs`."""
    return sa.text(f"runs.{IS_UNFINISHED}")  # type: ignore[return-value]  # a text is any condition


def accept(connection: sa.Connection, run: NewRun, *, callback_url: str | None) -> bool:
    """Write a durable run that waits, as part of a transaction; return False if it exists."""
    if connection.scalar(sa.select(RunRow.id).where(RunRow.id == run.id)) is not None:
        return False
    connection.execute(
        sa.insert(RunRow.table).values(
            {
                RunRow.id: run.id,
                RunRow.environment_id: run.environment_id,
                RunRow.pipeline: run.pipeline,
                RunRow.version: run.version,
                RunRow.route: run.route,
                RunRow.durable: True,
                RunRow.consumer_id: run.consumer_id,
                RunRow.subject: run.subject,
                RunRow.status: "accepted",
                RunRow.parent: run.parent,
                RunRow.redelivers: run.redelivers,
                RunRow.request_id: run.request_id,
                RunRow.key_id: run.key_id,
            }
        )
    )
    connection.execute(
        sa.insert(DurableRunRow.table).values(
            {
                DurableRunRow.run_id: run.id,
                DurableRunRow.recoveries: 0,
                DurableRunRow.from_step: run.from_step,
                DurableRunRow.callback_url: callback_url,
            }
        )
    )
    return True


def start(connection: sa.Connection, started: Sequence[tuple[str, datetime]]) -> None:
    """Write that durable runs have started: pairs of a run and a moment."""
    query = (
        sa.update(RunRow.table)
        .where(RunRow.id == sa.bindparam("run"), RunRow.status == "accepted")
        .values(
            {
                RunRow.status: "running",
                RunRow.started_at: sa.func.coalesce(
                    RunRow.started_at, sa.bindparam("moment", type_=RunRow.started_at.type)
                ),
            }
        )
    )
    connection.execute(query, [{"run": run, "moment": moment} for run, moment in started])


def finish(connection: sa.Connection, ends: Sequence[End]) -> list[FinishedRun]:
    """Write how durable runs ended, each once; return those whose end was not known before."""
    query = (
        RunStateRow.select()
        .join(DurableRunRow.table, DurableRunRow.run_id == RunRow.id)
        .where(RunRow.id.in_([end.run for end in ends]), _qualified_unfinished())
        .with_for_update(of=RunRow.table)
    )
    rows = {row.id: row for row in RunStateRow.fetch(connection, query)}
    first = {end.run: end for end in reversed(ends)}
    fresh = [end for run, end in first.items() if run in rows]
    if not fresh:
        return []
    _write_ends(connection, [(end, *_span(end, rows[end.run].started_at)) for end in fresh])
    _write_details(connection, fresh)
    return [
        FinishedRun(end.run, rows[end.run].consumer_id, rows[end.run].callback_url, end.status)
        for end in fresh
    ]


def _write_ends(
    connection: sa.Connection, ends: Sequence[tuple[End, datetime | None, int | None]]
) -> None:
    columns = (*ENDING, RunRow.started_at, RunRow.micros)
    query = (
        sa.update(RunRow.table)
        .where(RunRow.id == sa.bindparam("run"))
        .values({item: sa.bindparam(f"new_{item.name}", type_=item.type) for item in columns})
    )
    values: list[dict[str, object]] = [
        {
            "run": end.run,
            "new_started_at": started,
            "new_micros": micros,
            **{f"new_{item.name}": getattr(end, item.name) for item in ENDING},
        }
        for end, started, micros in ends
    ]
    connection.execute(query, values)


def _write_details(connection: sa.Connection, ends: Sequence[End]) -> None:
    rows = [
        {"run_id": end.run, "steps": end.steps, "bodies": end.bodies, "failure": end.failure}
        for end in ends
        if (end.steps, end.bodies, end.failure) != (None, None, None)
    ]
    if rows:
        connection.execute(
            sa.delete(RunDetailRow.table).where(
                RunDetailRow.run_id.in_([row["run_id"] for row in rows])
            )
        )
        connection.execute(sa.insert(RunDetailRow.table), rows)


def _span(end: End, started: datetime | None) -> tuple[datetime | None, int | None]:
    """Return when a run started, if known, and its duration in microseconds."""
    started = end.started_at or started
    if started is None or end.micros is not None:
        return started, end.micros
    return started, max(
        0, ((end.ended_at or clock.utc_now()) - started) // timedelta(microseconds=1)
    )


def progress(connection: sa.Connection, reports: Iterable[tuple[str, object]]) -> None:
    """Write the progress that durable runs reported: pairs of a run and its report."""
    query = (
        sa.update(DurableRunRow.table)
        .where(DurableRunRow.run_id == sa.bindparam("run"))
        .values({DurableRunRow.progress: sa.bindparam("report", type_=sa.JSON())})
    )
    connection.execute(query, [{"run": run, "report": report} for run, report in reports])


def write_running_steps(
    connection: sa.Connection, steps: Iterable[tuple[str, bytes | None]]
) -> None:
    """Write the running steps of durable runs: pairs of a run and its steps, encoded."""
    query = (
        sa.update(DurableRunRow.table)
        .where(DurableRunRow.run_id == sa.bindparam("run"))
        .values(
            {
                DurableRunRow.running_steps: sa.bindparam(
                    "steps", type_=DurableRunRow.running_steps.type
                )
            }
        )
    )
    connection.execute(query, [{"run": run, "steps": encoded} for run, encoded in steps])


def update(connection: sa.Connection, run: str, values: Mapping[sa.Column[Any], object]) -> None:
    """Write columns of DurableRunRow."""
    connection.execute(
        sa.update(DurableRunRow.table).where(DurableRunRow.run_id == run).values(dict(values))
    )


def recover(connection: sa.Connection, run: str, number: int, steps: int, taken_from: str) -> bool:
    """Write that a run was recovered `number` times without progress, and its number of steps.

    Return False if that is written already: a recovery counts once for each dead worker, whichever
    worker recovers its runs and however often.
    """
    counted = sa.or_(DurableRunRow.taken_from.is_(None), DurableRunRow.taken_from != taken_from)
    query = sa.update(DurableRunRow.table).where(DurableRunRow.run_id == run, counted)
    return bool(
        connection.execute(
            query.values(
                {
                    DurableRunRow.recoveries: number,
                    DurableRunRow.steps_seen: steps,
                    DurableRunRow.taken_from: taken_from,
                }
            )
        ).rowcount
    )


def unfinished(
    connection: sa.Connection, environment_id: int, *, after: str | None, before: str, limit: int
) -> list[RunStateRow]:
    """Return durable runs that have not ended, oldest first, between two ids."""
    query = (
        RunStateRow.select()
        .join(DurableRunRow.table, DurableRunRow.run_id == RunRow.id)
        .where(_qualified_unfinished(), RunRow.environment_id == environment_id, RunRow.id < before)
        .order_by(RunRow.id)
        .limit(limit)
    )
    if after is not None:
        query = query.where(RunRow.id > after)
    return RunStateRow.fetch(connection, query)


def count_unfinished(connection: sa.Connection) -> dict[int, int]:
    """Return how many runs have not ended, by environment."""
    query = (
        sa.select(RunRow.environment_id, sa.func.count())
        .where(_qualified_unfinished())
        .group_by(RunRow.environment_id)
    )
    return {row[0]: row[1] for row in connection.execute(query)}
