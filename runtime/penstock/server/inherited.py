"""The view of access that a server's arbiter holds, and that each worker inherits by fork.

**Why.** A worker that starts while the database is away can answer calls by this view alone, within
PENSTOCK_MAX_STALENESS. The view must therefore be as fresh as the views of the running workers.

**Rejected.** A thread that follows the database: each worker would inherit the locks it holds at
the moment of the fork. A query in each round of the arbiter: a slow database would block the
arbiter.

**Instead**, workers write to a pipe which revision the database has confirmed to them, and when:

- While that is the revision of this view, the view is as fresh as theirs, without a query.
- If it is another revision, the arbiter reads this view again. It does so at most once a second,
  only shortly after a worker got an answer, and with short time limits.
- If a worker, even one that ended, has seen a revision that this view lacks, the view is
  contradicted: that revision may have revoked a key. A new worker then waits for the database.

All times are `time.monotonic()` readings, which are one clock for all processes of a host.
"""

from __future__ import annotations

import gc
import os
import struct
import time
from contextlib import suppress

from penstock.access.encryption import load_secret_box
from penstock.access.snapshot import Snapshot
from penstock.db.engine import open_existing
from penstock.db.failures import DatabaseUnavailable
from penstock.db.history import MARK_BYTES, HistoryPoint
from penstock.db.liveness import SILENCE_LIMIT, Silence
from penstock.settings import Settings

# Process id, revision with its mark, and when the database confirmed it.
CONFIRMATION = struct.Struct(f"qq{MARK_BYTES}sd")
NO_MARK = bytes(MARK_BYTES)
READ_BYTES = 128 * CONFIRMATION.size
# The arbiter queries the database only if a worker got an answer in the last RECENT_S seconds. It
# also waits that long for a silent database.
RECENT_S = 2.0
# Between two reads of the view, after one that succeeded and after one that failed.
REFRESH_S, RETRY_S = 1.0, 5.0


class InheritedView:
    """The arbiter's view of access. `access` is None while it could not be read."""

    def __init__(self, settings: Settings) -> None:
        self.access: Snapshot | None = None
        self._settings = settings
        self._read_end, self._write_end = os.pipe()
        for end in (self._read_end, self._write_end):
            os.set_blocking(end, False)
        # By process id: the last confirmed revision with its mark, and when it was confirmed.
        self._confirmed: dict[int, tuple[int, bytes, float]] = {}
        self._next_read_at = 0.0

    @property
    def contradicted(self) -> bool:
        """Whether a worker has seen a revision that this view may lack."""
        if self.access is None:
            return False
        point, read_at = self.access.point, self.access.checked_at
        return any(
            revision > point.revision
            or (
                (revision, mark) != (point.revision, point.mark or NO_MARK) and checked_at > read_at
            )
            for revision, mark, checked_at in self._confirmed.values()
        )

    def read(self, silence: Silence = SILENCE_LIMIT) -> None:
        """Read the changes since the last read. No plugin, thread or connection stays here.

        While the database is away, the view stays as it is: its age is known.
        """
        try:
            engine = open_existing(
                self._settings.database_url, self._settings.database_from, silence=silence
            )
            try:
                access = self.access or Snapshot(
                    self._settings.environment, load_secret_box(self._settings)
                )
                access.read(engine)
            finally:
                engine.dispose()
        except DatabaseUnavailable:
            return
        except Exception:  # noqa: BLE001  the rehearsal and each worker then read all of it, and report the fault
            self.access = None
            return
        self.access = access
        gc.collect()
        # Garbage collectors of workers would otherwise write to these pages, and unshare them.
        gc.freeze()

    def confirm(self, point: HistoryPoint, checked_at: float) -> None:
        """Tell the arbiter, from a worker, which revision the database confirmed, and when."""
        with suppress(OSError):  # the pipe is full: the next confirmation replaces this one
            os.write(
                self._write_end,
                CONFIRMATION.pack(os.getpid(), point.revision, point.mark or NO_MARK, checked_at),
            )

    def refresh(self) -> None:
        """Receive the workers' confirmations, and read the changes if that is due.

        The arbiter calls this in each round of its main loop.
        """
        with suppress(BlockingIOError):
            while data := os.read(self._read_end, READ_BYTES):
                self._confirmed |= {
                    pid: (revision, mark, checked_at)
                    for pid, revision, mark, checked_at in CONFIRMATION.iter_unpack(data)
                }
        now = time.monotonic()
        self._confirmed = {
            pid: confirmation
            for pid, confirmation in self._confirmed.items()
            if now - confirmation[2] <= self._settings.max_staleness
        }
        newest = self._newest()
        if (
            now < self._next_read_at
            or now - newest > RECENT_S
            or (self.access is not None and not self.contradicted)
        ):
            return
        self.read(Silence(RECENT_S))
        succeeded = self.access is not None and self.access.checked_at > newest
        self._next_read_at = time.monotonic() + (REFRESH_S if succeeded else RETRY_S)

    def inherit(self) -> Snapshot | None:
        """Return the view for a worker that was just forked, as fresh as workers have confirmed."""
        if self.access is not None and not self.contradicted:
            self.access.checked_at = max(self.access.checked_at, self._newest())
        return self.access

    def _newest(self) -> float:
        return max(
            (checked_at for *_, checked_at in self._confirmed.values()), default=float("-inf")
        )
