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
from penstock.plugins.source_tree import SourceTree, keep_tree, tree_of
from penstock.server.arbiter_state import ArbiterState
from penstock.server.rehearsal import CHECK_INTERVAL_S, RETRYABLE, Outcome, rehearse
from penstock.server.worker_ends import WorkerEnds

# Between two attempts to start while the database is away.
FIRST_PAUSE_S, MAX_PAUSE_S = 0.5, 15.0


class _Stopping(Exception):
    """Ends a reload early: this server is about to stop."""


class _Failed(Exception):
    """Ends a reload early: no new worker answers calls."""


def adapt(server: Any, state: ArbiterState) -> None:  # noqa: ANN401  gunicorn ships no types
    """Have the arbiter rehearse reloads, pace starts, drain, and refresh its view of access."""
    ends = WorkerEnds(server, state)
    _adapt_signals(server, state)
    _adapt_workers(server, state, ends)
    reload, stop = server.reload, server.stop

    def rehearsed_reload() -> None:
        _rehearse_and_reload(server, state, ends, reload)

    def drain_and_stop(graceful: bool = True) -> None:
        if graceful:
            _drain(server, state)
        stop(graceful)

    server.reload, server.stop = rehearsed_reload, drain_and_stop


def _adapt_signals(server: Any, state: ArbiterState) -> None:  # noqa: ANN401  as above
    handle_signal = server.signal

    def note_signal(number: int, frame: FrameType | None) -> None:
        state.note_signal(number)
        handle_signal(number, frame)

    server.signal = note_signal


def _adapt_workers(server: Any, state: ArbiterState, ends: WorkerEnds) -> None:  # noqa: ANN401  as above
    kill_worker, manage_workers = server.kill_worker, server.manage_workers
    murder_workers = server.murder_workers

    def murder_and_refresh() -> None:
        murder_workers()
        state.collect_ready()
        state.view.refresh()

    def manage_in_time() -> None:
        # While this server drains within a reload, only the old workers may answer calls.
        complete = len(server.WORKERS) >= server.num_workers
        if not state.is_stopping() and (complete or ends.may_start()):
            manage_workers()

    def note_and_kill(pid: int, number: int) -> None:
        ends.note_kill(pid, number)
        kill_worker(pid, number)

    server.manage_workers, server.murder_workers = manage_in_time, murder_and_refresh
    server.kill_worker, server.reap_workers = note_and_kill, ends.reap_workers


def _rehearse_and_reload(
    server: Any,  # noqa: ANN401  as above
    state: ArbiterState,
    ends: WorkerEnds,
    reload: Callable[[], None],
) -> None:
    server.log.debug("reload: reading the access data and rehearsing a start")
    state.view.read()
    rehearsal = rehearse(server, state)
    fault = rehearsal.reason
    if rehearsal.outcome is Outcome.GOOD:
        server.log.debug("reload: the rehearsal succeeded; starting new workers")
        ends.pacer.reset()
        fault = _replace_workers(server, state, reload, rehearsal.tree)
    if fault:
        server.log.error("not reloaded: the workers keep their current plugins and settings")
        metrics.record_rejected_reload(fault)


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
            if rehearsal.outcome is Outcome.GOOD:
                keep_tree(rehearsal.tree)
                return True
            if rehearsal.outcome not in RETRYABLE:
                return False
            server.log.warning("not started yet: %s; trying again in %g s", rehearsal.reason, pause)
            time.sleep(pause)
            pause = min(pause * 2, MAX_PAUSE_S)
    finally:
        signal.signal(signal.SIGHUP, previous)


def _replace_workers(
    server: Any,  # noqa: ANN401  as above
    state: ArbiterState,
    reload: Callable[[], None],
    tree: SourceTree,
) -> str:
    """Reload, and stop the old workers once as many new ones answer calls.

    gunicorn itself would stop them at once. It then waits until they have ended, which takes as
    long as their calls. A signal to stop ends that wait. If no new worker answers calls in time,
    the old ones stay, and the fault is returned.
    """
    manage_workers, reap_workers = server.manage_workers, server.reap_workers
    old, served = frozenset(server.WORKERS), tree_of(state.settings.plugin_path)
    keep_tree(tree)

    def manage_when_ready() -> None:
        deadline = time.monotonic() + LONGEST_LOAD_S
        while new := server.WORKERS.keys() - old:
            missing = server.num_workers - len(new & state.ready)
            if missing <= 0 or time.monotonic() >= deadline:
                break
            state.collect_ready(CHECK_INTERVAL_S)
            server.reap_workers()
        if not new & state.ready and not state.is_stopping():
            raise _Failed
        manage_workers()

    def reap_until_stopping() -> None:
        reap_workers()
        if state.is_stopping():
            raise _Stopping

    server.manage_workers, server.reap_workers = manage_when_ready, reap_until_stopping
    try:
        with suppress(_Stopping):
            reload()
    except _Failed:
        keep_tree(served)
        for pid in server.WORKERS.keys() - old:
            server.kill_worker(pid, signal.SIGKILL)
        return "no new web worker answered calls; see the log"
    finally:
        server.manage_workers, server.reap_workers = manage_workers, reap_workers
    return ""


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
