"""The tables, names, log and errors of the engine."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager

from dbos import (
    DBOS,
    DBOSClient,
)
from dbos import error as faults

from penstock.db.engine import shown_url
from penstock.db.failures import DatabaseUnavailable, DatabaseUnfit, translated
from penstock.plugins.guard import describe_exception


def application(environment: str) -> str:
    """Return the application name, which separates the runs of environments."""
    return f"penstock-{environment}"


def version(environment: str) -> str:
    """Return the application version, by which the engine decides who may take a run.

    All workers of an environment have the same, whichever plugins they have loaded: queues decide
    which pipelines a worker performs, and changed steps are detected. The engine requires that no
    two applications share a version.
    """
    return f"{application(environment)}-1"


def migrate(url: str) -> None:
    """Upgrade the tables of the engine.

    Raises DatabaseUnavailable, and DatabaseUnfit where waiting does not help.
    """
    silence_engine_log()
    try:
        with translated(f"the database {shown_url(url)}, for the tables of durable runs,"):
            DBOS.migrate(url)
    except DatabaseUnavailable:
        raise
    except Exception as error:
        raise DatabaseUnfit(
            f"the tables of durable runs can't be made: {describe_exception(error)}"
        ) from error


def is_migrated(url: str) -> bool:
    """Return whether the tables of the engine have its schema, or a later one.

    Raises DatabaseUnavailable.
    """
    silence_engine_log()
    client = DBOSClient(system_database_url=url, lazy=True, retry_connection_errors=False)
    try:
        with engine_errors_translated():
            client._sys_db.verify_migrations()  # noqa: SLF001  the client has no public method; the minor is pinned
    except faults.DBOSInitializationError:
        return False
    finally:
        client.destroy()
    return True


def silence_engine_log() -> None:
    """Route errors of the engine to the log; it would write to standard error."""
    logger = logging.getLogger("dbos")
    logger.handlers[:] = [logging.NullHandler()]
    logger.propagate = True
    logger.setLevel(logging.ERROR)


@contextmanager
def engine_errors_translated() -> Iterator[None]:
    """Raise errors of the engine's database as DatabaseUnavailable."""
    with translated("the engine's database"):
        yield
