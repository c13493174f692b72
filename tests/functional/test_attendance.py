"""A rejected reload leaves the durable worker as it is, and operators see when
accepted runs have none."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable

import httpx
from support.durable import over, until
from support.place import Place, Server
from support.services import free_port

PLUGIN = """
import os, sys
from pathlib import Path
from penstock import Call, HttpTrigger, Pipeline, hookimpl

if "worker" in sys.argv and Path(__file__).with_name("no-worker").exists():
    os._exit(9)

sound = Pipeline("sound", version="1.0.0", trigger=HttpTrigger(api_key=True))

@sound.post("/", mode="durable")
def work(call: Call) -> dict[str, object]:
    return {"pid": os.getpid(), "edition": 1}

@hookimpl
def penstock_pipelines(): return [sound]
"""


def test_a_rejected_reload_keeps_the_worker_and_runs_without_a_worker_are_reported(
    sqlite_place: Place, serve: Callable[..., Server]
) -> None:
    place, inside = sqlite_place, f"127.0.0.1:{free_port()}"
    place.policy("api-key")
    place.plugin("sound", PLUGIN)
    place.consumer("acme", "sound")
    key = place.key("acme").key
    server = serve(place, worker=1, PENSTOCK_STRICT="true", PENSTOCK_INTERNAL_BIND=inside)

    def performed() -> dict[str, object]:
        return dict(
            server.call("POST", "/v1/sound/", key=key, headers={"Prefer": "wait=60"}).json()[
                "result"
            ]
        )

    def runs() -> str:
        answered = server.client.get("/-/ready")
        assert answered.status_code == 200
        return str(answered.json()["checks"]["runs"])

    def gauges() -> dict[str, float]:
        lines = (
            line.rpartition(" ")
            for line in httpx.get(f"http://{inside}/-/metrics").text.splitlines()
        )
        return {
            name.partition("{")[0]: float(value)
            for name, _, value in lines
            if name.startswith(("penstock_runs_", "penstock_workers"))
        }

    def recorded() -> int:
        """Return the number of runs whose success is stored: a killed worker reports no end."""
        listed = place.run("runs", "list", "--status", "succeeded", "--format", "json")
        return listed.stdout.count('"id"')

    first = performed()
    place.plugin("broken", "def x(:\n")
    server.process.send_signal(signal.SIGHUP)
    until(lambda: "not reloaded" in server.log.read_text())

    assert performed() == first
    until(lambda: gauges().get("penstock_workers") == 1)
    assert runs() == "ok"

    until(lambda: recorded() == 2)
    place.plugin("sound", "def x(:\n")
    os.kill(int(str(first["pid"])), signal.SIGKILL)
    second = performed()  # by a worker that imports what was served
    assert (second["edition"], second["pid"] != first["pid"]) == (1, True)

    until(lambda: recorded() == 3)
    no_worker = place.folder / "plugins" / "no-worker"
    no_worker.touch()
    os.kill(int(str(second["pid"])), signal.SIGKILL)
    location = server.call("POST", "/v1/sound/", key=key).headers["Location"]
    until(lambda: runs() == "no worker is alive for 1 accepted runs of v1/sound")
    until(lambda: gauges().get("penstock_runs_unattended") == 1)
    assert (gauges()["penstock_workers"], gauges()["penstock_runs_waiting"]) == (0, 1)

    no_worker.unlink()
    assert until(over(server, location, key))["status"] == "succeeded"
    until(lambda: runs() == "ok")
    until(lambda: gauges().get("penstock_runs_unattended") == 0)

    (place.folder / "plugins" / "broken.py").unlink()
    place.plugin("sound", PLUGIN.replace('"edition": 1', '"edition": 2'))
    server.process.send_signal(signal.SIGHUP)
    until(lambda: performed()["edition"] == 2)
