"""The overview names unreadable rows, and plugins whose policy returned a wrong value."""

from __future__ import annotations

from collections.abc import Callable

import sqlalchemy as sa
from support.console import ConsoleClient, engine_of, words_of
from support.place import ACTOR

from penstock import AccessPolicy, HttpTrigger, Pipeline, Rate, hookimpl
from penstock.access import consumers, limits
from penstock.testing import Runtime


def test_the_overview_names_an_unreadable_row(console_runtime: Callable[..., Runtime]) -> None:
    runtime = console_runtime()
    engine = engine_of(runtime)
    consumers.create_consumer(engine, ACTOR, "acme")
    limits.set_limit(engine, ACTOR, "acme", "test", Rate("5/minute"))
    with engine.begin() as connection:
        connection.execute(sa.text("UPDATE limits SET rate = 'often'"))

    assert "unreadable Limits 1: rate can't be read. This row grants nothing" in words_of(
        ConsoleClient.of(runtime, "vic").get("/").text
    )


class Rogue(AccessPolicy):
    name = "rogue"

    def judge(self, candidate: object, environment: object) -> object:  # type: ignore[override]  # it is wrong
        return "yes"


class Plugin:
    @staticmethod
    @hookimpl
    def penstock_pipelines() -> list[Pipeline]:
        pipeline = Pipeline("orders", version="1.0.0", trigger=HttpTrigger(api_key=True, jwt=True))
        pipeline.get("/")(lambda: "here")
        return [pipeline]

    @staticmethod
    @hookimpl
    def penstock_policies() -> list[AccessPolicy]:
        return [Rogue()]


def test_the_pages_name_the_plugin_and_the_value_its_policy_returned(
    console_runtime: Callable[..., Runtime],
) -> None:
    vic = ConsoleClient.of(console_runtime(Plugin), "vic")

    message = "he policy rogue: it returned str, not a Verdict or None"
    assert message in words_of(vic.get("/").text)
    assert message in words_of(vic.get("/pipelines/v1/orders").text)
