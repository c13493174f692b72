"""Runs of a real server that end otherwise: cancelled or handed on, they leave every pause at
once; late or failed, their record says where."""

from __future__ import annotations

import json
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from support.durable import NOTE, StartWorker, noted, over, until, workers
from support.place import Place, Server

SOON = 40  # seconds on a busy machine; the pauses that must end before are five times as long

PLUGIN = f"""
{NOTE}
from functools import partial
from penstock import Call, Durable, HttpTrigger, Pipeline, Retry, call_pipeline, gather, hookimpl, sleep, step

one = Pipeline("one", version="1.0.0", trigger=HttpTrigger(api_key=True), durable=Durable(concurrency=1))
four = Pipeline("four", version="1.0.0", trigger=HttpTrigger(api_key=True), durable=Durable(concurrency=5))
short = Pipeline("short", version="1.0.0", trigger=HttpTrigger(api_key=True, timeout=2), durable=Durable(timeout=3))
inner = Pipeline("inner", version="1.0.0", trigger=HttpTrigger(external=False, timeout=300))

@step(retry=Retry(attempts=8, backoff=200, jitter=False, longest=200))
def slowly(name: str) -> None:
    note(f"{{name}} tried")
    raise ConnectionError("made up")

@step(retry=Retry(attempts=1000, backoff=0.2, jitter=False, longest=0.2))
def often(name: str) -> None:
    note(f"{{name}} tried")
    raise ConnectionError("made up")

@step()
def nested(name: str) -> None:
    slowly(name)

@step(timeout=600)
def aside(name: str) -> None:
    slowly(name)

@step()
def pausing(name: str) -> None:
    note(f"{{name}} tried")
    sleep(600)

@step()
def quick(name: str) -> str:
    note(f"{{name}} done")
    return name

@one.post("/slowly", mode="durable")
def slow(call: Call, body: dict[str, str]) -> None:
    slowly(body["name"])

@one.post("/often", mode="durable")
def oft(call: Call, body: dict[str, str]) -> None:
    often(body["name"])

@one.post("/quick", mode="durable")
@four.post("/quick", mode="durable")
def fast(call: Call, body: dict[str, str]) -> str:
    return quick(body["name"])

@four.post("/{{kind}}", mode="durable")
def kinds(call: Call, kind: str) -> None:
    if kind == "gather":
        gather(*(partial(slowly, f"gather {{number}}") for number in range(4)), at_once=2)
    elif kind == "nested":
        nested("nested")
    elif kind == "aside":
        aside("aside")
    elif kind == "pausing":
        pausing("pausing")
    else:
        call_pipeline("inner", {{"name": "inner"}})

@four.post("/parent", mode="durable")
def parent(call: Call) -> None:
    call_pipeline("one", {{"name": "child"}}, path="/slowly")

def busy() -> None:
    time.sleep(6)

@short.post("/inline")
@short.post("/durable", mode="durable")
def late(call: Call) -> None:
    busy()

@short.post("/fails")
@one.post("/fails", mode="durable")
def fails(call: Call) -> None:
    raise ValueError("made up")

@four.post("/counts", mode="durable")
def counts(call: Call) -> str:
    call.progress(1, of=2)
    quick("counts")
    call.progress(2, of=2)
    return "done"

@inner.post("/")
def within(call: Call, body: dict[str, str]) -> None:
    slowly(body["name"])

@hookimpl
def penstock_pipelines(): return [one, four, short, inner]
"""  # noqa: E501  text as it is


class Scene(NamedTuple):
    """A server with a worker, and the key of a consumer."""

    place: Place
    server: Server
    key: str

    def post(self, path: str, name: str = "") -> str:
        """Start a run, and return where it is looked up."""
        return str(
            self.server.call("POST", path, key=self.key, json={"name": name}).headers["Location"]
        )

    def cancel(self, location: str) -> str:
        return str(self.server.call("DELETE", location, key=self.key).json()["status"])

    def shown(self, location: str) -> dict[str, Any]:
        return dict(
            json.loads(
                self.place.run(
                    "runs", "show", location.rpartition("/")[2], "--format", "json"
                ).stdout
            )
        )

    def tried(self, name: str) -> int:
        return noted(self.place).count(f"{name} tried")


def made(url: str, folder: Path) -> tuple[Place, str]:
    place = Place.make(url, folder)
    place.policy("api-key")
    place.plugin("pauses", PLUGIN)
    place.consumer("acme", "one", "four", "short")
    return place, place.key("acme").key


@pytest.fixture(scope="module")
def scene(upgraded_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scene]:
    folder = tmp_path_factory.mktemp("cancelling")
    (folder / "penstock.db").write_bytes(upgraded_file.read_bytes())
    place, key = made(f"sqlite:///{folder}/penstock.db", folder)
    with Server(place, worker=1) as server:
        yield Scene(place, server, key)
    place.engine.dispose()


def test_a_cancelled_run_leaves_the_pause_between_two_attempts_and_its_slot_is_free(
    scene: Scene,
) -> None:
    cancelled = scene.post("/v1/one/slowly", "slow")
    until(lambda: scene.tried("slow"))
    waiting = scene.post("/v1/one/quick", "next")

    assert scene.cancel(cancelled) == "cancelled"
    assert until(over(scene.server, waiting, scene.key), SOON)["result"] == "next"


