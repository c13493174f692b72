"""Threads of the runtime: an exception does not end them, and a hanging thread is detected."""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Callable, Iterator

import pytest
import structlog
from structlog.testing import capture_logs
from support.place import ROOT

from penstock import threads

# Modules that start a thread for one task. Its caller gets the exception, or repeats the task.
ONE_SHOT = {
    "plugins/guard.py",
    "threads.py",
    "runs/timeouts.py",
    "server/supervisor.py",  # a reload: the hook for threads logs its exceptions
    "server/worker_start.py",  # pages that are rendered again when users ask for them
}


@pytest.fixture(autouse=True)
def short_pauses(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(threads, "FIRST_PAUSE_S", 0.01)
    structlog.reset_defaults()
    yield
    structlog.reset_defaults()


def until(condition: Callable[[], object]) -> None:
    for _ in range(500):
        if condition():
            return
        time.sleep(0.01)
    raise AssertionError("the condition did not become true")


@pytest.mark.parametrize(
    "error", [RuntimeError("damaged"), SystemExit(0), KeyboardInterrupt(), MemoryError()], ids=repr
)
def test_work_that_fails_is_logged_with_its_cause_and_called_again(error: BaseException) -> None:
    called: list[threads.MonitoredThread] = []
    done = threading.Event()

    def work(thread: threads.MonitoredThread) -> None:
        called.append(thread)
        if len(called) <= 2:
            raise error
        done.set()

    with capture_logs() as lines:
        thread = threads.start("penstock-fails", work, limit=10)
        assert done.wait(5)
        thread.join(5)

    assert (len(called), thread.failures, thread in threads.running()) == (3, 2, False)
    assert [(line["thread"], line["exc_info"]) for line in lines] == [("penstock-fails", error)] * 2


def test_a_hanging_thread_is_stuck_until_its_next_heartbeat() -> None:
    release, end = threading.Event(), threading.Event()

    def work(thread: threads.MonitoredThread) -> None:
        release.wait(10)
        while not end.wait(0.01):
            thread.heartbeat()

    thread = threads.start("penstock-hangs", work, limit=0.2)
    other = threads.start("penstock-may-hang", lambda _: end.wait(10), limit=0.1, essential=False)
    try:
        until(lambda: thread in threads.stuck())
        until(lambda: other.stuck)
        assert other not in threads.stuck()
        release.set()
        until(lambda: thread not in threads.stuck())
    finally:
        release.set()
        end.set()


def test_only_threads_for_one_task_are_started_without_monitoring() -> None:
    package = ROOT / "runtime" / "penstock"
    starting = {
        str(path.relative_to(package))
        for path in package.rglob("*.py")
        if re.search(r"\bThread\(", path.read_text(encoding="utf-8"))
    }

    assert starting == ONE_SHOT
