"""The page of a pipeline: each tab, what an operator may change there, and a call to try."""

from __future__ import annotations

import re
import shlex
import time
from collections.abc import Callable, Iterator
from html import unescape
from pathlib import Path

import pytest
from support.console import EVIL, ConsoleApp, ConsoleClient, next_page, words_of
from support.deployments import Process, source
from support.pipelines import PLUGIN, cells, console_of, count_calls

from penstock.access import variables
from penstock.db import consumer_counts, runs
from penstock.db.consumer_counts import CountKey
from penstock.db.engine import reading
from penstock.db.tables import ConsumerRow
from penstock.runs.ids import first_id

Make = Callable[..., ConsoleApp]
TABS = ("", "/gate", "/consumers", "/runs", "/routes", "/schedule", "/settings", "/history")
FAILED = (None, "failed", 500, 12_000, *[None] * 6)  # of a run


def run_id(number: int) -> str:
    return f"{first_id(time.time() - 9)[:18]}-8000-{number:012x}"


def record_runs(console: ConsoleApp) -> list[str]:
    """Record a failed run of v1/orders in test and in prod, and one of v2/orders."""
    rows = []
    for number, (env, pipeline) in enumerate(
        [(1, "v1/orders"), (2, "v1/orders"), (1, "v2/orders")]
    ):
        error = "LookupError" if pipeline == "v1/orders" else "KeyError"
        rows.append(
            (run_id(number), env, pipeline, "1.2.0", "GET /", False, 1, *FAILED, None, error)
        )
    runs.record(console.place.engine, rows, [])
    return [row[0] for row in rows]


def count_consumer(console: ConsoleApp, name: str, outcome_class: str, calls: int) -> None:
    """Count calls of a consumer to v1/orders in the last hour."""
    with reading(console.place.engine) as connection:
        rows = ConsumerRow.fetch(connection, ConsumerRow.select().where(ConsumerRow.name == name))
    since = int(time.time()) // 3600 * 3600
    key = CountKey(since, rows[0].id, "", "v1/orders", outcome_class)
    consumer_counts.add(console.place.engine, 1, {key: calls})


@pytest.fixture(scope="module")
def shop(upgraded_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ConsoleApp]:
    """A console: prod has the policy any and reports, lab has no process."""
    folder = tmp_path_factory.mktemp("pipeline")
    console = console_of(upgraded_file, folder, names=("test", "prod", "lab"))
    place = console.place
    place.policy("any", "prod")
    variables.set_variable(
        place.engine, "ann", "prod", "penstock_response_headers", '{"X-Frame-Options": "DENY"}'
    )
    variables.set_variable(place.engine, "ann", "prod", "erp_url", "https://erp.example")
    Process.start(place, "prod", {"shop": PLUGIN, "other": source("elsewhere")})
    for number in range(53):
        place.consumer(f"c{number:02}", "orders")
    place.consumer("other", "v2/orders")
    place.consumer("gone", "orders")
    place.dissociate("gone", "orders")
    count_calls(place, "v1/orders", 40)
    count_calls(place, "v1/orders", 9, "not-associated")
    count_calls(place, "v2/orders", 7, "invalid-api-key")
    count_consumer(console, "c01", "succeeded", 30)
    count_consumer(console, "c01", "rejected", 4)
    yield console
    console.app.host.stop()


@pytest.fixture
def vic(shop: ConsoleApp) -> ConsoleClient:
    return shop.client("vic")


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
    return shlex.split(unescape(match[1]))


def test_every_tab_is_a_link_that_keeps_environment_and_time(vic: ConsoleClient) -> None:
    for tab in TABS:
        text = vic.text(f"/pipelines/v1/orders{tab}?env=prod&from=now-7d")
        for other in TABS:
            address = f'href="/-/console/pipelines/v1/orders{other}?env=prod&amp;from=now-7d"'
            current = ' aria-current="page"' if other == tab else ""
            assert f"{address}{current}>" in text
    assert vic.get("/pipelines/v1/orders/nonsense").status_code == 404


