"""What may leave: headers, statuses and values of replies and refusals; the rest is a failed
run, in every mode and from every source."""

from __future__ import annotations

import enum
import re
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from http import HTTPStatus
from types import SimpleNamespace
from typing import Any, ClassVar
from urllib.parse import unquote

import msgspec
import pydantic
import pytest
from gunicorn.http.message import TOKEN_RE
from gunicorn.http.wsgi import HEADER_VALUE_RE
from gunicorn.util import is_hoppish
from hypothesis import given, settings
from hypothesis import strategies as st
from werkzeug.test import TestResponse

from penstock import (
    AccessView,
    Authenticator,
    Call,
    Caller,
    Cors,
    Document,
    HttpTrigger,
    Pipeline,
    PipelineError,
    Reply,
    RequestHead,
    ResponseHeader,
    attachment,
    call_pipeline,
    hookimpl,
    step,
)
from penstock.endpoints.replies import answer, checked_refusal, response_of
from penstock.errors import Refusal, ReplyError
from penstock.header_fields import PROBLEM_HEADERS, header_fields
from penstock.runs.idempotency import IdempotencyStore
from penstock.testing import Runtime

Start = Callable[..., Runtime]


class Mood(str, enum.Enum):  # noqa: UP042  it writes itself as Mood.GOOD
    GOOD = "good"


UNSENDABLE: list[Any] = [
    "Łódź",
    "10 €",
    "報告.pdf",
    "an \N{EN DASH} dash",
    "\N{GRINNING FACE}",
    "a\r\nSet-Cookie: stolen=1",
    "a\nb",
    "a\rb",
    "a\0b",
    "\x01",
    "\x1b[31m",
    "a\x7f",
    "\ud800",
    None,
    True,
    b"bytes",
    float("nan"),
    float("inf"),
    {"a": "b"},
    {"a"},
    object(),
    ["fine", None],
    ["fine", "a\r\nb"],
    [["a"]],
]
UNNAMEABLE: list[Any] = [
    "",
    "Bad Name",
    "X:",
    "X\r\nY",
    "Größe",
    "X\0",
    "\tX",
    5,
    None,
    b"X",
    ("X",),
]
OF_THE_SERVER = [
    "Connection", "content-length", "Date", "Keep-Alive", "Proxy-Connection", "SERVER", "TE",
    "Trailer", "Transfer-Encoding", "Upgrade", "X-Run-Id",
]  # fmt: skip


def named(value: object) -> str:
    return ascii(value) if isinstance(value, str) else type(value).__name__


@pytest.mark.parametrize("value", UNSENDABLE, ids=named)
def test_a_value_that_http_can_not_carry_is_a_fault_and_is_not_shown(value: Any) -> None:
    for headers in ({"X-Fine": "a", "X-Odd": value}, {"Location": value}):
        with pytest.raises(ValueError, match=r"the header (X-Odd|Location) ") as raised:
            header_fields(headers)
        assert not isinstance(value, str) or value not in str(raised.value)


@pytest.mark.parametrize("name", [*UNNAMEABLE, *OF_THE_SERVER], ids=named)
def test_a_name_that_is_none_or_that_the_server_sets_is_a_fault(name: Any) -> None:
    with pytest.raises(ValueError, match="header"):
        header_fields({name: "5"})


@pytest.mark.parametrize(
    "headers",
    [
        5,
        "X-A: b",
        [("a",)],
        [5],
        {"etag": "a", "ETag": "b"},
        {"Location": ["/a", "/b"]},
        {"Content-Type": ["a/b"] * 2},
    ],
)
def test_what_is_no_headers_at_all_or_can_be_sent_once_is_a_fault(headers: Any) -> None:
    with pytest.raises(ValueError, match="header"):
        header_fields(headers)


