"""`make chaos`: workers are killed at random while thousands of durable runs are under way; none may be lost, no finished step done twice."""

from __future__ import annotations

import argparse
import json
import random
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

from kit import Place

from penstock.db import runs as stored
from penstock.db.engine import reading
from penstock.host import Host, open_dbos
from penstock.runs.accepting import Accepting, Wanted
from penstock.runs.durable import Given
from penstock.runs.engine import Ledger
from penstock.runs.ids import new_run_id
from penstock.settings import Settings

PATIENCE = 1200.0  # seconds
LAST = "ffffffff-ffff-ffff-ffff-ffffffffffff"

PLUGIN = """
import json, os, time, uuid
from penstock import Call, Durable, HttpTrigger, Pipeline, hookimpl, step

chaos = Pipeline("chaos", version="1.0.0", trigger=HttpTrigger(api_key=True), durable=Durable(recoveries=50, backlog=1_000_000))

def note(run, number):
    token, began = uuid.uuid4().hex, time.time()
    time.sleep(0.05)
    with open(os.environ["CHAOS_LOG"], "a") as log:
        log.write(json.dumps([run, number, token, began, os.getpid()]) + chr(10))
    return token

@step()
def first(run: str) -> str: return note(run, 1)
@step()
def second(run: str) -> str: return note(run, 2)
@step()
def third(run: str) -> str: return note(run, 3)

@chaos.post("/", mode="durable")
def work(call: Call) -> list[str]:
    return [first(call.run), second(call.run), third(call.run)]

@hookimpl
def penstock_pipelines(): return [chaos]
"""


class Worker:
    """One worker process, started again whenever it was killed."""

    def __init__(self, place: Place, log: Path) -> None:
        self._place, self._log = place, log
        self.process = self.start()

    def start(self) -> subprocess.Popen[bytes]:
        environ = self._place.environ(CHAOS_LOG=str(self._log), PENSTOCK_WORKER_RUNS="16")
        with (self._place.folder / "worker.log").open("ab") as said:
            return subprocess.Popen([sys.executable, "-m", "penstock", "worker"], env=environ, stdout=said, stderr=said, cwd=self._place.folder)

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()
        self.process = self.start()


def main() -> None:
    """Run the chaos and print what came of it; exit code 1 where a promise was broken."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--url", help="a database, by default SQLite in a temporary folder")
    parser.add_argument("--runs", type=int, default=2000)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--workers", type=int, default=2)
    chosen = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="penstock-chaos-"))
    url = chosen.url or f"sqlite:///{folder}/chaos.db"
    place = Place.make(url, folder)
    place.plugin("chaos", PLUGIN)
    log = folder / "steps.log"
    log.touch()
    settings = Settings(environment="test", database_url=url, secret_keys=(place.secret,), plugin_path=(folder / "plugins",), log_level="error")
    pipeline = Host(settings).loaded["v1/chaos"].pipeline
    ledger = open_dbos(url, "test", place.box)
    accepting = Accepting(place.engine, ledger, "test", 1)
    workers = [Worker(place, log) for _ in range(chosen.workers)]
    time.sleep(4)
    accepted: list[str] = []
    began = time.time()

    def accept() -> None:
        for _ in range(chosen.runs):
            given = Given("v1/chaos", "POST", "/", "/v1/chaos/", "test", time.time(), consumer="acme", consumer_id=1)
            run = new_run_id()
            accepting.accept(Wanted(run, given, pipeline, pipeline.routes[0]))
            accepted.append(run)

    accepter = threading.Thread(target=accept)
    accepter.start()
    killed = over = 0
    while (over < chosen.runs or killed < chosen.kills) and time.time() - began < PATIENCE:
        if killed < chosen.kills:
            time.sleep(random.uniform(0.5, 3.0))
            random.choice(workers).kill()
            killed += 1
        else:
            time.sleep(1)
        with reading(place.engine) as connection:
            waiting = stored.unfinished(connection, 1, after=None, before=LAST, limit=chosen.runs)
        over = len(accepted) - len(waiting)
    accepter.join()
    took = time.time() - began
    failures = judge(accepted, ledger, log)
    print(f"{over} of {len(accepted)} runs over after {took:.1f} s, {killed} workers killed")  # noqa: T201
    for worker in workers:
        worker.process.send_signal(signal.SIGTERM)
    for worker in workers:
        worker.process.wait(60)
    for failure in failures[:20]:
        print(failure)  # noqa: T201
    print(f"{len(failures)} promises broken; see {folder}")  # noqa: T201
    sys.exit(bool(failures) or over < len(accepted))


def judge(accepted: list[str], ledger: Ledger, log: Path) -> list[str]:
    """Return each promise that was broken."""
    done: dict[tuple[str, int], list[tuple[str, float]]] = {}
    for line in log.read_text().splitlines():
        run, number, token, at, _ = json.loads(line)
        done.setdefault((run, number), []).append((token, at))
    failures, again, gaps = [], 0, []
    held = {}
    for start in range(0, len(accepted), 500):
        held |= ledger.look(accepted[start : start + 500], outcomes=True)
    for run in accepted:
        item = held.get(run)
        if item is None or item.outcome is None or item.outcome["status"] != 200:
            failures.append(f"lost: {run} {item}")
            continue
        steps = ledger.steps(run)
        times = []
        for step in steps:
            token = json.loads(step.left["value"])
            executions = done.get((run, step.number), [])
            again += max(0, len(executions) - 1)
            times += [at for _, at in executions]
            if token not in [one for one, _ in executions]:
                failures.append(f"kept what nobody did: {run} {step.number}")
            failures += [
                f"done again after it was kept: {run} {step.number}" for one, at in executions if one != token and at > step.ended_at + 0.001
            ]
        if len(steps) != 3:
            failures.append(f"{len(steps)} steps: {run}")
        gaps += [later - earlier for earlier, later in zip(sorted(times), sorted(times)[1:], strict=False)]
    longest, median = max(gaps, default=0), statistics.median(gaps) * 1000
    print(f"{again} steps that a kill interrupted were done again; pauses within a run: {median:.0f} ms, the longest {longest:.1f} s")  # noqa: T201
    return failures


if __name__ == "__main__":
    main()
