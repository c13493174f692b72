"""Durable runs on the real engine, in real processes: accepted once, done to the end, even if
happens, looked up, cancelled, called back."""

from __future__ import annotations

import base64
import hmac
import json
import signal
import socket
import sqlite3
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import psycopg
import pytest
import sqlalchemy as sa
from support.durable import Serve, StartWorker, noted, over, until, workers
from support.place import Place
from support.zygote import Started

from penstock.db.engine import writing
from penstock.host.services import open_dbos

PLUGIN = """
import os, time
from functools import partial
from pathlib import Path
from penstock import Call, Durable, HttpTrigger, Pipeline, PipelineError, Schedule, call_pipeline, gather, hookimpl, sleep, step

HERE = Path(__file__).parent

def note(text):
    with (HERE / "noted").open("a") as noted:
        noted.write(text + "\\n")

jobs = Pipeline("jobs", version="1.0.0", trigger=HttpTrigger(api_key=True, idempotent="key"), durable=Durable(recoveries=1))
narrow = Pipeline("narrow", version="1.0.0", trigger=HttpTrigger(api_key=True), durable=Durable(concurrency=1))
short = Pipeline("short", version="1.0.0", trigger=HttpTrigger(api_key=True), durable=Durable(timeout=1.5))
frail = Pipeline("frail", version="1.0.0", trigger=HttpTrigger(api_key=True), durable=Durable(recoveries=0))
clock = Pipeline("clock", version="1.0.0", trigger=Schedule("*/2 * * * * *"))

@step(label="{name}")
def work(name: str, seconds: float) -> str:
    note(f"{name} begins in {os.getpid()}")
    while seconds < 0 and not (HERE / "released").exists():
        time.sleep(0.01)
    time.sleep(max(seconds, 0))
    note(f"{name} ends in {os.getpid()}")
    return name

@jobs.post("/", mode="durable")
def three(call: Call, body: dict[str, float]) -> list[str]:
    return [work("first", body["first"]), *gather(partial(work, "second", body["second"]), partial(work, "third", body["second"]))]

@jobs.post("/deadly", mode="durable")
def deadly(call: Call) -> None:
    note("deadly")
    time.sleep(1)
    os.kill(os.getpid(), 9)

@narrow.post("/", mode="durable")
def alone(call: Call) -> None:
    work("alone", 0.3)

@short.post("/", mode="durable")
def long(call: Call) -> None:
    for _ in range(100):
        work("on and on", 0.2)

@short.post("/stuck", mode="durable")
def stuck(call: Call) -> str:
    time.sleep(6)
    note("stuck ends")
    return "too late"

@narrow.post("/nap", mode="durable")
def nap(call: Call) -> None:
    note("nap")
    sleep(600)

@frail.post("/", mode="durable")
def restarted(call: Call) -> str:
    return work("restarted", 4)

@step()
def boom(kind: str) -> None:
    note(f"boom {kind}")
    if kind == "refusal":
        raise PipelineError(422, "Nope", "bad \\ud800", n=2**80)
    if kind == "exit":
        raise SystemExit(3)
    raise ValueError("bad \\ud800", 2**80)

@jobs.post("/boom", mode="durable")
def blown(call: Call, body: dict[str, str]) -> None:
    boom(body["kind"])

@jobs.post("/leave", mode="durable")
def leave(call: Call) -> object:
    child = call_pipeline("narrow", wait=False)
    work("after", 0)
    return {"child": child}

@jobs.post("/parent", mode="durable")
def parent(call: Call) -> object:
    return {"child": call_pipeline("narrow")}

@clock.post("/")
def tick(call: Call) -> None:
    note(f"tick {call.run}")

@hookimpl
def penstock_pipelines(): return [jobs, narrow, short, frail, clock]
"""  # noqa: E501  text as it is


@pytest.fixture(params=["sqlite", "postgresql"])
def place(
    request: pytest.FixtureRequest, new_database: Callable[..., str], tmp_path: Path
) -> Iterator[Place]:
    place = made(new_database(request.param, upgraded=True), tmp_path)
    yield place
    place.engine.dispose()


