"""Count calls in this process's memory, for a limited number of callers."""

from __future__ import annotations

import threading
import time
from collections import OrderedDict, deque
from dataclasses import dataclass, field

from limits.storage import MovingWindowSupport, Storage

MAX_CALLERS = 50_000  # in moving windows, and as many in fixed ones
# Windows of each length that one call removes when they are over: no call pays for all others.
REMOVED_PER_CALL = 2


@dataclass(slots=True)
class _Window:
    """One caller's calls: their number in a fixed window, or their moments in a moving one."""

    ends: float  # from then on none of them counts
    number: int = 0
    calls: deque[float] = field(default_factory=deque)


_Windows = OrderedDict[str, _Window]  # all of one length, the first to end comes first


class MemoryStorage(Storage, MovingWindowSupport):
    """A storage for the `limits` library, with bounded memory and bounded work per call.

    The library's own storage scans all callers repeatedly and never removes any. This one removes
    a caller beyond `max_callers`: the one whose last call is the oldest, among those with the most
    common window length. `forgotten` is set then: such a caller has its whole limit again.
    """

    STORAGE_SCHEME = None

    def __init__(self, max_callers: int) -> None:
        super().__init__()
        self.forgotten = False
        self._max_callers = max_callers
        self._moving: dict[int, _Windows] = {}  # by length
        self._fixed: dict[int, _Windows] = {0: OrderedDict()}  # one length is all that is used
        self._lock = threading.Lock()

    @property
    def base_exceptions(self) -> tuple[type[Exception], ...]:
        """The errors of the storage: none."""
        return ()

    def acquire_entry(self, key: str, limit: int, expiry: int, amount: int = 1) -> bool:
        """Count a call if its window has room. Return whether it had."""
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
        """Return the moment of the oldest call within a window, and the number of calls."""
        now = time.time()
        with self._lock:
            windows = self._moving.get(expiry)
            window = windows.get(key) if windows else None
            calls = _within(window, now - expiry) if window else ()
            return (calls[0], len(calls)) if calls else (now, 0)

    def incr(self, key: str, expiry: int, amount: int = 1) -> int:
        """Add to the number of a fixed window, never below 0, and return it."""
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
        """Return the end of a fixed window, in seconds since the epoch."""
        window = self._fixed[0].get(key)
        return window.ends if window is not None else time.time()

    def _make_room(self, windows_by_length: dict[int, _Windows], now: float) -> None:
        for windows in windows_by_length.values():
            for _ in range(REMOVED_PER_CALL):
                if windows and next(iter(windows.values())).ends <= now:
                    windows.popitem(last=False)
        if sum(map(len, windows_by_length.values())) > self._max_callers:
            max(windows_by_length.values(), key=len).popitem(last=False)
            self.forgotten = True

    def check(self) -> bool:
        """Return that the storage is available."""
        return True

    def clear(self, key: str) -> None:
        """Remove a caller."""
        with self._lock:
            for windows in (*self._moving.values(), *self._fixed.values()):
                windows.pop(key, None)

    def reset(self) -> int:
        """Remove all callers, and return their number."""
        with self._lock:
            number = sum(map(len, (*self._moving.values(), *self._fixed.values())))
            self._moving.clear()
            self._fixed[0].clear()
            return number


def _within(window: _Window, since: float) -> deque[float]:
    """Return a window's calls, without those before `since`."""
    while window.calls and window.calls[0] < since:
        window.calls.popleft()
    return window.calls