def test_numbers_become_text_lists_become_several_and_latin_1_goes_as_it_is() -> None:
    assert header_fields(
        {"Retry-After": 30, "X-Ratio": 0.5, "Set-Cookie": ["a=1", "b=2"], "Link": []}
    ) == (
        ("Retry-After", "30"),
        ("X-Ratio", "0.5"),
        ("Set-Cookie", "a=1"),
        ("Set-Cookie", "b=2"),
    )
    assert header_fields({"X": "Überblick\xff\x80\ta", "Y": "  around\t", "Z": ""}) == (
        ("X", "Überblick\xff\x80\ta"),
        ("Y", "around"),
        ("Z", ""),
    )
    assert [
        f"{name}: {value}"
        for name, value in header_fields({"X-Mood": Mood.GOOD, "X-Status": HTTPStatus.OK})
    ] == [
        "X-Mood: good",
        "X-Status: 200",
    ]


@settings(max_examples=500, deadline=None, derandomize=True, database=None)
@given(
    st.dictionaries(
        st.text(max_size=5) | st.sampled_from(["X", "Set-Cookie", "Te"]),
        st.text(max_size=9) | st.lists(st.text(max_size=5)) | st.integers(),
    )
)
def test_what_passes_is_what_the_server_sends_word_for_word(headers: dict[str, Any]) -> None:
    try:
        fields = header_fields(headers)
    except ValueError:
        return
    for name, value in fields:
        assert TOKEN_RE.fullmatch(name)
        assert HEADER_VALUE_RE.fullmatch(value)
        assert not is_hoppish(name)
        assert value == value.strip(" \t")
        f"{name}: {value}".encode("latin-1")


@pytest.mark.parametrize(
    ("filename", "sent"),
    [
        ("report.pdf", 'attachment; filename="report.pdf"'),
        ("annual report (1).pdf", 'attachment; filename="annual report (1).pdf"'),
        ("Łódź.pdf", "attachment; filename=\"_odz.pdf\"; filename*=UTF-8''%C5%81%C3%B3d%C5%BA.pdf"),
        ("報告.pdf", "attachment; filename=\"__.pdf\"; filename*=UTF-8''%E5%A0%B1%E5%91%8A.pdf"),
        ("50%25.txt", "attachment; filename=\"50_25.txt\"; filename*=UTF-8''50%2525.txt"),
        (
            'say "hi".txt',
            "attachment; filename=\"say _hi_.txt\"; filename*=UTF-8''say%20%22hi%22.txt",
        ),
        ("../../etc/passwd", 'attachment; filename=".._.._etc_passwd"'),
        ("a\r\nSet-Cookie: b\0\x85.txt", 'attachment; filename="a__Set-Cookie: b__.txt"'),
        ("a\ud800", 'attachment; filename="a_"'),
        ("  ", "attachment"),
    ],
)
def test_any_file_name_can_be_sent(filename: str, sent: str) -> None:
    assert attachment(filename) == sent
    assert header_fields({"Content-Disposition": sent}) == (("Content-Disposition", sent),)
    assert attachment(filename, inline=True) == sent.replace("attachment", "inline")


@settings(max_examples=300, deadline=None, derandomize=True, database=None)
@given(st.text())
def test_a_file_name_comes_back_as_it_was_but_for_what_no_name_has(filename: str) -> None:
    sent = attachment(filename)
    match = re.fullmatch(
        r'attachment(?:; filename="([ -~]*)"'
        r"""(?:; filename\*=UTF-8''([!#$&+.^_`|~0-9A-Za-z%-]*))?)?""",
        sent,
    )

    assert match is not None
    decoded = unquote(match[2]) if match[2] is not None else match[1] or ""
    assert (
        decoded
        == re.sub("[\x00-\x1f\x7f-\x9f/\\\\\u2028\u2029\ud800-\udfff]", "_", filename).strip()
    )
    assert '"' not in (match[1] or "")
    assert "\\" not in (match[1] or "")


@pytest.mark.parametrize(
    "status", [True, 0, 99, 100, 101, 103, 199, 600, 999, -1, "200", 200.0, None]
)
def test_a_status_that_ends_no_call_is_a_fault(status: Any) -> None:
    with pytest.raises(ValueError, match="200 to 599"):
        answer(Reply(status))
    with pytest.raises(ValueError, match="400 to 599"):
        PipelineError(status)


