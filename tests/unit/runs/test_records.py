"""Records of runs: what becomes of each call, what is never written of it, how long it is
remembered, and who may look it up."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime
from types import SimpleNamespace
from typing import Annotated, Any

import pytest
from support.place import Place

from penstock import (
    Call,
    Durable,
    Form,
    HttpTrigger,
    Pipeline,
    PipelineError,
    Rate,
    Reply,
    Schedule,
    Token,
    hookimpl,
    step,
)
from penstock.contracts.run_status import Status
from penstock.db import call_counts, durable_runs, rejected_calls
from penstock.db import runs as stored
from penstock.db.engine import open_engine, reading, writing
from penstock.db.rejected_calls import RejectedFilter
from penstock.db.runs import RunFilter
from penstock.errors import UnknownName
from penstock.runs import recorder as recorder_module
from penstock.runs.ids import derived_run_id, first_id, is_run_id, millis_of, new_run_id
from penstock.runs.recorder import Recorder
from penstock.runs.records import Finished, Record, RecordedBodies, steps_of
from penstock.runs.redaction import Redactor
from penstock.runs.step_records import Attempt, StepRecord
from penstock.testing import Runtime

Start = Callable[..., Runtime]


def offering(*pipelines: Pipeline) -> SimpleNamespace:
    @hookimpl
    def penstock_pipelines() -> list[Pipeline]:
        return list(pipelines)

    return SimpleNamespace(__name__="example", penstock_pipelines=penstock_pipelines)


def example(name: str = "example", **more: Any) -> Pipeline:
    return Pipeline(name, version="1.2.0", **{"trigger": HttpTrigger(api_key=True), **more})


def answering(body: dict[str, Any]) -> dict[str, Any]:
    if "refuse" in body:
        raise PipelineError(body["refuse"], "No", "Not like this.", type="not-like-this")
    if "raise" in body:
        raise RuntimeError(f"it broke at {body['raise']}")
    return {"took": body}


@pytest.fixture
def runtime(penstock_runtime: Start) -> Runtime:
    pipeline = example(record_bodies="all", sensitive=["card", "/customer/name"])
    pipeline.post("/")(lambda call, body: answering(body))
    pipeline.routes[-1].handler.__annotations__ |= {"call": Call, "body": dict, "return": dict}
    return penstock_runtime(offering(pipeline), policy="api-key")


class TestWhatBecameOfIt:
    @pytest.mark.parametrize(
        ("sent", "http_status", "status", "problem"),
        [
            ({"json": {"a": 1}}, 200, "succeeded", None),
            ({"json": {"refuse": 409}}, 409, "client_error", "not-like-this"),
            ({"json": {"refuse": 503}}, 503, "failed", "not-like-this"),
            ({"json": {"raise": "x"}}, 500, "failed", "pipeline-failed"),
            (
                {"data": b"{", "content_type": "application/json"},
                400,
                "client_error",
                "body-malformed",
            ),
            ({"json": [1]}, 422, "client_error", "body-invalid"),
        ],
    )
    def test_each_call_that_passed_the_gate_has_a_record(
        self,
        runtime: Runtime,
        sent: dict[str, Any],
        http_status: int,
        status: str,
        problem: str | None,
    ) -> None:
        answered = runtime.client(token=False).post(
            "/v1/example/", headers={"X-Request-Id": "order-77f3a1b2"}, **sent
        )
        (run,) = runtime.runs()

        assert answered.status_code == http_status
        assert run["id"] == answered.headers["X-Run-Id"]
        seen = {
            name: run[name]
            for name in (
                "pipeline",
                "version",
                "route",
                "consumer",
                "environment",
                "status",
                "http_status",
                "problem",
                "request_id",
            )
        }
        assert seen == {
            "pipeline": "v1/example",
            "version": "1.2.0",
            "route": "POST /",
            "consumer": "acme",
            "environment": "test",
            "status": status,
            "http_status": http_status,
            "problem": problem,
            "request_id": "order-77f3a1b2",
        }
        assert abs(run["at"].timestamp() - time.time()) < 60
        assert run["ms"] > 0

    def test_a_call_that_runs_out_of_time_is_marked_so_while_its_handler_is_still_busy(
        self, penstock_runtime: Start
    ) -> None:
        pipeline = example(trigger=HttpTrigger(api_key=True, timeout=0.1))
        pipeline.get("/")(lambda call: time.sleep(1))
        runtime = penstock_runtime(offering(pipeline), policy="api-key")

        assert runtime.client(token=False).get("/v1/example/").status_code == 504
        assert [(run["status"], run["problem"]) for run in runtime.runs()] == [
            ("timed_out", "timed-out")
        ]

    def test_a_call_that_the_gate_rejected_is_counted_by_reason_and_has_no_record(
        self, runtime: Runtime, place_of: Callable[[Runtime], Any]
    ) -> None:
        client = runtime.anonymous()

        for _ in range(50):
            client.post("/v1/example/", json={})
            client.post("/v1/example/", json={}, headers={"X-API-Key": "pk_test_wrong"})

        assert runtime.runs() == []
        engine = place_of(runtime)
        with reading(engine) as connection:
            counted = {row.outcome: row.calls for row in call_counts.read(connection, 1, since=0)}
            samples = rejected_calls.page(connection, RejectedFilter(1))
        assert counted == {"credentials-missing": 50, "invalid-api-key": 50}
        assert sorted((row.problem, row.reason) for row in samples) == [
            ("credentials-missing", None),
            ("invalid-api-key", "malformed, mistyped or of another environment"),
        ]

    def test_calls_turned_away_after_the_gate_have_none_either(
        self, penstock_runtime: Start, place_of: Callable[[Runtime], Any]
    ) -> None:
        pipeline = example(trigger=HttpTrigger(api_key=True, rate=Rate("1/hour"), idempotent="key"))
        pipeline.post("/")(lambda call: None)
        runtime = penstock_runtime(offering(pipeline), policy="api-key")
        client = runtime.client(token=False)

        statuses = [client.post("/v1/example/").status_code for _ in range(3)]

        assert (statuses, len(runtime.runs())) == ([204, 429, 429], 1)
        with reading(place_of(runtime)) as connection:
            assert {row.outcome: row.calls for row in call_counts.read(connection, 1, since=0)} == {
                "succeeded": 1,
                "rate-limited": 2,
            }

    def test_a_reply_that_is_given_again_is_no_second_run(self, penstock_runtime: Start) -> None:
        pipeline = example(trigger=HttpTrigger(api_key=True, idempotent="key"))
        pipeline.post("/")(lambda call: {"run": call.run})
        runtime = penstock_runtime(offering(pipeline), policy="api-key")
        client = runtime.client(token=False)

        first, second = (
            client.post("/v1/example/", headers={"Idempotency-Key": "k1"}) for _ in range(2)
        )

        assert first.json == second.json
        assert [run["id"] for run in runtime.runs()] == [first.headers["X-Run-Id"]]


@pytest.fixture
def place_of() -> Callable[[Runtime], Any]:
    """Return the engine of a runtime's database."""

    def engine(runtime: Runtime) -> Any:
        runtime.flush()
        return runtime._engine  # noqa: SLF001  the kit has no door to the database

    return engine


