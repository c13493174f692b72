"""Pipelines: filtered, sorted and compared by environment; the gate in words, consumers, figures,
and a call to try."""

from __future__ import annotations

import re
import shlex
import time
from collections.abc import Callable
from typing import Any

from support.console import EVIL, ConsoleApp
from support.place import Place

from penstock.db import call_counts, runs
from penstock.runs.ids import first_id

Make = Callable[..., ConsoleApp]

PLUGIN = f'''
from dataclasses import dataclass
from penstock import Call, HttpTrigger, Pipeline, hookimpl

@dataclass
class Line:
    sku: str
    pieces: int = 1

@dataclass
class Order:
    customer: str
    lines: list[Line]
    note: str = ""

orders = Pipeline("orders", version="1.2.0", summary={EVIL!r}, trigger=HttpTrigger(api_key=True, jwt=True, scopes={{"orders:write"}}))

@orders.post("/{{order_id}}/lines")
def add(call: Call, order_id: int, order: Order, *, dry: bool = False) -> Order:
    """Add lines to an order."""
    return order

@orders.get("/")
def show(call: Call) -> Order: return Order("a", [])

def simple(name, **toggles):
    pipeline = Pipeline(name, version="2.0.1", trigger=HttpTrigger(**toggles))
    @pipeline.get("/")
    def show(call: Call): return {{}}
    return pipeline

@hookimpl
def penstock_pipelines():
    return [orders, simple("status", api_key=True), simple("free"), simple("inner", external=False, internal=True, api_key=True),
            simple("hook", signature="github"), Pipeline("empty", version="1.0.0", trigger=HttpTrigger(api_key=True, jwt=True))]
'''  # noqa: E501  text as it is


def count_calls(
    place: Place, pipeline: str, calls: int, *, env: int = 1, hours_ago: float = 1
) -> None:
    since = int(time.time() - hours_ago * 3600) // 3600 * 3600
    row: dict[str, object] = {
        "environment_id": env,
        "span": 3600,
        "since": since,
        "pipeline": pipeline,
        "outcome": "succeeded",
        "process": "p",
    }
    call_counts.write(
        place.engine,
        [
            call_counts.CallCount(
                **row, calls=calls, micros=calls * 900, buckets=[0, 0, 0, calls, *[0] * 11]
            )
        ],
    )


def table(text: str) -> dict[str, list[str]]:
    """Return the cells of each row, without markup, by its pipeline."""
    rows = re.findall(
        r'<th scope="row"><a href="/-/console/pipelines/([^"]+)">(.*?)</tr>', text, re.DOTALL
    )
    return {
        name: [words(cell) for cell in re.findall(r"<td[^>]*>(.*?)</td>", rest, re.DOTALL)]
        for name, rest in rows
    }


def words(markup: str) -> str:
    return re.sub(r"\s+", " ", re.sub(r"<[^>]+>", " ", markup)).strip()


def card(text: str, env: str) -> str:
    match = re.search(
        rf'<section class="card" aria-labelledby="in-{env}">(.*?)</section>', text, re.DOTALL
    )
    assert match is not None
    return words(match[1])


def line(text: str) -> list[str]:
    match = re.search(r'<code id="curl"[^>]*>(.*?)</code>', text, re.DOTALL)
    assert match is not None
    return shlex.split(
        match[1]
        .replace("&#34;", '"')
        .replace("&#39;", "'")
        .replace("&lt;", "<")
        .replace("&gt;", ">")
        .replace("&amp;", "&")
    )


def test_the_list_shows_environments_side_by_side(console_app: Make) -> None:
    console = console_app(plugin=PLUGIN)
    place = console.place
    place.policy("any", "prod")
    place.enable("orders", "prod", enabled=False)
    count_calls(place, "v1/orders", 1200)
    count_calls(place, "v1/orders", 7, hours_ago=30)
    count_calls(place, "v2/status", 5, env=2)
    shown = table(console.client("vic").text("/pipelines"))

    assert list(shown) == [
        f"v{major}/{name}"
        for major, name in (
            (1, "empty"),
            (2, "free"),
            (2, "hook"),
            (2, "inner"),
            (1, "orders"),
            (2, "status"),
        )
    ]
    assert shown["v1/orders"] == [
        "api_key jwt",
        "disabled any",
        "0",
        "served jwt-api-key",
        "1 200",
    ]
    assert shown["v2/status"] == [
        "api_key",
        "served any",
        "5",
        "blocked jwt-api-key set jwt=True on its HttpTrigger",
        "0",
    ]
    assert shown["v2/inner"][1] == "served api-key, internal"
    assert shown["v2/hook"][0] == "github_signature"
    assert shown["v1/empty"][1].startswith("blocked any put one on a route")


