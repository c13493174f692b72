"""`penstock serve`: gunicorn and the workers for durable runs, each in processes of its own, that live and end together."""

from __future__ import annotations

import ctypes
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from contextlib import suppress
from types import FrameType

from penstock import logs, metrics
from penstock.access.secrets import open_box
from penstock.errors import CannotStart
from penstock.host import Host
from penstock.settings import Settings
from penstock.worker import Taken, Worker

GUNICORN = (sys.executable, "-m", "gunicorn", "-c", "python:penstock.gunicorn_conf", "penstock.wsgi:app")
WORKER = (sys.executable, "-m", "penstock", "worker", "--if-needed")
NOT_NEEDED = 0
STOPPED = 143  # as a shell says of what was told to stop
TAKEN = 75  # EX_TEMPFAIL
FIRST_PAUSE, LONGEST_PAUSE = 1.0, 30.0  # seconds before a worker that ended is started again
STEADY = 60.0  # seconds after which a worker's end is no sign of trouble
PDEATHSIG = 1  # prctl's: what a child is sent when its parent dies
TO_GUNICORN = (signal.SIGUSR1, signal.SIGUSR2, signal.SIGTTIN, signal.SIGTTOU, signal.SIGWINCH)
ENDING = (signal.SIGTERM, signal.SIGINT, signal.SIGQUIT)


def serve(workers: int) -> int:
    """Serve until told to stop, and return gunicorn's exit code."""
    made = metrics.share()
    try:
        return Supervisor(workers).run()
    finally:
        if made is not None:
            shutil.rmtree(made, ignore_errors=True)


def _end_with_parent() -> None:
    """Have a child told to stop when its parent dies, however that comes; Linux alone knows how."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PDEATHSIG, signal.SIGTERM)


def work(settings: Settings, *, if_needed: bool) -> int:
    """Perform durable runs until told to stop, and return the exit code. What is still under way then is left to other workers."""
    logs.configure(settings)
    from penstock.runs.engine_dbos import DbosBench  # noqa: PLC0415  what only serves need not load it

    host = Host(settings)
    host.told = None if if_needed else b""  # gunicorn's side of `penstock serve` has reported it
    worker = Worker(host, DbosBench(settings.database_url, settings.environment, open_box(settings)))
    if if_needed and not worker.needed:
        return NOT_NEEDED
    for number in ENDING:
        signal.signal(number, lambda *_: worker.stop())
    code = 0 if not if_needed else STOPPED
    try:
        worker.run()
    except CannotStart as error:
        sys.stderr.write(f"penstock: {error}\n")
        code = error.exit_code
    except Taken as error:
        sys.stderr.write(f"penstock: {error}\n")
        code = TAKEN
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)  # threads of runs that did not end in time would be waited for


class Supervisor:
    """Starts the processes, hands signals on to them, and starts workers again that ended by themselves."""

    def __init__(self, workers: int) -> None:
        self._workers = workers
        self._gunicorn: subprocess.Popen[bytes] | None = None
        self._children: set[subprocess.Popen[bytes]] = set()
        self._ending = threading.Event()
        self._again = threading.Event()

    def run(self) -> int:
        """Serve until gunicorn ends, and return its exit code."""
        for number in ENDING:
            signal.signal(number, self._end)
        signal.signal(signal.SIGHUP, self._reload)
        for number in TO_GUNICORN:
            signal.signal(number, self._pass_on)
        self._gunicorn = subprocess.Popen(GUNICORN, preexec_fn=_end_with_parent)  # noqa: PLW1509, S603  our own command; nothing but a system call
        keepers = [threading.Thread(target=self._keep, daemon=True) for _ in range(self._workers)]
        for keeper in keepers:
            keeper.start()
        code = self._gunicorn.wait()
        self._ending.set()
        for child in list(self._children):
            self._send(child, signal.SIGTERM)
        for keeper in keepers:
            keeper.join()
        return code if code >= 0 else 128 - code

    def _keep(self) -> None:
        """Keep one worker running. One that is not needed ends, and is tried again at a reload."""
        pause = FIRST_PAUSE
        while not self._ending.is_set():
            self._again.clear()
            began = time.monotonic()
            child = subprocess.Popen(WORKER, preexec_fn=_end_with_parent)  # noqa: PLW1509, S603  our own command; nothing but a system call
            self._children.add(child)
            if self._ending.is_set():
                self._send(child, signal.SIGTERM)
            code = child.wait()
            self._children.discard(child)
            if code == NOT_NEEDED and not self._again.is_set():
                while not self._again.wait(0.5) and not self._ending.is_set():
                    pass
            elif code != NOT_NEEDED:
                pause = FIRST_PAUSE if time.monotonic() - began > STEADY else min(pause * 2, LONGEST_PAUSE)
                self._ending.wait(pause)

    @staticmethod
    def _send(child: subprocess.Popen[bytes], number: int) -> None:
        with suppress(ProcessLookupError):
            child.send_signal(number)

    def _end(self, number: int, _frame: FrameType | None) -> None:
        self._ending.set()
        for child in ([self._gunicorn] if self._gunicorn else []) + list(self._children):
            self._send(child, number)

    def _reload(self, number: int, _frame: FrameType | None) -> None:
        self._again.set()
        for child in list(self._children):
            self._send(child, signal.SIGTERM)
        if self._gunicorn is not None:
            self._send(self._gunicorn, number)

    def _pass_on(self, number: int, _frame: FrameType | None) -> None:
        if self._gunicorn is not None:
            self._send(self._gunicorn, number)
