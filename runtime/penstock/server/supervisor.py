"""`penstock serve`.

Gunicorn and the workers for durable runs, each in processes of its own, that live and end together.
"""

from __future__ import annotations

import ctypes
import os
import select
import shutil
import signal
import subprocess
import sys
import threading
import time
from contextlib import suppress
from types import FrameType

import structlog

from penstock import logs, metrics, threads
from penstock.access.encryption import load_secret_box
from penstock.errors import CannotStart, StartDelayed
from penstock.host.host import Host
from penstock.plugins.guard import ENDED, HANGS, LONGEST_LOAD_S
from penstock.settings import Settings
from penstock.worker import TakenOver, Worker

GUNICORN = (
    sys.executable,
    "-m",
    "gunicorn",
    "-c",
    "python:penstock.server.config",
    "penstock.web:from_environment()",
)
WORKER = (sys.executable, "-m", "penstock", "worker", "--if-needed")
REHEARSAL = (sys.executable, "-m", "penstock", "worker", "--rehearse")
REASON = 1000  # bytes of why a start does not succeed
# What a child says: its exit code may be that of plugin code that ended it.
READY, NOT_NEEDED, LOADED = b"1", b"0", b"2"
STOPPED = 143  # as a shell says of what was told to stop
TAKEN = 75  # EX_TEMPFAIL
FIRST_PAUSE, LONGEST_PAUSE = 1.0, 30.0  # seconds before a worker that ended is started again
LOOK = 0.2  # seconds between two looks at a worker
LONGEST_START = 120.0  # seconds in which a worker that replaces another must take runs
STEADY = 60.0  # seconds after which a worker's end is no sign of trouble
PDEATHSIG = 1  # prctl's: what a child is sent when its parent dies
TO_GUNICORN = (signal.SIGUSR1, signal.SIGUSR2, signal.SIGTTIN, signal.SIGTTOU, signal.SIGWINCH)
ENDING = (signal.SIGTERM, signal.SIGINT, signal.SIGQUIT)
_log = structlog.get_logger("penstock")


def serve(settings: Settings) -> int:
    """Serve until told to stop, and return gunicorn's exit code."""
    logs.configure(settings)
    made = metrics.create_shared_folder()
    try:
        return Supervisor(settings.worker if settings.pipelines else 0).run()
    finally:
        if made is not None:
            shutil.rmtree(made, ignore_errors=True)


