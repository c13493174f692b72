"""Open a database: SQLite in WAL mode as the embedded default, PostgreSQL through psycopg 3."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

import sqlalchemy as sa
from sqlalchemy.exc import ArgumentError, NoSuchModuleError

from penstock.db.failures import (
    DatabaseFull,
    DatabaseReadOnly,
    DatabaseUnavailable,
    NoDatabase,
    translated,
)
from penstock.db.liveness import SILENCE_LIMIT, Silence
from penstock.db.postgres import close_idle, is_pooled, shared_engine
from penstock.db.sqlite import WRITE, sqlite_engine, sqlite_file
from penstock.errors import BadSetting

DISK_FULL_S = 60.0  # a disk counts as full for that time
Engine = sa.Engine
Connection = sa.Connection


class Writes:
    """Whether the last writing transactions of this process succeeded."""

    def __init__(self) -> None:
        self._full_at = self._read_only_at = self._written_at = float("-inf")

    @property
    def full(self) -> bool:
        """Whether the disk of the database is full.

        A small write may still succeed then, so a full disk counts for a while.
        """
        return self._full_at > self._written_at or time.monotonic() - self._full_at < DISK_FULL_S

    @property
    def read_only(self) -> bool:
        """Whether the database rejects changes."""
        return self._read_only_at > self._written_at

    def failed(self, error: DatabaseUnavailable) -> None:
        """Record why a transaction failed."""
        if isinstance(error, DatabaseFull):
            self._full_at = time.monotonic()
        elif isinstance(error, DatabaseReadOnly):
            self._read_only_at = time.monotonic()

    def succeeded(self) -> None:
        """Record that a transaction was committed."""
        self._written_at = time.monotonic()


writes = Writes()


def open_engine(
    url: str,
    *,
    relaxed: bool = False,
    reserved: bool = False,
    silence: Silence | None = SILENCE_LIMIT,
    create: bool = True,
) -> Engine:
    """Return an engine for a database URL; nothing is connected yet. Raises BadSetting.

    On PostgreSQL a process has one, and a `reserved` one for work that must not wait for sessions
    of other work. `create` allows it to create the file of an SQLite database. Committed data
    survives the loss of power; on SQLite `relaxed` gives that up for data that may be lost, such as
    records. `silence` limits how long a query waits for a silent PostgreSQL server; with None a
    query has no limit. Errors do not quote the values of a statement.
    """
    try:
        parsed = sa.make_url(url)
    except (ArgumentError, ValueError):
        raise BadSetting(
            "PENSTOCK_DATABASE_URL is no database URL; write sqlite:///file.db or"
            " postgresql://user@host/name"
        ) from None
    kind = parsed.get_backend_name()
    if kind == "sqlite":
        if parsed.database in (None, "", ":memory:"):
            raise BadSetting(
                "PENSTOCK_DATABASE_URL must name a file: processes can't share a database in memory"
            )
        return sqlite_engine(parsed, relaxed=relaxed, create=create)
    if kind == "postgresql":
        try:
            return shared_engine(parsed, reserved=reserved, silence=silence)
        except (ArgumentError, NoSuchModuleError):
            raise BadSetting(
                "PENSTOCK_DATABASE_URL can't be understood; write postgresql://user@host/name"
            ) from None
    raise BadSetting(
        f"PENSTOCK_DATABASE_URL names a {kind} database; Penstock runs on sqlite and postgresql"
    )


def open_existing(url: str, source: str, *, silence: Silence | None = SILENCE_LIMIT) -> Engine:
    """Return an engine for a database that exists; `source` is where the URL comes from.

    Raises BadSetting, and NoDatabase: connecting would create the file of an SQLite database, and a
    command without the right setting would read an empty one.
    """
    engine = open_engine(url, silence=silence, create=False)
    file = sqlite_file(url)
    if file is not None and not file.exists():
        raise NoDatabase(
            f"there is no database {file.absolute()} ({source}); run `penstock db upgrade` to"
            " create it, or give this command the server's settings"
        )
    return engine


def close_idle_sessions(engine: Engine) -> None:
    """Close idle sessions of PostgreSQL. Raises DatabaseUnavailable."""
    if engine.dialect.name == "postgresql":
        with translated(_name(engine)):
            close_idle(engine)


def same_database(first: Engine, second: Engine) -> bool:
    """Return whether two engines lead to one database of one PostgreSQL server.

    Raises DatabaseUnavailable.
    """
    databases = set()
    for engine in (first, second):
        with reading(engine) as connection:
            row = connection.execute(
                sa.text("SELECT current_database(), pg_postmaster_start_time()")
            ).first()
            databases.add(tuple(row or ()))
    return len(databases) == 1


def through_pooler(engine: Engine) -> bool:
    """Return whether a database is reached through a connection pooler.

    Raises DatabaseUnavailable.
    """
    with translated(_name(engine)):
        return is_pooled(engine)


def shown_url(url: str) -> str:
    """Return a database URL without its password, or the whole path of an SQLite database."""
    file = sqlite_file(url)
    return (
        sa.make_url(url).render_as_string(hide_password=True)
        if file is None
        else str(file.absolute())
    )


@contextmanager
def reading(engine: Engine) -> Iterator[sa.Connection]:
    """Open a connection that sees one consistent state. Raises DatabaseUnavailable."""
    with translated(_name(engine)), engine.connect() as connection:
        if engine.dialect.name == "postgresql":
            connection.execution_options(isolation_level="REPEATABLE READ")
        with connection.begin():
            yield connection


@contextmanager
def writing(engine: Engine) -> Iterator[sa.Connection]:
    """Open a transaction that writes. Raises DatabaseUnavailable."""
    try:
        with translated(_name(engine)), engine.connect() as connection:
            connection.execution_options(**{WRITE: True})
            with connection.begin():
                yield connection
    except DatabaseUnavailable as error:
        writes.failed(error)
        raise
    writes.succeeded()


def _name(engine: Engine) -> str:
    return f"the database {engine.url.render_as_string(hide_password=True)}"
