"""Policies: the preview of a change, its application, and the history of changes."""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta

import pytest
from support.console import EVIL, ConsoleApp, ConsoleClient
from support.place import Place

from penstock.access import policies
from penstock.access.environments import create_environment
from penstock.contracts.access import EnvironmentFacts
from penstock.db import consumer_counts
from penstock.db.consumer_counts import HOUR, CountKey
from penstock.db.engine import reading
from penstock.db.tables import ConsumerRow
from penstock.db.unit_of_work import RowReader

Make = Callable[..., ConsoleApp]
DAY = 86_400

PLUGIN = """
from penstock import Call, HttpTrigger, Pipeline, hookimpl

def simple(name, **toggles):
    pipeline = Pipeline(name, version="1.0.0", trigger=HttpTrigger(**toggles))
    @pipeline.get("/")
    def show(call: Call): return {}
    return pipeline

@hookimpl
def penstock_pipelines():
    return [simple("both", api_key=True, jwt=True), simple("keyed", api_key=True), simple("free"), simple("also", api_key=True),
            simple("inner", external=False, internal=True, api_key=True)]
"""  # noqa: E501  text as it is


def called(
    place: Place, pipeline: str, consumer: str, *, days_ago: float, env: int = 1, calls: int = 1
) -> None:
    with reading(place.engine) as connection:
        row = RowReader(connection).find(ConsumerRow, {ConsumerRow.name: consumer})
    assert row is not None
    since = int(time.time() - days_ago * DAY) // HOUR * HOUR
    key = CountKey(since, row.id, "key", pipeline, "succeeded")
    consumer_counts.add(place.engine, env, {key: calls})


def section(text: str, name: str) -> str:
    match = re.search(rf'<section[^>]* aria-labelledby="{name}".*?</section>', text, re.DOTALL)
    return match[0] if match else ""


def rows(text: str) -> dict[str, str]:
    """Return the last cell of each row, without markup, by the pipeline that it begins with."""
    cells = re.findall(
        r'<tr><th scope="row">(.*?)</th>.*?<td class="wrap"[^>]*>(.*?)</td></tr>', text, re.DOTALL
    )
    return {
        re.sub(r"<[^>]+>", "", name): re.sub(r"\s+", " ", re.sub(r"<[^>]+>", "", cell)).strip()
        for name, cell in cells
    }


def facts(place: Place, env: str = "test") -> EnvironmentFacts:
    return place.snapshot(env).environment


def digest(visitor: ConsoleClient, env: str, policy: str, exposure: str = "external") -> str:
    match = re.search(
        r'name="digest" value="([^"]+)"',
        visitor.text(f"/e/{env}/policy/change", policy=policy, exposure=exposure),
    )
    assert match is not None
    return match[1]


def test_a_card_explains_each_policy_and_counts_compliant_pipelines(
    console_app: Make,
) -> None:
    console = console_app(plugin=PLUGIN)
    console.place.policy("any", "prod")
    text = console.client("vic").text("/policies")
    prod, test = section(text, "env-prod"), section(text, "env-test")

    tiles = [re.findall(r"<dt>([^<]+)</dt><dd>(\d+)</dd>", card) for card in (prod, test)]
    assert tiles == [
        [("Compliant", "4"), ("Not compliant", "0")],
        [("Compliant", "1"), ("Not compliant", "3")],
    ]
    options = re.findall(
        r'name="policy" value="([^"]+)"( checked)?>.*?(\d of \d) pipelines comply', test, re.DOTALL
    )
    assert options == [
        ("api-key", "", "3 of 4"), ("jwt-api-key", " checked", "1 of 4"), ("any", "", "4 of 4"),
        ("api-key", " checked", "1 of 1"), ("jwt-api-key", "", "0 of 1"), ("any", "", "1 of 1"),
    ]  # fmt: skip
    assert "Each call carries an API key and a token of the same consumer." in test
    assert "One that requires nothing is open to anyone." in test
    assert "Preview change" in text


