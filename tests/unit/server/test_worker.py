"""Penstock's worker: races between its threads, and the connections it ends if there is no room."""

# ruff: noqa: SLF001  the races concern private state

from __future__ import annotations

import select
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from types import SimpleNamespace
from typing import Any

import pytest
from gunicorn.config import Config

from penstock.server import connection as connection_module
from penstock.server import transfer
from penstock.server import worker as worker_module
from penstock.server.connection import READ, WRITE, Connection, Phase, ReplyMemory
from penstock.server.worker import SPARE, Worker


class Epoll:
    """A fake epoll. `during` is called while a registration changes."""

    def __init__(self) -> None:
        self.registered: dict[int, int] = {}
        self.during: Callable[[], None] = lambda: None

    def register(self, number: int, mask: int) -> None:
        if number in self.registered:
            raise FileExistsError
        self.during()
        self.registered[number] = mask

    def unregister(self, number: int) -> None:
        self.during()
        del self.registered[number]

    def modify(self, number: int, mask: int) -> None:
        if number not in self.registered:
            raise FileNotFoundError
        self.registered[number] = mask


class Rig:
    """A worker without threads, on a fake epoll."""

    def __init__(self, stack: ExitStack, application: Any, capacity: int) -> None:
        config = Config()
        for name, value in {
            "forwarder_headers": "",
            "forwarded_allow_ips": "",
            "worker_connections": capacity,
            "threads": 2,
        }.items():
            config.set(name, value)
        listener = stack.enter_context(socket.socket())
        listener.bind(("127.0.0.1", 0))
        listener.listen(1000)
        log = SimpleNamespace(
            access_log_enabled=False,
            exception=self._raised,
            warning=lambda *_: None,
            info=lambda *_: None,
        )
        self.worker = Worker(0, 0, [listener], None, 30, config, log)
        self.worker.PIPE = [-1, -1]
        self.worker.wsgi = application
        self.worker.prepare()
        stack.callback(self.worker._epoll.close)
        stack.callback(self.worker.tmp.close)
        stack.callback(
            lambda: [
                connection.close()
                for connection in self.worker._connections.values()
                if isinstance(connection, Connection)
            ]
        )
        self.epoll = Epoll()
        self.epoll.registered = {listener.fileno(): select.EPOLLIN}
        self.worker._epoll = self.epoll
        self.listener = listener
        self.stack = stack
        self.errors: list[BaseException] = []

    def _raised(self, *_: object) -> None:
        raise AssertionError("the worker logged an exception")

    def dial(self) -> socket.socket:
        """Connect."""
        return self.stack.enter_context(
            socket.create_connection(self.listener.getsockname(), timeout=5)
        )

    def connect(self, client: socket.socket | None = None) -> tuple[socket.socket, Connection]:
        """Have the worker accept a connection."""
        client = client or self.dial()
        before = set(self.worker._connections)
        self.worker._accept(self.listener)
        number = next(iter(set(self.worker._connections) - before))
        return client, self.worker._connections[number]

    def event(self, connection: Connection) -> None:
        """Have epoll report a connection."""
        self.worker._handle_event((connection.fd, select.EPOLLIN))

    def settle(self) -> None:
        """Report connections that were woken, until there are none."""
        for _ in range(50):
            woken = [
                number
                for number, mask in self.epoll.registered.items()
                if mask == WRITE and number in self.worker._connections
            ]
            if not woken:
                return
            for number in woken:
                self.epoll.registered[number] = 0
                self.worker._handle_event((number, select.EPOLLOUT))


@pytest.fixture
def rig() -> Iterator[Callable[..., Rig]]:
    with ExitStack() as stack:

        def application(environ: dict[str, Any], start_response: Any) -> list[bytes]:
            start_response("200 OK", [("Content-Length", "2")])
            return [b"ok"]

        yield lambda application=application, capacity=10: Rig(stack, application, capacity)


