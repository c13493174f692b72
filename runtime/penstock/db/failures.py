"""Errors of drivers as errors of ours, which say whether and why the database can't be used."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager

import sqlalchemy as sa

from penstock.errors import PenstockError

# Error codes of PostgreSQL (https://www.postgresql.org/docs/current/errcodes-appendix.html).
# Codes of two characters are classes.
LIMIT_EXCEEDED = "54"
READ_ONLY = "25006"
DISK_FULL = "53100"
LOGIN_REJECTED = "28"
NO_TABLES = frozenset({"42P01", "42703", "3F000"})  # no such table, column or schema
UNFIT = NO_TABLES | {"42501", "3D000"}  # also: no privilege, no such database
# The state of the server or of the transaction; drivers raise various classes for it.
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


class DatabaseUnavailable(PenstockError):
    """The database can't be used now, through no fault of a statement or a value.

    The text says why. It may be available again later, so the exit code is EX_TEMPFAIL of
    sysexits.h: a supervisor may start the process again.
    """

    exit_code = 75


class DatabaseReadOnly(DatabaseUnavailable):
    """The database rejects changes: a standby, or a primary that was set to read only."""


class DatabaseFull(DatabaseUnavailable):
    """The disk of the database is full."""


class DatabaseUnfit(DatabaseUnavailable):
    """The database is not what this release expects, or rejects the login.

    An operator must change that before a start can succeed.
    """

    exit_code = 3


class NoDatabase(DatabaseUnfit):
    """The file of an SQLite database does not exist."""


@contextmanager
def translated(database: str) -> Iterator[None]:
    """Turn the driver's errors into DatabaseUnavailable, which names the database.

    An error of a value, a constraint or a statement is raised as it is. Every other error of a
    driver says that the database can't be used now; a failover alone raises seven classes of them.
    """
    try:
        yield
    except sa.exc.TimeoutError as error:
        raise DatabaseUnavailable("all connections to the database are busy") from error
    except sa.exc.DBAPIError as error:
        if _is_of_statement(error):
            raise
        reason = " ".join(str(error.orig).partition("\nLINE ")[0].split())  # without our statement
        raise _class_of(error, reason)(
            f"{database} can't be used: {reason}{_fix(error, reason)}"
        ) from error


def _is_of_statement(error: sa.exc.DBAPIError) -> bool:
    """Return whether an error is of a value, a constraint or a statement.

    Such an error says nothing about the database's state.
    """
    if error.connection_invalidated or (not _code(error) and INVALID_OPTION in str(error.orig)):
        return False
    if is_value_too_large(error) or isinstance(
        error, sa.exc.IntegrityError | sa.exc.NotSupportedError
    ):
        return True
    code = _code(error)
    return (
        isinstance(error, sa.exc.ProgrammingError)
        and code not in UNFIT
        and not code.startswith(UNUSABLE)
    )


def _code(error: sa.exc.DBAPIError) -> str:
    return str(getattr(error.orig, "sqlstate", None) or "")


def _class_of(error: sa.exc.DBAPIError, reason: str) -> type[DatabaseUnavailable]:
    code = _code(error)
    if code == READ_ONLY or "readonly database" in reason:
        return DatabaseReadOnly
    if code == DISK_FULL or "disk is full" in reason:
        return DatabaseFull
    unfit = (
        code in UNFIT
        or code.startswith(LOGIN_REJECTED)
        or any(words in reason for words in UNFIT_WORDS)
        or NOT_THERE.search(reason)
    )
    return DatabaseUnfit if unfit else DatabaseUnavailable


def _fix(error: sa.exc.DBAPIError, reason: str) -> str:
    return (
        "; run `penstock db upgrade`"
        if _code(error) in NO_TABLES or "no such table" in reason or "no such column" in reason
        else ""
    )


def is_value_too_large(error: Exception) -> bool:
    """Return whether the database can't store a value: it is too large, or of an unknown kind."""
    if isinstance(error, sa.exc.DBAPIError):
        return isinstance(error, sa.exc.DataError) or str(
            getattr(error.orig, "sqlstate", "")
        ).startswith(LIMIT_EXCEEDED)
    return isinstance(error, OverflowError | UnicodeError)
