"""`make bench`: durable runs against the engine used bare, same database, same settings,
alternately in one run; and a worker's memory."""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from dbos import DBOSClient
from support.place import Place

from penstock.durable.intake import RunIntake, RunRequest
from penstock.durable.runner import RunInput
from penstock.host.host import Host
from penstock.host.services import open_dbos
from penstock.runs.ids import new_run_id
from penstock.settings import Settings

ROUNDS = 3
SPACED = 60  # runs whose way from acceptance to start is timed
AT_ONCE = "16"

PLUGIN = """
import json, os, time
from penstock import Call, Durable, HttpTrigger, Pipeline, hookimpl

bench = Pipeline("bench", version="1.0.0", trigger=HttpTrigger(api_key=True), durable=Durable(backlog=1_000_000))

@bench.post("/", mode="durable")
def work(call: Call, body: dict) -> dict:
    note(body["t"])
    return {"ok": True}

def note(sent):
    with open(os.environ["BENCH_LOG"], "a") as log:
        log.write(f"{sent} {time.time()}\\n")

@hookimpl
def penstock_pipelines(): return [bench]
"""  # noqa: E501  text as it is
BARE = """
import os, sys, threading, time
from dbos import DBOS
from benchmarks.durable import Plain

@DBOS.workflow(name="bench")
def work(document):
    with open(os.environ["BENCH_LOG"], "a") as log:
        log.write(f"{document['t']} {time.time()}\\n")
    return {"ok": True}

DBOS(config={"name": "bench", "system_database_url": sys.argv[1], "executor_id": sys.argv[2], "application_version": "bare", "serializer": Plain(),
             "run_migrations": False, "log_level": "ERROR"})
DBOS.listen_queues(["bench"])
DBOS.launch()
DBOS.register_queue("bench", worker_concurrency=16, polling_interval_sec=0.1, on_conflict="always_update")
threading.Event().wait()
"""  # noqa: E501  text as it is


class Plain:
    """JSON, as anybody would use the engine who does not pickle."""

    def serialize(self, data: Any) -> str:
        return json.dumps(data, default=str)

    def deserialize(self, text: str) -> Any:
        return json.loads(text)

    def name(self) -> str:
        return "plain"


@dataclass
class Contender:
    """One of the two: how a run is handed over, and how its worker is started."""

    name: str
    accept: Callable[[], None]
    command: list[str]
    environ: dict[str, str]
    log: Path
    accepted: list[float] = field(default_factory=list)
    drained: list[float] = field(default_factory=list)
    started: list[float] = field(default_factory=list)


