"""The folder in which the processes of one server store their metrics.

It is created when the server starts, and removed when the server ends. Each process has its own
files, named by its process id.

**Folding.** The counters of a process must survive it, and a reload replaces all processes. The
counters of ended processes are therefore added up in one file for each kind. A scrape and a fold
exclude each other: otherwise a scrape could miss counts, or read them twice, which Prometheus would
interpret as a restart.

**Owners.** Every process that uses the folder has a shared lock on its file `owner`, inherited by
its children. A folder whose lock is free belongs to a server that was killed. Process ids can't
tell that: containers may share /dev/shm, but not process ids.
"""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple

VARIABLE = "PROMETHEUS_MULTIPROC_DIR"
PREFIX = "penstock-metrics-"
OWNER, LOCK, REJECTED = "owner", "lock", "rejected.json"
KINDS = ("counter", "histogram")
MAX_REASON = 1000  # characters

_owner: list[int] = []  # the file descriptor of this process's lock


class RejectedReloads(NamedTuple):
    """The number of rejected reloads of this server.

    `at` is the time of the last one in seconds since the epoch, `reason` why it was rejected.
    """

    number: int
    at: float
    reason: str


def create_shared_folder() -> str | None:
    """Create the folder for this process and its children, and return it.

    Return None if a parent created it. Folders of killed servers are removed.
    """
    if os.environ.get(VARIABLE):
        return None
    memory = Path("/dev/shm")  # noqa: S108  counters need no disk
    place = memory if memory.is_dir() else Path(tempfile.gettempdir())
    for orphan in place.glob(f"{PREFIX}*"):
        with suppress(OSError):  # another server removes it too
            # Other users may create folders with such a name.
            if orphan.lstat().st_uid == os.getuid():
                _remove_if_free(orphan)
    folder = tempfile.mkdtemp(prefix=PREFIX, dir=place)
    _owner[:] = [_own(Path(folder))]
    os.environ[VARIABLE] = folder
    return folder


def owner_fds() -> tuple[int, ...]:
    """Return the file descriptor that children must inherit, none if there is no folder here."""
    return tuple(_owner)


def _own(folder: Path) -> int:
    """Create the file whose lock marks a folder as used, and return its descriptor.

    The file gets its name once it is locked, so no other server sees it without a lock.
    """
    unnamed = folder / f"{OWNER}.new"
    number = os.open(unnamed, os.O_CREAT | os.O_RDWR, 0o600)
    fcntl.flock(number, fcntl.LOCK_SH)
    unnamed.rename(folder / OWNER)
    return number


def _remove_if_free(folder: Path) -> None:
    number = os.open(folder / OWNER, os.O_RDWR | os.O_NOFOLLOW)
    try:
        fcntl.flock(number, fcntl.LOCK_EX | fcntl.LOCK_NB)
        shutil.rmtree(folder)
    finally:
        os.close(number)


@contextmanager
def locked(how: int) -> Iterator[Path | None]:
    """Yield the folder under a lock, None if there is no folder.

    `how` is `fcntl.LOCK_SH` to read all files, `fcntl.LOCK_EX` to change files of other processes.
    """
    folder = Path(os.environ.get(VARIABLE, ""))
    if not os.environ.get(VARIABLE) or not folder.is_dir():
        yield None
        return
    number = os.open(folder / LOCK, os.O_CREAT | os.O_RDWR, 0o600)
    try:
        fcntl.flock(number, how)
        yield folder
    finally:
        os.close(number)


def fold_process(pid: int) -> None:
    """Add the counters of an ended process to those of all ended processes; remove its gauges."""
    with locked(fcntl.LOCK_EX) as folder:
        if folder is None:
            return
        for kind in KINDS:
            path = folder / f"{kind}_{pid}.db"
            if path.exists():
                _add(path, folder / f"{kind}_ended.db")
                path.unlink()
        for path in folder.glob(f"gauge_*_{pid}.db"):
            path.unlink()


def _add(path: Path, whole: Path) -> None:
    from prometheus_client.mmap_dict import (  # noqa: PLC0415  the library reads the folder's name when it is imported
        MmapedDict,
    )

    files: Any = MmapedDict  # the library ships no types
    counts = files(str(whole))
    try:
        for key, value, moment, _ in files.read_all_values_from_file(str(path)):
            counts.write_value(key, counts.read_value(key)[0] + value, moment)
    finally:
        counts.close()


def record_rejected_reload(reason: str) -> None:
    """Store that a reload was rejected, and why, for all processes of the server."""
    with suppress(OSError), locked(fcntl.LOCK_EX) as folder:
        if folder is not None:
            before = _rejected(folder)
            after = {
                "number": before.number + 1 if before else 1,
                "at": time.time(),
                "reason": reason[:MAX_REASON],
            }
            path = folder / REJECTED
            path.with_suffix(".new").write_text(json.dumps(after), encoding="utf-8")
            path.with_suffix(".new").replace(path)


def rejected_reloads() -> RejectedReloads | None:
    """Return the rejected reloads, None if there were none, or if there is no folder."""
    folder = os.environ.get(VARIABLE)
    return _rejected(Path(folder)) if folder else None


def _rejected(folder: Path) -> RejectedReloads | None:
    try:
        return RejectedReloads(**json.loads((folder / REJECTED).read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        return None
