"""Detect forks without a system call: `os.getpid` is one, and calls check for a fork each time."""

from __future__ import annotations

import os

_generation = 0


def _count_fork() -> None:
    global _generation  # noqa: PLW0603  one number a process
    _generation += 1


def generation() -> int:
    """Return the number of forks from the first process to this one."""
    return _generation


os.register_at_fork(after_in_child=_count_fork)
