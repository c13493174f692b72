"""The command that finds what a text names."""

from __future__ import annotations

import sys

import click

from penstock.access.lookup import environment_row
from penstock.cli.base import Context, pass_context
from penstock.cli.listings import Listing, show_page
from penstock.db.engine import reading
from penstock.db.unit_of_work import RowReader
from penstock.errors import UsageError
from penstock.execution.search import DEFAULT_HITS, MAX_HITS, is_secret
from penstock.execution.search import search as find

COLUMNS = ("kind", "id", "name", "environment", "consumer", "state", "at")
MAX_INPUT_LENGTH = 4096


@click.command()
@click.argument("text", required=False)
@click.option("--env", "environment", metavar="E", help="Only this environment. Default: all.")
@click.option(
    "--limit",
    type=click.IntRange(1, MAX_HITS),
    default=DEFAULT_HITS,
    show_default=True,
    help="Number of hits of a kind.",
)
@click.option(
    "--format",
    "form",
    type=click.Choice(["table", "json", "csv"]),
    default="table",
    help="Output format.",
)
@pass_context
def search(
    context: Context, text: str | None, environment: str | None, limit: int, form: str
) -> None:
    """Find runs, rejected calls, keys, consumers, pipelines and revoked tokens.

    TEXT is an ID, its first eight digits, a request ID, the last four characters of a key, a jti,
    or a part of a name. Without TEXT the command reads it from a prompt or from standard input: a
    whole API key is read in this way alone, and is found by its digest.
    """
    if text is not None and is_secret(text):
        raise UsageError(
            "the text looks like a whole API key; arguments can be read in the shell's history and"
            " by other users. Run `penstock search` without TEXT and paste the key at the prompt"
        )
    searched = text if text is not None else _read()
    environments = None
    if environment is not None:
        with reading(context.engine) as connection:
            environments = [environment_row(RowReader(connection), environment).name]
    hits = find(
        context.engine,
        searched,
        pipelines=() if is_secret(searched) else context.host.catalog.loaded,
        environments=environments,
        limit=limit,
    )
    listing = Listing(limit=max(len(hits), 1), form=form)
    show_page(hits, listing, COLUMNS, lambda hit: hit.id, empty="nothing found")


def _read() -> str:
    if sys.stdin.isatty():
        text: str = click.prompt("Text or API key", hide_input=True)
        return text
    return sys.stdin.read(MAX_INPUT_LENGTH)


COMMANDS = (search,)
