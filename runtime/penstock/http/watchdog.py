"""Enforce the time limit of calls: at its deadline, a call is answered with 504.

**Why.** A handler is plugin code, and Python can't stop a thread. A call must still end in time for
its caller. Two ways were measured on the same call: handing the handler to another thread and
waiting for it costs 29 % of the throughput; registering only its deadline costs 0.5 %.

**Threads.** The call stays in the thread that serves its request. One more thread of the process,
the watchdog, sleeps until the earliest deadline and answers calls that are late.

**Ownership.** `_calls` maps a ticket to the deadline of a call. Either the request's thread removes
the ticket, when its work ends, or the watchdog does, at the deadline. `dict.pop` is atomic, so
exactly one of them does, and that one answers, records and logs the call. A ticket is never used
twice, so a slow watchdog can't hit the next call of the same thread.

**Races.** The watchdog writes to the connection while the request's thread may be about to close
it: `_answering` is held while an answer is sent, and `_lost` waits for it. The handler keeps
running; its result is discarded, and its slot is released when it really ends.

**Lingering.** A caller that still sends a body must be able to read its 504. The watchdog first
shuts down writing only, and shuts down reading LINGER_S later. That also wakes a handler that waits
for the rest of a body.

**Elsewhere.** The watchdog needs a connection on which any thread may write: that of Penstock's own
worker, or a plain socket with HTTP/1. Over TLS on stock gunicorn two threads must not use one
connection; `runs.timeouts.run_with_deadline` then pays for the handover, and the body is read
before it, with `read_with_deadline`.
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
GUNICORN_SOCKET = "gunicorn.socket"  # the environ key of gunicorn's socket
STUCK_AFTER_S = 60.0  # beyond its sleep, without a heartbeat
MAX_SILENCE_S = 30  # of a client within a request body, over TLS on stock gunicorn
NO_DEADLINE = float("inf")
STOPPING_CHECK_S = 0.05  # between two rounds when the process is about to end
# A process leaves this long before the end of the graceful timeout, and answers the remaining calls
# as long before that.
MARGIN_S = 1.0
LINGER_S = 2.0  # for a caller to read its answer, before its connection is shut down for reading


class Channel(Protocol):
    """Where the watchdog answers: a plain socket, or the connection of Penstock's own worker."""

    def send(self, data: bytes, flags: int, /) -> int:
        """Send without blocking. Raises OSError."""

    def shutdown(self, how: int, /) -> None:
        """Shut down reading or writing. Raises OSError."""


class AlreadyAnswered(ConnectionResetError):
    """The watchdog answered the caller, so nothing may be written any more.

    Servers treat it as a lost connection.
    """

    def __init__(self) -> None:
        super().__init__(errno.ECONNRESET, "the watchdog answered the caller")


def shutdown_schedule(graceful_timeout: float) -> tuple[float, float]:
    """Return when a stopping process answers its open calls, and when it leaves.

    Both are seconds after the signal. The arbiter kills a process at the graceful timeout, so it
    must leave before that, with its records written.
    """
    margin = min(MARGIN_S, graceful_timeout / 4)
    return graceful_timeout - 2 * margin, graceful_timeout - margin


