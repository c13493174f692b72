"""Which plugin a process is loading, for the process that started it.

Plugin code may end or stop its process while it is imported. No exception then names the plugin, so
the name is written to a file beforehand. The file has no name, and child processes inherit it.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from tempfile import TemporaryFile

MAX_NOTE_BYTES = 600


class LoadingNote:
    """The plugin that a child process is loading; empty if it is loading none."""

    def __init__(self) -> None:
        self._file = TemporaryFile()  # noqa: SIM115  `close` closes it

    def fileno(self) -> int:
        """Return the descriptor, for a child process that does not inherit it by fork."""
        return self._file.fileno()

    def read(self) -> str:
        """Return the plugin, as `orders (plugins/orders.py)`."""
        note = os.pread(self._file.fileno(), MAX_NOTE_BYTES, 0)
        return note.rstrip(b"\0").decode("utf-8", "replace")

    def close(self) -> None:
        """Close the file."""
        self._file.close()


class _Current:
    """The file that this process writes to; None: no other process asks for it."""

    descriptor: int | None = None


def write_progress_to(descriptor: int) -> None:
    """Have this process write which plugin it is loading."""
    _Current.descriptor = descriptor


@contextmanager
def loading(plugin: str, file: str) -> Iterator[None]:
    """Write that a plugin is loaded now, until the block ends."""
    _write(f"{plugin} ({file})" if file else plugin)
    try:
        yield
    finally:
        _write("")


def _write(note: str) -> None:
    if _Current.descriptor is not None:
        with suppress(OSError):  # a full disk must not stop a start
            content = note.encode("utf-8", "replace")[:MAX_NOTE_BYTES]
            os.pwrite(_Current.descriptor, content.ljust(MAX_NOTE_BYTES, b"\0"), 0)
