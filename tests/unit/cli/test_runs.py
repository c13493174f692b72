"""Commands on runs: follow with the lines of child runs, and a re-run where its environment is."""

from __future__ import annotations

import time
from collections.abc import Callable
from types import SimpleNamespace

import pytest
import sqlalchemy as sa

from penstock import Call, HttpTrigger, Pipeline, call_pipeline, hookimpl, step
from penstock.access import environments
from penstock.db.engine import writing
from penstock.errors import UsageError
from penstock.testing import Runtime

Start = Callable[..., Runtime]
performed: list[str] = []


@step(label="{sku}")
def pack(sku: str) -> None: ...


def offering() -> SimpleNamespace:
    jobs = Pipeline("jobs", version="1.0.0", trigger=HttpTrigger(api_key=True), record_bodies="all")
    parts = Pipeline("parts", version="1.0.0", trigger=HttpTrigger(api_key=True))

    @jobs.post("/", mode="durable")
    def work(call: Call) -> None:
        call.log.info("parent begins")
        pack("PEN-01")
        call_pipeline("parts", wait=False)

    @jobs.post("/inline")
    def at_once(call: Call) -> None:
        performed.append(call.run)

    @parts.post("/", mode="durable")
    def part(call: Call) -> None:
        call.log.warning("child at work")

    @hookimpl
    def penstock_pipelines() -> list[Pipeline]:
        return [jobs, parts]

    return SimpleNamespace(__name__="jobs", penstock_pipelines=penstock_pipelines)


@pytest.fixture
def runtime(penstock_runtime: Start) -> Runtime:
    performed.clear()
    return penstock_runtime(offering(), policy="api-key")


def call(runtime: Runtime, path: str = "/v1/jobs/") -> str:
    run = runtime.client(token=False).post(path, json={}).headers["X-Run-Id"]
    runtime.work()
    return str(run)


def test_follow_prints_the_steps_and_lines_of_a_run_and_of_those_it_started(
    runtime: Runtime,
) -> None:
    run = call(runtime)

    lines = runtime.operate("runs", "follow", run).splitlines()

    assert lines[-1] == "succeeded"
    assert any("parent begins" in line for line in lines)
    assert any(line.startswith("   1  pack PEN-01") for line in lines)
    assert any(line.startswith("v1/parts  ") and "child at work" in line for line in lines)
    assert sum("child at work" in line for line in lines) == 1


def test_follow_leaves_out_what_is_older(runtime: Runtime) -> None:
    run = call(runtime)
    hour_ago = int((time.time() - 3600) * 1e6)
    with writing(runtime._engine) as connection:  # noqa: SLF001  the kit shows no tables
        connection.execute(
            sa.text("UPDATE run_log_lines SET at = :at WHERE level = 'info'"), {"at": hour_ago}
        )

    recent = runtime.operate("runs", "follow", run, "--since", "10m")
    older = runtime.operate("runs", "follow", run, "--since", "2h")

    assert "child at work" in recent
    assert "parent begins" not in recent
    assert "parent begins" in older


def test_an_inline_run_of_another_environment_is_never_performed_here(runtime: Runtime) -> None:
    run = call(runtime, "/v1/jobs/inline")
    engine = runtime._engine  # noqa: SLF001  the kit has one environment
    environments.create_environment(engine, "tester", "prod", runtime._box)  # noqa: SLF001  the same
    runtime.flush()
    with writing(engine) as connection:
        connection.execute(
            sa.text(
                "UPDATE runs SET environment_id = (SELECT id FROM environments WHERE name = 'prod')"
            )
        )

    with pytest.raises(UsageError, match="was answered at once in prod, and this process is of"):
        runtime.operate("runs", "redeliver", run)
    assert performed == [run]


def test_runs_are_listed_by_a_part_of_the_name_of_their_pipeline(runtime: Runtime) -> None:
    run = call(runtime)

    listed = runtime.operate("runs", "list", "--pipeline", "JOB", "--format", "csv")

    assert [line.split(",")[0] for line in listed.splitlines()] == ["id", run]
    with pytest.raises(Exception, match="did you mean 'jobs'"):
        runtime.operate("runs", "list", "--pipeline", "jbos")