def test_no_attempt_begins_after_a_run_was_cancelled(scene: Scene) -> None:
    location = scene.post("/v1/one/often", "often")
    until(lambda: scene.tried("often") > 2)

    scene.cancel(location)
    tried = scene.tried("often")
    time.sleep(1.5)

    assert scene.tried("often") == tried


def test_cancelling_by_command_ends_the_pause_of_a_run_that_was_started(scene: Scene) -> None:
    parent = scene.post("/v1/four/parent")
    until(lambda: scene.tried("child"))
    waiting = scene.post("/v1/one/quick", "after child")

    assert scene.place.run("runs", "cancel", parent.rpartition("/")[2]).returncode == 0
    until(over(scene.server, waiting, scene.key), SOON)

    (child,) = scene.shown(parent)["children"]
    assert child["status"] == "cancelled"


def test_every_kind_of_pause_ends_at_once(scene: Scene) -> None:
    kinds = {
        "gather": "gather 1",
        "nested": "nested",
        "aside": "aside",
        "pausing": "pausing",
        "inner": "inner",
    }
    locations = [scene.post(f"/v1/four/{kind}") for kind in kinds]
    until(lambda: all(scene.tried(name) for name in kinds.values()))

    assert [scene.cancel(location) for location in locations] == ["cancelled"] * 5
    waiting = [scene.post("/v1/four/quick", f"freed {number}") for number in range(5)]
    for location in waiting:
        until(over(scene.server, location, scene.key), SOON)

    assert [scene.tried(f"gather {number}") for number in range(4)] == [1, 1, 0, 0]


def test_a_waited_reply_equals_the_status_read_a_moment_later(scene: Scene) -> None:
    waited = scene.server.call(
        "POST", "/v1/four/counts", key=scene.key, headers={"Prefer": "wait=20"}
    )
    time.sleep(0.5)  # the record is written by then
    later = scene.server.call("GET", waited.headers["Location"], key=scene.key)

    document = waited.json()
    assert document == later.json()
    assert (document["status"], document["progress"]["done"]) == ("succeeded", 2)
    assert document["accepted_at"] <= document["started_at"] <= document["ended_at"]


def test_at_a_time_limit_the_record_says_where_the_handler_was(scene: Scene) -> None:
    inline = scene.server.call("POST", "/v1/short/inline", key=scene.key)
    durable = scene.post("/v1/short/durable")
    document = until(over(scene.server, durable, scene.key))

    assert (inline.status_code, document["status"]) == (504, "timed_out")
    # Its time limit is three seconds, counted from when it was taken from its queue.
    assert until(lambda: scene.shown(durable)["ms"]) >= 1500
    assert (
        scene.server.call("GET", durable, key=scene.key).json()["ended_at"] == document["ended_at"]
    )
    for run in (inline.headers["X-Run-Id"], durable):
        failure = until(lambda run=run: scene.shown(run).get("failure"))
        assert (failure["type"], [frame["function"] for frame in failure["frames"]]) == (
            "DeadlineExceeded",
            ["late", "busy"],
        )
        assert failure["frames"][0]["file"] == str(scene.place.folder / "plugins" / "pauses.py")


def test_a_failure_is_logged_under_the_pipeline_s_id(scene: Scene) -> None:
    scene.server.call("POST", "/v1/short/fails", key=scene.key)
    until(over(scene.server, scene.post("/v1/one/fails"), scene.key))

    lines = [
        json.loads(line)
        for line in scene.server.log.read_text().splitlines()
        if line.startswith("{") and '"pipeline failed"' in line
    ]
    assert [line["pipeline"] for line in lines] == ["v1/short", "v1/one"]


@pytest.fixture
def worker() -> Iterator[StartWorker]:
    with workers() as start:
        yield start


def test_a_stopping_worker_leaves_the_pauses_of_its_runs_without_a_recovery(
    new_database: Callable[..., str],
    tmp_path: Path,
    serve: Callable[..., Server],
    worker: StartWorker,
) -> None:
    place, key = made(new_database("sqlite", upgraded=True), tmp_path)
    server = serve(place)
    scene = Scene(place, server, key)
    first = worker(place, PENSTOCK_GRACEFUL_TIMEOUT="100")
    locations = [
        scene.post("/v1/one/slowly", "slow"),
        *(scene.post(f"/v1/four/{kind}") for kind in ("gather", "pausing", "parent")),
    ]
    until(lambda: scene.tried("slow") and scene.tried("gather 1") and scene.tried("pausing"))

    first.send_signal(signal.SIGTERM)
    code = first.wait(SOON)
    worker(place)
    until(
        lambda: (
            scene.tried("slow") == 2
            and scene.tried("gather 1") == 2
            and scene.tried("pausing") == 2
        )
    )

    assert code == 0
    assert [scene.shown(location)["recoveries"] for location in locations] == [0, 0, 0, 0]
    place.engine.dispose()
