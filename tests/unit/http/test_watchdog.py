"""The deadline watchdog alone, with a clock that the test controls."""

from __future__ import annotations

import queue
import socket
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack

import pytest

from penstock import threads
from penstock.http.watchdog import AlreadyAnswered, DeadlineWatchdog


@pytest.fixture
def ends() -> Iterator[tuple[socket.socket, socket.socket]]:
    server_end, client_end = socket.socketpair()
    client_end.settimeout(5)
    with server_end, client_end:
        yield server_end, client_end


def test_an_answer_that_can_not_be_built_leaves_the_watchdog_alive(
    ends: tuple[socket.socket, socket.socket],
) -> None:
    server_end, client_end = ends
    watchdog = DeadlineWatchdog(0.05)

    def impossible() -> bytes:
        raise ValueError("no answer")

    spare, other = socket.socketpair()
    with spare, other, pytest.raises(AlreadyAnswered):
        watchdog.run(lambda: time.sleep(0.3), spare, time.monotonic() + 0.05, impossible)
    with pytest.raises(AlreadyAnswered):
        watchdog.run(lambda: time.sleep(0.3), server_end, time.monotonic() + 0.05, lambda: b"late")

    assert client_end.recv(100) == b"late"


def test_work_that_ends_in_time_is_returned_and_nothing_is_sent(
    ends: tuple[socket.socket, socket.socket],
) -> None:
    server_end, client_end = ends
    watchdog = DeadlineWatchdog(0.05)

    done = [
        watchdog.run(lambda: "done", server_end, time.monotonic() + 0.1, lambda: b"late")
        for _ in range(100)
    ]
    time.sleep(0.3)
    client_end.setblocking(False)

    assert done == ["done"] * 100
    with pytest.raises(BlockingIOError):
        client_end.recv(1)


def test_a_caller_that_disconnected_raises_no_other_error(
    ends: tuple[socket.socket, socket.socket],
) -> None:
    server_end, client_end = ends
    client_end.close()

    with pytest.raises(AlreadyAnswered):
        DeadlineWatchdog(0.05).run(
            lambda: time.sleep(0.3), server_end, time.monotonic() + 0.05, lambda: b"late"
        )


class Clock:
    """A clock that stands still while the watchdog sleeps, until the test wakes it."""

    def __init__(self) -> None:
        self.now = 1000.0
        self._asked: queue.Queue[float] = queue.Queue()
        self._awake: queue.Queue[None] = queue.Queue()

    def sleep(self, seconds: float) -> None:
        self._asked.put(self.now + seconds)
        self._awake.get()

    def wakes_at(self) -> float:
        """Wait until the watchdog sleeps, and return the end of its sleep."""
        return self._asked.get(timeout=10)

    def wake(self, moment: float) -> None:
        self.now = max(moment, self.now + 0.001)  # even a sleep of zero seconds takes time
        self._awake.put(None)


@pytest.mark.parametrize("limits", [(0.3,), (0.35, 0.31, 0.9), (2.0, 0.3, 300.0)])
def test_callers_are_answered_at_most_100_ms_after_their_deadline(
    limits: tuple[float, ...],
) -> None:
    clock = Clock()
    watchdog = DeadlineWatchdog(min(limits), now=lambda: clock.now, sleep=clock.sleep)
    late: dict[float, float] = {}
    release = threading.Event()
    with ExitStack() as stack:
        pool = stack.enter_context(ThreadPoolExecutor(len(limits) + 1))
        stack.callback(release.set)

        def call(limit: float) -> None:
            """Begin a call that does not end, and record how late it is answered."""
            began = threading.Event()
            server_end, _ = (stack.enter_context(end) for end in socket.socketpair())
            deadline = clock.now + limit

            def answer() -> bytes:
                late[limit] = clock.now - deadline
                return b"late"

            pool.submit(
                watchdog.run, lambda: began.set() or release.wait(30), server_end, deadline, answer
            )
            assert began.wait(10)

        call(1000.0)
        until = clock.wakes_at()
        clock.now += 0.1  # the other calls begin while it sleeps
        for limit in limits:
            call(limit)
        while len(late) < len(limits):
            clock.wake(until)
            until = clock.wakes_at()

    assert all(0 <= seconds <= 0.1 for seconds in late.values()), late
    threads._reset()  # noqa: SLF001  this watchdog never wakes, and must not count as stuck in later tests
