"""Basic: users and passwords, through the real gate."""

from __future__ import annotations

import base64
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace
from typing import Any

import pytest
from argon2 import PasswordHasher
from argon2.exceptions import VerificationError
from werkzeug.test import TestResponse

from penstock import Call, HttpTrigger, Pipeline, hookimpl
from penstock.testing import CallerClient, Runtime
from penstock_basic import MAX_HASHES_AT_ONCE, UNKNOWN_USER_HASH, Basic

Start = Callable[..., Runtime]
PASSWORD = "correct horse: battery"


def offering(**trigger: Any) -> SimpleNamespace:
    pipeline = Pipeline(
        "orders", version="1.0.0", trigger=HttpTrigger(**{"basic": True, **trigger})
    )

    @pipeline.get("/")
    def show(call: Call) -> dict[str, str | None]:
        return {"consumer": call.caller.consumer, "key": call.caller.key_id and "yes"}

    @hookimpl
    def penstock_pipelines() -> list[Pipeline]:
        return [pipeline]

    return SimpleNamespace(__name__="orders", penstock_pipelines=penstock_pipelines)


@pytest.fixture
def runtime(penstock_runtime: Start) -> Runtime:
    created = penstock_runtime(offering(), policy="any")
    created.client("acme", key=False, token=False)
    created.client("other", key=False, token=False)
    created.operate(
        "credential",
        "add",
        "basic",
        "acme",
        "--env",
        "test",
        "--name",
        "jörg",
        given=PASSWORD + "\n",
    )
    return created


def get(
    runtime: Runtime, user: str, password: str, client: CallerClient | None = None
) -> TestResponse:
    sent = base64.b64encode(f"{user}:{password}".encode()).decode()
    return (client or runtime.anonymous()).get(
        "/v1/orders/", headers={"Authorization": f"Basic {sent}"}
    )


def problem(answered: TestResponse) -> tuple[int, str]:
    return answered.status_code, (answered.json or {}).get("type", "")


def test_the_right_password_is_its_consumer_the_first_time_and_later(runtime: Runtime) -> None:
    answers = [get(runtime, "jörg", PASSWORD) for _ in range(3)]

    assert [answered.json for answered in answers] == [{"consumer": "acme", "key": None}] * 3


@pytest.mark.parametrize(
    ("user", "password"),
    [("jörg", "wrong"), ("jörg", ""), ("ann", PASSWORD), ("", PASSWORD), ("jörg", PASSWORD + "x")],
)
def test_a_wrong_one_is_a_401_that_does_not_say_which(
    runtime: Runtime, user: str, password: str
) -> None:
    get(runtime, "jörg", PASSWORD)

    answered = get(runtime, user, password)

    assert problem(answered) == (401, "invalid-login")
    assert answered.headers["WWW-Authenticate"] == 'Basic realm="test"'
    assert (answered.json or {})["detail"] == "The user and password is not valid here."


@pytest.mark.parametrize(
    "sent",
    [
        "Basic",
        "Basic !!!",
        "Basic " + base64.b64encode(b"nocolon").decode(),
        "Basic /////w==",
        "basic " + "QTpi" * 500,
    ],
)
def test_what_is_malformed_is_a_401(runtime: Runtime, sent: str) -> None:
    answered = runtime.anonymous().get("/v1/orders/", headers={"Authorization": sent})

    assert problem(answered) == (401, "invalid-login")


def test_nothing_and_other_schemes_are_missing(runtime: Runtime) -> None:
    for headers in ({}, {"Authorization": "Digest x"}):
        assert problem(runtime.anonymous().get("/v1/orders/", headers=headers)) == (
            401,
            "credentials-missing",
        )


