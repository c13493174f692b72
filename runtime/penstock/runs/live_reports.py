"""What durable runs report while they run: their progress, and the steps that are running.

Any thread may report; the thread that writes records takes the reports. The last one of a run
counts, so that many short steps cost one write.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from penstock.db import durable_runs
from penstock.db.engine import Connection
from penstock.runs.running_steps import RunningSteps

Progress = dict[str, object]


@dataclass(frozen=True, slots=True)
class Reports:
    """The last reports of runs, by run; running steps as the database stores them."""

    progress: Mapping[str, Progress] = field(default_factory=dict)
    steps: Mapping[str, tuple[RunningSteps, bytes | None]] = field(default_factory=dict)

    def __bool__(self) -> bool:
        return bool(self.progress or self.steps)

    def each(self) -> Iterator[tuple[str, Reports]]:
        """Yield each report alone, with its run."""
        for run, progress in self.progress.items():
            yield run, Reports({run: progress})
        for run, steps in self.steps.items():
            yield run, Reports(steps={run: steps})

    def store(self, connection: Connection) -> None:
        """Write the reports, as part of a transaction."""
        if self.progress:
            durable_runs.progress(connection, self.progress.items())
        if self.steps:
            encoded = [(run, steps) for run, (_, steps) in self.steps.items()]
            durable_runs.write_running_steps(connection, encoded)


NO_REPORTS = Reports()


class LiveReports:
    """The reports that wait to be written."""

    def __init__(self) -> None:
        self._progress: dict[str, Progress] = {}
        self._steps: dict[str, RunningSteps] = {}
        self._lock = threading.Lock()

    def note_progress(self, run: str, progress: Progress) -> None:
        """Note the progress of a run."""
        with self._lock:
            self._progress[run] = progress

    def note_steps(self, run: str, running: RunningSteps) -> None:
        """Note that the running steps of a run have changed."""
        with self._lock:
            self._steps[run] = running

    def take(self) -> Reports:
        """Return the reports that wait, without steps that the database has like that."""
        with self._lock:
            progress, self._progress = self._progress, {}
            changed, self._steps = self._steps, {}
        steps = {run: (running, running.snapshot()) for run, running in changed.items()}
        return Reports(
            progress,
            {run: pair for run, pair in steps.items() if pair[1] != pair[0].written},
        )

    def put_back(self, reports: Reports) -> None:
        """Let reports wait again that could not be written; later ones count."""
        with self._lock:
            self._progress = {**reports.progress, **self._progress}
            self._steps = {run: pair[0] for run, pair in reports.steps.items()} | self._steps

    def written(self, reports: Reports) -> None:
        """Note that reports were written."""
        for running, steps in reports.steps.values():
            running.written = steps
