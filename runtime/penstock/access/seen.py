"""Lost updates: a change is applied only to the state that its author saw.

A form carries the token of the values that it was filled with. The transaction that replaces them
compares it, so that the second of two people sees what the first one saved.
"""

from __future__ import annotations

import json
from hashlib import sha256

from penstock.errors import Outdated


def state_token(values: object) -> str:
    """Return a short text that differs where values differ; `values` is JSON."""
    return sha256(json.dumps(values).encode()).hexdigest()[:16]


def require_seen(seen: str | None, values: object, what: str) -> None:
    """Raise Outdated where the values are not those that were seen; None: nothing was seen."""
    if seen is not None and seen != state_token(values):
        raise Outdated(f"{what} changed meanwhile; look at it again")