def test_revoking_ends_it_at_once_also_where_it_was_right_before(runtime: Runtime) -> None:
    assert get(runtime, "jörg", PASSWORD).status_code == 200
    identifier = (
        runtime.operate("credential", "list", "--format", "json").split('"id": "')[1].split('"')[0]
    )

    runtime.operate("credential", "revoke", identifier)

    assert problem(get(runtime, "jörg", PASSWORD)) == (401, "invalid-login")
    runtime.operate(
        "credential",
        "add",
        "basic",
        "acme",
        "--env",
        "test",
        "--name",
        "jörg",
        given="another password",
    )
    assert problem(get(runtime, "jörg", PASSWORD)) == (401, "invalid-login")
    assert get(runtime, "jörg", "another password").status_code == 200


def test_a_consumer_that_is_not_associated_is_a_403(penstock_runtime: Start) -> None:
    runtime = penstock_runtime(offering(), policy="any")
    runtime.operate("consumer", "create", "acme")
    runtime.operate(
        "credential", "add", "basic", "acme", "--env", "test", "--name", "a", given=PASSWORD
    )

    assert problem(get(runtime, "a", PASSWORD)) == (403, "not-associated")


def test_key_and_password_must_be_of_one_consumer(penstock_runtime: Start) -> None:
    runtime = penstock_runtime(offering(api_key=True), policy="api-key")
    acme, other = runtime.client("acme", token=False), runtime.client("other", token=False)
    runtime.operate(
        "credential", "add", "basic", "acme", "--env", "test", "--name", "a", given=PASSWORD
    )

    assert get(runtime, "a", PASSWORD, acme).json == {"consumer": "acme", "key": "yes"}
    assert problem(get(runtime, "a", PASSWORD, other)) == (401, "invalid-login")
    assert (
        problem(get(runtime, "a", PASSWORD))
        == problem(acme.get("/v1/orders/"))
        == (401, "credentials-missing")
    )


def test_what_is_sent_without_being_asked_for_is_checked_all_the_same(
    penstock_runtime: Start,
) -> None:
    runtime = penstock_runtime(offering(basic=False), policy="any")

    assert problem(get(runtime, "a", "b")) == (401, "invalid-login")
    assert runtime.anonymous().get("/v1/orders/").status_code == 200


@pytest.mark.parametrize("policy", ["api-key", "jwt-api-key"])
def test_it_satisfies_no_policy(penstock_runtime: Start, policy: str) -> None:
    runtime = penstock_runtime(offering(), policy=policy)

    assert any("requires api_key=True" in reason for reason in runtime.blocked()["v1/orders"])
    assert get(runtime, "a", PASSWORD).status_code == 503


def test_under_any_it_is_not_open_to_anyone(runtime: Runtime) -> None:
    assert runtime.warnings() == {}


def test_basic_and_tokens_are_a_mistake_on_one_trigger(penstock_runtime: Start) -> None:
    assert (
        "both use the header Authorization"
        in penstock_runtime(offering(jwt=True, api_key=True), policy="any").problems()[0]
    )


@pytest.mark.parametrize(
    ("name", "password"),
    [("a:b", PASSWORD), ("", PASSWORD), ("a\n", PASSWORD), ("a", "short"), ("a", "x" * 600)],
)
def test_what_can_be_no_login_is_not_enrolled(runtime: Runtime, name: str, password: str) -> None:
    with pytest.raises(Exception, match=r"a user's name has no colon|a password has at least"):
        runtime.operate(
            "credential", "add", "basic", "acme", "--env", "test", "--name", name, given=password
        )


def test_the_password_is_kept_as_a_hash_and_shown_nowhere(runtime: Runtime) -> None:
    (stored,) = runtime.access.credentials("basic").values()

    assert stored.secret.startswith(b"$argon2id$")
    assert "argon2id" not in repr(stored)
    assert PASSWORD not in runtime.operate("credential", "list", "--format", "json")


def test_a_generated_secret_is_shown_once_and_works(runtime: Runtime) -> None:
    printed = runtime.operate(
        "credential", "add", "basic", "acme", "--env", "test", "--name", "b", "--generate"
    )

    assert get(runtime, "b", printed.splitlines()[-1]).json == {"consumer": "acme", "key": None}


