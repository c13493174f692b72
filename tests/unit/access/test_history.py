"""A restored database is read again at any revision, by views and by hosts that still serve."""

from __future__ import annotations

import os
import re
import signal
import sqlite3
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from hashlib import sha256
from pathlib import Path

import httpx
import pytest
import sqlalchemy as sa
from support.place import ACTOR, Place, Server
from support.services import free_port, initdb

from penstock.access import api_keys
from penstock.access.encryption import SecretBox, make_secret_key
from penstock.access.snapshot import HistoryChanged, Snapshot
from penstock.db.failures import DatabaseUnavailable
from penstock.db.history import MAX_MARKS
from penstock.db.tables import ApiKeyRow, HistoryRow
from penstock.errors import CannotStart

PLUGIN = """
from penstock import Call, HttpTrigger, Pipeline, hookimpl

pipeline = Pipeline("things", version="1.0.0", trigger=HttpTrigger(api_key=True, jwt=True))
entrance = Pipeline("entrance", version="1.0.0", trigger=HttpTrigger(api_key=True, login=True))

@pipeline.get("/")
def things(call: Call) -> str:
    return "things"

@entrance.post("/")
def log_in(call: Call) -> dict[str, str]:
    return {"token": call.issue_token(subject="ann").access_token}

@hookimpl
def penstock_pipelines(): return [pipeline, entrance]
"""


class Backup:
    """A backup of a place's database, made as operators make one."""

    def __init__(self, place: Place) -> None:
        self._place = place
        self._file = place.folder / "backup"
        if self._sqlite:
            self._copy(self._live, self._file)
        else:
            self._run("pg_dump", "-Fc", "-f", str(self._file), self._url)

    @property
    def _sqlite(self) -> bool:
        return self._place.engine.dialect.name == "sqlite"

    @property
    def _live(self) -> Path:
        return Path(self._place.engine.url.database or "")

    @property
    def _url(self) -> str:
        return self._place.engine.url.set(drivername="postgresql").render_as_string(
            hide_password=False
        )

    @staticmethod
    def _copy(source: Path, target: Path) -> None:
        with (
            closing(sqlite3.connect(source)) as source_database,
            closing(sqlite3.connect(target)) as other,
        ):
            source_database.backup(other)

    @staticmethod
    def _run(program: str, *words: str) -> str:
        programs = initdb()
        assert programs is not None
        return subprocess.run(
            [programs / program, *words], check=True, capture_output=True, text=True
        ).stdout

    @staticmethod
    def _again(work: Callable[[], object]) -> None:
        """Do what takes locks from hosts that read, until they were no obstacle: PostgreSQL ends
        one side of a deadlock."""
        for _ in range(10):
            try:
                work()
            except (sa.exc.OperationalError, subprocess.CalledProcessError):
                continue
            return
        work()

    def _drop(self) -> None:
        with self._place.engine.begin() as connection:
            for schema in ("public", "dbos"):
                connection.execute(sa.text(f"DROP SCHEMA {schema} CASCADE"))
            connection.execute(sa.text("CREATE SCHEMA public"))

    def restore(self) -> None:
        """Put it back, in one transaction."""
        if self._sqlite:
            self._copy(self._file, self._live)
        else:
            words = (
                "--clean",
                "--if-exists",
                "--single-transaction",
                "-d",
                self._url,
                str(self._file),
            )
            self._again(lambda: self._run("pg_restore", *words))

    @contextmanager
    def half_restored(self, without: str) -> Iterator[None]:
        """Put it back as pg_restore does by default: a table after the other. One table's rows
        come after the block, and all keys."""
        entries = self._run("pg_restore", "-l", str(self._file)).splitlines()
        late = next(entry for entry in entries if f" TABLE DATA public {without} " in entry)
        chosen = self._place.folder / "entries"
        self._again(self._drop)
        self._run("pg_restore", "--section=pre-data", "-d", self._url, str(self._file))
        chosen.write_text(
            "\n".join(entry for entry in entries if " TABLE DATA " in entry and entry != late)
        )
        self._run("pg_restore", "-L", str(chosen), "-d", self._url, str(self._file))
        yield
        chosen.write_text(late)
        self._run("pg_restore", "-L", str(chosen), "-d", self._url, str(self._file))
        self._run("pg_restore", "--section=post-data", "-d", self._url, str(self._file))


