"""Send the same connections to two servers, and tell what they answer differently."""

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

HERE = Path(__file__).parent
STATUS = re.compile(rb"HTTP/1\.[01] (\d{3})[^\r\n]*\r\n")


@dataclass(frozen=True)
class Answer:
    """One response: its status, and what the application was given where it was asked."""

    status: int
    given: str

    def __str__(self) -> str:
        return f"{self.status} {self.given[:300]}"


def answers(received: bytes) -> list[Answer]:
    """Take apart what a server sent on a connection; interim responses are left out, what is no
    response has the status 0."""
    found: list[Answer] = []
    while received:
        head, separator, rest = received.partition(b"\r\n\r\n")
        match = STATUS.match(head + b"\r\n")
        if match is None or not separator:
            return [*found, Answer(0, received[:100].decode("latin-1"))]
        status = int(match[1])
        length = re.search(rb"(?i)\r\ncontent-length: (\d+)", head)
        received = rest[int(length[1]) if length else 0 :]
        if status < 200:
            continue
        given = re.search(rb"\r\nX-Given: (\S+)", head)
        found.append(Answer(status, base64.b64decode(given[1]).decode() if given else ""))
    return found


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
            self.process = subprocess.Popen(command, cwd=HERE.parent, stdout=log, stderr=log)
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
        """Send a case, and return what comes back until the server ends the connection."""
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
                    pass  # it was answered and ended before
                while data := connection.recv(65536):
                    received += data
        except TimeoutError:
            return [*answers(received), Answer(-1, "no end")]
        except OSError:
            pass
        return answers(received)


@dataclass(frozen=True)
class Difference:
    """A case that two servers answer differently."""

    case: Case
    stock: list[Answer]
    ours: list[Answer]


def compare(
    cases: list[Case], stock: Gunicorn, ours: Gunicorn, *, at_once: int = 12
) -> list[Difference]:
    """Return the cases that are answered differently."""

    def both(case: Case) -> Difference | None:
        theirs, mine = stock.exchange(case), ours.exchange(case)
        return None if theirs == mine else Difference(case, theirs, mine)

    with ThreadPoolExecutor(at_once) as pool:
        return [difference for difference in pool.map(both, cases) if difference is not None]
