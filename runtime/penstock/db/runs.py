"""Records of runs: written in batches, read a page at a time, purged a few at a time."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from itertools import chain
from typing import Any

import sqlalchemy as sa

from penstock.contracts.run_status import UNFINISHED
from penstock.db.columns import spellings
from penstock.db.engine import Engine, writing
from penstock.db.paging import containing, most_common
from penstock.db.rows import AnyColumn, Col, Row, joined
from penstock.db.run_tables import (
    IS_SLOW,
    SLOW_MICROS,
    DurableRunRow,
    RunDetailRow,
    RunLogLineRow,
    RunRow,
)
from penstock.db.tables import ConsumerRow, EnvironmentRow, PipelineRow

PURGED_AT_A_TIME = 500
MAX_COUNTED = 10_000  # runs of which the most frequent values are found
COLUMNS = RunRow.names
# Rows of one statement. At each statement the driver lets other threads run, and the thread that
# writes then competes for the interpreter with those of calls.
ROWS_AT_ONCE = 50
# Of columns that have ids too; the first column is the run's own.
_OTHER_IDS = tuple(COLUMNS.index(item.name) for item in (RunRow.parent, RunRow.redelivers))

RunValues = tuple[Any, ...]  # in the order of `COLUMNS`
DetailValues = tuple[str, bytes | None, bytes | None, bytes | None]


class RunStateRow(RunRow):
    """A run with its state; all of it None of a run that is not durable."""

    cancelled_by: Col[str | None] = joined(DurableRunRow.cancelled_by)
    callback_url: Col[str | None] = joined(DurableRunRow.callback_url)
    from_step: Col[int | None] = joined(DurableRunRow.from_step)


class FullRunRow(RunStateRow):
    """A run with its details and, of a durable run, its state."""

    steps: Col[bytes | None] = joined(RunDetailRow.steps)
    bodies: Col[bytes | None] = joined(RunDetailRow.bodies)
    failure: Col[bytes | None] = joined(RunDetailRow.failure)
    recoveries: Col[int] = joined(sa.func.coalesce(DurableRunRow.recoveries, 0))
    steps_seen: Col[int] = joined(sa.func.coalesce(DurableRunRow.steps_seen, 0))
    taken_from: Col[str | None] = joined(DurableRunRow.taken_from)
    progress: Col[Any] = joined(DurableRunRow.progress)
    running_steps: Col[bytes | None] = joined(DurableRunRow.running_steps)
    callback_status: Col[str | None] = joined(DurableRunRow.callback_status)


def record(engine: Engine, runs: Sequence[RunValues], details: Sequence[DetailValues]) -> None:
    """Write finished runs and their details; rows that exist stay. Raises DatabaseUnavailable.

    A row must cost less than its call, so the driver executes the statements, without SQLAlchemy's
    processing of values.
    """
    sqlite = engine.dialect.name == "sqlite"
    if sqlite:
        runs = [_with_id_bytes(row) for row in runs]
        details = [(_id_bytes(run), *rest) for run, *rest in details]  # type: ignore[misc]  # SQLite stores ids as bytes
    with writing(engine) as connection:
        for kind, rows in ((RunRow, runs), (RunDetailRow, details)):
            for start in range(0, len(rows), ROWS_AT_ONCE):
                some = rows[start : start + ROWS_AT_ONCE]
                statement = _insertion(kind, len(some), "?" if sqlite else "%s")
                connection.exec_driver_sql(statement, tuple(chain.from_iterable(some)))


@cache
def _insertion(kind: type[Row], rows: int, mark: str) -> str:
    """Return the statement that inserts a number of rows."""
    row = f"({', '.join([mark] * len(kind.names))})"
    return (
        f"INSERT INTO {kind.table.name} ({', '.join(kind.names)})"  # noqa: S608  our own names
        f" VALUES {', '.join([row] * rows)} ON CONFLICT DO NOTHING"
    )


def _id_bytes(run: str) -> bytes:
    return bytes.fromhex(run.replace("-", ""))


def _with_id_bytes(row: RunValues) -> RunValues:
    values = [_id_bytes(row[0]), *row[1:]]
    for index in _OTHER_IDS:
        if values[index] is not None:
            values[index] = _id_bytes(values[index])
    return tuple(values)


def find(
    connection: sa.Connection, run: str, *, environment_id: int | None = None
) -> FullRunRow | None:
    """Return a run with its details, or None."""
    query = (
        FullRunRow.select()
        .outerjoin(RunDetailRow.table, RunDetailRow.run_id == RunRow.id)
        .outerjoin(DurableRunRow.table, DurableRunRow.run_id == RunRow.id)
        .where(RunRow.id == run)
    )
    if environment_id is not None:
        query = query.where(RunRow.environment_id == environment_id)
    return FullRunRow.fetch_first(connection, query)


@dataclass(frozen=True, slots=True)
class RunFilter:
    """Which runs a listing has; a field that is None or empty leaves none out.

    `since` and `until` are run ids, the second excluded. `micros` is the least duration. `search`
    is a text in the pipeline's id or in the consumer's name.
    """

    environment_id: int | None = None
    pipelines: Sequence[str] = ()
    consumer_id: int | None = None
    key_id: str | None = None
    status: str | None = None
    error_type: str | None = None
    request_id: str | None = None
    micros: int | None = None
    since: str | None = None
    until: str | None = None
    search: str = ""

    def conditions(self) -> list[sa.ColumnElement[bool]]:
        """Return the conditions of a query."""
        equal: tuple[tuple[AnyColumn, object], ...] = (
            (RunRow.environment_id, self.environment_id),
            (RunRow.consumer_id, self.consumer_id),
            (RunRow.key_id, self.key_id),
            (RunRow.error_type, self.error_type),
            (RunRow.request_id, self.request_id),
        )
        conditions = [column == value for column, value in equal if value is not None]
        if self.request_id is not None:
            conditions.append(RunRow.request_id.isnot(None))  # as the partial index has it
        if len(self.pipelines) == 1:
            conditions.append(RunRow.pipeline == self.pipelines[0])
        elif self.pipelines:
            conditions.append(RunRow.pipeline.in_(self.pipelines))
        if self.status is not None:
            conditions.append(RunRow.status.in_(spellings(self.status)))
        failing = self.error_type is not None or self.status not in {None, "succeeded"}
        if failing:  # the condition of the partial index
            conditions.append(sa.text("status <> 'succeeded'"))  # type: ignore[arg-type]  # a text is any condition
        if self.micros is not None:
            conditions.append(RunRow.micros >= self.micros)
            if self.micros >= SLOW_MICROS:  # the condition of the partial index
                conditions.append(sa.text(IS_SLOW))  # type: ignore[arg-type]  # a text is any condition
        if self.since is not None:
            conditions.append(RunRow.id >= self.since)
        if self.until is not None:
            conditions.append(RunRow.id < self.until)
        return conditions + _with_text(self.search)


def page(
    connection: sa.Connection, chosen: RunFilter, *, before: str | None = None, limit: int = 50
) -> list[RunRow]:
    """Return runs, newest first; the next page is before the last id of a page."""
    query = RunRow.select().where(*chosen.conditions()).order_by(RunRow.id.desc()).limit(limit)
    if before is not None:
        query = query.where(RunRow.id < before)
    return RunRow.fetch(connection, query)


def most_frequent(
    connection: sa.Connection, chosen: RunFilter, columns: Sequence[AnyColumn], *, limit: int
) -> list[list[tuple[str, int]]]:
    """Return the most frequent values of some columns among the newest 10,000 runs that match."""
    newest = (
        sa.select(*columns)
        .where(*chosen.conditions())
        .order_by(RunRow.id.desc())
        .limit(MAX_COUNTED)
        .subquery()
    )
    groups = connection.execute(sa.select(*newest.c, sa.func.count()).group_by(*newest.c)).all()
    return [most_common(groups, place, limit) for place in range(len(columns))]


def _with_text(search: str) -> list[sa.ColumnElement[bool]]:
    if not search:
        return []
    consumers = sa.select(ConsumerRow.id).where(containing(search, ConsumerRow.name))
    return [containing(search, RunRow.pipeline) | RunRow.consumer_id.in_(consumers)]


def is_pipeline(connection: sa.Connection, identifier: str) -> bool:
    """Return whether an environment knows a pipeline, or there are runs of it."""
    environments = sa.select(EnvironmentRow.id)
    of_runs = sa.exists().where(
        RunRow.environment_id.in_(environments), RunRow.pipeline == identifier
    )
    noted = sa.exists().where(
        PipelineRow.environment_id.in_(environments), PipelineRow.name == identifier
    )
    return bool(connection.scalar(sa.select(sa.or_(noted, of_runs))))


def children(connection: sa.Connection, run: str) -> list[RunRow]:
    """Return the runs that a run started, oldest first."""
    query = (
        RunRow.select().where(RunRow.parent == run, RunRow.parent.isnot(None)).order_by(RunRow.id)
    )
    return RunRow.fetch(connection, query)


def purge(engine: Engine, environment_id: int, before: str) -> tuple[int, dict[str, bool]]:
    """Delete at most 500 records of finished runs older than an id.

    Return how many were deleted, and of the durable runs whether they had a callback, by id.
    """
    with writing(engine) as connection:
        old = sa.select(RunRow.id, RunRow.durable).where(
            RunRow.environment_id == environment_id,
            RunRow.id < before,
            RunRow.status.notin_(UNFINISHED),
        )
        rows = connection.execute(old.order_by(RunRow.id).limit(PURGED_AT_A_TIME)).all()
        durable = {row.id: False for row in rows if row.durable}
        if durable:
            with_callback = sa.select(DurableRunRow.run_id).where(
                DurableRunRow.run_id.in_(durable), DurableRunRow.callback_url.isnot(None)
            )
            durable |= dict.fromkeys(connection.scalars(with_callback), True)
        if rows:
            parts = (RunDetailRow.run_id, RunLogLineRow.run_id, DurableRunRow.run_id)
            for column in (RunRow.id, *parts):
                connection.execute(
                    sa.delete(column.table).where(column.in_([row.id for row in rows]))
                )
        return len(rows), durable
