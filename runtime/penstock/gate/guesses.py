"""Count looks at what can be guessed, before each is taken.

So many guesses at a time get no more looks than one after the other.

A look takes one of the counts that an address has within a window, and a right one gives it back;
so what stays counted is what was wrong. Where none is left while other looks of that address are
under way, it waits for them, for they may be right; a client that begins with many calls at once,
each with the same right password, is not turned away. A password that is known to be right takes a
count as well: to compare is to look.
"""

from __future__ import annotations

import threading
import time
from collections import Counter
from dataclasses import dataclass

from limits import RateLimitItem
from limits.storage import Storage

from penstock.errors import Refusal

PATIENCE = 0.5  # seconds that a look waits for those before it
LOOK_AGAIN = 0.05  # seconds between two tries meanwhile
# Seconds before a window's end in which nothing is given back: it may be another one already.
MARGIN = 0.05


@dataclass(slots=True)
class Look:
    """One look at a credential.

    It was wrong unless somebody says that it was `right`, or was not taken at all.
    """

    key: str = ""
    ends: float = 0.0
    right: bool = False


class Guesses:
    """Looks at credentials, by place and address, in a storage of the `limits` library."""

    def __init__(self, storage: Storage, failures: RateLimitItem) -> None:
        self._storage = storage
        self._item = failures
        self._under_way: Counter[str] = Counter()
        self._changed = threading.Condition()

    def begin(self, place: str, network: str) -> Look | float:
        """Take a count, or return how many seconds it is until there is one.

        Raises StorageError, and Refusal (503) where others have them all.
        """
        key = self._item.key_for("failed", place, network)
        until = time.monotonic() + PATIENCE
        while not self._take(key):
            with self._changed:
                if key not in self._under_way:
                    break
                if time.monotonic() >= until:
                    raise Refusal(
                        503,
                        "pipeline-busy",
                        "Too many credentials are being checked; try again.",
                        headers=[("Retry-After", "1")],
                    )
                self._changed.wait(LOOK_AGAIN)
        else:
            with self._changed:
                self._under_way[key] += 1
            return Look(key, self._storage.get_expiry(key))
        return max(0.0, self._storage.get_expiry(key) - time.time())

    def end(self, look: Look) -> None:
        """Note that a look is over, and give its count back where it was right.

        Raises StorageError.
        """
        try:
            if look.right and time.time() < look.ends - MARGIN:
                self._storage.incr(look.key, self._item.get_expiry(), -1)
        finally:
            with self._changed:
                self._under_way[look.key] -= 1
                if not self._under_way[look.key]:
                    del self._under_way[look.key]
                self._changed.notify_all()

    def _take(self, key: str) -> bool:
        """Take a count if there is one left."""
        taken = self._storage.incr(key, self._item.get_expiry()) <= self._item.amount
        if not taken:
            self._storage.incr(key, self._item.get_expiry(), -1)
        return taken
