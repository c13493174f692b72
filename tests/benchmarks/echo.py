"""`make bench`: an echo behind key and token against a bare Flask view, same server settings, alternately in one run."""

from __future__ import annotations

import os
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import httpx
from kit import Place, Server, free_port, wait_for

OK = 200
ROUNDS = 5
SECONDS = 4
CONNECTIONS = 16
CORES = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []
THREADS = "8"
BODY = '{"reference": "PO-1", "lines": [{"sku": "PEN-01", "quantity": 3}]}'

PLUGIN = """
from penstock import Call, HttpTrigger, Pipeline, hookimpl

echo = Pipeline("echo", version="1.0.0", trigger=HttpTrigger(api_key=True, jwt=True, scopes={"echo"}))

@echo.post("/")
def give_back(call: Call, body: dict) -> dict:
    return body

@hookimpl
def penstock_pipelines(): return [echo]
"""
BARE = """
from flask import Flask, request

app = Flask("bare")

@app.post("/")
def echo():
    return request.get_json()
"""
SCRIPT = """
wrk.method = "POST"
wrk.body = [[{body}]]
{headers}
function done(summary, latency)
  io.write(string.format("requests %d micros %d errors %d p50 %d p99 %d\\n", summary.requests, summary.duration,
    summary.errors.connect + summary.errors.read + summary.errors.write + summary.errors.timeout, latency:percentile(50), latency:percentile(99)))
end
"""


@dataclass
class Contender:
    """One server and how it is called; a rate for each round."""

    name: str
    url: str
    headers: dict[str, str] = field(repr=False)
    status: int = OK
    rates: list[float] = field(default_factory=list)
    p99: list[float] = field(default_factory=list)


def measure(contender: Contender, seconds: float, folder: Path) -> tuple[float, float]:
    """Return calls a second, and the 99th percentile of latency in milliseconds, under load from another process."""
    headers = {"Content-Type": "application/json", **contender.headers}
    seen = httpx.post(contender.url, content=BODY, headers=headers, timeout=10).status_code
    if seen != contender.status:
        sys.exit(f"bench: {contender.name} answered {seen}, not {contender.status}")
    if shutil.which("wrk"):
        script = folder / "post.lua"
        lines = "\n".join(f'wrk.headers["{name}"] = "{value}"' for name, value in headers.items())
        script.write_text(SCRIPT.format(body=BODY, headers=lines), encoding="utf-8")
        command = ["wrk", "-t1", f"-c{CONNECTIONS}", f"-d{seconds}s", "-s", str(script), contender.url]
    else:
        command = [sys.executable, str(Path(__file__).with_name("load.py")), contender.url, str(seconds), str(CONNECTIONS), str(contender.status)]
    sent = "\n".join([BODY, *(f"{name}: {value}" for name, value in headers.items())])  # not as arguments: everybody sees those
    done = subprocess.run(command, input=sent, capture_output=True, text=True, check=False)
    figures = re.search(r"requests (\d+) micros (\d+) errors (\d+) p50 \d+ p99 (\d+)", done.stdout)
    refused = re.search(r"Non-2xx or 3xx responses: (\d+)", done.stdout)  # wrk's own words
    unexpected = int(refused[1]) if refused and contender.status == OK else 0
    if figures is None or int(figures[3]) or unexpected:
        sys.exit(f"bench: {contender.name} did not answer every call with {contender.status}: {done.stdout[-300:]}{done.stderr[-300:]}")
    return int(figures[1]) / int(figures[2]) * 1e6, int(figures[4]) / 1000


@contextmanager
def bare_flask(folder: Path, worker: str) -> Iterator[str]:
    """Serve the bare view with gunicorn, set as Penstock sets it, and yield its URL."""
    (folder / "bare.py").write_text(BARE, encoding="utf-8")
    port = free_port()
    options = ["--bind", f"127.0.0.1:{port}", "--workers", "1", "--threads", THREADS, "--worker-class", worker, "--keep-alive", "75"]
    command = [sys.executable, "-m", "gunicorn", *options, "--no-control-socket", "--log-level", "error", "bare:app"]
    with (folder / f"bare-{port}.log").open("w") as log:
        process = subprocess.Popen(command, cwd=folder, stdout=log, stderr=log)
    try:
        wait_for(f"http://127.0.0.1:{port}/", process)
        yield f"http://127.0.0.1:{port}/"
    finally:
        process.terminate()
        process.wait()


def pin(which: int) -> None:
    """Run what is started from here on on the first core (0) or the last (-1): server and load must not take each other's time."""
    if len(CORES) > 1:
        os.sched_setaffinity(0, {CORES[which]})


def main() -> None:
    """Measure and print the table."""
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        pin(-1)
        place = Place.make(f"sqlite:///{folder}/bench.db", folder)
        stack.callback(place.engine.dispose)
        place.plugin("echo", PLUGIN)
        place.consumer("acme", "echo")
        key = {"X-API-Key": place.key("acme").key}
        token = {"Authorization": "Bearer " + place.token("acme", scopes=frozenset({"echo"}))}
        server = stack.enter_context(Server(place, PENSTOCK_THREADS=THREADS, PENSTOCK_LOG_CALLS="none"))
        url = f"{server.url}/v1/echo/"
        contenders = [
            Contender("bare Flask view, gunicorn's worker", stack.enter_context(bare_flask(folder, "gthread")), {}),
            Contender("bare Flask view, our worker", stack.enter_context(bare_flask(folder, "penstock.gunicorn_worker.Worker")), {}),
            Contender("Penstock, key and token", url, key | token),
            Contender("Penstock, refused without them", url, {}, status=401),
        ]
        pin(0)
        for contender in contenders:
            measure(contender, 1, folder)
        for _ in range(ROUNDS):
            for contender in contenders:
                rate, p99 = measure(contender, SECONDS, folder)
                contender.rates.append(rate)
                contender.p99.append(p99)
    with_what = "wrk" if shutil.which("wrk") else "our own client in Python; wrk, where it is installed, is steadier"
    base = statistics.median(contenders[0].rates)
    print(f"{ROUNDS} rounds of {SECONDS} s, alternately; {CONNECTIONS} connections, 1 worker, {THREADS} threads; load by {with_what}\n")  # noqa: T201  the result
    print(f"{'':36}{'calls/s':>9}{'min':>9}{'max':>9}{'p99 ms':>9}{'ratio':>8}")  # noqa: T201
    for contender in contenders:
        rate = statistics.median(contender.rates)
        row = f"{rate:9.0f}{min(contender.rates):9.0f}{max(contender.rates):9.0f}{statistics.median(contender.p99):9.1f}{rate / base:8.2f}"
        print(f"{contender.name:36}{row}")  # noqa: T201


if __name__ == "__main__":
    main()
