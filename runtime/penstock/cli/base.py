"""Shared parts of all commands: context, options, durations, and printing."""

from __future__ import annotations

import getpass
import json
import os
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from functools import cached_property
from typing import Any

import click

from penstock.access.durations import read_duration
from penstock.access.encryption import SecretBox, load_secret_box
from penstock.db.engine import Engine, open_engine, open_existing, shown_url
from penstock.errors import UsageError
from penstock.execution.operations import RunOperations
from penstock.host.host import Host
from penstock.settings import Settings


@dataclass
class Context:
    """The objects that a command works on, each created at first use."""

    actor: str

    @cached_property
    def settings(self) -> Settings:
        """The settings of this process."""
        return Settings.from_env(os.environ)

    @cached_property
    def engine(self) -> Engine:
        """The database. Raises an error if it does not exist."""
        return open_existing(self.settings.database_url, self.settings.database_from)

    @property
    def database(self) -> str:
        """The database's URL without its password, and the variable that it comes from."""
        return f"{shown_url(self.settings.database_url)} ({self.settings.database_from})"

    @cached_property
    def direct_engine(self) -> Engine:
        """The database without a connection pooler, for long queries."""
        return open_engine(self.settings.direct_url, silence=None)

    @cached_property
    def box(self) -> SecretBox:
        """The keys that encrypt stored secrets."""
        return load_secret_box(self.settings)

    @cached_property
    def host(self) -> Host:
        """The host with its plugins loaded, not started."""
        return Host(self.settings)

    @cached_property
    def run_operations(self) -> RunOperations:
        """The operations on runs."""
        return RunOperations(self.engine, self.box, lambda: self.host)

    def environment(self, chosen: str | None) -> str:
        """Return the chosen environment, or that of PENSTOCK_ENVIRONMENT."""
        return chosen or self.settings.environment


def login_name() -> str:
    """Return the name of the logged-in user, for the audit log."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return "unknown"


pass_context = click.make_pass_decorator(Context)


class Duration(click.ParamType[timedelta]):
    """A duration such as 30s, 15m, 12h, 7d or 2w."""

    name = "duration"

    def convert(
        self,
        value: Any,  # noqa: ANN401  click's type
        param: click.Parameter | None,
        ctx: click.Context | None,
    ) -> timedelta:
        """Return the duration."""
        if isinstance(value, timedelta):
            return value
        try:
            return read_duration(str(value))
        except UsageError as error:
            self.fail(str(error), param, ctx)


DURATION = Duration()
MAX_CELL_LENGTH = 300  # characters of a value in a table; JSON and CSV have all of it
env_option = click.option(
    "--env", "environment", metavar="E", help="Environment. Default: PENSTOCK_ENVIRONMENT."
)
env_required = click.option("--env", "environment", metavar="E", required=True, help="Environment.")
format_option = click.option(
    "--format",
    "form",
    type=click.Choice(["table", "json"]),
    default="table",
    help="Output format.",
)


def read_secret(what: str) -> str:
    """Return a secret from a prompt without echo, or from standard input.

    Without a terminal all of standard input is read, without its last line break.
    """
    if sys.stdin.isatty():
        value: str = click.prompt(what, hide_input=True, confirmation_prompt=True)
        return value
    return sys.stdin.read().removesuffix("\n").removesuffix("\r")


def read_password() -> str:
    """Return a password from a prompt without echo, or the line on standard input.

    Raises UsageError for several lines.
    """
    value = read_secret("Password")
    if "\n" in value or "\r" in value:
        raise UsageError("standard input has several lines; give the password as one line")
    return value


def json_default(value: object) -> object:
    """Return the JSON form of a date, a time or a set."""
    if isinstance(value, datetime):
        return value.isoformat(timespec="seconds").replace("+00:00", "Z")
    if isinstance(value, date):
        return value.isoformat()
    if isinstance(value, frozenset | set):
        return sorted(value)
    raise TypeError(f"{type(value).__name__} can't be printed")


def show_json(value: object) -> None:
    """Print a value as JSON."""
    click.echo(json.dumps(value, default=json_default, indent=2, ensure_ascii=False))


def show(
    items: Iterable[object],
    form: str,
    columns: Sequence[str],
    *,
    empty: str = "nothing yet",
) -> None:
    """Print attributes of values, or items of mappings, as a table or as JSON.

    `empty` is printed for an empty table.
    """
    rows = [{name: shown_value(item, name) for name in columns} for item in items]
    if form == "json":
        show_json(rows)
        return
    if not rows:
        click.echo(empty)
        return
    lines = [
        [name.replace("_", " ") for name in columns],
        *([_cell(row[name]) for name in columns] for row in rows),
    ]
    widths = [max(len(line[index]) for line in lines) for index in range(len(columns))]
    for line in lines:
        click.echo(
            "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
        )


def shown_value(item: object, name: str) -> object:
    """Return an attribute of a value, or an item of a mapping."""
    return item[name] if isinstance(item, Mapping) else getattr(item, name)


def _cell(value: object) -> str:
    if value is None or value == "":
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, datetime):
        return value.strftime("%Y-%m-%d %H:%MZ")
    if isinstance(value, list | tuple | set | frozenset):
        return ", ".join(str(item) for item in value) or "-"
    text = "".join(character if character.isprintable() else "?" for character in str(value))
    return text if len(text) <= MAX_CELL_LENGTH else f"{text[:MAX_CELL_LENGTH]}…"
