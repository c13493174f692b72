"""A process that has imported everything once: the commands and servers of tests are its forks, for
imports take most of a second.

A server is what `penstock serve` starts: the supervisor is a fork, and so are the gunicorn and the
workers that it starts, in place of new interpreters. `tests/functional/test_serving.py` starts them
as operators do.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import runpy
import signal
import subprocess
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

PAUSE = 0.02  # seconds between two looks whether a server has ended


class Zygote:
    """Runs commands in forks of a process of its own, each with its own environment, folder and
    standard streams."""

    def __init__(self) -> None:
        self._turn = threading.Lock()
        self._process: subprocess.Popen[str] | None = None

    def run(
        self, words: tuple[str, ...], env: dict[str, str], folder: Path, given: str | None
    ) -> subprocess.CompletedProcess[str]:
        """Run `penstock` with these words."""
        with tempfile.TemporaryDirectory() as streams:
            paths = [Path(streams) / name for name in ("in", "out", "err")]
            paths[0].write_text(given or "", encoding="utf-8")
            status = self._ask(
                do="run",
                words=words,
                env=env,
                folder=str(folder),
                streams=[str(path) for path in paths],
            )
            return subprocess.CompletedProcess(
                ["penstock", *words],
                status,
                paths[1].read_text("utf-8"),
                paths[2].read_text("utf-8"),
            )

    def start(
        self, words: tuple[str, ...], env: dict[str, str], folder: Path, log: Path
    ) -> Started:
        """Start `penstock` with these words, and do not wait for it."""
        log.touch()
        return Started(
            self._ask(
                do="start",
                words=words,
                env=env,
                folder=str(folder),
                streams=[os.devnull, str(log), str(log)],
            ),
            self,
        )

    def ended(self, pid: int) -> int | None:
        """Return the exit code of what was started, or None while it runs."""
        code: int | None = self._ask(do="look", pid=pid)
        return code

    def _ask(self, **request: object) -> Any:
        with self._turn:
            if self._process is None or self._process.poll() is not None:
                self._process = subprocess.Popen(
                    [sys.executable, __file__],
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    text=True,
                )
            assert self._process.stdin is not None
            assert self._process.stdout is not None
            self._process.stdin.write(json.dumps(request) + "\n")
            self._process.stdin.flush()
            return json.loads(self._process.stdout.readline())


class Started:
    """A process that the zygote has started, to be used like a `subprocess.Popen`."""

    def __init__(self, pid: int, zygote: Zygote) -> None:
        self.pid = pid
        self.returncode: int | None = None
        self._zygote = zygote

    def poll(self) -> int | None:
        """Return its exit code, or None while it runs."""
        if self.returncode is None:
            self.returncode = self._zygote.ended(self.pid)
        return self.returncode

    def wait(self, timeout: float = float("inf")) -> int:
        """Wait for its end, and return its exit code. Raises TimeoutExpired."""
        until = time.monotonic() + timeout
        while (code := self.poll()) is None:
            if time.monotonic() >= until:
                raise subprocess.TimeoutExpired("penstock", timeout)
            time.sleep(PAUSE)
        return code

    def send_signal(self, number: int) -> None:
        """Send it a signal, unless it has ended."""
        if self.poll() is None:
            os.kill(self.pid, number)

    def terminate(self) -> None:
        """Ask it to end."""
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        """End it."""
        self.send_signal(signal.SIGKILL)


class Forked:
    """A program of Python that was started as a fork of this process: what `subprocess.Popen` is
    to one that has to import everything."""

    def __init__(
        self,
        command: Sequence[str],
        *,
        preexec_fn: Callable[[], object],
        pass_fds: Sequence[int] = (),
    ) -> None:
        self.returncode: int | None = None
        self.pid = os.fork()
        if self.pid == 0:
            become(lambda: self._run(command, preexec_fn, pass_fds))

    @staticmethod
    def _run(
        command: Sequence[str], preexec_fn: Callable[[], object], pass_fds: Sequence[int]
    ) -> None:
        for number in sorted(
            {int(entry.name) for entry in Path("/proc/self/fd").iterdir()} - {0, 1, 2, *pass_fds}
        ):
            with contextlib.suppress(OSError):  # the one that listed them
                os.close(number)
        for number in (
            signal.SIGHUP,
            signal.SIGTERM,
            signal.SIGINT,
            signal.SIGQUIT,
            signal.SIGUSR1,
            signal.SIGUSR2,
            signal.SIGWINCH,
            signal.SIGCHLD,
        ):
            signal.signal(number, signal.SIG_DFL)
        preexec_fn()
        sys.argv = list(command[2:])  # the interpreter and -m come first
        runpy.run_module(command[2], run_name="__main__", alter_sys=True)

    def poll(self) -> int | None:
        """Return its exit code, or None while it runs."""
        if self.returncode is None:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            self.returncode = os.waitstatus_to_exitcode(status) if pid else None
        return self.returncode

    def wait(self) -> int:
        """Wait for its end, and return its exit code."""
        if self.returncode is None:
            self.returncode = os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])
        return self.returncode

    def send_signal(self, number: int) -> None:
        """Send it a signal."""
        if self.returncode is None:
            os.kill(self.pid, number)


def become(work: Callable[[], object]) -> None:
    """Do what a fork is for, and end it as the interpreter ends a process."""
    code = 70
    try:
        random.seed()
        work()
        code = 0
    except SystemExit as error:
        code = error.code if isinstance(error.code, int) else 0 if error.code is None else 1
    except BaseException:  # noqa: BLE001  as the interpreter does at the end of a process
        traceback.print_exc()
        code = 1
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def serve() -> None:
    """Do what each line of standard input asks for, and print what came of it."""
    import jwt

    import penstock.cli
    import penstock.durable.engine_dbos
    import penstock.server.supervisor
    import penstock.web
    import penstock.worker

    # What plugins import; plugins themselves are for each process to load, and so is gunicorn,
    # which keeps the folder it is in.
    assert jwt
    assert "gunicorn" not in sys.modules
    ended: dict[int, int] = {}
    for line in sys.stdin:
        request = json.loads(line)
        sys.stdout.write(json.dumps(handle(request, penstock.cli.main, ended)) + "\n")
        sys.stdout.flush()


def handle(
    request: dict[str, Any], main: Callable[[], object], ended: dict[int, int]
) -> int | None:
    """Run a command and return its exit code, start one and return its process id, or look
    whether one has ended."""
    if request["do"] == "look":
        if request["pid"] not in ended:
            pid, status = os.waitpid(request["pid"], os.WNOHANG)
            if not pid:
                return None
            ended[pid] = os.waitstatus_to_exitcode(status)
        return ended[request["pid"]]
    child = os.fork()
    if child == 0:
        become(lambda: run_in_fork(request, main))
    return child if request["do"] == "start" else os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def run_in_fork(request: dict[str, Any], main: Callable[[], object]) -> None:
    """Become the command that was asked for."""
    os.environ.clear()
    os.environ.update(request["env"])
    os.chdir(request["folder"])
    for number, path in enumerate(request["streams"]):
        os.dup2(os.open(path, os.O_RDWR | os.O_CREAT | (os.O_APPEND if number else 0)), number)
    sys.stdin, sys.stdout, sys.stderr = (
        os.fdopen(number, mode, 1, closefd=False) for number, mode in ((0, "r"), (1, "w"), (2, "w"))
    )
    sys.argv = ["penstock", *request["words"]]
    if request["do"] == "start":
        import penstock.server.supervisor

        penstock.server.supervisor.subprocess.Popen = Forked  # type: ignore[misc, assignment]  # it does what is asked of it there
    main()


if __name__ == "__main__":
    serve()