def test_cards_describe_gates_with_faults_and_fixes(vic: ConsoleClient) -> None:
    orders = vic.text("/pipelines/v1/orders")
    status = vic.text("/pipelines/v2/status")
    free = card(vic.text("/pipelines/v2/free"), "prod")

    needed = (
        "A call needs an API key of an associated consumer and a token with scope orders:write."
    )
    assert needed in card(orders, "test")
    assert "would be served no process reports in lab" in card(orders, "lab")
    assert "40 calls in the last 24 hours" not in card(orders, "prod")
    assert "49 calls in the last 24 hours" in card(orders, "test")
    assert "Requires API key, by the report of its processes." in card(status, "prod")
    assert "No call is accepted: the pipeline is blocked." in card(status, "test")
    assert "requires jwt=True, which is off. Fix: set jwt=True on its HttpTrigger." in card(
        status, "test"
    )
    assert "Requires no credentials" in free
    assert "warning open to anyone" in free
    assert "served internal policy api-key" in card(vic.text("/pipelines/v2/inner"), "test")
    assert "the declaration has a fault" in vic.text("/pipelines/v1/empty/routes").lower()
    assert "<script>window" not in orders
    assert "&lt;script&gt;window" in orders


def test_an_unknown_pipeline_is_not_found_with_the_nearest_id(vic: ConsoleClient) -> None:
    for tab in TABS:
        lost = vic.get(f"/pipelines/v1/order{tab}")
        assert (lost.status_code, "did you mean “v1/orders”?" in lost.text) == (404, True)
    assert vic.get("/pipelines/v1/orders", env="nope").status_code == 404


def test_a_pipeline_that_only_other_processes_have_has_a_page(vic: ConsoleClient) -> None:
    for tab in TABS:
        text = words_of(vic.text(f"/pipelines/v1/elsewhere{tab}", env="prod"))
        assert "This console has not loaded v1/elsewhere" in text
    gate = facts_of(vic.text("/pipelines/v1/elsewhere/gate"))

    assert gate["API key"] == ("by the report of its processes", {"prod": "required"})
    assert "added: served 1.0.0" in words_of(vic.text("/pipelines/v1/elsewhere/history"))


def test_the_overview_counts_the_calls_of_one_major_in_one_environment(
    console_app: Make,
) -> None:
    console = console_app(plugin=PLUGIN)
    for number in range(2):
        console.place.consumer(f"c{number}", "orders")
    first, of_prod, of_v2 = record_runs(console)
    count_calls(console.place, "v1/orders", 40)
    count_calls(console.place, "v1/orders", 9, "not-associated")
    count_calls(console.place, "v2/orders", 7, "invalid-api-key")
    count_consumer(console, "c1", "succeeded", 30)
    vic = console.client("vic")

    text = vic.text("/pipelines/v1/orders", env="test")
    shown = words_of(text)
    runs_tab = vic.text("/pipelines/v1/orders/runs", env="test")

    assert "Calls 49 Succeeded 82 % Client errors 0 Rejected 9 Failed 0" in shown
    assert "LookupError 1" in shown
    assert "KeyError" not in shown
    assert "not associated 9" in shown
    assert "invalid API key" not in shown
    assert "c1 30 0 0" in shown
    assert "Other versions: v2/orders" in shown
    for link in (
        "/e/test/runs?pipeline=v1/orders&amp;from=now-24h",
        "/e/test/runs?pipeline=v1/orders&amp;error=LookupError&amp;from=now-24h",
        "/e/test/rejected?pipeline=v1/orders&amp;reason=not-associated&amp;from=now-24h",
    ):
        assert f'href="/-/console{link}"' in text
    assert first in runs_tab
    assert "12 ms" in runs_tab
    assert of_prod not in runs_tab
    assert of_v2 not in runs_tab
    assert of_prod in vic.text("/pipelines/v1/orders/runs", env="prod")
    assert "No runs in prod yet." in vic.text("/pipelines/v2/orders/runs", env="prod")


def test_charts_are_of_the_pipeline_alone_and_lead_to_its_calls(vic: ConsoleClient) -> None:
    text = vic.text("/pipelines/v1/orders", env="test")
    query = {"metric": "calls", "by": "class", "pipeline": "v1/orders"}
    chart = vic.get("/e/test/series", **query).json()
    consumers = vic.get("/e/test/series", **query | {"by": "consumer"}).json()
    lines = {each["name"]: sum(each["values"]) for each in chart["lines"]}

    assert (lines["succeeded"], lines["rejected"]) == (40, 9)
    assert chart["link"] == "/-/console/e/test/runs?pipeline=v1/orders&from={from}&to={to}"
    assert {line["name"] for line in consumers["lines"]} == {"c01"}
    assert "Calls by outcome in test as a table" in text
    assert "Durable runs by status" not in text
    assert "Durable runs by status" in vic.text("/pipelines/v1/jobs", env="test")


