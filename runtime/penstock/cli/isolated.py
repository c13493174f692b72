"""Run a command in a child: plugin code may end its process, or hang, while it is loaded."""

from __future__ import annotations

import json
import os
import select
import signal
import sys
import time
from collections.abc import Callable
from contextlib import suppress

import click

from penstock.errors import CannotStart, PenstockError
from penstock.plugins.guard import ENDED, HANGS, LONGEST_LOAD_S, describe_exception

LOOK_S = 0.2  # between two looks at whether the child has ended
END = b"\n"  # of each of its two reports: that plugins are loaded, and how the work ended


class Failed(PenstockError):
    """The command failed in its process; the text and the exit code are those of its error."""

    def __init__(self, text: str, exit_code: int) -> None:
        super().__init__(text)
        self.exit_code = exit_code


def apart(load: Callable[[], object], work: Callable[[], int]) -> int:
    """Load plugins and work in a child, and return the exit code. Raises Failed."""
    sys.stdout.flush()
    sys.stderr.flush()
    told, tell = os.pipe()
    child = os.fork()
    if not child:
        os.close(told)
        _report(tell, load, work)
    os.close(tell)
    try:
        answer = _answer(told, child)
    finally:
        os.close(told)
    if not answer:
        raise Failed(ENDED, 1)
    code, text = json.loads(answer)
    if text is not None:
        raise Failed(text, code)
    return int(code)


def _report(tell: int, load: Callable[[], object], work: Callable[[], int]) -> None:
    """Do the work of the child, and end it."""
    answer: tuple[int, str | None]
    try:
        load()
        os.write(tell, END)
        answer = work(), None
    except PenstockError as error:
        answer = error.exit_code, str(error)
    except click.ClickException as error:
        answer = error.exit_code, error.format_message()
    except BaseException as error:  # noqa: BLE001  whatever it is, the child must end here
        answer = CannotStart.exit_code, f"stopped by {describe_exception(error)}"
    with suppress(BrokenPipeError, ValueError):
        sys.stdout.flush()
        sys.stderr.flush()
    os.write(tell, END + json.dumps(answer).encode() + END)
    os._exit(0)


def _answer(told: int, child: int) -> bytes:
    """Return how the work ended, nothing where the child ended before. Raises Failed.

    A process that plugin code leaves behind may hold the pipe open, so its end is not waited for.
    """
    read, until, ended = b"", time.monotonic() + LONGEST_LOAD_S, False
    while not (read.strip() and read.endswith(END)):
        if select.select([told], [], [], LOOK_S)[0]:
            part = os.read(told, 65_536)
            read += part
            if part:
                continue
        elif not read and time.monotonic() >= until:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
            raise Failed(HANGS, 1)
        if ended:  # and all that it wrote is read
            return b""
        ended = os.waitpid(child, os.WNOHANG)[0] == child
    if not ended:
        os.waitpid(child, 0)
    return read.strip()
