"""Keep the time limit of calls.

At the deadline the caller gets its 504, whatever the handler is doing.
"""

from __future__ import annotations

import errno
import itertools
import socket
import ssl
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable
from contextlib import suppress
from email.utils import formatdate
from typing import Any, NoReturn, Protocol, TypeVar

import structlog

from penstock import forks, threads
from penstock.http.body_protocol import CONNECTION
from penstock.runs.timeouts import TimedOut

Result = TypeVar("Result")
GUNICORN_SOCKET = "gunicorn.socket"
STUCK = 60.0  # seconds beyond its sleep without a heartbeat, and the watchdog counts as stuck
SILENCE = 30  # seconds that a client may send nothing within a request
NEVER = float("inf")
ENDED_LOOK = 0.05  # seconds between two looks at calls of a process whose end has come
# Seconds before the end of the graceful timeout at which a process leaves, and as long before that
# it answers what is left.
MARGIN = 1.0
LINGER = 2.0  # seconds that a caller has to read its answer before what it still sends is refused


class Channel(Protocol):
    """Where the watchdog answers: a socket, or the connection of our own server."""

    def send(self, data: bytes, flags: int, /) -> int:
        """Send without waiting. Raises OSError."""

    def shutdown(self, how: int, /) -> None:
        """End reading or writing. Raises OSError."""


class AlreadyAnswered(ConnectionResetError):
    """The watchdog answered the caller: nothing may be written any more.

    Servers take it for a lost connection.
    """

    def __init__(self) -> None:
        super().__init__(errno.ECONNRESET, "the watchdog answered the caller")


def shutdown_schedule(graceful_timeout: float) -> tuple[float, float]:
    """Return after how many seconds of stopping calls are answered, and processes leave.

    It has to be gone before the graceful timeout is over, for then it is killed; and its records
    are to be written by then.
    """
    margin = min(MARGIN, graceful_timeout / 4)
    return graceful_timeout - 2 * margin, graceful_timeout - margin


class DeadlineWatchdog:
    """One thread of a process that watches all its calls in flight.

    A call stays in the request's own thread, for handing it to another costs a quarter of the
    throughput; only its deadline is put into a dict. Who takes it out again, the call when it is
    done or the watchdog at the deadline, is the one who answers. The watchdog answers on the call's
    connection and shuts it down, for writing at once, for reading a little later.
    """

    def __init__(
        self,
        shortest: float,
        *,
        now: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], object] | None = None,
    ) -> None:
        """Take the shortest time limit there is, in seconds.

        So long the thread can sleep and miss nothing.
        """
        self._shortest = shortest
        self._now = now
        self._woken = threading.Event()
        self._sleep = sleep or self._woken.wait
        self._end = NEVER
        self._watched: dict[int, tuple[float, Channel, Callable[[], bytes]]] = {}
        self._lingering: deque[tuple[float, Channel]] = deque()
        self._tickets = itertools.count()
        self._answering = threading.Lock()
        self._starting = threading.Lock()
        self._fork: int | None = None

    def run(
        self,
        work: Callable[[], Result],
        connection: Channel,
        deadline: float,
        on_deadline: Callable[[], bytes],
    ) -> Result:
        """Return the result of `work`, called in this thread.

        `deadline` is a `time.monotonic()` reading. At the deadline, or when the process ends,
        `on_deadline` builds the response and the watchdog sends it on `connection`. `work` keeps
        running, and this call then raises AlreadyAnswered in place of its result.
        """
        if self._fork != forks.generation():
            self._start()
        # Never used twice: a late look at it can't hit the thread's next call.
        ticket = next(self._tickets)
        self._watched[ticket] = (deadline, connection, on_deadline)
        try:
            return work()
        finally:
            if self._watched.pop(ticket, None) is None:
                self._leave()

    def answer_all_at(self, moment: float) -> None:
        """Have every call answered at that moment, whatever its own deadline.

        The moment is a `time.monotonic()` reading.
        """
        self._end = moment
        self._woken.set()

    def _leave(self) -> NoReturn:
        # The answer is on its way: the connection must not be closed under it.
        with self._answering:
            raise AlreadyAnswered

    def _start(self) -> None:
        with self._starting:
            if self._fork != forks.generation():
                self._watched.clear()  # a parent's calls are not ours
                threads.start("penstock-watchdog", self._watch, limit=self._shortest + STUCK)
                self._fork = forks.generation()

    def _watch(self, thread: threads.MonitoredThread) -> None:
        while True:
            thread.heartbeat()
            now = self._now()
            pause = min(self._shortest, LINGER) if self._lingering else self._shortest
            self._let_go(now)
            end = self._end
            if end < NEVER:
                pause = min(pause, max(end - now, ENDED_LOOK))  # calls may still begin
            for ticket, (deadline, connection, on_deadline) in list(self._watched.items()):
                if min(deadline, end) <= now:
                    self._answer(ticket, connection, on_deadline)
                else:
                    pause = min(pause, deadline - now)
            self._sleep(pause)
            self._woken.clear()

    def _answer(self, ticket: int, connection: Channel, on_deadline: Callable[[], bytes]) -> None:
        with self._answering:
            if self._watched.pop(ticket, None) is None:
                return
            try:
                connection.send(on_deadline(), socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL)
            except OSError:
                pass  # the caller is gone
            except Exception:  # noqa: BLE001  whatever it is, all other calls need their watchdog
                structlog.get_logger("penstock").exception(
                    "no answer could be made for a call whose time is up"
                )
            with suppress(OSError):
                connection.shutdown(socket.SHUT_WR)
            self._lingering.append((self._now() + LINGER, connection))

    def _let_go(self, now: float) -> None:
        """End the reading of callers that were answered.

        A handler that waits for the rest of a body would wait for ever.
        """
        while self._lingering and self._lingering[0][0] <= now:
            _, connection = self._lingering.popleft()
            with suppress(OSError):
                connection.shutdown(socket.SHUT_RD)


