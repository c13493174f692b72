"""Find, list and search the pages of `docs/`.

The pages ship in the wheel, so a user reads the pages of the version that runs. A page is named by
its path without suffix, such as `how-to/back-up-and-restore`.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import penstock
from penstock.errors import UnknownName

INDEX = "README"
KINDS = ("tutorial", "how-to", "reference", "explanation")
FENCE = re.compile(r"^ *(```|~~~)")
TITLE = re.compile(r"^(#{1,6}) +(.+?) *$")
MARKS = re.compile(r"\|[-:|]+\||\|")
MAX_EXCERPT = 160  # characters


@dataclass(frozen=True, slots=True)
class Page:
    """A page: its name, its title, and its Markdown."""

    name: str
    title: str
    text: str

    @property
    def kind(self) -> str:
        """Return the folder that the page is in, or an empty text for the top."""
        return self.name.rpartition("/")[0]


@dataclass(frozen=True, slots=True)
class Hit:
    """A section of a page that has all words of a search, with an excerpt around the first."""

    page: Page
    heading: str
    anchor: str
    excerpt: str


@dataclass(frozen=True, slots=True)
class Section:
    """A part of a page below one heading; `anchor` is empty for the part below the title."""

    heading: str
    anchor: str
    text: str


def folder() -> Path:
    """Return the folder of pages: inside an installed package, beside `runtime/` in a checkout."""
    package = Path(penstock.__file__).parent
    inside = package / "manual" / "docs"
    return inside if inside.is_dir() else package.parent.parent / "docs"


@cache
def all_pages() -> dict[str, Page]:
    """Return all pages by name, the index first, then in the order of the index."""
    root = folder()
    pages = {
        name: _read(root, name)
        for path in root.rglob("*.md")
        for name in [path.relative_to(root).with_suffix("").as_posix()]
    }
    index = pages[INDEX].text
    order = {name: place for name in pages if (place := index.find(f"]({name}.md")) >= 0}
    order[INDEX] = -1
    names = sorted(pages, key=lambda name: (order.get(name, len(index)), name))
    return {name: pages[name] for name in names}


def find_page(topic: str) -> Page:
    """Return the page of a topic: its name, or the last part of its name.

    Of several pages with that last part, the first one of the index is returned. Raises
    UnknownName, which suggests the nearest names.
    """
    pages = all_pages()
    name = topic.strip("/").removesuffix(".md") or INDEX
    if name in pages:
        return pages[name]
    matches = [page for path, page in pages.items() if path.rpartition("/")[2] == name]
    if matches:
        return matches[0]
    short = [path.rpartition("/")[2] for path in pages if path != INDEX]
    raise UnknownName("page", topic, short, fix="`penstock docs` lists them")


def search_pages(query: str, limit: int = 30) -> list[Hit]:
    """Return the sections that have all words, the most relevant first.

    A word in a heading counts most, then a word in the page's title. Reference pages come last
    among equals, because they have every word.
    """
    words = query.casefold().split()
    ranked: list[tuple[int, bool, Hit]] = []
    for page in all_pages().values() if words else ():
        if page.name == INDEX:
            continue
        title = page.title.casefold()
        for section in sections_of(page.text):
            heading, text = section.heading.casefold(), section.text.casefold()
            if all(word in heading or word in text or word in title for word in words):
                score = sum(3 * (word in heading) + (word in title) for word in words)
                hit = Hit(page, plain(section.heading), section.anchor, _excerpt(section, words))
                ranked.append((-score, page.kind == "reference", hit))
    ranked.sort(key=lambda item: item[:2])
    return [hit for _, _, hit in ranked[:limit]]


def sections_of(text: str) -> list[Section]:
    """Return the sections of a page's Markdown, in order."""
    sections: list[Section] = []
    heading, anchor, lines = "", "", list[str]()
    anchors: dict[str, int] = {}
    in_code = False
    for line in text.splitlines():
        if FENCE.match(line):
            in_code = not in_code
        title = None if in_code else TITLE.match(line)
        if title is None:
            lines.append(line)
            continue
        if heading:
            sections.append(Section(heading, anchor, "\n".join(lines)))
        name = unique_anchor(title[2], anchors)
        heading, anchor, lines = title[2], name if sections or heading else "", []
    sections.append(Section(heading, anchor, "\n".join(lines)))
    return sections


def unique_anchor(heading: str, taken: dict[str, int]) -> str:
    """Return the anchor of a heading as GitHub makes it, and note it as taken."""
    name = re.sub(r"[^\w\- ]", "", plain(heading).lower()).replace(" ", "-")
    number = taken.get(name, 0)
    taken[name] = number + 1
    return f"{name}-{number}" if number else name


def plain(text: str) -> str:
    """Return inline Markdown without its marks: code, emphasis and links."""
    text = re.sub(r"^ *```\w*$", "", text, flags=re.MULTILINE)
    text = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", text)
    return text.replace("`", "").replace("**", "")


def _read(root: Path, name: str) -> Page:
    text = (root / f"{name}.md").read_text(encoding="utf-8")
    title = next((match[2] for line in text.splitlines() if (match := TITLE.match(line))), name)
    return Page(name, plain(title), text)


def _excerpt(section: Section, words: list[str]) -> str:
    """Return the text around the first word, in one line, cut between words."""
    text = " ".join(MARKS.sub(" ", plain(section.text)).split())
    place = min((at for word in words if (at := text.casefold().find(word)) >= 0), default=0)
    begin = text.rfind(" ", 0, max(0, place - MAX_EXCERPT // 3)) + 1
    part = text[begin : begin + MAX_EXCERPT]
    if begin + MAX_EXCERPT < len(text):
        part = part.rpartition(" ")[0] + " …"
    return f"… {part}" if begin else part
