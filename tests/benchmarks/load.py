"""A load generator for machines without wrk: keep-alive connections in threads, one process;
prints what wrk's script prints."""

from __future__ import annotations

import socket
import sys
import threading
import time
from urllib.parse import urlsplit


def main() -> None:
    """Take URL, seconds, connections and the expected status as arguments; body and headers from
    standard input."""
    url, seconds, connections, status = (
        urlsplit(sys.argv[1]),
        float(sys.argv[2]),
        int(sys.argv[3]),
        sys.argv[4].encode(),
    )
    body, *headers = sys.stdin.read().splitlines()
    lines = [
        f"POST {url.path} HTTP/1.1",
        f"Host: {url.netloc}",
        f"Content-Length: {len(body)}",
        *headers,
        "",
        body,
    ]
    request = "\r\n".join(lines).encode()
    until = time.monotonic() + seconds
    taken: list[float] = []
    errors: list[bytes] = []

    def call() -> None:
        with (
            socket.create_connection(
                (url.hostname or "", url.port or 80), timeout=10
            ) as connection,
            connection.makefile("rb") as received,
        ):
            while time.monotonic() < until:
                began = time.perf_counter()
                connection.sendall(request)
                first = received.readline()
                length = 0
                while (line := received.readline()) not in {b"\r\n", b""}:
                    if line.lower().startswith(b"content-length:"):
                        length = int(line.split(b":")[1])
                received.read(length)
                if first.split()[1:2] != [status]:
                    errors.append(first)
                taken.append(time.perf_counter() - began)

    threads = [threading.Thread(target=call) for _ in range(connections)]
    began = time.monotonic()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    taken.sort()
    micros = [int(taken[int(len(taken) * share)] * 1e6) for share in (0.5, 0.99)]
    elapsed = int((time.monotonic() - began) * 1e6)
    sys.stdout.write(
        f"requests {len(taken)} micros {elapsed} errors {len(errors)} p50 {micros[0]} p99"
        f" {micros[1]}\n"
    )


if __name__ == "__main__":
    main()
