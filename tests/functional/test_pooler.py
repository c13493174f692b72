"""PgBouncer in transaction mode, as it is by default: what works through it, and what goes past
it to the server."""

from __future__ import annotations

import re
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import httpx
import psycopg
import pytest
from support.durable import until
from support.place import ROOT, Place, Server

from penstock.db import postgres as sessions
from penstock.db.engine import open_engine, writing

Serve = Callable[..., Server]
LIMIT = "SELECT current_setting('idle_in_transaction_session_timeout')"

PLUGIN = """
from penstock import Call, HttpTrigger, Pipeline, hookimpl

sound = Pipeline("sound", version="1.0.0", trigger=HttpTrigger(api_key=True))

@sound.get("/")
def quick(call: Call) -> str: return "quick"

@sound.post("/", mode="durable")
def work(call: Call) -> str: return "done"

@hookimpl
def penstock_pipelines(): return [sound]
"""


@pytest.fixture
def direct(new_database: Callable[..., str], tmp_path: Path) -> Iterator[Place]:
    """A place on PostgreSQL, reached without a pooler, with a pipeline."""
    place = Place.make(new_database("postgresql", upgraded=True), tmp_path)
    place.policy("api-key")
    place.plugin("sound", PLUGIN)
    place.consumer("acme", "sound")
    yield place
    place.engine.dispose()


@pytest.fixture
def pooled(direct: Place, pgbouncer: str) -> Iterator[Place]:
    """The same place, reached through PgBouncer."""
    place = replace(direct, url=f"{pgbouncer}/{direct.url.rpartition('/')[2]}")
    place.engine = open_engine(place.url)
    yield place
    place.engine.dispose()


