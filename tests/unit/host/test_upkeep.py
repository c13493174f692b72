"""The background threads of a host: no exception ends them, and a dead one is reported."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psycopg
import pytest
from structlog.testing import CapturingLogger
from support.place import Place

from penstock.host.host import Host
from penstock.host.housekeeping import Housekeeping
from penstock.settings import Settings

EXCEPTIONS = (
    SystemExit(0),
    KeyboardInterrupt(),
    GeneratorExit(),
    MemoryError(),
    RuntimeError("damaged"),
)


@pytest.fixture
def log() -> CapturingLogger:
    return CapturingLogger()


@pytest.fixture
def host(sqlite_place: Place, log: CapturingLogger) -> Iterator[Host]:
    host = Host(Settings.from_env(sqlite_place.environ()))
    host.start()
    host.upkeep._follower._log = log  # type: ignore[union-attr]  # noqa: SLF001  it was started
    yield host
    host.stop()


def wait(condition: Callable[[], bool]) -> None:
    for _ in range(200):
        if condition():
            return
        time.sleep(0.05)
    message = "the condition was not met in ten seconds"
    raise AssertionError(message)


@pytest.mark.parametrize("error", EXCEPTIONS, ids=repr)
def test_no_exception_ends_the_follower_and_each_is_logged(
    host: Host, log: CapturingLogger, monkeypatch: pytest.MonkeyPatch, error: BaseException
) -> None:
    def fail(*_: object) -> bool:
        host.view.snapshot().broken = "damaged"
        raise error

    monkeypatch.setattr(host.view.access, "refresh", fail)
    wait(lambda: not host.view.fresh())
    ready, checks = host.health.checks()
    monkeypatch.undo()
    host.upkeep._signals.changed.set()  # noqa: SLF001  the next round begins at once
    wait(host.view.fresh)

    assert not ready
    assert "can't be applied" in checks["database"]
    assert checks["snapshot"] != "ok"
    assert "changes can't be applied" in "".join(str(call.args) for call in log.calls)
    assert next(
        thread for thread in threading.enumerate() if thread.name == "penstock-follow"
    ).is_alive()


def test_failing_housekeeping_does_not_stop_the_follower(
    host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("penstock.host.housekeeping.HOUSEKEEPING_INTERVAL_S", 0.0)

    def fail(*_: object) -> None:
        raise SystemExit(0)

    monkeypatch.setattr(Housekeeping, "_purge", fail)
    time.sleep(0.6)

    assert host.view.reachable()


def test_a_dead_follower_makes_the_process_not_ready(host: Host) -> None:
    host.upkeep._signals.stop_all()  # noqa: SLF001  nothing else ends it
    for thread in host.upkeep._threads:  # noqa: SLF001  the same
        thread.join(5)

    ready, checks = host.health.checks()

    assert not ready
    assert "not followed" in checks["database"]


def test_before_the_start_a_host_accepts_no_call_and_is_not_ready(sqlite_place: Place) -> None:
    host = Host(Settings.from_env(sqlite_place.environ()))

    assert (host.services, host.view.access, host.fork) == (None, None, None)
    assert not host.view.fresh()
    assert not host.health.checks()[0]
    with pytest.raises(RuntimeError, match="not started"):
        host.upkeep.catch_up(sqlite_place.engine)


def test_a_rehearsal_leaves_nothing_behind_and_returns_the_digest_of_its_report(
    sqlite_place: Place,
) -> None:
    host, other = (Host(Settings.from_env(sqlite_place.environ())) for _ in range(2))

    assert host.rehearse() == other.rehearse()
    assert (host.services, host.view.access) == (None, None)


def sessions(place: Place) -> int:
    """Return how many sessions a PostgreSQL database has besides the one that asks."""
    with psycopg.connect(place.url, autocommit=True) as connection:
        row = connection.execute(
            "SELECT count(*) FROM pg_stat_activity"
            " WHERE datname = current_database() AND pid <> pg_backend_pid()"
        ).fetchone()
    assert row is not None
    return int(row[0])


def test_a_host_that_stopped_has_no_session_left(
    new_database: Callable[..., str], tmp_path: Path
) -> None:
    place = Place.make(new_database("postgresql", upgraded=True), tmp_path)
    host = Host(Settings.from_env(place.environ()))
    host.start(kind="serve")
    assert sessions(place) > 0

    host.stop()

    try:
        wait(lambda: sessions(place) == 0)  # the server notices the end of a session a bit later
    finally:
        place.engine.dispose()