def digest(key: str) -> bytes:
    return sha256(key.encode()).digest()


def knows(view: Snapshot, key: str) -> bool:
    """Return whether a view would let a key pass."""
    stored_key = view.key(digest(key))
    return stored_key is not None and stored_key.usable


class TestViews:
    @pytest.mark.parametrize("more", [0, 1, 2])
    def test_a_revision_that_comes_again_is_another_one(self, place: Place, more: int) -> None:
        """What was revoked after the restore stays revoked, also where the new revision is that
        of the view, or beyond it."""
        place.consumer("acme")
        key = place.key("acme")
        backup = Backup(place)
        place.consumer("lost")
        view = place.snapshot()
        backup.restore()
        api_keys.revoke_key(place.engine, ACTOR, key.id)
        for number in range(more):
            place.consumer(f"later-{number}")
        with pytest.raises(HistoryChanged):
            view.refresh(place.engine)
        assert view.age() == float("inf")
        assert view.refresh(place.engine)
        assert not knows(view, key.key)
        assert view.consumer_named("lost") is None
        assert view.age() < 60

    def test_a_view_that_waits_for_its_next_refresh_is_whole(self, place: Place) -> None:
        """Who is being judged by it when the restore is seen is not answered that a valid key is
        unknown."""
        place.consumer("acme")
        backup = Backup(place)
        key = place.key("acme")
        view = place.snapshot()
        backup.restore()
        with pytest.raises(HistoryChanged):
            view.refresh(place.engine)
        assert knows(view, key.key)
        view.refresh(place.engine)
        assert not knows(view, key.key)

    def test_a_backup_of_what_is_known_changes_nothing(self, place: Place) -> None:
        place.consumer("acme")
        view = place.snapshot()
        backup = Backup(place)
        backup.restore()
        assert not view.refresh(place.engine)
        place.consumer("next")
        assert view.refresh(place.engine)

    def test_a_view_older_than_the_backup_stays_in_use(self, place: Place) -> None:
        place.consumer("acme")
        view = place.snapshot()
        key = place.key("acme")
        backup = Backup(place)
        place.consumer("lost")
        backup.restore()
        assert view.refresh(place.engine)
        assert knows(view, key.key)

    def test_an_environment_that_is_not_in_the_backup_leaves_no_view(self, place: Place) -> None:
        backup = Backup(place)
        place.run("env", "create", "late")
        view = place.snapshot("late")
        backup.restore()
        for _ in range(3):
            with pytest.raises(Exception, match=r"restored|late"):
                view.refresh(place.engine)
            assert view.age() == float("inf")

    def test_another_environment_of_the_same_name_is_not_served(self, place: Place) -> None:
        """Its runs would be written as those of the one that is gone."""
        backup = Backup(place)
        place.run("env", "create", "late")
        view = place.snapshot("late")
        backup.restore()
        place.run("env", "create", "other")
        place.run("env", "create", "late")
        with pytest.raises(HistoryChanged):
            view.refresh(place.engine)
        with pytest.raises(Exception, match="restart"):
            view.refresh(place.engine)
        assert view.age() == float("inf")

    def test_the_command_has_every_view_read_anew(self, place: Place) -> None:
        place.consumer("acme")
        key = place.key("acme")
        view = place.snapshot()
        # As a restore into tables that kept their keys may leave a view: half.
        with place.engine.begin() as connection:
            connection.execute(sa.update(ApiKeyRow.table).values(enabled=False))
        assert not view.refresh(place.engine)
        done = place.run("db", "restored")
        assert done.returncode == 0, done.stderr
        assert f"revision {view.revision + 1} begins a new history" in done.stdout
        with pytest.raises(HistoryChanged):
            view.refresh(place.engine)
        view.refresh(place.engine)
        assert not knows(view, key.key)
        assert "noted that the database was restored" in place.run("audit").stdout

    def test_revisions_of_the_release_before_have_no_marks(self, place: Place) -> None:
        """It bumps the revision alone; that is no other history."""
        view = place.snapshot()
        with place.engine.begin() as connection:
            connection.execute(sa.text("UPDATE revision SET value = value + 1"))
        assert view.refresh(place.engine)
        place.consumer("acme")
        assert view.refresh(place.engine)
        assert view.consumer_named("acme") is not None

    def test_old_marks_are_forgotten(self, place: Place) -> None:
        view = place.snapshot()
        with place.engine.begin() as connection:
            connection.execute(sa.text(f"UPDATE revision SET value = value + {MAX_MARKS}"))
        place.consumer("acme")
        with place.engine.connect() as connection:
            assert list(connection.scalars(sa.select(HistoryRow.revision))) == [
                view.revision + MAX_MARKS + 1
            ]
        view.read(place.engine)
        assert view.consumer_named("acme") is not None

    def test_many_views_see_a_restore_at_any_moment(self, place: Place) -> None:
        """After two refreshes each view equals the database, in any order of earlier refreshes."""
        place.consumer("acme")
        keys, views = [place.key("acme")], [place.snapshot()]
        backup = Backup(place)
        for _ in range(3):
            keys.append(place.key("acme"))
            views.append(place.snapshot())
        backup.restore()
        api_keys.revoke_key(place.engine, ACTOR, keys[0].id)
        keys.append(place.key("acme"))
        for view in views:
            view.read(place.engine)
            assert [knows(view, key.key) for key in keys] == [False, False, False, False, True]


