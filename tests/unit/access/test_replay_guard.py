"""The guard of calls that count once, on each database."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from unittest import mock

import pytest
from support.place import Place

from penstock import Once
from penstock.access.replay_guard import MessageClaim, ReplayGuard
from penstock.db import idempotency
from penstock.db.engine import reading
from penstock.db.failures import DatabaseUnavailable
from penstock.db.run_tables import IdempotentReplyRow
from penstock.db.unit_of_work import RowReader
from penstock.host.host import Host
from penstock.settings import Settings

MESSAGE = Once(b"1700000000.{}", 600)


def rows(place: Place) -> list[bytes]:
    with reading(place.engine) as connection:
        return [row.digest for row in RowReader(connection).all(IdempotentReplyRow)]


def test_a_mark_is_of_environment_kind_consumer_and_message(place: Place) -> None:
    guard, prod = ReplayGuard(place.engine, "test"), ReplayGuard(place.engine, "prod")
    others: list[Callable[[], MessageClaim | None]] = [
        lambda: prod.claim("stripe_signature", 1, MESSAGE),
        lambda: guard.claim("hmac_signature", 1, MESSAGE),
        lambda: guard.claim("stripe_signature", 2, MESSAGE),
        lambda: guard.claim("stripe_signature", 1, Once(b"1700000000.{ }", 600)),
    ]

    assert guard.claim("stripe_signature", 1, MESSAGE) is not None
    assert guard.claim("stripe_signature", 1, MESSAGE) is None
    assert ReplayGuard(place.engine, "test").claim("stripe_signature", 1, MESSAGE) is None
    assert all(claim() is not None for claim in others)
    assert all(claim() is None for claim in others)


def test_of_many_at_once_one_has_it(place: Place) -> None:
    at_once = threading.Barrier(8)

    def claim(_: int) -> MessageClaim | None:
        guard = ReplayGuard(place.engine, "test")
        at_once.wait()
        return guard.claim("hmac_signature", 1, MESSAGE)

    with ThreadPoolExecutor(8) as pool:
        claimed = [mark for mark in pool.map(claim, range(8)) if mark is not None]

    assert [mark.owned for mark in claimed] == [True]


def test_it_ends_by_itself_when_no_copy_can_pass_any_more(place: Place) -> None:
    guard = ReplayGuard(place.engine, "test")
    assert guard.claim("hmac_signature", 1, MESSAGE) is not None

    for seconds, free in ((599, False), (601, True)):
        with mock.patch("penstock.clock.now", return_value=time.time() + seconds):
            assert (guard.claim("hmac_signature", 1, MESSAGE) is not None) == free


def test_what_is_given_back_late_frees_no_later_mark(place: Place) -> None:
    guard = ReplayGuard(place.engine, "test")
    first = guard.claim("hmac_signature", 1, MESSAGE)
    assert first is not None
    guard.release([first])
    second = guard.claim("hmac_signature", 1, MESSAGE)
    assert second is not None

    guard.release([first])

    assert guard.claim("hmac_signature", 1, MESSAGE) is None


def test_a_call_that_shares_a_mark_gives_nothing_back(place: Place) -> None:
    guard = ReplayGuard(place.engine, "test")
    assert guard.claim("hmac_signature", 1, MESSAGE, b"k" * 32) is not None
    repeat = guard.claim("hmac_signature", 1, MESSAGE, b"k" * 32)
    assert repeat is not None
    assert not repeat.owned

    guard.release([repeat])

    assert [guard.claim("hmac_signature", 1, MESSAGE, key) for key in (b"", b"o" * 32)] == [
        None,
        None,
    ]


def test_while_the_database_is_away_it_waits_and_is_given_back_later(place: Place) -> None:
    guard = ReplayGuard(place.engine, "test")
    mark = guard.claim("hmac_signature", 1, MESSAGE)
    assert mark is not None

    with mock.patch("penstock.db.idempotency.release", side_effect=DatabaseUnavailable("made up")):
        guard.release([mark])
    assert len(rows(place)) == 1
    guard.flush()

    assert rows(place) == []


def test_a_copy_that_comes_before_it_was_given_back_in_its_own_process_is_the_first_again(
    place: Place,
) -> None:
    guard = ReplayGuard(place.engine, "test")
    mark = guard.claim("hmac_signature", 1, MESSAGE)
    assert mark is not None

    guard.release_later([mark])

    again = guard.claim("hmac_signature", 1, MESSAGE)
    assert again is not None
    assert again.owned
    guard.flush()
    assert len(rows(place)) == 1


@pytest.mark.parametrize("away", [False, True])
def test_a_process_gives_back_what_waits(sqlite_place: Place, away: bool) -> None:
    host = Host(
        Settings(
            environment="test", database_url=sqlite_place.url, secret_keys=(sqlite_place.secret,)
        )
    )
    host.start()
    try:
        assert host.services is not None
        mark = host.services.replay_guard.claim("hmac_signature", 1, MESSAGE)
        assert mark is not None
        with mock.patch(
            "penstock.db.idempotency.release",
            side_effect=first_fails(idempotency.release) if away else idempotency.release,
        ):
            host.services.replay_guard.release_later([mark])
            until = time.monotonic() + 5
            while rows(sqlite_place) and time.monotonic() < until:
                time.sleep(0.02)
        assert rows(sqlite_place) == []
    finally:
        host.stop()


def first_fails(release: Callable[..., None]) -> Callable[..., None]:
    failures = [DatabaseUnavailable("made up")]

    def fail_first(*words: object) -> None:
        if failures:
            raise failures.pop()
        release(*words)

    return fail_first
