"""Completion of commands, options and names in a shell.

The script of a shell calls `penstock` with an environment variable at each Tab. Completing must
print nothing else and never fail: without a database, or with a broken plugin, it offers less.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout

import click
from click.shell_completion import CompletionItem, ShellComplete, get_completion_class
from click.types import StringParamType

from penstock.access.consumers import page_consumers
from penstock.access.environments import list_environments
from penstock.cli.base import Context, login_name
from penstock.errors import PenstockError

PROGRAM = "penstock"
VARIABLE = "_PENSTOCK_COMPLETE"
MAX_NAMES = 100


class Name(StringParamType):
    """The name of a stored thing: any text, completed with the names that exist."""

    def __init__(self, names: Callable[[Context, str], Iterable[str]]) -> None:
        self._names = names

    def shell_complete(
        self, ctx: click.Context, param: click.Parameter, incomplete: str
    ) -> list[CompletionItem]:
        """Return the names that begin with a text; none where they can't be read."""
        del param
        context = ctx.find_object(Context) or Context(login_name())
        try:
            with silent(ctx):
                names = sorted(set(self._names(context, incomplete)))
        except PenstockError:
            return []
        found = [name for name in names if name.startswith(incomplete)]
        return [CompletionItem(name) for name in found[:MAX_NAMES]]


def _environments(context: Context, _: str) -> Iterable[str]:
    return (row.name for row in list_environments(context.engine))


def _consumers(context: Context, incomplete: str) -> Iterable[str]:
    rows = page_consumers(context.engine, find=incomplete, limit=MAX_NAMES)
    return (row.name for row in rows)


def _pipelines(context: Context, _: str) -> Iterable[str]:
    return context.host.catalog.loaded


# By the name of a parameter, in any command.
NAMES = {
    "environment": _environments,
    "consumer": _consumers,
    "consumer_name": _consumers,
    "pipeline": _pipelines,
    "pipeline_name": _pipelines,
    "pipelines": _pipelines,
}


def complete_names(command: click.Command) -> None:
    """Complete the names of environments, consumers and pipelines in a command and those below."""
    for parameter in command.params:
        if parameter.name in NAMES and isinstance(parameter.type, StringParamType):
            parameter.type = Name(NAMES[parameter.name])
    if isinstance(command, click.Group):
        for part in command.commands.values():
            complete_names(part)


@contextmanager
def silent(ctx: click.Context) -> Iterator[None]:
    """Discard what plugin code prints while a shell completes a command."""
    if not ctx.resilient_parsing:
        yield
        return
    with redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):
        yield


@click.command()
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
@click.pass_context
def completion(ctx: click.Context, shell: str) -> None:
    """Print the script that completes commands and names in a shell.

    For bash: `penstock completion bash > ~/.local/share/bash-completion/completions/penstock`.
    """
    kind = get_completion_class(shell)
    if kind is not None:
        # Not `kind.source`: that of bash starts a bash to read its version.
        script = ShellComplete.source(kind(ctx.find_root().command, {}, PROGRAM, VARIABLE))
        click.echo(script)


COMMANDS = (completion,)
