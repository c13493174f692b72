"""The interface of the engine that stores and performs durable runs."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any

from penstock.db.engine import Connection

Document = dict[str, Any]  # plain values and bytes; the engine stores it encrypted


class Undecryptable(Exception):
    """Takes the place of a stored value that this process has no key for; the text says so.

    It is an exception because it may take the place of a stored exception.
    """


Perform = Callable[[str, Document | Undecryptable], Document]
Tick = Callable[[Mapping[str, Any], datetime], None]


class State(StrEnum):
    """The state of a run in the engine."""

    WAITING = "waiting"
    RUNNING = "running"
    DONE = "done"
    CANCELLED = "cancelled"
    BROKEN = "broken"  # by a fault of the engine or the runtime, not of the pipeline

    @property
    def over(self) -> bool:
        """Whether the state is final."""
        return self not in {State.WAITING, State.RUNNING}


@dataclass(frozen=True, slots=True)
class EngineRun:
    """A run as the engine stores it. Moments are in seconds since the epoch.

    `outcome` is the document that `perform` returned. `holder` is the worker process that started
    the run last, empty where that is not known. `undecryptable` says why this process can't decrypt
    the outcome, and is empty where it can. `deferrals` counts the workers that had no key for it.
    """

    run: str
    state: State
    queue: str
    outcome: Document | None = None
    error: str = ""
    started_at: float | None = None
    ended_at: float | None = None
    holder: str = ""
    undecryptable: str = ""
    deferrals: int = 0


@dataclass(frozen=True, slots=True)
class EngineStep:
    """A finished step and its stored output. Moments are in seconds since the epoch."""

    number: int
    name: str
    output: object
    started_at: float
    ended_at: float


@dataclass(frozen=True, slots=True)
class Queue:
    """A queue of one pipeline's runs.

    `concurrency` is the maximum of running runs over all processes, 0 for no limit. A `patient`
    queue is polled once a second, which costs fewer queries.
    """

    name: str
    concurrency: int = 0
    patient: bool = False


class RunStore(ABC):
    """Reads and changes stored runs, from any process.

    All methods raise DatabaseUnavailable.
    """

    @abstractmethod
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
        """Add a run to a queue, as part of the caller's transaction.

        It starts after `delay` seconds at the earliest, and is cancelled `timeout` seconds after
        its start. A lower `priority` starts first.
        """

    @abstractmethod
    def look(self, runs: Sequence[str], *, outcomes: bool = False) -> dict[str, EngineRun]:
        """Return runs by id, with their outcomes on request; unknown ids are left out."""

    @abstractmethod
    def document(self, run: str) -> Document | None:
        """Return the input of a run, None for an unknown run. Raises UnknownKey."""

    @abstractmethod
    def steps(self, run: str) -> list[EngineStep]:
        """Return the finished steps of a run, in order."""

    @abstractmethod
    def cancel(self, runs: Iterable[str]) -> None:
        """Cancel runs: a queued run does not start, a running one ends at its next step."""

    @abstractmethod
    def requeue(self, run: str, holder: str, queue: str) -> bool:
        """Take a run from a worker process and return it to a queue.

        Return False where that process does not have it any more, so that a late call takes nothing
        from the worker that has the run by now.
        """

    @abstractmethod
    def defer(self, run: str, holder: str, seconds: float, times: int, *, begun: bool) -> bool:
        """Take a run from a worker process that has no key for it; start it nowhere meanwhile.

        Return False as `requeue` does. `times` is the number of deferrals to store. The deadline of
        a run that has not `begun` is counted from its start.
        """

    @abstractmethod
    def release_deferred(self) -> None:
        """Let all deferred runs start now."""

    @abstractmethod
    def fork(self, run: str, new: str, step: int, queue: str) -> None:
        """Start a run anew under another id, with the outputs of the steps before `step`."""

    @abstractmethod
    def held_by(self, process: str) -> list[EngineRun]:
        """Return the running runs of a worker process."""

    @abstractmethod
    def under_way(self) -> list[EngineRun]:
        """Return the running runs of all worker processes."""

    @abstractmethod
    def delete(self, runs: Sequence[str]) -> None:
        """Delete finished runs."""

    @abstractmethod
    def last_ticks(self) -> dict[str, datetime]:
        """Return the last tick of each schedule that a worker took, by the schedule's name."""

    @abstractmethod
    def delete_ticks(self, since: float, before: float) -> int:
        """Delete some ticks of schedules between two moments, and return their number.

        The moments are in seconds since the epoch. Schedules whose ticks no worker took are deleted
        too.
        """

    @abstractmethod
    def close(self) -> None:
        """Close all connections."""


class RunExecutor(ABC):
    """Performs runs; there is one in a worker process."""

    @abstractmethod
    def open(
        self, process: str, queues: Iterable[Queue], perform: Perform, tick: Tick, *, at_once: int
    ) -> None:
        """Start to perform runs of these queues, at most `at_once` of each, as `process`.

        Raises CannotStart.
        """

    @abstractmethod
    def close(self, seconds: float) -> None:
        """Take no more runs, and wait up to some seconds for those that are running."""

    @abstractmethod
    def run_step(self, name: str, work: Callable[[], object]) -> object:
        """Return the output of a step: run it, or read what it returned before a recovery.

        Raises Interrupted.
        """

    @abstractmethod
    def reserve_step(self, name: str) -> Callable[[Callable[[], object]], object]:
        """Reserve the number of a step; the result runs it later, in any thread of the run."""

    @abstractmethod
    def step_number(self) -> int:
        """Return the number of the step that runs in this thread, 0 outside of one."""

    @abstractmethod
    def seconds_until(self, until: float) -> float:
        """Return the seconds to wait until a moment, which is in seconds since the epoch."""

    @abstractmethod
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
        """Declare a schedule: one process of the queue calls `tick` for each tick.

        With `make_up`, it is also called for the last tick that was missed.
        """

    @abstractmethod
    def unschedule(self, keep: Iterable[str], among: Callable[[str], bool]) -> None:
        """Delete the schedules for whose names `among` is true, except those in `keep`."""
