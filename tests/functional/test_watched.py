"""What operators see of a server: a database that is silent, processes that are replaced while
it is away, rejected reloads, and counts that stay."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from support.durable import until
from support.place import Place, Server
from support.services import Postgres, free_port

from penstock import metrics
from penstock.access import api_keys

Serve = Callable[..., Server]

PLUGIN = """
from penstock import Call, HttpTrigger, Pipeline, hookimpl

sound = Pipeline("sound", version="1.0.0", trigger=HttpTrigger(api_key=True))
open_one = Pipeline("open-one", version="1.0.0", trigger=HttpTrigger())

@sound.get("/")
def quick(call: Call) -> str:
    return "quick"

@sound.post("/", mode="durable")
def work(call: Call) -> str:
    return "done"

@open_one.get("/")
def look(call: Call) -> str:
    return "open"

@hookimpl
def penstock_pipelines(): return [sound, open_one]
"""


def filled(place: Place) -> str:
    """Return a key that may call the plugin's pipeline."""
    place.policy("api-key")
    place.plugin("sound", PLUGIN)
    place.consumer("acme", "sound")
    return place.key("acme").key


@pytest.fixture
def place_of_its_own(
    own_postgres: Postgres, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Place]:
    own_postgres.run("CREATE DATABASE penstock")
    place = Place.make(f"{own_postgres.url}/penstock", tmp_path_factory.mktemp("own"))
    yield place
    place.engine.dispose()


class Inside:
    """A server's internal listener."""

    def __init__(self) -> None:
        self.bind = f"127.0.0.1:{free_port()}"

    def status(self) -> dict[str, Any]:
        return dict(httpx.get(f"http://{self.bind}/-/status", timeout=20).json())

    def metrics(self) -> dict[str, float]:
        lines = httpx.get(f"http://{self.bind}/-/metrics", timeout=20).text.splitlines()
        return {
            name: float(value)
            for name, _, value in (
                line.rpartition(" ") for line in lines if not line.startswith("#")
            )
        }


def lines(server: Server) -> list[dict[str, Any]]:
    return [
        json.loads(line) for line in server.log.read_text().splitlines() if line.startswith("{")
    ]


def answers(server: Server, key: str) -> int:
    try:
        return httpx.get(
            f"{server.url}/v1/sound/", headers={"X-API-Key": key}, timeout=20
        ).status_code
    except httpx.HTTPError:
        return 0


def test_a_silent_database_is_reported_once_and_its_age_grows(
    own_postgres: Postgres, place_of_its_own: Place, serve: Serve
) -> None:
    place, key, inside = place_of_its_own, filled(place_of_its_own), Inside()
    server = serve(place, PENSTOCK_INTERNAL_BIND=inside.bind)
    until(lambda: inside.metrics().get("penstock_database_up") == 1)

    own_postgres.pause()
    try:
        until(lambda: "has not answered since" in server.log.read_text())
        until(lambda: inside.metrics()["penstock_database_up"] == 0)
        first = inside.metrics()["penstock_snapshot_age_seconds"]
        until(lambda: inside.metrics()["penstock_snapshot_age_seconds"] > first + 0.5)
        state = inside.status()["database"]
        health, called = server.client.get("/-/health").status_code, answers(server, key)
    finally:
        own_postgres.pause(over=True)
    until(lambda: "database back" in server.log.read_text())
    until(lambda: inside.metrics()["penstock_database_up"] == 1)

    assert (health, called) == (200, 200)
    assert (state["up"], state["away_since"] is not None) == (False, True)
    assert state["answered_age_s"] > 3
    assert [line["event"] for line in lines(server)].count("database away") == 1
    assert inside.metrics()["penstock_database_answered_age_seconds"] < first


def test_a_worker_that_starts_while_it_is_away_knows_what_was_revoked(
    own_postgres: Postgres, place_of_its_own: Place, serve: Serve
) -> None:
    place, key = place_of_its_own, filled(place_of_its_own)
    revoked = place.key("acme")
    server = serve(place)
    assert answers(server, revoked.key) == 200
    api_keys.revoke_key(place.engine, "tester", revoked.id)
    until(lambda: answers(server, revoked.key) == 401)
    time.sleep(3)  # the arbiter takes a second or two to know it too

    own_postgres.stop()
    (worker,) = {line["pid"] for line in lines(server) if line["event"] == "loaded"}
    os.kill(worker, signal.SIGKILL)
    until(lambda: len({line["pid"] for line in lines(server) if line["event"] == "loaded"}) == 2)
    during = [(answers(server, key), answers(server, revoked.key)) for _ in range(10)]

    assert set(during) == {(200, 401)}
    own_postgres.start()


def folders() -> set[Path]:
    return set(Path("/dev/shm").glob("penstock-metrics-*"))  # noqa: S108  where they are made