class TestFiles:
    def test_a_file_that_takes_the_place_of_another_is_read(self, sqlite_place: Place) -> None:
        """The old file is still open, and never changes."""
        place = sqlite_place
        place.consumer("acme")
        file = Path(place.engine.url.database or "")
        Backup(place)
        key = place.key("acme")
        view = place.snapshot()
        backup = place.folder / "backup"
        for name in ("-wal", "-shm"):
            file.with_name(file.name + name).unlink(missing_ok=True)
        backup.rename(file)
        view.read(place.engine)
        assert not knows(view, key.key)
        place.consumer("next")
        with closing(sqlite3.connect(file)) as connection:
            assert connection.execute("SELECT count(*) FROM consumers").fetchone() == (2,)

    def test_no_empty_file_takes_the_place_of_one_that_is_gone(self, sqlite_place: Place) -> None:
        file = Path(sqlite_place.engine.url.database or "")
        view = sqlite_place.snapshot()
        aside = file.rename(file.with_name("aside"))
        for _ in range(2):
            with pytest.raises(DatabaseUnavailable, match="file"):
                view.refresh(sqlite_place.engine)
        assert not file.exists()
        aside.rename(file)
        assert not view.refresh(sqlite_place.engine)


class TestHalfRestored:
    @pytest.fixture
    def place(self, new_database: Callable[..., str], tmp_path: Path) -> Iterator[Place]:
        new_place = Place.make(new_database("postgresql", upgraded=True), tmp_path)
        yield new_place
        new_place.engine.dispose()

    @pytest.mark.parametrize(
        "late",
        [
            "signing_keys",
            "api_keys",
            "revocations",
            "environments",
            "associations",
            "revision",
            "history",
        ],
    )
    def test_half_of_a_restore_is_not_read(self, place: Place, late: str) -> None:
        place.consumer("acme")
        key = place.key("acme")
        backup = Backup(place)
        place.consumer("lost")
        view, new = place.snapshot(), Snapshot("test", place.box)
        place.engine.dispose()
        with backup.half_restored(without=late):
            for each in (view, new):
                with pytest.raises(DatabaseUnavailable) as error:
                    each.refresh(place.engine)
                assert not isinstance(error.value, HistoryChanged)
        view.read(place.engine)
        new.read(place.engine)
        for each in (view, new):
            assert knows(each, key.key)
            assert len(each.signing_keys()) == 1
            assert each.consumer_named("lost") is None


def pids(server: Server) -> list[int]:
    return [
        int(pid) for pid in re.findall(r"Booting worker with pid: (\d+)", server.log.read_text())
    ]


def until(stored_key: Callable[[], bool], seconds: float = 180) -> None:
    end = time.monotonic() + seconds
    while not stored_key():
        assert time.monotonic() < end
        time.sleep(0.05)


