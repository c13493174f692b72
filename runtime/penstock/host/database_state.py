"""Whether the database answers this process: since when it does, or since when it does not.

The follower, the housekeeping and the thread that watches them all write here. Each attribute is
one assignment, so a reader may see the state between two of them; pages and checks can bear that.
"""

from __future__ import annotations

import time

import structlog

AWAY = "database away"


class DatabaseState:
    """The state of the connection to the database, as the threads of this process last saw it."""

    def __init__(self, max_staleness: float) -> None:
        self.trouble: str | None = None  # why changes can't be followed; None: they are
        # When the database last answered; a `time.monotonic()` reading.
        self.answered_at = float("-inf")
        self.up_since: float | None = None  # `time.monotonic()`; None: it does not answer
        self.away_since: float | None = None  # seconds since the epoch
        self._max_staleness = max_staleness
        self._log = structlog.get_logger("penstock")

    @property
    def away(self) -> bool:
        """Whether the database does not answer."""
        return self.trouble == AWAY

    def answered(self) -> None:
        """Note that the database has answered."""
        self.answered_at = time.monotonic()
        self.up_since, self.away_since = self.up_since or self.answered_at, None

    def lost(self, error: str, since: float | None = None) -> None:
        """Note that the database does not answer; log it once an outage.

        `since` is in seconds since the epoch; None: from now on.
        """
        if self.away:
            return
        self.trouble, self.up_since, self.away_since = AWAY, None, since or time.time()
        self._log.error(AWAY, error=error, max_staleness=self._max_staleness)

    def recovered(self) -> bool:
        """Note that changes are followed. Return whether they were not before; log it then."""
        before, away_since = self.trouble, self.away_since
        self.trouble = None
        self.answered()
        if before is None:
            return False
        away_s = round(time.time() - away_since, 1) if away_since is not None else None
        self._log.info("database back", away_s=away_s)
        return True