def facts_of(text: str) -> dict[str, tuple[str, dict[str, str]]]:
    """Return the rows of a gate by their names: the source that all have, and the cells."""
    names = re.findall(r'<th scope="row">([^<]+)', text)
    rows = cells(text).items()
    return {
        name.strip(): (title.removeprefix(name.strip()).strip(), row)
        for name, (title, row) in zip(names, rows, strict=True)
    }


def test_the_gate_is_a_table_of_facts_and_environments_with_sources(vic: ConsoleClient) -> None:
    gate = facts_of(vic.text("/pipelines/v1/orders/gate"))
    free = facts_of(vic.text("/pipelines/v2/free/gate", env="prod"))
    inner = facts_of(vic.text("/pipelines/v2/inner/gate", env="test"))

    source, token = gate["Token"]
    assert source == ""
    assert token["test"].startswith("required policy jwt-api-key, version 1 and jwt= on")
    assert token["prod"].startswith("required jwt= on its HttpTrigger")
    assert gate["Scopes"][0].startswith("scopes= on its HttpTrigger, ")
    facts = {
        "Scopes": "orders:write",
        "Rate": "600/minute by consumer",
        "Allowed networks": "192.0.2.0/24",
        "Denied networks": "192.0.2.7",
        "Largest body": "2,048 bytes",
        "Time limit": "7 s",
        "In flight": "3 a process",
        "Idempotency-Key": "accepted, 24 hours",
        "CORS": "https://shop.example; POST; with credentials; preflight cached 600 s",
    }
    for name, value in facts.items():
        assert gate[name][1] == dict.fromkeys(("lab", "prod", "test"), value)
    headers = gate["Response headers"][1]
    assert headers["prod"].startswith("X-Frame-Options: DENY response policy")
    assert headers["test"] == "none"
    assert free["Credentials"] == ("policy any, version 2", {"prod": "none: open to anyone"})
    assert (free["Rate"][1]["prod"], free["Scopes"][1]["prod"]) == ("no limit of its own", "none")
    source, key = inner["API key"]
    assert source.startswith("internal policy api-key and api_key= on")
    assert key == {"test internal": "required"}


def test_consumers_are_listed_with_their_calls_a_page_at_a_time(vic: ConsoleClient) -> None:
    text = vic.text("/pipelines/v1/orders/consumers", env="test")
    onward = next_page(text)
    assert onward is not None
    rows = cells(text) | cells(vic.text(onward))

    assert list(rows) == [f"c{number:02}" for number in range(53)]
    assert rows["c01"] == {
        "State": "active",
        "Calls, 7 days": "34",
        "Failed": "0",
        "Rejected": "4",
        "Last call": rows["c01"]["Last call"],
    }
    assert "ago" in rows["c01"]["Last call"]
    assert rows["c02"]["Last call"] == "none in 7 days"
    assert "Consumers with access in test 53" in words_of(text)
    assert "No consumer has access in prod." in vic.text("/pipelines/v1/orders/consumers?env=prod")
    assert "Grant access in" not in text


def test_an_operator_grants_and_removes_access_and_a_viewer_does_not(console_app: Make) -> None:
    console = console_app(plugin=PLUGIN)
    console.place.consumer("acme")
    oli, vic = console.client("oli"), console.client("vic")
    path = "/pipelines/v1/orders/consumers"

    granted = oli.follow(oli.post(path, consumer="acme", environment="test"))
    unknown = oli.post(path, consumer="amce", environment="test")
    asked = words_of(oli.text(f"{path}/remove", consumer="acme", environment="test"))

    assert "acme may call v1/orders in test." in granted
    assert (unknown.status_code, "did you mean “acme”?" in unknown.text) == (422, True)
    assert "Remove the access of acme to v1/orders in test?" in asked
    assert vic.post(f"{path}/remove", consumer="acme", environment="test").status_code == 403
    assert vic.post(path, consumer="acme", environment="prod").status_code == 403
    assert list(cells(oli.text(path, env="test"))) == ["acme"]
    assert list(cells(oli.text("/pipelines/v2/orders/consumers", env="test"))) == []
    removed = oli.follow(oli.post(f"{path}/remove", consumer="acme", environment="test"))
    assert "acme may no longer call v1/orders in test." in removed
    assert [event[1] for event in console.events()[:2]] == [
        "consumer:dissociated",
        "consumer:associated",
    ]
    assert oli.post(path, consumer="acme", environment="tset").status_code == 404


