"""Small helpers that write Markdown: tables and cells."""

from __future__ import annotations

from collections.abc import Iterable, Sequence


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a Markdown table."""
    lines = [row_of(head), "|" + "---|" * len(head), *(row_of(row) for row in rows)]
    return "\n".join(lines)


def row_of(cells: Sequence[str]) -> str:
    """Return one line of a table; a cell has one line, and its pipes are escaped."""
    return "| " + " | ".join(" ".join(cell.split()).replace("|", "\\|") for cell in cells) + " |"


def code(text: str) -> str:
    """Return a text as inline code, or nothing for an empty one."""
    return f"`{text}`" if text else ""


def sentence(text: str) -> str:
    """Return a text that begins with a capital letter and ends with a full stop."""
    line = " ".join(text.split())
    if not line:
        return ""
    first = line[0].upper() + line[1:]
    return first if first.endswith((".", "?", "!")) else f"{first}."
