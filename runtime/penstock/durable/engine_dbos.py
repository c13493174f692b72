"""Durable runs on DBOS Transact (MIT).

A workflow a run, a step a step, in the database that everything else is in. The only module that
knows it.

It was chosen over a broker of its own (Celery, with Redis) because a run is accepted in one
transaction with its record and its idempotency key, and because finished steps are kept and an
execution that lost its run can't write any more, on both databases.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta, tzinfo
from types import MappingProxyType
from typing import Any, Self
from zoneinfo import ZoneInfo

import msgspec
from croniter import croniter
from dbos import (
    DBOS,
    DBOSClient,
    DBOSConfig,
    Serializer,
    SetWorkflowID,
    _core,
    _enqueue_options,
    _scheduler,
    _sys_db,
)
from dbos import error as faults

from penstock import clock
from penstock.access.encryption import SecretBox, UnknownKey
from penstock.contracts.sanitize import as_msgpack
from penstock.db import engine_tables
from penstock.db.engine import (
    Connection,
    DatabaseUnavailable,
    DatabaseUnfit,
    Engine,
    open_engine,
    open_sqlite,
    shown_url,
    sqlite_file,
    too_much,
    translated,
)
from penstock.durable.engine import (
    Document,
    EngineRun,
    EngineStep,
    Perform,
    Queue,
    RunExecutor,
    RunStore,
    State,
    Tick,
    Undecryptable,
)
from penstock.errors import CannotStart
from penstock.plugins.guard import described
from penstock.runs.interrupts import (
    EngineUnavailable,
    KeyMissing,
    NonDeterministicPipeline,
    ResultNotStorable,
    RunReleased,
)
from penstock.runs.steps import describe_error

WORKFLOW, TICK = "penstock.run", "penstock.tick"
POLL = 0.1  # seconds between two looks into a queue, where there are few of them
PATIENT_POLL = 1.0
FEW = 8
SCHEDULES_POLL = 5.0
SECOND = 1000  # milliseconds
TICKS = 500  # that are forgotten at a time
RAISED = "__raised__"
TAKER = "queue-worker-"  # begins the name of the engine's thread that takes runs from a queue
STATES = {
    "ENQUEUED": State.WAITING,
    "DELAYED": State.WAITING,
    "PENDING": State.RUNNING,
    "SUCCESS": State.DONE,
    "ERROR": State.BROKEN,
    "CANCELLED": State.CANCELLED,
    "MAX_RECOVERY_ATTEMPTS_EXCEEDED": State.BROKEN,
}


class SharedTime:
    """The module `time`, with the time that hosts share.

    The engine tells deadlines by that of the host it is on.
    """

    time = staticmethod(clock.now)

    def __getattr__(self, name: str) -> Any:  # noqa: ANN401  whatever the module has
        return getattr(time, name)


class SharedDatetime(datetime):
    """Datetimes of which `now` is the time that hosts share: the engine's ticks are told by it."""

    @classmethod
    def now(cls, tz: tzinfo | None = None) -> Self:
        """Return the shared time."""
        return cls.fromtimestamp(clock.now(), tz)


# The engine has no setting for its clock; its minor is pinned.
for _module in (_core, _enqueue_options, _sys_db):
    vars(_module)["time"] = SharedTime()
vars(_scheduler)["datetime"] = SharedDatetime


def application(environment: str) -> str:
    """Return the name that an environment's runs are kept apart by."""
    return f"penstock-{environment}"


def version(environment: str) -> str:
    """Return the engine's word for who may take whose runs.

    It is one for all workers of an environment, whatever plugins they have loaded.

    Which pipelines a worker can perform is told by its queues, and steps that are not those of
    before are noticed. The engine wants the word to be one application's alone.
    """
    return f"{application(environment)}-1"


def migrate(url: str) -> None:
    """Bring the engine's tables to its release.

    Raises DatabaseUnavailable; where waiting can't help, DatabaseUnfit.
    """
    _quiet()
    try:
        with translated(f"the database {shown_url(url)}, for the tables of durable runs,"):
            DBOS.migrate(url)
    except DatabaseUnavailable:
        raise
    except Exception as error:
        raise DatabaseUnfit(
            f"the tables of durable runs can't be made: {described(error)}"
        ) from error


def is_migrated(url: str) -> bool:
    """Return whether the engine's tables are of its release, or a later one.

    Raises DatabaseUnavailable.
    """
    _quiet()
    client = DBOSClient(system_database_url=url, lazy=True, retry_connection_errors=False)
    try:
        with _translated():
            client._sys_db.verify_migrations()  # noqa: SLF001  its client has no door to it; the engine's minor is pinned
    except faults.DBOSInitializationError:
        return False
    finally:
        client.destroy()
    return True