def test_routes_show_their_schemas_and_a_call_to_try_is_a_curl_command(
    vic: ConsoleClient,
) -> None:
    path = "/pipelines/v1/orders/routes"
    text = vic.text(path, env="test")
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
    assert line(vic.text(path, **asked))[3:] == [
        "https://api.example/v1/orders/7%2F..%2Fx%20y/lines", "-H", "X-API-Key: $API_KEY", "-H",
        "Authorization: Bearer $TOKEN",
        "-H", "Content-Type: application/json", "--data-binary", "{\"it's\": 1}",
    ]  # fmt: skip
    warned = "This command calls api.example.</strong> Send credentials only to hosts you trust."
    assert warned in vic.text(path, **asked)
    assert "This command calls" not in text
    for odd in ("evil.example", "http://[", "//evil.example", "http://localhost@evil.example/"):
        assert "Send credentials only to hosts you trust." in vic.text(path, env="test", base=odd)
    inner = vic.text("/pipelines/v2/inner/routes", env="test")
    assert line(inner)[1] == "http://INTERNAL/v2/inner/"
    got = vic.text(path, env="test", route="GET /")
    assert line(got)[:2] == ["curl", "http://localhost/v1/orders/"]
    assert "--data-binary" not in line(got)
    hook = vic.text("/pipelines/v2/hook/routes", env="prod")
    assert line(hook)[-2:] == ["-H", "X-Hub-Signature-256: $GITHUB_SIGNATURE"]
    assert "This pipeline is not served in test, so it can&#39;t be called." in vic.text(
        "/pipelines/v2/status/routes", env="test"
    )
    evil = vic.text(path, env="test", route=EVIL, base=EVIL, body=EVIL, **{"in-order_id": EVIL})
    assert "<script>window" not in evil
    assert "<img" not in evil


def test_the_schedule_has_the_next_ticks_and_what_operators_do_with_it(shop: ConsoleApp) -> None:
    tab = shop.client("oli").text("/pipelines/v1/jobs/schedule", env="test")
    of_vic = shop.client("vic").text("/pipelines/v1/jobs/schedule", env="test")
    without = shop.client("vic").text("/pipelines/v1/orders/schedule", env="test")

    assert len(re.findall(r'<time datetime="[^"]+T05:00:00\+00:00" title', tab)) == 6
    assert 'aria-label="Pause: v1/jobs, 0 5 * * *"' in tab
    assert 'aria-label="Run now: v1/jobs, 0 5 * * *"' in tab
    assert "Run now" not in of_vic
    assert "v1/orders has no schedule." in without


def test_settings_show_needs_durable_limits_and_recording(shop: ConsoleApp) -> None:
    text = shop.client("oli").text("/pipelines/v1/jobs/settings")
    rows, shown = cells(text), words_of(text)

    assert rows["erp_url variable"]["prod"].startswith("set Replace")
    assert rows["erp_url variable"]["test"].startswith("missing Set")
    assert rows["erp_token secret"]["prod"].startswith("missing Set")
    assert 'href="/-/console/e/prod/settings/secrets/new?name=erp_token"' in text
    assert 'href="/-/console/e/test/settings/variables/new?name=erp_url"' in text
    assert "Concurrency 4 runs at a time Backlog 9 waiting runs at most Run timeout 1 hour" in shown
    assert "Bodies of all runs Sensitive fields iban" in shown
    assert "No route and no schedule of v1/orders is durable." in words_of(
        shop.client("vic").text("/pipelines/v1/orders/settings")
    )
    assert ">Set<" not in shop.client("vic").text("/pipelines/v1/jobs/settings")


def test_the_history_has_deployments_and_events_of_this_major_alone(shop: ConsoleApp) -> None:
    place = shop.place
    place.consumer("acme", "v2/orders", env="prod")
    place.enable("v2/hook", "prod", enabled=False)
    place.enable("v2/hook", "prod")

    v1 = words_of(shop.client("vic").text("/pipelines/v1/orders/history"))
    v2 = words_of(shop.client("vic").text("/pipelines/v2/orders/history"))
    hook = words_of(shop.client("vic").text("/pipelines/v2/hook/history"))

    assert "added: served 1.2.0" in v1
    assert "tester gave c52 access to v1/orders in test" in v1
    assert "v2/orders" not in v1.replace("Other versions: v2/orders", "")
    assert "gave acme access to v2/orders in prod" in v2
    assert "tester enabled v2/hook in prod" in hook
    assert "tester disabled v2/hook in prod" in hook


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
