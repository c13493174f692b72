"""Databases of test runtimes."""

from __future__ import annotations

import time
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

from penstock.db import migrate
from penstock.db.engine import open_engine


def create_database(folder: Path) -> str:
    """Create an empty database of this release in a folder, and return its URL."""
    path = folder / f"penstock-{time.monotonic_ns()}.db"
    path.write_bytes(_upgraded_database())
    return f"sqlite:///{path}"


@cache
def _upgraded_database() -> bytes:
    """Return the file of an empty database of this release.

    Every runtime of a process copies it: migrations take most of the time of a start.
    """
    with TemporaryDirectory() as folder:
        path = Path(folder) / "upgraded.db"
        engine = open_engine(f"sqlite:///{path}")
        migrate.upgrade(engine)
        engine.dispose()  # moves the write-ahead log into the file
        return path.read_bytes()
