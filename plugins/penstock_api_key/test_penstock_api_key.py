"""API keys at the gate: every invalid one gets the same answer, and no key is ever shown."""

from __future__ import annotations

import hashlib
import json
import time
import zlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import pytest

from penstock import (
    ApiKey,
    Call,
    Caller,
    Consumer,
    Credential,
    CredentialRejected,
    EnvironmentFacts,
    HttpTrigger,
    Pipeline,
    RequestHead,
    SigningKey,
    TrustedIssuer,
    hookimpl,
    make_api_key,
    parse_api_key,
)
from penstock.testing import Runtime
from penstock_api_key import ApiKeys

Start = Callable[..., Runtime]
Headers = dict[str, str]


class Shop:
    """A plugin with one pipeline that says who calls, and how the parts of a call look when they
    are printed."""

    @hookimpl
    def penstock_pipelines(self) -> list[Pipeline]:
        orders = Pipeline("orders", version="1.0.0", trigger=HttpTrigger(api_key=True))

        @orders.get("/")
        def show(call: Call) -> dict[str, object]:
            return {
                "consumer": call.caller.consumer,
                "key": call.caller.key_id,
                "printed": f"{call!r} {call.caller!r} {call.headers!r}",
            }

        return [orders]


class Made(NamedTuple):
    """A key as it was made."""

    id: str
    key: str


class Answer(NamedTuple):
    """What a caller gets to see, but for the run's id."""

    status: int
    body: dict[str, Any]
    headers: Headers


@dataclass
class World:
    """A runtime with a consumer and its key."""

    runtime: Runtime
    good: Made = field(repr=False)

    def make(self, consumer: str = "acme", *more: str, env: str = "test") -> Made:
        created = json.loads(
            self.runtime.operate("key", "create", consumer, "--env", env, "--format", "json", *more)
        )
        return Made(created["id"], created["key"])

    def knock(self, headers: Headers | None = None, query: str = "") -> Answer:
        answered = self.runtime.anonymous().get(
            "/v1/orders/", headers=headers or {}, query_string=query
        )
        seen = {
            name: value
            for name, value in answered.headers.items()
            if name not in {"X-Run-Id", "Content-Length"}
        }
        return Answer(
            answered.status_code,
            {name: value for name, value in (answered.json or {}).items() if name != "run"},
            seen,
        )

    def take(self, key: str) -> int:
        return self.knock({"X-API-Key": key}).status


def opened(runtime: Runtime) -> World:
    runtime.client("acme", key=False, token=False)
    world = World(runtime, Made("", ""))
    world.good = world.make()
    return world


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """A world that all tests share, so none may change it for the others."""
    with Runtime(tmp_path_factory.mktemp("keys"), Shop(), policy="api-key") as runtime:
        runtime.operate("env", "create", "prod")
        yield opened(runtime)


@pytest.fixture
def fresh(penstock_runtime: Start) -> World:
    """A world that a test may change."""
    return opened(penstock_runtime(Shop(), policy="api-key"))


@pytest.fixture
def in_query(penstock_runtime: Start) -> World:
    """A world whose environment takes keys from the query string."""
    runtime = penstock_runtime(Shop(), policy="api-key")
    runtime.operate("env", "set", "test", "--keys-in-query", "on")
    return opened(runtime)


@pytest.fixture
def later(monkeypatch: pytest.MonkeyPatch) -> Callable[[float], None]:
    """Move the clock."""
    real = time.time
    return lambda seconds: monkeypatch.setattr(time, "time", lambda: real() + seconds)


@pytest.fixture(scope="module")
def refusal(world: World) -> Answer:
    """What every bad key gets."""
    return world.knock({"X-API-Key": "garbage"})


def test_a_bad_key_is_a_401_that_says_so_and_no_more(refusal: Answer) -> None:
    status, body, headers = refusal

    assert (status, body["type"], body["status"]) == (401, "invalid-api-key", 401)
    assert body.keys() == {"type", "title", "status", "detail"}
    assert headers["WWW-Authenticate"] == 'ApiKey realm="test"'
    assert headers["Content-Type"] == "application/problem+json"
    assert "garbage" not in str(refusal)


