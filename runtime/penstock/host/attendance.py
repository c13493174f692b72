"""Whether accepted runs have a worker: one that is alive and has their pipeline."""

from __future__ import annotations

import time
from collections.abc import Iterable

from penstock import metrics
from penstock.db import durable_runs, processes
from penstock.db.engine import Engine, reading
from penstock.db.run_tables import ProcessRow
from penstock.runs.ids import millis_of

CHECK_INTERVAL_S = 5.0
# Without a heartbeat for so long a process counts as gone. A process that answers calls sends one
# every fifteen seconds, a worker each second.
SERVING_TIMEOUT_S, WORKER_TIMEOUT_S = 45.0, 10.0
MAX_NAMED = 3  # pipelines in a line


class Attendance:
    """What a process that answers calls knows of the processes and workers of its environment.

    The follower's thread checks now and then; others read without asking the database.
    """

    def __init__(self) -> None:
        self._checked_at = float("-inf")
        # Processes for durable runs that are alive; None: not known.
        self.workers: int | None = None
        self._pipelines: set[str] = set()  # with a gauge
        self.processes: list[ProcessRow] = []  # of this environment that are alive, on all hosts
        self.waiting: dict[str, int] = {}
        self.unattended: dict[str, int] = {}
        # When the oldest of these runs was accepted, in seconds since the epoch.
        self.waiting_since: float | None = None
        self.unattended_since: float | None = None

    def check(self, engine: Engine, environment_id: int) -> None:
        """Count waiting runs and living workers, if the last check was long enough ago.

        Raises DatabaseUnavailable.
        """
        now = time.monotonic()
        if now - self._checked_at < CHECK_INTERVAL_S:
            return
        self._checked_at = now
        with reading(engine) as connection:
            waiting = durable_runs.backlogs(connection, environment_id)
            self.processes = processes.alive(connection, environment_id, silent=SERVING_TIMEOUT_S)
            workers = [
                row
                for row in processes.alive(connection, environment_id, silent=WORKER_TIMEOUT_S)
                if row.kind == "worker"
            ]
        attended = {
            pipeline
            for row in workers
            for pipeline in (waiting if row.pipelines is None else row.pipelines)
        }
        self.workers = len(workers)
        self.waiting = {pipeline: number for pipeline, (number, _) in waiting.items()}
        unattended = {
            pipeline: number
            for pipeline, number in self.waiting.items()
            if pipeline not in attended
        }
        self.waiting_since = _since(oldest for _, oldest in waiting.values())
        self.unattended_since = _since(waiting[pipeline][1] for pipeline in unattended)
        self._set_gauges(len(workers), unattended)
        self.unattended = unattended

    def _set_gauges(self, workers: int, unattended: dict[str, int]) -> None:
        """Set the gauges, to 0 for pipelines whose runs do not wait any more."""
        self._pipelines |= set(self.waiting)
        metrics.set_gauge("penstock_workers", workers)
        metrics.set_gauge("penstock_runs_waiting_age_seconds", self.waiting_since or 0)
        metrics.set_gauge("penstock_runs_unattended_age_seconds", self.unattended_since or 0)
        for pipeline in self._pipelines:
            metrics.set_gauge("penstock_runs_waiting", self.waiting.get(pipeline, 0), pipeline)
            metrics.set_gauge("penstock_runs_unattended", unattended.get(pipeline, 0), pipeline)

    def summary(self) -> str:
        """Return in a few words whether accepted runs have a worker."""
        if not self.unattended:
            return "ok"
        names = sorted(self.unattended)
        more = f" and {len(names) - MAX_NAMED} more" if len(names) > MAX_NAMED else ""
        return (
            f"no worker is alive for {sum(self.unattended.values())} accepted runs of"
            f" {', '.join(names[:MAX_NAMED])}{more}"
        )


def _since(runs: Iterable[str]) -> float | None:
    """Return when the oldest of some runs was accepted, in seconds since the epoch."""
    oldest = min(runs, default=None)
    return None if oldest is None else millis_of(oldest) / 1000
