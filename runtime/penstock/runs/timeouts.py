"""Run work in a thread of its own, with a deadline for the caller."""

from __future__ import annotations

import contextvars
import queue
import threading
import time
from collections.abc import Callable
from typing import TypeVar

Result = TypeVar("Result")


class TimedOut(Exception):
    """Raised at the deadline. The worker thread keeps running; its result is discarded."""


def run_with_deadline(
    work: Callable[[], Result], deadline: float, ended: Callable[[], None] = lambda: None
) -> Result:
    """Return the result of `work`, or raise TimedOut at the deadline.

    The deadline is a `time.monotonic()` reading. `ended` is called when the work ends, also after
    the deadline.
    """
    done: queue.SimpleQueue[tuple[Result | None, BaseException | None]] = queue.SimpleQueue()
    context = contextvars.copy_context()

    def run() -> None:
        try:
            done.put((context.run(work), None))
        except BaseException as error:  # noqa: BLE001  it is raised in the thread that waits
            done.put((None, error))
        finally:
            ended()

    threading.Thread(target=run, name="penstock-deadline", daemon=True).start()
    try:
        result, error = done.get(timeout=max(0.0, deadline - time.monotonic()))
    except queue.Empty:
        raise TimedOut from None
    if error is not None:
        raise error
    return result  # type: ignore[return-value]  # without an error there is a result
