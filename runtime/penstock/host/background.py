"""Log the errors of background threads, which nothing may end."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import structlog

from penstock.logs import LogThrottle


class BackgroundErrors:
    """Catches and logs every error of background work; one that repeats is logged rarely."""

    def __init__(self, throttle: LogThrottle) -> None:
        self._throttle = throttle
        self._log = structlog.get_logger("penstock")

    @contextmanager
    def logged(self, doing: str) -> Iterator[None]:
        """Catch and log any error of the block. `doing` names the work."""
        try:
            yield
        except BaseException as error:  # noqa: BLE001  nothing may end the thread
            kind = type(error).__name__
            with suppress(BaseException):  # a log that can't be written to must not end it either
                if self._throttle.allow(time.monotonic(), doing=doing, error=kind):
                    self._log.exception("background work failed", doing=doing, error=kind)
