"""Say whether accepted runs have a worker: one that is alive and has their pipeline."""

from __future__ import annotations

import time

from penstock import metrics
from penstock.db import runs as stored
from penstock.db.engine import Engine, reading

PAUSE = 5.0  # seconds between two looks
SILENT = 10.0  # seconds without a sign of life, and a worker does not count; it gives one each second
NAMED = 3  # pipelines in a line


class Attendance:
    """What a process that answers calls knows of the workers of its environment. It looks now and then, and asks nothing in between."""

    def __init__(self) -> None:
        self._looked = float("-inf")
        self._known: set[str] = set()
        self.unattended: dict[str, int] = {}

    def look(self, engine: Engine, environment_id: int) -> None:
        """Count waiting runs and living workers, if the last look was long enough ago. Raises DatabaseAway."""
        now = time.monotonic()
        if now - self._looked < PAUSE:
            return
        self._looked = now
        with reading(engine) as connection:
            waiting = stored.waiting_by_pipeline(connection, environment_id)
            workers = [row for row in stored.alive(connection, environment_id, silent=SILENT) if row["kind"] == "worker"]
        performed = {pipeline for row in workers for pipeline in (waiting if row["pipelines"] is None else row["pipelines"])}
        self.unattended = {pipeline: number for pipeline, number in waiting.items() if pipeline not in performed}
        self._known |= set(waiting)
        metrics.workers(len(workers))
        for pipeline in self._known:
            metrics.waiting(pipeline, waiting.get(pipeline, 0), self.unattended.get(pipeline, 0))

    def told(self) -> str:
        """Return in a few words whether accepted runs have a worker."""
        if not self.unattended:
            return "ok"
        names = sorted(self.unattended)
        more = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
        return f"no worker is alive for {sum(self.unattended.values())} accepted runs of {', '.join(names[:NAMED])}{more}"
