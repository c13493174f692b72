"""Plain words: these appear in no identifier, docstring, comment, template, help text or document.

Exceptions are named one by one.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from support.place import ROOT

WORDS = (
    "mend", "mends", "mended", "mending", "shall", "thereof", "nobody", "whoever", "whomever",
    "whatever", "of late", "let in", "lets in", "keep out", "keeps out", "kept out", "go on",
    "goes on", "going on", "went on", "stranger", "strangers", "told", "untold", "said",
)  # fmt: skip
# Neither letters nor digits around a word: `_` separates the words of an identifier.
FORBIDDEN = re.compile(
    rf"(?<![^\W_])({'|'.join(word.replace(' ', '[ _]') for word in WORDS)})(?![^\W_])",
    re.IGNORECASE,
)
FOLDERS = ("runtime", "plugins", "migrations", "tests", "docs")
SUFFIXES = frozenset({".py", ".html", ".js", ".css", ".md", ".txt", ".toml"})
# Beginnings of the names of files that others wrote.
VENDORED = ("axe.min.js", "htmx", "LICENSE")
OWN = "tests/docs/test_words.py"
EXCEPTIONS = {
    ("CHANGELOG.md", "mend"),  # the former name of a field
}


def files() -> Iterator[Path]:
    """Yield every text file that we write."""
    yield from (ROOT / name for name in ("README.md", "CHANGELOG.md", "Makefile", "pyproject.toml"))
    for folder in FOLDERS:
        for path in sorted((ROOT / folder).rglob("*")):
            if path.suffix in SUFFIXES and not path.name.startswith(VENDORED):
                yield path


def uses() -> Iterator[tuple[str, int, str]]:
    """Yield file, line and word of each use."""
    for path in files():
        name = str(path.relative_to(ROOT))
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
            for match in FORBIDDEN.finditer(line) if name != OWN else ():
                yield name, number, match[0].lower()


def test_no_forbidden_word_is_used() -> None:
    assert [use for use in uses() if (use[0], use[2]) not in EXCEPTIONS] == []


def test_the_exceptions_are_needed() -> None:
    assert {(name, word) for name, _, word in uses()} >= EXCEPTIONS
