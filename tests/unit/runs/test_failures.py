"""Why a handler failed is in the record of its run, for operators: type, text and places,
without secrets; its caller learns nothing of it."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace

import msgspec
import pytest

from penstock import (
    Call,
    HttpTrigger,
    Pipeline,
    PipelineError,
    Retry,
    call_pipeline,
    hookimpl,
    step,
)
from penstock.runs.failures import (
    MAX_FRAMES,
    MAX_TEXT_LENGTH,
    Failure,
    Frame,
    cleaned,
    failure_at,
    failure_of,
    without,
)
from penstock.testing import Runtime

HERE = str(Path(__file__))
TOKEN = "eyJhbGciOiJFUzI1NiJ9.eyJzdWIiOiJhbm4ifQ.c2lnbmF0dXJl"
KEY = "pk_test_ABCDEFGHIJKLMNOPQRSTUV0123456789"
SECRETS = ("opensesame-0815", "Bearer abcDEF123456", TOKEN, KEY, "hunter2", "4711", "never kept")


def helper(order: dict[str, str]) -> str:
    return order["name"]


def fails(call: Call) -> None:
    helper({})


@step(retry=Retry(attempts=2, backoff=0.001))
def pay() -> None:
    try:
        helper({})
    except KeyError as error:
        raise ConnectionError("made up") from error


def fails_in_a_step(call: Call) -> None:
    pay()


def fails_on_purpose(call: Call) -> None:
    raise PipelineError(503, "Away", "The supplier is away.")


def refuses(call: Call) -> None:
    raise PipelineError(409, "No", "Not like this.")


def replies_with_a_lock(call: Call) -> object:
    return {"lock": threading.Lock()}


def waits_for_another(call: Call) -> None:
    call_pipeline("inner")


def _leak(text: str) -> None:
    local = "never kept"  # noqa: F841  frames have no values
    raise ValueError(text)


@step()
def leaks_in_a_step(text: str) -> None:
    _leak(text)


def leaks(call: Call) -> None:
    try:
        leaks_in_a_step(f"url https://x.example/?k=opensesame-0815 {KEY}")
    except ValueError as error:
        raise RuntimeError(
            f"opensesame-0815 Authorization: Bearer abcDEF123456 {TOKEN} {KEY} password=hunter2"
            " pin: 4711"
        ) from error


def busy() -> None:
    time.sleep(1)


def is_late(call: Call) -> None:
    busy()


HANDLERS = (
    fails,
    fails_in_a_step,
    fails_on_purpose,
    refuses,
    replies_with_a_lock,
    waits_for_another,
    leaks,
)


class Ran:
    """A handler that was called once, inline or durable: the reply of its caller, and its
    record."""

    def __init__(self, runtime: Runtime, handler: Callable[..., object], mode: str) -> None:
        client = runtime.client(token=False)
        answered = client.post(f"/v1/{mode}/{handler.__name__}")
        runtime.work()
        if mode == "durable":
            answered = client.get(answered.headers["Location"])
        self.runtime = runtime
        self.reply = answered.text + str(answered.headers)
        self.record = next(run for run in runtime.runs() if run["pipeline"] == f"v1/{mode}")
        self.failure: Failure = self.record["failure"]

    @property
    def functions(self) -> list[str]:
        return [frame.function.rpartition(".")[2] for frame in self.failure.frames]


@pytest.fixture(scope="module")
def runtime(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Runtime]:
    pipelines = [
        Pipeline(
            "inline",
            version="1.0.0",
            trigger=HttpTrigger(api_key=True, timeout=10),
            sensitive=["pin"],
        ),
        Pipeline("durable", version="1.0.0", trigger=HttpTrigger(api_key=True), sensitive=["pin"]),
        Pipeline("inner", version="1.0.0", trigger=HttpTrigger(external=False)),
        Pipeline("late", version="1.0.0", trigger=HttpTrigger(api_key=True, timeout=0.3)),
    ]
    for pipeline, mode in zip(pipelines, ("inline", "durable"), strict=False):
        for handler in HANDLERS:
            pipeline.post(f"/{handler.__name__}", mode=mode)(handler)
    pipelines[2].post("/")(fails)
    pipelines[3].post("/is_late")(is_late)

    @hookimpl
    def penstock_pipelines() -> list[Pipeline]:
        return pipelines

    plugin = SimpleNamespace(__name__="example", penstock_pipelines=penstock_pipelines)
    with Runtime(tmp_path_factory.mktemp("failures"), plugin, policy="api-key") as runtime:
        runtime.operate("secret", "set", "word", "--env", "test", given="opensesame-0815")
        yield runtime


@pytest.fixture(params=["inline", "durable"])
def run(request: pytest.FixtureRequest, runtime: Runtime) -> Callable[[Callable[..., object]], Ran]:
    return lambda handler: Ran(runtime, handler, request.param)


Run = Callable[[Callable[..., object]], Ran]


def test_what_was_raised_and_where_in_the_plugin_is_in_the_record(run: Run) -> None:
    ran = run(fails)

    assert (ran.record["status"], ran.failure.type, ran.failure.text) == (
        "failed",
        "KeyError",
        "'name'",
    )
    assert ran.functions == ["fails", "helper"]
    assert {frame.file for frame in ran.failure.frames} == {HERE}
    assert ran.failure.frames[-1].line == helper.__code__.co_firstlineno + 1
    assert "KeyError" not in ran.reply
    shown = ran.runtime.operate("runs", "show", ran.record["id"])
    assert "failed with KeyError: 'name'" in " ".join(shown.split())
    assert "helper" in shown
    printed = json.loads(ran.runtime.operate("runs", "show", ran.record["id"], "--format", "json"))
    assert printed["failure"]["frames"][-1] == msgspec.to_builtins(ran.failure.frames[-1])


def test_what_a_step_raised_says_where_in_the_step(run: Run) -> None:
    ran = run(fails_in_a_step)

    assert (ran.failure.type, ran.failure.text, ran.functions) == (
        "ConnectionError",
        "made up",
        ["fails_in_a_step", "pay"],
    )
    (cause,) = ran.failure.causes
    assert (cause.type, cause.frames[-1].function) == ("KeyError", "helper")


def test_a_failure_on_purpose_has_its_place_and_a_refusal_is_none(run: Run) -> None:
    failed, refused = run(fails_on_purpose), run(refuses)

    assert (failed.record["status"], failed.failure.type, failed.functions) == (
        "failed",
        "PipelineError",
        ["fails_on_purpose"],
    )
    assert (refused.record["status"], refused.failure) == ("client_error", None)


def test_a_reply_that_can_not_be_sent_names_its_handler(run: Run) -> None:
    ran = run(replies_with_a_lock)

    assert (ran.failure.type, "lock" in ran.failure.text, ran.functions) == (
        "ReplyError",
        True,
        ["replies_with_a_lock"],
    )


def test_a_pipeline_that_another_one_waits_for_has_a_failure_of_its_own(run: Run) -> None:
    ran = run(waits_for_another)
    child = next(item for item in ran.runtime.runs() if item["pipeline"] == "v1/inner")

    assert (child["failure"].type, child["failure"].frames[-1].function) == ("KeyError", "helper")
    assert ran.functions[0] == "waits_for_another"


def test_no_secret_is_in_it(run: Run) -> None:
    ran = run(leaks)
    recorded = msgspec.json.encode(
        [ran.failure, ran.record["steps"]]
    ).decode() + ran.runtime.operate("runs", "show", ran.record["id"])

    assert [word for word in SECRETS if word in recorded] == []
    assert (ran.failure.type, ran.failure.causes[0].type) == ("RuntimeError", "ValueError")


def test_at_the_time_limit_the_place_of_the_handler_is_in_the_record(runtime: Runtime) -> None:
    ran = Ran(runtime, is_late, "late")

    assert (ran.record["status"], ran.failure.type, ran.functions) == (
        "timed_out",
        "DeadlineExceeded",
        ["is_late", "busy"],
    )


def recurse() -> None:
    recurse()


def test_it_is_bounded() -> None:
    class Endless(Exception):
        def __str__(self) -> str:
            return "x" * 1_000_000

    try:
        recurse()
    except RecursionError as error:
        deep = failure_of(error)
    chained = ValueError("0")
    for number in range(1, 20):
        cause, chained = chained, ValueError(str(number))
        chained.__cause__ = cause
    group = failure_of(ExceptionGroup("all", [Endless() for _ in range(50)]))
    depth, failure = 0, failure_of(chained)
    while failure.causes:
        (failure,), depth = failure.causes, depth + 1

    assert len(deep.frames) == MAX_FRAMES
    assert depth == 4
    assert len(group.causes) == 4
    assert len(cleaned(group.causes[0], str).text) == MAX_TEXT_LENGTH


def test_a_frame_of_a_library_or_of_the_runtime_is_none_of_the_plugins() -> None:
    try:
        msgspec.json.decode(b"[", type=list[int])
    except msgspec.DecodeError as error:
        failure = failure_of(error)
    try:
        json.loads("[")
    except ValueError as error:
        within = failure_of(error)
    installed = failure_of(_raised_by_library(), json.loads)

    assert [frame.function for frame in (*failure.frames, *within.frames)] == [
        "test_a_frame_of_a_library_or_of_the_runtime_is_none_of_the_plugins"
    ] * 2
    assert installed.frames[-1].file.endswith("json/decoder.py")
    assert failure_of(ValueError("never raised"), helper).frames == [
        Frame(HERE, helper.__code__.co_firstlineno, "helper")
    ]


def _raised_by_library() -> Exception:
    try:
        json.loads("[")
    except ValueError as error:
        return error
    raise AssertionError


def test_the_place_of_a_thread_that_is_gone_is_that_of_its_handler() -> None:
    thread = threading.Thread(target=time.sleep, args=(0,))
    thread.start()
    thread.join()

    assert failure_at(ValueError("late"), thread.ident or 0, helper).frames == [
        Frame(HERE, helper.__code__.co_firstlineno, "helper")
    ]
    functions = [
        frame.function for frame in failure_at(ValueError("late"), threading.get_ident()).frames
    ]
    assert functions[-1] == "test_the_place_of_a_thread_that_is_gone_is_that_of_its_handler"


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        (f"token {TOKEN}!", "token ***!"),
        ("Bearer tokens are used here", "Bearer tokens are used here"),
        ("Authorization: Basic dXNlcjpwYXNzd29yZA==", "Authorization: Basic ***"),
        ("s3cr/t+", "s3cr/t+"),
        ("https://x/?k=s3cret%2Fword and s3cret/word", "https://x/?k=*** and ***"),
    ],
)
def test_tokens_and_secrets_are_taken_out_of_a_text(text: str, shown: str) -> None:
    assert without(["s3cret/word", "s3cr/", ""], text) == shown
