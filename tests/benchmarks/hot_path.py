"""`make bench`: a protected call against what others would write, same server settings, alternately
in one run.

One worker on a core of its own, the load from the other core: only ratios mean something, and only
on a machine that does nothing else.
"""

from __future__ import annotations

import importlib.metadata
import os
import re
import secrets
import shutil
import sqlite3
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

import httpx
import jwt
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from support.place import Place, Server, wait_for
from support.services import free_port

OK, UNAUTHORIZED = 200, 401
ROUNDS, SECONDS = 5, 3
CONNECTIONS, SLOW = 16, 48
KEYS, CONSUMERS, PIPELINES = 1_000_000, 10_000, 1_000
TOKENS = 20_000  # more than are remembered
CORES = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []
THREADS = 8
BODY = '{"reference": "PO-1", "lines": [{"sku": "PEN-01", "quantity": 3}]}'
PEERS = Path(__file__).with_name("peers")
VERSIONS = (
    "gunicorn",
    "gunicorn_h1c",
    "flask",
    "werkzeug",
    "pyjwt",
    "sqlalchemy",
    "fastapi",
    "uvicorn",
    "flask-jwt-extended",
    "msgspec",
)

PLUGIN = """
import time
from dataclasses import dataclass

from penstock import Call, HttpTrigger, Pipeline, hookimpl

@dataclass
class Line:
    sku: str
    quantity: int

@dataclass
class Order:
    reference: str
    lines: list[Line]

echo = Pipeline("echo", version="1.0.0", trigger=HttpTrigger(api_key=True, jwt=True, scopes={"echo"}))

@echo.post("/")
def give_back(call: Call, body: Order) -> Order:
    return body

@echo.post("/slow")
def slow(call: Call, body: Order) -> Order:
    time.sleep(0.2)
    return body

@hookimpl
def penstock_pipelines(): return [echo]
"""  # noqa: E501  text as it is
MANY = """
from penstock import Call, HttpTrigger, Pipeline, hookimpl

def give_back(call: Call, body: dict) -> dict:
    return body

def made(number):
    pipeline = Pipeline(f"pipe-{number}", version="1.0.0", trigger=HttpTrigger(api_key=True, jwt=True, scopes={"echo"}))
    pipeline.post("/")(give_back)
    return pipeline

@hookimpl
def penstock_pipelines(): return [made(number) for number in range(%d)]
"""  # noqa: E501  text as it is
SCRIPT = """
wrk.method = "POST"
wrk.body = [[{body}]]
{headers}
{tokens}
function done(summary, latency)
  io.write(string.format("requests %d micros %d errors %d p50 %d p99 %d\\n", summary.requests, summary.duration,
    summary.errors.connect + summary.errors.read + summary.errors.write + summary.errors.timeout, latency:percentile(50), latency:percentile(99)))
end
"""  # noqa: E501  text as it is
ONE_AFTER_THE_OTHER = """
local tokens, number = {{}}, 0
for line in io.lines("{path}") do tokens[#tokens + 1] = line end
request = function()
  number = number % #tokens + 1
  wrk.headers["Authorization"] = "Bearer " .. tokens[number]
  return wrk.format()
end
"""


@dataclass
class Contender:
    """One server and how it is called; a rate and a 99th percentile for each round. `tokens` is
    a file of them, one for each call."""

    name: str
    url: str
    headers: dict[str, str] = field(repr=False, default_factory=dict)
    status: int = OK
    tokens: Path | None = None
    connections: int = CONNECTIONS
    rates: list[float] = field(default_factory=list)
    p99s: list[float] = field(default_factory=list)

    @property
    def rate(self) -> float:
        return statistics.median(self.rates)

    @property
    def p99(self) -> float:
        return statistics.median(self.p99s)


def started(contender: Contender, seconds: int, folder: Path) -> subprocess.Popen[str]:
    """Put load on a server, from another process."""
    headers = {"Content-Type": "application/json", **contender.headers}
    if shutil.which("wrk"):
        script = folder / f"{secrets.token_hex(4)}.lua"
        lines = "\n".join(f'wrk.headers["{name}"] = "{value}"' for name, value in headers.items())
        tokens = ONE_AFTER_THE_OTHER.format(path=contender.tokens) if contender.tokens else ""
        script.write_text(SCRIPT.format(body=BODY, headers=lines, tokens=tokens), encoding="utf-8")
        command = [
            "wrk",
            "-t1",
            f"-c{contender.connections}",
            f"-d{seconds}s",
            "-s",
            str(script),
            contender.url,
        ]
    else:
        own = Path(__file__).with_name("load.py")
        command = [
            sys.executable,
            str(own),
            contender.url,
            str(seconds),
            str(contender.connections),
            str(contender.status),
        ]
    process = subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    if process.stdin is not None:
        # Not as arguments: everybody sees those.
        process.stdin.write(
            "\n".join([BODY, *(f"{name}: {value}" for name, value in headers.items())])
        )
        process.stdin.close()
        process.stdin = None
    return process


