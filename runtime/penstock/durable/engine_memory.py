"""An engine in memory, for tests: it performs queued runs on demand, in the calling thread."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextvars import ContextVar
from dataclasses import dataclass, field, replace
from datetime import datetime
from functools import partial
from typing import Any

import msgspec

from penstock.contracts.sanitize import as_msgpack
from penstock.db.engine import Connection
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
)


@dataclass
class _Run:
    engine_run: EngineRun
    document: Document
    priority: int
    steps: dict[int, EngineStep] = field(default_factory=dict)
    reached: int = 0  # the number of its last step


_number: ContextVar[int] = ContextVar("penstock_step_number", default=0)


class InMemoryEngine(RunStore, RunExecutor):
    """Stores runs and performs them."""

    def __init__(self) -> None:
        self._runs: dict[str, _Run] = {}
        self._current: _Run | None = None

    def work(self, perform: Perform) -> int:
        """Perform queued runs until no run is queued, and return their number."""
        number = 0
        while waiting := [
            run for run in self._runs.values() if run.engine_run.state is State.WAITING
        ]:
            run = min(waiting, key=lambda run: run.priority)
            self._current, run.reached = run, 0
            run.engine_run = replace(run.engine_run, state=State.RUNNING, started_at=time.time())
            outcome = _plain(perform(run.engine_run.run, run.document))
            if run.engine_run.state is State.RUNNING:
                run.engine_run = replace(
                    run.engine_run, state=State.DONE, outcome=outcome, ended_at=time.time()
                )
            number += 1
        return number

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
        """Add a run to the queue; delays are ignored."""
        self._runs.setdefault(
            run, _Run(EngineRun(run, State.WAITING, queue), _plain(document), priority)
        )

    def look(self, runs: Sequence[str], *, outcomes: bool = False) -> dict[str, EngineRun]:
        """Return runs by id."""
        return {run: self._runs[run].engine_run for run in runs if run in self._runs}

    def document(self, run: str) -> Document | None:
        """Return the input of a run."""
        return self._runs[run].document if run in self._runs else None

    def steps(self, run: str) -> list[EngineStep]:
        """Return the finished steps of a run, in order."""
        steps = self._runs[run].steps if run in self._runs else {}
        return [steps[number] for number in sorted(steps)]

    def cancel(self, runs: Iterable[str]) -> None:
        """Cancel runs."""
        for run in runs:
            if run in self._runs and not self._runs[run].engine_run.state.over:
                self._runs[run].engine_run = replace(
                    self._runs[run].engine_run, state=State.CANCELLED, ended_at=time.time()
                )

    def requeue(self, run: str, holder: str, queue: str) -> bool:
        """Return a run to the queue."""
        self._runs[run].engine_run = replace(self._runs[run].engine_run, state=State.WAITING)
        return True

    def defer(self, run: str, holder: str, seconds: float, times: int, *, begun: bool) -> bool:
        """Return a run to the queue; the delay is ignored."""
        return self.requeue(run, holder, "")

    def release_deferred(self) -> None:
        """Do nothing: no run is deferred here."""

    def fork(self, run: str, new: str, step: int, queue: str) -> None:
        """Start a run anew under another id, with the outputs of the steps before `step`."""
        before = self._runs[run]
        copied = {number: item for number, item in before.steps.items() if number < step}
        self._runs[new] = _Run(
            EngineRun(new, State.WAITING, queue), before.document, before.priority, copied
        )

    def held_by(self, process: str) -> list[EngineRun]:
        """Return no runs: a run is performed within `work`."""
        return []

    def under_way(self) -> list[EngineRun]:
        """Return no runs, as above."""
        return []

    def delete(self, runs: Sequence[str]) -> None:
        """Delete finished runs."""
        for run in runs:
            self._runs.pop(run, None)

    def last_ticks(self) -> dict[str, datetime]:
        """Return no ticks: there is no clock."""
        return {}

    def delete_ticks(self, since: float, before: float) -> int:
        """Return 0: there are no ticks."""
        return 0

    def close(self, seconds: float = 0.0) -> None:
        """Do nothing."""

    def open(
        self, process: str, queues: Iterable[Queue], perform: Perform, tick: Tick, *, at_once: int
    ) -> None:
        """Do nothing: `work` performs runs."""

    def run_step(self, name: str, work: Callable[[], object]) -> object:
        """Return the output of a step as an engine would store it."""
        return self.reserve_step(name)(work)

    def reserve_step(self, name: str) -> Callable[[Callable[[], object]], object]:
        """Reserve the number of a step, and return what runs it."""
        run = self._current
        if run is None:
            return lambda work: _plain(work())
        run.reached += 1
        return partial(_run_step, run, run.reached, name)

    def step_number(self) -> int:
        """Return the number of the step that runs in this thread."""
        return _number.get()

    def seconds_until(self, until: float) -> float:
        """Return 0: pauses take no time."""
        return 0.0

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
        """Do nothing: there is no clock."""

    def unschedule(self, keep: Iterable[str], among: Callable[[str], bool]) -> None:
        """Do nothing."""


def _run_step(run: _Run, number: int, name: str, work: Callable[[], object]) -> object:
    """Run a step, or return its stored output."""
    if number in run.steps:
        return run.steps[number].output
    began, token = time.time(), _number.set(number)
    try:
        output = _plain(work())
    finally:
        _number.reset(token)
    run.steps[number] = EngineStep(number, name, output, began, time.time())
    return output


def _plain(value: Any) -> Any:  # noqa: ANN401  plain values keep their types
    return msgspec.msgpack.decode(as_msgpack(value))
