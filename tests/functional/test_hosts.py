"""A host survives its database, its plugins, its reloads and its stops; real processes, on a
PostgreSQL server that is stopped and started."""

from __future__ import annotations

import os
import re
import signal
import socket
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest
import sqlalchemy as sa
from support.durable import until
from support.place import Place, Server, wait_for
from support.services import Postgres, free_port

from penstock.access import api_keys
from penstock.db import migrate
from penstock.db.engine import open_engine, reading, writing
from penstock.db.failures import DatabaseReadOnly, DatabaseUnavailable, DatabaseUnfit

PLUGIN = """
import time
from penstock import Call, HttpTrigger, Pipeline, hookimpl

sound = Pipeline("sound", version="1.0.0", trigger=HttpTrigger(api_key=True, timeout=20), needs={"region"})

@sound.get("/")
def quick(call: Call) -> str:
    return call.variables["region"]

@sound.get("/slow")
def slow(call: Call) -> str:
    time.sleep(5)
    return "slow"

@sound.post("/", mode="durable")
def work(call: Call) -> str:
    return "done"

@hookimpl
def penstock_pipelines(): return [sound]
"""  # noqa: E501  text as it is

Serve = Callable[..., Server]


def filled(place: Place) -> str:
    """Return a key that may call the plugin's pipeline."""
    place.policy("api-key")
    place.plugin("sound", PLUGIN)
    place.consumer("acme", "sound")
    place.run("variable", "set", "region", "eu", "--env", "test")
    return place.key("acme").key


@pytest.fixture
def place_of_its_own(
    own_postgres: Postgres, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Place]:
    """A place on a PostgreSQL server that a test may stop."""
    own_postgres.run("CREATE DATABASE penstock")
    place = Place.make(f"{own_postgres.url}/penstock", tmp_path_factory.mktemp("own"))
    yield place
    place.engine.dispose()


def status(server: Server, key: str, path: str = "/v1/sound/") -> int:
    return httpx.get(f"{server.url}{path}", headers={"X-API-Key": key}, timeout=30).status_code


def workers_of(server: Server) -> list[int]:
    """Return the process ids of the workers that gunicorn has started."""
    return [
        int(pid) for pid in re.findall(r"Booting worker with pid: (\d+)", server.log.read_text())
    ]


