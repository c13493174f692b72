"""What all tests share: databases of both kinds, and real servers."""

from __future__ import annotations

import os
import shutil
import uuid
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import psycopg
import pytest
from playwright.sync_api import Browser, sync_playwright
from support.place import Place, Server, upgrade
from support.services import PgBouncer, Postgres, Redis, initdb
from support.shared_work import (
    hash_passwords_quickly,
    share_compiled_statements,
    share_trusted_certificates,
)

from penstock.gate import evaluation

share_compiled_statements()
share_trusted_certificates()
hash_passwords_quickly()
# On a busy machine a policy of a test may answer late, and its gates would be closed for a moment.
evaluation.MAX_LIVE_ROUND_S = 5.0
CI = os.environ.get("CI") == "true"


@pytest.fixture(scope="session")
def postgres() -> Iterator[str]:
    """A PostgreSQL server of our own: its URL without a database."""
    programs = initdb()
    if programs is None:
        if CI:
            pytest.fail("PostgreSQL is missing, and CI must not skip")
        pytest.skip("PostgreSQL is not installed")
    server = Postgres(programs)
    server.start()
    yield server.url
    server.remove()


@pytest.fixture
def own_postgres() -> Iterator[Postgres]:
    """A PostgreSQL server that runs, for one test that stops it."""
    programs = initdb()
    if programs is None:
        _ = (
            pytest.fail("PostgreSQL is missing, and CI must not skip")
            if CI
            else pytest.skip("PostgreSQL is not installed")
        )
    server = Postgres(programs)
    server.start()
    yield server
    server.remove()


@pytest.fixture
def pgbouncer(postgres: str) -> Iterator[str]:
    """PgBouncer in transaction mode before the PostgreSQL server of all tests: its URL without a
    database."""
    program = shutil.which("pgbouncer") or shutil.which("pgbouncer", path="/usr/sbin")
    if program is None:
        _ = (
            pytest.fail("PgBouncer is missing, and CI must not skip")
            if CI
            else pytest.skip("PgBouncer is not installed")
        )
    pooler = PgBouncer(program, postgres)
    yield pooler.url
    pooler.remove()


@pytest.fixture
def redis(tmp_path: Path) -> Iterator[Redis]:
    """A Redis server of our own, which a test may stop and start."""
    program = shutil.which("redis-server")
    if program is None:
        if CI:
            pytest.fail("Redis is missing, and CI must not skip")
        pytest.skip("Redis is not installed")
    server = Redis(program, tmp_path)
    server.start()
    yield server
    server.stop()


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    """A real browser."""
    program = shutil.which("chromium") or shutil.which("chromium-browser")
    if program is None:
        if CI:
            pytest.fail("Chromium is missing, and CI must not skip")
        pytest.skip("Chromium is not installed")
    with sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=program, args=["--no-sandbox"])
        yield started
        started.close()


@pytest.fixture(scope="session")
def upgraded_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An upgraded SQLite database, to be copied."""
    path = tmp_path_factory.mktemp("template") / "upgraded.db"
    upgrade(f"sqlite:///{path}")
    return path


@pytest.fixture(scope="session")
def upgraded_database(postgres: str) -> str:
    """The name of an upgraded PostgreSQL database, to be copied."""
    with psycopg.connect(f"{postgres}/postgres", autocommit=True) as connection:
        connection.execute("CREATE DATABASE upgraded")
    upgrade(f"{postgres}/upgraded")
    return "upgraded"


@pytest.fixture
def new_database(request: pytest.FixtureRequest, tmp_path: Path) -> Callable[..., str]:
    """Make a database of a kind, empty or upgraded, and return its URL."""

    def make(kind: str, *, upgraded: bool = False) -> str:
        if kind == "sqlite":
            path = tmp_path / f"{uuid.uuid4().hex}.db"
            if upgraded:
                shutil.copyfile(request.getfixturevalue("upgraded_file"), path)
            return f"sqlite:///{path}"
        server, name = request.getfixturevalue("postgres"), f"t{uuid.uuid4().hex}"
        template = request.getfixturevalue("upgraded_database") if upgraded else "template1"
        with psycopg.connect(f"{server}/postgres", autocommit=True) as connection:
            connection.execute(f"CREATE DATABASE {name} TEMPLATE {template}")
        return f"{server}/{name}"

    return make


@pytest.fixture(params=["sqlite", "postgresql"])
def place(
    request: pytest.FixtureRequest, new_database: Callable[..., str], tmp_path: Path
) -> Iterator[Place]:
    """An upgraded database on each kind, with environments `test` and `prod`."""
    made = Place.make(new_database(request.param, upgraded=True), tmp_path)
    yield made
    made.engine.dispose()


@pytest.fixture
def sqlite_place(new_database: Callable[..., str], tmp_path: Path) -> Iterator[Place]:
    """An upgraded SQLite database, with environments `test` and `prod`."""
    made = Place.make(new_database("sqlite", upgraded=True), tmp_path)
    yield made
    made.engine.dispose()


@pytest.fixture
def serve() -> Iterator[Callable[..., Server]]:
    """Start real servers; they end with the test."""
    with ExitStack() as stack:
        yield lambda *args, **more: stack.enter_context(Server(*args, **more))
