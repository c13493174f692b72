"""Steps of handlers: retries, time limits, side by side, pauses, other pipelines; what is
recorded of them, inline and durable alike."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator
from datetime import datetime, timedelta, timezone
from decimal import Decimal
from enum import Enum
from fractions import Fraction
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import pytest

from penstock import (
    Call,
    Durable,
    HttpTrigger,
    Pipeline,
    PipelineCallError,
    PipelineError,
    Reply,
    Retry,
    Schedule,
    Step,
    StepTimedOut,
    call_pipeline,
    gather,
    hookimpl,
    sleep,
    step,
)
from penstock.db.failures import DatabaseUnavailable
from penstock.errors import DeadlineExceeded
from penstock.runs.interrupts import EngineUnavailable, RunReleased
from penstock.runs.steps import side_by_side
from penstock.testing import RunRecord, Runtime, a_call

Start = Callable[..., Runtime]
QUICK = Retry(attempts=3, backoff=0.001)


def offering(*pipelines: Pipeline) -> SimpleNamespace:
    @hookimpl
    def penstock_pipelines() -> list[Pipeline]:
        return list(pipelines)

    return SimpleNamespace(__name__="example", penstock_pipelines=penstock_pipelines)


def pipeline_with(
    handler: Callable[..., Any], *, mode: str = "inline", name: str = "example", **more: Any
) -> Pipeline:
    pipeline = Pipeline(name, version="1.0.0", **{"trigger": HttpTrigger(api_key=True), **more})
    pipeline.post("/", mode=mode)(handler)
    return pipeline


@pytest.fixture(params=["inline", "durable"])
def outcome_of(
    request: pytest.FixtureRequest, penstock_runtime: Start
) -> Callable[..., tuple[Any, dict[str, Any]]]:
    """Run a handler once, inline or durable, and return what it replied and its record."""

    def run(
        handler: Callable[..., Any], *others: Pipeline, **more: Any
    ) -> tuple[Any, dict[str, Any]]:
        runtime = penstock_runtime(
            offering(pipeline_with(handler, mode=request.param, **more), *others), policy="api-key"
        )
        answered = runtime.client(token=False).post("/v1/example/")
        runtime.work()
        record = next(
            item
            for item in runtime.runs()
            if item["pipeline"] == "v1/example" and item["parent"] is None
        )
        if request.param == "inline":
            return answered.json, record
        assert answered.status_code == 202
        looked_up = runtime.client(token=False).get(answered.headers["Location"]).json or {}
        return looked_up.get("result", looked_up.get("problem")), record

    return run


def test_a_step_that_fails_is_tried_again_and_each_attempt_is_recorded(
    outcome_of: Callable[..., Any],
) -> None:
    tried: list[str] = []

    @step(retry=QUICK)
    def price(sku: str) -> Decimal:
        tried.append(sku)
        if len(tried) < 3:
            raise ConnectionError("supplier away")
        return Decimal("1.25")

    def handler(call: Call) -> dict[str, str]:
        return {"price": str(price("PEN-01") * 2)}

    reply, record = outcome_of(handler)

    assert reply == {"price": "2.50"}
    (done,) = record["steps"]
    assert (done.name, done.failed, [attempt.error for attempt in done.attempts]) == (
        "price",
        False,
        ["ConnectionError: supplier away", "ConnectionError: supplier away", ""],
    )


def test_what_no_retry_can_help_is_tried_once(outcome_of: Callable[..., Any]) -> None:
    tried: list[str] = []

    @step(retry=Retry(attempts=5, backoff=0.001, on=(ConnectionError, PipelineError)))
    def fail(how: str) -> None:
        tried.append(how)
        if how == "other":
            raise KeyError(how)
        raise PipelineError(
            503 if how == "permanent" else 422,
            "No",
            "never",
            permanent=True if how == "permanent" else None,
        )

    def handler(call: Call) -> dict[str, int]:
        for how in ("other", "permanent", "refused"):
            with pytest.raises((KeyError, PipelineError)):
                fail(how)
        return {"tried": len(tried)}

    reply, _ = outcome_of(handler)

    assert reply == {"tried": 3}


def test_a_failure_that_may_pass_is_tried_as_often_as_it_says(
    outcome_of: Callable[..., Any],
) -> None:
    tried: list[int] = []

    @step(retry=Retry(attempts=4, backoff=0.001))
    def fail() -> None:
        tried.append(1)
        raise PipelineError(503, "Busy", "later")

    def handler(call: Call) -> None:
        fail()

    reply, record = outcome_of(handler)

    assert len(tried) == 4
    assert (reply["status"], record["status"], record["problem"]) == (
        503,
        "failed",
        "pipeline-failed",
    )


class Odd(Exception):
    def __init__(self, code: int, lock: object) -> None:
        super().__init__(f"odd {code}")
        self.code = code
        self.lock = lock


class Bare(BaseException):
    """No Exception, as those of gevent, asyncio and trio."""


HOSTILE: dict[str, Callable[[], BaseException]] = {
    "surrogate": lambda: ValueError("bad \ud800"),
    "refusal": lambda: PipelineError(422, "Nope", "bad \ud800", note="\udfff", n=2**80, o=object()),
    "big": lambda: ValueError(2**80),
    "lock": lambda: Odd(42, threading.Lock()),
    "bare": lambda: Bare("\ud800"),
    "exit": lambda: SystemExit(3),
    "interrupt": KeyboardInterrupt,
}


@pytest.mark.parametrize("kind", HOSTILE)
def test_any_exception_of_a_step_ends_its_run_and_is_recorded(
    outcome_of: Callable[..., Any], kind: str
) -> None:
    @step()
    def boom() -> None:
        error = HOSTILE[kind]()
        raise error

    answered, record = outcome_of(lambda call: boom())

    expected = ("client_error", 422) if kind == "refusal" else ("failed", 500)
    assert (record["status"], record["http_status"]) == expected
    assert answered["status"] == expected[1]
    assert [(item.failed, item.attempts[0].error != "") for item in record["steps"]] == [
        (True, True)
    ]


@pytest.mark.parametrize("kind", HOSTILE)
def test_any_exception_of_a_handler_ends_its_run_and_is_recorded(
    outcome_of: Callable[..., Any], kind: str
) -> None:
    def handler(call: Call) -> None:
        error = HOSTILE[kind]()
        raise error

    answered, record = outcome_of(handler)

    assert (record["status"], answered["status"]) == (
        ("client_error", 422) if kind == "refusal" else ("failed", 500)
    )
    if kind == "refusal":
        assert (answered["detail"], record["detail"]) == ("bad \N{REPLACEMENT CHARACTER}",) * 2


def test_a_handler_catches_what_its_step_raised_with_what_is_plain_of_it(
    outcome_of: Callable[..., Any],
) -> None:
    @step()
    def boom(kind: str) -> None:
        if kind == "odd":
            raise Odd(42, threading.Lock())
        if kind == "file":
            raise FileNotFoundError(2, "No such file", "/x")
        if kind == "text":
            b"\xff".decode()

    def handler(call: Call) -> list[object]:
        seen: list[object] = []
        try:
            boom("odd")
        except Odd as error:
            seen += [error.code, str(error)]
        try:
            boom("file")
        except FileNotFoundError as error:
            seen += [error.errno, error.filename]
        try:
            boom("text")
        except UnicodeDecodeError as error:
            seen.append(str(error))
        return seen

    assert outcome_of(handler)[0] == [
        42,
        "odd 42",
        2,
        "/x",
        "'utf-8' codec can't decode byte 0xff in position 0: invalid start byte",
    ]


def test_a_handler_catches_a_group_of_what_its_step_raised(outcome_of: Callable[..., Any]) -> None:
    @step()
    def boom() -> None:
        raise ExceptionGroup("both", [ValueError("a"), Odd(7, None)])

    def handler(call: Call) -> dict[str, object]:
        seen: dict[str, object] = {}
        try:
            boom()
        except* Odd as group:
            seen["odd"] = [error.code for error in group.exceptions if isinstance(error, Odd)]
        except* ValueError as group:
            seen["value"] = [str(error) for error in group.exceptions]
        return seen

    assert outcome_of(handler)[0] == {"odd": [7], "value": ["a"]}


class Grade(Enum):
    PAIR = (1, 2)


ODD: dict[str, object] = {
    "nan": [float("inf"), {"x": float("-inf")}],
    "half of a character": "a\ud800b",
    "keys": {True: 1, None: 2, (1, "\ud800"): 3, 4: 5},
    "big": [2**80, -(2**90)],
    "numbers": [Decimal("1.10"), Fraction(1, 3)],
    "bytes": {"b": b"\xff"},
    "sets": [{1, 2}, frozenset({(1, 2)})],
    "moments": [
        datetime(2026, 1, 2, tzinfo=timezone(timedelta(hours=5, seconds=7))),
        timedelta(-1, 2),
    ],
    "enum": {"grade": Grade.PAIR},
    "path": Path("/a/\udcff"),
}


def test_a_handler_gets_the_result_of_its_step_of_any_type(
    outcome_of: Callable[..., Any],
) -> None:
    @step()
    def odd(name: str) -> Any:
        return ODD[name]

    @step()
    def mean() -> float:
        return float("nan")

    @step()
    def means() -> list[float]:
        return [float("nan"), 1]

    def handler(call: Call) -> dict[str, object]:
        return {
            "same": [name for name in ODD if odd(name) == ODD[name]],
            "mean": repr(mean()),
            "means": repr(means()),
        }

    reply, record = outcome_of(handler)

    assert record["status"] == "succeeded"
    assert (reply["same"], reply["mean"]) == (list(ODD), "nan")
    assert reply["means"].startswith("[nan, 1")


def test_a_reply_and_what_another_pipeline_gets_are_the_nearest_that_json_can_hold(
    outcome_of: Callable[..., Any],
) -> None:
    sent = {
        "nan": float("nan"),
        "text": "\ud800",
        True: 1,
        None: 2,
        (1, 2): 3,
        "big": 2**80,
        "set": {1},
    }

    def inner(call: Call, body: dict[str, object]) -> dict[str, object]:
        return body

    def handler(call: Call) -> object:
        return {"own": sent, "inner": call_pipeline("inner", sent)}

    reply, record = outcome_of(
        handler, pipeline_with(inner, name="inner", trigger=HttpTrigger(external=False))
    )

    assert record["status"] == "succeeded"
    assert reply["own"] == reply["inner"]
    assert reply["own"] == {
        "nan": None,
        "text": "\ufffd",
        "true": 1,
        "null": 2,
        "(1, 2)": 3,
        "big": 2**80,
        "set": [1],
    }


def test_a_text_of_half_characters_is_replied_as_whole_ones(
    outcome_of: Callable[..., Any], penstock_runtime: Start
) -> None:
    runtime = penstock_runtime(offering(pipeline_with(lambda call: "a\ud800\0b")), policy="api-key")

    assert runtime.client(token=False).post("/v1/example/").data == "a\ufffd\0b".encode()
    assert outcome_of(lambda call: {"text": "\ud800"})[0] == {"text": "\ufffd"}


@pytest.mark.parametrize(
    ("kind", "says"),
    [("lock", "is nothing to reply with"), ("text", "does not fit its annotation int")],
)
def test_a_result_that_can_not_be_kept_is_a_failure_of_its_step(
    penstock_runtime: Start, kind: str, says: str
) -> None:
    done: list[str] = []

    @step()
    def odd() -> Any:
        done.append("lock")
        return threading.Lock()

    @step()
    def number() -> int:
        done.append("text")
        return "no number"  # type: ignore[return-value]  # as a developer may write it

    def handler(call: Call) -> None:
        {"lock": odd, "text": number}[kind]()

    runtime = penstock_runtime(offering(pipeline_with(handler, mode="durable")), policy="api-key")
    runtime.client(token=False).post("/v1/example/")
    runtime.work()
    (run,) = runtime.runs()

    (failed,) = run["steps"]
    assert (run["status"], failed.failed, done) == ("failed", True, [kind])
    assert says in failed.attempts[-1].error


def test_progress_is_numbers_and_a_note_of_whole_characters(outcome_of: Callable[..., Any]) -> None:
    def handler(call: Call) -> str:
        with pytest.raises(TypeError, match="takes numbers"):
            call.progress("abc")  # type: ignore[arg-type]
        with pytest.raises(TypeError, match="takes numbers"):
            call.progress(float("nan"))
        call.progress(Decimal("1.5"), 3, "half \ud800 pk_test_ABCDEFGHIJKLMNOPQRSTUV")  # type: ignore[arg-type]
        return "done"

    answered, record = outcome_of(handler)

    assert answered == "done" or record["status"] == "succeeded"
    assert record.get("progress") in (
        None,
        {"done": 1.5, "of": 3, "note": "half \N{REPLACEMENT CHARACTER} ***"},
    )


def test_a_durable_run_does_not_wait_longer_than_it_has(penstock_runtime: Start) -> None:
    def handler(call: Call) -> None:
        sleep(100)

    runtime = penstock_runtime(
        offering(pipeline_with(handler, mode="durable", durable=Durable(timeout=3))),
        policy="api-key",
    )
    runtime.client(token=False).post("/v1/example/")
    runtime.work()

    assert [run["status"] for run in runtime.runs()] == ["timed_out"]


def test_a_stuck_step_ends_at_its_own_time_limit(outcome_of: Callable[..., Any]) -> None:
    released = threading.Event()

    @step(timeout=0.1)
    def stuck() -> None:
        released.wait(20)

    def handler(call: Call) -> dict[str, str]:
        try:
            stuck()
        except StepTimedOut as error:
            return {"late": str(error)}
        return {}

    began = time.monotonic()
    reply, record = outcome_of(handler)
    took = time.monotonic() - began
    released.set()

    assert reply == {"late": "stuck took longer than 0.1 seconds"}
    assert took < 15
    assert record["steps"][0].failed


def test_a_step_has_no_more_time_than_its_call(penstock_runtime: Start) -> None:
    ended: list[float] = []

    @step(timeout=60)
    def stuck() -> None:
        time.sleep(8)

    def handler(call: Call) -> None:
        try:
            stuck()
        finally:
            ended.append(time.monotonic())

    runtime = penstock_runtime(
        offering(pipeline_with(handler, trigger=HttpTrigger(api_key=True, timeout=0.3))),
        policy="api-key",
    )
    began = time.monotonic()

    answered = runtime.client(token=False).post("/v1/example/")

    assert (answered.status_code, (answered.json or {})["type"]) == (504, "timed-out")
    for _ in range(50):
        if ended:
            break
        time.sleep(0.1)
    assert ended[0] - began < 6


def test_a_run_that_can_not_be_begun_while_the_database_is_away_is_not_over(
    penstock_runtime: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    runtime = penstock_runtime(
        offering(pipeline_with(lambda call: "done", mode="durable")), policy="api-key"
    )
    location = runtime.client(token=False).post("/v1/example/").headers["Location"]

    def away(run: str) -> None:
        raise DatabaseUnavailable("made up")

    with monkeypatch.context() as patch:
        patch.setattr(runtime._worker._performer, "_find", away)  # noqa: SLF001  a fault that nothing else brings about at that moment
        with pytest.raises(EngineUnavailable):
            runtime.work()
    runtime._runs.requeue(location.rpartition("/")[2], "", "")  # noqa: SLF001  as a worker gives back what it could not begin
    runtime.work()

    assert (runtime.client(token=False).get(location).json or {})["result"] == "done"


def test_a_call_whose_time_is_up_begins_no_attempt_step_or_run_any_more(
    penstock_runtime: Start,
) -> None:
    done: list[str] = []
    over = threading.Event()

    @step(retry=Retry(attempts=1000, backoff=0.05, jitter=False, longest=0.05))
    def again() -> None:
        done.append("again")
        raise ConnectionError

    @step()
    def more() -> None:
        done.append("more")

    def handler(call: Call) -> None:
        try:
            for work in (
                again,
                more,
                partial(gather, partial(more)),
                partial(call_pipeline, "later", wait=False),
            ):
                with pytest.raises((PipelineError, ConnectionError, DeadlineExceeded)):
                    work()
                time.sleep(max(0.0, call.remaining()))
            time.sleep(0.2)  # so that the answer is not its own
        finally:
            over.set()

    late = pipeline_with(handler, trigger=HttpTrigger(api_key=True, timeout=0.4))
    runtime = penstock_runtime(
        offering(late, pipeline_with(lambda call: None, mode="durable", name="later")),
        policy="api-key",
    )

    answered = runtime.client(token=False).post("/v1/example/")
    tried = len(done)
    time.sleep(0.3)

    assert answered.status_code in {500, 504}
    assert over.wait(20)
    assert "more" not in done
    assert len(done) == tried
    assert [run["pipeline"] for run in runtime.runs()] == ["v1/example"]


def test_steps_run_side_by_side_and_come_back_in_order(outcome_of: Callable[..., Any]) -> None:
    together = threading.Barrier(3, timeout=10)

    @step()
    def meet(number: int) -> int:
        together.wait()  # would never pass if they ran one after the other
        return number * 10

    def handler(call: Call) -> list[int]:
        return gather(*(partial(meet, number) for number in range(3)))

    reply, record = outcome_of(handler)

    assert reply == [0, 10, 20]
    assert [done.name for done in record["steps"]] == ["meet"] * 3


def test_of_steps_side_by_side_all_end_and_the_first_failure_is_raised(
    outcome_of: Callable[..., Any],
) -> None:
    done: list[int] = []

    @step()
    def work(number: int) -> int:
        if number in {1, 2}:
            raise ValueError(f"no {number}")
        time.sleep(0.05)
        done.append(number)
        return number

    def handler(call: Call) -> dict[str, object]:
        try:
            gather(*(partial(work, number) for number in range(4)), at_once=2)
        except ValueError as error:
            return {"failed": str(error), "done": sorted(done)}
        return {}

    reply, _ = outcome_of(handler)

    assert reply == {"failed": "no 1", "done": [0, 3]}


def test_where_one_of_steps_side_by_side_is_to_stop_no_further_one_begins() -> None:
    begun: list[int] = []

    def call(number: int) -> None:
        begun.append(number)
        if number == 1:
            raise RunReleased
        raise ValueError(number)

    with pytest.raises(RunReleased):
        side_by_side([partial(call, number) for number in range(4)], 1)

    assert begun == [0, 1]


def test_a_step_within_a_step_is_part_of_it(outcome_of: Callable[..., Any]) -> None:
    @step(retry=QUICK)
    def inner(seen: list[int]) -> int:
        seen.append(1)
        if len(seen) < 2:
            raise ConnectionError
        return len(seen)

    @step()
    def outer() -> int:
        return inner([]) + 1

    def handler(call: Call) -> int:
        return outer()

    reply, record = outcome_of(handler)

    assert reply == 3
    assert [done.name for done in record["steps"]] == ["outer"]


def test_a_pipeline_starts_an_internal_one_and_waits_for_it(outcome_of: Callable[..., Any]) -> None:
    @step()
    def double(number: int) -> int:
        return number * 2

    def inner(call: Call, body: dict[str, int]) -> dict[str, object]:
        return {"doubled": double(body["number"]), "for": call.caller.consumer}

    def handler(call: Call) -> object:
        return call_pipeline("inner", {"number": 4})

    reply, record = outcome_of(
        handler, pipeline_with(inner, name="inner", trigger=HttpTrigger(external=False))
    )

    assert reply == {"doubled": 8, "for": "acme"}
    (child,) = record["children"]
    assert (child["pipeline"], child["status"]) == ("v1/inner", "succeeded")


def test_what_the_other_pipeline_refuses_is_raised_as_it_was(
    outcome_of: Callable[..., Any],
) -> None:
    def inner(call: Call) -> None:
        raise PipelineError(409, "Sold out", "None is left.", type="sold-out", left=0)

    def handler(call: Call) -> dict[str, object]:
        try:
            call_pipeline("inner")
        except PipelineError as error:
            return {"code": error.code, "left": error.extra["left"], "status": error.status}
        return {}

    reply, record = outcome_of(
        handler, pipeline_with(inner, name="inner", trigger=HttpTrigger(external=False))
    )

    assert reply == {"code": "sold-out", "left": 0, "status": 409}
    assert record["children"][0]["status"] == "client_error"


def test_pipelines_that_start_one_another_for_ever_end(outcome_of: Callable[..., Any]) -> None:
    def again(call: Call) -> object:
        return call_pipeline("again")

    def handler(call: Call) -> dict[str, int]:
        try:
            call_pipeline("again")
        except PipelineError as error:
            return {"status": error.status}
        except Exception:  # noqa: BLE001  the innermost is refused, those around it failed
            return {"status": 500}
        return {}

    reply, _ = outcome_of(
        handler, pipeline_with(again, name="again", trigger=HttpTrigger(external=False))
    )

    assert reply == {"status": 500}


def wants_a_number(call: Call, body: dict[str, int]) -> None: ...


def refuses(call: Call) -> None:
    raise PipelineError(
        409, "Sold out", "None is left.", type="sold-out", headers={"Retry-After": "7"}, left=0
    )


def replies(call: Call) -> Reply:
    return Reply(418, {}, {"tea": True})


def fails(call: Call) -> None:
    raise KeyError("of the inner one")


def takes_too_long(call: Call) -> None:
    sleep(0.5)


INNER: dict[str, tuple[Callable[..., Any], int, str]] = {
    "its body": (wants_a_number, 400, "body-malformed"),
    "a refusal": (refuses, 409, "sold-out"),
    "a reply": (replies, 418, "pipeline-failed"),
    "a failure": (fails, 500, "pipeline-failed"),
    "its time": (takes_too_long, 504, "timed-out"),
}


@pytest.mark.parametrize("mode", ["inline", "durable"])
@pytest.mark.parametrize("case", INNER)
class TestWhatAnInnerPipelineRefuses:
    def called(
        self, runtime: Runtime, mode: str, how: str
    ) -> tuple[dict[str, Any], RunRecord, list[RunRecord]]:
        """Call the outer pipeline; return its answer, its record, and those of the runs within."""
        client = runtime.client(token=False)
        answered = client.post(f"/v1/example/?{how}=1")
        runtime.work()
        answer: dict[str, Any] = answered.json or {}
        if mode == "durable":
            answer = (client.get(answered.headers["Location"]).json or {})["problem"]
        outer = next(run for run in runtime.runs() if run["pipeline"] == "v1/example")
        return answer, outer, [run for run in runtime.runs() if run["pipeline"] == "v1/inner"]

    def outer(
        self, penstock_runtime: Start, case: str, mode: str, name: str = "inner"
    ) -> tuple[Runtime, list[PipelineCallError]]:
        caught: list[PipelineCallError] = []

        def handler(call: Call) -> object:
            try:
                return call_pipeline(name)
            except PipelineCallError as error:
                caught.append(error)
                if "own" in call.query:
                    raise PipelineError(error.status, "Mine", error.detail, type="mine") from error
                if "pass" in call.query:
                    raise error.passed_on() from error
                raise

        inner = pipeline_with(
            INNER[case][0], name="inner", trigger=HttpTrigger(external=False, timeout=0.2)
        )
        middle = pipeline_with(
            lambda call: call_pipeline("inner"), name="middle", trigger=HttpTrigger(external=False)
        )
        pipelines = offering(pipeline_with(handler, mode=mode), middle, inner)
        return penstock_runtime(pipelines, policy="api-key", log_format="json"), caught

    @pytest.mark.parametrize("name", ["inner", "middle"])
    def test_is_a_failure_of_the_outer_one_with_the_reason_for_operators(
        self,
        penstock_runtime: Start,
        capfd: pytest.CaptureFixture[str],
        case: str,
        mode: str,
        name: str,
    ) -> None:
        _, status, code = INNER[case]
        runtime, caught = self.outer(penstock_runtime, case, mode, name)

        answer, outer, (within,) = self.called(runtime, mode, "let")

        assert (answer["status"], answer["type"], answer["run"]) == (
            500,
            "pipeline-failed",
            outer["id"],
        )
        assert (outer["status"], outer["http_status"]) == ("failed", 500)
        assert (within["http_status"], within["problem"]) == (
            status,
            code if case != "a reply" else None,
        )
        expected = (status, code) if name == "inner" else (500, "pipeline-failed")
        assert (caught[0].pipeline, caught[0].status, caught[0].code) == (f"v1/{name}", *expected)
        logged = [json.loads(line) for line in capfd.readouterr().err.splitlines()]
        why = next(
            line["exception"]
            for line in logged
            if line["event"] == "pipeline failed" and line["run"] == outer["id"]
        )
        assert f"CalledPipelineFailed: v1/{name} answered {expected[0]} {expected[1]}: " in why

    @pytest.mark.parametrize("how", ["pass", "own"])
    def test_is_the_outer_one_s_answer_where_that_passes_it_on(
        self, penstock_runtime: Start, case: str, mode: str, how: str
    ) -> None:
        _, status, code = INNER[case]
        runtime, _ = self.outer(penstock_runtime, case, mode)

        answer, outer, _ = self.called(runtime, mode, how)

        assert (answer["status"], answer["type"], answer["run"]) == (
            status,
            code if how == "pass" else "mine",
            outer["id"],
        )
        if how == "pass" and case == "a refusal":
            assert (answer["left"], answer["title"], answer["detail"]) == (
                0,
                "Sold out",
                "None is left.",
            )
        if how == "pass" and case == "a reply":
            assert answer["reply"] == {"tea": True}


@pytest.mark.parametrize("mode", ["inline", "durable"])
@pytest.mark.parametrize(
    ("left", "detail"),
    [
        (
            {
                "problem": {
                    "status": 409,
                    "code": "sold-out",
                    "title": "No",
                    "detail": "Out.",
                    "headers": [],
                    "extra": {"a b": 1},
                }
            },
            "409 sold-out: Out.",
        ),
        ({"status": 404, "headers": [], "body": b"{}"}, "404 pipeline-failed: It answered 404."),
        (
            PipelineError(500, "Not ended well", "It was cancelled."),
            "500 pipeline-failed: It was cancelled.",
        ),
    ],
)
def test_what_a_durable_inner_pipeline_refuses_is_a_failure_too(
    penstock_runtime: Start, monkeypatch: pytest.MonkeyPatch, mode: str, left: Any, detail: str
) -> None:
    caught: list[str] = []

    def wait(*_: object) -> Any:
        if isinstance(left, Exception):
            raise left
        return left

    def handler(call: Call) -> object:
        try:
            return call_pipeline("inner")
        except PipelineCallError as error:
            caught.append(str(error))
            raise

    monkeypatch.setattr("penstock.execution.subpipelines.SubpipelineRunner._wait", wait)
    inner = pipeline_with(lambda call: None, mode="durable", name="inner")
    runtime = penstock_runtime(offering(pipeline_with(handler, mode=mode), inner), policy="api-key")
    runtime.client(token=False).post("/v1/example/")
    runtime.work()

    assert caught == [f"v1/inner answered {detail}"]
    assert [run["http_status"] for run in runtime.runs(pipeline="example")] == [500]


@pytest.mark.parametrize("name", ["missing", "refused"])
def test_a_pipeline_that_can_not_be_started_is_not(penstock_runtime: Start, name: str) -> None:
    def handler(call: Call) -> object:
        return call_pipeline(name)

    refused = pipeline_with(lambda call: None, name="refused", trigger=HttpTrigger())
    runtime = penstock_runtime(offering(pipeline_with(handler), refused), policy="api-key")

    answered = runtime.client(token=False).post("/v1/example/")

    assert (answered.status_code, (answered.json or {})["type"]) == {
        "missing": (500, "pipeline-failed"),
        "refused": (503, "pipeline-unavailable"),
    }[name]
    assert "refused" not in answered.text


def test_a_disabled_internal_pipeline_is_not_started(penstock_runtime: Start) -> None:
    def handler(call: Call) -> object:
        return call_pipeline("inner")

    inner = pipeline_with(
        lambda call: {"in": True}, name="inner", trigger=HttpTrigger(external=False)
    )
    runtime = penstock_runtime(offering(pipeline_with(handler), inner), policy="api-key")
    client = runtime.client(token=False)

    before = client.post("/v1/example/").status_code
    runtime.operate("pipeline", "disable", "inner", "--env", "test")

    assert (before, client.post("/v1/example/").status_code) == (200, 503)


def test_a_durable_pipeline_can_be_left_alone_and_any_other_not(penstock_runtime: Start) -> None:
    def handler(call: Call, body: dict[str, str]) -> object:
        return {"run": call_pipeline(body["name"], {"n": 1}, wait=False)}

    seen: list[dict[str, int]] = []

    def later(call: Call, body: dict[str, int]) -> None:
        seen.append(body)

    others = (pipeline_with(later, mode="durable", name="later"), pipeline_with(later, name="now"))
    runtime = penstock_runtime(offering(pipeline_with(handler), *others), policy="api-key")
    client = runtime.client(token=False)

    left, refused = (client.post("/v1/example/", json={"name": name}) for name in ("later", "now"))
    runtime.work()

    assert (left.status_code, refused.status_code) == (200, 500)
    assert seen == [{"n": 1}]
    child = next(run for run in runtime.runs() if run["id"] == (left.json or {})["run"])
    assert (child["status"], child["parent"], child["durable"]) == (
        "succeeded",
        left.headers["X-Run-Id"],
        True,
    )


def test_the_http_client_says_for_which_run_it_asks(
    outcome_of: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[httpx.Request] = []

    def answer(request: httpx.Request) -> httpx.Response:
        seen.append(request)
        return httpx.Response(200, json={"ok": True})

    monkeypatch.setattr("penstock.runs.http_client._transport", lambda: httpx.MockTransport(answer))

    def handler(call: Call) -> object:
        call.http.get("http://supplier.test/", timeout=999)
        return call.http.get("http://supplier.test/").json()

    reply, record = outcome_of(handler)

    assert reply == {"ok": True}
    assert [request.headers["x-request-id"] for request in seen] == [record["id"]] * 2
    traces = [request.headers["traceparent"].split("-") for request in seen]
    assert {trace[1] for trace in traces} == {record["id"].replace("-", "")}
    assert len({trace[2] for trace in traces}) == 2
    assert all(0 < request.extensions["timeout"]["read"] <= 86_400 for request in seen)


def test_a_trace_continues(penstock_runtime: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[str] = []
    transport = httpx.MockTransport(
        lambda request: seen.append(request.headers["traceparent"]) or httpx.Response(204)
    )  # type: ignore[func-returns-value]
    monkeypatch.setattr("penstock.runs.http_client._transport", lambda: transport)

    def handler(call: Call) -> None:
        call.http.get("http://supplier.test/")

    runtime = penstock_runtime(offering(pipeline_with(handler)), policy="api-key")
    trace = "4bf92f3577b34da6a3ce929d0e0e4736"

    runtime.client(token=False).post(
        "/v1/example/", headers={"traceparent": f"00-{trace}-00f067aa0ba902b7-00"}
    )
    runtime.client(token=False).post(
        "/v1/example/", headers={"traceparent": f"00-{'0' * 32}-00f067aa0ba902b7-00"}
    )

    assert (seen[0].split("-")[1], seen[0].split("-")[3]) == (trace, "00")
    assert seen[0].split("-")[2] != "00f067aa0ba902b7"
    assert seen[1].split("-")[1] != "0" * 32


def test_a_pause_longer_than_the_call_has_left_is_refused_at_once(penstock_runtime: Start) -> None:
    def handler(call: Call) -> None:
        sleep(600)  # longer than a test may take

    runtime = penstock_runtime(offering(pipeline_with(handler)), policy="api-key")

    answered = runtime.client(token=False).post("/v1/example/")

    assert (answered.status_code, (answered.json or {})["type"]) == (504, "timed-out")
    assert runtime.runs()[0]["status"] == "timed_out"


class TestElsewhere:
    """Outside of a run steps are the functions they were, so that handlers can be tested as
    functions."""

    def test_a_step_is_its_function(self) -> None:
        @step(retry=QUICK)
        def add(first: int, second: int) -> int:
            """Add."""
            return first + second

        def handler(call: Call) -> list[int]:
            return gather(partial(add, 1, 2), partial(add, 3, 4))

        assert isinstance(add, Step)
        assert (add(1, 2), add.__name__, add.__doc__) == (3, "add", "Add.")
        assert handler(a_call()) == [3, 7]

    def test_another_pipeline_can_not_be_started(self) -> None:
        with pytest.raises(RuntimeError, match="there is no run here"):
            call_pipeline("orders")

    @pytest.mark.parametrize(
        ("make", "says"),
        [
            (lambda: Retry(attempts=0), "give a number, 1 or more"),
            (lambda: Retry(backoff=-1), "0 or more"),
            (lambda: Retry(on=("ValueError",)), "give exceptions"),  # type: ignore[arg-type]
            (lambda: step(timeout=0), "seconds above 0"),
            (lambda: step(print), "with parentheses"),  # type: ignore[arg-type]
            (lambda: step()(step()(print)), "plain function"),
            (lambda: step(timeout="5"), "a number of seconds"),  # type: ignore[arg-type]
            (lambda: step(retry=3), "write Retry"),  # type: ignore[arg-type]
            (lambda: step()(_coroutine), "is async"),
            (lambda: step()(_generator), "yields"),
            (lambda: step()(_Holder.method), "is a method"),
            (lambda: gather(lambda: 1), "gather takes steps"),  # type: ignore[arg-type, return-value]
            (lambda: gather(at_once=0), "from 1 to 64"),
        ],
    )
    def test_invalid_declarations_are_reported_where_they_are_written(
        self, make: Callable[[], object], says: str
    ) -> None:
        with pytest.raises((ValueError, TypeError), match=says):
            make()


class TestDeclarations:
    """Invalid declarations of durable runs and schedules block the pipeline, with the fix."""

    @pytest.mark.parametrize(
        ("declare", "says"),
        [
            (lambda: pipeline_with(lambda call: None, mode="later"), "mode='later' is not known"),
            (
                lambda: pipeline_with(lambda call: None, mode="durable", trigger=HttpTrigger()),
                "requires no credential",
            ),
            (
                lambda: pipeline_with(
                    lambda call: None, mode="durable", trigger=HttpTrigger(api_key=True, login=True)
                ),
                "a login flow must answer at once",
            ),
            (
                lambda: pipeline_with(lambda call: None, durable=Durable(concurrency=-1)),
                "is no number of runs",
            ),
            (
                lambda: pipeline_with(lambda call: None, durable=Durable(backlog=0)),
                "is no number of runs",
            ),
            (
                lambda: pipeline_with(lambda call: None, durable=Durable(timeout=0)),
                "is out of bounds",
            ),
            (
                lambda: pipeline_with(lambda call: None, durable=Durable(recoveries=-1)),
                "is no number",
            ),
            (
                lambda: pipeline_with(lambda call: None, record_bodies="some"),
                "record_bodies='some' is not known",
            ),
            (lambda: pipeline_with(lambda call: None, sensitive=["/a~2b"]), "names nothing"),
            (
                lambda: pipeline_with(lambda call: None, trigger=Schedule("61 * * * *")),
                "can't be understood",
            ),
            (
                lambda: pipeline_with(
                    lambda call: None, trigger=Schedule("0 6 * * *", timezone="Europe/Atlantis")
                ),
                "is not known",
            ),
            (
                lambda: pipeline_with(
                    lambda call: None, trigger=Schedule("0 6 * * *", missed="all")
                ),
                "missed='all' is not known",
            ),
            (
                lambda: pipeline_with(
                    lambda call: None, trigger=Schedule("0 6 * * *", path="/other")
                ),
                "has no handler",
            ),
            (
                lambda: pipeline_with(
                    _takes_number, trigger=Schedule("0 6 * * *", body={"n": "x"})
                ),
                "does not fit its handler",
            ),
            (
                lambda: pipeline_with(lambda call: None, trigger=[HttpTrigger(), HttpTrigger()]),
                "it has 2 HttpTriggers",
            ),
            (
                lambda: pipeline_with(lambda call: None, trigger=Schedule("0 0 30 2 *")),
                "never ticks",
            ),
            (
                lambda: pipeline_with(lambda call: None, trigger=Schedule("R * * * *")),
                "is another one in each process",
            ),
            (
                lambda: pipeline_with(lambda call: None, trigger=Schedule("0 R(1-5) * * *")),
                "is another one in each process",
            ),
            (
                lambda: pipeline_with(
                    lambda call: None,
                    trigger=[Schedule("0 6 * * *", body=1), Schedule("0 6 * * *", body=2)],
                ),
                "is declared 2 times",
            ),
            (lambda: pipeline_with(_with_unknown_step()), "its annotation can't be understood"),
        ],
    )
    def test_it_is_refused(
        self, penstock_runtime: Start, declare: Callable[[], Pipeline], says: str
    ) -> None:
        runtime = penstock_runtime(offering(declare()), policy="api-key")

        assert says in " ".join(runtime.problems())
        assert runtime.anonymous().post("/v1/example/").status_code in {404, 503}

    def test_the_paths_of_runs_are_taken(self, penstock_runtime: Start) -> None:
        pipeline = pipeline_with(lambda call: None, mode="durable")
        pipeline.get("/runs/mine")(lambda call: None)

        assert "GET /runs/mine is in the way" in " ".join(
            penstock_runtime(offering(pipeline)).problems()
        )

    def test_an_urgent_run_goes_first(self, penstock_runtime: Start) -> None:
        order: list[str] = []
        pipeline = Pipeline("example", version="1.0.0", trigger=HttpTrigger(api_key=True))
        for name, priority in (("usual", 5), ("urgent", 1), ("idle", 9)):
            pipeline.post(f"/{name}", mode="durable", priority=priority)(
                lambda call: order.append(call.path.rpartition("/")[2])
            )
        runtime = penstock_runtime(offering(pipeline), policy="api-key")
        client = runtime.client(token=False)

        for name in ("idle", "usual", "urgent"):
            client.post(f"/v1/example/{name}")
        runtime.work()

        assert order == ["urgent", "usual", "idle"]


def _takes_number(call: Call, body: dict[str, int]) -> None:
    """Take numbers alone."""


async def _coroutine() -> None:
    """Wait for nothing."""


def _generator() -> Iterator[int]:
    yield 1


class _Holder:
    def method(self) -> None:
        """Do nothing."""


def _with_unknown_step() -> Callable[[Call], object]:
    @step()
    def unknown() -> "NotImported":  # type: ignore[name-defined]  # noqa: F821, UP037  as under TYPE_CHECKING
        """Do nothing."""

    return lambda call: unknown()
