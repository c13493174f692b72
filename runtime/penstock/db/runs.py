"""Records of runs: written in batches, read a page at a time by key, purged a few at a time.

They carry no revision.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple

import sqlalchemy as sa

from penstock import clock
from penstock.db.columns import spellings
from penstock.db.engine import Engine, writing
from penstock.db.tables import durable_runs, processes, refusals, run_details, runs
from penstock.db.unit_of_work import Row

UNFINISHED = ("accepted", "running")
PURGED_AT_A_TIME = 500
NEAR = 200  # runs: more are not accepted at the same moment
BACKLOG = 0x70656E  # names our locks on PostgreSQL
DETAILS = ("steps", "bodies", "failure")
COLUMNS = tuple(column.name for column in runs.c)
LARGEST = "ffffffff-ffff-ffff-ffff-ffffffffffff"
_INSERT_RUN = (
    f"INSERT INTO runs ({', '.join(COLUMNS)})"  # noqa: S608  our own names
    f" VALUES ({', '.join('?' * len(COLUMNS))}) ON CONFLICT DO NOTHING"
)
_INSERT_DETAIL = (
    "INSERT INTO run_details (run_id, steps, bodies, failure) VALUES (?, ?, ?, ?) ON CONFLICT DO"
    " NOTHING"
)
_IDS = tuple(COLUMNS.index(name) for name in ("id", "parent", "redelivers"))


@dataclass(frozen=True, slots=True)
class End:
    """How a durable run ended: what is None is not known.

    `steps`, `bodies` and `failure` are as they are kept.
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
    ended_at: datetime | None = None  # where `micros` is not known; now where neither is


RunValues = tuple[Any, ...]
DetailValues = tuple[str, bytes | None, bytes | None, bytes | None]


def record(engine: Engine, made: Sequence[RunValues], details: Sequence[DetailValues]) -> None:
    """Write runs that are over, in the order of `COLUMNS`, and what is known of them besides.

    What is there already stays. Raises DatabaseUnavailable.

    Past the driver's own way of many rows, for a row must cost less than the call that it tells of.
    """
    sqlite = engine.dialect.name == "sqlite"
    if sqlite:
        made = [_as_bytes(row) for row in made]
        details = [(_bytes(run), *rest) for run, *rest in details]  # type: ignore[misc]  # bytes are what SQLite keeps
    with writing(engine) as connection:
        for statement, rows in ((_INSERT_RUN, made), (_INSERT_DETAIL, details)):
            if rows:
                connection.exec_driver_sql(
                    statement if sqlite else statement.replace("?", "%s"), list(rows)
                )


def _bytes(run: str) -> bytes:
    return bytes.fromhex(run.replace("-", ""))


def _as_bytes(row: RunValues) -> RunValues:
    values = list(row)
    for index in _IDS:
        if values[index] is not None:
            values[index] = _bytes(values[index])
    return tuple(values)


def waiting(connection: sa.Connection, environment_id: int, pipeline: str, most: int) -> int:
    """Return how many accepted runs of a pipeline have not begun; no more than `most` are counted.

    Near `most` whoever asks does so one after another, until each transaction ends: what others
    have not committed can't be seen.
    """
    number = _count_waiting(connection, environment_id, pipeline, most)
    if number < most - NEAR or connection.dialect.name == "sqlite":
        return number
    connection.execute(
        sa.select(
            sa.func.pg_advisory_xact_lock(
                BACKLOG, zlib.crc32(f"{environment_id} {pipeline}".encode()) - 2**31
            )
        )
    )
    return _count_waiting(connection, environment_id, pipeline, most)


def _count_waiting(connection: sa.Connection, environment_id: int, pipeline: str, most: int) -> int:
    found = (
        sa.select(runs.c.id)
        .where(
            runs.c.environment_id == environment_id,
            runs.c.pipeline == pipeline,
            runs.c.status == "accepted",
            _in_flight(),
        )
        .limit(most)
        .subquery()
    )
    return connection.scalar(sa.select(sa.func.count()).select_from(found)) or 0