def test_statuses_may_be_those_of_the_library_and_some_have_no_body() -> None:
    assert answer(Reply(HTTPStatus.CREATED, body="x"))[0::2] == (201, b"x")
    assert [answer(Reply(status, body={"a": 1}))[2] for status in (204, 205, 304)] == [b""] * 3
    assert type(PipelineError(HTTPStatus.CONFLICT).status) is int


def test_bytes_of_any_kind_are_bytes() -> None:
    for value in (b"a", bytearray(b"a"), memoryview(b"a")):
        assert answer(value) == (200, [("Content-Type", "application/octet-stream")], b"a")
        assert type(answer(Reply(200, {"Content-Type": "image/png"}, value))[2]) is bytes


def test_a_handler_s_content_type_takes_the_place_of_the_usual_one() -> None:
    assert answer(Reply(200, {"content-type": "text/csv"}, "a,b"))[1] == [
        ("content-type", "text/csv")
    ]


@pytest.mark.parametrize(
    "name",
    ["Content-Type", "content-encoding", "Content-Range", "Repr-Digest", "Digest", *OF_THE_SERVER],
)
def test_a_problem_document_is_described_by_who_writes_it(name: str) -> None:
    with pytest.raises(ValueError, match="can't be set"):
        PipelineError(409, "Taken", headers={name: "27"})


def test_what_a_refusal_became_after_it_was_made_is_looked_at_too() -> None:
    refusal = PipelineError(409, "Taken", headers={"Retry-After": 5})
    assert checked_refusal(refusal, "here").headers == (("Retry-After", "5"),)
    for name, value in (
        ("headers", [("X", "a\r\nb")]),
        ("headers", [("X", None)]),
        ("status", 200),
        ("status", "409"),
        ("status", 409.0),
    ):
        broken = PipelineError(409, "Taken")
        setattr(broken, name, value)
        with pytest.raises(ReplyError, match=r"^here: "):
            checked_refusal(broken, "here")


class Halfway(PipelineError):
    """What forgets to make its base."""

    def __init__(self) -> None:
        self.status = 409
        self.headers = ()


def test_a_refusal_that_was_made_halfway_is_a_fault_and_odd_texts_are_made_text() -> None:
    with pytest.raises(ReplyError, match=r"^here: "):
        checked_refusal(Halfway(), "here")
    error = PipelineError(409, 5, LookupError("why"), type=6)  # type: ignore[arg-type]  a slip
    assert (error.title, error.detail, error.code) == ("5", "why", "6")


@dataclass
class Order:
    number: int
    lock: object


class Line(msgspec.Struct):
    orders: dict[str, list[Any]]


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (threading.Lock(), "a lock is nothing to reply with"),
        ({"a/b": [1, {"c": threading.Lock()}]}, "a lock is nothing to reply with, at /a~1b/1/c"),
        (
            Line({"x": [Order(1, threading.Lock())]}),
            "a lock is nothing to reply with, at /orders/x/0/lock",
        ),
        (Reply(200, {}, [object()]), "a object is nothing to reply with, at /0"),
        ((number for number in (1, 2)), "a generator is nothing to reply with"),
    ],
)
def test_a_value_that_can_not_be_encoded_is_reported_with_its_place(
    value: object, message: str
) -> None:
    with pytest.raises(ReplyError) as raised:
        response_of(value, "handler show of GET / (plugins/orders.py:7)")

    assert str(raised.value) == f"handler show of GET / (plugins/orders.py:7): {message}"


def test_a_value_that_raises_when_it_is_written_is_a_failed_reply_too() -> None:
    class Odd:
        def model_dump(self, **_: object) -> object:
            raise LookupError("a slip")

    endless: list[object] = []
    endless.append(endless)
    for value in (Odd(), endless):
        with pytest.raises(ReplyError):
            response_of(value, "here")


# Through the dispatcher.


class Odd:
    """What the next call is answered with."""

    answer: ClassVar[Callable[[], object]]
    times: ClassVar[int] = 0


