"""The keeper of a worker process: it restarts the worker, and replaces it at a reload only by a
worker that executes runs."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from tempfile import TemporaryFile

import pytest

from penstock import threads
from penstock.server import keeper as keeper_module
from penstock.server.keeper import WorkerKeeper

WORKER = """
import os, signal, sys, time
from pathlib import Path

folder = Path(__file__).parent
mode = (folder / "mode").read_text()
with (folder / "log").open("a") as log:
    log.write(f"{mode} {os.getpid()}\\n")
stopping = []
signal.signal(signal.SIGTERM, lambda *_: stopping.append(1))
if mode == "not needed":
    os.write(int(sys.argv[-1].split(",")[-1]), b"0")
    sys.exit(0)
if mode.startswith("exit"):
    sys.exit(int(mode.split()[1]))
if mode == "ready":
    os.write(int(sys.argv[-1].split(",")[-1]), b"1")
while not stopping:
    time.sleep(0.02)
sys.exit(143)
"""


class Rig:
    """A keeper whose worker is a script that behaves as the file `mode` says."""

    def __init__(self, folder: Path, mode: str) -> None:
        self.folder = folder
        self.stopping = threading.Event()
        self.sources = TemporaryFile()  # noqa: SIM115  `stop` closes it
        self.keeper = WorkerKeeper(self.stopping, self.sources)
        self.set_mode(mode)
        self.thread = threads.start("penstock-keeper", self.keeper.run, limit=None)

    def set_mode(self, mode: str) -> None:
        (self.folder / "mode").write_text(mode)

    def reload(self, mode: str) -> None:
        self.set_mode(mode)
        self.keeper.reload(self.sources)

    def started(self) -> list[tuple[str, int]]:
        """Return mode and process id of all workers that were started."""
        log = self.folder / "log"
        lines = (
            [line.rpartition(" ") for line in log.read_text().splitlines()] if log.exists() else []
        )
        return [(mode, int(pid)) for mode, _, pid in lines]

    def alive(self) -> list[int]:
        return [
            worker.process.pid
            for worker in self.keeper._workers  # noqa: SLF001  it has no other way to ask
            if worker.exit_code() is None
        ]

    def stop(self) -> None:
        self.stopping.set()
        self.keeper.send(signal.SIGTERM)
        self.thread.join(20)
        assert not self.thread.is_alive()
        self.sources.close()


@pytest.fixture
def keep(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str], Rig]]:
    script = tmp_path / "worker.py"
    script.write_text(WORKER)
    monkeypatch.setattr(keeper_module, "WORKER", (sys.executable, str(script)))
    monkeypatch.setattr(keeper_module, "FIRST_PAUSE_S", 0.05)
    rigs: list[Rig] = []

    def start(mode: str) -> Rig:
        rigs.append(Rig(tmp_path, mode))
        return rigs[0]

    yield start
    rigs[0].stop()
    assert rigs[0].alive() == []


def until(condition: Callable[[], object]) -> None:
    for _ in range(1000):
        if condition():
            return
        time.sleep(0.02)
    raise AssertionError("the condition did not become true")


def test_a_worker_is_replaced_once_its_successor_executes_runs(keep: Callable[[str], Rig]) -> None:
    rig = keep("ready")
    until(lambda: len(rig.started()) == 1)
    _, first = rig.started()[0]

    rig.reload("hang")
    until(lambda: len(rig.started()) == 2)
    time.sleep(0.5)
    both = rig.alive()
    os.kill(rig.started()[1][1], signal.SIGKILL)  # it never executed runs
    until(lambda: rig.alive() == [first])
    rig.reload("ready")
    until(lambda: len(rig.alive()) == 1 and rig.alive() != [first])

    assert len(both) == 2
    assert rig.alive() == [rig.started()[2][1]]


def test_a_worker_stays_if_its_successor_can_not_start(
    keep: Callable[[str], Rig], monkeypatch: pytest.MonkeyPatch
) -> None:
    effects: list[str] = []
    monkeypatch.setattr(
        keeper_module, "report_rejected_reload", lambda effect, _reason: effects.append(effect)
    )
    rig = keep("ready")
    until(lambda: len(rig.started()) == 1)
    _, first = rig.started()[0]

    rig.reload("exit 3")
    until(lambda: len(rig.started()) == 2)
    until(lambda: rig.alive() == [first])
    time.sleep(0.3)

    assert rig.started()[1:] == [("exit 3", rig.started()[1][1])]
    assert effects == ["the durable worker keeps its current plugins and settings"]


def test_a_successor_that_is_not_ready_in_time_is_ended(
    keep: Callable[[str], Rig], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(keeper_module, "MAX_START_S", 0.5)
    rig = keep("ready")
    until(lambda: len(rig.started()) == 1)
    _, first = rig.started()[0]

    rig.reload("hang")
    until(lambda: len(rig.started()) == 2)

    until(lambda: rig.alive() == [first])


def test_a_worker_that_is_not_needed_ends_and_returns_at_a_reload(
    keep: Callable[[str], Rig],
) -> None:
    rig = keep("ready")
    until(lambda: len(rig.started()) == 1)

    rig.reload("not needed")
    until(lambda: rig.alive() == [] and len(rig.started()) == 2)
    time.sleep(0.3)
    started = len(rig.started())
    rig.reload("ready")
    until(lambda: len(rig.alive()) == 1)

    assert started == 2


def test_a_worker_that_fails_repeatedly_is_restarted_until_a_reload_repairs_it(
    keep: Callable[[str], Rig],
) -> None:
    rig = keep("exit 1")
    until(lambda: len(rig.started()) == 4)

    rig.reload("ready")  # the reload ends the pause
    until(lambda: len(rig.alive()) == 1 and rig.started()[-1][0] == "ready")


def test_a_worker_that_plugin_code_ends_with_exit_code_0_is_restarted(
    keep: Callable[[str], Rig],
) -> None:
    """`os._exit(0)` does not announce that the worker is not needed."""
    rig = keep("exit 0")

    until(lambda: len(rig.started()) >= 2)


def test_a_worker_stays_if_plugin_code_ends_its_successor_with_exit_code_0(
    keep: Callable[[str], Rig],
) -> None:
    rig = keep("ready")
    until(lambda: len(rig.started()) == 1)
    rig.reload("exit 0")
    until(lambda: len(rig.started()) == 2)
    time.sleep(0.5)

    assert rig.alive() == [rig.started()[0][1]]
