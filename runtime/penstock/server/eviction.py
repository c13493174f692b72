"""Whom a full worker disconnects: the clients that have made it wait longest.

Connections are ended by phase, lowest first, and within a phase by deadline, earliest first. A
connection that waits for the application is never ended.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import suppress

from penstock.server.connection import Connection, Phase

MAX_CANDIDATES = 64  # connections that one search selects
MAX_EVICTED = 4  # connections that one new connection ends


class Evictor:
    """Ends connections to make room for others. Several threads may use it at once."""

    def __init__(
        self,
        connections: Callable[[], Mapping[int, Connection]],
        capacity: int,
        wake: Callable[[Connection], object],
    ) -> None:
        """Take the worker's connections by file descriptor, and a function that resumes one."""
        self._connections = connections
        self._capacity = capacity
        self._wake = wake
        self._candidates: list[tuple[float, int, Phase, Connection]] = []

    def make_room(self) -> None:
        """End connections above the capacity, a few at a time."""
        excess = len(self._connections()) - self._capacity + 1
        for _ in range(min(excess, MAX_EVICTED)):
            # Earlier candidates may have changed their phase, so search a second time.
            connection = self._next_candidate() or self._next_candidate()
            if connection is None:
                return
            connection.abort()
            self._wake(connection)

    def free_memory(self, size: int) -> None:
        """End replies that free `size` bytes: those without progress for the longest time.

        One reply always stays, however large it is.
        """
        sending = [
            connection
            for connection in list(self._connections().values())
            if connection.phase is Phase.SENDING
        ]
        for connection in sorted(sending, key=lambda connection: connection.deadline)[:-1]:
            if size <= 0:
                return
            size -= connection.buffer_bytes
            connection.phase = Phase.CLOSING  # so that it is not selected again
            connection.abort()
            self._wake(connection)

    def _next_candidate(self) -> Connection | None:
        if not self._candidates:
            self._candidates = self._search()
        while self._candidates:
            with suppress(IndexError):  # another thread took the last one
                _, _, phase, connection = self._candidates.pop()
                current = self._connections().get(connection.fd)
                if connection.phase is phase and current is connection:
                    return connection
        return None

    def _search(self) -> list[tuple[float, int, Phase, Connection]]:
        """Return candidates of the lowest phase, the best one last."""
        waiting = [
            connection
            for connection in list(self._connections().values())
            if connection.phase is not Phase.WORKING
        ]
        lowest = min((connection.phase for connection in waiting), default=Phase.WORKING)
        ranked = sorted(
            (
                (connection.deadline, id(connection), lowest, connection)
                for connection in waiting
                if connection.phase is lowest
            ),
            reverse=True,
        )
        return ranked[-MAX_CANDIDATES:]
