"""The list of pipelines: environments side by side, filtered, sorted, and paged by key."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from support.console import EVIL, ConsoleApp, ConsoleClient, next_page, words_of
from support.deployments import Process
from support.pipelines import (
    PLUGIN,
    cells,
    console_of,
    count_calls,
    counted_queries,
    ids,
    write_counts,
)

from penstock.console import pipelines as pages

Make = Callable[..., ConsoleApp]
NAMES = ("test", "prod", "lab")
MANY = """
from penstock import Call, HttpTrigger, Pipeline, hookimpl

def simple(number):
    pipeline = Pipeline(f"x{number:03}", version="1.0.0", trigger=HttpTrigger(api_key=True, jwt=True))
    pipeline.get("/")(lambda call: None)
    return pipeline

@hookimpl
def penstock_pipelines(): return [simple(number) for number in range(NUMBER)]
"""  # noqa: E501  text as it is


@pytest.fixture(scope="module")
def shop(upgraded_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ConsoleApp]:
    """A console: processes of test and prod report, those of lab don't exist."""
    console = console_of(upgraded_file, tmp_path_factory.mktemp("pipelines"), names=NAMES)
    place = console.place
    place.policy("any", "prod")
    place.enable("orders", "prod", enabled=False)
    Process.start(place, "prod", {"shop": PLUGIN})
    for hours in (1, 5, 9):
        count_calls(place, "v1/orders", 400, hours_ago=hours)
    count_calls(place, "v1/orders", 7, hours_ago=30)
    count_calls(place, "v2/status", 5, env=2)
    count_calls(place, "v2/status", 15, "failed", env=2)
    count_calls(place, "v2/status", 30, "invalid-api-key", env=2)
    yield console
    console.app.host.stop()


@pytest.fixture
def vic(shop: ConsoleApp) -> ConsoleClient:
    return shop.client("vic")


def test_a_cell_has_the_state_in_words_the_calls_and_the_share_that_failed(
    vic: ConsoleClient,
) -> None:
    text = vic.text("/pipelines")
    shown = cells(text)

    assert list(shown)[:3] == ["v1/empty 1.0.0", "v2/free 2.0.1 open to anyone", "v2/hook 2.0.1"]
    status = shown["v2/status 2.0.1"]
    assert status["prod"].startswith("served 30 % failed external, policy any: served")
    assert "requires api_key 50 calls in 24 hours, 15 failed, 30 rejected" in status["prod"]
    assert status["test"].startswith("blocked no calls external, policy jwt-api-key: blocked")
    assert "requires jwt=True, which is off. Fix: set jwt=True" in status["test"]
    assert status["lab"].startswith("would be blocked no calls external, policy jwt-api-key")
    assert 'aria-label="50 calls in 24 hours"' in text
    assert shown["v2/inner 2.0.1"]["prod"].startswith("served no calls internal, policy api-key")


def test_the_majors_of_a_name_are_rows_of_their_own(vic: ConsoleClient) -> None:
    text = vic.text("/pipelines", find="orders")
    shown = cells(text)

    assert shown["v1/orders 1.2.0"]["prod"].startswith("disabled no calls")
    assert shown["v2/orders 2.0.1"]["prod"].startswith("served no calls")
    assert "1 200 calls in 24 hours" in shown["v1/orders 1.2.0"]["test"]
    assert "0 calls in 24 hours" in shown["v2/orders 2.0.1"]["test"]


def test_the_heading_and_the_columns_count(vic: ConsoleClient) -> None:
    whole, part = words_of(vic.text("/pipelines")), words_of(vic.text("/pipelines", find="orders"))

    assert whole.startswith("Pipelines 8 ")
    assert part.startswith("Pipelines 2 of 8 ")
    assert "prod 5 served, 2 blocked" in whole
    assert "lab no process reports; 3 would be served, 5 would be blocked" in whole
    assert "test" not in cells(vic.text("/pipelines", env="prod"))["v2/status 2.0.1"]


def test_filters_have_the_words_of_the_badges(vic: ConsoleClient) -> None:
    def found(**query: str) -> list[str]:
        return ids(vic.text("/pipelines", **query))

    text = words_of(vic.text("/pipelines"))

    assert "State: blocked 5 State: disabled 1 State: served 6" in text
    assert found(state="disabled") == ["v1/orders"]
    assert found(state="blocked", env="prod") == ["v1/empty", "v1/jobs"]
    assert found(show="open") == ["v2/free"]
    assert found(show="open", env="test") == []
    assert found(show="differs", find="ORDERS") == ["v1/orders"]
    assert "Remove filter State: disabled" in words_of(vic.text("/pipelines", state="disabled"))
    assert "No pipelines match." in vic.text("/pipelines", find=EVIL)
    evil = vic.text(
        "/pipelines", find=EVIL, state=EVIL, sort=EVIL, after=EVIL, view=EVIL, show=EVIL
    )
    assert "<script>window" not in evil


