"""When a run came, began and ended, how long it took and how far it was: the same in replies and
records, and consistent although clocks differ."""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import Any

import pytest
from support.place import Place

from penstock import (
    Call,
    HttpTrigger,
    Pipeline,
    PipelineError,
    Schedule,
    call_pipeline,
    hookimpl,
    step,
)
from penstock.db import durable_runs
from penstock.db import runs as stored
from penstock.db.engine import reading, writing
from penstock.durable.engine import EngineRun, EngineStep, State
from penstock.durable.status import ended_of, run_document, started_of, steps_held
from penstock.runs.ids import derived_run_id, millis_of, new_run_id
from penstock.testing import Runtime
from penstock.worker import performer

Start = Callable[..., Runtime]


@step()
def nap() -> None:
    time.sleep(0.02)


def works(call: Call) -> str:
    call.progress(1, of=2)
    nap()
    call.progress(2, of=2)
    return "done"


def refuses(call: Call) -> None:
    raise PipelineError(409, "No", "Not like this.", type="not-like-this", left=0)


def asks(call: Call) -> object:
    return call_pipeline("inner")


def fails(call: Call) -> None:
    raise ValueError("made up")


@pytest.fixture
def runtime(penstock_runtime: Start) -> Runtime:
    pipelines = [
        Pipeline(
            "durable", version="1.0.0", trigger=[HttpTrigger(api_key=True), Schedule("0 6 * * *")]
        ),
        Pipeline("inline", version="1.0.0", trigger=HttpTrigger(api_key=True)),
        Pipeline("inner", version="1.0.0", trigger=HttpTrigger(external=False)),
    ]
    pipelines[0].post("/", mode="durable")(works)
    for pipeline, mode in zip(pipelines, ("durable", "inline"), strict=False):
        for handler in (refuses, fails, asks):
            pipeline.post(f"/{handler.__name__}", mode=mode)(handler)
    pipelines[2].post("/")(refuses)

    @hookimpl
    def penstock_pipelines() -> list[Pipeline]:
        return pipelines

    return penstock_runtime(
        SimpleNamespace(__name__="example", penstock_pipelines=penstock_pipelines), policy="api-key"
    )


def performed(runtime: Runtime) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:
    """Perform a run; return its document before and after its record is written, and the record."""
    client = runtime.client(token=False)
    location = client.post("/v1/durable/").headers["Location"]
    runtime._runs.work(runtime._worker.perform)  # noqa: SLF001  `work` writes the records too
    at_once = client.get(location).json or {}
    runtime.flush()
    return at_once, client.get(location).json or {}, runtime.runs()[0]


def moment(text: str) -> datetime:
    return datetime.fromisoformat(text)


def test_a_run_is_shown_alike_before_and_after_its_record_is_written(runtime: Runtime) -> None:
    at_once, later, record = performed(runtime)

    assert at_once == later
    assert at_once["progress"] == record["progress"] == {"done": 2, "of": 2, "note": ""}
    assert at_once["accepted_at"] <= at_once["started_at"] < at_once["ended_at"]
    assert abs((record["ended_at"] - moment(at_once["ended_at"])).total_seconds()) < 0.001
    assert record["ms"] == pytest.approx(
        (record["ended_at"] - record["started_at"]) / timedelta(milliseconds=1)
    )


@pytest.mark.parametrize("hours", [-1, 1])
def test_no_run_ends_before_it_starts_or_starts_before_it_was_received_although_clocks_differ(
    runtime: Runtime, monkeypatch: pytest.MonkeyPatch, hours: int
) -> None:
    real = time.time
    monkeypatch.setattr(performer, "clock", SimpleNamespace(now=lambda: real() + hours * 3600))

    at_once, later, record = performed(runtime)

    assert at_once == later
    assert at_once["accepted_at"] <= at_once["started_at"] <= at_once["ended_at"]
    assert record["at"] <= record["started_at"] <= record["ended_at"]
    assert record["ms"] < 60_000


def test_a_run_that_is_cancelled_has_an_end_too(runtime: Runtime) -> None:
    client = runtime.client(token=False)
    location = client.post("/v1/durable/").headers["Location"]

    document = client.delete(location).json or {}
    record = runtime.runs()[0]

    assert document["accepted_at"] <= document["ended_at"]
    assert record["at"] <= record["ended_at"]
    assert (document.get("started_at"), record["started_at"], record["ms"]) == (None, None, None)


def test_the_engine_s_whole_seconds_come_after_what_is_known_better() -> None:
    run = new_run_id()
    came = millis_of(run) / 1000
    row: Any = SimpleNamespace(
        id=run,
        status="running",
        pipeline="v1/x",
        started_at=None,
        micros=None,
        progress=None,
        cancelled_by=None,
        problem=None,
        http_status=None,
    )
    outcome = {
        "status": 200,
        "headers": [],
        "body": b"",
        "micros": 1_500_000,
        "started_at": came + 0.7,
        "steps": [],
    }
    done = EngineRun(
        run,
        State.DONE,
        "q",
        outcome,
        started_at=float(int(came)) - 1,
        ended_at=float(int(came)) - 1,
    )
    cut = EngineRun(
        run, State.CANCELLED, "q", started_at=float(int(came)) - 1, ended_at=float(int(came)) - 1
    )

    documents = [run_document(row, held) for held in (done, cut)]

    assert all(str(document["accepted_at"]) <= str(document["ended_at"]) for document in documents)
    assert abs(
        (ended_of(row, done) or datetime.max.replace(tzinfo=UTC))
        - datetime.fromtimestamp(came + 2.2, UTC)
    ) < timedelta(milliseconds=1)
    assert started_of(
        SimpleNamespace(**vars(row) | {"started_at": datetime.fromtimestamp(came - 5, UTC)}),
        None,
    ) == datetime.fromtimestamp(came, UTC)


