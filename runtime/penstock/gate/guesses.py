"""Count guesses at credentials before each is checked.

So many guesses at once get no more checks than one after the other. A guess takes one of the counts
that an address has within a window, and a right one returns it. So only wrong guesses stay counted.

Where no count is left while other guesses of that address are being checked, a guess waits for
them: they may be right. A client that begins with many calls at once, each with the same right
password, is not rejected. A password that is known to be right takes a count as well, because
comparing it is a check.
"""

from __future__ import annotations

import threading
import time
from collections import Counter
from dataclasses import dataclass

from limits import RateLimitItem
from limits.storage import Storage

from penstock.errors import Refusal

MAX_WAIT_S = 0.5  # of a guess for those before it
RETRY_S = 0.05  # between two tries meanwhile
# Before a window's end in which no count is returned: the next window may have begun.
WINDOW_MARGIN_S = 0.05


@dataclass(slots=True)
class Guess:
    """One guess at a credential: wrong, unless the checking code sets `right`."""

    key: str = ""
    ends: float = 0.0
    right: bool = False


class GuessCounter:
    """Counts guesses, by place and address, in a storage of the `limits` library."""

    def __init__(self, storage: Storage, failures: RateLimitItem) -> None:
        self._storage = storage
        self._item = failures
        self._under_way: Counter[str] = Counter()
        self._changed = threading.Condition()

    def begin(self, place: str, network: str) -> Guess | float:
        """Take a count for a guess, or return the seconds until there is one.

        Raises StorageError, and Refusal (503) where other guesses hold all counts.
        """
        key = self._item.key_for("failed", place, network)
        until = time.monotonic() + MAX_WAIT_S
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
                self._changed.wait(RETRY_S)
        else:
            with self._changed:
                self._under_way[key] += 1
            return Guess(key, self._storage.get_expiry(key))
        return max(0.0, self._storage.get_expiry(key) - time.time())

    def end(self, guess: Guess) -> None:
        """End a guess, and return its count if it was right. Raises StorageError."""
        try:
            if guess.right and time.time() < guess.ends - WINDOW_MARGIN_S:
                self._storage.incr(guess.key, self._item.get_expiry(), -1)
        finally:
            with self._changed:
                self._under_way[guess.key] -= 1
                if not self._under_way[guess.key]:
                    del self._under_way[guess.key]
                self._changed.notify_all()

    def _take(self, key: str) -> bool:
        """Take a count if there is one left."""
        taken = self._storage.incr(key, self._item.get_expiry()) <= self._item.amount
        if not taken:
            self._storage.incr(key, self._item.get_expiry(), -1)
        return taken
