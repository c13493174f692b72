"""Open a database: SQLite in WAL mode as the embedded default, PostgreSQL through psycopg 3."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from sqlalchemy import event
from sqlalchemy.exc import ArgumentError, NoSuchModuleError

from penstock.db.liveness import SILENCE, Silence
from penstock.db.postgres import close_idle, is_pooled, shared_engine
from penstock.errors import BadSetting, PenstockError

WRITE = "penstock_write"
# Begins PostgreSQL's codes of such errors
# (https://www.postgresql.org/docs/current/errcodes-appendix.html).
LIMIT_EXCEEDED = "54"
READ_ONLY = "25006"
DISK_FULL = "53100"
FULL_S = 60.0  # that a disk counts as full after it was
LOGIN = "28"  # begins the codes of a login that was refused
NO_TABLES = frozenset({"42P01", "42703", "3F000"})  # no such table, column or schema
NOT_OURS = NO_TABLES | {"42501", "3D000"}  # also: no privilege, no such database
# The state of the server or of the transaction, whatever class a driver raises.
UNUSABLE = ("25", "53", "55", "57", "58", "XX")
# psycopg gives a failed connection no code.
INVALID_OPTION = "invalid connection option"  # of a URL
UNFIT_WORDS = (
    "no such table",
    "no such column",
    "authentication failed",
    "no password supplied",
    "no pg_hba.conf entry",
    "file is not a database",
    INVALID_OPTION,
)
NOT_THERE = re.compile(r'FATAL: +(?:database|role) ".*" does not exist')
Engine = sa.Engine
Connection = sa.Connection


class DatabaseUnavailable(PenstockError):
    """The database can't be used now, through no fault of a statement or a value.

    The text says why. Waiting may be enough.

    The exit code is EX_TEMPFAIL of sysexits.h: whoever starts the process may try again.
    """

    exit_code = 75


class DatabaseReadOnly(DatabaseUnavailable):
    """The database answers and takes no changes.

    A standby, or a primary that was set to read only.
    """


class DatabaseFull(DatabaseUnavailable):
    """The database answers and has no room left on its disk."""


class DatabaseUnfit(DatabaseUnavailable):
    """The database is not what this release expects, or lets this user in.

    Somebody must change that before a start can succeed.
    """

    exit_code = 3


class NoDatabase(DatabaseUnfit):
    """The file of an SQLite database is not there."""


class Writes:
    """What became of the last transactions of this process that write.

    Whether the database took them.
    """

    def __init__(self) -> None:
        self._full_at = self._read_only_at = self._written_at = float("-inf")

    @property
    def full(self) -> bool:
        """Whether the disk of the database is full.

        A small write may still succeed then, so a full disk counts for a while.
        """
        return self._full_at > self._written_at or time.monotonic() - self._full_at < FULL_S

    @property
    def read_only(self) -> bool:
        """Whether the database takes no changes."""
        return self._read_only_at > self._written_at

    def failed(self, error: DatabaseUnavailable) -> None:
        """Note why a transaction failed."""
        if isinstance(error, DatabaseFull):
            self._full_at = time.monotonic()
        elif isinstance(error, DatabaseReadOnly):
            self._read_only_at = time.monotonic()

    def succeeded(self) -> None:
        """Note that a transaction was committed."""
        self._written_at = time.monotonic()


writes = Writes()


def open_engine(
    url: str,
    *,
    relaxed: bool = False,
    reserved: bool = False,
    silence: Silence | None = SILENCE,
    create: bool = True,
) -> Engine:
    """Return an engine for a database URL; nothing is connected yet. Raises BadSetting.

    On PostgreSQL all of a process share one, except for what is `reserved`: work that must not wait
    for sessions that other work has. `create` lets it make the file of an SQLite database. What is
    committed survives the loss of power; on SQLite `relaxed` gives that up for what may be lost,
    such as records. With `silence` no query waits for ever for a PostgreSQL server that is silent;
    without it a query may take as long as it does. Errors do not quote the values of a statement.
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
        engine = sa.create_engine(parsed, connect_args={"timeout": 10}, hide_parameters=True)
        _sqlite_follow_file(engine, create=create)
        event.listen(engine, "do_connect", _sqlite_create)
        event.listen(engine, "connect", _sqlite_relaxed if relaxed else _sqlite_connect)
        event.listen(engine, "begin", _sqlite_begin)
        return engine
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


def open_existing(url: str, source: str, *, silence: Silence | None = SILENCE) -> Engine:
    """Return an engine for a database that is there; `source` says where the URL comes from.

    Raises BadSetting, and NoDatabase.

    Connecting would create the file of an SQLite database, and whoever forgot a setting would look
    at an empty one.
    """
    engine = open_engine(url, silence=silence, create=False)
    file = sqlite_file(url)
    if file is not None and not file.exists():
        raise NoDatabase(
            f"there is no database {file.absolute()} ({source}); run `penstock db upgrade` to"
            " create it, or give this command the server's settings"
        )
    return engine


def trim(engine: Engine) -> None:
    """Close the sessions of PostgreSQL that are idle. Raises DatabaseUnavailable."""
    if engine.dialect.name == "postgresql":
        with translated(_name(engine)):
            close_idle(engine)


def same_database(one: Engine, other: Engine) -> bool:
    """Return whether two engines lead to one database of one PostgreSQL server.

    Raises DatabaseUnavailable.
    """
    known = set()
    for engine in (one, other):
        with reading(engine) as connection:
            known.add(
                tuple(
                    connection.execute(
                        sa.text("SELECT current_database(), pg_postmaster_start_time()")
                    ).one()
                )
            )
    return len(known) == 1


