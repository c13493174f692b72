"""Bring a database to the schema of this release, or say how far it is."""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import sqlalchemy as sa

import penstock
from penstock.db.engine import Engine, reading, writing
from penstock.db.failures import translated
from penstock.db.sqlite import sqlite_file

if TYPE_CHECKING:
    from alembic.config import Config

LOCK_TIMEOUT_S = 10
TURN_S = 0.2
ALONE = 7363001  # names our lock on PostgreSQL
VERSION = sa.table("alembic_version", sa.column("version_num"))  # where Alembic notes it


def migrations() -> Path:
    """Return the folder of migrations.

    Inside an installed package, beside `runtime/` in a checkout.
    """
    package = Path(penstock.__file__).parent
    inside = package / "migrations"
    return inside if inside.is_dir() else package.parent.parent / "migrations"


def _config() -> Config:
    from alembic.config import (  # noqa: PLC0415  a tenth of a second, and every process looks at its database but few upgrade it
        Config,
    )

    config = Config()
    config.set_main_option("script_location", str(migrations()).replace("%", "%%"))
    return config


def head() -> str:
    """Return the newest migration of this release."""
    from alembic.script import ScriptDirectory  # noqa: PLC0415  as above

    return ScriptDirectory.from_config(_config()).get_current_head() or ""


def knows(revision: str) -> bool:
    """Return whether a migration is one of this release, or of one before it."""
    from alembic.script import ScriptDirectory  # noqa: PLC0415  as above

    return any(
        script.revision == revision
        for script in ScriptDirectory.from_config(_config()).walk_revisions()
    )


def current(engine: Engine) -> str | None:
    """Return the migration that a database is at, None if it has none.

    Raises DatabaseUnavailable.
    """
    with reading(engine) as connection:
        return (
            connection.scalar(sa.select(VERSION.c.version_num))
            if sa.inspect(connection).has_table(VERSION.name)
            else None
        )


@contextmanager
def alone(engine: Engine) -> Iterator[None]:
    """Let one process at a time upgrade a database, all of it; the others wait.

    Raises DatabaseUnavailable.

    On SQLite the lock is a file of its own: to close the database's file would drop the locks that
    SQLite holds on it in this process.
    """
    if (file := sqlite_file(engine.url.render_as_string(hide_password=False))) is not None:
        with os.fdopen(
            os.open(f"{file}-upgrade", os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600), "w"
        ) as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield
        return
    with translated("the database"):
        connection = engine.connect().execution_options(isolation_level="AUTOCOMMIT")
        # To wait in a statement would hold a snapshot, which the engine's CREATE INDEX CONCURRENTLY
        # in the other process waits for.
        while not connection.exec_driver_sql(f"SELECT pg_try_advisory_lock({ALONE})").scalar():
            time.sleep(TURN_S)
    try:
        yield
    finally:
        connection.invalidate()  # the lock ends with the session
        connection.close()


def upgrade(engine: Engine) -> tuple[str | None, str]:
    """Run what is missing and return where the database was and is. Raises DatabaseUnavailable.

    A newer release may have upgraded the database already: then nothing is run, for each release
    works with the schema of the next one.
    """
    from alembic import command  # noqa: PLC0415  as above

    before = current(engine)
    if before is not None and not knows(before):
        return before, before
    config = _config()
    with writing(engine) as connection:
        if connection.dialect.name == "postgresql":
            # Calls wait behind a table that is waited for.
            connection.exec_driver_sql(f"SET LOCAL lock_timeout = '{LOCK_TIMEOUT_S}s'")
        config.attributes["connection"] = connection
        command.upgrade(config, "head")
    return before, head()
