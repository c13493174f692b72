"""Say whether accepted runs have a worker: one that is alive and has their pipeline."""

from __future__ import annotations

import time
from collections.abc import Iterable

from penstock import metrics
from penstock.db import durable_runs, processes
from penstock.db.engine import Engine, reading
from penstock.db.run_tables import ProcessRow
from penstock.runs.ids import millis_of

PAUSE = 5.0  # seconds between two looks
# The same of a process that answers calls: it gives one every fifteen seconds.
SILENT_SERVING = 45.0
# Seconds without a sign of life, and a worker does not count; it gives one each second.
SILENT = 10.0
NAMED = 3  # pipelines in a line


class Attendance:
    """What a process that answers calls knows of the workers of its environment.

    It looks now and then, and asks nothing in between.
    """

    def __init__(self) -> None:
        self._looked = float("-inf")
        # Processes for durable runs that are alive; None: not known.
        self.workers: int | None = None
        self._known: set[str] = set()
        self.processes: list[ProcessRow] = []  # of this environment that are alive, on all hosts
        self.waiting: dict[str, int] = {}
        self.unattended: dict[str, int] = {}
        # When the oldest of these runs was accepted, in seconds since the epoch.
        self.waiting_since: float | None = None
        self.unattended_since: float | None = None

    def look(self, engine: Engine, environment_id: int) -> None:
        """Count waiting runs and living workers, if the last look was long enough ago.

        Raises DatabaseUnavailable.
        """
        now = time.monotonic()
        if now - self._looked < PAUSE:
            return
        self._looked = now
        with reading(engine) as connection:
            waiting = durable_runs.backlogs(connection, environment_id)
            self.processes = processes.alive(connection, environment_id, silent=SILENT_SERVING)
            workers = [
                row
                for row in processes.alive(connection, environment_id, silent=SILENT)
                if row.kind == "worker"
            ]
        performed = {
            pipeline
            for row in workers
            for pipeline in (waiting if row.pipelines is None else row.pipelines)
        }
        number = self.workers = len(workers)
        self.waiting = {pipeline: number for pipeline, (number, _) in waiting.items()}
        self.unattended = {
            pipeline: number
            for pipeline, number in self.waiting.items()
            if pipeline not in performed
        }
        self.waiting_since = _since(oldest for _, oldest in waiting.values())
        self.unattended_since = _since(waiting[pipeline][1] for pipeline in self.unattended)
        self._put(number)

    def _put(self, workers: int) -> None:
        """Have the metrics say it."""
        self._known |= set(self.waiting)
        metrics.set_gauge("penstock_workers", workers)
        metrics.set_gauge("penstock_runs_waiting_age_seconds", self.waiting_since or 0)
        metrics.set_gauge("penstock_runs_unattended_age_seconds", self.unattended_since or 0)
        for pipeline in self._known:
            metrics.set_gauge("penstock_runs_waiting", self.waiting.get(pipeline, 0), pipeline)
            metrics.set_gauge(
                "penstock_runs_unattended", self.unattended.get(pipeline, 0), pipeline
            )

    def told(self) -> str:
        """Return in a few words whether accepted runs have a worker."""
        if not self.unattended:
            return "ok"
        names = sorted(self.unattended)
        more = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
        return (
            f"no worker is alive for {sum(self.unattended.values())} accepted runs of"
            f" {', '.join(names[:NAMED])}{more}"
        )


def _since(runs: Iterable[str]) -> float | None:
    """Return when the oldest of some runs was accepted, in seconds since the epoch."""
    oldest = min(runs, default=None)
    return None if oldest is None else millis_of(oldest) / 1000
