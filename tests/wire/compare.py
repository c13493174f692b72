"""Send the same connections to two servers, and return the differences between their answers."""

from __future__ import annotations

import base64
import re
import socket
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

from wire.generator import Case

FOLDER = Path(__file__).parent
STATUS = re.compile(rb"HTTP/1\.[01] (\d{3})[^\r\n]*\r\n")


@dataclass(frozen=True)
class Answer:
    """One response: its status, and environ and body if the application was called."""

    status: int
    given: str

    def __str__(self) -> str:
        return f"{self.status} {self.given[:300]}"


def answers(received: bytes) -> list[Answer]:
    """Split the bytes that a server sent. Interim responses are dropped; bytes that are no
    response have the status 0."""
    responses: list[Answer] = []
    while received:
        head, separator, rest = received.partition(b"\r\n\r\n")
        match = STATUS.match(head + b"\r\n")
        if match is None or not separator:
            return [*responses, Answer(0, received[:100].decode("latin-1"))]
        status = int(match[1])
        length = re.search(rb"(?i)\r\ncontent-length: (\d+)", head)
        received = rest[int(length[1]) if length else 0 :]
        if status < 200:
            continue
        given = re.search(rb"\r\nX-Given: (\S+)", head)
        responses.append(Answer(status, base64.b64decode(given[1]).decode() if given else ""))
    return responses


class Gunicorn:
    """gunicorn with a worker class and the bare application, on a free port."""

    def __init__(
        self, worker_class: str, folder: Path, *, application: str = "app", threads: int = 16
    ) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = int(probe.getsockname()[1])
        self.log = folder / f"{worker_class.replace('.', '-')}-{application}.log"
        options = {
            "-k": worker_class,
            "-b": f"127.0.0.1:{self.port}",
            "-w": "1",
            "--threads": str(threads),
            "--keep-alive": "20",
            "--log-level": "error",
        }
        command = [
            sys.executable,
            "-m",
            "gunicorn",
            *(word for item in options.items() for word in item),
        ]
        command += ["--no-control-socket", "--forwarded-allow-ips", "", f"wire.echo:{application}"]
        with self.log.open("w") as log:
            self.process = subprocess.Popen(command, cwd=FOLDER.parent, stdout=log, stderr=log)
        for _ in range(200):
            try:
                socket.create_connection(("127.0.0.1", self.port), timeout=5).close()
                break
            except OSError:
                time.sleep(0.05)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.process.terminate()
        self.process.wait(40)

    def exchange(self, case: Case) -> list[Answer]:
        """Send a case, and return the answers until the server ends the connection."""
        received = b""
        try:
            with socket.create_connection(("127.0.0.1", self.port), timeout=30) as connection:
                try:
                    for index, piece in enumerate(case.pieces):
                        if index:
                            time.sleep(0.004)
                        connection.sendall(piece)
                    connection.shutdown(socket.SHUT_WR)
                except OSError:
                    pass  # the server answered and ended the connection
                while data := connection.recv(65536):
                    received += data
        except TimeoutError:
            return [*answers(received), Answer(-1, "no end")]
        except OSError:
            pass
        return answers(received)


@dataclass(frozen=True)
class Difference:
    """A case with different answers of two servers."""

    case: Case
    stock: list[Answer]
    ours: list[Answer]


def compare(
    cases: list[Case], stock: Gunicorn, ours: Gunicorn, *, parallel: int = 12
) -> list[Difference]:
    """Return the cases with different answers."""

    def both(case: Case) -> Difference | None:
        expected, actual = stock.exchange(case), ours.exchange(case)
        return None if expected == actual else Difference(case, expected, actual)

    with ThreadPoolExecutor(parallel) as pool:
        return [difference for difference in pool.map(both, cases) if difference is not None]
