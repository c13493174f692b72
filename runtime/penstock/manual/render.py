"""Render a page's Markdown as HTML for the console's frame.

Raw HTML in a page is shown as text, never as markup. Headings get the anchors that GitHub gives
them, so the same links work in both places.
"""

from __future__ import annotations

import posixpath
from collections.abc import Callable, Sequence
from itertools import pairwise
from urllib.parse import urlsplit

from markdown_it import MarkdownIt
from markdown_it.token import Token

from penstock.manual.pages import Page, unique_anchor

EXTERNAL = frozenset({"http", "https"})

# Returns the address of a page or file below docs/ by its path, or None where there is none.
Address = Callable[[str], str | None]


def to_html(page: Page, address: Address) -> str:
    """Return the HTML of a page; `address` leads its relative links."""
    parser = MarkdownIt("commonmark", {"html": False}).enable("table")
    text = page.text.partition("-->\n")[2] if page.text.startswith("<!--") else page.text
    tokens = parser.parse(text)
    _name_headings(tokens)
    _lead_links(tokens, posixpath.dirname(page.name), address)
    html: str = parser.renderer.render(_wrap_tables(tokens), parser.options, {})
    return html


def _name_headings(tokens: Sequence[Token]) -> None:
    taken: dict[str, int] = {}
    for token, inline in pairwise(tokens):
        if token.type == "heading_open":
            token.attrSet("id", unique_anchor(inline.content, taken))


def _lead_links(tokens: Sequence[Token], folder: str, address: Address) -> None:
    for token in tokens:
        if token.type == "link_open":
            _lead(token, folder, address)
        elif token.type == "image":  # pages are text; a picture shows its description
            token.type, token.tag, token.content = "text", "", token.content
        _lead_links(token.children or (), folder, address)


def _lead(token: Token, folder: str, address: Address) -> None:
    """Point a link to where the target is here, or take its target away."""
    parts = urlsplit(str(token.attrGet("href") or ""))
    if parts.scheme in EXTERNAL:
        token.attrSet("rel", "noreferrer")
        return
    if not parts.path:
        return
    path = posixpath.normpath(posixpath.join(folder, parts.path))
    target = None if path.startswith("..") or parts.scheme else address(path.removesuffix(".md"))
    if target is None:
        token.attrs.pop("href", None)
    else:
        token.attrSet("href", f"{target}#{parts.fragment}" if parts.fragment else target)


def _wrap_tables(tokens: Sequence[Token]) -> list[Token]:
    """Put each table into a box that scrolls, for narrow screens."""
    wrapped: list[Token] = []
    number = 0
    for token in tokens:
        if token.type == "table_open":
            box = Token("box_open", "div", 1, block=True)
            # A box that scrolls must be reachable with the keyboard, and has a name of its own.
            number += 1
            label = f"Table {number}"
            box.attrs = {"class": "table", "tabindex": "0", "role": "region", "aria-label": label}
            wrapped.append(box)
        wrapped.append(token)
        if token.type == "table_close":
            wrapped.append(Token("box_close", "div", -1, block=True))
    return wrapped