@pytest.mark.parametrize("header", ["X-API-Key", "x-api-key", "apikey", "ApiKey"])
@pytest.mark.parametrize("form", ["{}", " {}", "{}  ", "\t{}\t", "{0}, {0}", "{0},{0} , {0}"])
def test_a_good_key_is_taken_from_either_header_with_spaces_around_and_more_than_once(
    world: World, header: str, form: str
) -> None:
    answer = world.knock({header: form.format(world.good.key)})

    assert (answer.status, answer.body["consumer"], answer.body["key"]) == (
        200,
        "acme",
        world.good.id,
    )


def test_the_same_key_in_two_headers_is_one_key(world: World) -> None:
    assert world.knock({"X-API-Key": world.good.key, "apikey": world.good.key}).status == 200


def summed(body: str) -> str:
    """Make a well-formed key: the form is public, scanners know it. CRC32 in base62, six digits."""
    digits = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
    number = zlib.crc32(body.encode())
    return body + "".join(digits[number // 62**place % 62] for place in reversed(range(6)))


Attack = Callable[[World], str]


def just(text: str) -> Attack:
    return lambda _: text


def changed(change: Callable[[str], str]) -> Attack:
    return lambda world: change(world.good.key)


GARBAGE = (
    "",
    " ",
    "\t",
    ",",
    "pk_",
    "pk_test_",
    "pk_test_short",
    "pk__",
    "null",
    "Bearer",
    "\xe9" * 40,
    "%",
    "*",
    "' OR 1=1 --",
    "../../keys",
    "{}",
)
MISSHAPEN = {
    "a random part that is short": summed("pk_test_" + "a" * 21),
    "a character that is no base62": summed("pk_test_" + "a" * 23 + "-"),
    "an environment in capitals": summed("pk_TEST_" + "a" * 24),
    "no environment": summed("pk__" + "a" * 24),
    "another prefix": summed("sk_test_" + "a" * 24),
    "more before it": summed(" pk_test_" + "a" * 24),
}
ATTACKS: dict[str, Attack] = {
    **{f"garbage {text!r}": just(text) for text in GARBAGE},
    "garbage, huge": just("x" * 1_000_000),
    "well-formed and unknown": lambda _: make_api_key("test"),
    "well-formed and huge": just(summed("pk_test_" + "a" * 1_000_000)),
    **{f"well-formed but for {what}": just(text) for what, text in MISSHAPEN.items()},
    "of an environment that is not": lambda _: make_api_key("nowhere"),
    "of another environment": lambda world: world.make(env="prod").key,
    "of another environment, made out to be of this one": lambda world: summed(
        world.make(env="prod").key.replace("prod", "test", 1)[:-6]
    ),
    "of this environment, made out to be of another": changed(
        lambda key: summed(key.replace("test", "prod", 1)[:-6])
    ),
    "without its prefix": changed(lambda key: key.removeprefix("pk_")),
    "without its end": changed(lambda key: key[:-1]),
    "without its checksum": changed(lambda key: key[:-6]),
    "with more after it": changed(lambda key: key + "0"),
    "with a NUL after it": changed(lambda key: key + "\x00"),
    "with other cases": changed(str.swapcase),
    "backwards": changed(lambda key: key[::-1]),
    "in quotes": changed(lambda key: f'"{key}"'),
    "behind a scheme": changed(lambda key: f"ApiKey {key}"),
    "with a space within": changed(lambda key: f"{key[:20]} {key[20:]}"),
    "with a comma within": changed(lambda key: f"{key[:20]},{key[20:]}"),
    "with a letter that is not ASCII": changed(lambda key: key[:20] + "\xe9" + key[21:]),
    "with a digit that is not ASCII": changed(lambda key: key[:20] + "\u0663" + key[21:]),
    "twice in one": changed(lambda key: key + key),
}


@pytest.mark.parametrize("attack", ATTACKS)
@pytest.mark.parametrize("header", ["X-API-Key", "apikey"])
def test_every_invalid_key_gets_the_same_answer(
    world: World, refusal: Answer, attack: str, header: str
) -> None:
    key = ATTACKS[attack](world)

    answer = world.knock({header: key})

    assert answer == refusal
    assert len(key) < 20 or key not in str(answer)


def test_a_key_with_any_one_character_changed_is_no_key(world: World, refusal: Answer) -> None:
    key = world.good.key
    mistyped = [
        key[:at] + ("a" if key[at] != "a" else "b") + key[at + 1 :] for at in range(len(key))
    ]

    assert [world.knock({"X-API-Key": text}) for text in mistyped] == [refusal] * len(key)


@dataclass
class View:
    """A view of access that finds any key, and notes that it was asked."""

    expires_at: float | None = None
    usable: bool = True
    cached: bool = True
    environment: EnvironmentFacts = field(
        default_factory=lambda: EnvironmentFacts(1, "test", "api-key", 1, 3600, False, "EdDSA")
    )
    tokens_version: int = 1
    asked: list[bytes] = field(default_factory=list)

    def key(self, digest: bytes) -> ApiKey | None:
        self.asked.append(digest)
        return ApiKey("key_1", 7, self.expires_at, self.usable)

    def consumer(self, consumer_id: int) -> Consumer | None:
        return Consumer(consumer_id, "acme", enabled=True) if self.cached else None

    def signing_keys(self) -> Mapping[str, SigningKey]:
        return {}

    variables: Mapping[str, str] = field(default_factory=dict)

    def trusted_issuers(self) -> Mapping[str, TrustedIssuer]:
        return {}

    def credentials(self, *_: object) -> Mapping[str, Credential]:
        return {}

    def associated(self, *_: object) -> bool:
        return True

    def once(self, *_: object) -> bool:
        return True

    def token_revoked(self, *_: object, **__: object) -> bool:
        return True


def verified(view: View, key: str, now: float = 0.0) -> bool:
    try:
        return ApiKeys(("X-API-Key",)).verify(key, view, Caller(), now) == Caller(
            "acme", 7, "key_1"
        )
    except CredentialRejected:
        return False


def test_a_typo_is_known_without_a_look_up() -> None:
    key, view = make_api_key("test"), View()
    typed = {key[:at] + other + key[at + 1 :] for at in range(len(key)) for other in "0aZ_"}
    swapped = {key[:at] + key[at + 1] + key[at] + key[at + 2 :] for at in range(len(key) - 1)}

    taken = [text for text in (typed | swapped) - {key} if verified(view, text)]

    assert (taken, view.asked) == ([], [])
    assert verified(view, key)


@pytest.mark.parametrize("what", MISSHAPEN)
def test_what_has_another_shape_is_not_looked_up_though_its_checksum_is_right(what: str) -> None:
    view = View()

    assert not verified(view, MISSHAPEN[what])
    assert view.asked == []


def test_a_key_of_another_environment_is_not_even_looked_up() -> None:
    view = View()

    assert not verified(view, make_api_key("prod"))
    assert view.asked == []


def test_a_key_is_looked_up_by_its_sha_256_alone() -> None:
    key, view = make_api_key("test"), View()
    parsed = parse_api_key(key)

    assert verified(view, key)
    assert parsed is not None
    assert view.asked == [parsed.digest] == [hashlib.sha256(key.encode()).digest()]


@pytest.mark.parametrize(("now", "good"), [(99.9, True), (100.0, False), (100.1, False)])
def test_a_key_ends_at_the_moment_it_expires(now: float, good: bool) -> None:
    assert verified(View(expires_at=100.0), make_api_key("test"), now) == good


def test_a_key_that_is_not_usable_or_has_no_consumer_proves_nothing() -> None:
    key = make_api_key("test")

    assert not verified(View(usable=False), key)
    assert not verified(View(cached=False), key)


class TestEnds:
    def test_an_expired_key_is_refused(
        self, fresh: World, refusal: Answer, later: Callable[[float], None]
    ) -> None:
        created = fresh.make("acme", "--expires", "1h")
        before = fresh.take(created.key)

        later(3600)

        assert before == 200
        assert fresh.knock({"X-API-Key": created.key}) == refusal
        assert fresh.take(fresh.good.key) == 200

    def test_a_revoked_key_is_refused_at_once_and_no_other_with_it(
        self, fresh: World, refusal: Answer
    ) -> None:
        other = fresh.make()
        before = fresh.take(fresh.good.key)

        fresh.runtime.operate("key", "revoke", fresh.good.id)

        assert before == 200
        assert fresh.knock({"X-API-Key": fresh.good.key}) == refusal
        assert fresh.take(other.key) == 200

    def test_a_disabled_key_is_refused_until_it_is_enabled(
        self, fresh: World, refusal: Answer
    ) -> None:
        fresh.runtime.operate("key", "disable", fresh.good.id)
        disabled = fresh.knock({"X-API-Key": fresh.good.key})
        fresh.runtime.operate("key", "enable", fresh.good.id)

        assert disabled == refusal
        assert fresh.take(fresh.good.key) == 200

    def test_a_rotated_key_continues_beside_its_successor_until_its_grace_ends(
        self, fresh: World, refusal: Answer, later: Callable[[float], None]
    ) -> None:
        successor = json.loads(
            fresh.runtime.operate(
                "key", "rotate", fresh.good.id, "--grace", "1h", "--format", "json"
            )
        )["key"]
        beside = [fresh.take(fresh.good.key), fresh.take(successor)]

        later(3600)

        assert beside == [200, 200]
        assert fresh.knock({"X-API-Key": fresh.good.key}) == refusal
        assert fresh.take(successor) == 200

    @pytest.mark.parametrize(
        "way",
        [("disable", "acme"), ("dissociate", "acme", "orders", "--env", "test")],
        ids=lambda way: way[0],
    )
    def test_a_good_key_whose_consumer_may_not_call_is_a_403(
        self, fresh: World, refusal: Answer, way: tuple[str, ...]
    ) -> None:
        fresh.runtime.operate("consumer", *way)

        answer = fresh.knock({"X-API-Key": fresh.good.key})

        assert (answer.status, answer.body["type"]) == (403, "not-associated")
        assert fresh.knock({"X-API-Key": make_api_key("test")}) == refusal

    def test_what_is_undone_lets_the_key_in_again(self, fresh: World) -> None:
        for way in (
            ("disable", "acme"),
            ("enable", "acme"),
            ("dissociate", "acme", "orders", "--env", "test"),
        ):
            fresh.runtime.operate("consumer", *way)
        fresh.runtime.operate("consumer", "associate", "acme", "orders", "--env", "test")

        assert fresh.take(fresh.good.key) == 200


class TestTwoKeys:
    @pytest.mark.parametrize("second", ["{other}", "garbage", "", "{good}0"])
    @pytest.mark.parametrize("first", ["X-API-Key", "apikey"])
    def test_different_ones_in_two_headers_are_refused_however_good_each_is(
        self, world: World, refusal: Answer, first: str, second: str
    ) -> None:
        other = world.make()
        headers = {
            first: world.good.key,
            ({"X-API-Key", "apikey"} - {first}).pop(): second.format(
                other=other.key, good=world.good.key
            ),
        }

        assert world.take(other.key) == 200
        assert world.knock(headers) == refusal

    @pytest.mark.parametrize(
        "form",
        [
            "{good}, {other}",
            "{good},{other}",
            "{good}, garbage",
            "{good},",
            ", {good}",
            "{good}, , {good}",
            "{good} {other}",
        ],
    )
    def test_different_ones_in_one_header_are_refused(
        self, world: World, refusal: Answer, form: str
    ) -> None:
        assert (
            world.knock({"X-API-Key": form.format(good=world.good.key, other=world.make().key)})
            == refusal
        )


QUERIES = (
    "api_key={}",
    "apikey={}",
    "api%5Fkey={}",
    "x=1&api_key={}",
    "api_key={0}&api_key={0}",
    "api_key={0}&apikey={0}",
)


class TestQueryString:
    @pytest.mark.parametrize(
        "query", [*QUERIES, "api_key=garbage", "api_key=", "api_key", "apikey"]
    )
    @pytest.mark.parametrize("with_header", [False, True])
    def test_a_key_in_it_is_refused_even_beside_a_good_one(
        self, world: World, refusal: Answer, query: str, with_header: bool
    ) -> None:
        headers = {"X-API-Key": world.good.key} if with_header else {}

        assert world.knock(headers, query.format(world.good.key)) == refusal

    @pytest.mark.parametrize("query", QUERIES)
    @pytest.mark.parametrize("with_header", [False, True])
    def test_it_is_taken_where_the_environment_allows_that(
        self, in_query: World, query: str, with_header: bool
    ) -> None:
        headers = {"X-API-Key": in_query.good.key} if with_header else {}

        assert in_query.knock(headers, query.format(in_query.good.key)).status == 200

    @pytest.mark.parametrize(
        "query",
        [
            "api_key={0}&api_key={1}",
            "api_key={0}&apikey={1}",
            "api_key={0}&api_key=",
            "api_key={0},{0}",
            "api_key={0}%20",
        ],
    )
    def test_different_ones_in_it_are_refused_though_it_is_allowed(
        self, in_query: World, refusal: Answer, query: str
    ) -> None:
        assert in_query.knock(query=query.format(in_query.good.key, in_query.make().key)) == refusal

    def test_one_that_differs_from_the_header_is_refused_though_it_is_allowed(
        self, in_query: World, refusal: Answer
    ) -> None:
        assert (
            in_query.knock({"X-API-Key": in_query.good.key}, f"api_key={in_query.make().key}")
            == refusal
        )

    def test_it_is_refused_again_once_the_environment_forbids_it(
        self, in_query: World, refusal: Answer
    ) -> None:
        query = f"api_key={in_query.good.key}"
        before = in_query.knock(query=query).status

        in_query.runtime.operate("env", "set", "test", "--keys-in-query", "off")

        assert before == 200
        assert in_query.knock(query=query) == refusal

    @pytest.mark.parametrize(
        "query",
        ["API_KEY={}", "key={}", "x-api-key={}", "X-API-Key={}", "api_key%00={}", "q=api_key={}"],
    )
    def test_other_parameters_are_no_keys(self, in_query: World, query: str) -> None:
        assert (
            in_query.knock(query=query.format(in_query.good.key)).body["type"]
            == "credentials-missing"
        )


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"Authorization": "{}"},
        {"Authorization": "Bearer {}"},
        {"Cookie": "api_key={}"},
        {"X-Api-Keys": "{}"},
    ],
)
def test_a_key_elsewhere_is_none(world: World, headers: Headers) -> None:
    answer = world.knock({name: value.format(world.good.key) for name, value in headers.items()})

    assert (answer.status, answer.body["type"]) == (401, "credentials-missing")


