"""Write the page of commands from the command tree of click."""

from __future__ import annotations

import inspect
from collections.abc import Iterator

import click

from penstock.cli.main import penstock
from penstock.cli.reference.markdown import code, row_of, sentence, table

INTRO = """# Commands

`penstock COMMAND --help` shows the same text. Commands read the [settings](settings.md) from the
environment, so run them with the settings of the server.

Each change is one transaction with one audit event. `--actor NAME` before the command names the
person who makes the change; the default is the login name. Listings accept `--format json`.

## Exit codes

| code | meaning |
|---|---|
| 0 | The command succeeded. |
| 1 | The answer is no: a check found something, or nothing was changed. |
| 2 | Wrong usage, or an unknown name. |
| 3 | The command can't run until somebody changes something, such as a setting or the schema. |
| 75 | The database can't be reached now. Try again. |
"""


def page() -> str:
    """Return the page: an overview, then each command with its arguments and options."""
    commands = list(walk(penstock, "penstock"))
    overview = table(
        ("command", "what it does"),
        (
            (f"[{code(words)}](#{anchor(words)})", first_line(command))
            for words, command in commands
        ),
    )
    parts = [INTRO, "## Overview\n", overview]
    for words, command in commands:
        parts += ["", f"## {code(words)}", "", *_section(words, command)]
    return "\n".join(parts)


def walk(group: click.Group, words: str) -> Iterator[tuple[str, click.Command]]:
    """Yield each command with its words, sorted; a group alone is none, unless it can be run."""
    for name, command in sorted(group.commands.items()):
        path = f"{words} {name}"
        if not isinstance(command, click.Group) or command.invoke_without_command:
            yield path, command
        if isinstance(command, click.Group):
            yield from walk(command, path)


def anchor(words: str) -> str:
    """Return the anchor of a command's heading."""
    return words.replace(" ", "-")


def first_line(command: click.Command) -> str:
    """Return the first line of a command's help."""
    return (command.help or "").strip().splitlines()[0]


def usage(words: str, command: click.Command) -> str:
    """Return a command with its arguments and options, optional ones in brackets."""
    return " ".join([words, *_parameters(command)])


def _section(words: str, command: click.Command) -> Iterator[str]:
    yield f"```text\n{usage(words, command)}\n```"
    yield ""
    yield inspect.cleandoc(command.help or "").replace("\b\n", "")
    options = [
        option
        for option in command.params
        if isinstance(option, click.Option) and not option.hidden
    ]
    if options:
        yield ""
        yield row_of(("option", "meaning"))
        yield "|---|---|"
        for option in options:
            yield row_of((code(_option(option)), sentence(option.help or "")))


def _parameters(command: click.Command) -> Iterator[str]:
    for parameter in command.params:
        if isinstance(parameter, click.Option):
            if parameter.hidden or "--format" in parameter.opts:
                continue
            text = _option(parameter)
        else:
            text = (parameter.metavar or parameter.name or "").upper()
            text += "…" if parameter.nargs == -1 else ""
        yield text if parameter.required else f"[{text}]"


def _option(option: click.Option) -> str:
    name = "/".join(option.opts[:1])
    if isinstance(option.type, click.Choice):
        return f"{name} {'/'.join(str(choice) for choice in option.type.choices)}"
    if option.is_flag or option.count:
        return name
    kind = option.type.name
    return f"{name} {option.metavar or {'integer range': 'N'}.get(kind, kind.upper())}"
