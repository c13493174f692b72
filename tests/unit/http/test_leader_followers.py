"""Threads that take turns: what comes is handled at once, whatever the one before it is doing."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Iterator

import pytest

from penstock.http.leader_followers import MAX_BUSY_S, LeaderFollowers

Job = Callable[[], object]


class Row:
    """Jobs that come one by one, and the turns that do them."""

    def __init__(self, most: int) -> None:
        self.coming: queue.SimpleQueue[Job] = queue.SimpleQueue()
        self.turns: LeaderFollowers[Job] = LeaderFollowers(most, self._wait, lambda job: job())
        self.turns.start()

    def _wait(self) -> Iterator[Job]:
        try:
            yield self.coming.get(timeout=0.05)
        except queue.Empty:
            return

    def done_by(self) -> int | None:
        """Return the thread that does what comes next; None where nobody does within two
        seconds."""
        told: queue.SimpleQueue[int] = queue.SimpleQueue()
        self.coming.put(lambda: told.put(threading.get_ident()))
        try:
            return told.get(timeout=2)
        except queue.Empty:
            return None


@pytest.fixture
def release() -> Iterator[threading.Event]:
    event = threading.Event()
    yield event
    event.set()


def test_one_thread_does_what_is_quickly_done() -> None:
    row = Row(8)

    assert len({row.done_by() for _ in range(50)}) == 1


def test_another_takes_the_turn_of_one_that_is_busy(release: threading.Event) -> None:
    row = Row(8)
    for _ in range(3):
        row.coming.put(lambda: release.wait(10))

    assert row.done_by() is not None


def test_who_is_about_to_be_busy_gives_the_turn_away_at_once(release: threading.Event) -> None:
    row = Row(8)
    began: queue.SimpleQueue[int] = queue.SimpleQueue()

    def slow() -> None:
        row.turns.promote_next()
        began.put(threading.get_ident())
        release.wait(10)

    row.coming.put(slow)

    assert row.done_by() not in {None, began.get(timeout=2)}


def test_only_the_one_whose_turn_it_is_can_give_it_away() -> None:
    row = Row(2)
    first = row.done_by()
    row.turns.promote_next()

    assert row.done_by() == first


def test_when_all_are_busy_the_first_that_is_done_goes_on(release: threading.Event) -> None:
    row = Row(2)
    for _ in range(2):
        row.coming.put(lambda: release.wait(10))
    time.sleep(20 * MAX_BUSY_S)
    threading.Timer(0.2, release.set).start()

    assert row.done_by() is not None