def _quiet() -> None:
    """Send what the engine has to say to our log; it would write to standard error by itself."""
    logger = logging.getLogger("dbos")
    logger.handlers[:] = [logging.NullHandler()]
    logger.propagate = True
    logger.setLevel(logging.ERROR)


class UnopenedCall(Undecryptable):
    """What we have no key for, also as the call of a run.

    The engine gives us its arguments then, and ends a run for good where it can't.
    """

    def __getitem__(self, name: str) -> object:
        """Return the arguments of a call, of which this is the only one."""
        return (self,) if name == "args" else {}


class Sealed(Serializer):
    """Keeps what runs were given and what steps left sealed, as MessagePack.

    It is customers' data, and never a pickle.
    """

    def __init__(self, box: SecretBox) -> None:
        self._box = box

    def serialize(self, data: Any) -> str:  # noqa: ANN401  the engine's type
        """Return a value as the engine keeps it.

        Raises Undecryptable: a schedule of which we have no key is for workers that have it.
        """
        for argument in data["args"] if isinstance(data, dict) and "args" in data else ():
            if isinstance(argument, Undecryptable):
                raise argument
        return self._box.encrypt(
            as_msgpack({RAISED: describe_error(data)} if isinstance(data, BaseException) else data)
        ).decode("ascii")

    def deserialize(self, serialized_data: str) -> Any:  # noqa: ANN401  the engine's type
        """Return a value as it was, exceptions as errors that say the same.

        An UnopenedCall where we have no key.
        """
        try:
            value = msgspec.msgpack.decode(self._box.decrypt(serialized_data.encode("ascii")))
        except UnknownKey as error:
            return UnopenedCall(str(error))
        return RuntimeError(value[RAISED]) if isinstance(value, dict) and RAISED in value else value

    def name(self) -> str:
        """Name the format."""
        return "penstock"


class DbosRunStore(RunStore):
    """Asks the engine through its client, which performs nothing."""

    def __init__(self, url: str, environment: str, box: SecretBox) -> None:
        _quiet()
        self._version = version(environment)
        self._application = application(environment)
        self._client = DBOSClient(
            system_database_url=url,
            # This process's sessions, and none besides.
            system_database_engine=open_engine(url) if sqlite_file(url) is None else None,
            serializer=Sealed(box),
            application_name=application(environment),
            lazy=True,
            retry_connection_errors=False,
            system_database_pool_size=3,
        )
        # The engine's way to take a run from one process alone; its client has no door to it, and
        # `resume` takes it from whoever has it.
        self._reenqueue = self._client._sys_db.reenqueue_for_recovery  # noqa: SLF001  see above; the engine's minor is pinned

    def enqueue(
        self,
        connection: Connection,
        run: str,
        queue: str,
        document: Document,
        *,
        priority: int,
        timeout: float,
        delay: float = 0.0,
    ) -> None:
        """Hold a run that waits, as part of the caller's transaction."""
        options: Any = {
            "workflow_name": WORKFLOW,
            "queue_name": queue,
            "workflow_id": run,
            "priority": priority,
            "app_version": self._version,
            "workflow_timeout": timeout,
            **({"delay_seconds": delay} if delay else {}),
        }
        self._client.enqueue_in_transaction(connection, options, document)

    def look(self, runs: Sequence[str], *, outcomes: bool = False) -> dict[str, EngineRun]:
        """Return what is known of runs, by id."""
        if not runs:
            return {}
        with _translated():
            found = self._client.list_workflows(
                workflow_ids=list(runs), load_input=False, load_output=outcomes
            )
        return {item.workflow_id: _held(item) for item in found}

    def document(self, run: str) -> Document | None:
        """Return what a run was given. Raises UnknownKey."""
        with _translated():
            found = self._client.list_workflows(
                workflow_ids=[run], load_input=True, load_output=False
            )
        given = found[0].input if found else None
        if isinstance(given, Undecryptable):
            raise UnknownKey(str(given))
        return given["args"][0] if isinstance(given, dict) and given["args"] else None

    def steps(self, run: str) -> list[EngineStep]:
        """Return the steps that a run has done, in order."""
        with _translated():
            found = self._client.list_workflow_steps(run)
        return [
            EngineStep(
                item["function_id"],
                item["function_name"],
                item["output"],
                (item["started_at_epoch_ms"] or 0) / 1000,
                (item["completed_at_epoch_ms"] or 0) / 1000,
            )
            for item in found
        ]

    def cancel(self, runs: Iterable[str]) -> None:
        """End runs."""
        with _translated():
            self._client.cancel_workflows(list(runs))

    def requeue(self, run: str, holder: str, queue: str) -> bool:
        """Take a run from a worker process that has it."""
        with _translated():
            return bool(self._reenqueue(run, [holder], queue))

    def postpone(self, run: str, holder: str, seconds: float, times: int, *, begun: bool) -> bool:
        """Take a run from a worker process that has no key for it."""
        with _translated():
            engine = self._client._sys_db.engine  # noqa: SLF001  as above
            return engine_tables.postpone(
                engine, run, holder, time.time() + seconds, times, keep_deadline=begun
            )

    def hasten(self) -> None:
        """Let all that was postponed begin now."""
        with _translated():
            engine_tables.hasten(self._client._sys_db.engine, self._application)  # noqa: SLF001  as above

    def fork(self, run: str, new: str, step: int, queue: str) -> None:
        """Start a run again under a new id."""
        with _translated(), SetWorkflowID(new):
            self._client.fork_workflow(
                run, step, application_version=self._version, queue_name=queue
            )

    def held_by(self, process: str) -> list[EngineRun]:
        """Return the runs that a worker process has begun and not ended."""
        with _translated():
            found = self._client.list_workflows(
                executor_id=process, status="PENDING", load_input=False, load_output=False
            )
        return [_held(item) for item in found]

    def under_way(self) -> list[EngineRun]:
        """Return the runs that any worker process has begun and not ended."""
        with _translated():
            found = self._client.list_workflows(
                application_name=self._application,
                status="PENDING",
                load_input=False,
                load_output=False,
            )
        return [_held(item) for item in found]

    def forget(self, runs: Sequence[str]) -> None:
        """Delete runs that are over."""
        with _translated():
            self._client.delete_workflows(list(runs))

    def fired(self) -> dict[str, datetime]:
        """Return the last tick of each schedule."""
        with _translated():
            found = self._client.list_schedules(application_name=self._application)
        return {
            item["schedule_name"]: datetime.fromisoformat(item["last_fired_at"])
            for item in found
            if item["last_fired_at"]
        }

    def forget_ticks(self, since: float, before: float) -> int:
        """Delete old ticks.

        The schedules of those that nobody took are of pipelines that are not loaded anywhere any
        more.
        """
        first, last = (
            datetime.fromtimestamp(moment, UTC).isoformat() for moment in (since, before)
        )
        with _translated():
            found = self._client.list_workflows(
                name=TICK,
                start_time=first,
                end_time=last,
                limit=TICKS,
                load_input=False,
                load_output=False,
            )
            found = [
                item
                for item in found
                if item.status != "PENDING" and item.application_name == self._application
            ]
            for name in {
                item.schedule_name
                for item in found
                if item.status == "ENQUEUED" and item.schedule_name
            }:
                self._client.delete_schedule(name)
            if found:
                self._client.delete_workflows([item.workflow_id for item in found])
        return len(found)

    def close(self) -> None:
        """Let go of connections."""
        self._client.destroy()