def calls(server: Server, key: str, method: str, number: int) -> Counter[int]:
    """Return how many calls were answered with each status, eight at a time."""
    codes: Counter[int] = Counter()

    def some() -> None:
        with httpx.Client(base_url=server.url, timeout=30) as client:
            for _ in range(number // 8 + 1):
                codes[
                    client.request(method, "/v1/sound/", headers={"X-API-Key": key}).status_code
                ] += 1

    callers = [threading.Thread(target=some) for _ in range(8)]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join()
    return codes


def statuses(place: Place) -> Counter[str]:
    with psycopg.connect(place.url) as connection:
        return Counter(
            dict(
                connection.execute(
                    "SELECT status, count(*) FROM runs WHERE durable GROUP BY status"
                ).fetchall()
            )
        )


@pytest.mark.parametrize("past_it", [True, False])
def test_calls_runs_and_changes_work_through_a_pooler(
    direct: Place, pooled: Place, serve: Serve, past_it: bool
) -> None:
    key, spare = direct.key("acme"), direct.key("acme")
    server = serve(
        pooled,
        workers=2,
        worker=1,
        **({"PENSTOCK_DATABASE_DIRECT_URL": direct.url} if past_it else {}),
    )
    polled = "changes of access are polled: a connection pooler passes no notifications on"
    until(lambda: "worker ready" in server.log.read_text())

    accepted, answered = calls(server, key.key, "POST", 100), calls(server, key.key, "GET", 100)
    assert server.call("GET", "/v1/sound/", key=spare.key).status_code == 200
    assert pooled.run("key", "revoke", spare.id).returncode == 0
    until(lambda: server.call("GET", "/v1/sound/", key=spare.key).status_code == 401)

    assert (set(accepted), set(answered)) == ({202}, {200})
    until(lambda: statuses(direct) == Counter(succeeded=accepted.total()))
    log = server.log.read_text()
    assert "PreparedStatement" not in log
    assert "database away" not in log
    assert '"error"' not in log
    assert (polled in log) is not past_it


def test_nothing_stays_on_a_session_that_other_clients_have_next(
    direct: Place, pooled: Place
) -> None:
    with writing(direct.engine) as connection:
        on_its_own = connection.exec_driver_sql(LIMIT).scalar()
    with writing(pooled.engine) as connection:
        within = connection.exec_driver_sql(LIMIT).scalar()
        for _ in range(10):
            connection.exec_driver_sql("SELECT count(*) FROM revision")
    with psycopg.connect(pooled.url) as other:
        after = other.execute(LIMIT).fetchone()
        prepared = other.execute("SELECT count(*) FROM pg_prepared_statements").fetchone()

    assert (on_its_own, within, after, prepared) == ("1min", "1min", ("0",), (0,))


def test_migrations_want_the_server_itself(direct: Place, pooled: Place) -> None:
    through = pooled.run("db", "upgrade")
    past = pooled.run("db", "upgrade", PENSTOCK_DATABASE_DIRECT_URL=direct.url)

    assert (through.returncode, "upgraded" in through.stdout) == (3, False)
    assert "set PENSTOCK_DATABASE_DIRECT_URL to the URL of the server" in through.stderr
    assert past.returncode == 0, past.stderr


def test_a_direct_url_is_postgresql_s(sqlite_place: Place) -> None:
    done = sqlite_place.run(
        "settings", PENSTOCK_DATABASE_DIRECT_URL="postgresql://penstock@db/penstock"
    )
    served = sqlite_place.run(
        "check", PENSTOCK_DATABASE_DIRECT_URL="postgresql://penstock@db/penstock"
    )

    assert done.returncode == 0
    assert served.returncode == 3
    assert "PENSTOCK_DATABASE_DIRECT_URL is for PostgreSQL" in served.stderr


class TestSessions:
    def test_a_host_opens_no_more_sessions_than_the_page_says(
        self, direct: Place, serve: Serve
    ) -> None:
        key, most, done = direct.key("acme").key, 0, threading.Event()
        direct.engine.dispose()

        def count() -> int:
            with psycopg.connect(f"{direct.url.rpartition('/')[0]}/postgres") as connection:
                counted = connection.execute(
                    "SELECT count(*) FROM pg_stat_activity WHERE datname = %s",
                    [direct.url.rpartition("/")[2]],
                )
                return int((counted.fetchone() or (0,))[0])

        def watch() -> None:
            nonlocal most
            while not done.wait(0.02):
                most = max(most, count())

        server = serve(direct, workers=2, threads=32, worker=1)
        until(lambda: "worker ready" in server.log.read_text())
        watcher = threading.Thread(target=watch)
        watcher.start()
        assert set(calls(server, key, "POST", 200)) == {202}
        done.set()
        watcher.join()

        formula = re.search(
            r"`(\d+) . PENSTOCK_WORKERS \+ (\d+) . PENSTOCK_WORKER \+ (\d+)`",
            (ROOT / "docs/how-to/size-a-host.md").read_text(encoding="utf-8"),
        )
        assert formula is not None
        web, durable, more = map(int, formula.groups())
        assert 6 <= most <= 2 * web + 1 * durable + more

    def test_sessions_that_nothing_uses_are_closed(self, direct: Place) -> None:
        engine = direct.engine
        connections = [engine.connect() for _ in range(sessions.POOL_SIZE)]
        for connection in connections:
            connection.close()
        assert _open(engine) == sessions.POOL_SIZE

        sessions.close_idle(engine)
        still = _open(engine)
        with engine.connect():
            sessions.close_idle(engine, 0)
            in_use = _open(engine)
        sessions.close_idle(engine, 0)

        assert (still, in_use) == (sessions.POOL_SIZE, sessions.POOL_SIZE)
        until(lambda: _open(engine) == 0)  # PostgreSQL ends a session a moment later

    def test_what_is_vital_waits_for_nothing_else(self, direct: Place) -> None:
        taken = [direct.engine.connect() for _ in range(sessions.MAX_SESSIONS)]

        reserved = open_engine(direct.url, reserved=True)
        with writing(reserved) as connection:
            assert connection.exec_driver_sql("SELECT 1").scalar() == 1

        reserved.dispose()
        for connection in taken:
            connection.close()


def _open(engine: sessions.sa.Engine) -> int:
    with psycopg.connect(
        engine.url.set(drivername="postgresql").render_as_string(hide_password=False)
    ) as connection:
        counted = connection.execute(
            "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND pid <>"
            " pg_backend_pid()"
        )
        return int((counted.fetchone() or (0,))[0])