def test_the_end_of_a_run_that_was_cut_off_is_counted_from_its_beginning(place: Place) -> None:
    run, began = (
        derived_run_id(int((time.time() - 60) * 1000), place.url),
        datetime.now(UTC) - timedelta(seconds=30),
    )
    with writing(place.engine) as connection:
        durable_runs.accept(
            connection,
            durable_runs.NewRun(
                id=run,
                environment_id=1,
                pipeline="v1/jobs",
                version="1",
                route="POST /",
            ),
            callback_url=None,
        )
        durable_runs.start(connection, [(run, began)])
        durable_runs.finish(
            connection,
            [durable_runs.End(run, "timed_out", 504, ended_at=began + timedelta(seconds=20))],
        )
    with reading(place.engine) as connection:
        row = stored.find(connection, run)

    assert row is not None
    assert (row.started_at, row.micros) == (began, 20_000_000)
    assert ended_of(row, None) == began + timedelta(seconds=20)


def test_the_beginning_is_known_though_its_record_was_lost_with_the_worker(place: Place) -> None:
    run, began = (
        derived_run_id(int((time.time() - 60) * 1000), place.url),
        datetime.now(UTC) - timedelta(seconds=30),
    )
    with writing(place.engine) as connection:
        durable_runs.accept(
            connection,
            durable_runs.NewRun(
                id=run,
                environment_id=1,
                pipeline="v1/jobs",
                version="1",
                route="POST /",
            ),
            callback_url=None,
        )
        durable_runs.finish(
            connection, [durable_runs.End(run, "succeeded", 200, micros=5, started_at=began)]
        )
    with reading(place.engine) as connection:
        row = stored.find(connection, run)

    assert row is not None
    assert (row.started_at, row.micros) == (began, 5)


def test_steps_are_counted_from_when_the_run_first_began_in_whichever_worker() -> None:
    began = 1_700_000_000.0
    record = {
        "name": "first",
        "at": 10.0,
        "ms": 5.0,
        "attempts": [{"at": 10.0, "ms": 5.0, "error": ""}],
    }
    later = {"name": "second", "at": 60_000.0, "ms": 5.0, "attempts": [{"at": 60_000.0, "ms": 5.0}]}
    held = [
        EngineStep(1, "first", {"record": record, "value": b""}, began + 0.01, began + 0.015),
        EngineStep(2, "DBOS.sleep", {"left": began + 40}, began + 30, began + 30.01),
        EngineStep(3, "second", {"record": later, "value": b""}, began + 60, began + 60.005),
    ]

    steps = steps_held(held, datetime.fromtimestamp(began, UTC))

    assert [(step.name, step.at, step.ms) for step in steps] == [
        ("first", 10.0, 5.0),
        ("sleep", 30_000.0, 10_000.0),
        ("second", 60_000.0, 5.0),
    ]


def test_a_pipeline_within_another_counts_its_steps_from_its_own_beginning(
    penstock_runtime: Start,
) -> None:
    outer = Pipeline("outer", version="1.0.0", trigger=HttpTrigger(api_key=True))
    inner = Pipeline("inner", version="1.0.0", trigger=HttpTrigger(external=False))

    @outer.post("/", mode="durable")
    def first(call: Call) -> None:
        nap()
        time.sleep(0.2)
        call_pipeline("inner")

    @inner.post("/")
    def second(call: Call) -> None:
        nap()

    @hookimpl
    def penstock_pipelines() -> list[Pipeline]:
        return [outer, inner]

    runtime = penstock_runtime(
        SimpleNamespace(__name__="example", penstock_pipelines=penstock_pipelines), policy="api-key"
    )
    runtime.client(token=False).post("/v1/outer/")
    runtime.work()
    steps = {run["pipeline"]: run["steps"] for run in runtime.runs()}

    assert [step.at > 200 for step in steps["v1/outer"]] == [False, True]
    assert steps["v1/inner"][0].at < 150


def test_what_is_kept_of_an_answer_has_one_shape(runtime: Runtime) -> None:
    client = runtime.client(token=False)
    for mode in ("inline", "durable"):
        for handler in ("refuses", "fails", "asks"):
            client.post(f"/v1/{mode}/{handler}")
    runtime.work()
    runs = [run for run in runtime.runs() if run["bodies"] is not None]
    outputs = {(run["pipeline"], run["route"], run["id"]): run["bodies"]["output"] for run in runs}

    assert len(outputs) == 8
    for (_, _, run_id), output in outputs.items():
        assert (output["type"], output["json"]["run"]) == ("application/problem+json", run_id)
        assert set(output["json"]) - {"left", "reply"} == {
            "type",
            "title",
            "status",
            "detail",
            "run",
        }
    assert {
        output["json"]["type"]
        for (_, route, _), output in outputs.items()
        if route == "POST /refuses"
    } == {"not-like-this"}


def test_a_schedule_has_no_tick_from_before_it_was_there(runtime: Runtime) -> None:
    before = runtime.operate("schedules", "--env", "test", "--format", "json")
    runtime.tick(
        "v1/durable",
        datetime.now(UTC).replace(hour=6, minute=0, second=0, microsecond=0)
        - timedelta(days=datetime.now(UTC).hour < 6),
    )
    after = runtime.operate("schedules", "--env", "test", "--format", "json")

    assert '"last": null' in before
    assert '"last": "' in after
