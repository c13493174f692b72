"""Leader/Followers: a thread pool in which one thread polls for events and serves them itself.

**Why.** A pool that hands each event from a polling thread to another thread pays for a wake-up and
a switch, twice for each call. That costs more than most calls do: a handover cost 29 % of the
throughput when it was measured. Here the polling thread, the *leader*, serves the event itself, and
another thread takes over the polling only if that takes long (Schmidt et al., 2000).

**Threads.** At most `limit` threads take part. Each is the leader, or serves an event, or is a
*follower* that waits on its own lock. One more thread, the monitor, promotes a follower when the
leader has been busy for MAX_BUSY_S. The monitor sleeps while there are no events.

**Ownership.** `_leader`, `_followers` and `_threads` change under `_lock`. `_events` is a deque,
whose append and pop are atomic. The leader alone writes a start time to `_busy_since`.

**Races.** `_leader` is read without the lock, for speed. A thread that just lost the lead may poll
once more, beside its successor: `poll` must allow two calls at once, and events may reach any
thread in any order. The monitor may see an old `_busy_since`; it compares it again under the lock,
so it never promotes twice for one event.

**Rejected.** A fixed number of polling threads: idle threads wake up for nothing. No monitor, with
the application announcing long calls only: the first long call of each kind then blocks all
others. `promote_next` remains for calls that are known to be long.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Iterable
from functools import partial
from typing import Generic, TypeVar

from penstock import threads

Event = TypeVar("Event")
# The environ key of a function that promotes another thread before a long call.
PROMOTE_NEXT = "penstock.promote_next"
MAX_BUSY_S = 0.005  # with one event; then another thread becomes the leader
LONG_CALL_S = 2 * MAX_BUSY_S  # a call that took longer is expected to take long the next time
CHECK_INTERVAL_S = 0.0025  # between two checks of the monitor
# Of the monitor: between two heartbeats, and until it counts as stuck without one.
HEARTBEAT_INTERVAL_S, STUCK_AFTER_S = 15.0, 60.0
MAX_IDLE_CHECKS = 50  # checks of an idle leader, until the monitor sleeps


class _Follower:
    """One thread of the pool. `promoted` is released when the thread becomes the leader."""

    __slots__ = ("promoted", "thread")

    def __init__(self) -> None:
        self.promoted = threading.Lock()
        self.promoted.acquire()
        self.thread: int | None = None


class LeaderFollowers(Generic[Event]):
    """A thread pool that calls `handle` with each event that `poll` returns.

    It has at most `limit` threads, and starts them when they are needed. Usually one thread calls
    `poll`, sometimes two at once. Neither function may raise.
    """

    def __init__(
        self, limit: int, poll: Callable[[], Iterable[Event]], handle: Callable[[Event], object]
    ) -> None:
        self._limit = limit
        self._poll = poll
        self._handle = handle
        self._events: deque[Event] = deque()
        self._leader: _Follower | None = None
        self._followers: list[_Follower] = []
        self._threads = 0
        self._busy_since = 0.0
        self._lock = threading.Lock()
        self._active = threading.Event()

    def start(self) -> None:
        """Start the monitor and the first leader. They run until the process ends."""
        threads.start("penstock-leader-monitor", self._monitor, limit=STUCK_AFTER_S)
        with self._lock:
            self._promote()

    def promote_next(self) -> None:
        """Promote another thread, if this thread is the leader: it is about to be busy for long."""
        leader = self._leader
        if leader is not None and leader.thread == threading.get_ident():
            with self._lock:
                self._promote()

    def _promote(self) -> None:
        """Choose a new leader. The caller holds the lock."""
        self._busy_since = 0.0
        if self._followers:
            self._leader = self._followers.pop()
            self._leader.promoted.release()
        elif self._threads < self._limit:
            self._threads += 1
            self._leader = _Follower()
            # No heartbeat limit: a call may take long.
            threads.start(
                f"penstock-calls-{self._threads}", partial(self._run, self._leader), limit=None
            )
        else:
            self._leader = None  # the next thread without an event takes the lead

    def _run(self, follower: _Follower, _: threads.MonitoredThread) -> None:
        follower.thread = threading.get_ident()
        events, handle, active = self._events, self._handle, self._active
        while True:
            try:
                event = events.popleft()
            except IndexError:
                if self._leader is follower:
                    self._busy_since = 0.0
                    events.extend(self._poll())
                    if not active.is_set():
                        active.set()
                else:
                    self._follow(follower)
                continue
            if self._leader is follower:
                self._busy_since = time.monotonic()
            handle(event)

    def _follow(self, follower: _Follower) -> None:
        """Wait until this thread is promoted, or take the lead if there is no leader."""
        with self._lock:
            if self._leader is None:
                self._leader = follower
                return
            self._followers.append(follower)
        follower.promoted.acquire()

    def _monitor(self, thread: threads.MonitoredThread) -> None:
        """Promote a follower whenever the leader has been busy for too long."""
        while True:
            while not self._active.wait(HEARTBEAT_INTERVAL_S):
                thread.heartbeat()
            idle_checks = 0
            while idle_checks < MAX_IDLE_CHECKS:
                time.sleep(CHECK_INTERVAL_S)
                thread.heartbeat()
                since = self._busy_since
                idle_checks = 0 if since else idle_checks + 1
                if since and time.monotonic() - since > MAX_BUSY_S:
                    with self._lock:
                        if self._busy_since == since:
                            self._promote()
            self._active.clear()
