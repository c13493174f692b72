"""Open a database: SQLite in WAL mode as the embedded default, PostgreSQL through psycopg 3."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from sqlalchemy import event
from sqlalchemy.exc import ArgumentError, NoSuchModuleError, OperationalError, SQLAlchemyError

from penstock.errors import BadSetting, PenstockError

CHANNEL = "penstock_access"
WRITE = "penstock_write"
LIMIT_EXCEEDED = "54"  # begins PostgreSQL's codes of such errors
Engine = sa.Engine
Connection = sa.Connection


class DatabaseAway(PenstockError):
    """The database can't be reached, or is not what we expect; the text says which."""

    exit_code = 3


def open_engine(url: str, *, relaxed: bool = False) -> Engine:
    """Return an engine for a database URL; nothing is connected yet. Raises BadSetting.

    What is committed survives the loss of power. On SQLite `relaxed` gives that up for what may be lost, such as records. Errors do not quote
    the values of a statement.
    """
    try:
        parsed = sa.make_url(url)
    except ArgumentError:
        raise BadSetting("PENSTOCK_DATABASE_URL is no database URL; write sqlite:///file.db or postgresql://user@host/name") from None
    kind = parsed.get_backend_name()
    if kind == "sqlite":
        if parsed.database in (None, "", ":memory:"):
            raise BadSetting("PENSTOCK_DATABASE_URL must name a file: processes can't share a database in memory")
        engine = sa.create_engine(parsed, connect_args={"timeout": 10}, hide_parameters=True)
        event.listen(engine, "connect", _sqlite_relaxed if relaxed else _sqlite_connect)
        event.listen(engine, "begin", _sqlite_begin)
        return engine
    if kind == "postgresql":
        try:
            parsed = parsed.set(drivername="postgresql+psycopg")
            return sa.create_engine(parsed, pool_pre_ping=True, pool_size=2, connect_args={"connect_timeout": 5}, hide_parameters=True)
        except (ArgumentError, NoSuchModuleError):
            raise BadSetting("PENSTOCK_DATABASE_URL can't be understood; write postgresql://user@host/name") from None
    raise BadSetting(f"PENSTOCK_DATABASE_URL names a {kind} database; Penstock runs on sqlite and postgresql")


def open_sqlite(url: str, *, at_once: Callable[[], bool]) -> Engine:
    """Return an engine for an SQLite database on which transactions begin with their first write, or where `at_once` says so, with what they read."""
    engine = sa.create_engine(sa.make_url(url), connect_args={"timeout": 30, "isolation_level": "IMMEDIATE"}, hide_parameters=True)

    def connect(connection: Any, _record: object) -> None:  # noqa: ANN401  a DBAPI connection has no common type
        connection.execute("PRAGMA foreign_keys=ON")

    def begin(connection: sa.Connection) -> None:
        if at_once():
            connection.exec_driver_sql("BEGIN IMMEDIATE")

    event.listen(engine, "connect", connect)
    event.listen(engine, "begin", begin)
    return engine


def sqlite_file(url: str) -> Path | None:
    """Return the file of an SQLite URL, None for any other database."""
    parsed = sa.make_url(url)
    return Path(parsed.database or "") if parsed.get_backend_name() == "sqlite" else None


def _sqlite_connect(connection: Any, _record: object) -> None:  # noqa: ANN401  a DBAPI connection has no common type
    connection.isolation_level = None  # sqlite3 itself must not begin transactions: _sqlite_begin does
    cursor = connection.cursor()
    for pragma in ("journal_mode=WAL", "synchronous=FULL", "foreign_keys=ON"):
        cursor.execute(f"PRAGMA {pragma}")
    cursor.close()


def _sqlite_relaxed(connection: Any, record: object) -> None:  # noqa: ANN401  a DBAPI connection has no common type
    _sqlite_connect(connection, record)
    connection.execute("PRAGMA synchronous=NORMAL")


def _sqlite_begin(connection: sa.Connection) -> None:
    # A writer asks for the lock at once: one that begins as a reader can't wait for it later.
    connection.exec_driver_sql("BEGIN IMMEDIATE" if connection.get_execution_options().get(WRITE) else "BEGIN")


@contextmanager
def reading(engine: Engine) -> Iterator[sa.Connection]:
    """Open a connection that sees one consistent state. Raises DatabaseAway."""
    with translated(_name(engine)), engine.connect() as connection:
        if engine.dialect.name == "postgresql":
            connection.execution_options(isolation_level="REPEATABLE READ")
        with connection.begin():
            yield connection


@contextmanager
def writing(engine: Engine) -> Iterator[sa.Connection]:
    """Open a transaction that writes: all of it is kept, or nothing. Raises DatabaseAway."""
    with translated(_name(engine)), engine.connect() as connection:
        connection.execution_options(**{WRITE: True})
        with connection.begin():
            yield connection


def _name(engine: Engine) -> str:
    return f"the database {engine.url.render_as_string(hide_password=True)}"


@contextmanager
def translated(database: str) -> Iterator[None]:
    """Turn the driver's errors into DatabaseAway, which names the database."""
    try:
        yield
    except OperationalError as error:
        if too_much(error):
            raise
        reason = " ".join(str(error.orig).split())
        mend = "; run `penstock db upgrade`" if "no such table" in reason else ""
        raise DatabaseAway(f"{database} can't be used: {reason}{mend}") from error
    except sa.exc.ProgrammingError as error:
        if "does not exist" in str(error.orig):
            raise DatabaseAway("the database has no tables of ours; run `penstock db upgrade`") from error
        raise
    except sa.exc.TimeoutError as error:
        raise DatabaseAway("all connections to the database are busy") from error
    except SQLAlchemyError as error:
        if isinstance(error, sa.exc.DBAPIError) and error.connection_invalidated:
            raise DatabaseAway("the connection to the database was lost; try again") from error
        raise


def too_much(error: Exception) -> bool:
    """Say whether the database can't take a value, now or ever: it is too large, or of a kind that it does not know."""
    if isinstance(error, sa.exc.DBAPIError):
        return isinstance(error, sa.exc.DataError) or str(getattr(error.orig, "sqlstate", "")).startswith(LIMIT_EXCEEDED)
    return isinstance(error, OverflowError | UnicodeError)


def listen(engine: Engine, wake: Callable[[], None], stopped: Callable[[], bool]) -> None:
    """Call `wake` for each notification on PostgreSQL until `stopped` says so. Raises OSError when the connection is lost."""
    import psycopg  # noqa: PLC0415  who has SQLite need not load it

    url = engine.url.set(drivername="postgresql").render_as_string(hide_password=False)
    try:
        with psycopg.connect(url, autocommit=True, connect_timeout=5) as connection:
            connection.execute(f"LISTEN {CHANNEL}")
            wake()
            while not stopped():
                for _ in connection.notifies(timeout=0.5, stop_after=1):
                    wake()
    except psycopg.Error as error:
        raise OSError("the listening connection was lost") from error
