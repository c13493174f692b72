"""Commands in this process: their output, their errors and their exit code."""

from __future__ import annotations

from dataclasses import dataclass

import click
from click.testing import CliRunner

from penstock.cli.base import Context
from penstock.cli.main import DEPLOYMENT, MANAGEMENT
from penstock.errors import PenstockError
from penstock.settings import Settings
from support.place import Place


@dataclass(frozen=True, slots=True)
class Done:
    """What a command printed, and its exit code."""

    stdout: str
    stderr: str
    code: int


def run(place: Place, *words: str, given: str | None = None) -> Done:
    """Run a command on a place's database."""
    context = Context("tester")
    context.engine, context.box = place.engine, place.box
    context.settings = Settings(database_url=place.url, plugin_path=(place.folder / "plugins",))
    group = click.Group("penstock", commands=[*MANAGEMENT, *DEPLOYMENT])
    result = CliRunner().invoke(group, words, input=given, obj=context)
    if isinstance(result.exception, PenstockError):
        error = f"penstock: {result.exception}\n"
        return Done(result.stdout, result.stderr + error, result.exception.exit_code)
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return Done(result.stdout, result.stderr, result.exit_code)
