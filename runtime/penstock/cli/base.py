"""What all commands share: the context, how listings are printed, and durations."""

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
from penstock.execution.steering import RunOperations
from penstock.host.host import Host
from penstock.settings import Settings


@dataclass
class Context:
    """What a command works on; each part is made when it is first asked for."""

    actor: str

    @cached_property
    def settings(self) -> Settings:
        """The settings of this process."""
        return Settings.from_env(os.environ)

    @cached_property
    def engine(self) -> Engine:
        """The database, which must be there."""
        return open_existing(self.settings.database_url, self.settings.database_from)

    @property
    def database(self) -> str:
        """Which database that is, without its password, and where the setting comes from."""
        return f"{shown_url(self.settings.database_url)} ({self.settings.database_from})"

    @cached_property
    def direct_engine(self) -> Engine:
        """The database past any pooler, for queries that may take long."""
        return open_engine(self.settings.direct_url, silence=None)

    @cached_property
    def box(self) -> SecretBox:
        """The box of secrets."""
        return load_secret_box(self.settings)

    @cached_property
    def host(self) -> Host:
        """The plugins, loaded but not started."""
        return Host(self.settings)

    @cached_property
    def steering(self) -> RunOperations:
        """What looks at runs and steers them."""
        return RunOperations(self.engine, self.box, lambda: self.host)

    def environment(self, chosen: str | None) -> str:
        """Return the environment that was asked for, or this process's own."""
        return chosen or self.settings.environment


def login_name() -> str:
    """Return who is logged in, for the audit trail."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return "unknown"


pass_context = click.make_pass_decorator(Context)


class Duration(click.ParamType[timedelta]):
    """A length of time such as 30s, 15m, 12h, 7d or 2w."""

    name = "duration"

    def convert(
        self,
        value: Any,  # noqa: ANN401  click's type
        param: click.Parameter | None,
        ctx: click.Context | None,
    ) -> timedelta:
        """Return the length of time."""
        if isinstance(value, timedelta):
            return value
        try:
            return read_duration(str(value))
        except UsageError as error:
            self.fail(str(error), param, ctx)


DURATION = Duration()
env_option = click.option(
    "--env", "environment", metavar="E", help="The environment; default PENSTOCK_ENVIRONMENT."
)
env_required = click.option(
    "--env", "environment", metavar="E", required=True, help="The environment."
)
format_option = click.option(
    "--format",
    "form",
    type=click.Choice(["table", "json"]),
    default="table",
    help="How to print it.",
)


def read_secret(what: str) -> str:
    """Return a secret: asked for on a terminal, without echo.

    Else all of standard input, without its last line break.
    """
    if sys.stdin.isatty():
        value: str = click.prompt(what, hide_input=True, confirmation_prompt=True)
        return value
    return sys.stdin.read().removesuffix("\n").removesuffix("\r")


def plain(value: object) -> object:
    """Return a value as JSON can hold it."""
    if isinstance(value, datetime):
        return value.isoformat(timespec="seconds").replace("+00:00", "Z")
    if isinstance(value, date):
        return value.isoformat()
    if isinstance(value, frozenset | set):
        return sorted(value)
    raise TypeError(f"{type(value).__name__} can't be printed")


def show_json(value: object) -> None:
    """Print a value as JSON."""
    click.echo(json.dumps(value, default=plain, indent=2, ensure_ascii=False))


def show(
    listed: Iterable[object],
    form: str,
    columns: Sequence[str],
    *,
    empty: str = "nothing yet",
) -> None:
    """Print a listing: attributes of values, or items of mappings."""
    rows = [{name: _value(item, name) for name in columns} for item in listed]
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


def _value(item: object, name: str) -> object:
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
    return "".join(character if character.isprintable() else "?" for character in str(value))
