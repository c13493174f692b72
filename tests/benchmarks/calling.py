"""The callers of `make rolling`: threads that call a proxy, and count each call that is not
answered as it should be, by kind."""

from __future__ import annotations

import itertools
import random
import socket
import threading
import time
from collections import Counter
from contextlib import suppress

CLIENTS = 12
PATIENCE_S = 30.0
# One call of so many takes that long: it is in progress when its host is stopped.
SLOW_MS, SLOW_OF = 1500, 40


class Calls:
    """Calls by several threads, GET and POST in turn; half of the threads keep their connections
    where `keep_alive` says so."""

    def __init__(self, port: int, key: str, *, keep_alive: bool, pause: float = 0.0) -> None:
        self._port, self._key, self._pause = port, key, pause
        self._done = threading.Event()
        self._lock = threading.Lock()
        self._numbers = itertools.count()
        self._threads = [
            threading.Thread(target=self._run, args=(number, keep_alive and number % 2 == 0))
            for number in range(CLIENTS)
        ]
        self.sent = 0
        self.failed: Counter[str] = Counter()
        self.wait = 0.0
        self.posted: set[str] = set()  # the names of POSTs that were answered 200
        self.faults: list[str] = []

    def start(self) -> None:
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """Begin no other call, and wait for those under way."""
        self._done.set()
        for thread in self._threads:
            thread.join()

    def hopeless(self) -> bool:
        """Return whether too much fails for the trial to continue."""
        return self.failed.total() > 1000

    def _run(self, number: int, keep_alive: bool) -> None:
        chance = random.Random(number)
        connection: socket.socket | None = None
        while not self._done.is_set():
            millis = SLOW_MS if not chance.randrange(SLOW_OF) else chance.randrange(10)
            name = f"{self._port}-{next(self._numbers)}" if chance.randrange(2) else ""
            began = time.monotonic()
            try:
                connection = connection or socket.create_connection(
                    ("127.0.0.1", self._port), timeout=PATIENCE_S
                )
                status, connection = self._call(connection, name, millis, keep_alive)
                kind = "" if status == b"200" else f"status {status.decode()}"
            except OSError as error:
                kind, connection = f"{'POST' if name else 'GET'} {type(error).__name__}", None
            self._count(name, kind, time.monotonic() - began - millis / 1000)
            if self._pause:
                time.sleep(self._pause)
        with suppress(AttributeError):
            connection.close()  # type: ignore[union-attr]  # None has none

    def _count(self, name: str, kind: str, waited: float) -> None:
        with self._lock:
            self.sent += 1
            self.wait = max(self.wait, waited)
            if kind:
                self.failed[kind] += 1
                self.faults.append(f"{time.time():.3f} {name} {kind} after {waited:.3f} s")
            elif name:
                self.posted.add(name)

    def _call(
        self, connection: socket.socket, name: str, millis: int, keep_alive: bool
    ) -> tuple[bytes, socket.socket | None]:
        """Return the status of a call, and the connection where it may have another. Raises
        OSError where there is no whole answer."""
        head = [
            f"{'POST' if name else 'GET'} /v1/rolling/{millis} HTTP/1.1",
            "Host: x",
            f"X-API-Key: {self._key}",
        ]
        head += [f"Content-Length: {len(name)}", "Content-Type: text/plain"] if name else []
        head += [] if keep_alive else ["Connection: close"]
        connection.sendall("\r\n".join([*head, "", name]).encode())
        with connection.makefile("rb") as received:
            first, length, last = received.readline(), 0, not keep_alive
            while (line := received.readline().lower()) not in {b"\r\n", b""}:
                if line.startswith(b"content-length:"):
                    length = int(line.split(b":")[1])
                last = last or line.split() == [b"connection:", b"close"]
            if not first or len(received.read(length)) < length or not line:
                connection.close()
                raise ConnectionAbortedError("no whole answer")
        if last:
            connection.close()
        return first.split()[1], None if last else connection