def test_the_card_of_prod_comes_first(console_app: Make) -> None:
    console = console_app(plugin=PLUGIN)
    create_environment(console.place.engine, "ann", "beta", console.place.box)

    text = console.client("vic").text("/policies")

    assert re.findall(r'aria-labelledby="env-([^"]+)"', text) == ["prod", "beta", "test"]


def test_the_preview_names_pipelines_that_stop_and_their_recent_callers(
    console_app: Make,
) -> None:
    console = console_app(plugin=PLUGIN)
    place = console.place
    for name in ("acme", "bolt", "core"):
        place.consumer(name)
    place.policy("any")
    called(place, "v1/keyed", "bolt", days_ago=6.5, calls=3)
    called(place, "v1/keyed", "acme", days_ago=0.1)
    called(place, "v1/keyed", "core", days_ago=7.5)
    called(place, "v1/also", "core", days_ago=1, env=2)  # in another environment
    called(place, "v1/both", "core", days_ago=1)
    oli = console.client("oli")

    text = oli.text("/e/test/policy/change", policy="jwt-api-key")

    assert "3 pipelines will stop being served" in text
    assert rows(section(text, "stops")) == {
        "v1/also": "none",
        "v1/free": "none",
        "v1/keyed": "75 % bolt 3 calls 25 % acme 1 call",
    }
    assert "set jwt=True on its HttpTrigger" in section(text, "stops")
    assert "No pipeline will start being served" in text
    assert not section(text, "changed")
    assert facts(place).policy == "any"
    called(place, "v1/also", "bolt", days_ago=0)
    assert (
        rows(section(oli.text("/e/test/policy/change", policy="jwt-api-key"), "stops"))["v1/also"]
        == "100 % bolt 1 call"
    )
    assert console.client("vic").get("/e/test/policy/change", policy="any").status_code == 200


def test_the_preview_shows_ten_callers_and_leads_to_all(console_app: Make) -> None:
    console = console_app(plugin=PLUGIN)
    console.place.policy("any")
    for number in range(13):
        console.place.consumer(f"c{number:02}")
        called(console.place, "v1/keyed", f"c{number:02}", days_ago=1, calls=20 - number)
    vic = console.client("vic")

    text = section(vic.text("/e/test/policy/change", policy="jwt-api-key"), "stops")
    more = re.search(r'href="([^"]+)">and 3 more', text)
    export = vic.get("/e/test/policy/callers", policy="jwt-api-key")

    assert re.findall(r"/consumers/(c\d\d)", text) == [f"c{number:02}" for number in range(10)]
    assert more is not None
    usage = vic.text(more[1].replace("&amp;", "&").removeprefix("/-/console"))
    assert "c12" in usage
    assert export.headers["Content-Disposition"].startswith("attachment")
    lines = export.text.splitlines()
    assert len(lines) == 14
    assert lines[1].startswith("v1/keyed,c00,20,")


@pytest.mark.parametrize("internal", [False, True])
def test_the_preview_says_what_becomes_of_schedules(console_app: Make, internal: bool) -> None:
    listener = "internal=True, " if internal else ""
    plugin = (
        "from penstock import HttpTrigger, Pipeline, Schedule, hookimpl\n"
        "nightly = Pipeline('nightly', version='1.0.0', trigger=["
        f"HttpTrigger({listener}api_key=True), Schedule('0 3 * * *', path='/')])\n"
        "@nightly.post('/')\n"
        "def work(call): return {}\n"
        "@hookimpl\n"
        "def penstock_pipelines(): return [nightly]\n"
    )
    console = console_app(plugin=plugin)
    console.place.policy("api-key")

    text = console.client("oli").text("/e/test/policy/change", policy="jwt-api-key")

    expected = (
        "Its schedule continues: the internal listener serves it."
        if internal
        else ("Its schedule stops too.")
    )
    assert expected in section(text, "stops")


