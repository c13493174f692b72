"""The folder in which the processes of one server count together.

It is made at the server's start, kept small and removed at its end.

Each process has files of its own there, named by its process id. **Folding:** what a process has
counted must go on counting after it has ended, and a reload replaces all of them, so the counts of
ended processes are added up in one file for each kind. A scrape and a fold exclude each other, else
a scrape could miss counts or read them twice, which Prometheus would take for a restart.
**Owners:** every process that uses the folder holds a shared lock on its file `owner`, passed on to
the processes that it starts. A folder whose lock is free was left behind by a server that was
killed. Process ids can't say that: another container may share /dev/shm, but not the ids.
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

_owner: list[int] = []  # the file descriptor of our lock


class RejectedReloads(NamedTuple):
    """How many reloads of this server were rejected.

    Also when the last one was (seconds since the epoch), and why.
    """

    number: int
    at: float
    reason: str


def create_shared_folder() -> str | None:
    """Have this process and those that it starts count together.

    Return the folder for that, if it was made here.
    """
    if os.environ.get(VARIABLE):
        return None
    memory = Path("/dev/shm")  # noqa: S108  counters need no disk
    place = memory if memory.is_dir() else Path(tempfile.gettempdir())
    for left in place.glob(f"{PREFIX}*"):
        with suppress(OSError):  # another server removes it at this moment
            if left.lstat().st_uid == os.getuid():  # anybody may make a folder of such a name
                _remove_if_free(left)
    folder = tempfile.mkdtemp(prefix=PREFIX, dir=place)
    _owner[:] = [_own(Path(folder))]
    os.environ[VARIABLE] = folder
    return folder


def owner_fds() -> tuple[int, ...]:
    """Return the file descriptor that a process must inherit that uses the folder.

    None where the folder was not made here.
    """
    return tuple(_owner)


def _own(folder: Path) -> int:
    """Create the file whose lock says that a folder is in use.

    It gets its name once it is locked, so none without a lock is ever seen.
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
    """Yield the folder, None where there is none, under a lock.

    `fcntl.LOCK_SH` to read all of it, `fcntl.LOCK_EX` to change files of others.
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
    """Add what a process that has ended has counted to the counts of all such.

    Forget its gauges.
    """
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
    from prometheus_client.mmap_dict import (  # noqa: PLC0415  the library looks for the folder when it is imported
        MmapedDict,
    )

    files: Any = MmapedDict  # it has no types
    counts = files(str(whole))
    try:
        for key, value, moment, _ in files.read_all_values_from_file(str(path)):
            counts.write_value(key, counts.read_value(key)[0] + value, moment)
    finally:
        counts.close()


def record_rejected_reload(reason: str) -> None:
    """Note that a reload was rejected, for all processes of the server."""
    with suppress(OSError), locked(fcntl.LOCK_EX) as folder:
        if folder is not None:
            before = _rejected(folder)
            made = {
                "number": before.number + 1 if before else 1,
                "at": time.time(),
                "reason": reason[:MAX_REASON],
            }
            path = folder / REJECTED
            path.with_suffix(".new").write_text(json.dumps(made), encoding="utf-8")
            path.with_suffix(".new").replace(path)


def rejected_reloads() -> RejectedReloads | None:
    """Return what is known of rejected reloads.

    None where there were none, or there is no folder.
    """
    folder = os.environ.get(VARIABLE)
    return _rejected(Path(folder)) if folder else None


def _rejected(folder: Path) -> RejectedReloads | None:
    try:
        return RejectedReloads(**json.loads((folder / REJECTED).read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        return None
