"""Engines of SQLite: pragmas, transactions, and the database's file."""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from sqlalchemy import event

from penstock.db.failures import DatabaseUnavailable

WRITE = "penstock_write"  # the option of a connection that writes
BUSY_TIMEOUT_S = 10


def sqlite_engine(url: sa.URL, *, relaxed: bool, create: bool) -> sa.Engine:
    """Return an engine for our own tables; `relaxed` and `create` are those of `open_engine`."""
    engine = sa.create_engine(url, connect_args={"timeout": BUSY_TIMEOUT_S}, hide_parameters=True)
    _sqlite_follow_file(engine, create=create)
    event.listen(engine, "do_connect", _sqlite_create)
    event.listen(engine, "connect", _sqlite_relaxed if relaxed else _sqlite_connect)
    event.listen(engine, "begin", _sqlite_begin)
    return engine


def open_sqlite(url: str, *, immediate: Callable[[], bool]) -> sa.Engine:
    """Return an engine for an SQLite database, for the engine of durable runs.

    A transaction takes the write lock at its first write, or at its begin while `immediate` returns
    True.
    """
    engine = sa.create_engine(
        sa.make_url(url),
        connect_args={"timeout": 30, "isolation_level": "IMMEDIATE"},
        hide_parameters=True,
    )

    def connect(connection: Any, _record: object) -> None:  # noqa: ANN401  a DBAPI connection has no common type
        connection.execute("PRAGMA foreign_keys=ON")

    def begin(connection: sa.Connection) -> None:
        if immediate():
            connection.exec_driver_sql("BEGIN IMMEDIATE")

    event.listen(engine, "connect", connect)
    event.listen(engine, "begin", begin)
    _sqlite_follow_file(engine, create=False)
    return engine


def sqlite_file(url: str) -> Path | None:
    """Return the file of an SQLite URL, None for any other database."""
    parsed = sa.make_url(url)
    return Path(parsed.database or "") if parsed.get_backend_name() == "sqlite" else None


def _sqlite_create(_dialect: object, _record: object, arguments: list[Any], _more: object) -> None:
    """Create the file for its owner alone: it contains password hashes and the audit trail.

    SQLite creates the files beside it with the same mode. A file that exists is never opened here:
    closing it would release the locks that SQLite holds on it in this process (POSIX fcntl).
    """
    with suppress(OSError):  # it exists, or the driver raises a better error
        os.close(os.open(str(arguments[0]), os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o600))


def _sqlite_follow_file(engine: sa.Engine, *, create: bool) -> None:
    """Create the file at the first connection only, and only with `create`.

    Connect again where another file has its name, as after a restore: SQLite would continue with
    the file that was replaced.
    """
    path = str(engine.url.database)
    connected = not create

    def identity() -> tuple[int, int]:
        try:
            status = os.stat(path)  # noqa: PTH116  at each transaction: the path is text already
        except OSError as error:
            raise DatabaseUnavailable(
                f"the database's file can't be found any more: {error}"
            ) from error
        return status.st_dev, status.st_ino

    def expect(*_arguments: object) -> None:
        if connected:  # SQLite would create an empty one
            identity()

    def note(_connection: object, record: Any) -> None:  # noqa: ANN401  SQLAlchemy's type is private
        nonlocal connected
        record.info["file"] = identity()
        connected = True

    def compare(_connection: object, record: Any, _proxy: object) -> None:  # noqa: ANN401  as above
        if record.info["file"] != identity():
            raise sa.exc.DisconnectionError("another file has the database's name")

    event.listen(engine, "do_connect", expect)
    event.listen(engine, "connect", note)
    event.listen(engine, "checkout", compare)


def _sqlite_connect(connection: Any, _record: object) -> None:  # noqa: ANN401  a DBAPI connection has no common type
    # sqlite3 itself must not begin transactions: _sqlite_begin does.
    connection.isolation_level = None
    cursor = connection.cursor()
    for pragma in ("journal_mode=WAL", "synchronous=FULL", "foreign_keys=ON"):
        cursor.execute(f"PRAGMA {pragma}")
    cursor.close()


def _sqlite_relaxed(connection: Any, record: object) -> None:  # noqa: ANN401  a DBAPI connection has no common type
    _sqlite_connect(connection, record)
    connection.execute("PRAGMA synchronous=NORMAL")


def _sqlite_begin(connection: sa.Connection) -> None:
    # A writer takes the lock at its begin: a transaction that begins as a reader can't wait for it
    # later.
    connection.exec_driver_sql(
        "BEGIN IMMEDIATE" if connection.get_execution_options().get(WRITE) else "BEGIN"
    )
