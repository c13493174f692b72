"""A run whose worker died between two steps continues, is reported truly, and delays no other; a
worker that drains takes nothing new."""

from __future__ import annotations

import json
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from datetime import datetime
from pathlib import Path

import pytest
from support.durable import NOTE, StartWorker, noted, over, until, workers
from support.place import Place, Server

PLUGIN = f"""
{NOTE}
from penstock import Call, Durable, HttpTrigger, Pipeline, Retry, hookimpl, step

narrow = Pipeline("narrow", version="1.0.0", trigger=HttpTrigger(api_key=True), durable=Durable(concurrency=1))
wide = Pipeline("wide", version="1.0.0", trigger=HttpTrigger(api_key=True))
tried = []

@step(retry=Retry(attempts=2, backoff=0.05))
def work(name: str, seconds: float = 0) -> str:
    tried.append(name)
    if name == "first" and tried.count("first") < 2:
        raise ConnectionError("made up")
    note(f"{{name}} begins in {{os.getpid()}}")
    time.sleep(seconds)
    note(f"{{name}} ends in {{os.getpid()}}")
    return name

@narrow.post("/", mode="durable")
def crashes_once(call: Call) -> list[str]:
    done = [work("first"), work("second")]
    if not (HERE / "crashed").exists():
        (HERE / "crashed").touch()
        os.kill(os.getpid(), 9)
    return [*done, work("third")]

@wide.post("/{{name}}", mode="durable")
def long(call: Call, name: str) -> str:
    return work(name, 4 if name == "long" else 0)

@hookimpl
def penstock_pipelines(): return [narrow, wide]
"""  # noqa: E501  text as it is


@pytest.fixture
def worker() -> Iterator[StartWorker]:
    with workers() as start:
        yield start


@pytest.mark.parametrize("kind", ["sqlite", "postgresql"])
def test_a_run_between_two_steps_is_recovered_and_a_worker_that_drains_takes_nothing_new(
    kind: str,
    new_database: Callable[..., str],
    tmp_path: Path,
    serve: Callable[..., Server],
    worker: StartWorker,
) -> None:
    """#805: recovered between two steps, it stayed so, and blocked its queue of one; #804: a
    draining worker took what was put back."""
    place = Place.make(new_database(kind, upgraded=True), tmp_path)
    place.policy("api-key")
    place.plugin("recovered", PLUGIN)
    place.consumer("acme", "narrow", "wide")
    key = place.key("acme").key
    server = serve(place)
    first_worker = worker(place)

    began = time.monotonic()
    crashed, waiting = (
        server.call("POST", "/v1/narrow/", key=key).headers["Location"] for _ in range(2)
    )
    until(lambda: first_worker.poll() is not None)
    living = worker(place)
    document = until(over(server, crashed, key))
    took = time.monotonic() - began
    after = until(over(server, waiting, key))

    assert document["result"] == after["result"] == ["first", "second", "third"]
    lines = [line for line in noted(place) if "begins" in line]
    assert lines[:3] == [
        f"first begins in {first_worker.pid}",
        f"second begins in {first_worker.pid}",
        f"third begins in {living.pid}",
    ]
    run = until(lambda: (shown := _shown(place, document["id"]))["ms"] and shown)
    first, _, third = run["steps"]
    accepted, started, ended = (
        datetime.fromisoformat(document[name]) for name in ("accepted_at", "started_at", "ended_at")
    )
    assert (run["status"], run["recoveries"]) == ("succeeded", 1)
    assert accepted <= started < ended
    assert 4_000 < run["ms"] <= took * 1000 + 1
    assert abs((ended - started).total_seconds() * 1000 - run["ms"]) < 2
    assert [len(step["attempts"]) for step in (first, third)] == [2, 1]
    assert first["at"] <= first["attempts"][0]["at"] < first["attempts"][1]["at"] < 3_000
    assert 4_000 < third["at"] <= third["attempts"][0]["at"] <= run["ms"]
    assert server.call("GET", crashed, key=key).json() == document

    if kind == "sqlite":
        drained(place, server, key, living, worker(place))
    place.engine.dispose()


def drained(place: Place, server: Server, key: str, *both: subprocess.Popen[bytes]) -> None:
    """Tell the one of two workers to stop that performs a run, and see what becomes of that and
    of others."""
    until(
        lambda: (
            sum("worker ready" in log.read_text() for log in place.folder.glob("worker-*.log")) == 3
        )
    )
    long = server.call("POST", "/v1/wide/long", key=key).headers["Location"]
    (begun,) = until(lambda: [line for line in noted(place) if line.startswith("long begins")])
    (draining,) = [process for process in both if str(process.pid) == begun.rpartition(" ")[2]]
    (other,) = set(both) - {draining}
    draining.send_signal(signal.SIGTERM)
    time.sleep(0.5)
    quick = [
        server.call("POST", f"/v1/wide/quick{number}", key=key).headers["Location"]
        for number in range(5)
    ]
    for location in (*quick, long):
        assert until(over(server, location, key))["status"] == "succeeded"

    assert {line.rpartition(" ")[2] for line in noted(place) if line.startswith("quick")} == {
        str(other.pid)
    }
    assert [line for line in noted(place) if line.startswith("long")] == [
        f"long begins in {draining.pid}",
        f"long ends in {draining.pid}",
    ]
    assert draining.wait(20) == 0


def _shown(place: Place, run: str) -> dict[str, object]:
    return dict(json.loads(place.run("runs", "show", run, "--format", "json").stdout))
