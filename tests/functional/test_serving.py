"""Serving: by our command or by gunicorn's, what keeps it from starting, and what the two health
pages say."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import httpx
import psycopg
import pytest
from support.place import ROOT, Place, Server, wait_for
from support.services import free_port

from penstock.access import api_keys

Serve = Callable[..., Server]

PLUGIN = """
from penstock import Call, HttpTrigger, Pipeline, hookimpl

orders = Pipeline("orders", version="1.0.0", trigger=HttpTrigger(api_key=True))

@orders.get("/")
def show(call: Call): return {"environment": call.environment}

@hookimpl
def penstock_pipelines(): return [orders]
"""
GUNICORN = [sys.executable, "-m", "gunicorn", "-c", "python:penstock.server.config", "wsgi:app"]


@pytest.fixture
def key(sqlite_place: Place) -> str:
    sqlite_place.plugin("orders", PLUGIN)
    sqlite_place.policy("api-key")
    sqlite_place.consumer("acme", "orders")
    return sqlite_place.key("acme").key


@pytest.mark.parametrize(
    "options", [[], ["--preload", "--workers", "2"]], ids=["as configured", "preloaded"]
)
def test_gunicorn_s_own_command_serves_the_same(
    sqlite_place: Place, key: str, options: list[str]
) -> None:
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    log = sqlite_place.folder / "gunicorn.log"
    with log.open("w") as file:
        environ = sqlite_place.environ(PENSTOCK_BIND=f"127.0.0.1:{port}")
        process = subprocess.Popen(
            [*GUNICORN[:-1], *options, GUNICORN[-1]],
            cwd=ROOT,
            env=environ,
            stdout=file,
            stderr=file,
        )
    try:
        wait_for(f"{url}/-/health", process)
        statuses = [
            httpx.get(f"{url}/v1/orders/", headers=headers, timeout=10).status_code
            for headers in ({"X-API-Key": key}, {})
        ]
        ready = httpx.get(f"{url}/-/ready", timeout=10).json()["status"]
    finally:
        process.terminate()
        code = process.wait(20)

    assert (statuses, ready, code) == ([200, 401], "ready", 0)
    assert "Using worker: penstock.server.worker.Worker" in log.read_text()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"PENSTOCK_FOO": "1"}, "PENSTOCK_FOO is no setting of Penstock"),
        ({"PENSTOCK_ENVIRONMENT": "prd"}, "did you mean 'prod'?"),
        ({"PENSTOCK_DATABASE_URL": "sqlite:///empty.db"}, "penstock db upgrade"),
        (
            {"PENSTOCK_STRICT": "true", "PENSTOCK_ENVIRONMENT": "prod"},
            "not everything can be served: v1/orders",
        ),
        ({"PENSTOCK_TRUSTED_PROXIES": "10.0.0.1/8"}, "PENSTOCK_TRUSTED_PROXIES"),
    ],
)
@pytest.mark.parametrize(
    "command", [GUNICORN, [sys.executable, "-m", "penstock", "serve"]], ids=["gunicorn", "penstock"]
)
def test_what_can_not_start_says_why_and_exits_3_leaving_no_process(
    sqlite_place: Place, key: str, command: list[str], settings: dict[str, str], message: str
) -> None:
    environ = (
        sqlite_place.environ(
            PENSTOCK_BIND=f"127.0.0.1:{free_port()}", PENSTOCK_WORKERS="3", PYTHONPATH=str(ROOT)
        )
        | settings
    )
    process = subprocess.Popen(
        command,
        cwd=sqlite_place.folder,
        env=environ,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        start_new_session=True,
    )
    printed = process.communicate(timeout=30)[0].decode()

    assert process.returncode == 3
    reasons = [
        event for event in map(json.loads, printed.splitlines()) if event["level"] == "error"
    ]
    assert [message in event["event"] for event in reasons] == [True]
    assert "Traceback" not in printed
    with pytest.raises(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)


def test_strict_starts_where_everything_complies(
    sqlite_place: Place, key: str, serve: Serve
) -> None:
    server = serve(sqlite_place, PENSTOCK_STRICT="true")

    assert server.call("GET", "/v1/orders/", key=key).status_code == 200


def test_a_taken_address_ends_the_start(sqlite_place: Place, key: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        done = sqlite_place.run("serve", "--bind", address)

    assert done.returncode == 3
    assert f"\"{address} can't be listened on: Address already in use" in done.stderr
    assert "Traceback" not in done.stderr


def test_an_outage_of_postgresql_is_logged_survived_and_ends_by_itself(
    postgres: str, new_database: Callable[..., str], tmp_path: Path, serve: Serve
) -> None:
    place = Place.make(new_database("postgresql", upgraded=True), tmp_path)
    place.plugin("orders", PLUGIN)
    place.policy("api-key")
    place.consumer("acme", "orders")
    made = place.key("acme")
    place.engine.dispose()
    name = place.url.rpartition("/")[2]
    server = serve(place, PENSTOCK_MAX_STALENESS="4")

    def state() -> tuple[str, int]:
        return (
            server.call("GET", "/-/ready").json()["checks"]["database"],
            server.call("GET", "/v1/orders/", key=made.key).status_code,
        )

    with psycopg.connect(f"{postgres}/postgres", autocommit=True) as admin:
        before = state()
        admin.execute(f"ALTER DATABASE {name} ALLOW_CONNECTIONS false")
        admin.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = %s", [name]
        )
        time.sleep(2)
        away = state()
        time.sleep(3)
        stale = state()
        admin.execute(f"ALTER DATABASE {name} ALLOW_CONNECTIONS true")
        for _ in range(100):
            if state() == before:
                break
            time.sleep(0.1)
        back = state()
    api_keys.revoke_key(place.engine, "tester", made.id)
    time.sleep(1)
    place.engine.dispose()

    assert before == back == ("ok", 200)
    assert away == ("can't be reached", 200)
    assert stale == ("can't be reached", 503)
    assert server.call("GET", "/v1/orders/", key=made.key).status_code == 401


def test_the_health_pages_take_get_alone_and_answer_in_problems(
    sqlite_place: Place, key: str, serve: Serve
) -> None:
    server = serve(sqlite_place)

    refused = [
        server.call("POST", path) for path in ("/-/health", "/-/ready", "/.well-known/jwks.json")
    ]

    assert [
        (answer.status_code, answer.json()["type"], answer.headers["Content-Type"])
        for answer in refused
    ] == [(405, "method-not-allowed", "application/problem+json")] * 3
    assert all("GET" in answer.headers["Allow"] for answer in refused)


def test_a_broken_plugin_is_named_by_ready_and_harms_no_other(
    sqlite_place: Place, key: str, serve: Serve
) -> None:
    sqlite_place.plugin("broken", "import nothing_of_that_name\n")
    server = serve(sqlite_place)

    assert server.call("GET", "/-/ready").json()["checks"]["plugins"] == "1 blocked"
    assert server.call("GET", "/v1/orders/", key=key).status_code == 200


def test_two_environments_of_one_database_do_not_know_each_other_s_keys(
    sqlite_place: Place, key: str, serve: Serve
) -> None:
    sqlite_place.policy("api-key", env="prod")
    sqlite_place.associate("acme", "orders", env="prod")
    test, prod = serve(sqlite_place), serve(sqlite_place, "prod")
    prod_key = sqlite_place.key("acme", env="prod").key
    time.sleep(1)

    assert [server.call("GET", "/v1/orders/", key=key).status_code for server in (test, prod)] == [
        200,
        401,
    ]
    assert [
        server.call("GET", "/v1/orders/", key=prod_key).status_code for server in (test, prod)
    ] == [401, 200]