class TestDatabaseAway:
    def test_a_read_only_server_ends_no_thread_and_takes_nothing_from_the_records(
        self,
        own_postgres: Postgres,
        place_of_its_own: Place,
        serve: Serve,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        place, key = place_of_its_own, filled(place_of_its_own)
        server = serve(place)
        assert status(server, key) == 200

        own_postgres.run("ALTER DATABASE penstock SET default_transaction_read_only = on")
        own_postgres.run(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = 'penstock'"
        )
        during = [status(server, key) for _ in range(20)]
        durable = server.call("POST", "/v1/sound/", key=key)
        time.sleep(1)
        own_postgres.run("ALTER DATABASE penstock RESET default_transaction_read_only")
        own_postgres.run(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = 'penstock'"
        )
        place.engine.dispose()

        assert during == [200] * 20
        assert (durable.status_code, durable.json()["type"]) == (503, "pipeline-unavailable")
        assert "repeat the call with its Idempotency-Key" in durable.json()["detail"]
        until(lambda: server.call("POST", "/v1/sound/", key=key).status_code == 202)
        until(
            lambda: (
                place.run("runs", "list", "--limit", "100", "--format", "json").stdout.count(
                    '"succeeded"'
                )
                >= 21
            )
        )
        revoked = place.key("acme")
        until(lambda: status(server, revoked.key) == 200)
        api_keys.revoke_key(place.engine, "tester", revoked.id)
        until(lambda: status(server, revoked.key) == 401)

    def test_a_worker_that_dies_meanwhile_takes_nothing_with_it(
        self, own_postgres: Postgres, place_of_its_own: Place, serve: Serve
    ) -> None:
        place, key = place_of_its_own, filled(place_of_its_own)
        server = serve(place, workers=2)

        own_postgres.stop()
        os.kill(workers_of(server)[0], signal.SIGKILL)
        until(lambda: len(workers_of(server)) == 3)
        during = [status(server, key) for _ in range(20)]
        own_postgres.start()

        assert during == [200] * 20
        assert server.process.poll() is None
        until(lambda: server.client.get("/-/ready").json()["checks"]["database"] == "ok")
        assert [status(server, key) for _ in range(20)] == [200] * 20

    def test_a_start_waits_for_the_database(
        self, own_postgres: Postgres, place_of_its_own: Place, serve: Serve
    ) -> None:
        place, key = place_of_its_own, filled(place_of_its_own)
        own_postgres.stop()

        server = serve(place, wait=False)
        until(lambda: "not started yet: the database is away" in server.log.read_text())
        upgrade = place.run("db", "upgrade")
        own_postgres.start()

        until(lambda: _answers(server, key))
        assert (upgrade.returncode, upgrade.stderr.count("\n")) == (75, 1)

    def test_a_reload_then_changes_nothing(
        self, own_postgres: Postgres, place_of_its_own: Place, serve: Serve
    ) -> None:
        place, key = place_of_its_own, filled(place_of_its_own)
        server = serve(place)
        own_postgres.stop()

        server.process.send_signal(signal.SIGHUP)
        until(lambda: "not reloaded" in server.log.read_text())

        assert status(server, key) == 200
        own_postgres.start()

    @pytest.mark.parametrize(
        ("statement", "kind"),
        [
            ("SET TRANSACTION READ ONLY", DatabaseReadOnly),
            ("SET LOCAL statement_timeout = 1; SELECT pg_sleep(1)", DatabaseUnavailable),
            ("SET LOCAL lock_timeout = 1; SELECT nothing FROM nowhere", DatabaseUnfit),
            ("SET LOCAL ROLE pg_monitor", DatabaseUnfit),
            ("SELECT pg_terminate_backend(pg_backend_pid())", DatabaseUnavailable),
        ],
    )
    def test_what_a_driver_raises_is_one_of_ours(
        self, postgres: str, new_database: Callable[..., str], statement: str, kind: type
    ) -> None:
        engine = open_engine(new_database("postgresql", upgraded=True))

        def change() -> None:
            with writing(engine) as connection:
                connection.exec_driver_sql(statement)
                connection.exec_driver_sql("UPDATE revision SET value = value")

        with pytest.raises(DatabaseUnavailable) as raised:
            change()
        assert raised.type is kind
        engine.dispose()

    def test_a_fault_of_a_statement_is_none_of_the_database(
        self, new_database: Callable[..., str]
    ) -> None:
        engine = open_engine(new_database("postgresql", upgraded=True))
        with pytest.raises(sa.exc.ProgrammingError), reading(engine) as connection:
            connection.exec_driver_sql("SELEC 1")
        engine.dispose()


def _answers(server: Server, key: str) -> bool:
    try:
        return status(server, key) == 200
    except httpx.HTTPError:
        return False


class TestStrict:
    def test_a_change_of_operators_and_the_death_of_a_worker_end_no_host(
        self, sqlite_place: Place, serve: Serve
    ) -> None:
        place, key = sqlite_place, filled(sqlite_place)
        server = serve(place, worker=1, PENSTOCK_STRICT="true")

        place.run("variable", "unset", "region", "--env", "test")
        until(lambda: status(server, key) == 503)
        os.kill(workers_of(server)[0], signal.SIGKILL)
        until(lambda: len(workers_of(server)) == 2)
        time.sleep(1)

        assert server.process.poll() is None
        place.run("variable", "set", "region", "eu", "--env", "test")
        until(lambda: _answers(server, key))


class TestReload:
    @pytest.mark.parametrize(
        "broken",
        ["import os; os._exit(5)", "import os, signal; os.kill(os.getpid(), signal.SIGSEGV)"],
    )
    def test_a_plugin_that_ends_the_process_is_refused_with_the_reason(
        self, sqlite_place: Place, serve: Serve, broken: str
    ) -> None:
        place, key = sqlite_place, filled(sqlite_place)
        server = serve(place, worker=1)
        place.plugin("broken", broken + "\n")

        server.process.send_signal(signal.SIGHUP)
        until(lambda: "not reloaded" in server.log.read_text())

        assert "plugin broken (plugins/broken.py) ended the process" in server.log.read_text()
        assert (
            server.call("POST", "/v1/sound/", key=key, headers={"Prefer": "wait=20"}).json()[
                "status"
            ]
            == "succeeded"
        )

    def test_a_start_that_was_killed_is_tried_again(
        self, sqlite_place: Place, serve: Serve
    ) -> None:
        """As the kernel does where memory runs out: no change is needed for the next
        try."""
        filled(sqlite_place)
        once = "import os, pathlib, signal\nmark = pathlib.Path(__file__).with_suffix('.mark')\n"
        sqlite_place.plugin(
            "heavy",
            once
            + "if not mark.exists():\n    mark.touch()\n    os.kill(os.getpid(), signal.SIGKILL)\n",
        )
        server = serve(sqlite_place)

        assert "not started yet: it was killed" in server.log.read_text()

    def test_a_worker_that_hangs_while_it_loads_plugins_is_replaced(
        self, sqlite_place: Place
    ) -> None:
        """As one that replaces another while a plugin that hangs is there."""
        key, port = filled(sqlite_place), free_port()
        url, log = f"http://127.0.0.1:{port}/v1/sound/", sqlite_place.folder / "gunicorn.log"
        mark = sqlite_place.folder / "hang"
        hangs = "import os, signal, time\nend = signal.getsignal(signal.SIGTERM)\n"
        hangs += f"while end is not signal.SIG_DFL and os.path.exists({str(mark)!r}):\n"
        sqlite_place.plugin("hangs", hangs + "    time.sleep(0.1)\n")
        words = ("-m", "gunicorn", "--timeout", "2", "-c", "python:penstock.server.config")
        environ = sqlite_place.environ(PENSTOCK_BIND=f"127.0.0.1:{port}", PENSTOCK_WORKERS="1")
        with log.open("w") as file:
            process = subprocess.Popen(
                [sys.executable, *words, "penstock.web:from_environment()"],
                env=environ,
                stdout=file,
                stderr=file,
            )
        try:
            wait_for(f"http://127.0.0.1:{port}/-/health", process)
            mark.touch()
            worker = int(re.findall(r"Booting worker with pid: (\d+)", log.read_text())[-1])
            os.kill(worker, signal.SIGKILL)
            until(lambda: "WORKER TIMEOUT" in log.read_text())
            mark.unlink()

            assert httpx.get(url, headers={"X-API-Key": key}, timeout=20).status_code == 200
        finally:
            process.terminate()
            process.wait(20)

    def test_a_plugin_that_leaves_a_process_behind_holds_no_start(
        self, sqlite_place: Place, serve: Serve
    ) -> None:
        place, key = sqlite_place, filled(sqlite_place)
        place.plugin(
            "forking",
            "import os, time\nif os.fork() == 0:\n    time.sleep(400)\n    os._exit(0)\n"
            + PLUGIN.replace('"sound"', '"other"'),
        )

        server = serve(place)  # a test may not take as long as the process

        assert status(server, key) == 200

    def test_a_plugin_that_hangs_leaves_signals_their_effect(
        self, sqlite_place: Place, serve: Serve
    ) -> None:
        place, key = sqlite_place, filled(sqlite_place)
        server = serve(place)
        place.plugin("broken", "import time; time.sleep(3600)\n")

        server.process.send_signal(signal.SIGHUP)
        time.sleep(2)
        assert status(server, key) == 200

        assert server.stop() == 0

    def test_old_workers_stop_once_new_ones_answer(self, sqlite_place: Place, serve: Serve) -> None:
        place, key = sqlite_place, filled(sqlite_place)
        server = serve(place, workers=2)
        failed: list[object] = []
        done = threading.Event()

        def calls() -> None:
            while not done.is_set():
                try:
                    if (answered := status(server, key)) != 200:
                        failed.append(answered)
                except httpx.HTTPError as error:
                    failed.append(error)

        callers = [threading.Thread(target=calls) for _ in range(4)]
        for caller in callers:
            caller.start()
        server.process.send_signal(signal.SIGHUP)
        until(lambda: server.log.read_text().count("Worker exiting") == 2)
        done.set()
        for caller in callers:
            caller.join()

        lines = server.log.read_text().splitlines()
        loaded = [number for number, line in enumerate(lines) if '"event": "loaded"' in line]
        exiting = [number for number, line in enumerate(lines) if "Worker exiting" in line]
        assert failed == []
        assert loaded[3] < exiting[0]


class TestStop:
    def test_new_connections_are_refused_at_once_and_calls_under_way_end(
        self, sqlite_place: Place, serve: Serve
    ) -> None:
        place, key = sqlite_place, filled(sqlite_place)
        server = serve(place)
        answers: list[int] = []
        caller = threading.Thread(
            target=lambda: answers.append(status(server, key, "/v1/sound/slow"))
        )
        caller.start()
        time.sleep(0.5)

        server.process.send_signal(signal.SIGTERM)
        until(lambda: _refused(server.port), 4)
        caller.join()

        assert answers == [200]
        assert server.process.wait(20) == 0

    def test_readiness_goes_first_where_a_delay_is_set(
        self, sqlite_place: Place, serve: Serve
    ) -> None:
        place, key = sqlite_place, filled(sqlite_place)
        server = serve(place, PENSTOCK_DRAIN_DELAY="3")

        server.process.send_signal(signal.SIGTERM)
        until(lambda: server.client.get("/-/ready").status_code == 503)

        assert status(server, key) == 200
        assert server.process.wait(20) == 0


def _refused(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) != 0


class TestSchema:
    def test_an_older_release_leaves_the_schema_of_a_newer_one_alone(self, place: Place) -> None:
        with writing(place.engine) as connection:
            connection.exec_driver_sql("UPDATE alembic_version SET version_num = '29991231_later'")

        upgraded, current = place.run("db", "upgrade"), place.run("db", "current")

        assert (upgraded.returncode, current.returncode) == (0, 0), upgraded.stderr + current.stderr
        assert "of a newer release" in upgraded.stdout
        assert "of a newer release" in current.stdout
        assert migrate.current(place.engine) == "29991231_later"

    def test_another_connection_of_a_process_drops_no_lock_of_sqlite(
        self, sqlite_place: Place
    ) -> None:
        """To open and close the file by hand would: then the next process to leave takes itself
        for the last, and removes the log of all."""
        path = sqlite_place.url.removeprefix("sqlite:///")
        look = (
            f"import sqlite3; sqlite3.connect({path!r}).execute('SELECT value FROM"
            " revision').fetchall()"
        )
        with reading(sqlite_place.engine) as connection:
            connection.exec_driver_sql("SELECT value FROM revision")
            other = open_engine(sqlite_place.url)
            with reading(other) as second:
                second.exec_driver_sql("SELECT value FROM revision")
                subprocess.run([sys.executable, "-c", look], check=True)
                assert Path(f"{path}-wal").exists()
            other.dispose()

    def test_the_files_of_sqlite_are_their_owner_s(
        self, new_database: Callable[..., str], tmp_path_factory: pytest.TempPathFactory
    ) -> None:
        folder = tmp_path_factory.mktemp("private")
        place = Place.make(f"sqlite:///{folder}/penstock.db", folder)

        modes = {
            path.name: stat.S_IMODE(path.stat().st_mode) for path in folder.glob("penstock.db*")
        }
        assert set(modes.values()) == {0o600}, modes
        place.engine.dispose()
