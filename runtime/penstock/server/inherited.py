"""The view of access that a server's arbiter holds, and that each worker is forked with.

A worker that must start while the database is away can answer calls by this view alone, within the
bound of staleness. So it must be as fresh as those of the workers. A thread that follows the
database would be forked with whatever locks it holds, and a query in each turn could stop the
arbiter. Instead workers tell through a pipe which revision the database has confirmed to them, and
when:

- While that is the revision of this view, the view is as fresh as theirs, and nothing is asked.
- Where it is another, this view is read anew: at most once a second, right after a worker had an
  answer, and with short limits.
- While a worker, though it be dead now, was told of a revision that this view has not, the view is
  not confirmed: that revision may have revoked a key. A worker that is forked then waits for the
  database.

All moments are `time.monotonic()` readings, which are one clock for all processes of a host.
"""

from __future__ import annotations

import gc
import os
import struct
import time
from contextlib import suppress

from penstock.access.encryption import load_secret_box
from penstock.access.snapshot import Snapshot
from penstock.db.engine import DatabaseUnavailable, open_existing
from penstock.db.history import MARK_BYTES, HistoryPoint
from penstock.db.liveness import SILENCE, Silence
from penstock.settings import Settings

# Process id, revision with its mark, and when it was confirmed.
CONFIRMATION = struct.Struct(f"qq{MARK_BYTES}sd")
NO_MARK = bytes(MARK_BYTES)
AT_ONCE = 128 * CONFIRMATION.size  # bytes that are read at once
# Since a worker had an answer, in which the arbiter may ask too; also how long it waits for a
# server that is silent.
RECENT_S = 2.0
# Until the arbiter may read again what changed, after it could and could not.
REFRESH_S, RETRY_S = 1.0, 5.0


class InheritedView:
    """The arbiter's view of access. `access` is None where it could not be read."""

    def __init__(self, settings: Settings) -> None:
        self.access: Snapshot | None = None
        self._settings = settings
        self._told, self._tell = os.pipe()
        for end in (self._told, self._tell):
            os.set_blocking(end, False)
        # The last revision of each process with its mark, and when.
        self._confirmed: dict[int, tuple[int, bytes, float]] = {}
        self._again_at = 0.0

    @property
    def contradicted(self) -> bool:
        """Whether a worker was told of a revision that this view may not have."""
        if self.access is None:
            return False
        mine, mine_at = self.access.point, self.access.checked_at
        return any(
            revision > mine.revision
            or ((revision, mark) != (mine.revision, mine.mark or NO_MARK) and checked_at > mine_at)
            for revision, mark, checked_at in self._confirmed.values()
        )

    def read(self, silence: Silence = SILENCE) -> None:
        """Read what changed.

        Neither plugins, threads nor connections come into this process, or stay there.

        While the database is away what was read before is kept: its age is known.
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
        except Exception:  # noqa: BLE001  the rehearsal, and each worker, reads all of it then, and says what is wrong
            self.access = None
            return
        self.access = access
        gc.collect()
        gc.freeze()  # what is not looked at by a worker's garbage collector goes on being shared

    def confirm(self, point: HistoryPoint, checked_at: float) -> None:
        """Tell the arbiter, from a worker, that the database confirmed a view at a revision."""
        with suppress(OSError):  # the pipe is full: the next one tells it
            os.write(
                self._tell,
                CONFIRMATION.pack(os.getpid(), point.revision, point.mark or NO_MARK, checked_at),
            )

    def keep_up(self) -> None:
        """Take what workers have told, and read what changed where that is due.

        The arbiter calls it in each of its turns.
        """
        with suppress(BlockingIOError):
            while told := os.read(self._told, AT_ONCE):
                self._confirmed |= {
                    pid: (revision, mark, checked_at)
                    for pid, revision, mark, checked_at in CONFIRMATION.iter_unpack(told)
                }
        now = time.monotonic()
        self._confirmed = {
            pid: told
            for pid, told in self._confirmed.items()
            if now - told[2] <= self._settings.max_staleness
        }
        newest = self._newest()
        if (
            now < self._again_at
            or now - newest > RECENT_S
            or (self.access is not None and not self.contradicted)
        ):
            return
        self.read(Silence(RECENT_S))
        self._again_at = time.monotonic() + (
            REFRESH_S if self.access is not None and self.access.checked_at > newest else RETRY_S
        )

    def inherit(self) -> Snapshot | None:
        """Return the view, as fresh as workers have told.

        For a worker, right after it was forked.
        """
        if self.access is not None and not self.contradicted:
            self.access.checked_at = max(self.access.checked_at, self._newest())
        return self.access

    def _newest(self) -> float:
        return max(
            (checked_at for *_, checked_at in self._confirmed.values()), default=float("-inf")
        )
