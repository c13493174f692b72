"""Set-up for tests of durable runs in real processes: worker processes, what plugins noted, and
waiting for what comes."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

from penstock.contracts.run_status import UNFINISHED
from support.place import ZYGOTE, Place, Server
from support.zygote import Started

Serve = Callable[..., Server]
StartWorker = Callable[..., Started]

NOTE = """
import os, time
from pathlib import Path

HERE = Path(__file__).parent

def note(text):
    with (HERE / "noted").open("a") as noted:
        noted.write(text + "\\n")
"""


@contextmanager
def workers() -> Iterator[StartWorker]:
    """Yield what starts worker processes; they end with the block."""
    with ExitStack() as stack:

        def start(place: Place, **more: str) -> Started:
            process = ZYGOTE.start(
                ("worker",),
                place.environ(**more),
                place.folder,
                place.folder / f"worker-{time.monotonic_ns()}.log",
            )
            stack.callback(process.wait)
            stack.callback(process.kill)
            return process

        yield start


def noted(place: Place) -> list[str]:
    """Return what plugins noted so far, a line each."""
    path = place.folder / "plugins" / "noted"
    return path.read_text().splitlines() if path.exists() else []


def until(says: Callable[[], Any], seconds: float = 180) -> Any:
    """Wait until something is so, and return it.

    The bound is for a busy machine: it costs nothing where the thing comes.
    """
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if found := says():
            return found
        time.sleep(0.1)
    raise AssertionError("it did not come")


def over(server: Server, location: str, key: str) -> Callable[[], dict[str, Any] | None]:
    """Return what looks up a run, and returns it once it is over."""

    def look() -> dict[str, Any] | None:
        document: dict[str, Any] = server.call("GET", location, key=key).json()
        return document if document["status"] not in UNFINISHED else None

    return look
