"""Hosts whose clocks differ: no run ends early or is taken over, ticks come in time, and
operators see it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from datetime import UTC, datetime, timedelta
from pathlib import Path

import httpx
import pytest
from dbos import _scheduler
from support.durable import NOTE, StartWorker, noted, over, until, workers
from support.place import Place, Server, wait_for
from support.services import free_port

from penstock import clock
from penstock.durable.engine_dbos.shared_clock import SharedDatetime

PLUGIN = f"""
{NOTE}
from penstock import Call, Durable, HttpTrigger, Pipeline, Schedule, hookimpl, sleep, step

late = Pipeline("late", version="1.0.0", trigger=HttpTrigger(api_key=True), durable=Durable(timeout=30, concurrency=2))
often = Pipeline("often", version="1.0.0", trigger=Schedule("*/3 * * * * *"))

@step()
def work() -> int:
    time.sleep(1)
    return os.getpid()

@late.post("/", mode="durable")
def both(call: Call) -> int:
    sleep(0.5)
    return work()

@often.post("/", mode="durable")
def tick(call: Call) -> None:
    note(str(os.getpid()))

@hookimpl
def penstock_pipelines(): return [late, often]
"""  # noqa: E501  text as it is


OFF = """
import os, time

host, off = time.time, float(os.environ["CLOCK_OFF"])
time.time = lambda: host() + off
time.time_ns = lambda: int(time.time() * 1e9)
"""


@pytest.fixture
def fake(tmp_path: Path) -> Iterator[Callable[..., tuple[subprocess.Popen[bytes], Path]]]:
    """Start `penstock` with a clock that is so many seconds off; libfaketime would break the
    pauses and locks of Python."""
    (tmp_path / "off").mkdir()
    (tmp_path / "off" / "sitecustomize.py").write_text(OFF, encoding="utf-8")
    with ExitStack() as stack:

        def start(
            place: Place, seconds: int, *words: str, **more: str
        ) -> tuple[subprocess.Popen[bytes], Path]:
            log = place.folder / f"fake-{time.monotonic_ns()}.log"
            environ = place.environ(**more) | {"CLOCK_OFF": str(seconds)}
            environ["PYTHONPATH"] = os.pathsep.join(
                [str(tmp_path / "off"), *filter(None, [environ.get("PYTHONPATH")])]
            )
            with log.open("wb") as out:
                process = subprocess.Popen(
                    [sys.executable, "-m", "penstock", *words],
                    env=environ,
                    stdout=out,
                    stderr=out,
                    cwd=place.folder,
                )
            stack.callback(process.wait)
            stack.callback(process.terminate)
            return process, log

        yield start


@pytest.fixture
def worker() -> Iterator[StartWorker]:
    with workers() as start:
        yield start


@pytest.fixture
def place(new_database: Callable[..., str], tmp_path: Path) -> Iterator[Place]:
    made = Place.make(new_database("postgresql", upgraded=True), tmp_path)
    made.policy("api-key")
    made.plugin("late", PLUGIN)
    made.consumer("acme", "late")
    yield made
    made.engine.dispose()


@pytest.mark.parametrize("seconds", [60, -60])
def test_no_run_ends_early_where_two_hosts_differ(
    place: Place,
    serve: Callable[..., Server],
    worker: StartWorker,
    fake: Callable[..., tuple[subprocess.Popen[bytes], Path]],
    seconds: int,
) -> None:
    # So that each performs some.
    key, server, first = (
        place.key("acme").key,
        serve(place),
        worker(place, PENSTOCK_WORKER_RUNS="1"),
    )
    second, log = fake(place, seconds, "worker", PENSTOCK_WORKER_RUNS="1")
    until(lambda: "worker ready" in log.read_text())

    began = datetime.now(UTC)
    locations = [server.call("POST", "/v1/late/", key=key).headers["Location"] for _ in range(6)]
    documents = [until(over(server, location, key)) for location in locations]
    until(lambda: len(noted(place)) >= 2)

    assert [document["status"] for document in documents] == ["succeeded"] * 6
    assert {document["result"] for document in documents} == {first.pid, second.pid}
    for document in documents:
        came, started, ended = (
            datetime.fromisoformat(document[name])
            for name in ("accepted_at", "started_at", "ended_at")
        )
        assert began - timedelta(seconds=1) <= came <= started
        assert timedelta(seconds=1.4) < ended - started < timedelta(seconds=30)
        assert ended < datetime.now(UTC) + timedelta(seconds=1)
    shown = [
        json.loads(place.run("runs", "show", document["id"], "--format", "json").stdout)
        for document in documents
    ]
    assert {run["recoveries"] for run in shown} == {0}
    ticks = json.loads(place.run("runs", "list", "--pipeline", "often", "--format", "json").stdout)
    assert max(datetime.fromisoformat(run["at"]) for run in ticks) < datetime.now(UTC) + timedelta(
        seconds=1
    )
    warned = [
        line
        for line in map(json.loads, log.read_text().splitlines())
        if line["event"] == "clock differs from the database's"
    ]
    assert [(line["level"], round(line["seconds"] / 10)) for line in warned] == [
        ("error", -seconds / 10)
    ]


def test_a_server_says_how_far_its_clock_is_off_and_is_not_ready_past_a_minute(
    place: Place, fake: Callable[..., tuple[subprocess.Popen[bytes], Path]]
) -> None:
    port = free_port()
    process, _ = fake(
        place,
        90,
        "serve",
        "--bind",
        f"127.0.0.1:{port}",
        "--workers",
        "1",
        "--worker",
        "0",
        PENSTOCK_METRICS="everywhere",
    )
    wait_for(f"http://127.0.0.1:{port}/-/health", process)

    ready = httpx.get(f"http://127.0.0.1:{port}/-/ready", timeout=20)
    metrics = httpx.get(f"http://127.0.0.1:{port}/-/metrics", timeout=20).text

    assert ready.status_code == 503
    assert ready.json()["checks"]["clock"] in {
        f"{seconds} s ahead of the database's" for seconds in (89, 90, 91)
    }
    (gauge,) = [
        float(line.split()[-1])
        for line in metrics.splitlines()
        if line.startswith("penstock_clock_difference_seconds")
    ]
    assert -91 < gauge < -89


class TestMeasuring:
    @pytest.fixture(autouse=True)
    def _hands(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.wall, self.steady = 1_000_000.0, 50.0
        monkeypatch.setattr(clock, "_offset", None)
        monkeypatch.setattr(time, "time", lambda: self.wall)
        monkeypatch.setattr(time, "monotonic", lambda: self.steady)

    def test_until_it_is_known_the_host_s_clock_counts(self) -> None:
        assert (clock.now(), clock.seconds_ahead()) == (self.wall, 0.0)

    def test_a_clock_that_is_set_while_it_runs_changes_nothing(self) -> None:
        clock.record_measurement(49.9, self.wall + 60, 50.1)
        before = clock.now()
        self.wall -= 3600

        assert clock.now() == before
        assert clock.seconds_ahead() == pytest.approx(3660, abs=0.2)

    def test_ticks_come_by_it(self) -> None:
        clock.record_measurement(49.9, self.wall + 60, 50.1)

        assert SharedDatetime.now(UTC).timestamp() == pytest.approx(self.wall + 60, abs=0.2)
        assert vars(_scheduler)["datetime"] is SharedDatetime

    def test_a_slow_answer_corrects_no_more_than_it_proves(self) -> None:
        clock.record_measurement(49.9, self.wall, 50.1)
        clock.record_measurement(40.0, self.wall - 5, 60.0)
        assert clock.seconds_ahead() == pytest.approx(0, abs=0.01)

        clock.record_measurement(49.9, self.wall + 5, 50.1)
        assert clock.seconds_ahead() == pytest.approx(5, abs=0.2)
