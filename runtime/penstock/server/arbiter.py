"""What Penstock changes about gunicorn's arbiter: it rehearses starts, and drains before it stops.

gunicorn has no hooks for these moments, so methods of the arbiter object are replaced on that one
object, in `adapt`. All of this runs in the arbiter's main loop, which has one thread.
"""

from __future__ import annotations

import signal
import time
from collections.abc import Callable
from contextlib import suppress
from types import FrameType
from typing import Any

from penstock import metrics
from penstock.plugins.guard import LONGEST_LOAD_S
from penstock.server.arbiter_state import ArbiterState
from penstock.server.rehearsal import CHECK_INTERVAL_S, RETRYABLE, Outcome, rehearse

# Between two attempts to start while the database is away.
FIRST_PAUSE_S, MAX_PAUSE_S = 0.5, 15.0


class _Stopping(Exception):
    """Ends a reload early: this server is about to stop."""


def adapt(server: Any, state: ArbiterState) -> None:  # noqa: ANN401  gunicorn ships no types
    """Have the arbiter rehearse reloads, drain before it stops, and refresh its view of access."""
    reload, handle_signal, stop = server.reload, server.signal, server.stop
    manage_workers, murder_workers = server.manage_workers, server.murder_workers

    def note_signal(number: int, frame: FrameType | None) -> None:
        state.note_signal(number)
        handle_signal(number, frame)

    def rehearsed_reload() -> None:
        server.log.debug("reload: reading the access data and rehearsing a start")
        state.view.read()
        rehearsal = rehearse(server, state)
        if rehearsal.outcome is Outcome.GOOD:
            server.log.debug("reload: the rehearsal succeeded; starting new workers")
            _replace_workers(server, state, reload)
        else:
            server.log.error("not reloaded: the workers keep their current plugins and settings")
            metrics.record_rejected_reload(rehearsal.reason)

    def murder_and_refresh() -> None:
        murder_workers()
        state.view.refresh()

    def drain_and_stop(graceful: bool = True) -> None:
        if graceful:
            _drain(server, state)
        stop(graceful)

    def manage_unless_stopping() -> None:
        # While this server drains within a reload, only the old workers may answer calls.
        if not state.is_stopping():
            manage_workers()

    server.reload, server.signal, server.stop = rehearsed_reload, note_signal, drain_and_stop
    server.manage_workers, server.murder_workers = manage_unless_stopping, murder_and_refresh


def rehearse_start(server: Any, state: ArbiterState) -> bool:  # noqa: ANN401  as above
    """Return whether the server can start. Rehearse until that is certain.

    While the database is away, the rehearsal is repeated: the start then succeeds without an
    operator. A signal to stop ends this process; a signal to reload has no meaning yet.
    """
    previous = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    pause = FIRST_PAUSE_S
    try:
        while True:
            state.view.read()
            rehearsal = rehearse(server, state)
            if rehearsal.outcome not in RETRYABLE:
                return rehearsal.outcome is Outcome.GOOD
            server.log.warning("not started yet: %s; trying again in %g s", rehearsal.reason, pause)
            time.sleep(pause)
            pause = min(pause * 2, MAX_PAUSE_S)
    finally:
        signal.signal(signal.SIGHUP, previous)


def _replace_workers(server: Any, state: ArbiterState, reload: Callable[[], None]) -> None:  # noqa: ANN401  as above
    """Reload, and stop the old workers once as many new ones answer calls.

    gunicorn itself would stop them at once. It then waits until they have ended, which takes as
    long as their calls. A signal to stop ends that wait.
    """
    state.clear_ready()
    manage_workers, reap_workers = server.manage_workers, server.reap_workers

    def manage_when_ready() -> None:
        deadline, ready = time.monotonic() + LONGEST_LOAD_S, 0
        while ready < server.num_workers and time.monotonic() < deadline:
            ready += state.count_ready(CHECK_INTERVAL_S)
            server.reap_workers()
        manage_workers()

    def reap_until_stopping() -> None:
        reap_workers()
        if state.is_stopping():
            raise _Stopping

    server.manage_workers, server.reap_workers = manage_when_ready, reap_until_stopping
    try:
        with suppress(_Stopping):
            reload()
    finally:
        server.manage_workers, server.reap_workers = manage_workers, reap_workers


def _drain(server: Any, state: ArbiterState) -> None:  # noqa: ANN401  as above
    """Answer `/-/ready` with 503 for PENSTOCK_DRAIN_DELAY seconds, while calls are still answered.

    Load balancers send their calls elsewhere meanwhile.
    """
    state.start_draining()
    delay = state.settings.drain_delay
    deadline = time.monotonic() + delay
    if server.WORKERS and delay:
        server.log.info("draining for %g s: not ready, and answering calls", delay)
    while server.WORKERS and time.monotonic() < deadline:
        time.sleep(CHECK_INTERVAL_S)
        server.reap_workers()
