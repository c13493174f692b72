"""Perform durable runs in this process."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from datetime import datetime, timedelta
from types import MappingProxyType
from typing import Any
from zoneinfo import ZoneInfo

from croniter import croniter
from dbos import (
    DBOS,
    DBOSConfig,
)
from dbos import error as faults

from penstock import clock
from penstock.access.encryption import SecretBox
from penstock.db.engine import (
    Engine,
    open_engine,
    open_sqlite,
    sqlite_file,
    too_much,
)
from penstock.durable.engine import (
    Document,
    Perform,
    Queue,
    RunExecutor,
    Tick,
    Undecryptable,
)
from penstock.durable.engine_dbos.schema import (
    application,
    silence_engine_log,
    version,
)
from penstock.durable.engine_dbos.serializer import EncryptedSerializer
from penstock.durable.engine_dbos.store import TICK, WORKFLOW
from penstock.errors import CannotStart
from penstock.runs.interrupts import (
    EngineUnavailable,
    KeyMissing,
    NonDeterministicPipeline,
    ResultNotStorable,
    RunReleased,
)

POLL = 0.1  # seconds between two looks into a queue, where there are few of them


PATIENT_POLL = 1.0


FEW = 8


SCHEDULES_POLL = 5.0


TAKER = "queue-worker-"  # begins the name of the engine's thread that takes runs from a queue


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
        silence_engine_log()
        declared = list(queues)
        config: DBOSConfig = {
            "name": application(self._environment),
            "system_database_url": self._url,
            # It is for messages and events, which nothing here sends; that costs a session, and no
            # pooler passes it on.
            "use_listen_notify": False,
            "executor_id": process,
            "application_version": version(self._environment),
            "serializer": EncryptedSerializer(self._box),
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
