"""What holds durable runs: one small interface, so that nothing else knows which engine that is."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any

from penstock.db.engine import Connection

Document = dict[str, Any]  # plain values, bytes among them; the engine keeps it sealed


class Undecryptable(Exception):
    """Stands for what the engine holds and this process has no key for; the text says so.

    An exception, for it may stand for one.
    """


Perform = Callable[[str, Document | Undecryptable], Document]
Tick = Callable[[Mapping[str, Any], datetime], None]


class State(StrEnum):
    """How far the engine is with a run."""

    WAITING = "waiting"
    RUNNING = "running"
    DONE = "done"
    CANCELLED = "cancelled"
    BROKEN = "broken"  # by a fault of the engine or ours, not of its pipeline

    @property
    def over(self) -> bool:
        """Whether nothing more will happen."""
        return self not in {State.WAITING, State.RUNNING}


@dataclass(frozen=True, slots=True)
class EngineRun:
    """A run that the engine holds.

    `outcome` is what its performance returned; moments are in seconds since the epoch.

    `holder` is the worker process that began it last, where the engine knows it. `unopened` says
    that there is an outcome which this process has no key for, and `postponed` how often a worker
    gave the run back because it had none.
    """

    run: str
    state: State
    queue: str
    outcome: Document | None = None
    error: str = ""
    started_at: float | None = None
    ended_at: float | None = None
    holder: str = ""
    unopened: str = ""
    postponed: int = 0


@dataclass(frozen=True, slots=True)
class EngineStep:
    """A step that is done.

    Its number, its name, what it left, and when it ended, in seconds since the epoch.
    """

    number: int
    name: str
    left: object
    started_at: float
    ended_at: float


@dataclass(frozen=True, slots=True)
class Queue:
    """Where runs of a pipeline wait.

    `concurrency` is how many run at a time over all processes, 0 for no limit.

    Those of a `patient` queue can wait a second before they begin.
    """

    name: str
    concurrency: int = 0
    patient: bool = False


class RunStore(ABC):
    """What any process may ask of the engine.

    All of it raises DatabaseUnavailable where the database can't be reached.
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
        """Hold a run that waits, as part of the caller's transaction.

        It begins when the delay, in seconds, is over.
        """

    @abstractmethod
    def look(self, runs: Sequence[str], *, outcomes: bool = False) -> dict[str, EngineRun]:
        """Return what is known of runs, by id."""

    @abstractmethod
    def document(self, run: str) -> Document | None:
        """Return what a run was given. Raises UnknownKey."""

    @abstractmethod
    def steps(self, run: str) -> list[EngineStep]:
        """Return the steps that a run has done, in order."""

    @abstractmethod
    def cancel(self, runs: Iterable[str]) -> None:
        """End runs: none that waits begins, and one that runs ends at its next step."""

    @abstractmethod
    def requeue(self, run: str, holder: str, queue: str) -> bool:
        """Take a run from a worker process and let it go on elsewhere.

        Return False where that process has it no more.

        Who asks late, by what it knew before, takes nothing from the worker that has the run by
        now.
        """

    @abstractmethod
    def postpone(self, run: str, holder: str, seconds: float, times: int, *, begun: bool) -> bool:
        """Take a run from a worker process that has no key for it.

        No worker begins it for some seconds. Return False as `requeue` does.

        `times` is how often that was. The time of a run that was not `begun` yet does not pass.
        """

    @abstractmethod
    def hasten(self) -> None:
        """Let all that was postponed begin now."""

    @abstractmethod
    def fork(self, run: str, new: str, step: int, queue: str) -> None:
        """Start a run again under a new id, with what it did before a step."""

    @abstractmethod
    def held_by(self, process: str) -> list[EngineRun]:
        """Return the runs that a worker process has begun and not ended."""

    @abstractmethod
    def under_way(self) -> list[EngineRun]:
        """Return the runs that any worker process has begun and not ended."""

    @abstractmethod
    def forget(self, runs: Sequence[str]) -> None:
        """Delete runs that are over."""

    @abstractmethod
    def fired(self) -> dict[str, datetime]:
        """Return each schedule's last tick while a worker was there for it, by its name."""

    @abstractmethod
    def forget_ticks(self, since: float, before: float) -> int:
        """Delete ticks of schedules between two moments, a few at a time. Return how many.

        The moments are in seconds since the epoch.

        The schedules of ticks that nobody took go too.
        """

    @abstractmethod
    def close(self) -> None:
        """Let go of connections."""


class RunExecutor(ABC):
    """Where runs are performed: one in a worker process."""

    @abstractmethod
    def open(
        self, process: str, queues: Iterable[Queue], perform: Perform, tick: Tick, *, at_once: int
    ) -> None:
        """Take runs from queues from now on, so many of each at once, under this process's name.

        Raises CannotStart.
        """

    @abstractmethod
    def close(self, seconds: float) -> None:
        """Take no more runs, and wait so long for those that are under way."""

    @abstractmethod
    def once(self, name: str, work: Callable[[], object]) -> object:
        """Return what a step leaves: done now, or before the run was taken up again.

        Raises Interrupted.
        """

    @abstractmethod
    def later(self, name: str) -> Callable[[Callable[[], object]], object]:
        """Take a step's turn now, and return what does it later, in any thread of the run."""

    @abstractmethod
    def pause(self, until: float) -> float:
        """Return the seconds to wait until a moment, in seconds since the epoch."""

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
        """Have `tick` called once for each tick of a schedule.

        A process that takes from the queue calls it. With `make_up`, also for the last tick that
        was missed.
        """

    @abstractmethod
    def unschedule(self, keep: Iterable[str], among: Callable[[str], bool]) -> None:
        """Drop the schedules that are not to be kept, of those that a test is true of."""
