"""Keep a worker process for durable runs alive, and replace it at a reload."""

from __future__ import annotations

import ctypes
import os
import select
import signal
import subprocess
import sys
import threading
import time
from contextlib import suppress
from typing import BinaryIO

import structlog

from penstock import metrics, threads
from penstock.plugins.progress import LoadingNote
from penstock.server.durable_worker import NOT_NEEDED, READY, files_option
from penstock.server.end_reasons import end_reason

WORKER = (sys.executable, "-m", "penstock", "worker", "--if-needed")
FIRST_PAUSE_S, MAX_PAUSE_S = 1.0, 30.0  # before a worker that ended is started again
CHECK_INTERVAL_S = 0.2
MAX_START_S = 120.0  # until a worker that replaces another must execute runs
STEADY_S = 60.0  # a worker that lived longer is restarted without a longer pause
PR_SET_PDEATHSIG = 1
_log = structlog.get_logger("penstock")


def stop_with_parent() -> None:
    """Have the system send SIGTERM to this process when its parent ends. Linux only."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)


def report_rejected_reload(effect: str, reason: str) -> None:
    """Log that a reload was rejected, and show the reason in status and metrics."""
    _log.error(f"not reloaded: {effect}", reason=reason)
    metrics.record_rejected_reload(reason)


class WorkerProcess:
    """A worker process, and the pipe through which it announces its state."""

    def __init__(self, sources: BinaryIO, *, respawned: bool = False) -> None:
        self._read_end, write_end = os.pipe()
        self._state = b""
        self._note = LoadingNote()
        ends = (sources.fileno(), self._note.fileno(), write_end)
        command = [
            *WORKER,
            *(["--respawned"] if respawned else []),
            *files_option(*ends),
        ]
        self.began_at = time.monotonic()
        inherited = (*ends, *metrics.owner_fds())
        try:
            self.process = subprocess.Popen(  # noqa: S603  our own command
                command,
                pass_fds=inherited,
                preexec_fn=stop_with_parent,  # noqa: PLW1509  nothing but a system call
            )
        except OSError:
            os.close(self._read_end)
            self._note.close()
            raise
        finally:
            os.close(write_end)

    def exit_code(self) -> int | None:
        """Return the exit code, None while the process lives."""
        return self.process.poll()

    def is_ready(self, seconds: float) -> bool:
        """Return whether it executes runs. Wait up to `seconds` for its announcement."""
        self._read(seconds)
        return self._state == READY

    @property
    def not_needed(self) -> bool:
        """Whether it announced that no pipeline needs it."""
        self._read(0)
        return self._state == NOT_NEEDED

    def _read(self, seconds: float) -> None:
        if not self._state and select.select([self._read_end], [], [], seconds)[0]:
            self._state = os.read(self._read_end, 1)

    def send(self, number: int) -> None:
        """Send a signal."""
        with suppress(ProcessLookupError):
            self.process.send_signal(number)

    def close(self) -> str:
        """Wait for the end of the process, and return its reason."""
        reason = end_reason(self.process.wait(), self._note.read(), ready=self.is_ready(0))
        os.close(self._read_end)
        self._note.close()
        metrics.forget_process(self.process.pid)
        return reason


class WorkerKeeper:
    """Keeps one worker process alive.

    A worker that ends is started again. At a reload it is replaced once its successor executes
    runs. If the successor can't start, the worker stays: gunicorn does the same with its workers.
    A worker that is started later imports plugins from the same `sources`.
    """

    def __init__(self, stopping: threading.Event, sources: BinaryIO) -> None:
        self._stopping = stopping
        self._sources = self._next_sources = sources
        self._wake = threading.Event()
        self._workers: list[WorkerProcess] = []  # the worker, and its successor at a reload
        self._respawned = False

    def reload(self, sources: BinaryIO) -> None:
        """Replace the worker, or start one if none was needed before."""
        self._next_sources = sources
        self._wake.set()

    def send(self, number: int) -> None:
        """Send a signal to the worker, and to its successor."""
        self._wake.set()  # ends a pause
        for worker in list(self._workers):
            worker.send(number)

    def run(self, _: threads.MonitoredThread) -> None:
        """Keep a worker alive until the server stops.

        It may be called again after an exception, for example if no process could be started.
        """
        pause = FIRST_PAUSE_S
        while not self._stopping.is_set():
            self._wake.clear()
            worker = self._workers[0] if self._workers else self._start_first()
            while (code := worker.exit_code()) is None:
                if self._wake.wait(CHECK_INTERVAL_S) and not self._stopping.is_set():
                    self._wake.clear()
                    worker = self._replace(worker)
                elif self._stopping.is_set():
                    worker.process.wait()
            if code == 0 and worker.not_needed:
                self._close(worker, "no pipeline needs it")
                self._wake.wait()
            elif self._stopping.is_set():
                self._close(worker, "the server stops")
            else:
                if time.monotonic() - worker.began_at > STEADY_S:
                    pause = FIRST_PAUSE_S
                self._close(worker, next_start_s=pause)
                self._wake.wait(pause)
                pause = min(pause * 2, MAX_PAUSE_S)

    def _start_first(self) -> WorkerProcess:
        """Start a worker while there is none."""
        self._sources = self._next_sources
        respawned, self._respawned = self._respawned, True
        return self._start(respawned=respawned)

    def _start(self, *, respawned: bool = False) -> WorkerProcess:
        worker = WorkerProcess(self._next_sources, respawned=respawned)
        self._workers.append(worker)
        if self._stopping.is_set():
            worker.send(signal.SIGTERM)
        return worker

    def _close(
        self, worker: WorkerProcess, reason: str = "", next_start_s: float | None = None
    ) -> None:
        """Log the end of a worker. Without a `reason` it is a fault, with that of the process."""
        fault = worker.close()
        self._workers.remove(worker)
        pid = worker.process.pid
        if reason:
            _log.info("durable worker ended", worker=pid, reason=reason)
        else:
            _log.error("durable worker ended", worker=pid, reason=fault, next_start_s=next_start_s)

    def _replace(self, worker: WorkerProcess) -> WorkerProcess:
        """Start a successor beside the worker, and return the one of them that stays."""
        successor = self._start()
        deadline = successor.began_at + MAX_START_S
        while (
            successor.exit_code() is None
            and time.monotonic() < deadline
            and not self._stopping.is_set()
        ):
            if successor.is_ready(CHECK_INTERVAL_S):
                return self._adopt(worker, successor)
        if successor.exit_code() == 0 and successor.not_needed:
            return self._adopt(worker, successor)
        self._next_sources = self._sources
        if successor.exit_code() is not None:
            self._close(successor)
        elif self._stopping.is_set():
            successor.send(signal.SIGTERM)
            self._close(successor, "the server stops")
        else:
            successor.send(signal.SIGKILL)
            self._close(successor, f"it was not ready in {MAX_START_S:g} s")
        if not self._stopping.is_set():
            report_rejected_reload(
                "the durable worker keeps its current plugins and settings",
                "the new durable worker did not start; see the log",
            )
        return worker

    def _adopt(self, worker: WorkerProcess, successor: WorkerProcess) -> WorkerProcess:
        """Stop the worker, and return its successor."""
        self._sources = self._next_sources
        worker.send(signal.SIGTERM)
        self._close(worker, f"process {successor.process.pid} replaces it at a reload")
        return successor