@pytest.fixture
def sqlite_place(new_database: Callable[..., str], tmp_path: Path) -> Iterator[Place]:
    place = made(new_database("sqlite", upgraded=True), tmp_path)
    yield place
    place.engine.dispose()


def made(url: str, folder: Path) -> Place:
    place = Place.make(url, folder)
    place.policy("api-key")
    place.plugin("jobs", PLUGIN)
    place.consumer("acme", "jobs", "narrow", "short", "frail")
    return place


@pytest.fixture
def worker() -> Iterator[StartWorker]:
    """Start worker processes; they end with the test."""
    with workers() as start:
        yield start


def test_a_run_is_done_beside_the_server_and_waited_for(place: Place, serve: Serve) -> None:
    key = place.key("acme").key
    server = serve(place, worker=1)

    answered = server.call(
        "POST",
        "/v1/jobs/",
        key=key,
        json={"first": 0, "second": 0.2},
        headers={"Prefer": "wait=15"},
    )

    assert (answered.status_code, answered.json()["status"], answered.json()["result"]) == (
        200,
        "succeeded",
        ["first", "second", "third"],
    )
    assert answered.headers["Preference-Applied"] == "wait=15"
    run = answered.json()["id"]
    # Its record is written a moment after.
    until(lambda: "succeeded (200)" in place.run("runs", "show", run).stdout)
    shown = place.run("runs", "show", run)
    assert (shown.returncode, shown.stdout.count("█") > 3) == (0, True)


def test_the_run_of_a_killed_worker_continues_elsewhere_and_repeats_no_finished_step(
    place: Place, serve: Serve, worker: StartWorker
) -> None:
    key = place.key("acme").key
    server = serve(place)
    first = worker(place)
    location = server.call("POST", "/v1/jobs/", key=key, json={"first": 0, "second": 6}).headers[
        "Location"
    ]
    until(lambda: sum("second begins" in line for line in noted(place)))
    second = worker(place)
    shown = ("runs", "show", location.rpartition("/")[2], "--format", "json")
    until(lambda: place.run(*shown).stdout.count('"running": true') == 2)

    first.kill()
    until(lambda: sum("second begins" in line for line in noted(place)) == 2)
    document = until(over(server, location, key))

    assert document["result"] == ["first", "second", "third"]
    assert [line for line in noted(place) if line.startswith("first")] == [
        f"first begins in {first.pid}",
        f"first ends in {first.pid}",
    ]
    assert sorted(
        line for line in noted(place) if "ends" in line and f"in {second.pid}" in line
    ) == [
        f"second ends in {second.pid}",
        f"third ends in {second.pid}",
    ]
    run = json.loads(place.run(*shown).stdout)
    assert (run["status"], run["recoveries"]) == ("succeeded", 1)
    assert {
        step["label"]: [attempt.get("interrupted", False) for attempt in step["attempts"]]
        for step in run["steps"]
    } == {"first": [False], "second": [True, False], "third": [True, False]}


def test_a_stopping_worker_lets_its_runs_end(
    sqlite_place: Place, serve: Serve, worker: StartWorker
) -> None:
    place = sqlite_place
    key = place.key("acme").key
    server = serve(place)
    process = worker(place)
    location = server.call("POST", "/v1/jobs/", key=key, json={"first": 2, "second": 0}).headers[
        "Location"
    ]
    until(lambda: noted(place))

    process.send_signal(signal.SIGTERM)
    code = process.wait(30)

    assert code == 0
    assert server.call("GET", location, key=key).json()["status"] == "succeeded"


def freeze(process: Started, place: Place) -> None:
    """Stop a process while it does not hold SQLite's write lock, for no process could write then:
    the lock is ours until all its threads are stopped."""
    lock = sqlite3.connect(place.url.removeprefix("sqlite:///"), timeout=120, isolation_level=None)
    lock.execute("BEGIN IMMEDIATE")
    process.send_signal(signal.SIGSTOP)
    threads = list(Path(f"/proc/{process.pid}/task").iterdir())
    until(lambda: all(state(thread) == "T" for thread in threads))
    lock.close()


def state(thread: Path) -> str:
    """Return what the system does with a thread: R runs it, T has stopped it."""
    return (thread / "stat").read_text().rpartition(")")[2].split()[0]