def test_the_list_is_filtered_sorted_and_paged_by_key(console_app: Make) -> None:
    many = "return [*(simple(f'x{n:02}', api_key=True, jwt=True) for n in range(60)), orders,"
    console = console_app(plugin=PLUGIN.replace("return [orders,", many))
    count_calls(console.place, "v2/x58", 9)
    count_calls(console.place, "v2/x03", 90)
    vic = console.client("vic")

    first = vic.text("/pipelines", find="x")
    onward = re.search(r'href="([^"]+)" rel="next"', first)
    assert onward is not None
    second = vic.text(onward[1].replace("&amp;", "&").removeprefix("/-/console"))
    assert [*table(first), *table(second)] == [f"v2/x{number:02}" for number in range(60)]
    assert list(table(vic.text("/pipelines", sort="calls")))[:3] == ["v2/x03", "v2/x58", "v1/empty"]
    assert list(table(vic.text("/pipelines", sort="state")))[:3] == [
        "v1/empty",
        "v2/free",
        "v2/hook",
    ]
    assert list(table(vic.text("/pipelines", state="blocked"))) == [
        "v1/empty",
        "v2/free",
        "v2/hook",
        "v2/status",
    ]
    assert list(table(vic.text("/pipelines", find="X0", state="served"))) == [
        f"v2/x0{number}" for number in range(10)
    ]
    assert "No pipelines match." in vic.text("/pipelines", find=EVIL)
    assert "<script>window" not in vic.text(
        "/pipelines", find=EVIL, state=EVIL, sort=EVIL, after=EVIL
    )


def test_a_page_describes_gates_with_faults_and_fixes(console_app: Make) -> None:
    console = console_app(plugin=PLUGIN)
    console.place.policy("any", "prod")
    vic = console.client("vic")

    orders = vic.text("/pipelines/v1/orders")
    assert (
        "A call needs an API key of an associated consumer and a token with scope orders:write."
        in card(orders, "test")
    )
    status = vic.text("/pipelines/v2/status")
    assert "A call needs an API key of an associated consumer." in card(status, "prod")
    assert "No call is accepted: the pipeline is blocked." in card(status, "test")
    assert "requires jwt=True, which is off. Fix: set jwt=True on its HttpTrigger." in card(
        status, "test"
    )
    free = card(vic.text("/pipelines/v2/free"), "prod")
    assert "A call needs no credentials: anyone may call." in free
    assert "warning open to anyone" in free
    assert "A call needs a signature of an associated consumer." in card(
        vic.text("/pipelines/v2/hook"), "prod"
    )
    assert "served internal policy api-key" in card(vic.text("/pipelines/v2/inner"), "test")
    assert "the declaration has a fault" in vic.text("/pipelines/v1/empty")
    assert "<script>window" not in orders
    assert "&lt;script&gt;window" in orders
    lost = vic.get("/pipelines/v1/order")
    assert (lost.status_code, "did you mean “v1/orders”?" in lost.text) == (404, True)


def test_the_page_shows_consumers_newest_runs_and_figures_of_one_environment(
    console_app: Make,
) -> None:
    console = console_app(plugin=PLUGIN)
    place = console.place
    for number in range(33):
        place.consumer(f"c{number:02}", "orders")
    place.consumer("other", "status")
    place.consumer("gone", "orders")
    place.dissociate("gone", "orders")
    rest = (None, "failed", 500, 12_000, *[None] * 8)
    records = [
        (
            f"{first_id(time.time() - 9)[:18]}-8000-{number:012x}",
            env,
            pipeline,
            "1.2.0",
            "GET /",
            False,
            1,
            *rest,
        )
        for number, (env, pipeline) in enumerate(
            [(1, "v1/orders"), (2, "v1/orders"), (1, "v2/status")]
        )
    ]
    runs.record(place.engine, records, [])
    count_calls(place, "v1/orders", 40, hours_ago=2)
    vic = console.client("vic")

    text = vic.text("/pipelines/v1/orders", env="test")
    onward = re.search(r'href="([^"]+)" rel="next"', text)
    assert onward is not None
    second = vic.text(onward[1].replace("&amp;", "&").removeprefix("/-/console"))
    assert 'Consumers with access <small class="quiet">33</small>' in text
    names = re.findall(r'href="/-/console/consumers/([^"]+)"', text) + re.findall(
        r'href="/-/console/consumers/([^"]+)"', second
    )
    assert names == [f"c{number:02}" for number in range(33)]
    assert [
        re.sub(r"\s+", " ", run)
        for run in re.findall(r'/console/e/test/runs/([0-9a-f-]+)" title', text)
    ] == [records[0][0]]
    assert "12 ms" in text
    points: Any = vic.get("/pipelines/v1/orders/points", env="test", span="day").json()
    assert sum(points["calls"][1]) == 40
    assert (
        sum(vic.get("/pipelines/v2/status/points", env="test", span="day").json()["calls"][1]) == 0
    )  # type: ignore[index]  # it is JSON
    prod = vic.text("/pipelines/v1/orders", env="prod")
    assert "No consumer has access in prod." in prod
    assert records[1][0] in prod
    assert "No runs in prod yet." in vic.text("/pipelines/v2/status", env="prod")


