"""The watchdog itself, where a server would be too coarse."""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator

import pytest

from penstock.web.watchdog import Answered, Watchdog


@pytest.fixture
def ends() -> Iterator[tuple[socket.socket, socket.socket]]:
    ours, theirs = socket.socketpair()
    theirs.settimeout(5)
    with ours, theirs:
        yield ours, theirs


def test_one_answer_that_can_not_be_made_leaves_the_watchdog_alive(ends: tuple[socket.socket, socket.socket]) -> None:
    ours, theirs = ends
    watchdog = Watchdog(0.05)

    def impossible() -> bytes:
        raise ValueError("no answer")

    spare, other = socket.socketpair()
    with spare, other, pytest.raises(Answered):
        watchdog.run(lambda: time.sleep(0.3), spare, time.monotonic() + 0.05, impossible)
    with pytest.raises(Answered):
        watchdog.run(lambda: time.sleep(0.3), ours, time.monotonic() + 0.05, lambda: b"late")

    assert theirs.recv(100) == b"late"


def test_what_is_done_in_time_is_returned_and_nothing_is_written(ends: tuple[socket.socket, socket.socket]) -> None:
    ours, theirs = ends
    watchdog = Watchdog(0.05)

    done = [watchdog.run(lambda: "done", ours, time.monotonic() + 0.1, lambda: b"late") for _ in range(100)]
    time.sleep(0.3)
    theirs.setblocking(False)

    assert done == ["done"] * 100
    with pytest.raises(BlockingIOError):
        theirs.recv(1)


def test_a_caller_that_is_gone_costs_nobody_anything(ends: tuple[socket.socket, socket.socket]) -> None:
    ours, theirs = ends
    theirs.close()

    with pytest.raises(Answered):
        Watchdog(0.05).run(lambda: time.sleep(0.3), ours, time.monotonic() + 0.05, lambda: b"late")