class TestKeys:
    def test_a_backup_from_before_a_rotation_leaves_what_can_be_read(self, place: Place) -> None:
        """A running process continues without the secrets whose key it does not have."""
        place.consumer("acme")
        key = place.key("acme")
        backup = Backup(place)
        place.consumer("lost")
        view = place.snapshot()
        view._parser._box = SecretBox((make_secret_key(),))  # noqa: SLF001  it has the new key alone
        backup.restore()
        view.read(place.engine)

        assert knows(view, key.key)
        assert view.age() < 60
        assert any("another PENSTOCK_SECRET_KEY" in doubt for doubt in view.unreadable_rows)
        replaced = Snapshot("test", SecretBox((make_secret_key(),)), forgiving=True)
        replaced.read(place.engine)  # a process that takes the place of one that ended
        assert knows(replaced, key.key)
        with pytest.raises(CannotStart, match="PENSTOCK_SECRET_KEY"):
            Snapshot("test", SecretBox((make_secret_key(),))).read(place.engine)


class TestHosts:
    @pytest.mark.parametrize("kind", ["sqlite", "postgresql"])
    def test_a_host_that_was_cut_off_serves_what_the_restored_database_says(
        self,
        kind: str,
        new_database: Callable[..., str],
        tmp_path: Path,
        serve: Callable[..., Server],
    ) -> None:
        """H5 a: its revision has been passed, and a key was revoked meanwhile."""
        place = Place.make(new_database(kind, upgraded=True), tmp_path)
        place.policy("api-key")
        place.plugin("things", PLUGIN.replace(", jwt=True", ""))
        place.consumer("acme", "things")
        revoked, good = place.key("acme"), place.key("acme")
        server = serve(place, workers=2)

        def statuses(key: str) -> set[int]:
            return {
                httpx.get(
                    f"{server.url}/v1/things/", headers={"X-API-Key": key}, timeout=20
                ).status_code
                for _ in range(8)
            }

        assert statuses(revoked.key) == statuses(good.key) == {200}
        backup = Backup(place)
        place.consumer("lost")
        until(lambda: statuses(good.key) == {200})
        time.sleep(0.6)  # each has seen the last change
        for pid in pids(server):
            os.kill(pid, signal.SIGSTOP)
        try:
            place.engine.dispose()
            backup.restore()
            api_keys.revoke_key(place.engine, ACTOR, revoked.id)
            place.consumer("later")
        finally:
            for pid in pids(server):
                os.kill(pid, signal.SIGCONT)
        until(lambda: statuses(revoked.key) == {401})
        until(lambda: statuses(good.key) == {200})
        assert "database restored" in server.log.read_text()
        place.engine.dispose()

    def test_calls_during_a_restore_are_answered_rightly(
        self, new_database: Callable[..., str], tmp_path: Path, serve: Callable[..., Server]
    ) -> None:
        """H5 b and c: no good key is 401 at any moment, and tokens are good afterwards."""
        place = Place.make(new_database("postgresql", upgraded=True), tmp_path)
        place.policy("jwt-api-key")
        place.plugin("things", PLUGIN)
        place.consumer("acme", "things", "entrance")
        place.designate("entrance")
        key = place.key("acme").key
        inside = f"127.0.0.1:{free_port()}"
        server = serve(place, workers=1, PENSTOCK_INTERNAL_BIND=inside)
        backup = Backup(place)
        place.consumer("lost")
        lost = place.snapshot().revision  # which the server must know, to miss it afterwards
        until(
            lambda: (
                httpx.get(f"http://{inside}/-/status", timeout=20).json()["snapshot"]["revision"]
                == lost
            )
        )
        token = server.call("POST", "/v1/entrance/", key=key).json()["token"]
        seen: list[int] = []

        def call() -> int:
            seen.append(server.call("GET", "/v1/things/", key=key, token=token).status_code)
            return seen[-1]

        assert call() == 200
        place.engine.dispose()
        with backup.half_restored(without="signing_keys"):
            end = time.monotonic() + 2
            while time.monotonic() < end:
                call()
            assert set(seen) == {200}  # by what was known
        until(lambda: "database restored" in server.log.read_text() and call() == 200)
        backup.restore()
        end = time.monotonic() + 2
        while time.monotonic() < end:
            call()
        assert set(seen) <= {200, 503}
        assert call() == 200
        assert server.call("POST", "/v1/entrance/", key=key).status_code == 200
        place.engine.dispose()
