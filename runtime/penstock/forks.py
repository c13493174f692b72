"""How many forks this process came out of.

Whoever starts threads looks at it at each call, and `os.getpid` is a system call.
"""

from __future__ import annotations

import os

_number = 0


def _forked() -> None:
    global _number  # noqa: PLW0603  one process has one number
    _number += 1


def generation() -> int:
    """Return a number that no process has in common with the one that it was forked from."""
    return _number


os.register_at_fork(after_in_child=_forked)
