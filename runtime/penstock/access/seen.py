"""Lost updates: a change is applied only to the state that its author saw.

A form carries the token of the values that it was filled with. The transaction that replaces them
compares it, so that the second of two people sees what the first one saved.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from hashlib import sha256

from penstock.errors import Outdated


def state_token(values: object) -> str:
    """Return a short text that differs where values differ; `values` is JSON."""
    return sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()[:16]


def require_seen(
    seen: str | None, values: object, what: str, saved: Iterable[tuple[str, str]] = ()
) -> None:
    """Raise Outdated where the values are not those that were seen; None: nothing was seen.

    `saved` are names and texts of the values, for the author of the change.
    """
    token = state_token(values)
    if seen is not None and seen != token:
        raise Outdated(f"{what} changed meanwhile; look at it again", token=token, saved=saved)
