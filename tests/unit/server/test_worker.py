"""The server's worker: what several threads do to connections and listeners at once, and whom it
ends where there is no room."""

# ruff: noqa: SLF001  the races are within it

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
    """What epoll keeps, and what a test has happen while it changes."""

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
    """A worker without threads, whose epoll is ours."""

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
        raise AssertionError("the worker met an error")

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
        """Report what was woken up, until nothing is."""
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


def test_the_flag_and_the_registration_of_the_listeners_change_together(
    rig: Callable[..., Rig],
) -> None:
    here = rig(capacity=1)
    worker, epoll = here.worker, here.epoll
    full = {number: object() for number in range(-1 - SPARE - 1, -1)}
    worker._connections = full
    worker._update_listening()
    deaf = not worker._accepting and here.listener.fileno() not in epoll.registered
    within, go_on = threading.Event(), threading.Event()

    def slowly() -> None:
        within.set()
        go_on.wait(5)

    epoll.during = slowly
    worker._connections = {}
    opening = threading.Thread(target=worker._update_listening)  # one thread ends a connection ...
    opening.start()
    within.wait(5)
    worker._connections = full
    # ... another reaches the limit, while the first is in the middle of it.
    closing = threading.Thread(target=worker._update_listening)
    closing.start()
    closing.join(0.2)
    epoll.during = lambda: None
    go_on.set()
    opening.join(5)
    closing.join(5)

    assert deaf
    assert (worker._accepting, here.listener.fileno() in epoll.registered) == (False, False)
    worker._connections = {}
    worker._update_listening()
    assert (worker._accepting, here.listener.fileno() in epoll.registered) == (True, True)


