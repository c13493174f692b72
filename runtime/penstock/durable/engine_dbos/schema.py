"""The engine's tables and names."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager

from dbos import (
    DBOS,
    DBOSClient,
)
from dbos import error as faults

from penstock.db.engine import (
    DatabaseUnavailable,
    DatabaseUnfit,
    shown_url,
    translated,
)
from penstock.plugins.guard import described


def application(environment: str) -> str:
    """Return the name that an environment's runs are kept apart by."""
    return f"penstock-{environment}"


def version(environment: str) -> str:
    """Return the engine's word for who may take whose runs.

    It is one for all workers of an environment, whatever plugins they have loaded.

    Which pipelines a worker can perform is told by its queues, and steps that are not those of
    before are noticed. The engine wants the word to be one application's alone.
    """
    return f"{application(environment)}-1"


def migrate(url: str) -> None:
    """Bring the engine's tables to its release.

    Raises DatabaseUnavailable; where waiting can't help, DatabaseUnfit.
    """
    silence_engine_log()
    try:
        with translated(f"the database {shown_url(url)}, for the tables of durable runs,"):
            DBOS.migrate(url)
    except DatabaseUnavailable:
        raise
    except Exception as error:
        raise DatabaseUnfit(
            f"the tables of durable runs can't be made: {described(error)}"
        ) from error


def is_migrated(url: str) -> bool:
    """Return whether the engine's tables are of its release, or a later one.

    Raises DatabaseUnavailable.
    """
    silence_engine_log()
    client = DBOSClient(system_database_url=url, lazy=True, retry_connection_errors=False)
    try:
        with engine_errors_translated():
            client._sys_db.verify_migrations()  # noqa: SLF001  its client has no door to it; the engine's minor is pinned
    except faults.DBOSInitializationError:
        return False
    finally:
        client.destroy()
    return True


def silence_engine_log() -> None:
    """Send what the engine has to say to our log; it would write to standard error by itself."""
    logger = logging.getLogger("dbos")
    logger.handlers[:] = [logging.NullHandler()]
    logger.propagate = True
    logger.setLevel(logging.ERROR)


@contextmanager
def engine_errors_translated() -> Iterator[None]:
    with translated("the engine's database"):
        yield
