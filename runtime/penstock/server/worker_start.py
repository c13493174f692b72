"""Start the host in a worker process, after the fork; and stop gunicorn's own workers in time."""

from __future__ import annotations

import gc
import signal
import threading
import time
from types import FrameType
from typing import Any

from penstock import metrics
from penstock.access.snapshot import Snapshot
from penstock.errors import CannotStart
from penstock.http.watchdog import shutdown_schedule
from penstock.server.arbiter_state import ArbiterState

RETRY_S = 0.5  # between two attempts to start
REPORT_INTERVAL_S = 15.0  # between two log lines about a worker that waits


def start_host(worker: Any, state: ArbiterState) -> None:  # noqa: ANN401  gunicorn ships no types
    """Start the host of a worker, and return when the worker can answer calls.

    A start was rehearsed, so any fault here is new and may pass: it must not end the worker, as
    gunicorn then ends all of them. A worker without a fresh view of access waits until the views of
    the other workers are as old as its own.
    """
    host = worker.wsgi.host
    host.report.already_written = state.reported
    host.health.is_draining = state.is_draining
    host.upkeep.on_confirmed = state.view.confirm
    access = state.view.inherit()
    limit = state.settings.max_staleness
    deadline, report_at = time.monotonic() + limit, 0.0
    while worker.alive:
        fresh = access is not None and not state.view.contradicted and access.age() <= limit
        usable = fresh or (access is not None and time.monotonic() >= deadline)
        try:
            host.start(kind="serve", access=access, respawned=True, without_database=usable)
            break
        except CannotStart as error:
            if time.monotonic() >= report_at:
                report_at = time.monotonic() + REPORT_INTERVAL_S
                worker.log.error("a worker waits to start%s: %s", _age_of(access, state), error)
            metrics.set_gauge("penstock_processes_waiting", 1)
            worker.notify()
            time.sleep(RETRY_S)
    if report_at:
        metrics.set_gauge("penstock_processes_waiting", 0)


def _age_of(access: Snapshot | None, state: ArbiterState) -> str:
    if access is None:
        return ""
    age = "outdated" if state.view.contradicted else f"{access.age():.0f} s old"
    return f" (its view of access is {age})"


def freeze_memory() -> None:
    """Exclude all present objects from garbage collection: they live as long as the process."""
    gc.collect()
    gc.freeze()


def prepare_pages(worker: Any) -> None:  # noqa: ANN401  as above
    """Have a thread render the first pages of the console, where the worker has one.

    Calls are answered meanwhile.
    """
    work = worker.wsgi.prepare
    if work is not None:
        threading.Thread(target=work, name="penstock-prepare", daemon=True).start()


def stop_in_time(worker: Any, graceful_timeout: float) -> None:  # noqa: ANN401  as above
    """Have a stock worker answer its open calls and leave before the graceful timeout ends.

    The arbiter kills it after that. Penstock's own worker does this by itself. Only the signal
    handler and the worker's setting change, not the worker class.
    """
    answer, leave = shutdown_schedule(graceful_timeout)
    worker.cfg.set("graceful_timeout", max(1, int(leave)))
    handle_exit = worker.handle_exit

    def stop(number: int, frame: FrameType | None) -> None:
        was_alive = worker.alive
        handle_exit(number, frame)
        if was_alive:
            worker.wsgi.end_calls(time.monotonic() + answer)

    signal.signal(signal.SIGTERM, stop)