def test_routes_show_their_schemas_and_a_call_to_try_is_a_curl_command(
    console_app: Make,
) -> None:
    console = console_app(plugin=PLUGIN)
    console.place.policy("any", "prod")
    vic = console.client("vic")
    text = vic.text("/pipelines/v1/orders", env="test")

    shown = words(text)
    assert "POST /v1/orders/{order_id}/lines Add lines to an order." in shown
    assert "order_id path integer yes" in shown
    assert "dry query boolean no" in shown
    assert "&#34;sku&#34;" in text
    assert line(text) == [
        "curl", "-X", "POST", "http://localhost/v1/orders/{order_id}/lines", "-H",
        "X-API-Key: $API_KEY", "-H", "Authorization: Bearer $TOKEN",
        "-H", "Content-Type: application/json", "--data-binary",
        '{"customer": "text", "lines": [{"sku": "text"}]}',
    ]  # fmt: skip
    asked = {
        "env": "test",
        "route": "POST /{order_id}/lines",
        "base": "https://api.example/",
        "in-order_id": "7/../x y",
        "body": '{"it\'s": 1}',
    }
    assert line(vic.text("/pipelines/v1/orders", **asked))[3:] == [
        "https://api.example/v1/orders/7%2F..%2Fx%20y/lines", "-H", "X-API-Key: $API_KEY", "-H",
        "Authorization: Bearer $TOKEN",
        "-H", "Content-Type: application/json", "--data-binary", "{\"it's\": 1}",
    ]  # fmt: skip
    assert (
        "This command calls api.example.</strong> Send credentials only to hosts you trust."
        in vic.text("/pipelines/v1/orders", **asked)
    )
    assert "This command calls" not in text
    for odd in ("evil.example", "http://[", "//evil.example", "http://localhost@evil.example/"):
        assert "Send credentials only to hosts you trust." in vic.text(
            "/pipelines/v1/orders", env="test", base=odd
        )
    assert line(vic.text("/pipelines/v2/inner", env="test"))[1] == "http://INTERNAL/v2/inner/"
    got = vic.text("/pipelines/v1/orders", env="test", route="GET /")
    assert line(got)[:2] == ["curl", "http://localhost/v1/orders/"]
    assert "--data-binary" not in line(got)
    assert line(vic.text("/pipelines/v2/hook", env="prod"))[-2:] == [
        "-H",
        "X-Hub-Signature-256: $GITHUB_SIGNATURE",
    ]
    assert "This pipeline is not served in test, so it can&#39;t be called." in vic.text(
        "/pipelines/v2/status", env="test"
    )
    evil = vic.text(
        "/pipelines/v1/orders",
        env="test",
        route=EVIL,
        base=EVIL,
        body=EVIL,
        **{"in-order_id": EVIL},
    )
    assert "<script>window" not in evil
    assert "<img" not in evil


def test_an_operator_disables_and_enables_a_pipeline_and_a_viewer_does_not(
    console_app: Make,
) -> None:
    console = console_app(plugin=PLUGIN)
    oli, vic = console.client("oli"), console.client("vic")

    assert oli.post("/pipelines/v1/orders/disable", environment="test").status_code == 303
    text = oli.text("/pipelines/v1/orders")
    assert "orders disabled in test." in text
    assert "No call is accepted: an operator has disabled the pipeline. " in card(text, "test")
    assert "served" in card(text, "prod")
    assert not console.place.snapshot().pipeline("v1/orders").enabled
    assert vic.post("/pipelines/v1/orders/enable", environment="test").status_code == 403
    assert vic.post("/pipelines/v1/orders/disable", environment="prod").status_code == 403
    assert not console.place.snapshot().pipeline("v1/orders").enabled
    assert console.place.snapshot("prod").pipeline("v1/orders").enabled
    assert "Enable pipeline" not in vic.text("/pipelines/v1/orders")
    assert oli.post("/pipelines/v1/orders/enable", environment="test").status_code == 303
    assert console.place.snapshot().pipeline("v1/orders").enabled
    assert oli.post("/pipelines/v1/orders/disable", environment="tset").status_code == 404
    assert oli.post("/pipelines/v1/nothing/disable", environment="test").status_code == 404
    assert console.events()[:2] == [
        ("oli", "pipeline:enabled", "test", "v1/orders"),
        ("oli", "pipeline:disabled", "test", "v1/orders"),
    ]


def test_without_pipelines_the_pages_name_the_next_step(console_app: Make) -> None:
    console = console_app(plugin="")
    console.place.consumer("acme")
    vic = console.client("vic")

    assert "No pipelines loaded. Put a plugin into a folder" in vic.text("/pipelines")
    assert "No pipelines loaded. Put a plugin into a folder" in vic.text(
        "/consumers/acme/pipelines"
    )
    assert "0 of 0 pipelines comply" in vic.text("/policies")
