"""Workers that end: a replacement serves what its neighbours serve, and no start is tried in a
tight loop."""

from __future__ import annotations

import os
import re
import signal
from collections.abc import Callable
from pathlib import Path

from support.durable import until
from support.place import Place, Server

from penstock.server.worker_ends import STEADY_S, StartPacer

Serve = Callable[..., Server]

PLUGIN = """
from penstock import Call, HttpTrigger, Pipeline, hookimpl

sound = Pipeline("sound", version="1.0.0", trigger=HttpTrigger(api_key=True))

@sound.get("/")
def show(call: Call) -> str:
    return "{text}"

@sound.post("/", mode="durable")
def work(call: Call) -> str:
    return "{text}"

@hookimpl
def penstock_pipelines(): return [sound]
"""
ENDS_IN_WORKERS = """
import os, signal
if signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL:  # not where a start is rehearsed
    os._exit({code})
"""


def filled(place: Place) -> str:
    """Return a key that may call the plugin's pipeline."""
    place.policy("api-key")
    place.plugin("sound", PLUGIN.format(text="old"))
    place.consumer("acme", "sound")
    return place.key("acme").key


def workers_of(server: Server) -> list[int]:
    """Return the process ids of the workers, in the order of their starts."""
    return [int(pid) for pid in re.findall(r"Booting worker with pid: (\d+)", log_of(server))]


def log_of(server: Server) -> str:
    return server.log.read_text()


def test_a_worker_that_replaces_another_serves_the_same_after_a_rejected_reload(
    sqlite_place: Place, serve: Serve
) -> None:
    place, key = sqlite_place, filled(sqlite_place)
    server = serve(place, worker=1, PENSTOCK_STRICT="true", PENSTOCK_LOG_LEVEL="info")
    place.plugin("sound", PLUGIN.format(text="new"))
    broken = place.plugin("broken", "import os\nos._exit(7)\n")
    server.process.send_signal(signal.SIGHUP)
    until(lambda: "not reloaded" in log_of(server))

    os.kill(workers_of(server)[-1], signal.SIGKILL)
    until(lambda: len(workers_of(server)) == 2)
    os.kill(_durable_worker_of(server), signal.SIGKILL)
    until(lambda: '"durable worker ended"' in log_of(server))

    assert server.call("GET", "/v1/sound/", key=key).text == "old"
    run = server.call("POST", "/v1/sound/", key=key, headers={"Prefer": "wait=20"}).json()
    assert (run["status"], run["result"]) == ("succeeded", "old")
    assert "signal SIGKILL" in log_of(server)
    assert "plugin broken (plugins/broken.py) ended the process" in log_of(server)

    broken.unlink()
    server.process.send_signal(signal.SIGHUP)
    until(lambda: server.call("GET", "/v1/sound/", key=key).text == "new")


def _durable_worker_of(server: Server) -> int:
    """Return the child of the supervisor that starts no web worker."""
    children = Path(f"/proc/{server.process.pid}/task").glob("*/children")
    pids = {int(pid) for path in children for pid in path.read_text().split()}
    status = Path(f"/proc/{workers_of(server)[-1]}/status").read_text()
    (pid,) = pids - {int(re.findall(r"PPid:\s+(\d+)", status)[0])}
    return pid


def test_a_plugin_that_ends_every_worker_ends_the_start_with_exit_code_3(
    sqlite_place: Place,
) -> None:
    filled(sqlite_place)
    sqlite_place.plugin("ending", ENDS_IN_WORKERS.format(code=9))

    with Server(sqlite_place, workers=2, wait=False, PENSTOCK_LOG_LEVEL="info") as server:
        assert server.process.wait(60) == 3

    log = log_of(server)
    assert "exit code 9 while plugin ending (plugins/ending.py) was loaded" in log
    assert "starts in succession failed" in log
    assert len(workers_of(server)) == 10


def test_a_reload_whose_workers_end_keeps_the_old_ones(sqlite_place: Place, serve: Serve) -> None:
    place, key = sqlite_place, filled(sqlite_place)
    server = serve(place, PENSTOCK_LOG_LEVEL="info")
    place.plugin("sound", PLUGIN.format(text="new"))
    place.plugin("ending", ENDS_IN_WORKERS.format(code=3))

    server.process.send_signal(signal.SIGHUP)
    until(lambda: "not reloaded" in log_of(server))
    os.kill(workers_of(server)[0], signal.SIGKILL)
    until(lambda: len(workers_of(server)) == 3)

    assert server.call("GET", "/v1/sound/", key=key).text == "old"


def test_the_pauses_between_starts_double_until_a_worker_lives_long_enough() -> None:
    pacer = StartPacer()

    pauses = [pacer.count_end(now, now + 0.1, ready=False) for now in (0.0, 10.0, 20.0, 30.0)]
    together = pacer.count_end(29.0, 30.2, ready=False)  # started with the one before
    pacer.count_steady(40.0, 40.0 + STEADY_S)

    assert pauses == [1, 2, 4, 8]
    assert round(together, 1) == 7.9
    assert pacer.count_end(60.0, 60.5, ready=True) == 0
    assert pacer.count_end(61.0, 61.5, ready=True) == 1