def test_a_worker_that_others_count_as_dead_ends_and_writes_no_more(
    sqlite_place: Place, serve: Serve, worker: StartWorker
) -> None:
    place = sqlite_place
    key = place.key("acme").key
    server = serve(place)
    frozen = worker(place)
    location = server.call("POST", "/v1/jobs/", key=key, json={"first": -1, "second": 0}).headers[
        "Location"
    ]
    until(lambda: noted(place))

    freeze(frozen, place)
    (place.folder / "plugins" / "released").touch()
    living = worker(place)
    document = until(over(server, location, key))
    frozen.send_signal(signal.SIGCONT)
    code = frozen.wait(60)

    assert code == 75
    assert document["result"] == ["first", "second", "third"]
    assert [
        line.rpartition(" ")[2] for line in noted(place) if line.startswith(("second", "third"))
    ] == [str(living.pid)] * 4
    assert server.call("GET", location, key=key).json() == document


def test_a_run_that_kills_its_workers_is_given_up(sqlite_place: Place, serve: Serve) -> None:
    place = sqlite_place
    key = place.key("acme").key
    server = serve(place, worker=1)

    location = server.call("POST", "/v1/jobs/deadly", key=key).headers["Location"]
    document = until(over(server, location, key))

    assert (document["status"], document["problem"]["type"]) == ("failed", "given-up")
    assert noted(place).count("deadly") == 2
    later = server.call(
        "POST", "/v1/jobs/", key=key, json={"first": 0, "second": 0}, headers={"Prefer": "wait=20"}
    )
    assert later.json()["status"] == "succeeded"


def test_runs_beside_one_that_kills_its_workers_do_not_fall_with_it(
    sqlite_place: Place, serve: Serve
) -> None:
    place = sqlite_place
    key = place.key("acme").key
    server = serve(place, worker=1)

    innocent = [
        server.call("POST", "/v1/jobs/", key=key, json={"first": 7, "second": 0}).headers[
            "Location"
        ]
        for _ in range(2)
    ]
    until(lambda: sum("first begins" in line for line in noted(place)) == 2)
    deadly = server.call("POST", "/v1/jobs/deadly", key=key).headers["Location"]
    ended = until(over(server, deadly, key))
    others = [until(over(server, location, key)) for location in innocent]

    assert (ended["status"], ended["problem"]["type"]) == ("failed", "given-up")
    assert [document["status"] for document in others] == ["succeeded"] * 2


def test_a_stopping_worker_hands_over_its_runs_without_a_recovery(
    sqlite_place: Place, serve: Serve, worker: StartWorker
) -> None:
    place = sqlite_place
    key = place.key("acme").key
    server = serve(place)
    first = worker(place, PENSTOCK_GRACEFUL_TIMEOUT="1")
    location = server.call("POST", "/v1/frail/", key=key).headers["Location"]
    until(lambda: any("restarted begins" in line for line in noted(place)))

    first.send_signal(signal.SIGTERM)
    first.wait(30)
    worker(place)
    document = until(over(server, location, key))

    assert document["status"] == "succeeded"
    assert sum("restarted begins" in line for line in noted(place)) == 2


@pytest.mark.parametrize(
    ("kind", "status"), [("refusal", "client_error"), ("exit", "failed"), ("value", "failed")]
)
def test_the_exception_of_a_step_is_stored_and_the_step_is_not_repeated(
    sqlite_place: Place, serve: Serve, kind: str, status: str
) -> None:
    place = sqlite_place
    key = place.key("acme").key
    server = serve(place, worker=1)

    location = server.call("POST", "/v1/jobs/boom", key=key, json={"kind": kind}).headers[
        "Location"
    ]
    document = until(over(server, location, key))
    listed = until(
        lambda: [
            row
            for row in json.loads(place.run("runs", "list", "--format", "json").stdout)
            if row["status"] == status
        ]
    )

    assert (document["status"], [line for line in noted(place) if line.startswith("boom")]) == (
        status,
        [f"boom {kind}"],
    )
    assert listed[0]["id"] == document["id"]


