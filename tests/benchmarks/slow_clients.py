"""What `make soak` sends: clients that are slow, silent or greedy, many at a time, each kind
from a process of its own."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
import sys
from dataclasses import dataclass

CLIENTS = 300  # at a time
NEW = 100  # connections that are opened in a second at most
LIFE = 20.0  # seconds that a client stays, where the server lets it


@dataclass(frozen=True)
class Kind:
    """How a client behaves: what it sends at first, and then once a second, and whether it reads
    what comes."""

    sent: bytes = b""
    drip: bytes = b""
    reads: bool = True
    tls: bool = False
    half_closed: bool = False
    life: float = LIFE


HEAD = b"GET /-/health HTTP/1.1\r\nHost: x\r\n"
POST = b"POST %b HTTP/1.1\r\nHost: x\r\nContent-Type: application/octet-stream\r\n%b\r\n\r\n"
OPEN, NOWHERE = b"/v1/open/", b"/v1/nowhere/"
FORM = (
    b"POST /-/console/sign-in HTTP/1.1\r\nHost: x\r\nContent-Type:"
    b" application/x-www-form-urlencoded\r\nContent-Length: 10000\r\n\r\nname="
)
PAGE = b"GET /-/docs/console.css HTTP/1.1\r\nHost: x\r\n\r\n"
LARGE = b"GET /v1/open/large HTTP/1.1\r\nHost: x\r\n\r\n"
UPLOAD = POST % (NOWHERE, b"Content-Length: 1000000000") + b"x" * 200_000

KINDS: dict[str, Kind] = {
    "silence": Kind(),
    "empty lines": Kind(b"\r\n", b"\r\n"),
    "heads, a byte a second": Kind(b"GET ", b"/"),
    "heads without an end": Kind(HEAD, b"X: " + b"y" * 4000 + b"\r\n"),
    "no requests": Kind(b"\x16\x03\x01\x02\x00", b"\x00", life=1.0),
    "bodies, a byte a second": Kind(POST % (OPEN, b"Content-Length: 1000"), b"x"),
    "bodies in chunks of a byte": Kind(POST % (OPEN, b"Transfer-Encoding: chunked"), b"1\r\nx\r\n"),
    "unwanted bodies": Kind(POST % (NOWHERE, b"Content-Length: 1000"), b"x"),
    "uploads that are refused": Kind(UPLOAD, b"x" * 200_000),
    "half a sign-in": Kind(FORM, b"x"),
    "pages that are not read": Kind(PAGE * 200, reads=False),
    "replies that are not read": Kind(LARGE * 4, reads=False),
    "pipelined requests, unread": Kind((HEAD + b"\r\n") * 2000, reads=False),
    "half-closed connections": Kind(HEAD, half_closed=True, life=2.0),
    "connections that come and go": Kind(life=0.0),
    "TLS handshakes without an end": Kind(b"\x16\x03\x01\x02\x00", b"\x00", tls=False),
    "TLS: heads, a byte a second": Kind(b"GET ", b"/", tls=True),
    "TLS: bodies, a byte a second": Kind(POST % (OPEN, b"Content-Length: 1000"), b"x", tls=True),
    "TLS: replies that are not read": Kind(LARGE * 2, reads=False, tls=True),
}


def over_tls(name: str) -> bool:
    """Return whether a kind needs a server that ends TLS."""
    return name.startswith("TLS")


async def client(kind: Kind, port: int, context: ssl.SSLContext | None) -> None:
    """Be one client until the server ends the connection or its life is over."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port, ssl=context, limit=2**12)
    try:
        async with asyncio.timeout(kind.life or None):
            writer.write(kind.sent)
            if kind.half_closed:
                writer.write_eof()
            while kind.life:
                if kind.reads:
                    with contextlib.suppress(TimeoutError):
                        async with asyncio.timeout(1):
                            if not await reader.read(65_536):
                                return
                else:
                    await asyncio.sleep(1)
                if kind.drip and not writer.is_closing():
                    writer.write(kind.drip)
    except TimeoutError:
        pass
    finally:
        writer.transport.abort()


async def attack(kind: Kind, port: int, seconds: float) -> None:
    """Keep as many clients going as there may be."""
    context = ssl.create_default_context() if kind.tls else None
    if context is not None:
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    under_way: set[asyncio.Task[None]] = set()
    until = asyncio.get_running_loop().time() + seconds
    while asyncio.get_running_loop().time() < until:
        for _ in range(min(NEW // 10, CLIENTS - len(under_way))):
            task = asyncio.create_task(client(kind, port, context))
            under_way.add(task)
            task.add_done_callback(under_way.discard)
            task.add_done_callback(lambda done: done.cancelled() or done.exception())
        await asyncio.sleep(0.1)
    for task in under_way:
        task.cancel()


if __name__ == "__main__":
    asyncio.run(attack(KINDS[sys.argv[1]], int(sys.argv[2]), float(sys.argv[3])))
