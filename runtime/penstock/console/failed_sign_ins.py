"""Failed sign-ins in the audit trail: a bounded sample, so that an attack fills nothing."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress

from penstock import audit
from penstock.access.users import known_name
from penstock.db.engine import Engine
from penstock.db.failures import DatabaseUnavailable

PERIOD_S = 3600.0
MAX_EVENTS = 20  # of a process in this period
UNKNOWN = "an unknown user"


class FailedSignIns:
    """Records failed sign-ins of this process, and counts those beyond the bound.

    What was typed as the name of no user is not recorded: it may be a password.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._moments: deque[float] = deque()
        self._unrecorded = 0

    def note(self, engine: Engine, name: str, address: str, how: str) -> None:
        """Record a failed sign-in, or count it."""
        now = self._clock()
        with self._lock:
            while self._moments and self._moments[0] <= now - PERIOD_S:
                self._moments.popleft()
            if len(self._moments) >= MAX_EVENTS:
                self._unrecorded += 1
                return
            self._moments.append(now)
            unrecorded, self._unrecorded = self._unrecorded, 0
        detail: dict[str, object] = {"address": address, "how": how}
        if unrecorded:
            detail["unrecorded"] = unrecorded
        with suppress(DatabaseUnavailable):  # the log has it too
            subject = known_name(engine, name) or UNKNOWN
            audit.record(engine, "-", audit.Action.USER_SIGN_IN_FAILED, subject, detail)
