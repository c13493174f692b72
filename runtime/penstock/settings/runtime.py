"""Settings of the environment, the database and the plugins."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from penstock.settings import parsers
from penstock.settings.declaration import setting


@dataclass(frozen=True)
class RuntimeSettings:
    """What a process serves, and where its data and its plugins are."""

    environment: str = setting(
        "test", parsers.environment_name, "Environment that this process serves."
    )
    database_url: str = setting(
        "sqlite:///penstock.db",
        parsers.database_url,
        "URL of the database: SQLite for one host, postgresql:// for several.",
        secret=True,
    )
    database_direct_url: str = setting(
        "",
        parsers.database_url,
        "URL of the PostgreSQL server for migrations and notifications, if PENSTOCK_DATABASE_URL"
        " is that of a connection pooler (PgBouncer). Empty: PENSTOCK_DATABASE_URL.",
        secret=True,
    )
    secret_keys: tuple[str, ...] = setting(
        "",
        parsers.words,
        "Fernet keys, separated by commas: the first encrypts stored secrets, all decrypt them. On"
        " SQLite a key is created at first use.",
        name="PENSTOCK_SECRET_KEY",
        secret=True,
    )
    # A process without a plugin folder of its own loads installed plugins only; so does a
    # `Settings()` that a test creates, in whichever folder the test runs.
    plugin_path: tuple[Path, ...] = setting(
        "plugins",
        parsers.folders,
        "Plugin folders, separated by colons. The default is used only if it exists.",
        value=(),
        parse_default=parsers.existing_folder,
    )
    plugins_allow: frozenset[str] = setting(
        "", parsers.names, "Plugins to load, separated by commas. Empty: all."
    )
    plugins_deny: frozenset[str] = setting(
        "", parsers.names, "Plugins not to load, separated by commas."
    )
    strict: bool = setting(
        "false",
        parsers.flag,
        "true: do not start while any pipeline is blocked or any plugin is broken (exit code 3).",
    )
    check_replies: Literal["off", "log", "fail"] = setting(
        "off",
        parsers.one_of("off", "log", "fail"),
        "Action if a reply does not match its handler's return annotation: off (no check), log (a"
        " warning) or fail (500).",
    )
    max_staleness: float = setting(
        "60",
        parsers.whole_number(1, 86_400),
        "Seconds that calls are still accepted while the database is unavailable; then 503.",
    )
