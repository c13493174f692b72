"""CORS that could never work is refused, with what to write instead."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest

from penstock import Cors, HttpTrigger, Pipeline, hookimpl
from penstock.contracts.cors import MAX_AGE_S
from penstock.testing import Runtime

SHOP = "https://shop.example"


@pytest.mark.parametrize(
    "origin",
    [
        "*", SHOP, "http://localhost:3000", "http://localhost", "http://127.0.0.1:8080",
        "https://192.0.2.1", "https://[2001:db8::1]",
        "https://[::1]:8443", "https://[::ffff:102:304]", "https://shop.example:8443",
        "http://shop.example:443", "https://shop.example:80",
        "https://xn--bcher-kva.example", "https://my_shop.example", "https://a-b.c--d.example",
        "https://shop.example.", "https://7.example",
        "capacitor://localhost", "ionic://localhost", "chrome-extension://abcdefghijklmnop", "moz-extension://7f0b3b2c-0000-4000-8000-000000000000",
    ],
)  # fmt: skip
def test_an_origin_as_browsers_send_it_is_allowed(origin: str) -> None:
    assert list(Cors(origin).problems()) == list(Cors([origin]).problems()) == []


@pytest.mark.parametrize(
    ("origin", "write"),
    [
        ("shop.example", SHOP),
        ("https://shop.example/", SHOP),
        ("https://shop.example/a", SHOP),
        ("https://shop.example?a=b", SHOP),
        ("https://shop.example#a", SHOP),
        ("https://shop.example:443", SHOP),
        ("https://shop.example:0443", SHOP),
        ("https://shop.example:", SHOP),
        ("http://shop.example:80", "http://shop.example"),
        ("http://shop.example:080", "http://shop.example"),
        ("HTTPS://shop.example", SHOP),
        ("https://Shop.Example", SHOP),
        ("https://ann:secret@shop.example", SHOP),
        (" https://shop.example", SHOP),
        ("https://shop.example\n", SHOP),
        ("shop.example:8443", "https://shop.example:8443"),
        ("localhost:3000", "https://localhost:3000"),
        ("https://[2001:DB8:0:0::1]", "https://[2001:db8::1]"),
        ("https://[0:0:0:0:0:0:0:1]", "https://[::1]"),
        ("https://[::ffff:1.2.3.4]", "https://[::ffff:102:304]"),
    ],
)
def test_an_origin_written_in_another_way_is_refused_with_the_right_one(
    origin: str, write: str
) -> None:
    assert list(Cors(origin).problems()) == [
        (
            f"CORS origin {origin!r} never matches",
            f"an origin is scheme, host and port: write {write}",
        )
    ]
    assert list(Cors(write).problems()) == []


@pytest.mark.parametrize(
    "origin",
    [
        "", " ", "/", "https://", "https:shop.example", "https:/shop.example", "//shop.example",
        "://shop.example", "https://shop..example",
        "https://.example", "https://shop example", "https://shop.example\\a",
        "https://exa%6dple.com", "https://shop.example:65536",
        "https://shop.example:x", "https://[::1", "https://::1", "https://[::1%25eth0]",
        "https://[v1.x]", "https://127.1", "https://0x7f.0.0.1",
        "https://1.2.3.4.5", "https://010.0.0.1", "https://1.2.3.256", "file:///home/ann/page.html",
        "wss://shop.example", "ftp://shop.example",
        "data:1", "about:blank", "https://" + "a" * 64 + ".example", "https://" + "a.example." * 30,
    ],
)  # fmt: skip
def test_what_is_no_origin_is_refused_with_an_example(origin: str) -> None:
    ((problem, fix),) = Cors(origin).problems()

    assert problem == f"CORS origin {origin!r} never matches"
    assert fix == "an origin is scheme, host and port: write one such as https://shop.example"


@pytest.mark.parametrize(
    ("cors", "problem", "fix"),
    [
        (Cors("null"), "'null' names no page of yours", "null is sent by any sandboxed page"),
        (
            Cors("https://*.shop.example"),
            "never matches",
            "there are no patterns; name each origin",
        ),
        (Cors("*a"), "never matches", "there are no patterns"),
        (Cors("**"), "never matches", "there are no patterns"),
        (Cors("https://shop.example:*"), "never matches", "there are no patterns"),
        (
            Cors("https://a.example,https://b.example"),
            "never matches",
            "give each origin as a text of its own",
        ),
        (Cors("https://bücher.example"), "never matches", "write the host in Punycode (xn--...)"),
        (Cors([]), "CORS is for no origin", 'write cors=Cors("https://shop.example")'),
        (Cors([5]), "CORS is for origins that are no text", "write"),  # type: ignore[list-item]  a developer's slip
        (Cors(None), "CORS is for origins that are no text", "write"),  # type: ignore[arg-type]  the same
        (Cors(b"x"), "CORS is for origins that are no text", "write"),  # type: ignore[arg-type]  the same
        (Cors(["*", SHOP]), "names '*' beside other origins", "write '*' alone"),
        (Cors([SHOP, SHOP]), "'https://shop.example' is named twice", "name it once"),
        (Cors("*", credentials=True), "can't allow credentials", "name the origins"),
        (
            Cors(SHOP, credentials="yes"),
            "credentials='yes' is neither True nor False",
            "write credentials=True",
        ),  # type: ignore[arg-type]  the same
        (Cors("*", credentials=1), "can't allow credentials", "name the origins"),  # type: ignore[arg-type]  the same
        (Cors(SHOP, methods=["FAKE"]), "method 'FAKE' can't be used", "use DELETE, GET"),
        (Cors(SHOP, methods=["GET", ""]), "method '' can't be used", "use DELETE, GET"),
        (Cors(SHOP, methods=["TRACE"]), "method 'TRACE' can't be used", "use DELETE, GET"),
        (Cors(SHOP, methods="GET, POST"), "method 'GET, POST' can't be used", "use DELETE, GET"),
        (Cors(SHOP, methods=["*"]), "method '*' can't be used", "leave methods out"),
        (
            Cors(SHOP, methods=["*"], credentials=True),
            "method '*' can't be used",
            "leave methods out",
        ),
        (Cors(SHOP, methods=["GET", "get"]), "'get' is named twice", "name it once"),
        (
            Cors(SHOP, methods=[None]),
            "CORS is for methods that are no text",
            "write methods as a list of texts",
        ),  # type: ignore[list-item]  the same
        (Cors(SHOP, methods=5), "CORS is for methods that are no text", "write methods as a list"),  # type: ignore[arg-type]  the same
        (
            Cors(SHOP, headers=["*"], credentials=True),
            "headers: browsers take '*' literally",
            "name the headers",
        ),
        (
            Cors(SHOP, expose=["*"], credentials=True),
            "expose: browsers take '*' literally",
            "name the headers",
        ),
        (Cors(SHOP, headers=["X A"]), "'X A' is no header's name", "write names such as"),
        (Cors(SHOP, headers=[""]), "'' is no header's name", "write names such as"),
        (Cors(SHOP, headers=["X-A, X-B"]), "'X-A, X-B' is no header's name", "write names such as"),
        (
            Cors(SHOP, expose=["X\r\nY: z"]),
            "'X\\r\\nY: z' is no header's name",
            "write names such as",
        ),
        (Cors(SHOP, expose=["ü"]), "'ü' is no header's name", "write names such as"),
        (Cors(SHOP, headers=["X-A", "x-a"]), "'x-a' is named twice", "name it once"),
        (Cors(SHOP, headers=["Cookie"]), "no page can send Cookie", "leave it out"),
        (Cors(SHOP, headers=["Sec-Fetch-Mode"]), "no page can send Sec-Fetch-Mode", "leave it out"),
        (Cors(SHOP, expose=["Set-Cookie"]), "no page can read Set-Cookie", "leave it out"),
        *(
            (
                Cors(SHOP, max_age=value),
                f"max_age={value!r} is no number of seconds",
                "give a number of seconds from 0 to 86400",
            )
            for value in ("600", -5, -1, 1.5, True, None, MAX_AGE_S + 1, 10**9)
        ),
    ],
)
def test_the_rest_that_makes_no_sense_is_refused_too(cors: Cors, problem: str, fix: str) -> None:
    found = list(cors.problems())

    assert [text for text, _ in found if problem in text], found
    assert [text for _, text in found if fix in text], found


def test_what_makes_sense_is_left_alone() -> None:
    for cors in (
        Cors(
            [SHOP, "http://localhost:3000"],
            methods=["get", "POST", "OPTIONS"],
            headers=["*"],
            expose=["*"],
            max_age=0,
        ),
        Cors("*", methods=[], headers=[], expose=[], max_age=MAX_AGE_S),
        Cors(SHOP, methods="POST", headers="X-A", expose="X-B", credentials=True),
        Cors(iter([SHOP])),
    ):
        assert list(cors.problems()) == []
    one = Cors(SHOP, methods="post", headers="X-A", expose="X-B")
    assert (one.origins, one.methods, one.headers, one.expose) == (
        {SHOP},
        {"POST"},
        {"x-a"},
        {"X-B"},
    )
    assert one == Cors([SHOP], methods=["POST"], headers=["x-a"], expose=["X-B"])


@pytest.mark.parametrize(
    "cors",
    [
        {"origins": "https://shop.example/"},
        {"origins": SHOP, "max_age": "600"},
        {"origins": SHOP, "methods": 5},
    ],
)
def test_a_trigger_with_such_cors_is_refused_and_others_are_served(
    penstock_runtime: Callable[..., Runtime], cors: dict[str, Any]
) -> None:
    odd = Pipeline("odd", version="1.0.0", trigger=HttpTrigger(cors=Cors(**cors)))
    fine = Pipeline("fine", version="1.0.0", trigger=HttpTrigger(cors=Cors(SHOP)))
    for pipeline in (odd, fine):
        pipeline.get("/")(lambda: "here")

    @hookimpl
    def penstock_pipelines() -> list[Pipeline]:
        return [odd, fine]

    runtime = penstock_runtime(
        SimpleNamespace(__name__="odd", penstock_pipelines=penstock_pipelines), policy="any"
    )

    assert list(runtime.blocked()) == ["v1/odd"]
    assert runtime.anonymous().get("/v1/odd/").status_code == 503
    assert (
        runtime.anonymous()
        .get("/v1/fine/", headers={"Origin": SHOP})
        .headers["Access-Control-Allow-Origin"]
        == SHOP
    )


def test_another_one_can_be_made_of_one() -> None:
    wider = replace(Cors(SHOP, max_age=5), origins=frozenset({SHOP, "https://shop.example/"}))

    assert (wider.max_age, len(list(wider.problems()))) == (5, 1)