def test_a_grace_has_its_end_as_a_date(console_app: Make) -> None:
    console = console_app(plugin=PLUGIN)
    console.place.policy("any")
    oli = console.client("oli")
    end = datetime.now(UTC) + timedelta(days=7)

    text = oli.text("/e/test/policy/change", policy="jwt-api-key")
    response = oli.post(
        "/e/test/policy/change",
        exposure="external",
        policy="jwt-api-key",
        digest=digest(oli, "test", "jwt-api-key"),
        reason="SEC-118",
        grace="7 days",
    )

    assert f"7d on {end:%-d %B}, " in text
    assert f"What it would stop is served until {end:%-d %B %Y}, " in oli.follow(response)


def test_the_preview_names_pipelines_that_start_with_gate_and_warnings(console_app: Make) -> None:
    console = console_app(plugin=PLUGIN)
    text = console.client("oli").text("/e/test/policy/change", policy="any")

    starts = rows(section(text, "starts"))
    assert starts.keys() == {"v1/also", "v1/free", "v1/keyed"}
    assert starts["v1/keyed"] == "A call needs an API key of an associated consumer."
    assert starts["v1/free"].startswith(
        "A call needs no credentials: anyone may call. warning open to anyone"
    )
    assert "No pipeline will stop being served" in text
    assert "Apply any to test?" not in text


def test_a_policy_is_applied_with_a_reason_if_its_effect_is_unchanged(console_app: Make) -> None:
    console = console_app(plugin=PLUGIN)
    place, oli = console.place, console.client("oli")
    place.policy("api-key")
    seen = digest(oli, "test", "jwt-api-key")
    form = {"exposure": "external", "policy": "jwt-api-key", "digest": seen}

    silent = oli.post("/e/test/policy/change", **form, reason="  ")
    assert (silent.status_code, facts(place).policy) == (422, "api-key")
    assert 'id="e-reason" class="error" role="alert">Enter a reason' in silent.text
    nonsense = oli.post("/e/test/policy/change", **form, reason="because", grace="long")
    assert (nonsense.status_code, facts(place).policy) == (422, "api-key")
    assert 'id="e-grace"' in nonsense.text
    assert "because</textarea>" in nonsense.text
    assert (
        oli.post("/e/test/policy/change", **form, reason="because", grace="999999w").status_code
        == 422
    )
    place.enable("also", enabled=False)
    late = oli.post("/e/test/policy/change", **form, reason="because")
    assert (late.status_code, facts(place).policy) == (422, "api-key")
    assert "The effect has changed since this preview." in late.text
    assert rows(section(late.text, "stops")).keys() == {"v1/keyed"}

    done = oli.post(
        "/e/test/policy/change",
        **form | {"digest": digest(oli, "test", "jwt-api-key")},
        reason="tokens for all",
    )
    assert (done.status_code, done.headers["Location"]) == (303, "/-/console/e/test/policy")
    assert (facts(place).policy, facts(place).policy_version) == ("jwt-api-key", 3)
    assert console.events()[0] == ("oli", "environment:policy:set", "test", "test")
    assert place.snapshot().graces == {}
    assert oli.get("/e/test/policy/change", policy="keys").status_code == 404
    assert oli.get("/e/tset/policy/change", policy="any").status_code == 404


def test_pipelines_that_would_stop_can_be_given_grace(console_app: Make) -> None:
    console = console_app(plugin=PLUGIN)
    console.place.policy("api-key")
    oli = console.client("oli")

    form = {
        "exposure": "external",
        "policy": "jwt-api-key",
        "digest": digest(oli, "test", "jwt-api-key"),
        "reason": "soon",
    }
    assert oli.post("/e/test/policy/change", **form, grace="7d").status_code == 303

    graces = console.place.snapshot().graces
    assert graces.keys() == {"v1/keyed", "v1/also"}
    assert abs(graces["v1/keyed"].until - time.time() - 7 * DAY) < 60
    assert "in grace</dt><dd>2</dd>" in oli.text("/policies")
    assert "Served with its old gate until" in oli.text("/pipelines/v1/keyed")


