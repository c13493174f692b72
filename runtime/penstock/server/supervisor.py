"""`penstock serve`: gunicorn and the workers for durable runs, as child processes.

They start, reload and stop together. If gunicorn ends, the workers end too.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from contextlib import suppress
from types import FrameType
from typing import BinaryIO

import structlog

from penstock import logs, metrics, threads
from penstock.errors import CannotStart, StartDelayed
from penstock.plugins.guard import LONGEST_LOAD_S, ended_text, hangs_text
from penstock.plugins.progress import LoadingNote
from penstock.plugins.source_tree import read_tree, store_tree
from penstock.server.durable_worker import LOADED, MAX_REASON_BYTES, STOP_SIGNALS, files_option
from penstock.server.keeper import (
    CHECK_INTERVAL_S,
    WorkerKeeper,
    report_rejected_reload,
    stop_with_parent,
)
from penstock.settings import Settings

GUNICORN = (
    sys.executable,
    "-m",
    "gunicorn",
    "-c",
    "python:penstock.server.config",
    "penstock.web:from_environment()",
)
REHEARSAL = (sys.executable, "-m", "penstock", "worker", "--rehearse")
FORWARDED_SIGNALS = (
    signal.SIGUSR1,
    signal.SIGUSR2,
    signal.SIGTTIN,
    signal.SIGTTOU,
    signal.SIGWINCH,
)
_log = structlog.get_logger("penstock")


def serve(settings: Settings) -> int:
    """Serve until a signal stops the server, and return gunicorn's exit code."""
    logs.configure(settings)
    folder = metrics.create_shared_folder()
    try:
        return Supervisor(settings).run()
    finally:
        if folder is not None:
            shutil.rmtree(folder, ignore_errors=True)


class Supervisor:
    """Starts the processes, forwards signals to them, and ends when gunicorn ends."""

    def __init__(self, settings: Settings) -> None:
        self._gunicorn: subprocess.Popen[bytes] | None = None
        self._stopping = threading.Event()
        self._folders = settings.plugin_path
        sources = self._read_sources()
        self._keepers = [
            WorkerKeeper(self._stopping, sources)
            for _ in range(settings.worker if settings.pipelines else 0)
        ]
        self._reloading = threading.Lock()

    def run(self) -> int:
        """Serve until gunicorn ends, and return its exit code."""
        for number in STOP_SIGNALS:
            signal.signal(number, self._stop)
        signal.signal(signal.SIGHUP, self._reload)
        for number in FORWARDED_SIGNALS:
            signal.signal(number, self._forward)
        self._gunicorn = subprocess.Popen(  # noqa: S603  our own command
            GUNICORN,
            pass_fds=metrics.owner_fds(),
            preexec_fn=stop_with_parent,  # noqa: PLW1509  nothing but a system call
        )
        running = [
            threads.start(f"penstock-keeper-{number}", keeper.run, limit=None)
            for number, keeper in enumerate(self._keepers, 1)
        ]
        code = self._gunicorn.wait()
        self._stopping.set()
        for keeper in self._keepers:
            keeper.send(signal.SIGTERM)
        for thread in running:
            thread.join()
        return code if code >= 0 else 128 - code

    def _stop(self, number: int, frame: FrameType | None) -> None:
        self._stopping.set()
        self._forward(number, frame)
        for keeper in self._keepers:
            keeper.send(number)

    def _forward(self, number: int, _frame: FrameType | None) -> None:
        if self._gunicorn is not None:
            with suppress(ProcessLookupError):
                self._gunicorn.send_signal(number)

    def _reload(self, number: int, frame: FrameType | None) -> None:
        threading.Thread(
            target=self._reload_all, args=(number, frame), name="penstock-reload", daemon=True
        ).start()

    def _reload_all(self, number: int, frame: FrameType | None) -> None:
        """Reload all processes, or none.

        A start is rehearsed in a process of its own first: plugin code may hang or end it.
        """
        if not self._reloading.acquire(blocking=False):
            reason = "another reload is in progress"
            report_rejected_reload(reason, reason)
            return
        try:
            _log.debug("reload: rehearsing a start")
            sources = self._read_sources()
            fault = self._rehearse(sources)
            if fault is None:
                _log.debug("reload: the rehearsal succeeded; replacing the processes")
                for keeper in self._keepers:
                    keeper.reload(sources)
                self._forward(number, frame)
            elif not self._stopping.is_set():
                report_rejected_reload(
                    "all processes keep their current plugins and settings", fault
                )
        except CannotStart as error:
            report_rejected_reload(
                "all processes keep their current plugins and settings", str(error)
            )
        finally:
            self._reloading.release()

    def _read_sources(self) -> BinaryIO:
        """Return a file with the present sources of all plugins. Raises CannotStart."""
        try:
            return store_tree(read_tree(self._folders))
        except OSError as error:
            raise CannotStart(f"{error.filename} can't be read: {error.strerror}") from error

    def _rehearse(self, sources: BinaryIO) -> str | None:
        """Rehearse a start, and return why it failed, None if it succeeded.

        If plugin code ended the process or hangs, that is logged here.
        """
        read_end, write_end = os.pipe()
        os.set_blocking(read_end, False)
        note = LoadingNote()
        inherited = (sources.fileno(), note.fileno(), write_end)
        try:
            command = [*REHEARSAL, *files_option(*inherited)]
            child = subprocess.Popen(  # noqa: S603  our own command
                command,
                pass_fds=inherited,
                preexec_fn=stop_with_parent,  # noqa: PLW1509  nothing but a system call
            )
            code = self._wait(child, LONGEST_LOAD_S)
            report = b""
            with suppress(BlockingIOError):
                report = os.read(read_end, MAX_REASON_BYTES)
            plugin = note.read()
        finally:
            note.close()
            os.close(read_end)
            os.close(write_end)
        if code in {CannotStart.exit_code, StartDelayed.exit_code} and report:
            return report.decode("utf-8", "replace")
        if code == 0 and report == LOADED:
            return None
        fault = f"{ended_text(plugin)} (exit code {code})"
        if code is None:
            child.send_signal(signal.SIGKILL)
            child.wait()
            fault = hangs_text(plugin)
        if not self._stopping.is_set():
            _log.error(fault)
        return fault

    def _wait(self, child: subprocess.Popen[bytes], seconds: float) -> int | None:
        """Return the exit code of a child, None if it lives after that time."""
        deadline = time.monotonic() + seconds
        while (
            (code := child.poll()) is None
            and time.monotonic() < deadline
            and not self._stopping.is_set()
        ):
            time.sleep(CHECK_INTERVAL_S)
        return code