def test_rows_are_sorted_by_urgency_calls_or_failures(vic: ConsoleClient) -> None:
    assert ids(vic.text("/pipelines", sort="calls"))[:2] == ["v1/orders", "v2/status"]
    assert ids(vic.text("/pipelines", sort="failed"))[:2] == ["v2/status", "v1/empty"]
    assert ids(vic.text("/pipelines", sort="state", env="prod"))[:3] == [
        "v1/empty",
        "v1/jobs",
        "v1/orders",
    ]


def test_the_list_has_a_row_an_environment_with_reasons_and_keeps_the_filters(
    vic: ConsoleClient,
) -> None:
    matrix = vic.text("/pipelines", state="blocked", find="status")
    listed = vic.text("/pipelines", state="blocked", find="status", view="list")
    both = cells(vic.text("/pipelines", find="v1/orders", view="list"))

    assert "/-/console/pipelines?state=blocked&amp;find=status&amp;view=list" in matrix
    assert words_of(listed).count("requires jwt=True, which is off") == 2
    assert '<input type="hidden" name="view" value="list">' in listed
    assert "in prod" in vic.text("/pipelines", find="v1/orders", view="list")
    assert next(iter(both.values()))["State"] == "served jwt-api-key"
    assert "disabled any" in words_of(vic.text("/pipelines", find="v1/orders", view="list"))


def test_pages_are_by_key_in_both_views(
    vic: ConsoleClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pages, "PER_PAGE", {"matrix": 3, "list": 3})

    for view in ("matrix", "list"):
        path, read = "/pipelines?view=" + view, list[str]()
        while path:
            text = vic.text(path)
            read += dict.fromkeys(ids(text))
            path = next_page(text) or ""
        assert read == [
            "v1/empty", "v2/free", "v2/hook", "v2/inner", "v1/jobs", "v1/orders", "v2/orders",
            "v2/status",
        ]  # fmt: skip


def test_every_name_on_the_page_leads_to_the_page_of_its_environment(vic: ConsoleClient) -> None:
    text = vic.text("/pipelines", find="status")

    assert '<a href="/-/console/pipelines/v2/status">v2/status</a>' in text
    link = re.search(r'href="([^"]+)" aria-label="v2/status in prod: served"', text)
    assert link is not None
    assert link[1] == "/-/console/pipelines/v2/status?env=prod"


def test_without_pipelines_the_pages_name_the_next_step(console_app: Make) -> None:
    console = console_app(plugin="")
    console.place.consumer("acme")
    vic = console.client("vic")

    assert "No pipelines loaded. Put a plugin into a folder" in vic.text("/pipelines")
    assert "No pipelines loaded. Put a plugin into a folder" in vic.text(
        "/consumers/acme/pipelines"
    )
    assert "0 of 0 pipelines comply" in vic.text("/policies")


def queries_of(console: ConsoleApp, path: str) -> int:
    """Return how many queries a page makes once the process has read the access data."""
    vic = console.client("vic")
    vic.text(path)
    engine = console.app.extensions["penstock-console"].engine
    with counted_queries(engine) as queries:
        vic.text(path)
    return len(queries)


def test_pages_make_as_many_queries_for_600_pipelines_as_for_5(
    upgraded_file: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    paths = (
        "/pipelines", "/pipelines?view=list", "/pipelines?sort=calls", "/pipelines/v1/x001",
        "/pipelines/v1/x001/gate", "/pipelines/v1/x001/consumers", "/pipelines/v1/x001/history",
    )  # fmt: skip
    made = []
    for number, calls in ((5, 10), (600, 70)):
        folder = tmp_path_factory.mktemp(f"many-{number}")
        console = console_of(upgraded_file, folder, MANY.replace("NUMBER", str(number)))
        write_counts(
            console.place,
            [
                (f"v1/x{index:03}", calls, "succeeded", 1, hours)
                for index in range(number)
                for hours in range(24)
            ],
        )
        made.append({path: queries_of(console, path) for path in paths})
        console.app.host.stop()

    assert made[0] == made[1]
    assert max(made[1].values()) <= 60
