"""Threads that a process depends on. An exception does not end them, and a hang is visible.

**Why.** An uncaught exception ends a thread and leaves its process alive: `/-/health` still answers
"alive", while the view of access becomes stale. Threads of the runtime are therefore started here.
An exception is logged, and the same thread calls its work again after a pause. No new thread is
started, because that may be what failed.

**Heartbeats.** Work calls `heartbeat` in each round. A thread without a heartbeat for longer than
its limit is *stuck*; an essential stuck thread fails `/-/health`. Waits within a round must be
shorter than the limit. Queries have time limits of their own (db/liveness.py), so an outage of the
database makes no thread stuck. A thread without a limit, such as one that calls handlers, may take
as long as it needs.

**Forks.** Threads do not survive a fork, so a child process starts with an empty list.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable
from contextlib import suppress

import structlog

FIRST_PAUSE_S, MAX_PAUSE_S = 0.5, 30.0  # before work that failed is called again
STEADY_S = 60.0  # work that ran longer is called again after the first pause

_running: list[MonitoredThread] = []
_lock = threading.Lock()


class MonitoredThread:
    """A thread that `start` created. `join` and `is_alive` are those of `threading.Thread`."""

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
        self._heartbeat_at = time.monotonic()
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
        return time.monotonic() - self._heartbeat_at

    @property
    def stuck(self) -> bool:
        """Whether the last heartbeat is older than the limit."""
        return self.limit is not None and self.age > self.limit

    def heartbeat(self) -> None:
        """Record that the work completed a round."""
        self._heartbeat_at = time.monotonic()

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
            except BaseException as error:  # noqa: BLE001  the work must continue after any exception
                self.failures += 1
                if time.monotonic() - began_at >= STEADY_S:
                    pause = FIRST_PAUSE_S
                # A failure of the log must not end the thread either.
                with suppress(BaseException):
                    self._log(error, pause)
            time.sleep(pause)
            pause = min(pause * 2, MAX_PAUSE_S)
        with _lock, suppress(ValueError):  # a fork has emptied the list
            _running.remove(self)

    def _log(self, error: BaseException, pause: float) -> None:
        log = structlog.get_logger("penstock")
        log.error(
            "a thread failed and restarts",
            thread=self.name,
            error=type(error).__name__,
            retry_in=pause,
            exc_info=error,
        )


def start(
    name: str,
    work: Callable[[MonitoredThread], object],
    *,
    limit: float | None,
    essential: bool = True,
) -> MonitoredThread:
    """Start a thread that calls `work` again until it returns without an exception.

    `limit` is the number of seconds without a heartbeat after which the thread is stuck, or None.
    """
    thread = MonitoredThread(name, work, limit=limit, essential=essential)
    thread.start()
    return thread


def running() -> list[MonitoredThread]:
    """Return the running threads that this process started here, sorted by name."""
    with _lock:
        return sorted(_running, key=lambda thread: thread.name)


def stuck() -> list[MonitoredThread]:
    """Return the essential threads that are stuck."""
    return [thread for thread in running() if thread.essential and thread.stuck]


def _reset() -> None:
    global _lock  # noqa: PLW0603  a thread of the parent, absent in the child, may hold the lock
    _lock = threading.Lock()
    _running.clear()


os.register_at_fork(after_in_child=_reset)