def test_guessing_takes_no_more_than_its_share(
    runtime: Runtime, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun, proceed = threading.Semaphore(0), threading.Event()

    def slow(*_: object) -> None:
        begun.release()
        assert proceed.wait(10)
        raise VerificationError

    assert get(runtime, "jörg", PASSWORD).status_code == 200
    monkeypatch.setattr(PasswordHasher, "verify", slow)
    with ThreadPoolExecutor(MAX_HASHES_AT_ONCE) as pool:
        guesses = [
            pool.submit(get, runtime, "jörg", f"guess {number}")
            for number in range(MAX_HASHES_AT_ONCE)
        ]
        for _ in guesses:
            assert begun.acquire(timeout=10)
        crowded = get(runtime, "jörg", "one guess more")
        cached = get(runtime, "jörg", PASSWORD)
        proceed.set()

        assert [guess.result().status_code for guess in guesses] == [401] * MAX_HASHES_AT_ONCE
    assert (problem(crowded), crowded.headers["Retry-After"]) == ((503, "pipeline-busy"), "1")
    assert cached.status_code == 200


def test_an_address_that_failed_too_often_can_try_no_other_password(
    penstock_runtime: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    runtime = penstock_runtime(offering(), policy="any", failed_auth_rate="2/minute")
    runtime.client("acme", key=False, token=False)
    runtime.operate(
        "credential", "add", "basic", "acme", "--env", "test", "--name", "jörg", given=PASSWORD
    )
    assert get(runtime, "jörg", PASSWORD).status_code == 200  # known to be right from now on
    hashed: list[str] = []

    def wrong(_: PasswordHasher, hashed_before: str, password: str) -> None:
        hashed.append(password)
        raise VerificationError

    monkeypatch.setattr(PasswordHasher, "verify", wrong)

    assert [get(runtime, "jörg", f"guess {number}").status_code for number in range(4)] == [
        401,
        401,
        429,
        429,
    ]
    right = get(runtime, "jörg", PASSWORD)
    elsewhere = runtime.anonymous()
    elsewhere.headers["Authorization"] = (
        f"Basic {base64.b64encode(f'jörg:{PASSWORD}'.encode()).decode()}"
    )

    assert (problem(right), len(hashed)) == ((429, "rate-limited"), 2)
    assert 1 <= int(right.headers["Retry-After"]) <= 60
    assert (
        elsewhere.get("/v1/orders/", environ_overrides={"REMOTE_ADDR": "203.0.113.10"}).status_code
        == 200
    )
    # Nothing was tried: the answer names what is missing.
    assert runtime.anonymous().get("/v1/orders/").status_code == 401


def test_a_login_that_has_expired_is_a_401(
    penstock_runtime: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    runtime = penstock_runtime(offering(), policy="any")
    runtime.client("acme", key=False, token=False)
    runtime.operate(
        "credential",
        "add",
        "basic",
        "acme",
        "--env",
        "test",
        "--name",
        "jörg",
        "--expires",
        "1h",
        given=PASSWORD,
    )

    before = get(runtime, "jörg", PASSWORD).status_code
    later = time.time() + 3601
    monkeypatch.setattr("time.time", lambda: later)

    assert (before, problem(get(runtime, "jörg", PASSWORD))) == (200, (401, "invalid-login"))


def test_the_hash_for_unknown_users_matches_no_password_and_costs_the_same() -> None:
    _, hashed = Basic().enrol("a", PASSWORD)

    assert UNKNOWN_USER_HASH.split("$")[:4] == hashed.decode().split("$")[:4]


def test_openapi_says_basic(runtime: Runtime) -> None:
    document: Any = runtime.anonymous().get("/-/openapi.json").json

    assert document["components"]["securitySchemes"] == {
        "basic": {"type": "http", "scheme": "basic"}
    }
    assert document["paths"]["/v1/orders"]["get"]["security"] == [{"basic": []}]
