"""Runs that the engine assigns to this process and that no thread performs.

A run becomes an orphan when it could not be started, or when its end could not be written. It goes
back to its queue after a short while. A run that the engine itself can't continue, though the
database answers, is tried `MAX_INTERRUPTIONS` times and then fails.
"""

from __future__ import annotations

import time
from collections.abc import Container

from penstock.db.engine import Engine
from penstock.durable.engine import EngineRun
from penstock.worker.recovery import Recovery
from penstock.worker.started import find_run

ORPHANED_AFTER_S = 3.0
MAX_INTERRUPTIONS = 20


class Orphans:
    """The orphans of one worker process."""

    def __init__(self, engine: Engine, active: Container[str]) -> None:
        """Take the ids of the runs that threads of this process perform."""
        self._engine = engine
        self._active = active
        self._since: dict[str, float] = {}
        self._interruptions: dict[str, int] = {}  # by the engine, without a success in between

    def interrupted(self, run: str) -> None:
        """Count that the engine could not continue a run."""
        self._interruptions[run] = self._interruptions.get(run, 0) + 1

    def completed(self, run: str) -> None:
        """Note that the engine completed a run."""
        self._interruptions.pop(run, None)

    def requeue(self, assigned: list[EngineRun], recovery: Recovery) -> None:
        """Return orphans to their queues; `assigned` are the runs of this process.

        Raises DatabaseUnavailable.
        """
        now, before = time.monotonic(), self._since
        orphans = [item for item in assigned if item.run not in self._active]
        self._since = {item.run: before.get(item.run, now) for item in orphans}
        for item in orphans:
            if now - self._since[item.run] > ORPHANED_AFTER_S:
                del self._since[item.run]
                self._requeue(item, recovery)
        self._interruptions = {
            run: number
            for run, number in self._interruptions.items()
            if run in self._active or run in before or run in self._since
        }

    def _requeue(self, item: EngineRun, recovery: Recovery) -> None:
        number = self._interruptions.get(item.run)
        if number is None:
            recovery.retry(item)
        elif number < MAX_INTERRUPTIONS or (row := find_run(self._engine, item.run)) is None:
            recovery.requeue(item)
        else:
            del self._interruptions[item.run]
            recovery.fail(
                item,
                row,
                "not-kept",
                f"The engine could not continue it, {number} times; the log of its worker says"
                " why.",
            )
