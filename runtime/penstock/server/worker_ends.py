"""How web workers end: the reason of each end, and when the next worker may start.

gunicorn starts a new worker at once for each that ended, for any reason. Plugin code that ends
its process would so be started many times a second, and no call would be answered. gunicorn also
ends the whole server when a worker ends with exit code 3 or 4, which any plugin code can do.

Here, a worker that ends early is a failure. The pauses between starts grow with each failure in
succession. A server of which no worker has ever answered calls ends after MAX_FAILED_STARTS.
"""

from __future__ import annotations

import os
import signal
import time
from contextlib import suppress
from typing import Any

import structlog
from gunicorn.errors import HaltServer

from penstock.errors import CannotStart
from penstock.plugins.progress import LoadingNote
from penstock.server.arbiter_state import ArbiterState
from penstock.server.end_reasons import end_reason

FIRST_PAUSE_S, MAX_PAUSE_S = 1.0, 30.0
STEADY_S = 10.0  # a worker that ends later did not fail to start
MAX_FAILED_STARTS = 5  # in succession, before any worker answers calls
_log = structlog.get_logger("penstock")


class StartPacer:
    """Decides when the next worker may start. All times are `time.monotonic()` readings."""

    def __init__(self) -> None:
        self.failures = 0  # in succession
        self._resume_at = 0.0
        self._counted_at = float("-inf")

    def may_start(self, now: float) -> bool:
        """Return whether a worker may start now."""
        return now >= self._resume_at

    def count_end(self, began_at: float, now: float, *, ready: bool) -> float:
        """Count the end of a worker, and return the pause before the next start in seconds.

        Of workers that were started together, one counts. A worker that was `ready` may fail once
        without a pause: a call can end a worker.
        """
        if ready and now - began_at >= STEADY_S:
            if began_at > self._counted_at:
                self.failures = 0
        elif began_at > self._counted_at:
            self._counted_at = now
            self.failures += 1
            pauses = self.failures - 1 if ready else self.failures
            pause = min(FIRST_PAUSE_S * 2 ** (pauses - 1), MAX_PAUSE_S) if pauses else 0.0
            self._resume_at = now + pause
        return max(0.0, self._resume_at - now)

    def count_steady(self, began_at: float, now: float) -> None:
        """End a succession of failures, if a worker started after them lives long enough."""
        if began_at > self._counted_at and now - began_at >= STEADY_S:
            self.failures = 0

    def reset(self) -> None:
        """Forget all failures: new plugins are about to be started."""
        self.__init__()  # type: ignore[misc]  # the state of the beginning


def prepare(worker: Any) -> None:  # noqa: ANN401  gunicorn ships no types
    """Give a worker what its end is judged by, before it is forked."""
    worker.began_at = time.monotonic()
    worker.loading_note = LoadingNote()
    worker.stopped = False


class WorkerEnds:
    """Replaces how an arbiter collects its children and starts new ones."""

    def __init__(self, server: Any, state: ArbiterState) -> None:  # noqa: ANN401  as above
        self._server = server
        self._state = state
        self._was_ready = False  # any worker, ever
        self.pacer = StartPacer()

    def may_start(self) -> bool:
        """Return whether a worker may start now."""
        now = time.monotonic()
        for pid, worker in self._server.WORKERS.items():
            if pid in self._state.ready:
                self.pacer.count_steady(worker.began_at, now)
        return self.pacer.may_start(now)

    def note_kill(self, pid: int, number: int) -> None:
        """Note that the arbiter stops a worker, whose end is then no failure."""
        worker = self._server.WORKERS.get(pid)
        if worker is not None and number != signal.SIGABRT and not worker.aborted:
            worker.stopped = True  # gunicorn aborts a worker that hangs, and then kills it

    def reap_workers(self) -> None:
        """Collect all children that ended, and log the reason of each. Raises HaltServer."""
        server = self._server
        with suppress(ChildProcessError):
            while (ended := os.waitpid(-1, os.WNOHANG))[0]:
                pid, status = ended
                if pid == server.reexec_pid:
                    server.reexec_pid = 0
                elif pid == getattr(server, "dirty_arbiter_pid", 0):
                    server.handle_dirty_arbiter_exit(pid, status)
                elif (worker := server.WORKERS.pop(pid, None)) is not None:
                    self._end(worker, pid, os.waitstatus_to_exitcode(status))

    def _end(self, worker: Any, pid: int, code: int) -> None:  # noqa: ANN401  as above
        state, server, now = self._state, self._server, time.monotonic()
        state.collect_ready()
        ready = pid in state.ready
        state.ready.discard(pid)
        self._was_ready |= ready
        reason = end_reason(code, worker.loading_note.read(), ready=ready)
        worker.loading_note.close()
        worker.tmp.close()
        server.cfg.child_exit(server, worker)
        expected = worker.stopped or (ready and not code and server.cfg.max_requests)
        if expected or state.is_stopping():
            _log.info("web worker ended", worker=pid, reason=reason)
            return
        pause = self.pacer.count_end(worker.began_at, now, ready=ready)
        _log.error("web worker ended", worker=pid, reason=reason, next_start_s=round(pause, 1))
        if not self._was_ready and self.pacer.failures == MAX_FAILED_STARTS:
            self.pacer.reset()  # the other workers end now, and must not raise again
            raise HaltServer(
                f"{MAX_FAILED_STARTS} starts in succession failed, the last by {reason}",
                CannotStart.exit_code,
            )
