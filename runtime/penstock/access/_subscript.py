"""Read attributes by subscript, until all callers read attributes."""

from __future__ import annotations

from typing import Any


class Subscriptable:
    """A value whose attributes can be read by subscript."""

    __slots__ = ()

    def __getitem__(self, name: str) -> Any:  # noqa: ANN401  temporary
        """Return an attribute."""
        return getattr(self, name)
