"""Run a command in a child process: plugin code may exit or hang while it is loaded."""

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
from penstock.plugins.guard import LONGEST_LOAD_S, describe_exception, ended_text, hangs_text
from penstock.plugins.progress import LoadingNote, write_progress_to

POLL_S = 0.2  # between two checks whether the child has exited
# Ends each of the child's two reports: that plugins are loaded, and the result of the work.
END = b"\n"


class Failed(PenstockError):
    """The command failed in its child process; text and exit code are those of its error."""

    def __init__(self, text: str, exit_code: int) -> None:
        super().__init__(text)
        self.exit_code = exit_code


def run_isolated(load: Callable[[], object], work: Callable[[], int]) -> int:
    """Load plugins and do the work in a child process, and return the exit code.

    Raises Failed if the child fails, exits early or does not finish loading in time.
    """
    sys.stdout.flush()
    sys.stderr.flush()
    reader, writer = os.pipe()
    note = LoadingNote()
    child = os.fork()
    if not child:
        os.close(reader)
        write_progress_to(note.fileno())
        _report(writer, load, work)
    os.close(writer)
    try:
        answer = _answer(reader, child, note)
        if not answer:
            raise Failed(ended_text(note.read()), 1)
    finally:
        os.close(reader)
        note.close()
    code, text = json.loads(answer)
    if text is not None:
        raise Failed(text, code)
    return int(code)


def _report(writer: int, load: Callable[[], object], work: Callable[[], int]) -> None:
    """Do the work of the child, report its result, and exit."""
    answer: tuple[int, str | None]
    try:
        load()
        os.write(writer, END)
        answer = work(), None
    except PenstockError as error:
        answer = error.exit_code, str(error)
    except click.ClickException as error:
        answer = error.exit_code, error.format_message()
    except BaseException as error:  # noqa: BLE001  the child must exit here, also after SystemExit
        answer = CannotStart.exit_code, f"stopped by {describe_exception(error)}"
    with suppress(BrokenPipeError, ValueError):
        sys.stdout.flush()
        sys.stderr.flush()
    os.write(writer, END + json.dumps(answer).encode() + END)
    os._exit(0)


def _answer(reader: int, child: int, note: LoadingNote) -> bytes:
    """Return the report of the child, or nothing if it exited before. Raises Failed.

    A process that plugin code started may keep the pipe open. So the end of the report is
    recognised by its form, and not by the end of the pipe.
    """
    read, until, ended = b"", time.monotonic() + LONGEST_LOAD_S, False
    while not (read.strip() and read.endswith(END)):
        if select.select([reader], [], [], POLL_S)[0]:
            part = os.read(reader, 65_536)
            read += part
            if part:
                continue
        elif not read and time.monotonic() >= until:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
            raise Failed(hangs_text(note.read()), 1)
        if ended:  # everything that it wrote is read
            return b""
        ended = os.waitpid(child, os.WNOHANG)[0] == child
    if not ended:
        os.waitpid(child, 0)
    return read.strip()
