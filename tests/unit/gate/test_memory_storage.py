"""Counting in memory: windows, the room there is, and what a call costs with many callers beside
it."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, MutableMapping
from types import FrameType
from typing import Any

import pytest
import structlog
from limits import RateLimitItemPerSecond
from limits.strategies import FixedWindowRateLimiter, MovingWindowRateLimiter

from penstock import Rate
from penstock.contracts.call import ANONYMOUS
from penstock.errors import Refusal
from penstock.gate.memory_storage import MemoryStorage
from penstock.gate.rates import Limiter

START = 1_800_000_000.0


class Clock:
    def __init__(self) -> None:
        self.now = START

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    created = Clock()
    monkeypatch.setattr("time.time", created)
    return created


def limiter(**more: Any) -> Limiter:
    return Limiter("memory://", **more)


def passes(created: Limiter, address: str, rate: str = "2/minute") -> bool:
    try:
        created.count([("test/v1/a", Rate(rate, by="address"))], ANONYMOUS, address)
    except Refusal:
        return False
    return True


def test_a_window_moves_along_with_the_calls(clock: Clock) -> None:
    created = limiter()
    answers = []

    for second in (0, 50, 59, 61, 62, 109, 111):
        clock.now = START + second
        answers.append(passes(created, "192.0.2.1"))

    assert answers == [True, True, False, True, False, False, True]


def test_failures_are_counted_in_a_window_that_stays(clock: Clock) -> None:
    created = limiter(failures=Rate("2/minute", by="address"))

    def fails(second: float) -> int:
        clock.now = START + second
        try:
            created.fail("test", "192.0.2.1")
        except Refusal as refusal:
            return int(dict(refusal.headers)["Retry-After"])
        return 0

    assert [fails(second) for second in (0, 50, 55, 59, 61, 62, 63)] == [0, 0, 5, 1, 0, 0, 58]


def test_who_has_not_called_for_longest_is_forgotten_beyond_the_room_there_is(clock: Clock) -> None:
    memory = MemoryStorage(max_callers=3)
    windows, twice = MovingWindowRateLimiter(memory), RateLimitItemPerSecond(2, 60)

    assert [windows.hit(twice, name) for name in ("a", "b", "c", "a", "c", "a")] == [True] * 5 + [
        False
    ]
    assert not memory.forgotten
    assert windows.hit(twice, "d")
    assert memory.forgotten
    assert [windows.get_window_stats(twice, name).remaining for name in ("a", "b", "c", "d")] == [
        0,
        2,
        0,
        1,
    ]


def test_windows_that_are_over_make_room_before_anybody_is_forgotten(clock: Clock) -> None:
    memory = MemoryStorage(max_callers=3)
    windows, second, day = (
        MovingWindowRateLimiter(memory),
        RateLimitItemPerSecond(1, 1),
        RateLimitItemPerSecond(1, 86_400),
    )

    assert windows.hit(day, "patient")
    for number in range(50):
        assert windows.hit(second, f"a{number}")
        assert windows.hit(second, f"b{number}")
        clock.now += 1.5

    assert (windows.test(day, "patient"), memory.forgotten) == (False, False)


def test_a_flood_pushes_out_none_that_are_counted_for_another_length(clock: Clock) -> None:
    memory = MemoryStorage(max_callers=10)
    windows, minute, day = (
        MovingWindowRateLimiter(memory),
        RateLimitItemPerSecond(1, 60),
        RateLimitItemPerSecond(1, 86_400),
    )
    assert windows.hit(day, "patient")

    for number in range(100):
        assert windows.hit(minute, f"address {number}")

    assert (windows.test(day, "patient"), memory.forgotten, memory.reset()) == (False, True, 10)


def test_failures_have_bounded_room_too(clock: Clock) -> None:
    memory = MemoryStorage(max_callers=10)
    fixed, minute = FixedWindowRateLimiter(memory), RateLimitItemPerSecond(1, 60)

    for number in range(100):
        assert fixed.hit(minute, f"address {number}")
    assert (fixed.hit(minute, "address 99"), fixed.test(minute, "address 0"), memory.reset()) == (
        False,
        True,
        10,
    )


def steps(work: Callable[[], object]) -> int:
    """Return how many lines of Python some work takes."""
    count = 0

    def trace(frame: FrameType, event: str, arg: object) -> Callable[..., Any]:
        nonlocal count
        count += 1
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        work()
    finally:
        sys.settrace(before)
    return count


@pytest.mark.parametrize("others", [1_000, 2_000])
def test_a_call_takes_no_more_steps_for_callers_beside_it(
    clock: Clock, monkeypatch: pytest.MonkeyPatch, others: int
) -> None:
    """With room for them, and with more of them than there is room for."""
    monkeypatch.setattr("penstock.gate.rates.MAX_CALLERS", 1_500)
    created = limiter()
    alone = steps(lambda: passes(created, "192.0.2.1", "100/hour"))
    for number in range(others):
        assert passes(created, f"10.0.{number // 250}.{number % 250}", "100/hour")

    assert steps(lambda: passes(created, "192.0.2.1", "100/hour")) <= alone + 60


@pytest.fixture
def lines() -> Iterator[list[MutableMapping[str, Any]]]:
    """The log, with the configuration that earlier tests have left replaced."""
    before = structlog.get_config()
    structlog.reset_defaults()
    with structlog.testing.capture_logs() as written:
        yield written
    structlog.configure(**before)


def test_full_memory_is_logged_once_a_minute(
    clock: Clock, monkeypatch: pytest.MonkeyPatch, lines: list[MutableMapping[str, Any]]
) -> None:
    monkeypatch.setattr("penstock.gate.rates.MAX_CALLERS", 5)
    created = limiter()

    for number in range(50):
        passes(created, f"192.0.2.{number}")

    assert [line["event"] for line in lines] == ["more callers than memory has room for"]


def test_a_caller_can_be_forgotten_on_purpose(clock: Clock) -> None:
    memory = MemoryStorage(max_callers=3)
    windows, minute = MovingWindowRateLimiter(memory), RateLimitItemPerSecond(1, 60)
    assert windows.hit(minute, "a")
    assert memory.check()

    windows.clear(minute, "a")

    assert windows.test(minute, "a")
