"""Guesses are counted before they are looked at: so many at a time get no more looks than one
after the other."""

from __future__ import annotations

import base64
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from typing import Any

import pytest
from argon2 import PasswordHasher
from argon2.exceptions import VerificationError
from support.console import PASSWORD, ROOT, create_users, engine_of
from support.services import Redis

from penstock import Call, CredentialRejected, HttpTrigger, Pipeline, Rate, hookimpl
from penstock.access import sessions, users
from penstock.errors import Refusal
from penstock.gate import guesses
from penstock.gate.rates import Limiter
from penstock.testing import Runtime
from penstock_basic import Basic

Start = Callable[..., Runtime]
ADDRESS = "192.0.2.1"
SECRET = "hunter2-hunter2-hunter2"


def limiter(url: str = "memory://", rate: str = "10/minute", **more: Any) -> Limiter:
    return Limiter(url, failures=Rate(rate, by="address"), **more)


def tried(counter: Limiter, *, right: bool, look: Callable[[], object] = lambda: None) -> int:
    """Guess once; return what comes of it: 200, 401, or the status of a refusal without a look."""
    try:
        with counter.guess("test", ADDRESS) as guess:
            look()
            guess.right = right
    except Refusal as refusal:
        return refusal.status
    return 200 if right else 401


def at_once(number: int, guess: Callable[[int], int]) -> list[int]:
    barrier = threading.Barrier(number)

    def attempt(index: int) -> int:
        barrier.wait(20)
        return guess(index)

    with ThreadPoolExecutor(number) as pool:
        return list(pool.map(attempt, range(number)))


def test_sixty_wrong_guesses_at_once_get_as_many_looks_as_there_are_counts() -> None:
    counter, looks = limiter(), list[int]()

    answers = at_once(
        60, lambda _: tried(counter, right=False, look=lambda: (looks.append(1), time.sleep(0.05)))
    )

    assert len(looks) == 10
    assert answers.count(401) == 10
    assert set(answers) <= {401, 429, 503}


def test_the_right_one_among_them_is_found_by_luck_alone() -> None:
    for _ in range(5):
        counter, looks = limiter(rate="3/minute"), list[int]()
        at_once(
            40,
            lambda index, counter=counter, looks=looks: tried(
                counter, right=index == 39, look=lambda: (looks.append(index), time.sleep(0.01))
            ),
        )  # type: ignore[misc]  # mypy can't infer a lambda with defaults

        assert len(looks) <= 4  # a right one gives its count back, to one more


def test_right_ones_take_no_counts_however_many_there_are() -> None:
    counter = limiter(rate="2/minute")

    assert [tried(counter, right=True) for _ in range(50)] == [200] * 50
    assert [tried(counter, right=False) for _ in range(3)] == [401, 401, 429]
    assert tried(counter, right=True) == 429  # like any: it must not tell itself apart


def test_many_right_ones_at_once_wait_for_one_another_and_are_not_turned_away() -> None:
    counter = limiter(rate="5/minute")

    answers = at_once(30, lambda _: tried(counter, right=True, look=lambda: time.sleep(0.02)))

    assert answers == [200] * 30


