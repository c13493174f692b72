"""An engine in memory, for tests.

It performs what waits when it is told to, in the thread that tells it, and forgets all with the
process.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
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
    held: EngineRun
    document: Document
    priority: int
    steps: list[EngineStep] = field(default_factory=list)


class InMemoryEngine(RunStore, RunExecutor):
    """Holds runs and performs them."""

    def __init__(self) -> None:
        self._runs: dict[str, _Run] = {}
        self._current: _Run | None = None

    def work(self, perform: Perform) -> int:
        """Perform what waits, and what that has accepted meanwhile.

        Return how many runs that were.
        """
        number = 0
        while waiting := [run for run in self._runs.values() if run.held.state is State.WAITING]:
            run = min(waiting, key=lambda run: run.priority)
            self._current = run
            run.held = replace(run.held, state=State.RUNNING, started_at=time.time())
            outcome = _plain(perform(run.held.run, run.document))
            if run.held.state is State.RUNNING:
                run.held = replace(
                    run.held, state=State.DONE, outcome=outcome, ended_at=time.time()
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
        """Hold a run that waits; no delay is waited for."""
        self._runs.setdefault(
            run, _Run(EngineRun(run, State.WAITING, queue), _plain(document), priority)
        )

    def look(self, runs: Sequence[str], *, outcomes: bool = False) -> dict[str, EngineRun]:
        """Return what is known of runs, by id."""
        return {run: self._runs[run].held for run in runs if run in self._runs}

    def document(self, run: str) -> Document | None:
        """Return what a run was given."""
        return self._runs[run].document if run in self._runs else None

    def steps(self, run: str) -> list[EngineStep]:
        """Return the steps that a run has done, in order."""
        return list(self._runs[run].steps) if run in self._runs else []

    def cancel(self, runs: Iterable[str]) -> None:
        """End runs."""
        for run in runs:
            if run in self._runs and not self._runs[run].held.state.over:
                self._runs[run].held = replace(
                    self._runs[run].held, state=State.CANCELLED, ended_at=time.time()
                )

    def requeue(self, run: str, holder: str, queue: str) -> bool:
        """Let a run go on."""
        self._runs[run].held = replace(self._runs[run].held, state=State.WAITING)
        return True

    def postpone(self, run: str, holder: str, seconds: float, times: int, *, begun: bool) -> bool:
        """Let a run go on; no time is waited for."""
        return self.requeue(run, holder, "")

    def hasten(self) -> None:
        """Have nothing that waits for its time."""

    def fork(self, run: str, new: str, step: int, queue: str) -> None:
        """Start a run again under a new id; what it did before is done again here."""
        self._runs[new] = _Run(
            EngineRun(new, State.WAITING, queue), self._runs[run].document, self._runs[run].priority
        )

    def held_by(self, process: str) -> list[EngineRun]:
        """Return nothing: whoever performs is at it."""
        return []

    def under_way(self) -> list[EngineRun]:
        """Return nothing, as above."""
        return []

    def forget(self, runs: Sequence[str]) -> None:
        """Delete runs that are over."""
        for run in runs:
            self._runs.pop(run, None)

    def fired(self) -> dict[str, datetime]:
        """Have no clock."""
        return {}

    def forget_ticks(self, since: float, before: float) -> int:
        """Hold none."""
        return 0

    def close(self, seconds: float = 0.0) -> None:
        """Let go of nothing."""

    def open(
        self, process: str, queues: Iterable[Queue], perform: Perform, tick: Tick, *, at_once: int
    ) -> None:
        """Take no runs by itself."""

    def once(self, name: str, work: Callable[[], object]) -> object:
        """Do a step, and return what it leaves as an engine would keep it."""
        began, left, run = time.time(), _plain(work()), self._current
        if run is not None:
            run.steps.append(EngineStep(len(run.steps) + 1, name, left, began, time.time()))
        return left

    def later(self, name: str) -> Callable[[Callable[[], object]], object]:
        """Take a step's turn now."""
        return lambda work: self.once(name, work)

    def pause(self, until: float) -> float:
        """Wait no time at all."""
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
        """Have no clock."""

    def unschedule(self, keep: Iterable[str], among: Callable[[str], bool]) -> None:
        """Drop nothing."""


def _plain(value: Any) -> Any:  # noqa: ANN401  plain values stay what they are
    return msgspec.msgpack.decode(as_msgpack(value))
