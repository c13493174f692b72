"""One client's connection, plain or TLS: nothing here ever blocks."""

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

PIECE = 64 * 1024  # bytes that are received at once
NEVER = float("inf")
ABORT = struct.pack("ii", 1, 0)  # SO_LINGER: close at once
RECORD = 16 * 1024  # bytes of a TLS record
READ, WRITE = select.EPOLLIN | select.EPOLLONESHOT, select.EPOLLOUT | select.EPOLLONESHOT
NEITHER = select.EPOLLONESHOT  # what is waited for is not the client


class Phase(IntEnum):
    """What a connection waits for.

    Where there is no room for another, those with a low number are ended first.
    """

    CLOSING = 0
    IDLE = 1
    DISCARDING = 2  # the rest of a body that nobody wanted
    HANDSHAKE = 3
    HEAD = 4
    SENDING = 5
    BODY = 6
    WORKING = 7  # for the application, not for the client


class Disconnected(OSError):
    """The client is gone, or can't be spoken to any more."""


class Unsent:
    """The bytes of replies that clients have not taken yet, all together."""

    def __init__(self, most: int, relieve: Callable[[int], object]) -> None:
        """Take the most there may be, and what is called with the number of bytes in excess."""
        self._most = most
        self._relieve = relieve
        self._bytes = 0
        self._lock = threading.Lock()

    def add(self, size: int) -> None:
        """Count bytes that wait, or with a negative number such as went out."""
        with self._lock:
            self._bytes += size
            too_many = self._bytes - self._most
        if too_many > 0 and size > 0:
            self._relieve(too_many)


class Connection:
    """A client's connection.

    Its conversation is a generator that yields what it waits for: READ, WRITE or NEITHER. Whoever
    resumes it must have claimed the connection: only one thread has it at a time. `arrived` is what
    has come and was not used yet, `deadline` a `time.monotonic()` reading at which it is resumed in
    any case.
    """

    __slots__ = (
        "_claimable",
        "arrived",
        "client",
        "conversation",
        "deadline",
        "facts",
        "follows",
        "more",
        "number",
        "phase",
        "server",
        "sock",
        "unsent",
        "wants",
    )

    conversation: Generator[int, None, None]
    phase: Phase
    deadline: float

    def __init__(self, sock: socket.socket, client: Any, server: Any) -> None:  # noqa: ANN401  addresses differ by family
        sock.setblocking(False)
        self.sock = sock
        self.number = sock.fileno()
        self.client = client
        self.server = server
        self.facts: dict[str, Any] | None = None
        self.arrived = b""
        self.unsent: memoryview = memoryview(b"")
        self.work()
        self.wants = READ
        self.more = 0  # MSG_MORE while another request has come: then replies go out together
        # Whether the request was there before the reply to the one before had gone.
        self.follows = False
        self._claimable: list[bool] = []

    def release(self) -> None:
        """Let another thread claim the connection."""
        self._claimable.append(True)

    def claim(self) -> bool:
        """Return whether the connection is this thread's now."""
        try:
            return self._claimable.pop()
        except IndexError:
            return False

    def wait(self, phase: Phase, seconds: float) -> None:
        """Note what the connection waits for from now on, and for how long."""
        self.phase = phase
        self.deadline = time.monotonic() + seconds

    def work(self) -> None:
        """Note that it waits for the application, which has time limits of its own."""
        self.phase, self.deadline = Phase.WORKING, NEVER

    @property
    def late(self) -> bool:
        """Whether what it waits for has not come in time."""
        return self.deadline <= time.monotonic()

    def receive(self) -> bytes | None:
        """Return what has come, None where nothing has, and empty bytes at the end.

        Raises Disconnected.
        """
        try:
            return self.sock.recv(PIECE)
        except BlockingIOError:
            self.wants = READ
            return None
        except OSError as error:
            raise Disconnected from error

    def send(self, data: bytes, flags: int = 0) -> int:
        """Send what goes out at once, and return how many bytes that were; the rest is `unsent`.

        Raises Disconnected.
        """
        if self.unsent:
            self.unsent = memoryview(bytes(self.unsent) + data)
            return 0
        try:
            sent = self.sock.send(data, flags | self.more)
        except BlockingIOError:
            sent = 0
        except OSError as error:
            raise Disconnected from error
        if sent < len(data):
            self.unsent = memoryview(data)[sent:]
            self.wants = WRITE
        return sent

    def flush(self) -> None:
        """Send at once what waits for more, for no more may come."""
        if self.more:
            self.more = 0
            with contextlib.suppress(OSError):  # a local socket has waited for nothing
                self.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def send_more(self) -> int:
        """Send what is unsent, as far as it goes, and return how many bytes that were.

        Raises Disconnected.
        """
        data, self.unsent = self.unsent, memoryview(b"")
        return self.send(data)  # type: ignore[arg-type]  # any buffer can be sent

    @property
    def held(self) -> int:
        """The bytes in memory for what is unsent: all of a piece until its last byte has gone."""
        return memoryview(self.unsent.obj).nbytes

    def shutdown(self, how: int) -> None:
        """End reading or writing. Raises Disconnected."""
        try:
            self.sock.shutdown(how)
        except OSError as error:
            raise Disconnected from error

    def drop(self) -> int | None:
        """Receive what nobody looks at.

        Return the number of bytes, None where none has come, 0 at the end. Raises Disconnected.
        """
        try:
            return len(socket.socket.recv(self.sock, PIECE))
        except BlockingIOError:
            self.wants = READ
            return None
        except OSError as error:
            raise Disconnected from error

    @property
    def buffered(self) -> bool:
        """Whether something has come that the system does not tell of any more."""
        return False

    def abort(self) -> None:
        """Have whoever waits for the client be told that it is gone.

        Forget what the system has not sent yet.
        """
        with contextlib.suppress(OSError):
            self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, ABORT)
            socket.socket.shutdown(self.sock, socket.SHUT_RDWR)

    def close(self) -> None:
        """End the connection."""
        with contextlib.suppress(OSError):
            self.sock.close()