def test_a_run_reported_as_timed_out_stays_so_when_its_handler_returns_later(
    sqlite_place: Place, serve: Serve
) -> None:
    place = sqlite_place
    key = place.key("acme").key
    server = serve(place, worker=1)
    location = server.call("POST", "/v1/short/stuck", key=key).headers["Location"]
    early = until(over(server, location, key))

    until(lambda: "stuck ends" in noted(place))
    time.sleep(2)
    late = server.call("GET", location, key=key).json()
    listed = json.loads(place.run("runs", "list", "--format", "json").stdout)

    assert [(document["status"], document["problem"]["type"]) for document in (early, late)] == [
        ("timed_out", "timed-out")
    ] * 2
    assert [row["status"] for row in listed if row["id"] == late["id"]] == ["timed_out"]


def test_a_run_that_is_cancelled_while_it_waits_makes_room(
    sqlite_place: Place, serve: Serve
) -> None:
    place = sqlite_place
    key = place.key("acme").key
    server = serve(place, worker=1)
    waiting = server.call("POST", "/v1/narrow/nap", key=key).headers["Location"]
    until(lambda: "nap" in noted(place))

    server.call("DELETE", waiting, key=key)
    next_one = server.call("POST", "/v1/narrow/", key=key).headers["Location"]
    document = until(over(server, next_one, key))

    assert document["status"] == "succeeded"


def test_a_run_begun_again_from_a_later_step_keeps_the_run_it_started(
    sqlite_place: Place, serve: Serve
) -> None:
    place = sqlite_place
    key = place.key("acme").key
    server = serve(place, worker=1)
    location = server.call("POST", "/v1/jobs/leave", key=key).headers["Location"]
    first = until(over(server, location, key))

    accepted = place.run("runs", "redeliver", first["id"], "--from-step", "2").stdout
    again = until(over(server, f"/v1/jobs/runs/{accepted.split()[1]}", key))

    assert again["result"] == first["result"]


def test_a_run_whose_end_is_not_recorded_yet_is_over_for_operators_too(
    sqlite_place: Place, serve: Serve
) -> None:
    """Its consumer has seen it: the engine knows first."""
    place = sqlite_place
    key = place.key("acme").key
    server = serve(place, worker=1)
    first = server.call(
        "POST", "/v1/jobs/", key=key, json={"first": 0, "second": 0}, headers={"Prefer": "wait=20"}
    ).json()
    until(
        lambda: place.run("runs", "show", first["id"], "--format", "json").stdout.count(
            '"ended_at": "'
        )
    )
    with writing(place.engine) as connection:
        connection.execute(
            sa.text("UPDATE runs SET status = 'running' WHERE id = :run"), {"run": first["id"]}
        )

    cancelled = place.run("runs", "cancel", first["id"])
    again = place.run("runs", "redeliver", first["id"])

    assert (cancelled.returncode, "is over already: succeeded" in cancelled.stderr) == (1, True)
    assert again.returncode == 0, again.stderr


def test_ticks_go_to_a_worker_that_has_the_pipeline(place: Place, worker: StartWorker) -> None:
    other = place.folder / "other"
    other.mkdir()
    (other / "lame.py").write_text(PLUGIN.replace(", clock]", "]"))
    has_it = worker(place)
    until(lambda: noted(place))
    lacks_it = worker(place, PENSTOCK_PLUGIN_PATH=str(other))
    logs = sorted(place.folder.glob("worker-*.log"))
    until(lambda: "worker ready" in logs[1].read_text())

    before = len(noted(place))
    until(lambda: len(noted(place)) >= before + 6)

    assert (has_it.poll(), lacks_it.poll()) == (None, None)
    assert "schedule skipped" not in logs[1].read_text()
    ledger = open_dbos(place.url, "test", place.box)
    assert ledger.delete_ticks(0, time.time() - 3) >= 4
    assert ledger.delete_ticks(0, time.time() - 300) == 0
    ledger.close()