def _end_with_parent() -> None:
    """Have a child told to stop when its parent dies, however that comes; Linux alone knows how."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PDEATHSIG, signal.SIGTERM)


def rehearse(settings: Settings, reason_fd: int | None = None) -> int:
    """Return the exit code of a start with these settings and plugins: 0 where it would succeed.

    Why it would not is in the log, and is written to `reason_fd`.
    """
    logs.configure(settings)
    if reason_fd is not None:
        os.set_inheritable(reason_fd, False)
    try:
        host = Host(settings)
        host.report.already_written = None  # gunicorn reports what there is
        host.rehearse()
    except CannotStart as error:
        logs.print_error(str(error), settings.log_format)
        if reason_fd is not None:
            os.write(reason_fd, str(error).encode("utf-8", "replace")[:REASON])
        return error.exit_code
    _tell(reason_fd, LOADED)
    return 0


def work(
    settings: Settings, *, if_needed: bool, ready_fd: int | None = None, respawned: bool = False
) -> int:
    """Perform durable runs until told to stop, and return the exit code.

    What is still under way then is left to other workers.

    READY is written to `ready_fd` once runs are taken, or NOT_NEEDED where there are none to take.
    A worker that was `respawned` is not judged by PENSTOCK_STRICT.
    """
    logs.configure(settings)
    if ready_fd is not None:
        os.set_inheritable(ready_fd, False)
    from penstock.durable.engine_dbos import (  # noqa: PLC0415  what only serves need not load it
        DbosExecutor,
    )

    host = Host(settings)
    host.report.already_written = (
        None if if_needed else b""
    )  # gunicorn's side of `penstock serve` has reported it
    worker = Worker(
        host, DbosExecutor(settings.database_url, settings.environment, load_secret_box(settings))
    )
    if if_needed and not worker.needed:
        return _not_needed(settings, ready_fd, judge=not respawned)
    for number in ENDING:
        signal.signal(number, lambda *_: worker.stop())
    # Who started it under `penstock serve` decides on a reload; by itself it ends in order, and
    # whoever keeps it starts it anew.
    signal.signal(signal.SIGHUP, signal.SIG_IGN if if_needed else lambda *_: worker.stop())
    code = 0 if not if_needed else STOPPED
    try:
        worker.run(ready=lambda: _tell(ready_fd, READY), respawned=respawned)
    except CannotStart as error:
        # gunicorn's rehearsal meets the same before that, and says it.
        if not (if_needed and not respawned and host.view.access is None):
            logs.print_error(str(error), settings.log_format)
        code = error.exit_code
    except TakenOver as error:
        logs.print_error(str(error), settings.log_format)
        code = TAKEN
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)  # threads of runs that did not end in time would be waited for


def _not_needed(settings: Settings, ready_fd: int | None, *, judge: bool) -> int:
    """Return the exit code of a worker without anything to do.

    Under PENSTOCK_STRICT its pipelines may only be blocked, as gunicorn says.
    """
    try:
        if judge and settings.strict:
            Host(settings).rehearse()
    except CannotStart as error:
        return error.exit_code
    _tell(ready_fd, NOT_NEEDED)
    return 0


def _tell(fd: int | None, word: bytes) -> None:
    if fd is not None:
        with suppress(OSError):
            os.write(fd, word)
            os.close(fd)


def _rejected(what: str, why: str) -> None:
    """Log that a reload was rejected, and have the status and the metrics say why."""
    _log.error(f"not reloaded: {what}", reason=why)
    metrics.record_rejected_reload(why)


class Child:
    """A worker process, and the pipe by which it says that it takes runs."""

    def __init__(self, *, respawned: bool = False) -> None:
        self._ready, ready = os.pipe()
        self._word = b""
        command = [*WORKER, "--ready-fd", str(ready), *(["--respawned"] if respawned else [])]
        self.began = time.monotonic()
        inherited = (ready, *metrics.owner_fds())
        try:
            self.process = subprocess.Popen(  # noqa: S603  our own command
                command,
                pass_fds=inherited,
                preexec_fn=_end_with_parent,  # noqa: PLW1509  nothing but a system call
            )
        except OSError:
            os.close(self._ready)
            raise
        finally:
            os.close(ready)

    def ended(self) -> int | None:
        """Return its exit code once it has ended."""
        return self.process.poll()

    def ready(self, seconds: float) -> bool:
        """Return whether it takes runs, and wait so long for that.

        One that has ended takes none.
        """
        self._hear(seconds)
        return self._word == READY

    @property
    def not_needed(self) -> bool:
        """Whether it said that it has nothing to do."""
        self._hear(0)
        return self._word == NOT_NEEDED

    def _hear(self, seconds: float) -> None:
        if not self._word and select.select([self._ready], [], [], seconds)[0]:
            self._word = os.read(self._ready, 1)

    def send(self, number: int) -> None:
        """Send it a signal."""
        with suppress(ProcessLookupError):
            self.process.send_signal(number)

    def close(self) -> int:
        """Wait for its end, and return its exit code."""
        code = self.process.wait()
        os.close(self._ready)
        metrics.forget_process(self.process.pid)
        return code


class Keeper:
    """Keeps one worker running.

    One that ends is started again, and at a reload it is replaced once its successor takes runs.

    A successor that can't start leaves it as it is: that is what gunicorn does with its own
    workers.
    """

    def __init__(self, ending: threading.Event) -> None:
        self._ending = ending
        self._again = threading.Event()
        self._children: list[Child] = []
        self._respawned = False

    def reload(self) -> None:
        """Replace the worker, or start one that was not needed before."""
        self._again.set()

    def send(self, number: int) -> None:
        """Send a signal to the worker, and to its successor where there is one."""
        self._again.set()  # it may be waiting
        for child in list(self._children):
            child.send(number)

    def run(self, _: threads.MonitoredThread) -> None:
        """Keep a worker running until the end.

        It may be called again after it failed, as where no process can be started.
        """
        pause = FIRST_PAUSE
        while not self._ending.is_set():
            self._again.clear()
            child = self._children[0] if self._children else self._start(respawned=self._respawned)
            self._respawned = True
            while (code := child.ended()) is None:
                if self._again.wait(LOOK) and not self._ending.is_set():
                    self._again.clear()
                    child = self._succeeded(child)
                elif self._ending.is_set():
                    child.process.wait()
            idle = code == 0 and child.not_needed
            self._close(child)
            if idle:
                self._again.wait()
            elif not self._ending.is_set():
                pause = (
                    FIRST_PAUSE
                    if time.monotonic() - child.began > STEADY
                    else min(pause * 2, LONGEST_PAUSE)
                )
                self._again.wait(pause)

    def _start(self, *, respawned: bool = False) -> Child:
        child = Child(respawned=respawned)
        self._children.append(child)
        if self._ending.is_set():
            child.send(signal.SIGTERM)
        return child

    def _close(self, child: Child) -> int:
        code = child.close()
        self._children.remove(child)
        return code

    def _succeeded(self, child: Child) -> Child:
        """Start a worker beside the one that there is; return the one that stays."""
        successor = self._start()
        until = successor.began + LONGEST_START
        while successor.ended() is None and time.monotonic() < until and not self._ending.is_set():
            if successor.ready(LOOK):
                child.send(signal.SIGTERM)
                self._close(child)
                return successor
        if successor.ended() == 0 and successor.not_needed:
            child.send(signal.SIGTERM)
            self._close(child)
            return successor
        successor.send(signal.SIGTERM if self._ending.is_set() else signal.SIGKILL)
        self._close(successor)
        if not self._ending.is_set():
            _rejected(
                "the durable worker goes on with what it has",
                "the new durable worker did not start; the log says why",
            )
        return child


class Supervisor:
    """Starts the processes, hands signals on to them, and ends with gunicorn."""

    def __init__(self, workers: int) -> None:
        self._gunicorn: subprocess.Popen[bytes] | None = None
        self._ending = threading.Event()
        self._keepers = [Keeper(self._ending) for _ in range(workers)]
        self._reloading = threading.Lock()

    def run(self) -> int:
        """Serve until gunicorn ends, and return its exit code."""
        for number in ENDING:
            signal.signal(number, self._end)
        signal.signal(signal.SIGHUP, self._reload)
        for number in TO_GUNICORN:
            signal.signal(number, self._pass_on)
        self._gunicorn = subprocess.Popen(  # noqa: S603  our own command
            GUNICORN,
            pass_fds=metrics.owner_fds(),
            preexec_fn=_end_with_parent,  # noqa: PLW1509  nothing but a system call
        )
        running = [
            threads.start(f"penstock-keeper-{number}", keeper.run, limit=None)
            for number, keeper in enumerate(self._keepers, 1)
        ]
        code = self._gunicorn.wait()
        self._ending.set()
        for keeper in self._keepers:
            keeper.send(signal.SIGTERM)
        for thread in running:
            thread.join()
        return code if code >= 0 else 128 - code

    def _end(self, number: int, frame: FrameType | None) -> None:
        self._ending.set()
        self._pass_on(number, frame)
        for keeper in self._keepers:
            keeper.send(number)

    def _reload(self, number: int, frame: FrameType | None) -> None:
        threading.Thread(
            target=self._reload_all, args=(number, frame), name="penstock-reload", daemon=True
        ).start()

    def _reload_all(self, number: int, frame: FrameType | None) -> None:
        """Reload all processes, or none.

        A start is tried first, for a time, in a process of its own. Plugin code may hang or end
        that.
        """
        if not self._reloading.acquire(blocking=False):
            _rejected("another reload is under way", "another reload was under way")
            return
        try:
            _log.debug("reload: rehearsing a start")
            fault = self._rehearsed()
            if fault is None:
                _log.debug("reload: the rehearsal succeeded; replacing the processes")
                for keeper in self._keepers:
                    keeper.reload()
                self._pass_on(number, frame)
            elif not self._ending.is_set():
                _rejected("all processes go on with what they have", fault)
        finally:
            self._reloading.release()

    def _rehearsed(self) -> str | None:
        """Try a start, and return why it does not succeed now, None where it does.

        Where plugin code ended it, or hangs, that is logged here.
        """
        told, tell = os.pipe()
        os.set_blocking(told, False)
        try:
            command = [*REHEARSAL, "--ready-fd", str(tell)]
            child = subprocess.Popen(command, pass_fds=(tell,), preexec_fn=_end_with_parent)  # noqa: PLW1509, S603  our own command; nothing but a system call
            until = time.monotonic() + LONGEST_LOAD_S
            while (
                (code := child.poll()) is None
                and time.monotonic() < until
                and not self._ending.is_set()
            ):
                time.sleep(LOOK)
            word = b""
            with suppress(BlockingIOError):
                word = os.read(told, REASON)
        finally:
            os.close(told)
            os.close(tell)
        if code in {CannotStart.exit_code, StartDelayed.exit_code} and word:
            return word.decode("utf-8", "replace")
        if code == 0 and word == LOADED:
            return None
        fault = f"{ENDED} (exit code {code})"
        if code is None:
            child.send_signal(signal.SIGKILL)
            child.wait()
            fault = HANGS
        if not self._ending.is_set():
            _log.error(fault)
        return fault

    def _pass_on(self, number: int, _frame: FrameType | None) -> None:
        if self._gunicorn is not None:
            with suppress(ProcessLookupError):
                self._gunicorn.send_signal(number)
