"""Give back the runs that a worker has no key for.

While PENSTOCK_SECRET_KEY is rotated, another worker may have it.

A run that is given back begins nowhere for a while, longer each time: without that this worker,
which is the first to be free again, would take it again and again, before any that it has the key
for. The engine remembers how often it was, whichever workers those were, and `penstock runs show`
tells. A worker that starts may have the key: all of them can begin at once then.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable

import structlog

from penstock.db.unit_of_work import Row
from penstock.durable.engine import RunStore
from penstock.logs import LogThrottle

# Seconds in which nobody begins a run that was given back: the first, a factor, and the most.
FIRST, LONGER, LONGEST = 1.0, 1.5, 300.0


class Keyless:
    """What one worker process does with runs that it has no key for."""

    def __init__(
        self, process: str, find: Callable[[str], Row | None], sparing: LogThrottle
    ) -> None:
        """Take what finds the record of a run, and what keeps one reason from filling the log."""
        self._process = process
        self._find = find
        self._sparing = sparing
        self._told = False
        self._log = structlog.get_logger("penstock.worker")

    def give_back(self, ledger: RunStore, run: str, reason: str) -> None:
        """Give a run back that was begun here.

        Raises DatabaseUnavailable; it can be given back again then.
        """
        held = ledger.look([run]).get(run)
        times = held.postponed if held is not None else 0
        pause = min(LONGEST, FIRST * LONGER ** min(times, 50)) * random.uniform(0.8, 1.2)  # noqa: S311  so that many do not come back at the same moment
        row = self._find(run)
        begun = row is not None and row["started_at"] is not None
        if not ledger.postpone(run, self._process, pause, times + 1, begun=begun):
            return
        if (not times or not self._told) and self._sparing.allow(
            time.monotonic(), doing="run waits for a key"
        ):
            self._told = True
            self._log.warning("run waits for a worker with its key", run=run, reason=reason)