class TlsConnection(Connection):
    """A connection whose TLS ends here."""

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

    def shake_hands(self) -> bool:
        """Go on with the handshake, and return whether it is done. Raises Disconnected."""
        try:
            self.sock.do_handshake()
        except ssl.SSLWantReadError:
            self.wants = READ
            return False
        except ssl.SSLWantWriteError:
            self.wants = WRITE
            return False
        except OSError as error:
            raise Disconnected from error
        return True

    def receive(self) -> bytes | None:
        """Return what has come, None where nothing has, and empty bytes at the end.

        Raises Disconnected.
        """
        try:
            return self.sock.recv(PIECE)
        except ssl.SSLWantReadError:
            self.wants = READ
        except ssl.SSLWantWriteError:
            self.wants = WRITE
        except (OSError, ValueError) as error:
            raise Disconnected from error
        return None

    def send(self, data: bytes, flags: int = 0) -> int:  # noqa: ARG002  TLS has none
        """Send what goes out at once, and return how many bytes that were; the rest is `unsent`.

        Raises Disconnected.
        """
        if self.unsent:
            self.unsent = memoryview(bytes(self.unsent) + data)
            return 0
        sent, view = 0, memoryview(data)
        try:
            # OpenSSL wants a record that did not go out to be tried again as it was.
            while sent < len(data):
                sent += self.sock.send(view[sent : sent + RECORD])
        except ssl.SSLWantReadError:
            self.wants = READ
        except ssl.SSLWantWriteError:
            self.wants = WRITE
        except (OSError, ValueError) as error:
            raise Disconnected from error
        if sent < len(data):
            self.unsent = view[sent:]
        return sent

    def shutdown(self, how: int) -> None:
        """End reading or writing, with the alert that says so. Raises Disconnected."""
        if how != socket.SHUT_RD:
            # The client's own alert is not waited for.
            with contextlib.suppress(OSError, ValueError):
                self.sock.unwrap()
        try:
            socket.socket.shutdown(self.sock, how)
        except OSError as error:
            raise Disconnected from error

    @property
    def buffered(self) -> bool:
        """Whether something has come that the system does not tell of any more."""
        try:
            return self.sock.pending() > 0
        except (OSError, ValueError):
            return False