def test_a_fresh_connection_with_the_number_of_one_whose_time_was_up_is_served(
    rig: Callable[..., Rig],
) -> None:
    here = rig()
    _, old = here.connect()
    old.deadline = 0.0
    seen = here.worker._connections

    class AsItWas(dict[int, Connection]):
        """While the worker looks at whose time is up, another thread ends that connection and
        accepts one with its number."""

        def values(self) -> Any:
            values, client = list(super().values()), here.dial()
            here.worker._connections = dict(seen)
            old.claim()
            here.worker._end(old)
            del here.epoll.registered[old.fd]
            self.client, self.fresh = here.connect(client)
            return values

    copy = AsItWas(seen)
    here.worker._connections = copy
    here.worker._start_round()
    here.settle()

    assert copy.fresh.fd == old.fd
    copy.client.sendall(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
    here.event(copy.fresh)
    assert copy.client.recv(1000).endswith(b"ok")
    assert here.worker._connections == {copy.fresh.fd: copy.fresh}


def test_only_one_thread_has_a_connection(rig: Callable[..., Rig]) -> None:
    entered, go_on, asked = threading.Event(), threading.Event(), []

    def application(environ: dict[str, Any], start_response: Any) -> list[bytes]:
        asked.append(environ["PATH_INFO"])
        entered.set()
        go_on.wait(5)
        start_response("204 No Content", [])
        return []

    here = rig(application)
    client, connection = here.connect()
    client.sendall(b"GET /once HTTP/1.1\r\nHost: x\r\n\r\n")
    serving = threading.Thread(target=here.event, args=(connection,))
    serving.start()
    entered.wait(5)

    here.event(connection)
    here.worker._start_round()
    go_on.set()
    serving.join(5)
    here.settle()

    assert asked == ["/once"]
    assert client.recv(1000).startswith(b"HTTP/1.1 204")
    assert here.epoll.registered[connection.fd] == READ


def test_where_there_is_no_room_the_longest_silent_connection_makes_it(
    rig: Callable[..., Rig],
) -> None:
    here = rig(capacity=3)
    silent = [here.connect()[0] for _ in range(3)]
    newest, connection = here.connect()
    here.settle()

    newest.sendall(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
    here.event(connection)

    assert newest.recv(1000).endswith(b"ok")
    assert silent[0].recv(1000) == b""
    silent[1].setblocking(False)
    with pytest.raises(BlockingIOError):
        silent[1].recv(1)


def test_a_request_that_is_on_its_way_outlives_connections_that_say_nothing(
    rig: Callable[..., Rig],
) -> None:
    here = rig(capacity=3)
    begun, connection = here.connect()
    begun.sendall(b"GET / HTTP/1.1\r\n")
    here.event(connection)
    for _ in range(6):
        here.connect()
        here.settle()

    begun.sendall(b"Host: x\r\n\r\n")
    here.event(connection)

    assert begun.recv(1000).endswith(b"ok")


def test_what_came_half_behind_a_slow_call_is_not_late(
    rig: Callable[..., Rig], monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [1000.0]

    def application(environ: dict[str, Any], start_response: Any) -> list[bytes]:
        now[0] += 60  # longer than a head may take
        start_response("204 No Content", [])
        return []

    here = rig(application)
    monkeypatch.setattr(connection_module, "time", SimpleNamespace(monotonic=lambda: now[0]))
    client, connection = here.connect()
    client.sendall(b"GET / HTTP/1.1\r\nHost: x\r\n\r\nGET /next HT")
    here.event(connection)

    client.sendall(b"TP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
    here.event(connection)

    assert client.recv(1000).count(b"HTTP/1.1 204") == 2


def test_a_client_that_takes_its_reply_too_slowly_is_given_up(
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

    here = rig(application)
    client, connection = here.connect()
    client.sendall(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
    here.event(connection)
    waiting = connection.phase
    connection.deadline = 0.0
    here.worker._start_round()
    here.settle()

    assert waiting is Phase.SENDING
    assert closed == [True]
    assert not here.worker._connections


def test_the_replies_that_nobody_takes_make_room_for_others(
    rig: Callable[..., Rig], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(worker_module, "MAX_REPLY_BYTES", 10_000_000)

    def application(environ: dict[str, Any], start_response: Any) -> list[bytes]:
        start_response("200 OK", [("Content-Length", "8000000")])
        return [b"x" * 8_000_000]

    here = rig(application)
    clients = [here.connect() for _ in range(6)]
    for client, connection in clients:
        client.sendall(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        here.event(connection)
    here.settle()
    waiting = [connection for _, connection in clients if connection.phase is Phase.SENDING]

    assert clients[-1][1] in waiting
    assert sum(len(connection.send_buffer) for connection in waiting) <= 10_000_000


def test_a_reply_has_a_deadline_however_steadily_it_trickles(
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


def test_what_clients_have_not_taken_is_bounded_for_all_together() -> None:
    relieved: list[int] = []
    unsent = ReplyMemory(100, relieved.append)

    unsent.add(60)
    unsent.add(40)
    before = list(relieved)
    unsent.add(7)
    unsent.add(-50)
    unsent.add(20)

    assert (before, relieved) == ([], [7])


def test_pipelined_requests_wait_once_they_have_taken_their_share(
    rig: Callable[..., Rig], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A client that sends thousands at once must not delay the calls of others."""
    made = rig()
    monkeypatch.setattr(worker_module, "MAX_PIPELINED_S", 0.0)
    client, connection = made.connect()
    client.sendall(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n" * 3)
    made.event(connection)

    assert client.recv(65_536).count(b"HTTP/1.1 200") == 1
    other, fresh = made.connect()
    other.sendall(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
    made.event(fresh)
    assert other.recv(65_536).startswith(b"HTTP/1.1 200")

    monkeypatch.setattr(worker_module, "MAX_PIPELINED_S", 1.0)
    made.worker._start_round()
    made.settle()
    assert client.recv(65_536).count(b"HTTP/1.1 200") == 2


def test_replies_to_pipelined_requests_go_out_together_and_none_waits_for_half_a_request(
    rig: Callable[..., Rig],
) -> None:
    made = rig()
    client, connection = made.connect()
    client.sendall(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n" * 2 + b"GET / HTTP/1.1\r\n")
    made.event(connection)
    client.settimeout(0.1)  # the system itself would hold it for 0.2

    received = b""
    while received.count(b"HTTP/1.1 200") < 2:
        received += client.recv(65_536)

    assert connection.send_flags == 0
