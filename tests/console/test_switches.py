"""The settings of the console: a process of its own, and documents for signed-in users only."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable

from support.console import ROOT, ConsoleClient, ConsoleServer
from support.place import Place, Server

from penstock.db.engine import reading
from penstock.db.processes import alive

Start = Callable[..., ConsoleServer]
Serve = Callable[..., Server]


def test_a_process_of_its_own_serves_the_console_and_no_pipeline(
    place: Place, console_server: Start, serve: Serve
) -> None:
    console = console_server(place, PENSTOCK_PIPELINES="false", PENSTOCK_OPENAPI="true")
    beside = serve(place)
    alone, both = console.server.client, beside.client

    assert [
        alone.get(path).status_code
        for path in ("/v1/orders/", "/-/openapi.json", "/-/docs", "/.well-known/jwks.json")
    ] == [404] * 4
    assert [both.get(path).status_code for path in ("/v1/orders/", f"{ROOT}/sign-in")] == [401, 404]
    assert alone.get("/-/health").status_code == 200
    assert "2 web, 0 worker processes in test" in console.client("vic").get("/").text


def test_the_openapi_document_can_be_restricted_to_users(console_server: Start) -> None:
    console = console_server(PENSTOCK_OPENAPI="sign-in", PENSTOCK_DOCS="true")
    anonymous, vic = console.client(), console.client("vic")

    def statuses(visitor: ConsoleClient) -> list[int]:
        return [
            visitor.http.get(path).status_code
            for path in ("/-/openapi.json", "/-/docs", "/-/docs/page.js")
        ]

    assert statuses(anonymous) == [401, 401, 401]
    assert statuses(vic) == [200, 200, 200]
    of_a_browser = (
        "text/html,application/xhtml+xml,application/xml;q=0.9,image/avif,"
        "image/webp,image/apng,*/*;q=0.8,application/signed-exchange;v=b3;q=0.7"
    )
    sent = anonymous.http.get("/-/docs", headers={"Accept": of_a_browser})
    assert (sent.status_code, sent.headers["Location"]) == (303, f"{ROOT}/sign-in?next=/-/docs")
    anonymous.http.get(sent.headers["Location"])
    assert anonymous.sign_in("vic").headers["Location"] == "/-/docs"


CONTRADICTIONS = (
    ({"PENSTOCK_PIPELINES": "false"}, "nothing would be served"),
    ({"PENSTOCK_DOCS": "sign-in"}, "set PENSTOCK_CONSOLE=true too"),
    ({"PENSTOCK_CONSOLE_URL": "ops.example.com"}, "must be like https://ops.example.com"),
    (
        {"PENSTOCK_URL": "api.example.com"},
        "PENSTOCK_URL must be like https://api.example.com/orders: scheme, host and at most a path",
    ),
    ({"PENSTOCK_CONSOLE_OIDC_ISSUER": "https://id.example.com"}, "set PENSTOCK_CONSOLE_URL and"),
    (
        {"PENSTOCK_CONSOLE": "true", "PENSTOCK_CONSOLE_SIGN_IN_RATE": "often"},
        "PENSTOCK_CONSOLE_SIGN_IN_RATE",
    ),
)
# Imports once and starts in a child per case, for the import takes most of the time.
STARTS = """
import json, os, sys
from penstock.web import from_environment
for settings in json.loads(sys.argv[1]):
    read, write = os.pipe()
    if not (child := os.fork()):
        os.dup2(write, 2)
        os.environ.update(settings)
        from_environment()
        os._exit(0)
    os.close(write)
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    print(json.dumps([status, os.fdopen(read).read()]))
"""


def test_contradictory_settings_stop_the_start(sqlite_place: Place) -> None:
    cases = json.dumps([settings for settings, _ in CONTRADICTIONS])
    done = subprocess.run(
        [sys.executable, "-c", STARTS, cases],
        env=sqlite_place.environ(),
        capture_output=True,
        text=True,
        check=True,
    )
    results = [json.loads(line) for line in done.stdout.splitlines()]

    for (settings, message), (status, text) in zip(CONTRADICTIONS, results, strict=True):
        assert (status, message in text) == (3, True), (settings, text)


def test_serving_processes_register_and_unregister(place: Place, serve: Serve) -> None:
    server = serve(place, workers=2)
    for path in ("/-/health",) * 5:
        server.client.get(path)

    def living() -> list[str]:
        with reading(place.engine) as connection:
            return [row.kind for row in alive(connection, 1, silent=45)]

    end = time.monotonic() + 20
    while living() != ["serve", "serve"] and time.monotonic() < end:  # one is up before the other
        time.sleep(0.1)
    assert living() == ["serve", "serve"]
    server.stop()
    assert living() == []
