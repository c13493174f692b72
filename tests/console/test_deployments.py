"""Pages of deployments and processes: what changed, who serves what, and for whose eyes."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from html import unescape

import pytest
from support.commands import run
from support.console import EVIL, HASH, ConsoleApp, next_page, words_of
from support.deployments import Process, source
from support.furnished_console import count_calls
from support.pipelines import cells
from support.place import Place

from penstock.access import users
from penstock.access.users import Role
from penstock.console import deployments as pages
from penstock.db.tables import UserRow
from penstock.db.unit_of_work import access_change
from penstock.host import reporter
from penstock.host.deployment_list import list_deployments

MINUS = "\N{MINUS SIGN}"
GRAPH = re.compile(r'data-graph="([^"]+)"')


def deploy(place: Place) -> None:
    """Deploy `payments` to prod twice: the second blocks `erp-sync`. Test has another plugin."""
    place.policy("api-key", "prod")
    Process.start(
        place, "prod", {"payments": source("payments", version="2.3.0"), "erp": source("erp-sync")}
    ).end()
    Process.start(
        place,
        "prod",
        {
            "payments": source("payments", version="2.3.1"),
            "erp": source("erp-sync", needs="ledger"),
            "broken": f"raise ValueError({EVIL!r})",
        },
    )
    Process.start(place, "test", {"orders": source("orders")}, kind="worker")


@pytest.fixture
def console(console_app: Callable[..., ConsoleApp], monkeypatch: pytest.MonkeyPatch) -> ConsoleApp:
    monkeypatch.setattr(reporter, "started_by", lambda: "deploy (systemd)")
    console = console_app()
    deploy(console.place)
    return console


def test_deployments_of_all_environments_are_listed_with_what_changed(console: ConsoleApp) -> None:
    client = console.client("vic")

    text = words_of(client.text("/deployments"))
    of_test = words_of(client.text("/deployments", env="test"))
    found = words_of(client.text("/deployments", find="erp-sync", env="prod"))

    assert "Served at start Blocked at start" in text
    assert "+payments 2.3.1+" in text
    assert f"{MINUS}payments 2.3.0+" in text
    assert "✕ v1/erp-sync blocked" in text
    assert ("first deployment" in of_test, "payments" in of_test) == (True, False)
    assert found.count("deploy (systemd)") == 2


def test_a_deployment_shows_its_plugins_its_pipelines_and_the_reasons(
    console: ConsoleApp,
) -> None:
    newest = list_deployments(console.place.engine, ["prod"], limit=1)[0]

    client = console.client("vic")
    html = client.text(f"/deployments/{newest.id}")
    text = words_of(html)

    assert EVIL not in html
    assert "1 running" in text
    assert "payments 2.3.1+" in text
    assert "broken failed" in text
    assert "can't be imported: ValueError" in text
    assert "v1/erp-sync external 1.0.0 erp blocked" in text
    assert "ledger" in text
    assert 'href="/-/console/pipelines/v1/erp-sync"' in html
    assert client.get("/pipelines/v1/erp-sync").status_code == 200


def test_processes_are_listed_with_what_they_serve(console: ConsoleApp) -> None:
    console.place.policy("any", "prod")

    text = words_of(console.client("vic").text("/deployments/processes", env="prod"))

    assert "prod web" in text
    assert "behind" in text
    assert "orders" not in text


def test_pages_have_an_end(console: ConsoleApp, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pages, "PER_PAGE", 1)
    client = console.client("vic")

    first = client.text("/deployments", env="prod")
    following = next_page(first)
    assert following is not None
    last = client.text(following)

    assert "first deployment" not in words_of(first)
    assert "first deployment" in words_of(last)
    assert next_page(last) is None
    assert "No older deployments." in client.text("/deployments", after="gone")


@pytest.mark.parametrize("path", ["/deployments/0000", "/deployments/x", "/deployments?env=nope"])
def test_an_unknown_deployment_or_environment_is_not_found(console: ConsoleApp, path: str) -> None:
    assert console.client("vic").get(path).status_code == 404


def test_a_user_of_one_environment_sees_its_deployments_alone(console: ConsoleApp) -> None:
    engine = console.place.engine
    users.create_user(engine, "tester", "tess", Role.VIEWER, None, environments=["test"])
    with access_change(engine) as rows:
        rows.set(UserRow, {UserRow.name: "tess"}, {UserRow.password: HASH})
    client = console.client("tess")
    of_prod = list_deployments(engine, ["prod"], limit=1)[0]

    listed = words_of(client.text("/deployments"))
    processes = words_of(client.text("/deployments/processes"))

    assert ("first deployment" in listed, "payments" in listed) == (True, False)
    assert "payments" not in processes
    assert client.get(f"/deployments/{of_prod.id}").status_code == 404
    assert client.get("/deployments", env="prod").status_code == 404


class TestServed:
    """The console runs in test, with other plugins than the processes of prod."""

    def test_pages_show_what_the_processes_of_an_environment_serve(
        self, console: ConsoleApp
    ) -> None:
        client = console.client("vic")

        overview = words_of(client.text("/", env="prod"))
        pipelines = client.text("/pipelines")
        orders = words_of(client.text("/pipelines/v1/orders"))

        assert "Pipelines served 1 " in overview
        assert "v1/erp-sync" in overview
        assert "v1/status" not in overview  # blocked by the console's own plugins
        row = cells(pipelines)["v1/payments 1.0.0"]
        assert row["prod"].startswith("served no calls")
        assert row["test"] == "not loaded"
        assert "Not loaded by the processes of prod." in orders

    def test_faults_of_the_console_s_plugins_are_not_those_of_an_environment(
        self, console_app: Callable[..., ConsoleApp]
    ) -> None:
        console = console_app(plugin="1 / 0")
        console.place.policy("api-key", "prod")
        client = console.client("vic")
        before = words_of(client.text("/", env="prod"))
        Process.start(console.place, "prod", {"payments": source("payments")})

        after = words_of(client.text("/", env="prod"))

        assert "ZeroDivisionError" in before
        assert "ZeroDivisionError" not in after
        assert "Pipelines served 1 " in after

    def test_where_no_process_reports_it_is_what_would_be_served(
        self, console_app: Callable[..., ConsoleApp]
    ) -> None:
        client = console_app().client("vic")

        assert "Pipelines that would be served" in client.text("/", env="prod")
        assert "would be served" in client.text("/pipelines")
        assert "no process reports in prod" in client.text("/pipelines/v1/orders")

    def test_processes_that_differ_are_named(self, console: ConsoleApp) -> None:
        Process.start(console.place, "prod", {"payments": source("payments", version="2.4.0")})

        overview = words_of(console.client("vic").text("/", env="prod"))

        assert "rolling deployment Of 2 processes" in overview

    def test_the_exposure_is_that_of_each_environment_s_processes(
        self, console: ConsoleApp
    ) -> None:
        client = console.client("vic")

        all_of_them = words_of(client.text("/pipelines/exposure", show="all"))
        by_key = words_of(client.text("/pipelines/exposure", show="key", find="PAYMENTS"))
        nothing = words_of(client.text("/pipelines/exposure", show="nonsense"))

        assert "v1/payments external key alone api_key not loaded yes" in all_of_them
        assert "v1/orders external not loaded more than a key api_key + jwt" in all_of_them
        assert ("v1/payments" in by_key, "v1/orders" in by_key) == (True, False)
        assert "No pipeline is open to anyone." in nothing

    def test_commands_say_so_too(self, console: ConsoleApp) -> None:
        exposure = run(console.place, "exposure", "--all").stdout
        listed = run(console.place, "pipelines", "--env", "prod")

        (payments,) = [line for line in exposure.splitlines() if "v1/payments" in line]
        assert payments.split()[2:5] == ["key", "alone", "not"]
        explained = run(console.place, "explain", "v1/orders", "--env", "prod")
        assert "processes of prod run other plugins" in listed.stderr
        assert "processes of prod run other plugins" in explained.stderr


def test_charts_mark_deployments_and_changes_of_the_policy(console: ConsoleApp) -> None:
    client = console.client("vic")
    console.place.policy("any")
    count_calls(console.place, invalid_api_key=3)

    (document,) = GRAPH.findall(client.text("/e/test/rejected"))

    markers = json.loads(unescape(document))["markers"]
    texts = [marker["text"] for marker in markers]
    assert any(text.endswith(": first deployment") for text in texts)
    assert texts[-1] == "external policy jwt-api-key → any"
    assert all(marker["at"] for marker in markers)