def test_counts_outlive_reloads_and_their_folder_does_not_grow_or_stay(
    sqlite_place: Place, serve: Serve
) -> None:
    place, key, inside = sqlite_place, filled(sqlite_place), Inside()
    before = folders()
    server = serve(place, worker=1, PENSTOCK_INTERNAL_BIND=inside.bind)
    (folder,) = {path for path in folders() - before if str(server.process.pid) in owners(path)}

    def counted() -> float:
        return inside.metrics().get(
            'penstock_calls_total{outcome="succeeded",pipeline="v1/sound"}', 0
        )

    sizes, total = [], 0
    for number in range(3):
        assert [answers(server, key) for _ in range(5)] == [200] * 5
        total += 5
        until(lambda: counted() == total)  # noqa: B023  it is asked at once
        server.process.send_signal(signal.SIGHUP)
        until(lambda: server.log.read_text().count("Worker exiting") > number)  # noqa: B023  as above
        until(lambda: counted() == total)  # noqa: B023  as above
        until(lambda: "penstock_workers" in inside.metrics())
        sizes.append(len(list(folder.iterdir())))

    # The old ones may still be ending.
    until(lambda: len(list(folder.iterdir())) <= sizes[0] + 2)
    server.process.send_signal(signal.SIGKILL)
    server.process.wait(20)
    until(lambda: not owners(folder))
    after = serve(place)
    assert not folder.exists()
    (mine,) = {path for path in folders() - before if str(after.process.pid) in owners(path)}
    after.stop()
    assert not mine.exists()


def owners(folder: Path) -> list[str]:
    """Return the processes that hold a folder of counts open."""
    command = [
        "find",
        "/proc",
        "-maxdepth",
        "3",
        "-path",
        "/proc/[0-9]*/fd/*",
        "-lname",
        f"{folder}/owner",
    ]
    found = subprocess.run(command, check=False, capture_output=True, text=True).stdout
    return [line.split("/")[2] for line in found.splitlines()]


def test_the_status_says_what_is_wrong_and_to_the_internal_listener_alone(
    sqlite_place: Place, serve: Serve
) -> None:
    place, key, inside = sqlite_place, filled(sqlite_place), Inside()
    server = serve(place, worker=1, PENSTOCK_STRICT="false", PENSTOCK_INTERNAL_BIND=inside.bind)
    until(lambda: inside.status()["runs"]["workers"] == 1)
    place.plugin("broken", "import os; os._exit(5)\n")
    server.process.send_signal(signal.SIGHUP)
    until(lambda: inside.status()["reloads"]["rejected"] == 1)

    status, metrics = inside.status(), inside.metrics()

    assert (status["environment"], status["ready"], status["snapshot"]["fresh"]) == (
        "test",
        True,
        True,
    )
    assert "ended the process" in status["reloads"]["last_reason"]
    assert [(item["pipeline"], item["listener"]) for item in status["pipelines"]["blocked"]] == [
        ("v1/open-one", "external")
    ]
    assert "api_key" in str(status["pipelines"]["blocked"][0]["reasons"])
    assert {row["kind"] for row in status["processes"]} == {"serve", "worker"}
    assert {"penstock-follow", "penstock-records", "penstock-watch", "penstock-house"} <= {
        thread["name"] for thread in status["threads"]
    }
    assert (status["database"]["up"], status["database"]["disk_full"], status["redis"]["used"]) == (
        True,
        False,
        False,
    )
    assert metrics['penstock_pipelines{listener="external",state="blocked"}'] == 1
    assert metrics["penstock_reloads_rejected_total"] == 1
    assert metrics["penstock_start_time_seconds"] <= time.time()
    assert any(name.startswith("penstock_build_info{") for name in metrics)
    assert {name.partition("{")[0] for name in metrics} <= exposed()
    assert not any(secret in json.dumps(status) for secret in (key, place.secret, "acme"))
    assert [
        server.call("GET", path, key=key).status_code for path in ("/-/status", "/-/metrics")
    ] == [404, 404]


def exposed() -> set[str]:
    """Return the names of samples that the table of metrics allows."""
    names = {row.name for row in metrics.METRICS}
    return (
        names
        | {
            f"{row.name}_{part}"
            for row in metrics.METRICS
            if row.kind == "histogram"
            for part in ("bucket", "sum", "count")
        }
        | {f"{row.name.removesuffix('_total')}_created" for row in metrics.METRICS}
    )


def test_each_line_says_where_it_comes_from_also_of_a_start_that_fails(
    sqlite_place: Place, serve: Serve
) -> None:
    place = sqlite_place
    server = serve(place, PENSTOCK_LOG_LEVEL="debug")
    filled(place)
    until(lambda: any(line["event"] == "revision read" for line in lines(server)))
    failed = place.run("serve", "--internal-bind", "nonsense")

    assert all(line.startswith("{") for line in server.log.read_text().splitlines())
    assert {
        (line["environment"], bool(line["host"]), line["pid"] > 1) for line in lines(server)
    } == {("test", True, True)}
    assert failed.returncode == 3
    assert "PENSTOCK_INTERNAL_BIND must" in json.loads(failed.stderr)["event"]
