"""The longest texts that people may write: descriptions, notes and reasons, in characters."""

from __future__ import annotations

from types import MappingProxyType

from penstock.errors import TooLong

LONGEST = MappingProxyType({"description": 500, "note": 200, "reason": 500})


def check_text(kind: str, text: str) -> None:
    """Raise TooLong where a text of a kind is longer than people can read in a list."""
    if len(text) > LONGEST[kind]:
        raise TooLong(kind, text, LONGEST[kind])
