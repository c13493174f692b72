"""Bytes to and from one client: coroutines that yield the event they wait for, and never block.

Every wait has a deadline. A reply must progress, and must keep a minimum rate.
"""

from __future__ import annotations

import socket
import time
from collections.abc import Generator, Iterable
from typing import Protocol, TypeVar

from penstock.http.body_protocol import BodyFault
from penstock.server.body import RequestBody
from penstock.server.connection import (
    PAUSED,
    READ,
    Connection,
    Disconnected,
    Phase,
    ReplyMemory,
    TlsConnection,
)
from penstock.server.request import Request
from penstock.server.response import CONTINUE, Response

Result = TypeVar("Result")
Coroutine = Generator[int, None, Result]

HANDSHAKE_S = 10.0
# Limits for discarding an unread body so that its connection can be used again.
DISCARD_S, MAX_DISCARD_BYTES = 5.0, 64 * 1024
SEND_SILENCE_S = 30.0  # without any progress of a reply
# A reply may take SEND_GRACE_S seconds, and one more for each MIN_SEND_RATE bytes that were sent.
SEND_GRACE_S, MIN_SEND_RATE = 60.0, 8 * 1024
# After its last reply a client may send for CLOSE_S seconds, and be silent for CLOSE_SILENCE_S.
CLOSE_S, CLOSE_SILENCE_S = 10.0, 2.0


class WorkerLimits(Protocol):
    """What a transfer needs to know about its worker."""

    rejects_incomplete: bool

    def may_discard(self, size: int) -> bool:
        """Count discarded bytes, and return whether more may be discarded in this round."""


class SendPace:
    """The deadline of a reply, as it progresses."""

    __slots__ = ("_began", "_sent")

    def __init__(self) -> None:
        self._began = time.monotonic()
        self._sent = 0

    def deadline(self, sent: int) -> float:
        """Count `sent` more bytes, and return the deadline for the next progress."""
        self._sent += sent
        return min(
            time.monotonic() + SEND_SILENCE_S,
            self._began + SEND_GRACE_S + self._sent / MIN_SEND_RATE,
        )


def handshake(connection: TlsConnection) -> Coroutine[bool]:
    """Return whether the TLS handshake completed in time."""
    connection.wait_for(Phase.HANDSHAKE, HANDSHAKE_S)
    while not connection.handshake():
        yield connection.events
        if connection.overdue:
            return False
    return True


def receive(connection: Connection) -> Coroutine[bytes | None]:
    """Return the next bytes, `b""` at the end of the stream, or None at the deadline."""
    while True:
        data = connection.receive()
        if data is not None:
            return data
        if connection.overdue:
            return None
        yield connection.events


def receive_body(
    connection: Connection,
    request: Request,
    body: RequestBody,
    deadline: float,
    worker: WorkerLimits,
) -> Coroutine[None]:
    """Receive the rest of a body, until it is complete or has a fault."""
    connection.phase, connection.deadline = Phase.BODY, deadline
    if request.expects_continue and not body.size and not body.ended:
        request.continue_sent = True
        connection.send(CONTINUE)
    while not body.complete and body.fault is None:
        data = yield from receive(connection)
        if data:
            connection.received = body.feed(data)
        elif data is None:
            body.fail(BodyFault.HOST_STOPPING if worker.rejects_incomplete else BodyFault.TIMED_OUT)
        else:
            body.fail(BodyFault.MALFORMED)
    connection.start_working()


def discard_body(connection: Connection, body: RequestBody) -> Coroutine[bool]:
    """Discard the rest of an unread body, and return whether another request can follow."""
    body.discard()
    connection.wait_for(Phase.DISCARDING, DISCARD_S)
    discarded = 0
    while not body.ended:
        data = yield from receive(connection)
        discarded += len(data or b"")
        connection.received = body.feed(data or b"")
        if not data or body.fault is BodyFault.MALFORMED or discarded > MAX_DISCARD_BYTES:
            connection.wait_for(Phase.CLOSING, CLOSE_S)
            return False
    return True


def send_reply(
    connection: Connection, response: Response, reply: Iterable[bytes], memory: ReplyMemory
) -> Coroutine[None]:
    """Send a reply as fast as its client receives it.

    The next part is only requested from the application when the previous part was sent.
    """
    pace: SendPace | None = None
    for part in reply:
        response.write(part)
        if connection.send_buffer:
            pace = pace or SendPace()
            yield from send_buffered(connection, pace, memory)
    response.close()
    if connection.send_buffer:
        yield from send_buffered(connection, pace or SendPace(), memory)


def send_buffered(connection: Connection, pace: SendPace, memory: ReplyMemory) -> Coroutine[None]:
    """Send the rest of a reply. Raises Disconnected if the client receives it too slowly."""
    connection.phase, connection.deadline = Phase.SENDING, pace.deadline(0)
    size = connection.buffer_bytes
    memory.add(size)
    try:
        while connection.send_buffer:
            yield connection.events
            sent = connection.send_buffered()
            if sent:
                connection.deadline = pace.deadline(sent)
            elif connection.overdue:
                raise Disconnected
        connection.start_working()
    finally:
        memory.add(-size)


def lingering_close(
    connection: Connection, worker: WorkerLimits, memory: ReplyMemory
) -> Coroutine[None]:
    """End a connection so that its client can read the last reply (RFC 9112 section 9.6).

    Bytes that the client still sends are received and discarded for a while. A plain close would
    answer them with a reset, which may destroy the reply on its way.
    """
    if connection.send_buffer:
        yield from send_buffered(connection, SendPace(), memory)
    connection.wait_for(Phase.CLOSING, CLOSE_SILENCE_S)
    connection.shutdown(socket.SHUT_WR)
    end = time.monotonic() + CLOSE_S
    while True:
        discarded = connection.discard()
        if discarded is None:
            yield READ
            if connection.overdue:
                return
        elif not discarded or time.monotonic() > end:
            return
        else:
            connection.deadline = min(time.monotonic() + CLOSE_SILENCE_S, end)
            if not worker.may_discard(discarded):
                yield PAUSED