def test_a_guess_that_waits_too_long_for_others_gets_503(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(guesses, "MAX_WAIT_S", 0.1)
    counter, proceed = limiter(rate="1/minute"), threading.Event()
    with ThreadPoolExecutor(1) as pool:
        slow = pool.submit(tried, counter, right=True, look=lambda: proceed.wait(10))
        while not counter._guesses[0]._under_way:  # type: ignore[index]  # noqa: SLF001  it has begun
            time.sleep(0.01)

        crowded = tried(counter, right=True)
        proceed.set()

        assert (crowded, slow.result()) == (503, 200)
    assert tried(counter, right=True) == 200


def test_a_look_that_was_not_taken_gives_its_count_back() -> None:
    counter = limiter(rate="1/minute")
    for _ in range(3):
        with pytest.raises(Refusal), counter.guess("test", ADDRESS):
            raise Refusal(503, "pipeline-busy", "no turn")
    with pytest.raises(Refusal), counter.guess("test", ADDRESS):
        raise Refusal(401, "invalid-login", "wrong") from CredentialRejected("wrong")

    assert tried(counter, right=True) == 429


def test_a_window_that_is_over_owes_nothing_to_a_look_of_before(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    now = [1_800_000_000.0]
    monkeypatch.setattr("time.time", lambda: now[0])
    counter = limiter(rate="2/minute")
    with ExitStack() as stack:
        for _ in range(2):
            stack.enter_context(counter.guess("test", ADDRESS)).right = True
        now[0] += 61  # they end in another window

    assert [tried(counter, right=False) for _ in range(3)] == [401, 401, 429]


def test_processes_that_share_a_storage_count_guesses_together(redis: Redis) -> None:
    counter, looks = [limiter(redis.url), limiter(redis.url)], list[int]()

    answers = at_once(
        40, lambda index: tried(counter[index % 2], right=False, look=lambda: looks.append(1))
    )

    assert len(looks) == answers.count(401) == 10
    assert tried(counter[0], right=True) == tried(counter[1], right=True) == 429


def offering() -> type:
    pipeline = Pipeline("orders", version="1.0.0", trigger=HttpTrigger(basic=True))

    @pipeline.get("/")
    def show(call: Call) -> str:
        return str(call.caller.consumer)

    class Plugin:
        @staticmethod
        @hookimpl
        def penstock_pipelines() -> list[Pipeline]:
            return [pipeline]

    return Plugin


class TestBasic:
    """HTTP Basic at the gate."""

    @pytest.fixture
    def runtime(self, penstock_runtime: Start) -> Runtime:
        runtime = penstock_runtime(offering(), policy="any", failed_auth_rate="5/minute")
        runtime.client("acme", key=False, token=False)
        runtime.operate(
            "credential", "add", "basic", "acme", "--env", "test", "--name", "ann", given=SECRET
        )
        return runtime

    def ask(self, runtime: Runtime, password: str) -> int:
        sent = base64.b64encode(f"ann:{password}".encode()).decode()
        return (
            runtime.anonymous()
            .get("/v1/orders/", headers={"Authorization": f"Basic {sent}"})
            .status_code
        )

    def test_guesses_at_once_get_no_more_looks_than_the_rate_allows(
        self, runtime: Runtime, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        looks: list[str] = []
        verify = Basic._matches  # noqa: SLF001  where a password is looked at

        def look(self: Basic, hashed: str, password: str) -> bool:
            looks.append(password)
            return verify(self, hashed, password)

        monkeypatch.setattr(Basic, "_matches", look)

        answers = at_once(24, lambda index: self.ask(runtime, f"guess {index}"))

        assert len(looks) <= 5 + answers.count(503)  # a look that found no turn was none
        assert answers.count(401) <= 5
        assert set(answers) <= {401, 429, 503}

    def test_a_client_that_begins_with_many_right_calls_is_not_turned_away(
        self, runtime: Runtime, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(guesses, "MAX_WAIT_S", 20.0)
        monkeypatch.setattr("penstock_basic.MAX_WAIT_S", 20.0)

        assert at_once(16, lambda _: self.ask(runtime, SECRET)) == [200] * 16

    def test_a_wrong_guess_counts_once(
        self, runtime: Runtime, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def wrong(*_: object) -> None:
            raise VerificationError

        monkeypatch.setattr(PasswordHasher, "verify", wrong)

        assert [self.ask(runtime, f"guess {index}") for index in range(7)] == [401] * 5 + [429] * 2


class TestSigningIn:
    """Sign-in to the console."""

    @pytest.fixture
    def desk(self, penstock_runtime: Start) -> Runtime:
        runtime = penstock_runtime(console=True, console_sign_in_rate="10/minute")
        create_users(engine_of(runtime))
        return runtime

    def sign_in(self, runtime: Runtime, name: str, password: str, address: str) -> int:
        client = runtime.application.test_client()
        page = client.get(f"{ROOT}/sign-in", environ_base={"REMOTE_ADDR": address})
        csrf = page.text.partition('name="csrf-token" content="')[2].partition('"')[0]
        form = {"name": name, "password": password, "csrf_token": csrf}
        return client.post(
            f"{ROOT}/sign-in", data=form, environ_base={"REMOTE_ADDR": address}
        ).status_code

    def test_guesses_at_once_get_no_more_looks_than_the_rate_allows(
        self, desk: Runtime, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        looks: list[str] = []
        check = users.check_password

        def look(engine: Any, name: str, password: str) -> str | None:
            looks.append(password)
            return check(engine, name, password)

        monkeypatch.setattr(users, "check_password", look)

        answers = at_once(
            40,
            lambda index: self.sign_in(
                desk, "ann", PASSWORD if index == 39 else f"guess {index}", ADDRESS
            ),
        )

        assert len(looks) <= 11  # the right one, if it was among them, gave its count back
        assert answers.count(422) <= 10

    def test_guesses_from_elsewhere_do_not_lock_a_user_out_of_a_known_address(
        self, desk: Runtime
    ) -> None:
        home, ipv6 = "198.51.100.7", "2001:db8:7::1"
        assert (
            self.sign_in(desk, "ann", PASSWORD, home)
            == self.sign_in(desk, "ann", PASSWORD, ipv6)
            == 303
        )

        wrong = [
            self.sign_in(desk, "ann", f"guess {number}", f"203.0.113.{number // 10}")
            for number in range(52)
        ]

        assert wrong == [422] * 50 + [429] * 2
        # An address that she never signed in from.
        assert self.sign_in(desk, "ann", PASSWORD, "203.0.113.99") == 429
        assert self.sign_in(desk, "ann", PASSWORD, home) == 303
        assert self.sign_in(desk, "ann", PASSWORD, "2001:db8:7::2") == 303  # the same network
        assert self.sign_in(desk, "oli", PASSWORD, home) == 303

    def test_guessing_from_a_known_address_is_bounded_all_the_same(self, desk: Runtime) -> None:
        assert self.sign_in(desk, "ann", PASSWORD, ADDRESS) == 303

        assert [self.sign_in(desk, "ann", f"guess {number}", ADDRESS) for number in range(12)] == [
            422
        ] * 10 + [429] * 2
        assert self.sign_in(desk, "ann", PASSWORD, ADDRESS) == 429

    def test_an_address_is_known_for_the_user_who_signed_in_and_for_ninety_days(
        self, desk: Runtime, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        engine = engine_of(desk)
        self.sign_in(desk, "ann", PASSWORD, ADDRESS)

        assert sessions.is_known_address(engine, "ann", ADDRESS)
        assert not sessions.is_known_address(engine, "oli", ADDRESS)
        assert not sessions.is_known_address(engine, "unknown", ADDRESS)
        assert not sessions.is_known_address(engine, "ann", "")
        monkeypatch.setattr(sessions, "NETWORK_RETENTION", -sessions.NETWORK_RETENTION)
        assert not sessions.is_known_address(engine, "ann", ADDRESS)