class TestWhatIsNeverWritten:
    def test_sensitive_fields_by_name_at_any_depth_or_by_pointer(self, runtime: Runtime) -> None:
        sent = {
            "card": "4111",
            "customer": {
                "name": "Ann",
                "password": "hunter2",
                "pets": [{"name": "Rex", "CARD": "5500"}],
            },
            "note": "my key is pk_test_0123456789abcdefghijklmnopqr",
        }
        runtime.client(token=False).post("/v1/example/?card=4111&page=2", json=sent)
        (run,) = runtime.runs()

        hidden = {
            "card": "***",
            "customer": {
                "name": "***",
                "password": "***",
                "pets": [{"name": "Rex", "CARD": "***"}],
            },
            "note": "my key is ***",
        }
        assert run["bodies"]["input"]["json"] == hidden
        assert run["bodies"]["input"]["query"] == {"card": "***", "page": ["2"]}
        took = run["bodies"]["output"]["json"]["took"]
        assert (took["card"], took["customer"]["password"]) == ("***", "***")

    def test_what_operators_list_is_hidden_from_then_on(self, runtime: Runtime) -> None:
        client = runtime.client(token=False)
        runtime.operate("sensitive-fields", "add", "iban", "/customer/city", "--env", "test")
        client.post("/v1/example/", json={"IBAN": "PT50", "customer": {"city": "Porto"}})
        runtime.flush()
        runtime.operate("sensitive-fields", "remove", "iban", "--env", "test")
        client.post("/v1/example/", json={"IBAN": "PT50", "customer": {"city": "Porto"}})

        later, earlier = (run["bodies"]["input"]["json"] for run in runtime.runs())
        assert earlier == {"IBAN": "***", "customer": {"city": "***"}}
        assert later == {"IBAN": "PT50", "customer": {"city": "***"}}
        assert "/customer/city" in runtime.operate("sensitive-fields", "list", "--env", "test")

    @pytest.mark.parametrize(
        ("content_type", "body"),
        [
            ("text/plain", b"password: hunter2"),
            ("application/json", b'{"password": "hunter2"'),
            ("application/xml", b"<password>hunter2</password>"),
        ],
    )
    def test_what_has_no_fields_is_not_kept_at_all(
        self, penstock_runtime: Start, content_type: str, body: bytes
    ) -> None:
        pipeline = example(record_bodies="all")

        @pipeline.post("/")
        def take(call: Call, body: bytes) -> str:
            return "hunter2"

        runtime = penstock_runtime(offering(pipeline), policy="api-key")
        runtime.client(token=False).post("/v1/example/", data=body, content_type=content_type)
        (run,) = runtime.runs()

        assert run["bodies"]["input"] == {
            "type": content_type,
            "size": len(body),
            "path": "/v1/example/",
            "query": {},
        }
        assert "hunter2" not in json.dumps(run["bodies"])

    def test_fields_of_forms_are_hidden_too(self, penstock_runtime: Start) -> None:
        pipeline = example(record_bodies="all")

        @pipeline.post("/")
        def take(call: Call, form: Annotated[dict, Form()]) -> None:
            return None

        runtime = penstock_runtime(offering(pipeline), policy="api-key")
        runtime.client(token=False).post(
            "/v1/example/", data={"user": "ann", "password": "hunter2"}
        )

        assert runtime.runs()[0]["bodies"]["input"]["json"] == {"user": "ann", "password": "***"}

    @pytest.mark.parametrize(
        ("declared", "allowed", "recorded"),
        [
            ("none", "all", [False, False]),
            ("failed", "all", [False, True]),
            ("all", "all", [True, True]),
            ("all", "failed", [False, True]),
            ("all", "none", [False, False]),
        ],
    )
    def test_bodies_are_kept_as_the_developer_wants_and_no_more_than_the_operator_lets(
        self, penstock_runtime: Start, declared: str, allowed: str, recorded: list[bool]
    ) -> None:
        pipeline = example(record_bodies=declared)

        @pipeline.post("/")
        def take(call: Call, body: dict) -> dict:
            return answering(body)

        runtime = penstock_runtime(offering(pipeline), policy="api-key")
        runtime.operate("env", "set", "test", "--record-bodies", allowed)
        client = runtime.client(token=False)

        client.post("/v1/example/", json={"a": 1})
        client.post("/v1/example/", json={"refuse": 409})

        runs = sorted(runtime.runs(), key=lambda run: run["http_status"] or 0)
        assert [run["bodies"] is not None for run in runs] == recorded

    def test_bodies_of_a_login_flow_are_not_kept(self, penstock_runtime: Start) -> None:
        login = Pipeline(
            "login",
            version="1.0.0",
            trigger=HttpTrigger(api_key=True, login=True),
            record_bodies="all",
        )

        @login.post("/")
        def sign_in(call: Call, body: dict) -> Token:
            if body["word"] != "right":
                raise PipelineError(401, "Wrong", "Wrong.")
            return call.issue_token(subject="ann")

        runtime = penstock_runtime(offering(login), policy="api-key")
        runtime.designate("login")
        client = runtime.client(token=False)

        statuses = [
            client.post("/v1/login/", json={"word": word}).status_code
            for word in ("right", "hunter2")
        ]

        assert statuses == [200, 401]
        assert [run["bodies"] for run in runtime.runs()] == [None, None]

    def test_bodies_and_what_runs_were_given_are_sealed_at_rest(
        self, penstock_runtime: Start, tmp_path: Any
    ) -> None:
        pipeline = example(record_bodies="all")

        @step()
        def work(word: str) -> str:
            return word * 2

        @pipeline.post("/", mode="durable")
        def take(call: Call, body: dict) -> dict:
            return {"result": work(body["word"])}

        runtime = penstock_runtime(offering(pipeline), policy="api-key")
        runtime.client(token=False).post("/v1/example/", json={"word": "xyzzyplugh"})
        runtime.work()

        assert runtime.runs()[0]["bodies"]["input"]["json"] == {"word": "xyzzyplugh"}
        for path in tmp_path.glob("*.db*"):
            assert b"xyzzyplugh" not in path.read_bytes()

    def test_texts_of_errors_hold_no_keys_and_no_end(self, penstock_runtime: Start) -> None:
        pipeline = example()
        key = "pk_test_0123456789abcdefghijklmnopqr"

        @pipeline.post("/")
        def take(call: Call) -> None:
            raise PipelineError(409, "No", f"{key} \0 {'x' * 5000}", type="t" * 500)

        runtime = penstock_runtime(offering(pipeline), policy="api-key")
        runtime.client(token=False).post("/v1/example/")
        (run,) = runtime.runs()

        assert key not in run["detail"]
        assert (len(run["detail"]), len(run["problem"])) == (2000, 64)


