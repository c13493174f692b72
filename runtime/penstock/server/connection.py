"""One client's connection, plain or TLS. No method here blocks."""

from __future__ import annotations

import contextlib
import select
import socket
import ssl
import struct
import threading
import time
from collections.abc import Callable, Generator
from enum import IntEnum
from typing import Any

RECV_BYTES = 64 * 1024
NO_DEADLINE = float("inf")
ABORT = struct.pack("ii", 1, 0)  # SO_LINGER with zero seconds: reset instead of closing in order
TLS_RECORD_BYTES = 16 * 1024
READ, WRITE = select.EPOLLIN | select.EPOLLONESHOT, select.EPOLLOUT | select.EPOLLONESHOT
PAUSED = select.EPOLLONESHOT  # waits for the worker's next round, not for the client


class Phase(IntEnum):
    """The state of a connection. When the worker needs room, it ends low numbers first."""

    CLOSING = 0
    IDLE = 1
    DISCARDING = 2  # receives the rest of a body that the application did not read
    HANDSHAKE = 3
    HEAD = 4
    SENDING = 5
    BODY = 6
    WORKING = 7  # waits for the application, not for the client


class Disconnected(OSError):
    """The client closed the connection, or the connection failed."""


class ReplyMemory:
    """Counts the bytes of all replies in this process that clients have not received yet."""

    def __init__(self, limit: int, on_excess: Callable[[int], object]) -> None:
        """Set the limit in bytes. `on_excess` receives the number of bytes above the limit."""
        self._limit = limit
        self._on_excess = on_excess
        self._bytes = 0
        self._lock = threading.Lock()

    def add(self, size: int) -> None:
        """Add bytes that wait in memory. A negative number subtracts bytes that were sent."""
        with self._lock:
            self._bytes += size
            excess = self._bytes - self._limit
        if excess > 0 and size > 0:
            self._on_excess(excess)


class Connection:
    """A client's connection.

    Its coroutine is a generator that yields the event it waits for: READ, WRITE or PAUSED. A thread
    must claim the connection before it resumes the coroutine, so only one thread does at a time.
    `received` holds bytes that were received and not used yet. `deadline` is a `time.monotonic()`
    reading, at which the worker resumes the coroutine in any case.
    """

    __slots__ = (
        "_claimable",
        "base_environ",
        "client",
        "coroutine",
        "deadline",
        "events",
        "fd",
        "phase",
        "pipelined",
        "received",
        "send_buffer",
        "send_flags",
        "server",
        "sock",
    )

    coroutine: Generator[int, None, None]
    phase: Phase
    deadline: float

    def __init__(self, sock: socket.socket, client: Any, server: Any) -> None:  # noqa: ANN401  addresses differ by family
        sock.setblocking(False)
        self.sock = sock
        self.fd = sock.fileno()
        self.client = client
        self.server = server
        self.base_environ: dict[str, Any] | None = None
        self.received = b""
        self.send_buffer: memoryview = memoryview(b"")
        self.start_working()
        self.events = READ
        # MSG_MORE while a pipelined request waits, so that replies share packets.
        self.send_flags = 0
        # Whether this request was received before the previous reply was sent.
        self.pipelined = False
        self._claimable: list[bool] = []

    def release(self) -> None:
        """Allow another thread to claim the connection."""
        self._claimable.append(True)

    def claim(self) -> bool:
        """Return whether this thread now owns the connection. `list.pop` is atomic."""
        try:
            return self._claimable.pop()
        except IndexError:
            return False

    def wait_for(self, phase: Phase, seconds: float) -> None:
        """Enter a phase that ends after `seconds` at the latest."""
        self.phase = phase
        self.deadline = time.monotonic() + seconds

    def start_working(self) -> None:
        """Enter the phase WORKING. The application has time limits of its own."""
        self.phase, self.deadline = Phase.WORKING, NO_DEADLINE

    @property
    def overdue(self) -> bool:
        """Whether the deadline has passed."""
        return self.deadline <= time.monotonic()

    def receive(self) -> bytes | None:
        """Return received bytes, None if there are none yet, or `b""` at the end of the stream.

        Raises Disconnected.
        """
        try:
            return self.sock.recv(RECV_BYTES)
        except BlockingIOError:
            self.events = READ
            return None
        except OSError as error:
            raise Disconnected from error

    def send(self, data: bytes, flags: int = 0) -> int:
        """Return how many bytes were sent at once. The rest goes to `send_buffer`.

        Raises Disconnected.
        """
        if self.send_buffer:
            self.send_buffer = memoryview(bytes(self.send_buffer) + data)
            return 0
        try:
            sent = self.sock.send(data, flags | self.send_flags)
        except BlockingIOError:
            sent = 0
        except OSError as error:
            raise Disconnected from error
        if sent < len(data):
            self.send_buffer = memoryview(data)[sent:]
            self.events = WRITE
        return sent

    def uncork(self) -> None:
        """Send the bytes that MSG_MORE holds back, because no further reply may follow."""
        if self.send_flags:
            self.send_flags = 0
            with contextlib.suppress(OSError):  # a Unix socket holds nothing back
                self.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def send_buffered(self) -> int:
        """Return how many bytes of `send_buffer` were sent. Raises Disconnected."""
        data, self.send_buffer = self.send_buffer, memoryview(b"")
        return self.send(data)  # type: ignore[arg-type]  # any buffer can be sent

    @property
    def buffer_bytes(self) -> int:
        """The memory that `send_buffer` occupies: all of the reply until its last byte is sent."""
        return memoryview(self.send_buffer.obj).nbytes

    def shutdown(self, how: int) -> None:
        """Shut down reading or writing, as `socket.shutdown`. Raises Disconnected."""
        try:
            self.sock.shutdown(how)
        except OSError as error:
            raise Disconnected from error

    def discard(self) -> int | None:
        """Receive bytes without using them, below TLS.

        Return their number, None if there are none yet, or 0 at the end. Raises Disconnected.
        """
        try:
            return len(socket.socket.recv(self.sock, RECV_BYTES))
        except BlockingIOError:
            self.events = READ
            return None
        except OSError as error:
            raise Disconnected from error

    @property
    def has_pending(self) -> bool:
        """Whether TLS holds decrypted bytes, for which epoll reports no event."""
        return False

    def abort(self) -> None:
        """Reset the connection: its next read or write fails, and unsent bytes are dropped."""
        with contextlib.suppress(OSError):
            self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, ABORT)
            socket.socket.shutdown(self.sock, socket.SHUT_RDWR)

    def close(self) -> None:
        """Close the socket."""
        with contextlib.suppress(OSError):
            self.sock.close()