def finished(contender: Contender, process: subprocess.Popen[str]) -> tuple[float, float]:
    """Return calls a second, and the 99th percentile of latency in milliseconds."""
    out, err = process.communicate()
    figures = re.search(r"requests (\d+) micros (\d+) errors (\d+) p50 \d+ p99 (\d+)", out)
    refused = re.search(r"Non-2xx or 3xx responses: (\d+)", out)  # wrk's own words
    unexpected = int(refused[1]) if refused and contender.status == OK else 0
    if figures is None or int(figures[3]) or unexpected:
        sys.exit(
            f"bench: {contender.name} did not answer every call with {contender.status}:"
            f" {out[-300:]}{err[-300:]}"
        )
    return int(figures[1]) / int(figures[2]) * 1e6, int(figures[4]) / 1000


def measure(contender: Contender, seconds: int, folder: Path) -> tuple[float, float]:
    """Return calls a second and the 99th percentile of one round."""
    headers = {"Content-Type": "application/json", **contender.headers}
    if contender.tokens:
        headers["Authorization"] = (
            "Bearer " + contender.tokens.read_text(encoding="utf-8").partition("\n")[0]
        )
    seen = httpx.post(contender.url, content=BODY, headers=headers, timeout=10).status_code
    if seen != contender.status:
        sys.exit(f"bench: {contender.name} answered {seen}, not {contender.status}")
    return finished(contender, started(contender, seconds, folder))


def rounds(contenders: list[Contender], folder: Path) -> None:
    """Measure all of them alternately."""
    pin(0)
    for contender in contenders:
        measure(contender, 1, folder)
    for _ in range(ROUNDS):
        for contender in contenders:
            rate, p99 = measure(contender, SECONDS, folder)
            contender.rates.append(rate)
            contender.p99s.append(p99)
    pin(-1)


@contextmanager
def peer(app: str, folder: Path, worker: str = "gthread", **environ: str) -> Iterator[str]:
    """Serve one of the peers, set as Penstock sets its server, and yield its URL."""
    port = free_port()
    if worker == "uvicorn":
        command = [
            "uvicorn",
            f"{app}:app",
            "--loop",
            "uvloop",
            "--http",
            "httptools",
            "--no-access-log",
            "--log-level",
            "error",
            "--port",
            str(port),
        ]
    else:
        command = [
            "gunicorn",
            "--bind",
            f"127.0.0.1:{port}",
            "--workers",
            "1",
            "--threads",
            str(THREADS),
            "--worker-class",
            worker,
        ]
        command += [
            "--keep-alive",
            "75",
            "--no-control-socket",
            "--log-level",
            "error",
            f"{app}:app",
        ]
    with (folder / f"peer-{port}.log").open("w") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", *command],
            cwd=PEERS,
            env=os.environ | environ,
            stdout=log,
            stderr=log,
        )
    try:
        wait_for(f"http://127.0.0.1:{port}/", process)
        yield f"http://127.0.0.1:{port}/"
    finally:
        process.terminate()
        process.wait()


def pin(which: int) -> None:
    """Run what is started from here on on the first core (0) or the last (-1): server and load
    must not take each other's time."""
    if len(CORES) > 1:
        os.sched_setaffinity(0, {CORES[which]})


def say(text: str = "") -> None:
    print(text, flush=True)  # noqa: T201  the result


def compare(work: str, against: str, goal: str, ratio: float) -> None:
    """Print one row of the table; a goal is the least ratio, or with ≤ the greatest."""
    met = ratio <= float(goal[1:]) if goal.startswith("≤") else ratio >= float(goal[1:])
    say(f"{work:58} {against:44} {goal:>6} {ratio:7.2f}  {'met' if met else 'NOT MET'}")