def test_the_flag_and_the_registration_of_listeners_change_together(
    rig: Callable[..., Rig],
) -> None:
    harness = rig(capacity=1)
    worker, epoll = harness.worker, harness.epoll
    full = {number: object() for number in range(-1 - SPARE - 1, -1)}
    worker._connections = full
    worker._update_listening()
    stopped = not worker._accepting and harness.listener.fileno() not in epoll.registered
    changing, proceed = threading.Event(), threading.Event()

    def slowly() -> None:
        changing.set()
        proceed.wait(5)

    epoll.during = slowly
    worker._connections = {}
    opening = threading.Thread(target=worker._update_listening)  # one thread ends a connection ...
    opening.start()
    changing.wait(5)
    worker._connections = full
    # ... another reaches the limit, while the first is in the middle of it.
    closing = threading.Thread(target=worker._update_listening)
    closing.start()
    closing.join(0.2)
    epoll.during = lambda: None
    proceed.set()
    opening.join(5)
    closing.join(5)

    assert stopped
    assert (worker._accepting, harness.listener.fileno() in epoll.registered) == (False, False)
    worker._connections = {}
    worker._update_listening()
    assert (worker._accepting, harness.listener.fileno() in epoll.registered) == (True, True)


def test_a_new_connection_with_the_file_descriptor_of_an_expired_one_is_served(
    rig: Callable[..., Rig],
) -> None:
    harness = rig()
    _, old = harness.connect()
    old.deadline = 0.0
    seen = harness.worker._connections

    class Interleaved(dict[int, Connection]):
        """While the worker looks for expired connections, another thread ends one and accepts a new
        one with its file descriptor."""

        def values(self) -> Any:
            values, client = list(super().values()), harness.dial()
            harness.worker._connections = dict(seen)
            old.claim()
            harness.worker._end(old)
            del harness.epoll.registered[old.fd]
            self.client, self.fresh = harness.connect(client)
            return values

    copy = Interleaved(seen)
    harness.worker._connections = copy
    harness.worker._start_round()
    harness.settle()

    assert copy.fresh.fd == old.fd
    copy.client.sendall(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
    harness.event(copy.fresh)
    assert copy.client.recv(1000).endswith(b"ok")
    assert harness.worker._connections == {copy.fresh.fd: copy.fresh}


def test_only_one_thread_owns_a_connection(rig: Callable[..., Rig]) -> None:
    entered, proceed, paths = threading.Event(), threading.Event(), []

    def application(environ: dict[str, Any], start_response: Any) -> list[bytes]:
        paths.append(environ["PATH_INFO"])
        entered.set()
        proceed.wait(5)
        start_response("204 No Content", [])
        return []

    harness = rig(application)
    client, connection = harness.connect()
    client.sendall(b"GET /once HTTP/1.1\r\nHost: x\r\n\r\n")
    serving = threading.Thread(target=harness.event, args=(connection,))
    serving.start()
    entered.wait(5)

    harness.event(connection)
    harness.worker._start_round()
    proceed.set()
    serving.join(5)
    harness.settle()

    assert paths == ["/once"]
    assert client.recv(1000).startswith(b"HTTP/1.1 204")
    assert harness.epoll.registered[connection.fd] == READ


def test_a_full_worker_ends_the_connection_that_was_silent_longest(
    rig: Callable[..., Rig],
) -> None:
    harness = rig(capacity=3)
    silent = [harness.connect()[0] for _ in range(3)]
    newest, connection = harness.connect()
    harness.settle()

    newest.sendall(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
    harness.event(connection)

    assert newest.recv(1000).endswith(b"ok")
    assert silent[0].recv(1000) == b""
    silent[1].setblocking(False)
    with pytest.raises(BlockingIOError):
        silent[1].recv(1)


def test_an_incomplete_request_outlives_silent_connections(
    rig: Callable[..., Rig],
) -> None:
    harness = rig(capacity=3)
    begun, connection = harness.connect()
    begun.sendall(b"GET / HTTP/1.1\r\n")
    harness.event(connection)
    for _ in range(6):
        harness.connect()
        harness.settle()

    begun.sendall(b"Host: x\r\n\r\n")
    harness.event(connection)

    assert begun.recv(1000).endswith(b"ok")


def test_a_head_received_in_part_behind_a_slow_call_is_not_late(
    rig: Callable[..., Rig], monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [1000.0]

    def application(environ: dict[str, Any], start_response: Any) -> list[bytes]:
        now[0] += 60  # longer than a head may take
        start_response("204 No Content", [])
        return []

    harness = rig(application)
    monkeypatch.setattr(connection_module, "time", SimpleNamespace(monotonic=lambda: now[0]))
    client, connection = harness.connect()
    client.sendall(b"GET / HTTP/1.1\r\nHost: x\r\n\r\nGET /next HT")
    harness.event(connection)

    client.sendall(b"TP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
    harness.event(connection)

    assert client.recv(1000).count(b"HTTP/1.1 204") == 2


def test_a_client_that_receives_its_reply_too_slowly_is_ended(
    rig: Callable[..., Rig], monkeypatch: pytest.MonkeyPatch
) -> None:
    closed = []

    class Endless(list[bytes]):
        def __iter__(self) -> Any:
            return iter(lambda: b"x" * 1_000_000, None)

        def close(self) -> None:
            closed.append(True)

    def application(environ: dict[str, Any], start_response: Any) -> list[bytes]:
        start_response("200 OK", [("Content-Type", "text/plain")])
        return Endless()

    harness = rig(application)
    client, connection = harness.connect()
    client.sendall(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
    harness.event(connection)
    waiting = connection.phase
    connection.deadline = 0.0
    harness.worker._start_round()
    harness.settle()

    assert waiting is Phase.SENDING
    assert closed == [True]
    assert not harness.worker._connections


def test_replies_without_progress_are_ended_to_free_memory(
    rig: Callable[..., Rig], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(worker_module, "MAX_REPLY_BYTES", 10_000_000)

    def application(environ: dict[str, Any], start_response: Any) -> list[bytes]:
        start_response("200 OK", [("Content-Length", "8000000")])
        return [b"x" * 8_000_000]

    harness = rig(application)
    clients = [harness.connect() for _ in range(6)]
    for client, connection in clients:
        client.sendall(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        harness.event(connection)
    harness.settle()
    waiting = [connection for _, connection in clients if connection.phase is Phase.SENDING]

    assert clients[-1][1] in waiting
    assert sum(len(connection.send_buffer) for connection in waiting) <= 10_000_000


def test_a_reply_that_trickles_steadily_has_a_deadline(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    now = [1000.0]
    monkeypatch.setattr(transfer, "time", SimpleNamespace(monotonic=lambda: now[0]))
    pace = transfer.SendPace()
    deadline = pace.deadline(0)

    while now[0] < deadline and now[0] < 10_000:  # a byte every ten seconds
        now[0] += 10
        deadline = pace.deadline(1)

    assert now[0] <= 1000 + transfer.SEND_GRACE_S + transfer.SEND_SILENCE_S


def test_the_memory_of_unsent_replies_is_limited_for_all_together() -> None:
    excesses: list[int] = []
    memory = ReplyMemory(100, excesses.append)

    memory.add(60)
    memory.add(40)
    before = list(excesses)
    memory.add(7)
    memory.add(-50)
    memory.add(20)

    assert (before, excesses) == ([], [7])


def test_pipelined_requests_wait_after_their_share_of_time(
    rig: Callable[..., Rig], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A client that sends thousands at once must not delay the calls of others."""
    harness = rig()
    monkeypatch.setattr(worker_module, "MAX_PIPELINED_S", 0.0)
    client, connection = harness.connect()
    client.sendall(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n" * 3)
    harness.event(connection)

    assert client.recv(65_536).count(b"HTTP/1.1 200") == 1
    other, fresh = harness.connect()
    other.sendall(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
    harness.event(fresh)
    assert other.recv(65_536).startswith(b"HTTP/1.1 200")

    monkeypatch.setattr(worker_module, "MAX_PIPELINED_S", 1.0)
    harness.worker._start_round()
    harness.settle()
    assert client.recv(65_536).count(b"HTTP/1.1 200") == 2


def test_replies_to_pipelined_requests_are_sent_together_and_none_waits_for_a_partial_request(
    rig: Callable[..., Rig],
) -> None:
    harness = rig()
    client, connection = harness.connect()
    client.sendall(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n" * 2 + b"GET / HTTP/1.1\r\n")
    harness.event(connection)
    client.settimeout(0.1)  # the system itself would delay it for 0.2 s

    received = b""
    while received.count(b"HTTP/1.1 200") < 2:
        received += client.recv(65_536)

    assert connection.send_flags == 0
