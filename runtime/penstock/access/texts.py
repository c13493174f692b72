"""How long the free texts are that operators write."""

from __future__ import annotations

from penstock.errors import UsageError

MAX_DESCRIPTION = 1000  # characters
MAX_NOTE = 500


def require_length(what: str, text: str, longest: int) -> None:
    """Raise UsageError where a text has more characters than it may have."""
    if len(text) > longest:
        raise UsageError(f"{what} has at most {longest} characters; this one has {len(text)}")
