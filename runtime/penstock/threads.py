"""Threads that a process depends on: none of them dies or hangs unseen.

**Why.** An exception that nobody catches ends a thread and leaves the process as it is: `/-/health`
says "alive", and the view of access grows old. Threads of the runtime are therefore started here.
An exception that escapes is logged with its cause, and the same thread calls its work again after a
pause: no new thread has to be started, which may be what failed.

**Heartbeats.** Work calls `heartbeat` once a round; a thread that has not done so within its limit
counts as stuck. A wait within a round must be shorter than the limit. Waiting for the database has
time limits of its own (`db/silence.py`), so an outage makes no thread stuck. Threads without a
limit, such as those that run handlers, may take as long as they like. Stuck essential threads fail
`/-/health`.

**Forks.** Threads do not survive a fork, so a child begins with an empty list.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable
from contextlib import suppress

import structlog

FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.5, 30.0  # before work that failed is called again
STEADY_S = 60.0  # after which a failure is no sign of the one before

_running: list[MonitoredThread] = []
_lock = threading.Lock()


class MonitoredThread:
    """A thread that was started here. `join` and `is_alive` are those of `threading.Thread`."""

    def __init__(
        self,
        name: str,
        work: Callable[[MonitoredThread], object],
        *,
        limit: float | None,
        essential: bool,
    ) -> None:
        self.name = name
        self.limit = limit
        self.essential = essential
        self.failures = 0
        self._work = work
        self._beaten_at = time.monotonic()
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self.join = self._thread.join
        self.is_alive = self._thread.is_alive

    @property
    def ident(self) -> int | None:
        """The identifier of the thread, as `threading.get_ident` returns it there."""
        return self._thread.ident

    @property
    def age(self) -> float:
        """Seconds since the last heartbeat."""
        return time.monotonic() - self._beaten_at

    @property
    def stuck(self) -> bool:
        """Whether the last heartbeat is older than the limit."""
        return self.limit is not None and self.age > self.limit

    def heartbeat(self) -> None:
        """Note that a round was completed."""
        self._beaten_at = time.monotonic()

    def start(self) -> None:
        """Start the thread."""
        with _lock:
            _running.append(self)
        self._thread.start()

    def _run(self) -> None:
        pause = FIRST_PAUSE_S
        while True:
            began_at = time.monotonic()
            try:
                self._work(self)
                break
            except BaseException as error:  # noqa: BLE001  whatever it is, the work must go on
                self.failures += 1
                if time.monotonic() - began_at >= STEADY_S:
                    pause = FIRST_PAUSE_S
                # A log that can't be written to must not end it either.
                with suppress(BaseException):
                    self._log(error, pause)
            time.sleep(pause)
            pause = min(pause * 2, LONGEST_PAUSE_S)
        with _lock, suppress(ValueError):  # a fork has emptied the list
            _running.remove(self)

    def _log(self, error: BaseException, pause: float) -> None:
        log = structlog.get_logger("penstock")
        log.error(
            "a thread failed and is started again",
            thread=self.name,
            error=type(error).__name__,
            again_in=pause,
            exc_info=error,
        )


def start(
    name: str,
    work: Callable[[MonitoredThread], object],
    *,
    limit: float | None,
    essential: bool = True,
) -> MonitoredThread:
    """Start a thread that calls `work`, again and again until it returns.

    `limit` is the number of seconds between two heartbeats after which the thread counts as stuck,
    None where there is no such number.
    """
    thread = MonitoredThread(name, work, limit=limit, essential=essential)
    thread.start()
    return thread


def running() -> list[MonitoredThread]:
    """Return the threads of this process that were started here and have not ended, by name."""
    with _lock:
        return sorted(_running, key=lambda thread: thread.name)


def stuck() -> list[MonitoredThread]:
    """Return the essential threads that are stuck."""
    return [thread for thread in running() if thread.essential and thread.stuck]


def _forget() -> None:
    global _lock  # noqa: PLW0603  the parent's may be held by a thread that is not here
    _lock = threading.Lock()
    _running.clear()


os.register_at_fork(after_in_child=_forget)
