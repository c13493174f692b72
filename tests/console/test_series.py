"""Charts poll one endpoint: bounded, and of the environment that its user may see."""

from __future__ import annotations

from collections.abc import Callable

from support.console import PASSWORD, ConsoleApp
from support.furnished_console import count_calls

Make = Callable[..., ConsoleApp]


def test_a_series_is_a_chart_that_leads_to_its_calls(console_app: Make) -> None:
    console = console_app()
    count_calls(console.place, succeeded=12, failed=3, invalid_api_key=4)
    vic = console.client("vic")
    last_hour = {"from": "now-1h"}

    calls = vic.get("/e/test/series", metric="calls", by="class", **last_hour).json()
    reasons = vic.get("/e/test/series", metric="rejections", **last_hour).json()
    latency = vic.get("/e/test/series", metric="latency", **last_hour).json()
    long = vic.get("/e/test/series", **{"from": "now-52w"}).json()

    assert {line["name"]: sum(line["values"]) for line in calls["lines"]} == {
        "succeeded": 12,
        "client error": 0,
        "rejected": 4,
        "failed": 3,
    }
    assert calls["link"] == "/-/console/e/test/runs?from={from}&to={to}"
    assert [line["name"] for line in reasons["lines"]] == ["invalid API key"]
    assert reasons["link"].startswith("/-/console/e/test/rejected?")
    assert ([line["name"] for line in latency["lines"]], latency["unit"]) == (
        ["p50", "p95", "p99"],
        "seconds",
    )
    assert len(long["times"]) <= 120


def test_a_series_of_an_unknown_metric_or_time_names_the_known_ones(console_app: Make) -> None:
    vic = console_app().client("vic")

    for query, words in (
        ({"metric": "secrets"}, "calls, latency, rejections, runs"),
        ({"metric": "latency", "by": "consumer"}, "quantile, pipeline"),
        ({"from": "yesterday"}, "isn't a time"),
    ):
        response = vic.get("/e/test/series", **query)
        assert (response.status_code, words in response.text.replace("&#39;", "'")) == (400, True)
    assert vic.get("/e/prod/series").json()["lines"][0]["values"][0] == 0
    assert vic.get("/e/nowhere/series").status_code == 404


def test_a_series_of_another_environment_is_not_shown(console_app: Make) -> None:
    console = console_app()
    created = ("user", "create", "pat", "--role", "viewer", "--env", "prod")
    console.place.run(*created, given=PASSWORD)
    pat = console.client("pat")

    assert pat.get("/e/prod/series").status_code == 200
    assert pat.get("/e/test/series").status_code == 404
    assert console.client().get("/e/prod/series").status_code == 303
