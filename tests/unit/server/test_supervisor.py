"""What keeps a worker running beside gunicorn: it starts one again, and replaces it at a reload
by one that takes runs, or not at all."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from penstock import threads
from penstock.server import supervisor
from penstock.server.supervisor import Keeper

WORKER = """
import os, signal, sys, time
from pathlib import Path

here = Path(__file__).parent
mode = (here / "mode").read_text()
with (here / "log").open("a") as log:
    log.write(f"{mode} {os.getpid()}\\n")
ending = []
signal.signal(signal.SIGTERM, lambda *_: ending.append(1))
if mode == "not needed":
    os.write(int(sys.argv[-1]), b"0")
    sys.exit(0)
if mode.startswith("exit"):
    sys.exit(int(mode.split()[1]))
if mode == "ready":
    os.write(int(sys.argv[-1]), b"1")
while not ending:
    time.sleep(0.02)
sys.exit(143)
"""


class Kept:
    """A keeper whose worker is a script that does what a file says."""

    def __init__(self, folder: Path, mode: str) -> None:
        self.folder = folder
        self.ending = threading.Event()
        self.keeper = Keeper(self.ending)
        self.mode(mode)
        self.thread = threads.start("penstock-keeper", self.keeper.run, limit=None)

    def mode(self, mode: str) -> None:
        (self.folder / "mode").write_text(mode)

    def reload(self, mode: str) -> None:
        self.mode(mode)
        self.keeper.reload()

    def started(self) -> list[tuple[str, int]]:
        log = self.folder / "log"
        lines = (
            [line.rpartition(" ") for line in log.read_text().splitlines()] if log.exists() else []
        )
        return [(mode, int(pid)) for mode, _, pid in lines]

    def alive(self) -> list[int]:
        return [child.process.pid for child in self.keeper._children if child.ended() is None]  # noqa: SLF001  nothing tells it

    def stop(self) -> None:
        self.ending.set()
        self.keeper.send(signal.SIGTERM)
        self.thread.join(20)
        assert not self.thread.is_alive()


@pytest.fixture
def kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str], Kept]]:
    script = tmp_path / "worker.py"
    script.write_text(WORKER)
    monkeypatch.setattr(supervisor, "WORKER", (sys.executable, str(script)))
    monkeypatch.setattr(supervisor, "FIRST_PAUSE", 0.05)
    made: list[Kept] = []

    def start(mode: str) -> Kept:
        made.append(Kept(tmp_path, mode))
        return made[0]

    yield start
    made[0].stop()
    assert made[0].alive() == []


def until(says: Callable[[], object]) -> None:
    for _ in range(1000):
        if says():
            return
        time.sleep(0.02)
    raise AssertionError("it did not come")


def test_a_worker_is_replaced_once_its_successor_takes_runs(kept: Callable[[str], Kept]) -> None:
    here = kept("ready")
    until(lambda: len(here.started()) == 1)
    _, first = here.started()[0]

    here.reload("hang")
    until(lambda: len(here.started()) == 2)
    time.sleep(0.5)
    both = here.alive()
    os.kill(here.started()[1][1], signal.SIGKILL)  # it never took runs
    until(lambda: here.alive() == [first])
    here.reload("ready")
    until(lambda: len(here.alive()) == 1 and here.alive() != [first])

    assert len(both) == 2
    assert here.alive() == [here.started()[2][1]]


def test_a_successor_that_can_not_start_leaves_the_worker_as_it_is(
    kept: Callable[[str], Kept], monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[str] = []
    monkeypatch.setattr(supervisor, "_rejected", lambda what, _why: told.append(what))
    here = kept("ready")
    until(lambda: len(here.started()) == 1)
    _, first = here.started()[0]

    here.reload("exit 3")
    until(lambda: len(here.started()) == 2)
    until(lambda: here.alive() == [first])
    time.sleep(0.3)

    assert here.started()[1:] == [("exit 3", here.started()[1][1])]
    assert told == ["the durable worker goes on with what it has"]


def test_one_that_does_not_take_runs_in_time_is_given_up(
    kept: Callable[[str], Kept], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(supervisor, "LONGEST_START", 0.5)
    here = kept("ready")
    until(lambda: len(here.started()) == 1)
    _, first = here.started()[0]

    here.reload("hang")
    until(lambda: len(here.started()) == 2)

    until(lambda: here.alive() == [first])


def test_a_worker_that_is_not_needed_any_more_ends_and_comes_back_at_a_reload(
    kept: Callable[[str], Kept],
) -> None:
    here = kept("ready")
    until(lambda: len(here.started()) == 1)

    here.reload("not needed")
    until(lambda: here.alive() == [] and len(here.started()) == 2)
    time.sleep(0.3)
    quiet = len(here.started())
    here.reload("ready")
    until(lambda: len(here.alive()) == 1)

    assert quiet == 2


def test_a_worker_that_ends_by_itself_is_started_again_ever_later(
    kept: Callable[[str], Kept],
) -> None:
    here = kept("exit 1")
    until(lambda: len(here.started()) == 4)

    here.reload("ready")  # at once, and not when the pause is over
    until(lambda: len(here.alive()) == 1 and here.started()[-1][0] == "ready")


def test_a_worker_that_plugin_code_ends_without_a_fault_is_started_again(
    kept: Callable[[str], Kept],
) -> None:
    """`os._exit(0)` is no word of a worker that has nothing to do."""
    here = kept("exit 0")

    until(lambda: len(here.started()) >= 2)


def test_a_successor_that_plugin_code_ends_leaves_the_worker_as_it_is(
    kept: Callable[[str], Kept],
) -> None:
    here = kept("ready")
    until(lambda: len(here.started()) == 1)
    here.reload("exit 0")
    until(lambda: len(here.started()) == 2)
    time.sleep(0.5)

    assert here.alive() == [here.started()[0][1]]