def _in_flight() -> sa.ColumnElement[bool]:
    """Return the condition of the partial indexes, as they have it."""
    return sa.text("status IN ('accepted', 'running')")  # type: ignore[return-value]  # a text stands for any condition


def accept(connection: sa.Connection, *, callback_url: str | None, **values: object) -> bool:
    """Write a durable run that waits, as part of a transaction.

    Return False if it is there already.
    """
    if connection.scalar(sa.select(runs.c.id).where(runs.c.id == values["id"])) is not None:
        return False
    connection.execute(sa.insert(runs).values(durable=True, status="accepted", **values))
    connection.execute(
        sa.insert(durable_runs).values(run_id=values["id"], recoveries=0, callback_url=callback_url)
    )
    return True


def start(connection: sa.Connection, began: Sequence[tuple[str, datetime]]) -> None:
    """Note that durable runs have begun."""
    query = (
        sa.update(runs)
        .where(runs.c.id == sa.bindparam("run"), runs.c.status == "accepted")
        .values(
            status="running",
            started_at=sa.func.coalesce(
                runs.c.started_at, sa.bindparam("moment", type_=runs.c.started_at.type)
            ),
        )
    )
    connection.execute(query, [{"run": run, "moment": moment} for run, moment in began])


def finish(connection: sa.Connection, ends: Sequence[End]) -> list[dict[str, Any]]:
    """Note how durable runs ended, each once.

    Return those of which it was not known yet, each with its status and where its end is to be
    told.
    """
    known = sa.select(
        runs.c.id, runs.c.consumer_id, runs.c.started_at, durable_runs.c.callback_url
    ).join(durable_runs, durable_runs.c.run_id == runs.c.id)
    known = known.where(
        runs.c.id.in_([end.run for end in ends]), _qualified_in_flight()
    ).with_for_update(of=runs)
    found = {row["id"]: row for row in connection.execute(known).mappings()}
    first = {end.run: end for end in reversed(ends)}
    fresh = [end for run, end in first.items() if run in found]
    if not fresh:
        return []
    names = ("status", "http_status", "problem", "detail")
    moments = [_span(end, found[end.run]["started_at"]) for end in fresh]
    query = (
        sa.update(runs)
        .where(runs.c.id == sa.bindparam("run"))
        .values(
            {
                name: sa.bindparam(f"new_{name}", type_=runs.c[name].type)
                for name in (*names, "started_at", "micros")
            }
        )
    )
    values = [
        {
            "run": end.run,
            "new_started_at": started,
            "new_micros": micros,
            **{f"new_{name}": getattr(end, name) for name in names},
        }
        for end, (started, micros) in zip(fresh, moments, strict=True)
    ]
    connection.execute(query, values)
    details = [
        {"run_id": end.run, **{name: getattr(end, name) for name in DETAILS}} for end in fresh
    ]
    details = [detail for detail in details if any(detail[name] is not None for name in DETAILS)]
    if details:
        connection.execute(
            sa.delete(run_details).where(
                run_details.c.run_id.in_([detail["run_id"] for detail in details])
            )
        )
        connection.execute(sa.insert(run_details), details)
    return [{**found[end.run], "status": end.status} for end in fresh]


def _span(end: End, started: datetime | None) -> tuple[datetime | None, int | None]:
    """Return when a run began, as far as it is known, and how long it took."""
    started = end.started_at or started
    if started is None or end.micros is not None:
        return started, end.micros
    return started, max(
        0, ((end.ended_at or clock.utc_now()) - started) // timedelta(microseconds=1)
    )


def progress(connection: sa.Connection, said: Iterable[tuple[str, object]]) -> None:
    """Note how far durable runs are."""
    query = (
        sa.update(durable_runs)
        .where(durable_runs.c.run_id == sa.bindparam("run"))
        .values(progress=sa.bindparam("said", type_=sa.JSON()))
    )
    connection.execute(query, [{"run": run, "said": what} for run, what in said])


