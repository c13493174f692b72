"""The documents as tests read them: pages, blocks of code, links, and text between backticks."""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import NamedTuple

import click
from markdown_it import MarkdownIt
from markdown_it.token import Token

from penstock.cli.main import penstock
from penstock.manual.pages import sections_of
from support.place import ROOT

DOCS = ROOT / "docs"
README = ROOT / "README.md"
PAGES = sorted(DOCS.rglob("*.md"))
WRITTEN_BY_HAND = [README, *(path for path in PAGES if path.parent.name != "reference")]
PARSER = MarkdownIt("commonmark", {"html": False}).enable("table")


class Block(NamedTuple):
    """A block of code: the page, the line it starts at, its language, and its text."""

    page: Path
    line: int
    language: str
    text: str

    def __str__(self) -> str:
        return f"{name_of(self.page)}:{self.line}"


def name_of(page: Path) -> str:
    """Return a page's path within the repository."""
    return page.relative_to(ROOT).as_posix()


def text_of(page: Path) -> str:
    return page.read_text(encoding="utf-8")


@cache
def parsed(page: Path) -> list[Token]:
    return PARSER.parse(text_of(page))


def tokens(page: Path) -> Iterator[Token]:
    """Yield the tokens of a page, those within paragraphs too."""
    for token in parsed(page):
        yield token
        yield from token.children or ()


def blocks(page: Path) -> list[Block]:
    """Return the blocks of code of a page."""
    return [
        Block(page, (token.map or [0])[0] + 1, token.info.strip(), token.content)
        for token in parsed(page)
        if token.type in {"fence", "code_block"}
    ]


def links(page: Path) -> list[str]:
    """Return where the links and images of a page lead."""
    kinds = {"link_open": "href", "image": "src"}
    return [str(token.attrs[kinds[token.type]]) for token in tokens(page) if token.type in kinds]


@cache
def anchors(page: Path) -> set[str]:
    """Return the anchors of a page's headings."""
    title, *sections = sections_of(text_of(page))
    return {section.anchor for section in sections} | {title.anchor or slug(title.heading)}


def slug(heading: str) -> str:
    return re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")


def snippets(page: Path) -> Iterator[str]:
    """Yield what is set as code: the lines of blocks, and the text between backticks."""
    for token in tokens(page):
        if token.type in {"fence", "code_block"}:
            yield from (line.strip() for line in token.content.splitlines())
        elif token.type == "code_inline":
            yield token.content


def commands(page: Path) -> Iterator[list[str]]:
    """Yield the words after `penstock` of each command."""
    for snippet in snippets(page):
        match = re.match(r"(?:[#$] )?(?:[A-Z_]+=\S+ )*penstock ([a-z-].*)", snippet)
        if match is not None:
            yield re.split(r" [|><] ", match[1])[0].split()


def fault_of(words: list[str]) -> str | None:
    """Return why a command can't be right, or None; parts in capitals stand for values."""
    command: click.Command = penstock
    path = ["penstock"]
    rest = list(words)
    while isinstance(command, click.Group) and rest and rest[0] in command.commands:
        command = command.commands[rest[0]]
        path.append(rest.pop(0))
    name = " ".join(path)
    if isinstance(command, click.Group) and rest and not rest[0].startswith("-"):
        return f"{name} has no command {rest[0]}"
    options = {
        option
        for parameter in command.params
        for option in (*parameter.opts, *parameter.secondary_opts)
    } | {"--help"}
    unknown = [word for word in rest if word.startswith("--") and word.strip("[]") not in options]
    return f"{name} has no option {unknown[0]}" if unknown else None
