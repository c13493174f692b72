"""What the settings of the console switch: its own process, and what is shown to who is signed
in."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable

from support.console import Console, Visitor
from support.place import ROOT, Place, Server

from penstock.db.engine import reading
from penstock.db.processes import alive

Start = Callable[..., Console]
Serve = Callable[..., Server]


def test_a_process_of_its_own_serves_the_console_and_no_pipeline(
    place: Place, console: Start, serve: Serve
) -> None:
    here = console(place, PENSTOCK_PIPELINES="false", PENSTOCK_OPENAPI="true")
    beside = serve(place)
    alone, both = here.server.client, beside.client

    assert [
        alone.get(path).status_code
        for path in ("/v1/orders/", "/-/openapi.json", "/-/docs", "/.well-known/jwks.json")
    ] == [404] * 4
    assert [both.get(path).status_code for path in ("/v1/orders/", f"{ROOT}/sign-in")] == [401, 404]
    assert alone.get("/-/health").status_code == 200
    text = here.visitor("vic").get("/").text
    assert text.count("answers calls") == 2


def test_the_description_can_be_for_who_is_signed_in(console: Start) -> None:
    here = console(PENSTOCK_OPENAPI="sign-in", PENSTOCK_DOCS="true")
    stranger, vic = here.visitor(), here.visitor("vic")

    def statuses(visitor: Visitor) -> list[int]:
        return [
            visitor.client.get(path).status_code
            for path in ("/-/openapi.json", "/-/docs", "/-/docs/page.js")
        ]

    assert statuses(stranger) == [401, 401, 401]
    assert statuses(vic) == [200, 200, 200]
    of_a_browser = (
        "text/html,application/xhtml+xml,application/xml;q=0.9,image/avif,"
        "image/webp,image/apng,*/*;q=0.8,application/signed-exchange;v=b3;q=0.7"
    )
    sent = stranger.client.get("/-/docs", headers={"Accept": of_a_browser})
    assert (sent.status_code, sent.headers["Location"]) == (303, f"{ROOT}/sign-in?next=/-/docs")
    stranger.client.get(sent.headers["Location"])
    assert stranger.sign_in("vic").headers["Location"] == "/-/docs"


def test_settings_that_make_no_sense_end_the_start(sqlite_place: Place) -> None:
    for more, said in (
        ({"PENSTOCK_PIPELINES": "false"}, "nothing would be served"),
        ({"PENSTOCK_DOCS": "sign-in"}, "set PENSTOCK_CONSOLE=true too"),
        ({"PENSTOCK_CONSOLE_URL": "ops.example.com"}, "must be like https://ops.example.com"),
        (
            {"PENSTOCK_URL": "api.example.com"},
            (
                "PENSTOCK_URL must be like https://api.example.com/orders: scheme, host and at most"
                " a path"
            ),
        ),
        (
            {"PENSTOCK_CONSOLE_OIDC_ISSUER": "https://id.example.com"},
            "set PENSTOCK_CONSOLE_URL and",
        ),
        (
            {"PENSTOCK_CONSOLE": "true", "PENSTOCK_CONSOLE_SIGN_IN_RATE": "often"},
            "PENSTOCK_CONSOLE_SIGN_IN_RATE",
        ),
    ):
        code = "from penstock.web import from_environment; from_environment()"
        done = subprocess.run(
            [sys.executable, "-c", code],
            env=sqlite_place.environ(**more),
            capture_output=True,
            text=True,
            check=False,
        )
        assert (done.returncode, said in done.stderr) == (3, True), (more, done.stderr)


def test_serving_processes_say_that_they_live_and_that_they_end(place: Place, serve: Serve) -> None:
    server = serve(place, workers=2)
    for path in ("/-/health",) * 5:
        server.client.get(path)

    def living() -> list[str]:
        with reading(place.engine) as connection:
            return [row["kind"] for row in alive(connection, 1, silent=45)]

    end = time.monotonic() + 20
    while living() != ["serve", "serve"] and time.monotonic() < end:  # one is up before the other
        time.sleep(0.1)
    assert living() == ["serve", "serve"]
    server.stop()
    assert living() == []