def set_durable(connection: sa.Connection, run: str, **values: object) -> None:
    """Change what is known of a durable run besides its record."""
    connection.execute(sa.update(durable_runs).where(durable_runs.c.run_id == run).values(**values))


def recover(connection: sa.Connection, run: str, number: int, steps: int, taken_from: str) -> bool:
    """Note that a run was taken over so many times without progress, and its number of steps.

    Return False if that is noted already.

    It is noted once for each worker process that it is taken from, whoever takes it and however
    often that is begun.
    """
    counted = sa.or_(durable_runs.c.taken_from.is_(None), durable_runs.c.taken_from != taken_from)
    query = sa.update(durable_runs).where(durable_runs.c.run_id == run, counted)
    return bool(
        connection.execute(
            query.values(recoveries=number, steps_seen=steps, taken_from=taken_from)
        ).rowcount
    )


def find(connection: sa.Connection, run: str, *, environment_id: int | None = None) -> Row | None:
    """Return a run with all that is known of it."""
    query = (
        sa.select(
            runs,
            *(run_details.c[name] for name in DETAILS),
            *(column for column in durable_runs.c if column.name != "run_id"),
        )
        .outerjoin(run_details, run_details.c.run_id == runs.c.id)
        .outerjoin(durable_runs, durable_runs.c.run_id == runs.c.id)
        .where(runs.c.id == run)
    )
    if environment_id is not None:
        query = query.where(runs.c.environment_id == environment_id)
    return connection.execute(query).mappings().first()


def page(  # noqa: PLR0913  one argument a filter
    connection: sa.Connection,
    *,
    environment_id: int | None = None,
    pipelines: Sequence[str] = (),
    consumer_id: int | None = None,
    status: str | None = None,
    request_id: str | None = None,
    since: str | None = None,
    before: str | None = None,
    limit: int = 50,
) -> list[Row]:
    """Return runs, newest first.

    `since` and `before` are run ids, and pages go on from the last id of the one before.
    """
    query = sa.select(runs).order_by(runs.c.id.desc()).limit(limit)
    for column, value in (
        (runs.c.environment_id, environment_id),
        (runs.c.consumer_id, consumer_id),
        (runs.c.request_id, request_id),
    ):
        if value is not None:
            query = query.where(column == value)
    if request_id is not None:
        # The condition of the index, as it has it.
        query = query.where(runs.c.request_id.isnot(None))
    if len(pipelines) == 1:
        query = query.where(runs.c.pipeline == pipelines[0])
    elif pipelines:
        query = query.where(runs.c.pipeline.in_(pipelines))
    if status is not None:
        query = query.where(runs.c.status.in_(spellings(status)))
        if status != "succeeded":  # the condition of the index, as it has it
            query = query.where(sa.text("status <> 'succeeded'"))
    if since is not None:
        query = query.where(runs.c.id >= since)
    if before is not None:
        query = query.where(runs.c.id < before)
    return list(connection.execute(query).mappings())


def callers(
    connection: sa.Connection, environment_id: int, since: str, until: str
) -> set[tuple[str, int]]:
    """Return which consumers called which pipelines between two run ids."""
    query = (
        sa.select(runs.c.pipeline, runs.c.consumer_id)
        .where(
            runs.c.environment_id == environment_id,
            runs.c.id >= since,
            runs.c.id < until,
            runs.c.consumer_id.isnot(None),
        )
        .distinct()
    )
    return {(row[0], row[1]) for row in connection.execute(query)}


def children(connection: sa.Connection, run: str) -> list[Row]:
    """Return the runs that a run started, oldest first."""
    query = (
        sa.select(runs).where(runs.c.parent == run, runs.c.parent.isnot(None)).order_by(runs.c.id)
    )
    return list(connection.execute(query).mappings())