class TestTheRecorder:
    """The writer of records, on both databases."""

    @pytest.fixture
    def recorder(self, place: Place) -> Any:
        recorder = Recorder(
            open_engine(place.url, relaxed=True),
            1,
            place.box,
            lambda pipeline: Redactor.of(pipeline.sensitive),
            lambda: "all",
        )
        yield recorder
        recorder.stop()

    def record(self, **more: Any) -> Record:
        return Record(
            **{
                "run": new_run_id(),
                "pipeline": example(),
                "route": "POST /",
                "http_status": 200,
                "micros": 1500,
                **more,
            }
        )

    def test_what_is_handed_over_is_there_once_however_often_it_is_written(
        self, place: Place, recorder: Recorder
    ) -> None:
        record = self.record()

        for _ in range(3):
            recorder.over(record)
            recorder.flush()

        with reading(place.engine) as connection:
            (row,) = stored.page(connection, RunFilter())
        assert (row.id, row.micros, row.status) == (record.run, 1500, "succeeded")

    @pytest.mark.parametrize("place", ["postgresql"], indirect=True)  # SQLite takes anything
    def test_one_that_the_database_does_not_take_keeps_no_other(
        self, place: Place, recorder: Recorder
    ) -> None:
        bad = self.record(http_status=10**9)
        good = [self.record() for _ in range(3)]

        for record in (good[0], bad, *good[1:]):
            recorder.over(record)
        recorder.flush()

        with reading(place.engine) as connection:
            assert {row.id for row in stored.page(connection, RunFilter())} == {
                record.run for record in good
            }

    def test_one_whose_bodies_can_not_be_made_safe_costs_neither_its_record_nor_its_batch(
        self, place: Place, recorder: Recorder, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def query(self: Redactor, text: str) -> dict[str, object]:
            if text == "bad":
                raise KeyError("***")
            return {}

        monkeypatch.setattr(Redactor, "query", query)
        written: list[int] = []
        write = stored.record
        monkeypatch.setattr(
            stored,
            "record",
            lambda engine, rows, details: written.append(len(rows)) or write(engine, rows, details),
        )
        good, bad = (
            self.record(exchange=RecordedBodies("/v1/example/", text, "", b"", None, "", b""))
            for text in ("good", "bad")
        )

        with recorder._writing:  # noqa: SLF001  so that both are in one batch
            recorder.over(bad)
            recorder.over(good)
        recorder.flush()

        assert written == [2]
        assert [
            self.stored_run(place, record.run).bodies is not None for record in (good, bad)
        ] == [
            True,
            False,
        ]

    def test_records_beyond_the_limit_are_dropped_and_logged(
        self,
        place: Place,
        recorder: Recorder,
        monkeypatch: pytest.MonkeyPatch,
        capsys: pytest.CaptureFixture[str],
    ) -> None:
        monkeypatch.setattr(recorder_module, "MAX_QUEUED_RECORDS", 5)
        with recorder._writing:  # noqa: SLF001  so that nothing is written meanwhile
            for _ in range(8):
                recorder.over(self.record())
        recorder.flush()

        with reading(place.engine) as connection:
            assert len(stored.page(connection, RunFilter())) == 5

    def accepted(self, place: Place) -> str:
        run = new_run_id()
        with writing(place.engine) as connection:
            durable_runs.accept(
                connection,
                durable_runs.NewRun(
                    id=run,
                    environment_id=1,
                    pipeline="v1/example",
                    version="1",
                    route="POST /",
                ),
                callback_url=None,
            )
        return run

    def stored_run(self, place: Place, run: str) -> stored.FullRunRow | None:
        with reading(place.engine) as connection:
            return stored.find(connection, run)

    def test_half_a_character_in_a_step_or_a_refusal_stops_no_record(
        self, place: Place, recorder: Recorder
    ) -> None:
        steps = [StepRecord("boom", 0.0, attempts=[Attempt(0.0, 1.0, "ValueError: \ud800")])]
        bad = self.record(
            steps=steps, http_status=422, problem="no\ud800", detail="bad \ud800 text\0"
        )
        good = self.record()
        durable = [self.accepted(place), self.accepted(place)]

        recorder.over(bad)
        recorder.over(good)
        recorder.ended(
            Finished(durable[0], example(), Status.CLIENT_ERROR, 422, detail="\ud800", steps=steps)
        )
        recorder.ended(Finished(durable[1], example(), Status.SUCCEEDED, 200))
        recorder.flush()

        assert self.stored_run(place, bad.run).detail == "bad \N{REPLACEMENT CHARACTER} text"
        assert (
            "\N{REPLACEMENT CHARACTER}"
            in steps_of(self.stored_run(place, bad.run).steps)[0].attempts[0].error
        )
        assert self.stored_run(place, good.run).status == "succeeded"
        assert [self.stored_run(place, run).status for run in durable] == [
            "client_error",
            "succeeded",
        ]

    def test_an_end_that_is_reported_twice_is_written_and_counted_once(
        self, place: Place, recorder: Recorder
    ) -> None:
        run, steps = self.accepted(place), [StepRecord("work", 0.0)]
        ends = [
            durable_runs.End(run, "succeeded", 200, steps=b"[]"),
            durable_runs.End(run, "failed", 500, steps=b"[]"),
        ]
        with writing(place.engine) as connection:
            written = durable_runs.finish(connection, ends)
        with recorder._writing:  # noqa: SLF001  so that both are in one batch
            other = self.accepted(place)
            recorder.ended(Finished(other, example(), Status.SUCCEEDED, 200, steps=steps))
            recorder.ended(Finished(other, example(), Status.FAILED, 500, steps=steps))
            queued = recorder.knows_end(other)
        recorder.flush()
        recorder.ended(Finished(other, example(), Status.FAILED, 500, steps=steps))
        recorder.flush()

        assert [run.status for run in written] == ["succeeded"]
        assert (queued, recorder.knows_end(other)) == (True, False)
        assert [self.stored_run(place, identifier).status for identifier in (run, other)] == [
            "succeeded",
            "succeeded",
        ]
        with reading(place.engine) as connection:
            assert [
                (row.outcome, row.calls) for row in call_counts.read(connection, 1, since=0)
            ] == [("run:succeeded", 1)]

    def test_what_can_not_be_written_keeps_nothing_else_and_is_counted(
        self, place: Place, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        poison, good = self.accepted(place), self.accepted(place)

        def finish(connection: Any, ends: Any) -> dict[str, str]:
            if any(end.run == poison for end in ends):
                raise ValueError("not this one")
            return recorder_module.finish_runs(connection, ends)

        dropped: list[int] = []
        monkeypatch.setattr(recorder_module.metrics, "count_dropped_records", dropped.append)
        engine = open_engine(place.url, relaxed=True)
        recorder = Recorder(
            engine,
            1,
            place.box,
            lambda pipeline: Redactor.of(pipeline.sensitive),
            lambda: "all",
            finish=finish,
        )
        with recorder._writing:  # noqa: SLF001  so that all are in one batch
            recorder.ended(Finished(poison, example(), Status.SUCCEEDED, 200))
            recorder.ended(Finished(good, example(), Status.SUCCEEDED, 200))
            recorder.live.note_progress(good, {"done": object()})
            recorder.live.note_progress(poison, {"done": 1})
            recorder.rejected(
                "v1/example",
                "key-missing",
                describe=lambda environment: rejected_calls.RejectedCall(
                    new_run_id(), environment, "v1/example", "key-missing", "", None, None
                ),
            )
        recorder.stop()

        assert self.stored_run(place, good).status == "succeeded"
        assert self.stored_run(place, poison).progress == {"done": 1}
        assert sum(dropped) == 2
        with reading(place.engine) as connection:
            assert len(rejected_calls.page(connection, RejectedFilter(1))) == 1

    def test_what_an_error_says_of_sensitive_fields_is_not_written(
        self, place: Place, recorder: Recorder
    ) -> None:
        text = 'ValueError: card_no=4111111111111111, "password": "x y", sum=3'
        record = self.record(
            pipeline=example(sensitive=["card_no"]),
            steps=[StepRecord("pay", 0.0, attempts=[Attempt(0.0, 1.0, text)])],
        )

        recorder.over(record)
        recorder.flush()

        assert (
            steps_of(self.stored_run(place, record.run).steps)[0].attempts[0].error
            == 'ValueError: card_no=***, "password": ***, sum=3'
        )

    def test_pages_continue_from_the_last_id_and_filters_narrow_them(
        self, place: Place, recorder: Recorder
    ) -> None:
        other = example("other")
        for number in range(10):
            pipeline = other if number % 2 else example()
            recorder.over(
                self.record(
                    pipeline=pipeline,
                    http_status=500 if number < 4 else 200,
                    request_id=f"request-{number:04d}",
                )
            )
            time.sleep(0.002)
        recorder.flush()

        with reading(place.engine) as connection:
            everything = [row.id for row in stored.page(connection, RunFilter(1))]
            first = [row.id for row in stored.page(connection, RunFilter(1), limit=4)]
            second = [
                row.id for row in stored.page(connection, RunFilter(1), limit=4, before=first[-1])
            ]
            chosen = RunFilter(1, status="failed", pipelines=["v1/other"])
            failed = stored.page(connection, chosen)
            page = stored.page(connection, RunFilter(request_id="request-0007"))
            since = stored.page(connection, RunFilter(1, since=everything[2]))
        assert everything == sorted(everything, reverse=True)
        assert first + second == everything[:8]
        assert [row.request_id for row in failed] == ["request-0003", "request-0001"]
        assert [row.id for row in page] == [everything[2]]
        assert [row.id for row in since] == everything[:3]

    def test_old_runs_are_forgotten_and_what_is_not_over_stays(
        self, place: Place, recorder: Recorder
    ) -> None:
        old = [
            self.record(run=derived_run_id(1_000_000_000_000 + number, number))
            for number in range(3)
        ]
        fresh = self.record()
        for record in (*old, fresh):
            recorder.over(record)
        recorder.flush()
        with writing(place.engine) as connection:
            waiting = derived_run_id(1_000_000_000_100, "waiting")
            durable_runs.accept(
                connection,
                durable_runs.NewRun(
                    id=waiting,
                    environment_id=1,
                    pipeline="v1/example",
                    version="1",
                    route="POST /",
                ),
                callback_url=None,
            )

        number, durable = stored.purge(place.engine, 1, first_id(time.time() - 60))

        with reading(place.engine) as connection:
            assert {row.id for row in stored.page(connection, RunFilter())} == {fresh.run, waiting}
        assert (number, durable) == (3, {})

    def test_purging_returns_which_runs_had_a_callback(self, place: Place) -> None:
        runs = [derived_run_id(1_000_000_000_000 + number, number) for number in range(2)]
        for run, url in zip(runs, (None, "https://erp.acme.example/"), strict=True):
            with writing(place.engine) as connection:
                durable_runs.accept(
                    connection,
                    durable_runs.NewRun(
                        id=run,
                        environment_id=1,
                        pipeline="v1/example",
                        version="1",
                        route="POST /",
                    ),
                    callback_url=url,
                )
                durable_runs.finish(connection, [durable_runs.End(run, "succeeded", 200)])

        assert stored.purge(place.engine, 1, first_id(time.time())) == (
            2,
            {runs[0]: False, runs[1]: True},
        )

    def test_counting_near_the_backlog_waits_for_runs_that_are_being_accepted(
        self, place: Place
    ) -> None:
        counted: list[int] = []

        def ask() -> None:
            with writing(place.engine) as connection:
                counted.append(durable_runs.count_waiting(connection, 1, "v1/example", 1))

        other = threading.Thread(target=ask)
        with writing(place.engine) as connection:
            assert durable_runs.count_waiting(connection, 1, "v1/example", 1) == 0
            durable_runs.accept(
                connection,
                durable_runs.NewRun(
                    id=new_run_id(),
                    environment_id=1,
                    pipeline="v1/example",
                    version="1",
                    route="POST /",
                ),
                callback_url=None,
            )
            other.start()
            other.join(1)
        other.join()

        assert counted == [1]

    def test_counts_of_minutes_become_counts_of_hours_without_being_lost(
        self, place: Place
    ) -> None:
        now = 1_800_000_000
        for minute in range(0, 4 * 3600, 60):
            row = {
                "environment_id": 1,
                "span": 60,
                "since": now - 4 * 3600 + minute,
                "pipeline": "v1/x",
                "outcome": "succeeded",
                "process": "p",
            }
            call_counts.write(
                place.engine, [call_counts.CallCount(**row, calls=2, micros=10, buckets=[1, 1])]
            )

        call_counts.roll_up(place.engine, 1, now)
        call_counts.roll_up(place.engine, 1, now)

        with reading(place.engine) as connection:
            rows = call_counts.read(connection, 1, since=0)
        assert sum(row.calls for row in rows) == 480
        assert sum(row.buckets[1] for row in rows) == 240
        assert {row.span for row in rows} == {60, 3600}
        assert all(row.since >= now - 3 * 3600 for row in rows if row.span == 60)


class TestRunIds:
    def test_they_sort_by_time_and_say_it(self) -> None:
        ids = [new_run_id() for _ in range(3)]

        assert abs(millis_of(ids[0]) / 1000 - time.time()) < 5
        assert all(is_run_id(run) for run in ids)
        assert first_id(time.time() - 1) < ids[0] < first_id(time.time() + 1)

    def test_what_is_derived_of_the_same_is_the_same(self) -> None:
        first = derived_run_id(1_700_000_000_123, "a", 1)

        assert (
            first
            == derived_run_id(1_700_000_000_123, "a", 1)
            != derived_run_id(1_700_000_000_123, "a", 2)
        )
        assert (is_run_id(first), millis_of(first)) == (True, 1_700_000_000_123)

    @pytest.mark.parametrize(
        "text",
        [
            "",
            "x",
            "01a21018-5b8a-4d64-af57-95554e2e5469",
            "01A21018-5B8A-7D64-AF57-95554E2E5469",
            "' OR 1=1",
        ],
    )
    def test_anything_else_is_none(self, text: str) -> None:
        assert not is_run_id(text)


@pytest.fixture
def durable(penstock_runtime: Start) -> Runtime:
    """A runtime with a durable pipeline that has room for three runs to wait."""
    pipeline = example(
        trigger=HttpTrigger(api_key=True, idempotent="key"),
        durable=Durable(backlog=3),
        record_bodies="all",
    )

    @pipeline.post("/", mode="durable")
    def take(call: Call, body: dict, *, page: int = 1) -> Reply:
        call.progress(1, of=2, note="half")
        return Reply(
            201,
            {"X-Made": "yes"},
            answering(body)
            | {
                "page": page,
                "key": call.headers.get("x-api-key"),
                "kept": call.headers["x-kept"],
            },
        )

    @pipeline.post("/text", mode="durable")
    def text(call: Call, body: str) -> str:
        return body.upper()

    return penstock_runtime(offering(pipeline), policy="api-key")


class TestDurableRuns:
    def test_it_is_accepted_performed_and_looked_up(self, durable: Runtime) -> None:
        client = durable.client(token=False)
        accepted = client.post("/v1/example/?page=7", json={"a": 1}, headers={"X-Kept": "kept"})
        waiting = client.get(accepted.headers["Location"])
        durable.work()
        over = client.get(accepted.headers["Location"])

        run = accepted.headers["X-Run-Id"]
        assert (accepted.status_code, accepted.json, accepted.headers["Retry-After"]) == (
            202,
            {"id": run, "status": "accepted", "pipeline": "v1/example"},
            "1",
        )
        assert accepted.headers["Location"] == f"/v1/example/runs/{run}"
        assert (
            waiting.status_code,
            (waiting.json or {})["status"],
            waiting.headers["Retry-After"],
        ) == (200, "accepted", "1")
        document = over.json or {}
        assert document["result"] == {"took": {"a": 1}, "page": 7, "key": None, "kept": "kept"}
        assert (document["status"], document["progress"]) == (
            "succeeded",
            {"done": 1, "of": 2, "note": "half"},
        )
        assert document["accepted_at"] <= document["started_at"] <= document["ended_at"]
        assert "Retry-After" not in over.headers
        (record,) = durable.runs()
        assert (
            record["status"],
            record["http_status"],
            record["durable"],
            record["bodies"]["input"]["json"],
        ) == ("succeeded", 201, True, {"a": 1})

    def test_all_faults_are_reported_at_once(self, durable: Runtime) -> None:
        client = durable.client(token=False)
        malformed, unfit, wrong = (
            client.post("/v1/example/", data=b"{", content_type="application/json"),
            client.post("/v1/example/", json=[]),
            client.post("/v1/example/?page=x", json={}),
        )

        assert [answered.status_code for answered in (malformed, unfit, wrong)] == [400, 422, 422]
        assert durable.work() == 0

    @pytest.mark.parametrize(
        ("body", "status", "problem"),
        [
            ({"refuse": 409}, "client_error", ("not-like-this", 409)),
            ({"raise": "x"}, "failed", ("pipeline-failed", 500)),
        ],
    )
    def test_a_failure_is_shown_as_a_problem(
        self, durable: Runtime, body: dict[str, Any], status: str, problem: tuple[str, int]
    ) -> None:
        client = durable.client(token=False)
        accepted = client.post("/v1/example/", json=body, headers={"X-Kept": ""})
        durable.work()
        document = client.get(accepted.headers["Location"]).json or {}

        assert (
            document["status"],
            (document["problem"]["type"], document["problem"]["status"]),
        ) == (status, problem)
        assert document["problem"]["run"] == accepted.headers["X-Run-Id"]
        assert "it broke" not in json.dumps(document)

    def test_text_comes_back_as_text(self, durable: Runtime) -> None:
        client = durable.client(token=False)
        accepted = client.post(
            "/v1/example/text", data="olá", content_type="text/plain; charset=utf-8"
        )
        durable.work()

        assert (client.get(accepted.headers["Location"]).json or {})["result"] == "OLÁ"

    def test_it_is_its_consumer_s_alone(self, durable: Runtime) -> None:
        mine, other = durable.client("acme", token=False), durable.client("bolt", token=False)
        location = mine.post("/v1/example/", json={}, headers={"X-Kept": ""}).headers["Location"]

        answers = [
            (client.get(location).status_code, client.delete(location).status_code)
            for client in (other, durable.anonymous())
        ]
        made_up = [
            other.get(f"/v1/example/runs/{run}").status_code for run in (new_run_id(), "x", "%27")
        ]

        assert (answers, made_up) == ([(404, 404), (401, 401)], [404, 404, 404])
        assert (mine.get(location).json or {})["status"] == "accepted"

    def test_one_that_waits_is_cancelled_and_never_begins(self, durable: Runtime) -> None:
        client = durable.client(token=False)
        location = client.post("/v1/example/", json={}, headers={"X-Kept": ""}).headers["Location"]

        cancelled = client.delete(location)
        again = client.delete(location)
        performed = durable.work()

        assert (
            cancelled.status_code,
            (cancelled.json or {})["status"],
            (again.json or {})["status"],
            performed,
        ) == (
            200,
            "cancelled",
            "cancelled",
            0,
        )
        assert [(run["status"], run["cancelled_by"]) for run in durable.runs()] == [
            ("cancelled", "consumer acme")
        ]

    def test_too_many_that_wait_are_turned_away(self, durable: Runtime) -> None:
        client = durable.client(token=False)
        answers = [client.post("/v1/example/", json={}, headers={"X-Kept": ""}) for _ in range(5)]
        durable.work()
        later = client.post("/v1/example/", json={}, headers={"X-Kept": ""})

        assert [answered.status_code for answered in answers] == [202, 202, 202, 503, 503]
        assert ((answers[4].json or {})["type"], answers[4].headers["Retry-After"]) == (
            "pipeline-busy",
            "10",
        )
        assert later.status_code == 202

    def test_a_repeat_with_its_key_is_the_same_run(self, durable: Runtime) -> None:
        client = durable.client(token=False)

        def call(body: dict[str, Any], key: str) -> Any:
            return client.post(
                "/v1/example/", json=body, headers={"Idempotency-Key": key, "X-Kept": ""}
            )

        first, repeat, reused = call({"a": 1}, "k1"), call({"a": 1}, "k1"), call({"a": 2}, "k1")

        assert (first.status_code, repeat.status_code, reused.status_code) == (202, 202, 422)
        assert (
            repeat.json,
            repeat.headers["Location"],
            repeat.headers["Idempotency-Replayed"],
        ) == (first.json, first.headers["Location"], "true")
        assert durable.work() == 1

    def test_it_is_started_again_with_what_it_was_given(self, durable: Runtime) -> None:
        client = durable.client(token=False)
        run = client.post("/v1/example/", json={"refuse": 409}, headers={"X-Kept": ""}).headers[
            "X-Run-Id"
        ]
        durable.work()

        output = durable.operate("runs", "redeliver", run)
        durable.work()
        again, first = durable.runs()

        assert output.startswith(f"run {again['id']} accepted")
        assert (again["redelivers"], again["status"], again["consumer"]) == (
            first["id"],
            "client_error",
            "acme",
        )

    def test_a_tick_makes_one_run_however_many_notice_it(self, penstock_runtime: Start) -> None:
        report = Pipeline(
            "report",
            version="1.0.0",
            trigger=Schedule("0 6 * * *", timezone="Europe/Lisbon", body={"days": 1}),
        )
        seen: list[int] = []

        @report.post("/")
        def make(call: Call, body: dict[str, int]) -> None:
            seen.append(body["days"])

        runtime = penstock_runtime(offering(report))
        moment = datetime(2026, 3, 29, 5, tzinfo=UTC)

        for _ in range(3):
            runtime.tick("v1/report", moment)
        performed = runtime.work()
        runtime.operate("pipeline", "disable", "report", "--env", "test")
        runtime.tick("v1/report", datetime(2026, 3, 30, 5, tzinfo=UTC))

        assert (performed, runtime.work(), seen) == (1, 0, [1])
        (run,) = runtime.runs()
        assert (millis_of(run["id"]) / 1000, run["consumer"], run["status"]) == (
            moment.timestamp(),
            None,
            "succeeded",
        )
        assert runtime.anonymous().post("/v1/report/").status_code == 404


class TestInlineAgain:
    def test_a_call_is_run_again_with_what_was_recorded(self, runtime: Runtime) -> None:
        client = runtime.client(token=False)
        run = client.post("/v1/example/?page=2", json={"refuse": 409}).headers["X-Run-Id"]
        runtime.flush()

        runtime.operate("runs", "redeliver", run)
        again, first = runtime.runs()

        assert (first["id"], again["redelivers"], again["status"], again["consumer"]) == (
            run,
            run,
            "client_error",
            "acme",
        )

    @pytest.mark.parametrize("body", [{"card": "4111"}, {"customer": {"name": "Ann"}}])
    def test_what_was_hidden_can_not_be_given_again(
        self, runtime: Runtime, body: dict[str, Any]
    ) -> None:
        run = runtime.client(token=False).post("/v1/example/", json=body).headers["X-Run-Id"]
        runtime.flush()

        with pytest.raises(Exception, match="is sensitive, and was not recorded"):
            runtime.operate("runs", "redeliver", run)
        assert len(runtime.runs()) == 1


class TestCommands:
    """Commands answer or report a usage error, never a traceback."""

    def test_moments_before_all_time_are_the_beginning(self, durable: Runtime) -> None:
        durable.client(token=False).post("/v1/example/", json={}, headers={"X-Kept": "k"})

        assert "v1/example" in durable.operate("runs", "list", "--since", "30000d")
        assert "0 runs of test deleted" in durable.operate(
            "runs", "purge", "--env", "test", "--older-than", "30000d", "--yes"
        )

    def test_schedules_of_no_environment_are_not_listed(self, durable: Runtime) -> None:
        with pytest.raises(UnknownName, match="no environment is named 'nope'"):
            durable.operate("schedules", "--env", "nope")

    def test_the_numbers_of_steps_are_shown_however_narrow_the_page(
        self, penstock_runtime: Start, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("COLUMNS", "80")

        @step()
        def a_step_of_quite_some_length_that_waits_for_v1_another_pipeline() -> None:
            raise ValueError("it " * 40)

        pipeline = example()

        @pipeline.post("/", mode="durable")
        def handler(call: Call) -> None:
            with suppress(ValueError):
                a_step_of_quite_some_length_that_waits_for_v1_another_pipeline()

        runtime = penstock_runtime(offering(pipeline), policy="api-key")
        run = runtime.client(token=False).post("/v1/example/").headers["X-Run-Id"]
        runtime.work()

        shown = runtime.operate("runs", "show", run)
        assert any(line.split()[:1] == ["1"] for line in shown.splitlines())


class TestWhatIsForgottenEarly:
    def test_a_replay_of_a_run_that_was_forgotten_is_answered_as_it_was(
        self, durable: Runtime
    ) -> None:
        client = durable.client(token=False)
        headers = {"X-Kept": "k", "Idempotency-Key": "order-77f3a1b2"}
        first = client.post("/v1/example/", json={}, headers=headers)
        durable.work()
        durable.flush()
        time.sleep(1.1)
        durable.operate("runs", "purge", "--env", "test", "--older-than", "1s", "--yes")

        again = client.post("/v1/example/", json={}, headers=headers | {"Prefer": "wait=5"})

        assert (again.status_code, again.headers["Location"]) == (202, first.headers["Location"])
        assert client.get(first.headers["Location"]).status_code == 404