def test_a_run_under_way_is_cancelled_at_its_next_step_with_those_it_started(
    sqlite_place: Place, serve: Serve
) -> None:
    place = sqlite_place
    key = place.key("acme").key
    server = serve(place, worker=1)
    location = server.call("POST", "/v1/jobs/", key=key, json={"first": 1.5, "second": 0}).headers[
        "Location"
    ]
    until(lambda: noted(place))

    cancelled = server.call("DELETE", location, key=key).json()
    time.sleep(3)

    assert cancelled["status"] == "cancelled"
    assert not [line for line in noted(place) if line.startswith(("second", "third"))]
    assert server.call("GET", location, key=key).json()["status"] == "cancelled"


def test_a_run_that_takes_too_long_is_timed_out(sqlite_place: Place, serve: Serve) -> None:
    place = sqlite_place
    key = place.key("acme").key
    server = serve(place, worker=1)

    location = server.call("POST", "/v1/short/", key=key).headers["Location"]
    document = until(over(server, location, key))

    assert (document["status"], document["problem"]["type"]) == ("timed_out", "timed-out")


def test_no_more_than_so_many_run_at_a_time_over_all_workers(
    place: Place, serve: Serve, worker: StartWorker
) -> None:
    key = place.key("acme").key
    server = serve(place)
    for _ in range(2):
        worker(place)

    locations = [server.call("POST", "/v1/narrow/", key=key).headers["Location"] for _ in range(6)]
    for location in locations:
        until(over(server, location, key))

    words = [line.split()[1] for line in noted(place) if line.startswith("alone")]
    assert words == ["begins", "ends"] * 6


def test_a_durable_run_waits_for_another(sqlite_place: Place, serve: Serve) -> None:
    place = sqlite_place
    key = place.key("acme").key
    server = serve(place, worker=1)

    answered = server.call("POST", "/v1/jobs/parent", key=key, headers={"Prefer": "wait=20"})

    assert answered.json()["result"] == {"child": None}
    assert "started" in place.run("runs", "show", answered.json()["id"]).stdout


def test_environments_of_one_database_perform_their_own_runs(place: Place, serve: Serve) -> None:
    place.policy("api-key", env="prod")
    place.associate("acme", "jobs", env="prod")
    keys = {env: place.key("acme", env).key for env in ("test", "prod")}
    servers = {env: serve(place, env, worker=1) for env in ("test", "prod")}

    for env, server in servers.items():
        answered = server.call(
            "POST",
            "/v1/jobs/",
            key=keys[env],
            json={"first": 0, "second": 0},
            headers={"Prefer": "wait=20"},
        )
        other = servers["prod" if env == "test" else "test"]

        assert answered.json()["status"] == "succeeded"
        assert (
            other.call(
                "GET", answered.headers["Location"], key=keys["prod" if env == "test" else "test"]
            ).status_code
            == 404
        )


def test_a_tick_is_one_run_over_all_workers(place: Place, worker: StartWorker) -> None:
    for _ in range(2):
        worker(place)

    until(lambda: len([line for line in noted(place) if line.startswith("tick")]) >= 4)
    time.sleep(1)

    ticks = [line for line in noted(place) if line.startswith("tick")]
    assert len(ticks) == len(set(ticks))
    listed = json.loads(place.run("schedules", "--format", "json").stdout)
    assert [(row["pipeline"], row["cron"], row["missed"]) for row in listed] == [
        ("v1/clock", "*/2 * * * * *", "skip")
    ]
    found = json.loads(
        place.run("runs", "list", "--pipeline", "clock", "--limit", "3", "--format", "json").stdout
    )
    assert {row["status"] for row in found[1:]} == {"succeeded"}
    workers = json.loads(place.run("queue", "--workers", "--format", "json").stdout)
    assert len({row["worker"] for row in workers}) == 2
    assert {row["host"] for row in workers} == {socket.gethostname()}

    assert place.run("schedule", "pause", "clock").returncode == 0
    logs = list(place.folder.glob("worker-*.log"))

    def skipped() -> int:
        return sum(log.read_text().count("paused the schedule") for log in logs)

    newest = ("runs", "list", "--pipeline", "clock", "--limit", "1", "--format", "json")
    until(skipped)
    before, enough = json.loads(place.run(*newest).stdout)[0]["id"], skipped() + 2
    until(lambda: skipped() >= enough)
    assert json.loads(place.run(*newest).stdout)[0]["id"] == before