def echo_place(stack: ExitStack, folder: Path, name: str) -> tuple[Place, dict[str, str]]:
    """Make a place with the echo, and what a caller sends."""
    own = folder / name
    own.mkdir()
    place = Place.make(f"sqlite:///{own}/bench.db", own)
    stack.callback(place.engine.dispose)
    place.plugin("echo", PLUGIN)
    place.consumer("acme", "echo")
    sent = {
        "X-API-Key": place.key("acme").key,
        "Authorization": "Bearer " + place.token("acme", scopes=frozenset({"echo"})),
    }
    return place, sent


def serve(stack: ExitStack, place: Place, *, workers: int = 1, threads: int = THREADS) -> Server:
    """Serve a place on the server's core."""
    return stack.enter_context(
        Server(place, workers=workers, threads=threads, PENSTOCK_LOG_CALLS="none")
    )


def against_peers(stack: ExitStack, folder: Path) -> None:
    """Compare with what others would write, and refused calls with accepted ones."""
    place, sent = echo_place(stack, folder, "echo")
    url = f"{serve(stack, place).url}/v1/echo/"
    secret, key = secrets.token_hex(32), "k" * 40
    claims = {
        "iss": "peer",
        "aud": "peer",
        "sub": "ann",
        "exp": int(time.time()) + 86_400,
        "iat": int(time.time()),
        "jti": "1",
        "type": "access",
    }
    theirs = {
        "X-API-Key": key,
        "Authorization": "Bearer " + jwt.encode({**claims, "fresh": False}, secret),
    }
    environ = {
        "PEER_SECRET": secret,
        "PEER_KEY": key,
        "PEER_DATABASE": f"sqlite:///{folder}/peer.db",
    }
    wrong = sent | {
        "X-API-Key": sent["X-API-Key"][:-1] + ("0" if sent["X-API-Key"][-1] != "0" else "1")
    }
    forged = sent | {"Authorization": sent["Authorization"][:-6] + "AAAAAA"}
    tokens = folder / "tokens"
    tokens.write_text(
        "\n".join(place.tokens("acme", TOKENS, scopes=frozenset({"echo"}))), encoding="utf-8"
    )
    ours = Contender("Penstock, key and token, recorded", url, sent)
    wsgi = Contender("bare WSGI callable", stack.enter_context(peer("bare_wsgi", folder)))
    flask = Contender("bare Flask view", stack.enter_context(peer("bare_flask", folder)))
    fastapi = Contender(
        "FastAPI, uvicorn, key and token",
        stack.enter_context(peer("fastapi_jwt", folder, "uvicorn", **environ)),
        theirs,
    )
    extended = Contender(
        "Flask-JWT-Extended, SQLAlchemy",
        stack.enter_context(peer("flask_sql_jwt", folder, **environ)),
        theirs,
    )
    our_worker = "penstock.server.worker.Worker"
    wsgi_ours = Contender(
        "bare WSGI callable, our worker", stack.enter_context(peer("bare_wsgi", folder, our_worker))
    )
    flask_ours = Contender(
        "bare Flask view, our worker", stack.enter_context(peer("bare_flask", folder, our_worker))
    )
    bad_key = Contender("Penstock, wrong key", url, wrong, status=UNAUTHORIZED)
    bad_token = Contender("Penstock, forged token", url, forged, status=UNAUTHORIZED)
    distinct = Contender(
        "Penstock, a token seen first each time",
        url,
        {"X-API-Key": sent["X-API-Key"]},
        tokens=tokens,
    )
    contenders = [ours, wsgi, wsgi_ours, flask, flask_ours, fastapi, extended, bad_key, bad_token]
    if shutil.which("wrk"):
        contenders.append(distinct)
    rounds(contenders, folder)
    say(f"{'':42}{'calls/s':>9}{'min':>9}{'max':>9}{'p99 ms':>9}")
    for item in contenders:
        say(
            f"{item.name:42}{item.rate:9.0f}{min(item.rates):9.0f}{max(item.rates):9.0f}{item.p99:9.1f}"
        )
    say()
    compare("a protected call", "bare Flask view", "≥1.8", ours.rate / flask.rate)
    compare("its p99", "bare Flask view's", "≤1", ours.p99 / flask.p99)
    compare("a protected call", "bare WSGI callable", "≥0.95", ours.rate / wsgi.rate)
    compare("a protected call", "FastAPI with the same checks", "≥1.9", ours.rate / fastapi.rate)
    compare(
        "a protected call", "Flask-JWT-Extended and SQLAlchemy", "≥4.5", ours.rate / extended.rate
    )
    compare("a call with a wrong key", "an accepted one", "≥1", bad_key.rate / ours.rate)
    compare("a call with a forged token", "an accepted one", "≥1", bad_token.rate / ours.rate)
    if distinct.rates:
        compare(
            "distinct tokens, EdDSA",
            "PyJWT's bare decode on a core",
            "≥0.7",
            distinct.rate / decodes_a_second(),
        )


