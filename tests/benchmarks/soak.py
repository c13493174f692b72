"""`make soak`: what others still get while clients are slow or greedy, and what that costs; and the
wire test with many requests.

The server has its default size and no proxy in front. Ratios of one run: calls of others with the
clients there, to those without.
"""

# ruff: noqa: T201  the result

from __future__ import annotations

import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from contextlib import ExitStack
from pathlib import Path

from benchmarks.slow_clients import KINDS, over_tls
from functional.test_time_limit import certificate
from support.place import Place, Server, wait_for
from wire.compare import Gunicorn, compare
from wire.differences import REASONS, reason
from wire.generator import cases

LEAST, MOST_MB = 0.85, 200
ROUNDS, SECONDS, BEFORE = 3, 3.0, 4.0
REQUESTS = 20_000
CONNECTIONS = 16
PLUGIN = """
from penstock import Call, HttpTrigger, Pipeline, hookimpl

opened = Pipeline("open", version="1.0.0", trigger=HttpTrigger(max_body=1_000_000))
keyed = Pipeline("keyed", version="1.0.0", trigger=HttpTrigger(api_key=True))

@opened.post("/")
def take(call: Call, body: bytes): return {}

@opened.get("/large")
def large(call: Call): return b"x" * 2_000_000

@keyed.post("/")
def give_back(call: Call, body: dict): return body

@hookimpl
def penstock_pipelines(): return [opened, keyed]
"""


def memory(server: Server) -> float:
    """Return the megabytes that the processes of a server have for themselves."""
    found, kilobytes = [server.process.pid], 0
    for pid in found:
        below = subprocess.run(
            ["pgrep", "-P", str(pid)], capture_output=True, text=True, check=False
        ).stdout.split()
        found += map(int, below)
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text(encoding="ascii").splitlines()
        kilobytes += sum(int(line.split()[1]) for line in lines if line.startswith("Private_"))
    return kilobytes / 1024


def rate(server: Server, key: str) -> float:
    """Return the calls a second that others get, who keep their connections."""
    command = [
        sys.executable,
        "-m",
        "benchmarks.load",
        f"http://127.0.0.1:{server.port}/v1/keyed/",
        str(SECONDS),
        str(CONNECTIONS),
        "200",
    ]
    given = f'{{"a": 1}}\nX-API-Key: {key}\nContent-Type: application/json\n'
    done = subprocess.run(
        command, input=given, capture_output=True, text=True, check=True
    ).stdout.split()
    if int(done[5]):
        raise AssertionError(f"{done[5]} calls of others failed")
    return int(done[1]) / int(done[3]) * 1e6


def soak(name: str, target: Server, measured: Server, key: str) -> bool:
    """Print one kind's line, and return whether it is good."""
    without, within = [], []
    before = memory(target)
    for _ in range(ROUNDS):
        without.append(rate(measured, key))
        command = [
            sys.executable,
            "-m",
            "benchmarks.slow_clients",
            name,
            str(target.port),
            str(BEFORE + SECONDS + 1),
        ]
        attack = subprocess.Popen(command)
        time.sleep(BEFORE)
        within.append(rate(measured, key))
        peak = memory(target)
        attack.wait()
    ratio, grown = statistics.median(within) / statistics.median(without), peak - before
    good = ratio >= LEAST and grown <= MOST_MB
    print(
        f"{name:34}{statistics.median(without):9.0f}{statistics.median(within):9.0f}{ratio:7.2f}{grown:+9.1f}"
        f" MB{'' if good else '  TOO MUCH'}",
        flush=True,
    )
    return good


def clients(chosen: list[str]) -> bool:
    """Try each kind of client against a server of the default size."""
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        place = Place.make(f"sqlite:///{folder}/soak.db", Path(folder))
        place.policy("any")
        place.plugin("soak", PLUGIN)
        place.consumer("acme", "keyed")
        key = place.key("acme").key
        size = {
            "workers": 2,
            "threads": 64,
            "PENSTOCK_CONSOLE": "true",
            "PENSTOCK_LOG_CALLS": "none",
        }
        plain = stack.enter_context(Server(place, **size))  # type: ignore[arg-type]  # what the kit takes
        print(f"{'':34}{'without':>9}{'within':>9}{'ratio':>7}{'memory':>9}")
        good = [
            soak(name, plain, plain, key) for name in KINDS if name in chosen and not over_tls(name)
        ]
        tls = [name for name in KINDS if name in chosen and over_tls(name)]
        if tls:
            cert, private = certificate(Path(folder))
            ended = stack.enter_context(
                Server(
                    place,
                    wait=False,
                    **size,
                    GUNICORN_CMD_ARGS=f"--certfile {cert} --keyfile {private}",
                )
            )  # type: ignore[arg-type]
            wait_for(f"http://127.0.0.1:{plain.port}/-/health")
            time.sleep(5)
            good += [soak(name, ended, plain, key) for name in tls]
        return all(good)


def wire(requests: int) -> bool:
    """Send the same bytes to stock gunicorn and to our server, and print what they answer
    differently."""
    unexplained = 0
    for application, seed in (("app", int(time.time())), ("heads_first", int(time.time()) + 1)):
        with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
            stock = stack.enter_context(Gunicorn("gthread", Path(folder)))
            ours = stack.enter_context(
                Gunicorn("penstock.server.worker.Worker", Path(folder), application=application)
            )
            made = cases(seed, requests)
            reasons = Counter(reason(difference) for difference in compare(made, stock, ours))
        print(
            f"{application}, seed {seed}: {requests} requests on {len(made)} connections,"
            f" {sum(reasons.values())} answered differently"
        )
        for name, number in reasons.most_common():
            print(f"  {number:6}  {REASONS[name] if name is not None else 'NOT EXPLAINED'}")
        unexplained += reasons[None]
    return not unexplained


def main() -> None:
    """Run all, or the kinds of clients that are named."""
    chosen = sys.argv[1:] or list(KINDS)
    good = clients(chosen)
    if len(sys.argv) == 1:
        good = wire(REQUESTS) and good
    sys.exit(0 if good else 1)


if __name__ == "__main__":
    main()
