"""Stored runs, read and changed through the engine's client."""

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
from penstock.db.engine import Connection, open_engine
from penstock.db.sqlite import sqlite_file
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


MS_PER_SECOND = 1000
TICK_BATCH_SIZE = 500  # that are deleted at a time
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
    """Reads and changes stored runs of one environment."""

    def __init__(self, url: str, environment: str, box: SecretBox) -> None:
        silence_engine_log()
        self._version = version(environment)
        self._application = application(environment)
        self._client = DBOSClient(
            system_database_url=url,
            # on PostgreSQL the pool of this process, so that it opens no further sessions
            system_database_engine=open_engine(url) if sqlite_file(url) is None else None,
            serializer=EncryptedSerializer(box),
            application_name=application(environment),
            lazy=True,
            retry_connection_errors=False,
            system_database_pool_size=3,
        )
        # Takes a run from one process only. The client offers `resume` alone, which takes it from
        # any process.
        self._reenqueue = self._client._sys_db.reenqueue_for_recovery  # noqa: SLF001  see above; the minor is pinned

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
        """Add a run to a queue, as part of the caller's transaction."""
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
        """Return runs by id."""
        if not runs:
            return {}
        with engine_errors_translated():
            workflows = self._client.list_workflows(
                workflow_ids=list(runs), load_input=False, load_output=outcomes
            )
        return {item.workflow_id: _engine_run(item) for item in workflows}

    def document(self, run: str) -> Document | None:
        """Return the input of a run. Raises UnknownKey."""
        with engine_errors_translated():
            workflows = self._client.list_workflows(
                workflow_ids=[run], load_input=True, load_output=False
            )
        call = workflows[0].input if workflows else None
        if isinstance(call, Undecryptable):
            raise UnknownKey(str(call))
        return call["args"][0] if isinstance(call, dict) and call["args"] else None

    def steps(self, run: str) -> list[EngineStep]:
        """Return the finished steps of a run, in order."""
        with engine_errors_translated():
            steps = self._client.list_workflow_steps(run)
        return [
            EngineStep(
                item["function_id"],
                item["function_name"],
                item["output"],
                (item["started_at_epoch_ms"] or 0) / 1000,
                (item["completed_at_epoch_ms"] or 0) / 1000,
            )
            for item in steps
        ]

    def cancel(self, runs: Iterable[str]) -> None:
        """Cancel runs."""
        with engine_errors_translated():
            self._client.cancel_workflows(list(runs))

    def requeue(self, run: str, holder: str, queue: str) -> bool:
        """Take a run from a worker process and return it to a queue."""
        with engine_errors_translated():
            return bool(self._reenqueue(run, [holder], queue))

    def defer(self, run: str, holder: str, seconds: float, times: int, *, begun: bool) -> bool:
        """Take a run from a worker process, and start it nowhere for some seconds."""
        with engine_errors_translated():
            engine = self._client._sys_db.engine  # noqa: SLF001  as above
            return engine_tables.delay_run(
                engine, run, holder, time.time() + seconds, times, keep_deadline=begun
            )

    def release_deferred(self) -> None:
        """Let all deferred runs start now."""
        with engine_errors_translated():
            engine_tables.start_delayed_runs(self._client._sys_db.engine, self._application)  # noqa: SLF001  as above

    def fork(self, run: str, new: str, step: int, queue: str) -> None:
        """Start a run anew under another id."""
        with engine_errors_translated(), SetWorkflowID(new):
            self._client.fork_workflow(
                run, step, application_version=self._version, queue_name=queue
            )

    def held_by(self, process: str) -> list[EngineRun]:
        """Return the running runs of a worker process."""
        with engine_errors_translated():
            workflows = self._client.list_workflows(
                executor_id=process, status="PENDING", load_input=False, load_output=False
            )
        return [_engine_run(item) for item in workflows]

    def under_way(self) -> list[EngineRun]:
        """Return the running runs of all worker processes."""
        with engine_errors_translated():
            workflows = self._client.list_workflows(
                application_name=self._application,
                status="PENDING",
                load_input=False,
                load_output=False,
            )
        return [_engine_run(item) for item in workflows]

    def delete(self, runs: Sequence[str]) -> None:
        """Delete finished runs."""
        with engine_errors_translated():
            self._client.delete_workflows(list(runs))

    def last_ticks(self) -> dict[str, datetime]:
        """Return the last tick of each schedule."""
        with engine_errors_translated():
            schedules = self._client.list_schedules(application_name=self._application)
        return {
            item["schedule_name"]: datetime.fromisoformat(item["last_fired_at"])
            for item in schedules
            if item["last_fired_at"]
        }

    def delete_ticks(self, since: float, before: float) -> int:
        """Delete some ticks between two moments, and return their number.

        A tick that no worker took belongs to a pipeline that is loaded nowhere any more. Its
        schedule is deleted too.
        """
        first, last = (
            datetime.fromtimestamp(moment, UTC).isoformat() for moment in (since, before)
        )
        with engine_errors_translated():
            workflows = self._client.list_workflows(
                name=TICK,
                start_time=first,
                end_time=last,
                limit=TICK_BATCH_SIZE,
                load_input=False,
                load_output=False,
            )
            ticks = [
                item
                for item in workflows
                if item.status != "PENDING" and item.application_name == self._application
            ]
            for name in {
                item.schedule_name
                for item in ticks
                if item.status == "ENQUEUED" and item.schedule_name
            }:
                self._client.delete_schedule(name)
            if ticks:
                self._client.delete_workflows([item.workflow_id for item in ticks])
        return len(ticks)

    def close(self) -> None:
        """Close all connections."""
        self._client.destroy()


def _engine_run(item: Any) -> EngineRun:  # noqa: ANN401  the engine's type
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
    """Return when a run ended, in seconds since the epoch.

    On SQLite the engine may store whole seconds. A run that ended in the second of its deadline
    ended at its deadline.
    """
    ended, deadline = item.completed_at, item.workflow_deadline_epoch_ms
    if not ended:
        return None
    return (
        float(deadline if deadline and ended <= deadline < ended + MS_PER_SECOND else ended) / 1000
    )
