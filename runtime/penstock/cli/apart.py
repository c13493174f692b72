"""Run a command in a child: plugin code may end its process, or hang, while it is loaded."""

from __future__ import annotations

import json
import os
import select
import signal
import sys
import time
from collections.abc import Callable

from penstock.errors import PenstockError

LONGEST_LOAD_S = 60.0  # as long as a reload waits
LOADED = b"\n"


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
        answer = _answer(told)
    except TimeoutError:
        os.kill(child, signal.SIGKILL)
        raise Failed(
            f"plugins were not loaded in {LONGEST_LOAD_S:g} s:"
            " one of them hangs while it is imported or registered",
            1,
        ) from None
    finally:
        os.close(told)
        os.waitpid(child, 0)
    if not answer:
        raise Failed(
            "a plugin ended the process while it was loaded, as os._exit and crashes do", 1
        )
    code, text = json.loads(answer)
    if text is not None:
        raise Failed(text, code)
    return int(code)


def _report(tell: int, load: Callable[[], object], work: Callable[[], int]) -> None:
    """Do the work of the child, and end it."""
    answer: tuple[int, str | None] | None = None
    try:
        load()
        os.write(tell, LOADED)
        answer = work(), None
    except PenstockError as error:
        answer = error.exit_code, str(error)
    except BaseException:  # noqa: BLE001  the excepthook of the interpreter never sees it
        sys.excepthook(*sys.exc_info())
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        if answer is not None:
            os.write(tell, LOADED + json.dumps(answer).encode())
        os._exit(0)


def _answer(told: int) -> bytes:
    """Return what the child reports, nothing where it ended without. Raises TimeoutError."""
    read, until = b"", time.monotonic() + LONGEST_LOAD_S
    while True:
        wait = None if read else max(0.0, until - time.monotonic())
        if not select.select([told], [], [], wait)[0]:
            raise TimeoutError
        part = os.read(told, 65_536)
        if not part:
            return read.strip()
        read += part