def unfinished(
    connection: sa.Connection, environment_id: int, *, after: str | None, before: str, limit: int
) -> list[Row]:
    """Return durable runs that are not over, oldest first, between two ids."""
    query = (
        sa.select(runs, durable_runs.c.cancelled_by, durable_runs.c.callback_url)
        .join(durable_runs, durable_runs.c.run_id == runs.c.id)
        .where(_qualified_in_flight(), runs.c.environment_id == environment_id, runs.c.id < before)
        .order_by(runs.c.id)
        .limit(limit)
    )
    if after is not None:
        query = query.where(runs.c.id > after)
    return list(connection.execute(query).mappings())


def count_unfinished(connection: sa.Connection) -> dict[int, int]:
    """Return how many runs are not over, by environment."""
    query = (
        sa.select(runs.c.environment_id, sa.func.count())
        .where(_qualified_in_flight())
        .group_by(runs.c.environment_id)
    )
    return {row[0]: row[1] for row in connection.execute(query)}


def _qualified_in_flight() -> sa.ColumnElement[bool]:
    return sa.text("runs.status IN ('accepted', 'running')")  # type: ignore[return-value]  # a text stands for any condition


def purge(engine: Engine, environment_id: int, before: str) -> tuple[int, dict[str, bool]]:
    """Delete records of runs older than an id, a few at a time. What is not over stays.

    Return how many, and of the durable ones whether their end was to be told.
    """
    with writing(engine) as connection:
        old = sa.select(runs.c.id, runs.c.durable).where(
            runs.c.environment_id == environment_id,
            runs.c.id < before,
            runs.c.status.notin_(UNFINISHED),
        )
        found = connection.execute(old.order_by(runs.c.id).limit(PURGED_AT_A_TIME)).all()
        durable = {row.id: False for row in found if row.durable}
        if durable:
            told = sa.select(durable_runs.c.run_id).where(
                durable_runs.c.run_id.in_(durable), durable_runs.c.callback_url.isnot(None)
            )
            durable |= dict.fromkeys(connection.scalars(told), True)
        if found:
            for column in (runs.c.id, run_details.c.run_id, durable_runs.c.run_id):
                connection.execute(
                    sa.delete(column.table).where(column.in_([row.id for row in found]))
                )
        return len(found), durable


def refuse(connection: sa.Connection, samples: Sequence[dict[str, object]]) -> None:
    """Write samples of calls that the gate refused."""
    connection.execute(sa.insert(refusals), list(samples))


def list_refusals(
    connection: sa.Connection, environment_id: int, *, before: str | None = None, limit: int = 50
) -> list[Row]:
    """Return samples of calls that the gate refused, newest first."""
    query = (
        sa.select(refusals)
        .where(refusals.c.environment_id == environment_id)
        .order_by(refusals.c.id.desc())
        .limit(limit)
    )
    if before is not None:
        query = query.where(refusals.c.id < before)
    return list(connection.execute(query).mappings())


def purge_refusals(engine: Engine, environment_id: int, before: str) -> int:
    """Delete samples older than an id, a few at a time; return how many."""
    with writing(engine) as connection:
        old = (
            sa.select(refusals.c.id)
            .where(refusals.c.environment_id == environment_id, refusals.c.id < before)
            .limit(PURGED_AT_A_TIME)
        )
        return connection.execute(
            sa.delete(refusals).where(refusals.c.id.in_(old.scalar_subquery()))
        ).rowcount


# Processes say that they are alive; the database's clock counts, for hosts' clocks differ.


def _now(connection: sa.Connection) -> datetime:
    """Return the database's time; SQLite has none of its own, and one host."""
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
    """Say that a process is there, and of a worker whose runs it performs."""
    with writing(engine) as connection:
        now = _now(connection)
        values = {
            "kind": kind,
            "environment_id": environment_id,
            "host": host,
            "pid": pid,
            "started_at": now,
            "seen_at": now,
            "ended": False,
        }
        values["pipelines"] = None if pipelines is None else list(pipelines)
        connection.execute(sa.insert(processes).values(id=process, **values))


