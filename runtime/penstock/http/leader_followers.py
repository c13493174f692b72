"""Threads that take turns: one waits for what comes and handles it itself.

Another takes the turn when that takes long.

The Leader/Followers pattern (Schmidt et al., 2000). Handing each call to another thread would cost
more than most calls do.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Iterable
from functools import partial
from typing import Generic, TypeVar

from penstock import threads

Item = TypeVar("Item")
PROMOTE_NEXT = "penstock.promote_next"
# Seconds that the one whose turn it is may be busy with one thing before another goes on.
MAX_BUSY_S = 0.005
LONG_CALL_S = 2 * MAX_BUSY_S  # seconds after which it is said to take long the next time too
CHECK_INTERVAL_S = (
    0.0025  # seconds between two looks at how long that is, as long as there is something to do
)
# Seconds between two heartbeats of the thread that looks on, and without one until it counts as
# stuck.
HEARTBEAT_INTERVAL_S, STUCK_AFTER_S = 15.0, 60.0
# Looks in a row at somebody who only waits, after which there are none until something comes.
MAX_IDLE_CHECKS = 50


class _Follower:
    """One thread's place in the row."""

    __slots__ = ("passed", "thread")

    def __init__(self) -> None:
        self.passed = threading.Lock()
        self.passed.acquire()
        self.thread: int | None = None


class LeaderFollowers(Generic[Item]):
    """Has `handle` called with everything that `wait` returns.

    As many threads as are needed call it, `most` at the most.

    `wait` is called by one thread at a time as a rule, and must bear two. Neither may raise.
    """

    def __init__(
        self, most: int, wait: Callable[[], Iterable[Item]], handle: Callable[[Item], object]
    ) -> None:
        self._most = most
        self._wait = wait
        self._handle = handle
        self._ready: deque[Item] = deque()
        self._leader: _Follower | None = None
        self._followers: list[_Follower] = []
        self._threads = 0
        self._busy_since = 0.0
        self._lock = threading.Lock()
        self._stirring = threading.Event()

    def start(self) -> None:
        """Begin. There is no end: the threads go with the process."""
        threads.start("penstock-leader-monitor", self._look_on, limit=STUCK_AFTER_S)
        with self._lock:
            self._choose()

    def promote_next(self) -> None:
        """Let another thread go on with what comes: this one is about to be busy for long."""
        leader = self._leader
        if leader is not None and leader.thread == threading.get_ident():
            with self._lock:
                self._choose()

    def _choose(self) -> None:
        self._busy_since = 0.0
        if self._followers:
            self._leader = self._followers.pop()
            self._leader.passed.release()
        elif self._threads < self._most:
            self._threads += 1
            self._leader = _Follower()
            # A call may take long.
            threads.start(
                f"penstock-calls-{self._threads}",
                partial(self._take_part, self._leader),
                limit=None,
            )
        else:
            self._leader = None  # who is done first goes on

    def _take_part(self, baton: _Follower, _: threads.MonitoredThread) -> None:
        baton.thread = threading.get_ident()
        ready, handle, stirring = self._ready, self._handle, self._stirring
        while True:
            try:
                item = ready.popleft()
            except IndexError:
                if self._leader is baton:
                    self._busy_since = 0.0
                    ready.extend(self._wait())
                    if not stirring.is_set():
                        stirring.set()
                else:
                    self._follow(baton)
                continue
            if self._leader is baton:
                self._busy_since = time.monotonic()
            handle(item)

    def _follow(self, baton: _Follower) -> None:
        with self._lock:
            if self._leader is None:
                self._leader = baton
                return
            self._followers.append(baton)
        baton.passed.acquire()

    def _look_on(self, thread: threads.MonitoredThread) -> None:
        """Pass the turn on for one that is busy for too long."""
        while True:
            while not self._stirring.wait(HEARTBEAT_INTERVAL_S):
                thread.heartbeat()
            quiet = 0
            while quiet < MAX_IDLE_CHECKS:
                time.sleep(CHECK_INTERVAL_S)
                thread.heartbeat()
                since = self._busy_since
                quiet = 0 if since else quiet + 1
                if since and time.monotonic() - since > MAX_BUSY_S:
                    with self._lock:
                        if self._busy_since == since:
                            self._choose()
            self._stirring.clear()
