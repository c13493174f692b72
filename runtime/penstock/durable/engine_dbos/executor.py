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
from penstock.db.engine import Engine, open_engine
from penstock.db.failures import is_value_too_large
from penstock.db.sqlite import open_sqlite, sqlite_file
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

POLL_INTERVAL_S = 0.1  # of a queue, where there are at most UNSLOWED_QUEUES
PATIENT_POLL_INTERVAL_S = 1.0
UNSLOWED_QUEUES = 8  # with more queues each is polled less often
SCHEDULES_POLL_INTERVAL_S = 5.0
QUEUE_THREAD_PREFIX = "queue-worker-"  # of the names of the engine's threads that poll queues


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
        """Start to perform runs of these queues. Raises CannotStart."""
        silence_engine_log()
        declared = list(queues)
        DBOS(config=self._config(process, declared))
        self._scheduled = _register_workflows(perform, tick)
        DBOS.listen_queues([queue.name for queue in declared])
        try:
            DBOS.launch()
        except Exception as error:
            raise CannotStart(
                f"the engine of durable runs can't start: {type(error).__name__}: {error}; run"
                " `penstock db upgrade`"
            ) from error
        poll_interval = POLL_INTERVAL_S * max(1.0, len(declared) / UNSLOWED_QUEUES)
        for queue in declared:
            DBOS.register_queue(
                queue.name,
                worker_concurrency=min(at_once, queue.concurrency or at_once),
                global_concurrency=queue.concurrency or None,
                polling_interval_sec=PATIENT_POLL_INTERVAL_S if queue.patient else poll_interval,
                on_conflict="always_update",
            )

    def _config(self, process: str, queues: Iterable[Queue]) -> DBOSConfig:
        config: DBOSConfig = {
            "name": application(self._environment),
            "system_database_url": self._url,
            # Notifications serve messages and events, which are not used here. They would need a
            # session of their own, and poolers do not support them.
            "use_listen_notify": False,
            "executor_id": process,
            "application_version": version(self._environment),
            "serializer": EncryptedSerializer(self._box),
            "run_migrations": False,
            "log_level": "ERROR",
            "scheduler_polling_interval_sec": SCHEDULES_POLL_INTERVAL_S,
        }
        if sqlite_file(self._url) is None:
            config["system_database_engine"] = open_engine(self._url)
            return config
        # The engine counts running runs before its transaction begins. On SQLite two workers could
        # exceed the concurrency of a queue by that, so these threads lock the database first.
        locking = {QUEUE_THREAD_PREFIX + queue.name for queue in queues if queue.concurrency}
        self._sqlite = open_sqlite(
            self._url, immediate=lambda: threading.current_thread().name in locking
        )
        config["system_database_engine"] = self._sqlite
        return config

    def close(self, seconds: float) -> None:
        """Take no more runs, and wait up to some seconds for those that are running."""
        DBOS.destroy(workflow_completion_timeout_sec=int(seconds))
        if self._sqlite is not None:
            self._sqlite.dispose()

    def run_step(self, name: str, work: Callable[[], object]) -> object:
        """Run a step, or return its stored output."""
        with _interrupts():
            return _decrypted(DBOS.run_step({"name": name}, work))

    def reserve_step(self, name: str) -> Callable[[Callable[[], object]], object]:
        """Reserve the number of a step, and return what runs it."""
        reserved = DBOS.reserve_step()

        def run(work: Callable[[], object]) -> object:
            with _interrupts():
                return _decrypted(reserved.run({"name": name}, work))

        return run

    def step_number(self) -> int:
        """Return the number of the step that runs in this thread."""
        return DBOS.step_id or 0

    def seconds_until(self, until: float) -> float:
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
        """Declare a schedule."""
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
            if last > datetime.fromisoformat(fired):  # one run makes up for all missed ticks
                DBOS.backfill_schedule(
                    name, last - timedelta(milliseconds=1), last + timedelta(milliseconds=1)
                )

    def unschedule(self, keep: Iterable[str], among: Callable[[str], bool]) -> None:
        """Delete schedules that are not in `keep`."""
        names = set(keep)
        for schedule in DBOS.list_schedules():
            name = schedule["schedule_name"]
            if name not in names and among(name):
                DBOS.delete_schedule(name)


def _register_workflows(perform: Perform, tick: Tick) -> Any:  # noqa: ANN401  the engine's type
    """Register what the engine calls for runs and for ticks, and return the workflow of ticks."""

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

    return ticked


def _decrypted(output: object) -> object:
    """Return the output of a step. Raises Undecryptable."""
    if isinstance(output, Undecryptable):
        raise output
    return output


@contextmanager
def _interrupts() -> Iterator[None]:
    """Raise errors of the engine as Interrupted. Steps do not raise here: they store errors."""
    try:
        yield
    except (faults.DBOSWorkflowCancelledError, faults.DBOSWorkflowConflictIDError) as error:
        raise RunReleased(str(error)) from error
    except (faults.DBOSUnexpectedStepError, faults.DBOSStepNondeterminismError) as error:
        raise NonDeterministicPipeline(str(error)) from error
    except Undecryptable as error:
        raise KeyMissing(str(error)) from error
    except Exception as error:
        kind = ResultNotStorable if is_value_too_large(error) else EngineUnavailable
        raise kind(f"{type(error).__name__}: {error}") from error