class TlsConnection(Connection):
    """A connection that terminates TLS here."""

    __slots__ = ()

    sock: ssl.SSLSocket

    def __init__(
        self,
        sock: socket.socket,
        client: Any,  # noqa: ANN401  addresses differ by family
        server: Any,  # noqa: ANN401  addresses differ by family
        context: ssl.SSLContext,
    ) -> None:
        super().__init__(sock, client, server)
        self.sock = context.wrap_socket(sock, server_side=True, do_handshake_on_connect=False)

    def handshake(self) -> bool:
        """Continue the TLS handshake, and return whether it is complete. Raises Disconnected."""
        try:
            self.sock.do_handshake()
        except ssl.SSLWantReadError:
            self.events = READ
            return False
        except ssl.SSLWantWriteError:
            self.events = WRITE
            return False
        except OSError as error:
            raise Disconnected from error
        return True

    def receive(self) -> bytes | None:
        """Return received bytes, None if there are none yet, or `b""` at the end of the stream.

        Raises Disconnected.
        """
        try:
            return self.sock.recv(RECV_BYTES)
        except ssl.SSLWantReadError:
            self.events = READ
        except ssl.SSLWantWriteError:
            self.events = WRITE
        except (OSError, ValueError) as error:
            raise Disconnected from error
        return None

    def send(self, data: bytes, flags: int = 0) -> int:  # noqa: ARG002  TLS has none
        """Return how many bytes were sent at once. The rest goes to `send_buffer`.

        Raises Disconnected.
        """
        if self.send_buffer:
            self.send_buffer = memoryview(bytes(self.send_buffer) + data)
            return 0
        sent, view = 0, memoryview(data)
        try:
            # OpenSSL requires a record that was not sent to be retried unchanged.
            while sent < len(data):
                sent += self.sock.send(view[sent : sent + TLS_RECORD_BYTES])
        except ssl.SSLWantReadError:
            self.events = READ
        except ssl.SSLWantWriteError:
            self.events = WRITE
        except (OSError, ValueError) as error:
            raise Disconnected from error
        if sent < len(data):
            self.send_buffer = view[sent:]
        return sent

    def shutdown(self, how: int) -> None:
        """Shut down reading or writing; send the TLS close alert first. Raises Disconnected."""
        if how != socket.SHUT_RD:
            # Does not wait for the client's own alert.
            with contextlib.suppress(OSError, ValueError):
                self.sock.unwrap()
        try:
            socket.socket.shutdown(self.sock, how)
        except OSError as error:
            raise Disconnected from error

    @property
    def has_pending(self) -> bool:
        """Whether TLS holds decrypted bytes, for which epoll reports no event."""
        try:
            return self.sock.pending() > 0
        except (OSError, ValueError):
            return False
