"""Bring a database to the schema of this release, or say how far it is."""

from __future__ import annotations

from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory

import penstock
from penstock.db.engine import Engine, reading, writing


def migrations() -> Path:
    """Return the folder of migrations: inside an installed package, beside `runtime/` in a checkout."""
    package = Path(penstock.__file__).parent
    inside = package / "migrations"
    return inside if inside.is_dir() else package.parent.parent / "migrations"


def _config() -> Config:
    config = Config()
    config.set_main_option("script_location", str(migrations()).replace("%", "%%"))
    return config


def head() -> str:
    """Return the newest migration of this release."""
    return ScriptDirectory.from_config(_config()).get_current_head() or ""


def current(engine: Engine) -> str | None:
    """Return the migration that a database is at, None if it has none. Raises DatabaseAway."""
    with reading(engine) as connection:
        return MigrationContext.configure(connection).get_current_revision()


def upgrade(engine: Engine) -> tuple[str | None, str]:
    """Run what is missing and return where the database was and is. Raises DatabaseAway."""
    before = current(engine)
    config = _config()
    with writing(engine) as connection:
        if connection.dialect.name == "postgresql":
            connection.exec_driver_sql("SELECT pg_advisory_xact_lock(7363001)")  # two upgrades at once take turns
        config.attributes["connection"] = connection
        command.upgrade(config, "head")
    return before, head()
