"""Pages of schedules and of the queue: what starts when, what waits, and who may pause it."""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace

import pytest
from support.console import PASSWORD, ConsoleClient, console_runtime, words_of

from penstock import Call, HttpTrigger, Pipeline, Schedule, hookimpl
from penstock.testing import Runtime

__all__ = ["console_runtime"]

Make = Callable[..., Runtime]


def offering() -> SimpleNamespace:
    report = Pipeline("report", version="1.0.0", trigger=Schedule("0 5 * * *"))
    failing = Pipeline("failing", version="1.0.0", trigger=Schedule("*/5 * * * *"))
    jobs = Pipeline("jobs", version="1.0.0", trigger=HttpTrigger(api_key=True))

    @report.post("/")
    def write(call: Call) -> None:
        """Do nothing."""

    @failing.post("/")
    def fail(call: Call) -> None:
        raise RuntimeError("no")

    @jobs.post("/", mode="durable")
    def job(call: Call) -> None:
        """Do nothing."""

    @hookimpl
    def penstock_pipelines() -> list[Pipeline]:
        return [report, failing, jobs]

    return SimpleNamespace(__name__="reports", penstock_pipelines=penstock_pipelines)


@pytest.fixture
def runtime(console_runtime: Make) -> Runtime:
    return console_runtime(offering(), policy="api-key")


def path_of(page: str, act: str) -> str:
    """Return the path of the form that acts on the schedule of v1/report, below the console."""
    row = next(row for row in page.split("<tr>") if "v1/report" in row)
    match = re.search(rf'action="/-/console(/e/test/schedules/[^"/]+/{act})"', row)
    assert match is not None, row
    return match[1]


def test_a_schedule_shows_its_ticks_in_words_squares_and_durations(runtime: Runtime) -> None:
    now = datetime.now(UTC).replace(second=0, microsecond=0)
    last = now - timedelta(minutes=now.minute % 5)
    for back in (15, 5):
        runtime.tick("v1/failing", last - timedelta(minutes=back))
        runtime.work()
    page = ConsoleClient.of(runtime, "vic").text("/e/test/schedules")

    text = words_of(page)
    for words in ("at 05:00, every day UTC", "every 5 minutes", "none yet"):
        assert words in text
    squares = re.findall(r'class="(bad|off)" title="[^"]* UTC (failed|missed)"', page)
    # One tick at least has come since the oldest run: the page is read a little later.
    assert squares[:3] == [("bad", "failed"), ("off", "missed"), ("bad", "failed")]
    assert "Pause" not in text  # a viewer changes nothing


def test_an_operator_pauses_and_resumes_a_schedule(runtime: Runtime) -> None:
    client = ConsoleClient.of(runtime, "oli")
    pause = path_of(client.text("/e/test/schedules"), "pause")

    asked = words_of(client.text(pause))
    paused = client.follow(client.post(pause))
    while_paused = runtime.tick("v1/report", datetime(2026, 3, 29, 5, tzinfo=UTC))
    page = client.text("/e/test/schedules")
    resumed = client.follow(client.post(path_of(page, "resume")))

    assert "Pause the schedule of v1/report in test?" in asked
    assert "Schedule paused" in paused
    assert "paused by oli" in words_of(page)
    assert while_paused is None
    assert "Schedule resumed" in resumed
    assert runtime.tick("v1/report", datetime(2026, 3, 30, 5, tzinfo=UTC)) is not None


def test_an_operator_runs_a_schedule_now(runtime: Runtime) -> None:
    client = ConsoleClient.of(runtime, "oli")
    run = path_of(client.text("/e/test/schedules"), "run")

    page = client.follow(client.post(run))

    assert "Run accepted" in page
    assert "v1/report" in page
    assert runtime.work() == 1


def test_what_others_may_not_do_changes_nothing(runtime: Runtime) -> None:
    words = ("user", "create", "pat", "--role", "operator", "--env", "prod")
    runtime.operate(*words, given=PASSWORD)
    pause = path_of(ConsoleClient.of(runtime, "oli").text("/e/test/schedules"), "pause")

    viewer, of_prod = ConsoleClient.of(runtime, "vic"), ConsoleClient.of(runtime, "pat")

    assert viewer.post(pause).status_code == 403
    assert of_prod.post(pause).status_code in {403, 404}
    assert of_prod.get("/e/test/queue").status_code in {403, 404}
    # The schedule of one environment is not that of another.
    assert of_prod.post(pause.replace("/test/", "/prod/")).status_code == 404
    assert runtime.tick("v1/report", datetime(2026, 3, 29, 5, tzinfo=UTC)) is not None


def test_the_queue_shows_what_waits_and_that_no_worker_is_alive(runtime: Runtime) -> None:
    caller = runtime.client(token=False)
    for _ in range(2):
        caller.post("/v1/jobs/")
    client = ConsoleClient.of(runtime, "vic")

    waiting = client.text("/e/test/queue")
    runtime.work()
    empty = words_of(client.text("/e/test/queue"))

    assert "/e/test/runs?pipeline=v1/jobs&amp;status=accepted" in waiting.replace("%2F", "/")
    assert "No worker is alive in test" in words_of(waiting)
    assert "Fix: start one" not in empty


def test_an_environment_of_no_schedules_says_what_to_do(console_runtime: Make) -> None:
    jobs = Pipeline("jobs", version="1.0.0", trigger=HttpTrigger(api_key=True))
    jobs.get("/")(lambda call: None)

    @hookimpl
    def penstock_pipelines() -> list[Pipeline]:
        return [jobs]

    plugin = SimpleNamespace(__name__="jobs", penstock_pipelines=penstock_pipelines)
    client = ConsoleClient.of(console_runtime(plugin, policy="api-key"), "vic")

    assert "No pipeline has a schedule" in client.text("/e/test/schedules")
    assert "No pipeline has durable runs" in client.text("/e/test/queue")
