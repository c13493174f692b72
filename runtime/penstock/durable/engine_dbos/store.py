"""What any process asks the engine, through its client."""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from typing import Any

from dbos import (
    DBOSClient,
    SetWorkflowID,
)

from penstock.access.encryption import SecretBox, UnknownKey
from penstock.db import engine_tables
from penstock.db.engine import (
    Connection,
    open_engine,
    sqlite_file,
)
from penstock.durable.engine import (
    Document,
    EngineRun,
    EngineStep,
    RunStore,
    State,
    Undecryptable,
)
from penstock.durable.engine_dbos.schema import (
    application,
    engine_errors_translated,
    silence_engine_log,
    version,
)
from penstock.durable.engine_dbos.serializer import EncryptedSerializer

WORKFLOW, TICK = "penstock.run", "penstock.tick"


SECOND = 1000  # milliseconds


TICKS = 500  # that are forgotten at a time


STATES = {
    "ENQUEUED": State.WAITING,
    "DELAYED": State.WAITING,
    "PENDING": State.RUNNING,
    "SUCCESS": State.DONE,
    "ERROR": State.BROKEN,
    "CANCELLED": State.CANCELLED,
    "MAX_RECOVERY_ATTEMPTS_EXCEEDED": State.BROKEN,
}


class DbosRunStore(RunStore):
    """Asks the engine through its client, which performs nothing."""

    def __init__(self, url: str, environment: str, box: SecretBox) -> None:
        silence_engine_log()
        self._version = version(environment)
        self._application = application(environment)
        self._client = DBOSClient(
            system_database_url=url,
            # This process's sessions, and none besides.
            system_database_engine=open_engine(url) if sqlite_file(url) is None else None,
            serializer=EncryptedSerializer(box),
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
        with engine_errors_translated():
            found = self._client.list_workflows(
                workflow_ids=list(runs), load_input=False, load_output=outcomes
            )
        return {item.workflow_id: _held(item) for item in found}

    def document(self, run: str) -> Document | None:
        """Return what a run was given. Raises UnknownKey."""
        with engine_errors_translated():
            found = self._client.list_workflows(
                workflow_ids=[run], load_input=True, load_output=False
            )
        given = found[0].input if found else None
        if isinstance(given, Undecryptable):
            raise UnknownKey(str(given))
        return given["args"][0] if isinstance(given, dict) and given["args"] else None

    def steps(self, run: str) -> list[EngineStep]:
        """Return the steps that a run has done, in order."""
        with engine_errors_translated():
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
        with engine_errors_translated():
            self._client.cancel_workflows(list(runs))

    def requeue(self, run: str, holder: str, queue: str) -> bool:
        """Take a run from a worker process that has it."""
        with engine_errors_translated():
            return bool(self._reenqueue(run, [holder], queue))

    def postpone(self, run: str, holder: str, seconds: float, times: int, *, begun: bool) -> bool:
        """Take a run from a worker process that has no key for it."""
        with engine_errors_translated():
            engine = self._client._sys_db.engine  # noqa: SLF001  as above
            return engine_tables.postpone(
                engine, run, holder, time.time() + seconds, times, keep_deadline=begun
            )

    def hasten(self) -> None:
        """Let all that was postponed begin now."""
        with engine_errors_translated():
            engine_tables.hasten(self._client._sys_db.engine, self._application)  # noqa: SLF001  as above

    def fork(self, run: str, new: str, step: int, queue: str) -> None:
        """Start a run again under a new id."""
        with engine_errors_translated(), SetWorkflowID(new):
            self._client.fork_workflow(
                run, step, application_version=self._version, queue_name=queue
            )

    def held_by(self, process: str) -> list[EngineRun]:
        """Return the runs that a worker process has begun and not ended."""
        with engine_errors_translated():
            found = self._client.list_workflows(
                executor_id=process, status="PENDING", load_input=False, load_output=False
            )
        return [_held(item) for item in found]

    def under_way(self) -> list[EngineRun]:
        """Return the runs that any worker process has begun and not ended."""
        with engine_errors_translated():
            found = self._client.list_workflows(
                application_name=self._application,
                status="PENDING",
                load_input=False,
                load_output=False,
            )
        return [_held(item) for item in found]

    def forget(self, runs: Sequence[str]) -> None:
        """Delete runs that are over."""
        with engine_errors_translated():
            self._client.delete_workflows(list(runs))

    def fired(self) -> dict[str, datetime]:
        """Return the last tick of each schedule."""
        with engine_errors_translated():
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
        with engine_errors_translated():
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