def test_the_internal_policy_is_set_separately_and_without_grace(console_app: Make) -> None:
    console = console_app(plugin=PLUGIN)
    oli = console.client("oli")
    text = oli.text("/e/test/policy/change", policy="jwt-api-key", exposure="internal")

    assert rows(section(text, "stops")).keys() == {"v1/inner"}
    assert 'name="grace"' not in text
    form = {
        "exposure": "internal",
        "policy": "jwt-api-key",
        "digest": digest(oli, "test", "jwt-api-key", "internal"),
        "reason": "inside too",
    }
    rejected = oli.post("/e/test/policy/change", **form, grace="7d")
    assert (rejected.status_code, facts(console.place).internal_policy) == (422, "api-key")
    assert oli.post("/e/test/policy/change", **form).status_code == 303
    assert (facts(console.place).internal_policy, facts(console.place).policy) == (
        "jwt-api-key",
        "jwt-api-key",
    )


def test_the_history_shows_actor_change_time_and_reason(console_app: Make) -> None:
    console = console_app(plugin=PLUGIN)
    for number, policy in enumerate(["any", "api-key", "jwt-api-key"] * 10):
        reason = f"reason {number}" if number < 29 else EVIL
        policies.set_policy(
            console.place.engine,
            "ann",
            "test",
            policy,
            served={},
            stopping=[],
            reason=reason,
            internal=number == 28,
        )
    vic = console.client("vic")
    first = vic.text("/e/test/policy")
    onward = re.search(r'href="([^"]+)" rel="next"', first)
    assert onward is not None
    second = vic.text(onward[1].replace("&amp;", "&").removeprefix("/-/console"))

    def changes(text: str) -> list[tuple[str, str, str]]:
        text = re.sub(r'<span class="(hidden|narrow-only)">[^<]*</span>', "", text)
        return re.findall(
            r'class="right">(\d+)</th>.*?<td class="diff"[^>]*>(?:<del>([^<]*)</del>'
            r" )?<(?:ins|span)>([^<]*)<",
            text,
            re.DOTALL,
        )

    assert changes(first)[:4] == [
        ("31", "any", "jwt-api-key"),
        ("30", "", "api-key"),
        ("29", "jwt-api-key", "any"),
        ("28", "api-key", "jwt-api-key"),
    ]
    assert changes(second)[-2:] == [("2", "jwt-api-key", "any"), ("1", "", "jwt-api-key")]
    assert [item[0] for item in changes(first) + changes(second)] == [
        str(number) for number in range(31, 0, -1)
    ]
    assert "No older versions." in vic.text("/e/test/policy", before=1)
    assert changes(vic.text("/e/test/policy", before=10**30)) == changes(first)
    assert "reason 27" in first
    assert "<time datetime=" in first
    assert '<td data-label="Actor">ann</td>' in first
    assert "<script>window" not in first
    assert "&lt;script&gt;window" in first


def test_a_viewer_previews_a_change_without_the_form_that_applies_it(console_app: Make) -> None:
    vic = console_app(plugin=PLUGIN).client("vic")

    preview = vic.text("/e/test/policy/change", exposure="external", policy="any")

    assert "Preview change" in vic.text("/policies")
    assert "An operator of test can apply this change." in preview
    assert 'method="post" action="/-/console/policies' not in preview


def test_a_viewer_can_set_no_policy(console_app: Make) -> None:
    console = console_app(plugin=PLUGIN)
    seen = digest(console.client("oli"), "test", "any")

    tried = console.client("vic").post(
        "/e/test/policy/change", exposure="external", policy="any", digest=seen, reason="mine"
    )

    assert (tried.status_code, facts(console.place).policy) == (403, "jwt-api-key")


def test_without_a_policy_plugin_the_page_names_the_plugin_to_load(console_app: Make) -> None:
    console = console_app(plugin=PLUGIN)
    console.app.host.evaluator._pipelines._policies = ()  # noqa: SLF001  as if none was loaded

    text = console.client("oli").text("/policies")

    assert "Load penstock_access_policy." in text
    assert "No loaded plugin enforces jwt-api-key" in text