def _held(item: Any) -> EngineRun:  # noqa: ANN401  the engine's type
    outcome = item.output if isinstance(item.output, dict) else None
    return EngineRun(
        item.workflow_id,
        STATES.get(item.status, State.BROKEN),
        item.queue_name or "",
        outcome,
        str(item.error or item.status if STATES.get(item.status) is State.BROKEN else ""),
        item.dequeued_at / 1000 if item.dequeued_at else None,
        _ended_at(item),
        item.executor_id or "",
        next(
            (str(value) for value in (item.output, item.error) if isinstance(value, Undecryptable)),
            "",
        ),
        (item.attributes or {}).get(engine_tables.POSTPONED, 0),
    )


def _ended_at(item: Any) -> float | None:  # noqa: ANN401  the engine's type
    """Return when a run ended.

    On SQLite the engine may count whole seconds; a run that ended in that of its deadline ended at
    it.
    """
    ended, deadline = item.completed_at, item.workflow_deadline_epoch_ms
    if not ended:
        return None
    return float(deadline if deadline and ended <= deadline < ended + SECOND else ended) / 1000


@contextmanager
def _translated() -> Iterator[None]:
    with translated("the engine's database"):
        yield


class DbosExecutor(RunExecutor):
    """Performs runs in this process."""

    def __init__(self, url: str, environment: str, box: SecretBox) -> None:
        self._url = url
        self._environment = environment
        self._box = box
        self._scheduled: Any = None
        self._sqlite: Engine | None = None

    def open(
        self, process: str, queues: Iterable[Queue], perform: Perform, tick: Tick, *, at_once: int
    ) -> None:
        """Take runs from queues from now on. Raises CannotStart."""
        _quiet()
        declared = list(queues)
        config: DBOSConfig = {
            "name": application(self._environment),
            "system_database_url": self._url,
            # It is for messages and events, which nothing here sends; that costs a session, and no
            # pooler passes it on.
            "use_listen_notify": False,
            "executor_id": process,
            "application_version": version(self._environment),
            "serializer": Sealed(self._box),
            "run_migrations": False,
            "log_level": "ERROR",
            "scheduler_polling_interval_sec": SCHEDULES_POLL,
        }
        if sqlite_file(self._url) is not None:
            # By itself the engine counts what runs before its transaction begins, and two workers
            # take one run too many.
            takers = {TAKER + queue.name for queue in declared if queue.concurrency}
            self._sqlite = open_sqlite(
                self._url, at_once=lambda: threading.current_thread().name in takers
            )
            config["system_database_engine"] = self._sqlite
        else:
            config["system_database_engine"] = open_engine(self._url)
        DBOS(config=config)

        @DBOS.workflow(name=WORKFLOW, max_recovery_attempts=None)
        def run(document: Document | Undecryptable) -> Document:
            return perform(DBOS.workflow_id or "", document)

        @DBOS.workflow(name=TICK, max_recovery_attempts=None)
        def ticked(
            moment: datetime | Undecryptable, context: Mapping[str, object] = MappingProxyType({})
        ) -> None:
            if isinstance(moment, Undecryptable):
                perform(DBOS.workflow_id or "", moment)
            else:
                tick(context, moment)

        self._scheduled = ticked
        DBOS.listen_queues([queue.name for queue in declared])
        try:
            DBOS.launch()
        except Exception as error:
            raise CannotStart(
                f"the engine of durable runs can't start: {type(error).__name__}: {error}; run"
                " `penstock db upgrade`"
            ) from error
        for queue in declared:
            here = min(at_once, queue.concurrency) if queue.concurrency else at_once
            DBOS.register_queue(
                queue.name,
                worker_concurrency=here,
                global_concurrency=queue.concurrency or None,
                polling_interval_sec=(
                    PATIENT_POLL if queue.patient else POLL * max(1.0, len(declared) / FEW)
                ),
                on_conflict="always_update",
            )

    def close(self, seconds: float) -> None:
        """Take no more runs, and wait so long for those that are under way."""
        DBOS.destroy(workflow_completion_timeout_sec=int(seconds))
        if self._sqlite is not None:
            self._sqlite.dispose()

    def once(self, name: str, work: Callable[[], object]) -> object:
        """Return what a step leaves."""
        with _engine():
            return _opened(DBOS.run_step({"name": name}, work))

    def later(self, name: str) -> Callable[[Callable[[], object]], object]:
        """Take a step's turn now."""
        reserved = DBOS.reserve_step()

        def run(work: Callable[[], object]) -> object:
            with _engine():
                return _opened(reserved.run({"name": name}, work))

        return run

    def pause(self, until: float) -> float:
        """Return the seconds to wait until a moment."""
        return max(0.0, until - clock.now())

    def schedule(
        self,
        name: str,
        cron: str,
        timezone: str,
        context: Mapping[str, object],
        *,
        queue: str,
        make_up: bool,
    ) -> None:
        """Have `tick` called for each tick of a schedule."""
        before = DBOS.get_schedule(name)
        DBOS.apply_schedules(
            [
                {
                    "schedule_name": name,
                    "workflow_fn": self._scheduled,
                    "schedule": cron,
                    "cron_timezone": timezone,
                    "context": dict(context),
                    "queue_name": queue,
                }
            ]
        )
        fired = before["last_fired_at"] if before is not None else None
        if make_up and fired:
            now = clock.utc_now().astimezone(ZoneInfo(timezone))
            last: datetime = croniter(cron, now, second_at_beginning=True).get_prev(datetime)
            if last > datetime.fromisoformat(fired):  # one run stands for all that were missed
                DBOS.backfill_schedule(
                    name, last - timedelta(milliseconds=1), last + timedelta(milliseconds=1)
                )

    def unschedule(self, keep: Iterable[str], among: Callable[[str], bool]) -> None:
        """Drop the schedules that are not to be kept."""
        kept = set(keep)
        for schedule in DBOS.list_schedules():
            name = schedule["schedule_name"]
            if name not in kept and among(name):
                DBOS.delete_schedule(name)


def _opened(left: object) -> object:
    """Return what a step left. Raises Undecryptable."""
    if isinstance(left, Undecryptable):
        raise left
    return left


@contextmanager
def _engine() -> Iterator[None]:
    """Tell the engine's faults from those of steps, which never raise here.

    They leave what they raised.
    """
    try:
        yield
    except (faults.DBOSWorkflowCancelledError, faults.DBOSWorkflowConflictIDError) as error:
        raise RunReleased(str(error)) from error
    except (faults.DBOSUnexpectedStepError, faults.DBOSStepNondeterminismError) as error:
        raise NonDeterministicPipeline(str(error)) from error
    except Undecryptable as error:
        raise KeyMissing(str(error)) from error
    except Exception as error:
        kind = ResultNotStorable if too_much(error) else EngineUnavailable
        raise kind(f"{type(error).__name__}: {error}") from error