class Receiver:
    """A server that callbacks are sent to; it answers with these statuses, then with 204."""

    def __init__(self, *statuses: int) -> None:
        received: list[tuple[dict[str, str], bytes]] = []
        answers = list(statuses)

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                received.append(
                    ({name.lower(): value for name, value in self.headers.items()}, body)
                )
                self.send_response(answers.pop(0) if answers else 204)
                self.send_header("Location", "http://127.0.0.1:1/")
                self.end_headers()

            def log_message(self, *_: object) -> None:
                """Say nothing."""

        self.received = received
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()


@pytest.fixture
def receiver() -> Iterator[Callable[..., Receiver]]:
    with ExitStack() as stack:

        def start(*statuses: int) -> Receiver:
            made = Receiver(*statuses)
            stack.callback(made.server.server_close)
            stack.callback(made.server.shutdown)
            return made

        yield start


def test_the_end_of_a_run_is_sent_signed_and_again_where_it_was_not_accepted(
    place: Place, serve: Serve, receiver: Callable[..., Receiver]
) -> None:
    hook = receiver(500)
    key = place.key("acme").key
    allowed = place.run(
        "callback", "allow", "acme", f"{hook.url}/hooks", "--env", "test", "--private"
    )
    secret = base64.b64decode(allowed.stdout.splitlines()[-1].removeprefix("whsec_"))
    server = serve(place, worker=1, PENSTOCK_URL="https://api.example.com/x")

    answered = server.call(
        "POST",
        f"/v1/jobs/?callback_url={hook.url}/hooks/7",
        key=key,
        json={"first": 0, "second": 0},
    )
    until(lambda: len(hook.received) == 2)

    run = answered.headers["X-Run-Id"]
    for headers, body in hook.received:
        event = json.loads(body)
        document = event["data"]
        assert (event["type"], event["timestamp"]) == ("run.succeeded", document["ended_at"])
        assert (document["id"], document["status"], document["result"]) == (
            run,
            "succeeded",
            ["first", "second", "third"],
        )
        assert (
            document["url"]
            == answered.headers["Location"]
            == f"https://api.example.com/x/v1/jobs/runs/{run}"
        )
        assert document["accepted_at"] <= document["started_at"] <= document["ended_at"]
        signed = f"{headers['webhook-id']}.{headers['webhook-timestamp']}.".encode() + body
        assert (
            headers["webhook-signature"]
            == "v1," + base64.b64encode(hmac.digest(secret, signed, "sha256")).decode()
        )
        assert headers["webhook-id"] == run
        assert abs(int(headers["webhook-timestamp"]) - time.time()) < 60
    until(lambda: "delivered at attempt 2 (204)" in place.run("runs", "show", run).stdout)


def test_a_callback_goes_nowhere_else(
    sqlite_place: Place, serve: Serve, receiver: Callable[..., Receiver]
) -> None:
    place = sqlite_place
    hook = receiver()
    key = place.key("acme").key
    place.run(
        "callback",
        "allow",
        "acme",
        f"https://127.0.0.1:{hook.server.server_port}/",
        "--env",
        "test",
    )
    server = serve(place, worker=1)
    body = {"first": 0, "second": 0}

    for url in (
        hook.url,
        "https://elsewhere.example/",
        "https://user@127.0.0.1/",
        "ftp://127.0.0.1/",
        "//127.0.0.1",
        "",
    ):
        answered = server.call(
            "POST", "/v1/jobs/", key=key, json=body, params={"callback_url": url}
        )
        assert (answered.status_code, answered.json()["errors"][0]["parameter"]) == (
            422,
            "callback_url",
        ), url
    private = server.call(
        "POST",
        "/v1/jobs/",
        key=key,
        json=body,
        params={"callback_url": f"https://127.0.0.1:{hook.server.server_port}/x"},
    )

    until(
        lambda: "private network" in place.run("runs", "show", private.headers["X-Run-Id"]).stdout
    )
    assert hook.received == []


