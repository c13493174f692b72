"""Schedules are listed with their ticks, paused, and run now; what waits and runs is listed."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import Any

import pytest

from penstock import Call, Durable, HttpTrigger, Pipeline, Schedule, audit, hookimpl
from penstock.contracts.triggers import Schedule as Declared
from penstock.durable.schedules import last_ticks, next_tick
from penstock.errors import PenstockError, UnknownName, UsageError
from penstock.testing import Runtime

Start = Callable[..., Runtime]


def offering(seen: list[Any]) -> SimpleNamespace:
    daily = Schedule("0 5 * * *", body={"days": 1})
    report = Pipeline("report", version="1.0.0", trigger=daily, durable=Durable(concurrency=2))
    both = [Schedule("0 6 * * *"), Schedule("*/5 * * * *", missed="once")]
    twice = Pipeline("twice", version="1.0.0", trigger=both)
    jobs = Pipeline("jobs", version="1.0.0", trigger=HttpTrigger(api_key=True))

    @report.post("/")
    def write(call: Call, body: dict[str, int]) -> None:
        seen.append(body["days"])

    @twice.post("/")
    def act(call: Call) -> None:
        seen.append("twice")

    @jobs.post("/", mode="durable")
    def job(call: Call) -> None:
        """Do nothing."""

    @hookimpl
    def penstock_pipelines() -> list[Pipeline]:
        return [report, twice, jobs]

    return SimpleNamespace(__name__="reports", penstock_pipelines=penstock_pipelines)


@pytest.fixture
def seen() -> list[Any]:
    return []


@pytest.fixture
def runtime(penstock_runtime: Start, seen: list[Any]) -> Runtime:
    return penstock_runtime(offering(seen), policy="api-key")


def listed(runtime: Runtime, *words: str) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = json.loads(runtime.operate(*words, "--format", "json"))
    return rows


class TestSchedules:
    def test_a_paused_schedule_starts_no_run_until_it_is_resumed(
        self, runtime: Runtime, seen: list[Any]
    ) -> None:
        moment = datetime(2026, 3, 29, 5, tzinfo=UTC)
        runtime.operate("schedule", "pause", "report")

        paused = runtime.tick("v1/report", moment)
        again = runtime.operate("schedule", "pause", "v1/report")
        row = listed(runtime, "schedules", "--search", "report")[0]
        runtime.operate("schedule", "resume", "report")
        resumed = runtime.tick("v1/report", moment + timedelta(days=1))

        assert (paused, runtime.work(), seen) == (None, 1, [1])
        assert resumed is not None
        assert (row["paused_by"], "already" in again) == ("test", True)
        events = audit.events(runtime._engine, limit=2)  # noqa: SLF001  the kit lists no events
        assert [event.act for event in events] == [
            "resumed the schedule 0 5 * * * of v1/report in test",
            "paused the schedule 0 5 * * * of v1/report in test",
        ]

    def test_a_schedule_runs_now_with_its_body_also_while_it_is_paused(
        self, runtime: Runtime, seen: list[Any]
    ) -> None:
        runtime.operate("schedule", "pause", "report")

        run = runtime.operate("schedule", "run", "report").strip()

        assert (runtime.work(), seen) == (1, [1])
        assert json.loads(runtime.operate("runs", "show", run, "--format", "json"))["status"] == (
            "succeeded"
        )

    def test_a_disabled_pipeline_is_not_run(self, runtime: Runtime) -> None:
        runtime.operate("pipeline", "disable", "report", "--env", "test")

        with pytest.raises(PenstockError, match="v1/report is blocked or disabled in test"):
            runtime.operate("schedule", "run", "report")
        assert runtime.work() == 0

    def test_one_of_several_schedules_is_chosen(self, runtime: Runtime) -> None:
        with pytest.raises(UsageError, match="several schedules; give one with --cron"):
            runtime.operate("schedule", "pause", "twice")
        with pytest.raises(UsageError, match="no such schedule"):
            runtime.operate("schedule", "pause", "twice", "--cron", "1 1 * * *")
        with pytest.raises(UnknownName, match="jobs"):
            runtime.operate("schedule", "pause", "jobs")
        with pytest.raises(UnknownName, match="nope"):
            runtime.operate("schedule", "pause", "twice", "--env", "nope", "--cron", "0 6 * * *")

        runtime.operate("schedule", "pause", "twice", "--cron", "0 6 * * *")

        rows = listed(runtime, "schedules", "--search", "twice")
        assert {row["cron"]: row["paused_by"] is not None for row in rows} == {
            "0 6 * * *": True,
            "*/5 * * * *": False,
        }

    def test_a_schedule_is_listed_with_its_next_tick(self, runtime: Runtime) -> None:
        row = listed(runtime, "schedules", "--search", "report")[0]

        assert (row["cron"], row["timezone"]) == ("0 5 * * *", "UTC")
        assert row["next"].partition("T")[2].startswith("05:00:00")
        assert (row["last"], row["became"]) == (None, None)

    def test_ticks_that_never_come_end(self) -> None:
        now = datetime(2026, 3, 2, 6, tzinfo=UTC)
        leap = Declared("0 0 29 2 *", timezone="Europe/Lisbon")

        days = [at.date().isoformat() for at in last_ticks(leap, now, 3)]

        assert days == ["2016-02-29", "2020-02-29", "2024-02-29"]
        assert last_ticks(Declared("0 0 31 2 *"), now, 3) == []
        assert next_tick(Declared("0 0 31 2 *"), now) is None


class TestTheQueue:
    def test_what_waits_is_listed_by_pipeline(self, runtime: Runtime) -> None:
        client = runtime.client(token=False)
        for _ in range(3):
            assert client.post("/v1/jobs/").status_code == 202
        before = {row["pipeline"]: row for row in listed(runtime, "queue")}
        runtime.work()
        after = {row["pipeline"]: row for row in listed(runtime, "queue")}

        assert list(before) == ["v1/jobs", "v1/report", "v1/twice"]
        assert (before["v1/jobs"]["waiting"], before["v1/report"]["waiting"]) == (3, 0)
        assert (before["v1/jobs"]["concurrency"], before["v1/report"]["concurrency"]) == (0, 2)
        assert before["v1/jobs"]["oldest"] is not None
        assert before["v1/jobs"]["wait_p50"] is None
        assert (after["v1/jobs"]["waiting"], after["v1/jobs"]["oldest"]) == (0, None)
        assert after["v1/jobs"]["wait_p50"] >= 0

    def test_a_queue_of_no_environment_is_not_listed(self, runtime: Runtime) -> None:
        with pytest.raises(UnknownName, match="no environment is named 'nope'"):
            runtime.operate("queue", "--env", "nope")