def heartbeat(engine: Engine, process: str, *, ended: bool = False) -> bool:
    """Say that a process is still there, or that it ends.

    Return False if another has taken over from it.
    """
    with writing(engine) as connection:
        query = sa.update(processes).where(
            processes.c.id == process, processes.c.taken_by.is_(None)
        )
        return bool(
            connection.execute(query.values(seen_at=_now(connection), ended=ended)).rowcount
        )


class DeadWorker(NamedTuple):
    """A worker that is taken over from.

    Whether it ended as it was told to, when it last spoke, and whether that was begun before.
    """

    id: str
    ended: bool
    seen_at: datetime
    again: bool


def overdue(
    engine: Engine, environment_id: int, by: str, *, silent: float, lease: float
) -> list[DeadWorker]:
    """Take over from workers that have ended, or said nothing for so many seconds, and return them.

    Those not done with are returned again.

    Each is taken over by one process alone; whoever did so and died in the middle of it has it
    taken from it when the lease ends.
    """
    with writing(engine) as connection:
        now = _now(connection)
        dead = sa.or_(processes.c.ended, processes.c.seen_at < now - timedelta(seconds=silent))
        free = sa.or_(
            processes.c.taken_by.is_(None),
            processes.c.taken_by == by,
            processes.c.taken_at < now - timedelta(seconds=lease),
        )
        query = sa.select(processes).where(
            processes.c.environment_id == environment_id,
            processes.c.kind == "worker",
            processes.c.id != by,
            dead,
            free,
        )
        found = (
            connection.execute(query.order_by(processes.c.id).with_for_update(skip_locked=True))
            .mappings()
            .all()
        )
        taken = sa.update(processes).where(processes.c.id.in_([row["id"] for row in found]))
        connection.execute(taken.values(taken_by=by, taken_at=now))
        return [
            DeadWorker(row["id"], row["ended"], row["seen_at"], row["taken_by"] is not None)
            for row in found
        ]


def unregister(engine: Engine, process: str) -> None:
    """Forget a process from which nothing is left to take over."""
    with writing(engine) as connection:
        connection.execute(sa.delete(processes).where(processes.c.id == process))


def forget_silent(engine: Engine, environment_id: int, *, silent: float) -> None:
    """Forget serving processes that ended without saying so, and were silent for some seconds.

    Ended workers are left to other workers, which take over from them.
    """
    with writing(engine) as connection:
        gone = processes.c.seen_at < _now(connection) - timedelta(seconds=silent)
        connection.execute(
            sa.delete(processes).where(
                processes.c.environment_id == environment_id, processes.c.kind == "serve", gone
            )
        )


def waiting_by_pipeline(
    connection: sa.Connection, environment_id: int
) -> dict[str, tuple[int, str]]:
    """Return how many accepted runs have not begun, and the oldest one's id, by pipeline."""
    # PostgreSQL 15 has no min(uuid).
    oldest = sa.func.min(
        sa.cast(runs.c.id, sa.Text) if connection.dialect.name == "postgresql" else runs.c.id
    )
    query = sa.select(runs.c.pipeline, sa.func.count(), oldest)
    query = query.where(
        runs.c.environment_id == environment_id, runs.c.status == "accepted", _in_flight()
    )
    return {row[0]: (row[1], row[2]) for row in connection.execute(query.group_by(runs.c.pipeline))}


def process_ids(connection: sa.Connection) -> set[str]:
    """Return the ids of all processes that are alive, or dead and not yet taken over from."""
    return set(connection.scalars(sa.select(processes.c.id)))


def alive(connection: sa.Connection, environment_id: int, *, silent: float) -> list[Row]:
    """Return the processes that spoke within so many seconds, by kind."""
    query = sa.select(processes).where(
        processes.c.environment_id == environment_id,
        ~processes.c.ended,
        processes.c.seen_at >= _now(connection) - timedelta(seconds=silent),
    )
    return list(
        connection.execute(query.order_by(processes.c.kind, processes.c.started_at)).mappings()
    )