def decodes_a_second() -> float:
    """Return how many tokens PyJWT verifies in a second of one core."""
    key = Ed25519PrivateKey.generate()
    claims = {
        "iss": "penstock",
        "aud": "test",
        "sub": "ann",
        "client_id": "acme",
        "jti": "1",
        "scope": "echo",
        "iat": 0,
        "nbf": 0,
        "exp": 2**33,
    }
    token = jwt.encode(claims, key, "EdDSA")
    began, public = time.thread_time(), key.public_key()
    for _ in range(10_000):
        jwt.decode(token, public, ["EdDSA"], issuer="penstock", audience="test")
    return 10_000 / (time.thread_time() - began)


def with_many(stack: ExitStack, folder: Path) -> None:
    """Compare a million keys, ten thousand consumers and a thousand pipelines with ten keys and
    one pipeline."""
    few, sent = echo_place(stack, folder, "few")
    own = folder / "many"
    own.mkdir()
    many = Place.make(f"sqlite:///{own}/bench.db", own)
    stack.callback(many.engine.dispose)
    many.plugin("many", MANY % PIPELINES)
    many.consumer("acme", *(f"pipe-{number}" for number in range(10)))
    theirs = {
        "X-API-Key": many.key("acme").key,
        "Authorization": "Bearer " + many.token("acme", scopes=frozenset({"echo"})),
    }
    now = datetime.now(UTC).strftime("%Y-%m-%d %H:%M:%S.%f")
    with sqlite3.connect(own / "bench.db") as connection:
        rows = ((number, f"consumer-{number}", "", 1, now, 2) for number in range(2, CONSUMERS + 2))
        connection.executemany("INSERT INTO consumers VALUES (?, ?, ?, ?, ?, ?)", rows)
        keys = (
            (
                f"key_{n:012x}",
                1,
                2 + n % CONSUMERS,
                secrets.token_bytes(32),
                "abcd",
                "",
                1,
                now,
                None,
                None,
                None,
                2,
            )
            for n in range(KEYS)
        )
        connection.executemany(
            "INSERT INTO api_keys (id, environment_id, consumer_id, digest, last_four, note,"
            " enabled, created_at, expires_at, revoked_at, last_used_at, revision)"
            " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
            keys,
        )
        pairs = (
            (2 + number % CONSUMERS, f"v1/pipe-{(number // CONSUMERS + number) % PIPELINES}")
            for number in range(10 * CONSUMERS)
        )
        connection.executemany(
            "INSERT INTO associations (environment_id, consumer_id, pipeline, active, revision)"
            " VALUES (1, ?, ?, 1, 2)",
            pairs,
        )
    small = serve(stack, few, workers=2)
    began = time.monotonic()
    large = serve(stack, many, workers=2)
    wait_for_answer(f"{large.url}/v1/pipe-3/", theirs, OK)
    ready = time.monotonic() - began
    usual = Contender("10 keys", f"{small.url}/v1/echo/", sent)
    big = Contender("1,000,000 keys", f"{large.url}/v1/pipe-3/", theirs)
    rounds([usual, big], folder)
    compare(
        f"{KEYS:,} keys, {CONSUMERS:,} consumers, {PIPELINES:,} pipelines",
        "1 key, 1 pipeline",
        "≥0.95",
        big.rate / usual.rate,
    )
    compare(
        "  memory of 2 workers and their arbiter, MiB more",
        "",
        "≤250",
        memory(large) - memory(small),
    )
    compare("  seconds from start to the first call", "", "≤10", ready)
    made = many.key("acme")
    began = time.monotonic()
    wait_for_answer(f"{large.url}/v1/pipe-3/", theirs | {"X-API-Key": made.key}, OK)
    compare("  seconds until a new key is taken", "", "≤1", time.monotonic() - began)