def drain(contender: Contender, number: int) -> None:
    """Hand runs over, start a worker, and note how fast it does them; then how long single ones
    wait."""
    contender.log.write_text("")
    began = time.perf_counter()
    for _ in range(number):
        contender.accept()
    contender.accepted.append(number / (time.perf_counter() - began))
    worker = subprocess.Popen(
        contender.command,
        env=contender.environ,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        wait(contender.log, number)
        ended = [float(line.split()[1]) for line in contender.log.read_text().splitlines()]
        contender.drained.append((number - 1) / (max(ended) - min(ended)))
        contender.log.write_text("")
        for _ in range(SPACED):
            contender.accept()
            time.sleep(0.12)
        wait(contender.log, SPACED)
        times = [
            [float(part) for part in line.split()]
            for line in contender.log.read_text().splitlines()
        ]
        contender.started.append(statistics.median(begun - sent for sent, begun in times))
    finally:
        worker.terminate()
        worker.wait(30)


def wait(log: Path, number: int) -> None:
    for _ in range(6000):
        if log.read_text().count("\n") >= number:
            return
        time.sleep(0.05)
    raise SystemExit("bench: the runs did not end")


def resident(pid: int) -> int:
    """Return a process's resident memory in KiB."""
    status = Path(f"/proc/{pid}/status").read_text(encoding="ascii")
    return next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmRSS"))


def memory(contender: Contender) -> list[tuple[int, int]]:
    """Return a worker's memory in KiB after so many runs."""
    contender.log.write_text("")
    worker = subprocess.Popen(
        contender.command,
        env=contender.environ,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    seen, done = [], 0
    try:
        for goal in (1000, 2500, 5000, 7500, 10_000):
            while done < goal:
                contender.accept()
                done += 1
            wait(contender.log, goal)
            time.sleep(1)
            seen.append((goal, resident(worker.pid)))
    finally:
        worker.terminate()
        worker.wait(30)
    return seen


def contenders(url: str, folder: Path) -> tuple[Contender, Contender]:
    """Return Penstock and the bare engine on one database."""
    place = Place.make(url, folder)
    place.plugin("bench", PLUGIN)
    settings = Settings(
        environment="test",
        database_url=url,
        secret_keys=(place.secret,),
        plugin_path=(folder / "plugins",),
        log_level="error",
    )
    pipeline = Host(settings).catalog.loaded["v1/bench"].pipeline
    accepting = RunIntake(place.engine, open_dbos(url, "test", place.box), "test", 1)
    client = DBOSClient(system_database_url=url, serializer=Plain(), application_name="bench")  # type: ignore[arg-type]  # it has what a serializer has

    def ours() -> None:
        body = json.dumps({"t": time.time()}).encode()
        given = RunInput(
            "v1/bench",
            "POST",
            "/",
            "/v1/bench/",
            "test",
            time.time(),
            body=body,
            content_type="application/json",
            consumer="acme",
            consumer_id=1,
        )
        accepting.accept(RunRequest(new_run_id(), given, pipeline, pipeline.routes[0]))

    def bare() -> None:
        client.enqueue(
            {"workflow_name": "bench", "queue_name": "bench", "app_version": "bare"},
            {"t": time.time()},
        )

    logs = folder / "ours.log", folder / "bare.log"
    environ = place.environ(
        BENCH_LOG=str(logs[0]), PENSTOCK_WORKER_RUNS=AT_ONCE, PENSTOCK_LOG_LEVEL="error"
    )
    path = str(Path(__file__).parent.parent)
    return (
        Contender("penstock", ours, [sys.executable, "-m", "penstock", "worker"], environ, logs[0]),
        Contender(
            "bare engine",
            bare,
            [sys.executable, "-c", BARE, url, f"bare-{time.time()}"],
            {**os.environ, "BENCH_LOG": str(logs[1]), "PYTHONPATH": path},
            logs[1],
        ),
    )


def main() -> None:
    """Measure and print the table."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--url", help="a database, by default SQLite in a temporary folder")
    parser.add_argument("--runs", type=int, default=400)
    parser.add_argument(
        "--memory", action="store_true", help="a worker's memory over 10,000 runs too"
    )
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        url = chosen.url or f"sqlite:///{folder}/bench.db"
        both = contenders(url, Path(folder))
        for _ in range(ROUNDS):
            for contender in both:
                drain(contender, chosen.runs)
        print(  # noqa: T201
            f"\n{url.split(':')[0]}, medians of {ROUNDS} alternating rounds of {chosen.runs}"
            f" trivial runs, {AT_ONCE} at a time\n"
        )
        print(f"{'':14}{'accepted/s':>12}{'done/s':>10}{'to start, ms':>14}")  # noqa: T201
        for one in both:
            accepted, drained, started = (
                statistics.median(values) for values in (one.accepted, one.drained, one.started)
            )
            print(f"{one.name:14}{accepted:12.0f}{drained:10.0f}{started * 1000:14.1f}")  # noqa: T201
        ours, bare = both
        ratios = [
            statistics.median(a) / statistics.median(b)
            for a, b in ((ours.accepted, bare.accepted), (ours.drained, bare.drained))
        ]
        waits = statistics.median(bare.started) / statistics.median(ours.started)
        print(f"{'ratio':14}{ratios[0]:12.2f}{ratios[1]:10.2f}{waits:14.2f}")  # noqa: T201
        if chosen.memory:
            print(  # noqa: T201
                "\n"
                + "\n".join(
                    f"after {runs:6} runs: {kib / 1024:.1f} MiB" for runs, kib in memory(ours)
                )
            )


if __name__ == "__main__":
    main()
