"""Defer the runs whose stored values this worker can't decrypt.

While PENSTOCK_SECRET_KEY is rotated, another worker may have the key.

A deferred run starts nowhere for a while, longer each time. Without that, this worker is the first
to be free again and would take the same run again and again, before any run that it can decrypt.
The engine stores the number of deferrals, whichever workers they were, and `penstock runs show`
prints it. A worker that starts may have the key, so it releases all deferred runs at once.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable

import structlog

from penstock.db.runs import FullRunRow
from penstock.durable.engine import RunStore
from penstock.logs import LogThrottle

FIRST_DELAY_S, DELAY_FACTOR, MAX_DELAY_S = 1.0, 1.5, 300.0
MAX_EXPONENT = 50  # beyond it the power is too large for a float, and the delay long at its maximum


class KeyDeferral:
    """Defers runs of one worker process."""

    def __init__(
        self, process: str, find: Callable[[str], FullRunRow | None], throttle: LogThrottle
    ) -> None:
        """Take a function that returns the record of a run."""
        self._process = process
        self._find = find
        self._throttle = throttle
        self._logged = False
        self._log = structlog.get_logger("penstock.worker")

    def defer(self, run_store: RunStore, run: str, reason: str) -> None:
        """Defer a run that this process has started.

        Raises DatabaseUnavailable; the run can be deferred later then.
        """
        engine_run = run_store.look([run]).get(run)
        deferrals = engine_run.deferrals if engine_run is not None else 0
        delay = min(MAX_DELAY_S, FIRST_DELAY_S * DELAY_FACTOR ** min(deferrals, MAX_EXPONENT))
        delay *= random.uniform(0.8, 1.2)  # noqa: S311  so that many runs do not return at once
        row = self._find(run)
        begun = row is not None and row.started_at is not None
        if not run_store.defer(run, self._process, delay, deferrals + 1, begun=begun):
            return
        first = not deferrals or not self._logged
        if first and self._throttle.allow(time.monotonic(), doing="run waits for a key"):
            self._logged = True
            self._log.warning("run waits for a worker with its key", run=run, reason=reason)