def through_pooler(engine: Engine) -> bool:
    """Return whether a database is reached through a connection pooler.

    Raises DatabaseUnavailable.
    """
    with translated(_name(engine)):
        return is_pooled(engine)


def open_sqlite(url: str, *, at_once: Callable[[], bool]) -> Engine:
    """Return an engine for an SQLite database.

    Transactions begin with their first write, or, with `at_once`, with their first statement.
    """
    engine = sa.create_engine(
        sa.make_url(url),
        connect_args={"timeout": 30, "isolation_level": "IMMEDIATE"},
        hide_parameters=True,
    )

    def connect(connection: Any, _record: object) -> None:  # noqa: ANN401  a DBAPI connection has no common type
        connection.execute("PRAGMA foreign_keys=ON")

    def begin(connection: sa.Connection) -> None:
        if at_once():
            connection.exec_driver_sql("BEGIN IMMEDIATE")

    event.listen(engine, "connect", connect)
    event.listen(engine, "begin", begin)
    _sqlite_follow_file(engine, create=False)
    return engine


def sqlite_file(url: str) -> Path | None:
    """Return the file of an SQLite URL, None for any other database."""
    parsed = sa.make_url(url)
    return Path(parsed.database or "") if parsed.get_backend_name() == "sqlite" else None


def shown_url(url: str) -> str:
    """Return a database URL without its password, or the whole path of an SQLite database."""
    file = sqlite_file(url)
    return (
        sa.make_url(url).render_as_string(hide_password=True)
        if file is None
        else str(file.absolute())
    )


def _sqlite_create(_dialect: object, _record: object, arguments: list[Any], _more: object) -> None:
    """Create the file for its owner alone: it holds password hashes and the audit trail.

    SQLite gives the files beside it the same mode.

    A file that is there is never opened here: closing it would drop the locks that SQLite holds on
    it in this process (POSIX fcntl).
    """
    with suppress(OSError):  # it is there, or the driver says what is wrong with it
        os.close(os.open(str(arguments[0]), os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o600))


def _sqlite_follow_file(engine: Engine, *, create: bool) -> None:
    """Create no file but at the first connection, where that may.

    Open the file anew where another one has its name, as after a restore: SQLite would go on with
    the one that is gone.
    """
    path = str(engine.url.database)
    connected = not create

    def identity() -> tuple[int, int]:
        try:
            found = os.stat(path)  # noqa: PTH116  at each transaction: the path is text already
        except OSError as error:
            raise DatabaseUnavailable(
                f"the database's file can't be found any more: {error}"
            ) from error
        return found.st_dev, found.st_ino

    def expect(*_arguments: object) -> None:
        if connected:  # SQLite would make an empty one
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
    # A writer asks for the lock at once: one that begins as a reader can't wait for it later.
    connection.exec_driver_sql(
        "BEGIN IMMEDIATE" if connection.get_execution_options().get(WRITE) else "BEGIN"
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
    """Open a transaction that writes: all of it is kept, or nothing. Raises DatabaseUnavailable."""
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


@contextmanager
def translated(database: str) -> Iterator[None]:
    """Turn the driver's errors into DatabaseUnavailable, which names the database.

    The rule: what is wrong with a value, a constraint or a statement of ours is raised as it is.
    Every other error of a driver says that the database can't be used now, whatever its class: a
    failover alone raises seven of them.
    """
    try:
        yield
    except sa.exc.TimeoutError as error:
        raise DatabaseUnavailable("all connections to the database are busy") from error
    except sa.exc.DBAPIError as error:
        if _ours(error):
            raise
        reason = " ".join(str(error.orig).partition("\nLINE ")[0].split())  # without our statement
        raise _away(error, reason)(
            f"{database} can't be used: {reason}{_mend(error, reason)}"
        ) from error


def _ours(error: sa.exc.DBAPIError) -> bool:
    """Say whether an error is of a value, a constraint or a statement.

    Such an error says nothing about the database's state.
    """
    if error.connection_invalidated or (not _code(error) and INVALID_OPTION in str(error.orig)):
        return False
    if too_much(error) or isinstance(error, sa.exc.IntegrityError | sa.exc.NotSupportedError):
        return True
    code = _code(error)
    return (
        isinstance(error, sa.exc.ProgrammingError)
        and code not in NOT_OURS
        and not code.startswith(UNUSABLE)
    )


def _code(error: sa.exc.DBAPIError) -> str:
    return str(getattr(error.orig, "sqlstate", None) or "")


def _away(error: sa.exc.DBAPIError, reason: str) -> type[DatabaseUnavailable]:
    code = _code(error)
    if code == READ_ONLY or "readonly database" in reason:
        return DatabaseReadOnly
    if code == DISK_FULL or "disk is full" in reason:
        return DatabaseFull
    unfit = (
        code in NOT_OURS
        or code.startswith(LOGIN)
        or any(words in reason for words in UNFIT_WORDS)
        or NOT_THERE.search(reason)
    )
    return DatabaseUnfit if unfit else DatabaseUnavailable


def _mend(error: sa.exc.DBAPIError, reason: str) -> str:
    return (
        "; run `penstock db upgrade`"
        if _code(error) in NO_TABLES or "no such table" in reason or "no such column" in reason
        else ""
    )


def too_much(error: Exception) -> bool:
    """Say whether the database can't take a value, now or ever.

    It is too large, or of a kind that it does not know.
    """
    if isinstance(error, sa.exc.DBAPIError):
        return isinstance(error, sa.exc.DataError) or str(
            getattr(error.orig, "sqlstate", "")
        ).startswith(LIMIT_EXCEEDED)
    return isinstance(error, OverflowError | UnicodeError)
