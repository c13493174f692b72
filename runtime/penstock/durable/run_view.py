"""A run as operators see it: the one value that pages, commands and the test kit show."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec

from penstock import clock
from penstock.access.encryption import SecretBox, UnknownKey
from penstock.contracts.masks import masked
from penstock.contracts.run_status import UNFINISHED, Status
from penstock.db.run_tables import RunLogLineRow, RunRow
from penstock.db.runs import FullRunRow
from penstock.durable.engine import EngineRun, EngineStep, State
from penstock.durable.status import (
    current_status,
    ended_of,
    failure_in,
    marked_copies,
    progress_of,
    received_at,
    started_of,
    steps_held,
)
from penstock.runs.failures import Failure
from penstock.runs.records import failure_from, steps_of
from penstock.runs.running_steps import unfinished_steps
from penstock.runs.step_records import StepRecord

MILLISECOND = timedelta(milliseconds=1)
SUMMARY = (
    "id", "pipeline", "version", "route", "durable", "subject", "status", "http_status", "problem",
    "detail", "parent", "redelivers", "request_id", "at", "started_at", "ended_at", "ms",
    "environment", "consumer", "key", "error_type", "waited_ms",
)  # fmt: skip
CHILD = ("id", "pipeline", "route", "status", "ms")
DETAILS = ("steps", "failure", "unreadable", "bodies", "log", "lines_left_out")
DURABLE = (
    "recoveries", "cancelled_by", "callback_url", "callback_status", "progress", "waits_for",
    "from_step",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class LoggedLine:
    """A line that plugin code logged within a run."""

    at: datetime
    level: str
    logger: str
    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class RunView:
    """A run as its record and the engine of durable runs know it.

    `at` is when the call was received, `ms` the duration in milliseconds. `key` shows the end of
    the caller's key alone; `error_type` is that of the exception that ended it. Fields from
    `children` on have values where the details of the run were read, else `children` is None.
    `lines_left_out` is the number of log lines that were not kept. Fields from `recoveries` on are
    of durable runs. The results of the steps before `from_step` were copied from the run that this
    one repeats. `unreadable` says why this process can't decrypt the bodies or the outcome.
    """

    id: str
    pipeline: str
    version: str
    route: str
    durable: bool
    status: Status
    http_status: int | None
    problem: str | None
    detail: str | None
    at: datetime
    started_at: datetime | None
    ended_at: datetime | None
    ms: float | None
    environment: str | None
    consumer: str | None
    subject: str | None
    parent: str | None
    redelivers: str | None
    request_id: str | None
    key: str | None = None
    key_id: str | None = None
    error_type: str | None = None
    children: tuple[RunView, ...] | None = None
    steps: Sequence[StepRecord] = ()
    failure: Failure | None = None
    bodies: Mapping[str, Any] | None = None
    unreadable: str | None = None
    log: Sequence[LoggedLine] = ()
    lines_left_out: int = 0
    recoveries: int | None = None
    cancelled_by: str | None = None
    callback_url: str | None = None
    callback_status: str | None = None
    progress: Mapping[str, object] | None = None
    waits_for: str | None = None
    from_step: int | None = None

    @property
    def is_finished(self) -> bool:
        """Whether the status is final."""
        return self.status not in UNFINISHED

    @property
    def waited_ms(self) -> float | None:
        """How long a durable run waited for a worker, in milliseconds; None while it waits."""
        if not self.durable or self.started_at is None:
            return None
        return max(0.0, (self.started_at - self.at) / MILLISECOND)

    @property
    def failed_step(self) -> int:
        """The number of the step to repeat so that the run may succeed, 0 where none failed.

        It is the last that failed or was interrupted, or the first of those that ran beside it.
        """
        failed = [
            step
            for step in self.steps
            if not (step.copied or step.running)
            and (step.failed or (step.attempts and step.attempts[-1].interrupted))
        ]
        beside = (step.number for step in failed if step.at + step.ms >= failed[-1].at)
        return next(beside, 0)

    def document(self) -> dict[str, Any]:
        """Return the run as commands print it in JSON."""
        names = list(SUMMARY)
        if self.children is not None:
            names += [*DETAILS, *(DURABLE if self.durable else ())]
        document: dict[str, Any] = {name: getattr(self, name) for name in names}
        document["status"] = self.status.value
        if self.children is not None:
            document["children"] = [
                {name: child.document()[name] for name in CHILD} for child in self.children
            ]
            document["steps"] = list(self.steps)
        return document


def view_of(
    row: RunRow, environment: str | None, consumer: str | None, key_end: str | None = None
) -> RunView:
    """Return a run as its record has it, with the names of its environment and its consumer.

    `key_end` has the last characters of the caller's key.
    """
    received, micros = received_at(row.id), row.micros
    started = row.started_at or received
    return RunView(
        id=row.id,
        pipeline=row.pipeline,
        version=row.version,
        route=row.route,
        durable=row.durable,
        status=Status(row.status),
        http_status=row.http_status,
        problem=row.problem,
        detail=row.detail,
        at=received,
        started_at=row.started_at,
        ended_at=None if micros is None else started + timedelta(microseconds=micros),
        ms=None if micros is None else micros / 1000,
        environment=environment,
        consumer=consumer,
        subject=row.subject,
        parent=row.parent,
        redelivers=row.redelivers,
        request_id=row.request_id,
        key=f"pk_{environment}_…{key_end}" if key_end else None,
        key_id=row.key_id,
        error_type=row.error_type,
    )


def with_log(view: RunView, rows: Sequence[RunLogLineRow]) -> RunView:
    """Return a run with the lines that its plugin code logged."""
    lines = [
        LoggedLine(datetime.fromtimestamp(row.at / 1e6, UTC), row.level, row.logger, row.text)
        for row in rows
        if row.left_out is None
    ]
    left_out = sum(row.left_out for row in rows if row.left_out is not None)
    return replace(view, log=tuple(lines), lines_left_out=left_out)


def with_details(
    view: RunView, row: FullRunRow, children: Sequence[RunView], box: SecretBox
) -> RunView:
    """Return a run with everything that its record stores; `row` is one of `db.runs.find`."""
    bodies, unreadable = None, None
    try:
        bodies = msgspec.json.decode(box.decrypt(row.bodies)) if row.bodies else None
    except UnknownKey as error:
        unreadable = str(error)
    view = replace(
        view,
        children=tuple(children),
        steps=marked_copies(steps_of(row.steps), row.from_step),
        failure=failure_from(row.failure),
        bodies=bodies,
        unreadable=unreadable,
    )
    if not view.durable:
        return view
    return replace(
        view,
        recoveries=row.recoveries,
        from_step=row.from_step,
        cancelled_by=row.cancelled_by,
        callback_url=masked(row.callback_url or "") or None,
        callback_status=row.callback_status,
    )


def with_engine_state(
    view: RunView, row: FullRunRow, engine_run: EngineRun | None, steps: Sequence[EngineStep]
) -> RunView:
    """Return a durable run with what the engine knows and its record may not have yet.

    `steps` are those that the engine stores, empty where it does not know the run.
    """
    status, started = current_status(row, engine_run), started_of(row, engine_run)
    ended = ended_of(row, engine_run) if status not in UNFINISHED else None
    outcome = engine_run.outcome if engine_run is not None else None
    took = (ended - started) / MILLISECOND if ended is not None and started is not None else None
    undecryptable = engine_run.undecryptable if engine_run is not None else ""
    held = steps_held(steps, started, row.from_step) or list(view.steps)
    held += _unfinished(row, held, engine_run, started, ended)
    return replace(
        view,
        status=status,
        http_status=outcome["status"] if outcome is not None else row.http_status,
        progress=progress_of(row, engine_run),
        waits_for=_waits_for(engine_run),
        unreadable=undecryptable or view.unreadable,
        failure=view.failure or (failure_in(outcome) if outcome is not None else None),
        started_at=started,
        ended_at=ended,
        ms=took,
        steps=held,
    )


def _unfinished(
    row: FullRunRow,
    done: Sequence[StepRecord],
    engine_run: EngineRun | None,
    started: datetime | None,
    ended: datetime | None,
) -> list[StepRecord]:
    """Return the steps that run now, or that did not end."""
    if row.running_steps is None or started is None:
        return []
    now = ended or clock.utc_now()
    return unfinished_steps(
        row.running_steps,
        {step.number for step in done},
        (now - started) / MILLISECOND,
        running=ended is None and engine_run is not None and engine_run.state is State.RUNNING,
    )


def _waits_for(engine_run: EngineRun | None) -> str | None:
    """Return what a queued run waits for besides a free worker."""
    if engine_run is None or engine_run.state is not State.WAITING or not engine_run.deferrals:
        return None
    return (
        "a worker whose PENSTOCK_SECRET_KEY has the key that it was encrypted with;"
        f" {engine_run.deferrals} times one without it gave it back"
    )