def offering() -> SimpleNamespace:
    odd = Pipeline(
        "odd", version="1.0.0", trigger=HttpTrigger(api_key=True, idempotent="key", rate=[])
    )
    outer = Pipeline("outer", version="1.0.0", trigger=HttpTrigger(api_key=True))

    @step()
    def in_a_step() -> object:
        return Odd.answer()

    @odd.get("/")
    @odd.post("/")
    def inline(call: Call) -> object:
        Odd.times += 1
        return Odd.answer()

    @odd.post("/durable", mode="durable")
    def durable(call: Call) -> object:
        return Odd.answer()

    @odd.post("/step", mode="durable")
    def with_step(call: Call) -> object:
        return in_a_step()

    @outer.post("/")
    def pass_on(call: Call) -> object:
        return call_pipeline("odd")

    @hookimpl
    def penstock_pipelines() -> Iterator[Pipeline]:
        yield from (odd, outer)

    return SimpleNamespace(__name__="odd", penstock_pipelines=penstock_pipelines)


def raising(error: Callable[[], BaseException]) -> Callable[[], object]:
    def fail() -> object:
        raise error()

    return fail


def changed(**facts: object) -> PipelineError:
    error = PipelineError(409, "Taken")
    for name, value in facts.items():
        setattr(error, name, value)
    return error


BROKEN: list[Callable[[], object]] = [
    lambda: Reply(200, {"X-E": "10 €"}, {"a": 1}),
    lambda: Reply(201, {"Location": "/orders/Łódź"}),
    lambda: Reply(200, {"X-A": None}),  # type: ignore[dict-item]  a slip
    lambda: Reply(100),
    lambda: Reply(200, {}, threading.Lock()),
    raising(lambda: PipelineError(409, "Upstream refused", headers={"Content-Length": "27"})),
    raising(lambda: PipelineError(429, "Slow", headers={"Retry-After": None})),  # type: ignore[dict-item]  a slip
    raising(lambda: changed(headers=[("X", "a\r\nY: 1")])),
    raising(lambda: changed(status=200)),
]


def test_what_can_not_be_sent_is_a_failed_run_however_it_runs_and_is_not_kept(
    penstock_runtime: Start, capsys: pytest.CaptureFixture[str]
) -> None:
    runtime = penstock_runtime(offering(), policy="api-key")
    client = runtime.client(token=False)
    for number, broken in enumerate(BROKEN):
        Odd.answer, Odd.times = broken, 0
        again = {"Idempotency-Key": f"key-{number}"}

        answered = [
            client.get("/v1/odd/"),
            client.post("/v1/odd/", headers=again),
            client.post("/v1/odd/", headers=again),
            client.post("/v1/outer/"),
        ]
        # What a step returns is a value, no reply.
        hows = ("durable", "step") if broken.__name__ == "fail" else ("durable",)
        locations = [client.post(f"/v1/odd/{how}").headers["Location"] for how in hows]
        runtime.work()
        ended = [client.get(location).json for location in locations]

        assert [(item.status_code, (item.json or {})["type"]) for item in answered] == [
            (500, "pipeline-failed")
        ] * 4
        assert [item.json["run"] for item in answered] == [
            item.headers["X-Run-Id"] for item in answered
        ]
        assert Odd.times == 4
        assert [(run["status"], run["problem"]["type"]) for run in ended if run is not None] == [
            ("failed", "pipeline-failed")
        ] * len(hows)
    log = capsys.readouterr().err
    assert "handler inline of " in log
    assert re.search(
        r"handler inline of \w+ / \(endpoints/test_replies\.py:\d+\): the header X-E holds"
        r" characters outside of Latin-1",
        log,
    )
    assert {run["status"] for run in runtime.runs()} == {"failed"}


def test_what_can_be_sent_is_the_same_replayed_and_raised_again(penstock_runtime: Start) -> None:
    runtime = penstock_runtime(offering(), policy="api-key")
    client = runtime.client(token=False)

    def twice(make: Callable[[], object], key: str) -> list[TestResponse]:
        Odd.answer = make
        return [client.post("/v1/odd/", headers={"Idempotency-Key": key}) for _ in range(2)]

    good = twice(
        lambda: Reply(201, {"Set-Cookie": ["a=1", "b=2"], "X-Number": 5}, {"a": 1}), "good"
    )
    refused = twice(
        raising(
            lambda: PipelineError(
                409,
                "Taken",
                headers={"Set-Cookie": ["a=1", "b=2"], "Retry-After": 5},
                big=2**70,
                odd="\ud800",
            )
        ),
        "bad",
    )

    for answered in (*good, *refused):
        assert answered.headers.getlist("Set-Cookie") == ["a=1", "b=2"]
    assert (good[0].data, good[0].headers["X-Number"]) == (
        good[1].data,
        good[1].headers["X-Number"],
    )
    assert [
        (item.status_code, item.headers["Retry-After"], (item.json or {})["title"])
        for item in refused
    ] == [(409, "5", "Taken")] * 2
    assert [item.headers.get("Idempotency-Replayed") for item in (*good, *refused)] == [
        None,
        "true",
    ] * 2


