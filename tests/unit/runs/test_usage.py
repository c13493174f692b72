"""Who called what, with which key: counts by consumer, and durable runs that are no calls."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
from support.place import Place

from penstock import Call, HttpTrigger, Pipeline, PipelineError, hookimpl
from penstock.contracts.call import Caller
from penstock.db import call_counts, call_sums
from penstock.db.engine import reading
from penstock.errors import UsageError
from penstock.runs.call_counter import CallCounter
from penstock.runs.pipeline_calls import last_day
from penstock.runs.series import Activity, environment_activity, intervals
from penstock.testing import Runtime

Start = Callable[..., Runtime]


def offering() -> SimpleNamespace:
    shop = Pipeline("shop", version="1.0.0", trigger=HttpTrigger(api_key=True))
    jobs = Pipeline("jobs", version="1.0.0", trigger=HttpTrigger(api_key=True))

    @shop.get("/")
    def show(call: Call) -> None:
        if "bad" in call.query:
            raise PipelineError(409, "No", "Not so.")
        if "broken" in call.query:
            raise RuntimeError("it broke")

    @jobs.post("/", mode="durable")
    def work(call: Call) -> None:
        """Do nothing."""

    @hookimpl
    def penstock_pipelines() -> list[Pipeline]:
        return [shop, jobs]

    return SimpleNamespace(__name__="shop", penstock_pipelines=penstock_pipelines)


@pytest.fixture
def runtime(penstock_runtime: Start) -> Runtime:
    return penstock_runtime(offering(), policy="api-key")


def used(runtime: Runtime, *options: str) -> list[dict[str, Any]]:
    recorder = runtime._host.services.recorder  # type: ignore[union-attr]  # noqa: SLF001  counts by consumer wait 10 s
    recorder.flush()
    recorder._counter.write(last=True)  # noqa: SLF001  as above
    rows: list[dict[str, Any]] = json.loads(runtime.operate("usage", "--format", "json", *options))
    return rows


def test_calls_are_added_up_by_consumer_key_and_pipeline(runtime: Runtime) -> None:
    acme, again = runtime.client(token=False), runtime.client(token=False)
    globex = runtime.client("globex", token=False, pipelines="jobs")
    for client, path in (
        (acme, "/v1/shop/"),
        (acme, "/v1/shop/?bad"),
        (again, "/v1/shop/?broken"),
        (globex, "/v1/shop/"),
        (runtime.anonymous(), "/v1/shop/"),
    ):
        client.get(path)

    by_consumer = {row["consumer"]: row for row in used(runtime)}
    by_key = used(runtime, "--by", "key", "--consumer", "acme")
    (shop,) = used(runtime, "--by", "pipeline", "--env", "test")

    acme_row = by_consumer["acme"]
    assert [acme_row[name] for name in ("calls", "succeeded", "client_errors", "failed")] == [
        3,
        1,
        1,
        1,
    ]
    assert (by_consumer["globex"]["rejected"], by_consumer["(not known)"]["rejected"]) == (1, 1)
    assert [row["calls"] for row in by_key] == [2, 1]
    assert len({row["key_id"] for row in by_key}) == 2
    assert (shop["pipeline"], shop["calls"], shop["rejected"]) == ("v1/shop", 5, 2)
    assert [row["calls"] for row in used(runtime, "--search", "GLOB")] == [1]
    assert used(runtime, "--pipeline", "jobs") == []
    with pytest.raises(UsageError, match="no consumer is named"):
        used(runtime, "--consumer", "acmee")


def activity_of(runtime: Runtime) -> Activity:
    """Return the calls of the last hour."""
    chosen = intervals(1, time.time() - 3600, time.time(), 60)
    return environment_activity(runtime._engine, "test", chosen)  # noqa: SLF001


def test_accepted_runs_are_successful_calls_and_their_ends_are_no_calls(runtime: Runtime) -> None:
    client = runtime.client(token=False)
    client.get("/v1/shop/")
    before = activity_of(runtime)

    for _ in range(20):
        assert client.post("/v1/jobs/", json={}).status_code == 202
    assert runtime.work() == 20
    (row,) = used(runtime, "--by", "pipeline", "--pipeline", "jobs")
    after = activity_of(runtime)

    assert (row["calls"], row["succeeded"]) == (20, 20)
    assert after.calls - before.calls == 21
    assert (after.rejected, after.client_errors, after.failed) == (0, 0, 0)
    with reading(runtime._engine) as connection:  # noqa: SLF001
        timed = call_sums.histograms(connection, last_day(1, time.time()))
        counted = {row.outcome: row.calls for row in call_counts.read(connection, 1, since=0)}
    assert counted["run:succeeded"] == 20
    buckets = [number for _, _, text in timed for row in json.loads(f"[{text}]") for number in row]
    assert sum(buckets) == 1  # no run among the latencies of calls


def test_two_processes_add_to_the_same_counts(place: Place) -> None:
    caller = Caller("acme", 1, "key_1")
    counters = [CallCounter(place.engine, 1) for _ in range(2)]
    for number, counter in enumerate(counters, 3):
        for _ in range(number):
            counter.queue("v1/shop", "accepted", caller)
        counter.write(last=True)
        counter.write(last=True)  # nothing is counted twice

    place.consumer("acme")
    rows = json.loads(place.run("usage", "--by", "key", "--format", "json").stdout)
    assert [(row["key_id"], row["calls"]) for row in rows] == [("key_1", 7)]