class DeadlineWatchdog:
    """Answers the calls of a process that are past their deadline, from one thread."""

    def __init__(
        self,
        shortest: float,
        *,
        now: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], object] | None = None,
    ) -> None:
        """Set the shortest time limit of all calls, in seconds.

        The thread can sleep that long without missing a deadline.
        """
        self._shortest = shortest
        self._now = now
        self._wake = threading.Event()
        self._sleep = sleep or self._wake.wait
        self._end = NO_DEADLINE
        self._calls: dict[int, tuple[float, Channel, Callable[[], bytes]]] = {}
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
        ticket = next(self._tickets)
        self._calls[ticket] = (deadline, connection, on_deadline)
        try:
            return work()
        finally:
            if self._calls.pop(ticket, None) is None:
                self._lost()

    def answer_all_at(self, moment: float) -> None:
        """Answer every open call at that `time.monotonic()` reading, if its deadline is later."""
        self._end = moment
        self._wake.set()

    def _lost(self) -> NoReturn:
        # The answer may be half sent: the caller of `run` would close the connection under it.
        with self._answering:
            raise AlreadyAnswered

    def _start(self) -> None:
        with self._starting:
            if self._fork != forks.generation():
                self._calls.clear()  # calls of the parent process
                threads.start(
                    "penstock-watchdog", self._watch, limit=self._shortest + STUCK_AFTER_S
                )
                self._fork = forks.generation()

    def _watch(self, thread: threads.MonitoredThread) -> None:
        while True:
            thread.heartbeat()
            now = self._now()
            pause = min(self._shortest, LINGER_S) if self._lingering else self._shortest
            self._end_lingering(now)
            end = self._end
            if end < NO_DEADLINE:
                pause = min(pause, max(end - now, STOPPING_CHECK_S))  # new calls may begin
            for ticket, (deadline, connection, on_deadline) in list(self._calls.items()):
                if min(deadline, end) <= now:
                    self._answer(ticket, connection, on_deadline)
                else:
                    pause = min(pause, deadline - now)
            self._sleep(pause)
            self._wake.clear()

    def _answer(self, ticket: int, connection: Channel, on_deadline: Callable[[], bytes]) -> None:
        with self._answering:
            if self._calls.pop(ticket, None) is None:
                return
            try:
                connection.send(on_deadline(), socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL)
            except OSError:
                pass  # the caller closed the connection
            except Exception:  # noqa: BLE001  all other calls need their watchdog
                structlog.get_logger("penstock").exception(
                    "no answer could be built for a call past its deadline"
                )
            with suppress(OSError):
                connection.shutdown(socket.SHUT_WR)
            self._lingering.append((self._now() + LINGER_S, connection))

    def _end_lingering(self, now: float) -> None:
        """Shut down reading for callers that were answered LINGER_S ago."""
        while self._lingering and self._lingering[0][0] <= now:
            _, connection = self._lingering.popleft()
            with suppress(OSError):
                connection.shutdown(socket.SHUT_RD)


def closing_response(status: str, headers: Iterable[tuple[str, str]], body: bytes) -> bytes:
    """Return the bytes of the last response on a connection (RFC 9112)."""
    fields = [*headers, ("Date", formatdate(usegmt=True)), ("Connection", "close")]
    head = "".join(f"{name}: {value}\r\n" for name, value in fields)
    return f"HTTP/1.1 {status}\r\n{head}\r\n".encode("latin-1") + body


def close_after_reply(start_response: Callable[..., object]) -> None:
    """Have gunicorn's response send `Connection: close`, a header that applications may not set."""
    force = getattr(getattr(start_response, "__self__", None), "force_close", None)
    if callable(force):
        force()


class ClosingReply(list[bytes]):
    """A reply that ends its connection, from which an abandoned handler may still be reading."""

    def __init__(self, environ: dict[str, Any], body: bytes) -> None:
        super().__init__([body])
        # Penstock's own worker closes its connections itself.
        self._connection = environ.get(GUNICORN_SOCKET) if CONNECTION not in environ else None

    def close(self) -> None:
        """Shut down the connection. Servers call this when the reply was sent."""
        if isinstance(self._connection, socket.socket):
            with suppress(OSError):
                self._connection.shutdown(socket.SHUT_RDWR)


def channel_of(environ: dict[str, Any]) -> Channel | None:
    """Return the connection on which a watchdog can answer a call, None if there is none.

    That is the connection of Penstock's own worker, or a plain socket with HTTP/1.
    """
    own: Channel | None = environ.get(CONNECTION)
    if own is not None:
        return own
    connection = environ.get(GUNICORN_SOCKET)
    if type(connection) is not socket.socket or not environ.get("SERVER_PROTOCOL", "").startswith(
        "HTTP/1."
    ):
        return None
    return connection


class DeadlineTlsSocket(ssl.SSLSocket):
    """A TLS connection of stock gunicorn whose reads have a deadline.

    Otherwise a slow sender of a body could hold a thread forever. `read_until` is a
    `time.monotonic()` reading, or None.
    """

    read_until: float | None = None

    def recv(self, buflen: int = 1024, flags: int = 0) -> bytes:
        """Receive bytes. Raises TimedOut at the deadline, TimeoutError after MAX_SILENCE_S."""
        if self.read_until is None:
            return super().recv(buflen, flags)
        left = self.read_until - time.monotonic()
        if left <= 0:
            raise TimedOut
        self.settimeout(min(left, MAX_SILENCE_S))
        try:
            return super().recv(buflen, flags)
        except TimeoutError:
            if time.monotonic() < self.read_until:
                raise  # silent for MAX_SILENCE_S
            raise TimedOut from None


def read_with_deadline(connection: object, read: Callable[[], Result], deadline: float) -> Result:
    """Return the result of `read`, called in this thread, on a connection without a watchdog.

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