def test_a_handler_s_own_header_stands_in_place_of_the_usual_one(penstock_runtime: Start) -> None:
    runtime = penstock_runtime(offering(), policy="api-key")
    Odd.answer = raising(
        lambda: PipelineError(
            404, "Gone", headers={"Cache-Control": "max-age=60", "X-Request-Id": "mine"}
        )
    )

    answered = runtime.client(token=False).get(
        "/v1/odd/", headers={"X-Request-Id": "theirs-to-tell"}
    )

    assert (
        answered.headers.getlist("Cache-Control"),
        answered.headers.getlist("X-Request-Id"),
    ) == (["max-age=60"], ["mine"])


def test_a_reply_that_an_earlier_release_kept_is_looked_at_when_it_is_sent_again() -> None:
    from penstock.access.encryption import SecretBox, make_secret_key

    box = SecretBox((make_secret_key(),))
    replies = IdempotencyStore(None, box)  # type: ignore[arg-type]  nothing of it is asked here
    stored_reply = box.encrypt(
        msgspec.msgpack.encode(
            {"status": 201, "headers": [["Location", "/Łódź"]], "body": b"", "problem": None}
        )
    )

    with pytest.raises(ValueError, match="Location"):
        replies._repeat(b"same", stored_reply, b"same")  # noqa: SLF001  there is no release to keep it


def test_a_call_whose_challenge_can_not_be_sent_is_rejected_and_logged(
    penstock_runtime: Start, capsys: pytest.CaptureFixture[str]
) -> None:
    class Careless(Authenticator):
        name, noun, refusal, challenge = "careless", "thing", "invalid-thing", "Łódź\r\nX: 1"

        def find(self, head: RequestHead, access: AccessView) -> str | None:
            return "anything"

        def verify(self, credential: str, access: AccessView, caller: Caller, now: float) -> Caller:
            from penstock import CredentialRejected

            raise CredentialRejected("no good")

    plugin = offering()
    plugin.penstock_authenticators = hookimpl(lambda setup: [Careless()])
    answered = penstock_runtime(plugin, policy="api-key").client(token=False).get("/v1/odd/")

    assert (answered.status_code, (answered.json or {})["type"]) == (500, "internal")
    assert "the header WWW-Authenticate holds a control character" in capsys.readouterr().err


@pytest.mark.parametrize("item", ["X\r\nY: z", "Łódź", "", "a b", 5])
def test_cors_that_names_no_header_is_a_mistake_at_load(item: Any) -> None:
    for option in ("expose", "headers", "methods"):
        if isinstance(item, str) or option == "expose":
            assert any(
                problem.startswith("CORS")
                for problem, _ in Cors("https://a.example", **{option: [item]}).problems()
            )


@pytest.mark.parametrize(
    "name",
    [
        "X A",
        "Content-Encoding",
        "Content-Range",
        "date",
        "Proxy-Authenticate",
        "X-Run-Id",
        "keep-alive",
    ],
)
def test_a_header_of_all_replies_has_the_same_limits(name: str) -> None:
    with pytest.raises(ValueError, match=r"header's name|set by the runtime"):
        ResponseHeader(name, "a")