def closing_response(status: str, headers: Iterable[tuple[str, str]], body: bytes) -> bytes:
    """Return a response as it goes over the wire, the last one of its connection (RFC 9112)."""
    fields = [*headers, ("Date", formatdate(usegmt=True)), ("Connection", "close")]
    head = "".join(f"{name}: {value}\r\n" for name, value in fields)
    return f"HTTP/1.1 {status}\r\n{head}\r\n".encode("latin-1") + body


def close_after_reply(start_response: Callable[..., object]) -> None:
    """Have the reply say `Connection: close`, which an application itself may not say.

    Gunicorn's response knows how.
    """
    force = getattr(getattr(start_response, "__self__", None), "force_close", None)
    if callable(force):
        force()


class ClosingReply(list[bytes]):
    """A reply after which the connection ends.

    A handler that was left behind may still be reading from it.
    """

    def __init__(self, environ: dict[str, Any], body: bytes) -> None:
        super().__init__([body])
        # Our own server sees to it.
        self._connection = environ.get(GUNICORN_SOCKET) if CONNECTION not in environ else None

    def close(self) -> None:
        """End the connection; servers call this when the reply was sent."""
        if isinstance(self._connection, socket.socket):
            with suppress(OSError):
                self._connection.shutdown(socket.SHUT_RDWR)


def channel_of(environ: dict[str, Any]) -> Channel | None:
    """Return where a watchdog can answer a call.

    With our own server always, else where HTTP/1 comes over a plain socket.
    """
    ours: Channel | None = environ.get(CONNECTION)
    if ours is not None:
        return ours
    connection = environ.get(GUNICORN_SOCKET)
    if type(connection) is not socket.socket or not environ.get("SERVER_PROTOCOL", "").startswith(
        "HTTP/1."
    ):
        return None
    return connection


class DeadlineTlsSocket(ssl.SSLSocket):
    """A TLS connection that can be told until when it is read.

    A sender that dribbles its body must not hold a thread for ever.

    `read_until` is a `time.monotonic()` reading, or None.
    """

    read_until: float | None = None

    def recv(self, buflen: int = 1024, flags: int = 0) -> bytes:
        """Receive. Raises TimedOut."""
        if self.read_until is None:
            return super().recv(buflen, flags)
        left = self.read_until - time.monotonic()
        if left <= 0:
            raise TimedOut
        self.settimeout(min(left, SILENCE))
        try:
            return super().recv(buflen, flags)
        except TimeoutError:
            if time.monotonic() < self.read_until:
                raise  # it fell silent
            raise TimedOut from None


def read_with_deadline(connection: object, read: Callable[[], Result], deadline: float) -> Result:
    """Read in this thread, from a connection that no watchdog can answer on.

    Raises TimedOut at the deadline.
    """
    if not isinstance(connection, DeadlineTlsSocket):
        return read()
    connection.read_until = deadline
    try:
        return read()
    finally:
        connection.read_until = None
        with suppress(OSError):
            connection.settimeout(None)