def test_runs_are_cancelled_and_purged_by_command(sqlite_place: Place, serve: Serve) -> None:
    place = sqlite_place
    key = place.key("acme").key
    server = serve(place)
    run = server.call("POST", "/v1/jobs/", key=key, json={"first": 0, "second": 0}).headers[
        "X-Run-Id"
    ]

    early = place.run("runs", "redeliver", run)
    cancelled = place.run("runs", "cancel", run)
    again = place.run("runs", "cancel", run)
    followed = place.run("runs", "follow", run)
    purged = place.run("runs", "purge", "--env", "test", "--older-than", "1s", "--yes")
    time.sleep(1.2)
    purged_later = place.run("runs", "purge", "--env", "test", "--older-than", "1s", "--yes")
    gone = place.run("runs", "show", run)

    assert (early.returncode, "is not over" in early.stderr) == (1, True)
    assert (
        cancelled.returncode,
        again.returncode,
        "is over already: cancelled" in again.stderr,
    ) == (0, 1, True)
    assert (followed.returncode, followed.stdout.strip()) == (1, "cancelled")
    assert "deleted" in purged.stdout
    assert purged_later.returncode == 0
    assert (gone.returncode, gone.stderr.startswith(f"penstock: no run is named '{run}'")) == (
        2,
        True,
    )


def test_the_database_goes_away_and_comes_back_in_the_middle(
    postgres: str, new_database: Callable[..., str], tmp_path: Path, serve: Serve
) -> None:
    place = made(new_database("postgresql", upgraded=True), tmp_path)
    key = place.key("acme").key
    place.engine.dispose()
    name = place.url.rpartition("/")[2]
    server = serve(place, worker=1)
    locations = [
        server.call("POST", "/v1/jobs/", key=key, json={"first": 1, "second": 1}).headers[
            "Location"
        ]
        for _ in range(10)
    ]
    until(lambda: noted(place))

    with psycopg.connect(f"{postgres}/postgres", autocommit=True) as admin:
        admin.execute(f"ALTER DATABASE {name} ALLOW_CONNECTIONS false")
        admin.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = %s", [name]
        )
        time.sleep(1)
        away = server.call("POST", "/v1/jobs/", key=key, json={"first": 0, "second": 0})
        looked_up = server.call("GET", locations[0], key=key)
        time.sleep(2)
        admin.execute(f"ALTER DATABASE {name} ALLOW_CONNECTIONS true")
    documents = [until(over(server, location, key)) for location in locations]

    assert [
        (answered.status_code, answered.headers["Retry-After"]) for answered in (away, looked_up)
    ] == [(503, "1"), (503, "1")]
    assert [document["result"] for document in documents] == [["first", "second", "third"]] * 10


def test_a_full_disk_is_reported_and_accepted_runs_continue_when_there_is_room(
    tmp_path: Path, serve: Serve
) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    if subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=6m", "tmpfs", disk], check=False, capture_output=True
    ).returncode:
        pytest.skip("a small disk can't be mounted here")
    try:
        place = made(f"sqlite:///{disk}/penstock.db", tmp_path)
        key = place.key("acme").key
        server = serve(place, worker=1)
        locations = [
            server.call("POST", "/v1/jobs/", key=key, json={"first": 4, "second": 0.1}).headers[
                "Location"
            ]
            for _ in range(3)
        ]
        until(lambda: sum("first begins" in line for line in noted(place)) == 3)
        filler = disk / "filler"
        with suppress(OSError), filler.open("wb", buffering=0) as file:
            while True:
                file.write(bytes(4096))
        full = server.call("POST", "/v1/jobs/", key=key, json={"first": 0, "second": 0})
        time.sleep(4)  # the steps end while nothing can be written
        filler.unlink()
        documents = [until(over(server, location, key)) for location in locations]
        later = server.call(
            "POST",
            "/v1/jobs/",
            key=key,
            json={"first": 0, "second": 0},
            headers={"Prefer": "wait=20"},
        )
        server.stop()
        place.engine.dispose()
    finally:
        subprocess.run(["umount", "-l", disk], check=False)

    assert (full.status_code, full.json()["type"], full.headers["Retry-After"]) == (
        503,
        "pipeline-unavailable",
        "1",
    )
    assert [document.get("result") for document in documents] == [["first", "second", "third"]] * 3
    assert later.json()["status"] == "succeeded"