def wait_for_answer(url: str, headers: dict[str, str], status: int) -> None:
    """Wait for a call to be answered like that."""
    while (
        httpx.post(
            url, content=BODY, headers={"Content-Type": "application/json", **headers}, timeout=10
        ).status_code
        != status
    ):
        time.sleep(0.01)


def processes(server: Server) -> list[int]:
    """Return the process and all its children."""

    def of(pid: int) -> list[int]:
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text(encoding="ascii").split()
        return [pid, *(found for child in children for found in of(int(child)))]

    return of(server.process.pid)


def memory(server: Server) -> float:
    """Return the MiB that a server's processes take, what they share counted once."""
    sums = [
        re.search(
            r"(?m)^Pss: +(\d+)", Path(f"/proc/{pid}/smaps_rollup").read_text(encoding="ascii")
        )
        for pid in processes(server)
    ]
    return sum(int(found[1]) for found in sums if found) / 1024


def busy(server: Server) -> float:
    """Return the seconds of processor time that a server's processes have taken."""
    ticks = [
        Path(f"/proc/{pid}/stat").read_text(encoding="ascii").rpartition(")")[2].split()
        for pid in processes(server)
    ]
    return sum(int(fields[11]) + int(fields[12]) for fields in ticks) / os.sysconf("SC_CLK_TCK")


def scaling(stack: ExitStack, folder: Path) -> None:
    """Compare what two workers do in a second of a core with what one does."""
    place, sent = echo_place(stack, folder, "scaling")
    one = serve(stack, place)
    if CORES:
        os.sched_setaffinity(0, CORES)
    two = serve(stack, place, workers=2)
    figures: dict[str, list[float]] = {"one": [], "two": []}
    for _ in range(ROUNDS):
        for name, server in (("one", one), ("two", two)):
            contender = Contender(name, f"{server.url}/v1/echo/", sent, connections=2 * CONNECTIONS)
            before = busy(server)
            rate, _ = measure(contender, SECONDS, folder)
            figures[name].append(rate * SECONDS / (busy(server) - before))
    compare(
        "2 workers, for each second of a busy core, times 2",
        "1 worker",
        "≥1.8",
        2 * statistics.median(figures["two"]) / statistics.median(figures["one"]),
    )
    pin(-1)


def beside_slow(stack: ExitStack, folder: Path) -> None:
    """Compare fast calls beside slow ones with fast calls alone, with the threads that are
    usual."""
    place, sent = echo_place(stack, folder, "slow")
    server = serve(stack, place, threads=64)
    alone = Contender("fast alone", f"{server.url}/v1/echo/", sent)
    beside = Contender("fast beside slow", f"{server.url}/v1/echo/", sent)
    slow = Contender("slow", f"{server.url}/v1/echo/slow", sent, connections=SLOW)
    pin(0)
    for _ in range(ROUNDS):
        for contender in (alone, beside):
            other = started(slow, SECONDS + 1, folder) if contender is beside else None
            rate, p99 = (
                measure(contender, SECONDS, folder)
                if other is None
                else finished(contender, started(contender, SECONDS, folder))
            )
            contender.rates.append(rate)
            contender.p99s.append(p99)
            if other is not None:
                slow.rates.append(finished(slow, other)[0])
    compare(
        f"fast calls beside {SLOW} callers of what sleeps 200 ms",
        "fast calls alone",
        "≥0.85",
        beside.rate / alone.rate,
    )
    compare("  their p99", "fast calls alone", "≤4", beside.p99 / alone.p99)
    compare("  slow calls a second", f"{5 * SLOW} at best", "≥0.9", slow.rate / (5 * SLOW))
    pin(-1)


SECTIONS = {"peers": against_peers, "many": with_many, "scaling": scaling, "slow": beside_slow}


def main() -> None:
    """Measure and print the table; sections can be named."""
    with_what = (
        "wrk"
        if shutil.which("wrk")
        else "our own client in Python; wrk, where it is installed, is steadier"
    )
    versions = ", ".join(f"{name} {importlib.metadata.version(name)}" for name in VERSIONS)
    say(f"Python {sys.version.split()[0]}, {versions}")
    say(
        f"medians of {ROUNDS} rounds of {SECONDS} s, alternately; {CONNECTIONS} connections,"
        f" {THREADS} threads; load by {with_what}\n"
    )
    for name in sys.argv[1:] or SECTIONS:
        with ExitStack() as stack:
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
            pin(-1)
            SECTIONS[name](stack, folder)
            pin(-1)


if __name__ == "__main__":
    main()