def test_the_operator_names_the_headers(penstock_runtime: Start) -> None:
    world = opened(
        penstock_runtime(Shop(), policy="api-key", api_key_headers=("X-Partner-Key", "X-Old-Key"))
    )
    key = world.good.key

    taken = [world.knock({name: key}).status for name in ("X-Partner-Key", "x-old-key")]

    assert taken == [200, 200]
    assert [world.knock({name: key}).body["type"] for name in ("X-API-Key", "apikey")] == [
        "credentials-missing"
    ] * 2
    assert (
        world.knock({"X-Partner-Key": key, "X-Old-Key": make_api_key("test")}).body["type"]
        == "invalid-api-key"
    )
    assert world.knock({"X-Partner-Key": key, "X-API-Key": make_api_key("test")}).status == 200


def test_no_key_is_ever_logged(capfd: pytest.CaptureFixture[str], penstock_runtime: Start) -> None:
    runtime = penstock_runtime(
        Shop(), policy="api-key", log_calls="all", log_level="debug", log_format="json"
    )
    world = opened(runtime)
    revoked, other = world.make(), world.make()
    runtime.operate("key", "revoke", revoked.id)
    keys = [
        world.good.key,
        revoked.key,
        other.key,
        make_api_key("test"),
        make_api_key("prod"),
        world.good.key[:-1] + "-",
    ]

    for allowed in ("off", "on"):
        runtime.operate("env", "set", "test", "--keys-in-query", allowed)
        for key in keys:
            world.knock({"X-API-Key": key})
            world.knock({"apikey": f"{key}, {world.good.key}x"})
            world.knock({"X-API-Key": world.good.key}, f"api_key={key}")
            world.knock(query=f"apikey={key}&x=1")

    out, logged = capfd.readouterr()
    calls = [json.loads(line) for line in logged.splitlines() if '"call"' in line]
    assert len(calls) == 48
    assert {call["status"] for call in calls} == {200, 401}
    assert {call["path"] for call in calls} == {"/v1/orders/"}
    for key in keys:
        random = key.removeprefix("pk_test_").removeprefix("pk_prod_")
        assert random[:10] not in out + logged
        assert random[-10:] not in out + logged


def test_no_key_is_in_any_repr(world: World) -> None:
    key = world.good.key
    head = RequestHead({"HTTP_X_API_KEY": key, "QUERY_STRING": f"api_key={key}"})
    parsed = parse_api_key(key)
    caller = Caller("acme", 1, world.good.id)
    reported = world.knock({"X-API-Key": key, "apikey": key}).body["printed"]

    shown = (
        f"{head!r} {head} {parsed!r} {parsed} {caller!r} {ApiKeys(('X-API-Key',))!r}"
        f" {world.runtime.client()!r} {world.runtime!r} {reported}"
    )

    assert parsed is not None
    assert "acme" in reported
    assert "x-api-key" not in reported.lower()
    assert key not in shown
    assert key[8:20] not in shown
    assert repr(parsed.digest)[2:-1] not in shown
    assert parsed.digest.hex() not in shown
