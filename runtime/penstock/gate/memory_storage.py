"""Count calls in this process's memory, of as many callers as there is room for."""

from __future__ import annotations

import threading
import time
from collections import OrderedDict, deque
from dataclasses import dataclass, field

from limits.storage import MovingWindowSupport, Storage

MOST = 50_000  # callers in windows that move along, and as many in fixed ones
# Windows of a length that are forgotten at each call when they are over: no call pays for all
# others.
AT_A_TIME = 2


@dataclass(slots=True)
class _Window:
    """One caller's calls: how many in a fixed window, or when they were in one that moves along.

    And from when on none of them counts.
    """

    ends: float
    number: int = 0
    calls: deque[float] = field(default_factory=deque)


_Windows = OrderedDict[str, _Window]  # those that end first come first: all are of one length


class Memory(Storage, MovingWindowSupport):
    """What the `limits` library asks of a storage.

    Its own one looks at all callers again and again, and keeps them for ever.

    Beyond `most` callers the one is forgotten that has not called for longest, among those with
    windows of the length that most have. `forgotten` says that this came to pass: such a caller may
    call anew.
    """

    STORAGE_SCHEME = None

    def __init__(self, most: int) -> None:
        super().__init__()
        self.forgotten = False
        self._most = most
        self._moving: dict[int, _Windows] = {}  # by length
        self._fixed: dict[int, _Windows] = {0: OrderedDict()}  # one length is all that is used
        self._lock = threading.Lock()

    @property
    def base_exceptions(self) -> tuple[type[Exception], ...]:
        """What may go wrong: nothing."""
        return ()

    def acquire_entry(self, key: str, limit: int, expiry: int, amount: int = 1) -> bool:
        """Count a call if its window has room for it, and say whether it had."""
        now = time.time()
        with self._lock:
            windows = self._moving.setdefault(expiry, OrderedDict())
            window = windows.get(key) or _Window(now)
            calls = _within(window, now - expiry)
            if len(calls) + amount > limit:
                return False
            calls.extend([now] * amount)
            window.ends = now + expiry
            windows[key] = window
            windows.move_to_end(key)
            self._make_room(self._moving, now)
            return True

    def get_moving_window(self, key: str, limit: int, expiry: int) -> tuple[float, int]:  # noqa: ARG002  the library's signature
        """Return when the oldest call within a window was, and how many there are."""
        now = time.time()
        with self._lock:
            windows = self._moving.get(expiry)
            window = windows.get(key) if windows else None
            calls = _within(window, now - expiry) if window else ()
            return (calls[0], len(calls)) if calls else (now, 0)

    def incr(self, key: str, expiry: int, amount: int = 1) -> int:
        """Count in a fixed window, never below nothing, and return its number."""
        now = time.time()
        with self._lock:
            windows = self._fixed[0]
            window = windows.get(key)
            if window is None or window.ends <= now:
                windows.pop(key, None)
                window = windows[key] = _Window(now + expiry)
            window.number = max(0, window.number + amount)
            self._make_room(self._fixed, now)
            return window.number

    def get(self, key: str) -> int:
        """Return the number of a fixed window."""
        window = self._fixed[0].get(key)
        return window.number if window is not None and window.ends > time.time() else 0

    def get_expiry(self, key: str) -> float:
        """Return when a fixed window ends."""
        window = self._fixed[0].get(key)
        return window.ends if window is not None else time.time()

    def _make_room(self, kept: dict[int, _Windows], now: float) -> None:
        for windows in kept.values():
            for _ in range(AT_A_TIME):
                if windows and next(iter(windows.values())).ends <= now:
                    windows.popitem(last=False)
        if sum(map(len, kept.values())) > self._most:
            max(kept.values(), key=len).popitem(last=False)
            self.forgotten = True

    def check(self) -> bool:
        """Say that it is there."""
        return True

    def clear(self, key: str) -> None:
        """Forget a caller."""
        with self._lock:
            for windows in (*self._moving.values(), *self._fixed.values()):
                windows.pop(key, None)

    def reset(self) -> int:
        """Forget all callers, and return how many that were."""
        with self._lock:
            number = sum(map(len, (*self._moving.values(), *self._fixed.values())))
            self._moving.clear()
            self._fixed[0].clear()
            return number


def _within(window: _Window, since: float) -> deque[float]:
    """Return a window's calls without those that were too long ago."""
    while window.calls and window.calls[0] < since:
        window.calls.popleft()
    return window.calls
