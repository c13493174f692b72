"""The overview groups what needs attention by cause, and leads to who called what."""

from __future__ import annotations

from collections.abc import Callable

from support.console import ConsoleApp, words_of
from support.furnished_console import count_calls

from penstock.contracts.call import Caller
from penstock.db.engine import reading
from penstock.db.tables import ConsumerRow
from penstock.runs.call_counter import CallCounter

Make = Callable[..., ConsoleApp]

OPEN = """
from penstock import HttpTrigger, Pipeline, hookimpl

def made(number):
    trigger = HttpTrigger(api_key=True) if number < 9 else HttpTrigger(jwt=True)
    pipeline = Pipeline(f"p{number}", version="1.0.0", trigger=trigger)
    pipeline.get("/")(lambda: None)
    return pipeline

@hookimpl
def penstock_pipelines():
    return [made(number) for number in range(10)]
"""


def test_pipelines_with_one_cause_are_one_line_for_all_environments(console_app: Make) -> None:
    console = console_app(plugin=OPEN)
    vic = console.client("vic")

    overview = vic.text("/")
    of_prod = words_of(vic.text("/overview/attention", env="prod"))

    alarm = overview[overview.index('class="alarm"') :].partition("</section>")[0]
    assert alarm.count("<li>") == 2  # jwt is missing in nine, api_key in one
    assert "v1/p0, v1/p1, v1/p2, v1/p3, v1/p4, v1/p5 and 3 more" in words_of(alarm)
    assert words_of(alarm).count("blocked") == 2
    assert "v1/p9" in of_prod
    assert "test" not in of_prod.partition("Needs attention")[2].split()


def test_the_overview_ranks_pipelines_and_has_a_card_for_each_environment(
    console_app: Make,
) -> None:
    console = console_app()
    count_calls(console.place, succeeded=12, failed=3)
    vic = console.client("vic")

    overview = vic.text("/")
    slowest = words_of(vic.text("/", sort="-p95", **{"from": "now-1h"}))

    assert overview.count('class="card"') == 2
    assert "v1/orders 15 3" in words_of(overview)
    assert "v1/orders 15 3 9.8 ms" in slowest
    assert "No consumer called prod" in vic.text("/", env="prod")


def test_usage_says_who_called_with_which_key(console_app: Make) -> None:
    console = console_app()
    place = console.place
    place.consumer("acme", "orders")
    key = place.key("acme")
    with reading(place.engine) as connection:
        (acme,) = ConsumerRow.fetch(connection, ConsumerRow.select())
    counter = CallCounter(place.engine, 1)
    for _ in range(7):
        counter.queue("v1/orders", "accepted", Caller("acme", acme.id, key.id))
    counter.queue("v1/orders", "credentials-missing")
    counter.write(last=True)
    vic = console.client("vic")

    by_key = words_of(vic.text("/e/test/usage", by="key", consumer="acme"))
    by_consumer = words_of(vic.text("/e/test/usage"))
    by_pipeline = words_of(vic.text("/e/test/usage", by="pipeline", pipeline="orders"))

    assert f"pk_test_…{key.key[-4:]} acme 7 100 % 0 0 0" in by_key
    assert "acme 7 100 %" in by_consumer
    assert "(not known) 1 0 % 0 1 0" in by_consumer
    assert "v1/orders 8" in by_pipeline
    assert "/e/test/usage?consumer=acme" in vic.text("/consumers/acme").replace("&amp;by=key", "")
    assert "No calls in prod match" in vic.text("/e/prod/usage")
    unknown = vic.get("/e/test/usage", consumer="acmee")
    assert (unknown.status_code, 'id="e-consumer"' in unknown.text) == (422, True)
