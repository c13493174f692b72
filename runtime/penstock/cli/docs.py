"""`penstock docs`: the pages of this version in the terminal."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable

import click
from rich.console import Console

from penstock.errors import UnknownName
from penstock.manual.pages import (
    INDEX,
    KINDS,
    Hit,
    Page,
    all_pages,
    find_page,
    search_pages,
    sections_of,
)

MAX_WIDTH = 100  # columns; longer lines are hard to read


@click.command("docs")
@click.argument("topic", required=False)
@click.option("--search", metavar="WORDS", help="List the sections that contain all these words.")
@click.option("--raw", is_flag=True, help="Print the Markdown as it is.")
def docs(topic: str | None, search: str | None, raw: bool) -> int:
    """List the pages of the documentation, or show one.

    TOPIC is the name of a page, such as `back-up-and-restore`, or a part of it, such as
    `problems#rate-limited`. A terminal shows the page in a pager.
    """
    if search is not None:
        hits = search_pages(search)
        click.echo("\n".join(_lines(hits)) if hits else "no section has all these words")
        return 0 if hits else 1
    if topic is None:
        click.echo("\n".join(_listing(all_pages().values())))
        return 0
    text = _text(topic)
    if raw:
        click.echo(text)
    else:
        _show(text)
    return 0


def _text(topic: str) -> str:
    """Return the Markdown of a page, or of one of its sections with those below it."""
    name, _, anchor = topic.partition("#")
    page = find_page(name)
    if not anchor:
        return page.text
    sections = sections_of(page.text)
    for section in sections:
        if section.anchor == anchor:
            return f"# {section.heading}\n\n{section.text.strip()}"
    raise UnknownName(
        "section",
        anchor,
        [section.anchor for section in sections if section.anchor],
        fix=f"`penstock docs {name}` shows the whole page",
    )


def is_terminal() -> bool:
    """Return whether standard output is a terminal."""
    return sys.stdout.isatty()


def _show(text: str) -> None:
    """Render Markdown; a terminal gets a pager."""
    from rich.markdown import (  # noqa: PLC0415  slow to import, and no other command needs it
        Markdown,
    )

    console = Console(width=min(Console().width, MAX_WIDTH))
    rendered = Markdown(text.partition("-->\n")[2] if text.startswith("<!--") else text)
    if is_terminal():
        os.environ.setdefault("LESS", "-R")  # less shows colours only then
        with console.pager(styles=True):
            console.print(rendered)
    else:
        console.print(rendered)


def _listing(pages: Iterable[Page]) -> Iterable[str]:
    """Yield the names and titles of all pages, by kind."""
    listed = [page for page in pages if page.name != INDEX]
    width = max((len(page.name) for page in listed), default=0)
    for kind in (*KINDS, ""):
        of_kind = [page for page in listed if page.kind == kind]
        if of_kind:
            yield kind or "development"
            yield from (f"  {page.name:<{width}}  {page.title}" for page in of_kind)
            yield ""
    yield "`penstock docs TOPIC` shows one; `penstock docs --search WORDS` searches all"


def _lines(hits: Iterable[Hit]) -> Iterable[str]:
    for hit in hits:
        anchor = f"#{hit.anchor}" if hit.anchor else ""
        yield f"{hit.page.name}{anchor}: {hit.heading}"
        yield f"    {hit.excerpt}"


COMMANDS = (docs,)
