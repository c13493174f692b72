"""The Leader/Followers pool: an event is served at once, however busy the thread before it is."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Iterator

import pytest

from penstock.http.leader_followers import MAX_BUSY_S, LeaderFollowers

Job = Callable[[], object]


class Rig:
    """A pool whose events are jobs from a queue."""

    def __init__(self, limit: int) -> None:
        self.jobs: queue.SimpleQueue[Job] = queue.SimpleQueue()
        self.pool: LeaderFollowers[Job] = LeaderFollowers(limit, self._poll, lambda job: job())
        self.pool.start()

    def _poll(self) -> Iterator[Job]:
        try:
            yield self.jobs.get(timeout=0.05)
        except queue.Empty:
            return

    def serving_thread(self) -> int | None:
        """Return the thread that serves the next job, None if none does within two seconds."""
        served: queue.SimpleQueue[int] = queue.SimpleQueue()
        self.jobs.put(lambda: served.put(threading.get_ident()))
        try:
            return served.get(timeout=2)
        except queue.Empty:
            return None


@pytest.fixture
def release() -> Iterator[threading.Event]:
    event = threading.Event()
    yield event
    event.set()


def test_one_thread_serves_all_short_jobs() -> None:
    rig = Rig(8)

    assert len({rig.serving_thread() for _ in range(50)}) == 1


def test_another_thread_serves_while_the_leader_is_busy(release: threading.Event) -> None:
    rig = Rig(8)
    for _ in range(3):
        rig.jobs.put(lambda: release.wait(10))

    assert rig.serving_thread() is not None


def test_the_leader_can_promote_another_thread_before_a_long_job(
    release: threading.Event,
) -> None:
    rig = Rig(8)
    began: queue.SimpleQueue[int] = queue.SimpleQueue()

    def slow() -> None:
        rig.pool.promote_next()
        began.put(threading.get_ident())
        release.wait(10)

    rig.jobs.put(slow)

    assert rig.serving_thread() not in {None, began.get(timeout=2)}


def test_only_the_leader_can_promote_another_thread() -> None:
    rig = Rig(2)
    first = rig.serving_thread()
    rig.pool.promote_next()

    assert rig.serving_thread() == first


def test_if_all_threads_are_busy_the_first_free_one_leads(release: threading.Event) -> None:
    rig = Rig(2)
    for _ in range(2):
        rig.jobs.put(lambda: release.wait(10))
    time.sleep(20 * MAX_BUSY_S)
    threading.Timer(0.2, release.set).start()

    assert rig.serving_thread() is not None