def test_a_public_document_whose_media_type_can_not_be_sent_is_a_mistake_at_load(
    penstock_runtime: Start,
) -> None:
    plugin = offering()
    plugin.penstock_documents = hookimpl(
        lambda setup: [Document("/.well-known/odd", "text/plain\r\nX: Łódź", lambda access: b"x")]
    )
    runtime = penstock_runtime(plugin, policy="api-key")

    assert (
        "the document /.well-known/odd: the header Content-Type holds a control character"
        in runtime.problems()[0]
    )
    assert runtime.anonymous().get("/.well-known/odd").status_code == 404


def test_reserved_names_of_problems_are_more_than_those_of_replies() -> None:
    assert header_fields({"Content-Type": "a/b"}) == (("Content-Type", "a/b"),)
    with pytest.raises(ValueError, match="can't be set"):
        header_fields({"Content-Type": "a/b"}, PROBLEM_HEADERS)


class Out(msgspec.Struct):
    name: str


class Model(pydantic.BaseModel):
    name: str


def reply_of(value: object, annotation: Any, *, status: int | None = None) -> str:
    from penstock.endpoints.reply_checks import FAIL, reply_check

    try:
        response_of(
            Reply(status, {}, value) if status else value,
            "here",
            reply_check(annotation, FAIL, "here"),
        )
    except ReplyError as error:
        return str(error)
    return ""


@pytest.mark.parametrize(
    ("value", "annotation", "expected"),
    [
        ({"name": "a"}, Out, ""),
        (Out("a"), Out, ""),
        ({"name": 5}, Out, "/name: Expected `str`, got `int`"),
        ({}, Out, "/name: Required, and missing"),
        (Out(5), Out, "/name: Expected `str`, got `int`"),  # type: ignore[arg-type]  a slip
        (None, Out, "it returned None"),
        (None, Out | None, ""),
        (None, None, ""),
        ("text", Out, "it returned text"),
        (b"bytes", str, "it returned bytes"),
        (bytearray(b"bytes"), bytes, ""),
        (b"bytes", memoryview, ""),
        ("text", str, ""),
        ({"a": 1}, str, "Expected `str`, got `object`"),
        ([Out("a"), {"name": 5}], list[Out], "/1/name: Expected `str`, got `int`"),
        (Model(name="a"), Model, ""),
        ({"name": 5}, Model, "/name: Input should be a valid string"),
        ([Model(name="a")], list[Model], ""),
        ({"name": 5}, dict, ""),
        ({"name": 5}, Any, ""),
        ({"name": 5}, object, ""),
        ({"name": "a"}, Out | Order, ""),
        (Reply(200, {}, {"name": 5}), Reply, ""),
        (Reply(201, {}, {"name": 5}), Reply | Out, ""),
        (Reply(201, {}, {"name": 5}), Out, "/name: Expected `str`, got `int`"),
        (Reply(303, {"Location": "/"}), Out, ""),
        (Reply(204), Out, "it returned None"),
    ],
)
def test_a_reply_is_compared_with_its_annotation_where_that_is_asked_for(
    value: object, annotation: Any, expected: str
) -> None:
    problem = reply_of(value, annotation if annotation is not None else type(None))

    assert (
        problem == ""
        if not expected
        else problem.startswith("here: the reply does not match the return annotation ")
        and problem.endswith(f": {expected}")
    )


def test_the_test_kit_compares_replies_unless_that_is_switched_off(penstock_runtime: Start) -> None:
    pipeline = Pipeline("out", version="1.0.0", trigger=HttpTrigger())

    @pipeline.get("/")
    def show(call: Call) -> Out:
        return {"name": 5}  # type: ignore[return-value]  the slip that is looked for

    @hookimpl
    def penstock_pipelines() -> list[Pipeline]:
        return [pipeline]

    plugin = SimpleNamespace(__name__="out", penstock_pipelines=penstock_pipelines)

    def status(**more: str) -> int:
        return (
            penstock_runtime(plugin, policy="any", **more).anonymous().get("/v1/out/").status_code
        )

    assert (status(), status(check_replies="log"), status(check_replies="off")) == (500, 200, 200)


def test_a_refusal_of_the_runtime_itself_is_as_it_was() -> None:
    refusal = Refusal(
        415, "unsupported-media-type", "Send JSON.", headers=[("Accept", "application/json")]
    )

    assert checked_refusal(refusal, "here").headers == (("Accept", "application/json"),)
