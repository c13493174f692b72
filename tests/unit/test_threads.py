"""Threads that a process depends on: an exception ends none of them, and one that hangs is seen."""

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
from penstock.access.snapshot import Snapshot
from penstock.db.history import HistoryPoint
from penstock.server.inherited import InheritedView
from penstock.settings import Settings

ONE_SHOT = {  # they do one thing and end; whoever waits for it is told, or does it again
    "plugins/guard.py",
    "threads.py",
    "runs/timeouts.py",
    "runs/recent_callers.py",
    "server/supervisor.py",  # a reload: its exceptions are logged by the hook for threads
}


@pytest.fixture(autouse=True)
def at_once(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(threads, "FIRST_PAUSE_S", 0.01)
    structlog.reset_defaults()
    yield
    structlog.reset_defaults()


def until(says: Callable[[], object]) -> None:
    for _ in range(500):
        if says():
            return
        time.sleep(0.01)
    raise AssertionError("it did not come")


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


def test_one_that_hangs_is_stuck_until_it_goes_on() -> None:
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


def test_every_thread_that_goes_on_is_one_of_these() -> None:
    package = ROOT / "runtime" / "penstock"
    starting = {
        str(path.relative_to(package))
        for path in package.rglob("*.py")
        if re.search(r"\bThread\(", path.read_text(encoding="utf-8"))
    }

    assert starting == ONE_SHOT


MARK = b"m" * 16


class TestInheritedView:
    """What a worker is forked with."""

    @pytest.fixture
    def view(self) -> InheritedView:
        view = InheritedView(
            Settings(max_staleness=60, database_url="sqlite:////nowhere/at/all.db")
        )
        view.access = Snapshot("test", None)  # type: ignore[arg-type]  # nothing is decrypted
        view.access._point = HistoryPoint(5, MARK)  # noqa: SLF001  it is read from a database otherwise
        view.access.checked_at = time.monotonic() - 300
        return view

    def test_it_is_as_fresh_as_the_workers_while_nothing_changed(self, view: InheritedView) -> None:
        view.confirm(HistoryPoint(5, MARK), time.monotonic() - 3)
        view.keep_up()
        access = view.inherit()

        assert access is not None
        assert (view.contradicted, access.age() < 60) == (False, True)

    def test_without_a_word_of_them_it_is_as_old_as_it_is(self, view: InheritedView) -> None:
        view.keep_up()
        access = view.inherit()

        assert access is not None
        assert access.age() > 250

    @pytest.mark.parametrize(
        "point",
        [
            HistoryPoint(4, MARK),
            HistoryPoint(6, MARK),
            HistoryPoint(5, bytes(16)),
            HistoryPoint(5, None),
        ],
        ids=["the database was put back", "something was revoked", "another history", "no history"],
    )
    def test_it_is_no_view_to_start_with_where_a_worker_knew_another(
        self, view: InheritedView, point: HistoryPoint
    ) -> None:
        view.confirm(point, time.monotonic() - 3)
        view.keep_up()
        access = view.inherit()

        assert access is not None
        assert (view.contradicted, access.age() > 250) == (True, True)

    def test_what_was_told_too_long_ago_counts_no_more(self, view: InheritedView) -> None:
        view.confirm(HistoryPoint(6, MARK), time.monotonic() - 61)
        view.keep_up()

        assert not view.contradicted
