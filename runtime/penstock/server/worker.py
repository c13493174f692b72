"""gunicorn's worker for Penstock: threads that serve connections, and no client that holds one up.

**Threads.** One thread waits on epoll and serves what it sees itself; another takes its place when
that takes long (`web/turns.py`). Handing each request to a pool and back, as gunicorn does, costs
more than most calls do. The main thread tells the arbiter that the worker lives, and wakes
connections whose time is up.

**Connections.** Each has a *conversation*, a generator that reads heads, calls the application,
receives bodies and sends replies, and yields wherever it would have to wait for the client. A
thread resumes it when epoll says so, or when its deadline has passed, and it goes on from there. So
a client that is slow, silent or greedy costs its connection's few kilobytes and no thread, in every
phase: handshake, head, body, reply, what is left of a body, and the end. Only the application's own
work holds a thread.

**Who owns what.** A connection is registered with EPOLLONESHOT and belongs to the thread that
claimed it (`Connection.claim`) until it is released. Events name file descriptors, which are used
again: an event or a wake-up may hit a later connection of the same number. That is harmless,
because a conversation that is resumed for nothing finds nothing to do and waits again; nothing is
ever ended by its number. `_accepting` and the registration of the listeners change together, under
`_listening`: two threads that each did half of it left a worker deaf.

**Bounds.** Every wait has a deadline. A reply must make progress and keep up a least rate; what is
unsent of all replies together is bounded. Where there is no room for another connection, the one
that has waited longest for its client is ended.
"""

from __future__ import annotations

import ctypes
import errno
import os
import resource
import select
import ssl
import threading
import time
from contextlib import suppress
from typing import Any

from gunicorn import sock as gunicorn_sock
from gunicorn.workers import base

from penstock.http.leader_followers import LeaderFollowers
from penstock.http.watchdog import shutdown_schedule
from penstock.server.connection import NEITHER, WRITE, Connection, Phase, TlsConnection, Unsent
from penstock.server.protocol import Http1

EVENTS = 16  # events that are taken from epoll at once
TICK_S = 1.0  # between two looks at whose time is up
SLOT_S = 0.1  # the same, while a connection is paused
# That pipelined requests may take in such a slot, of all connections together.
MAX_PIPELINED_S = 0.01
MAX_DROPPED = 8 * 1024 * 1024  # bytes that are dropped in such a slot, of all connections together
MAX_UNSENT = 64 * 1024 * 1024  # bytes of replies that clients have not taken yet, in one process
SPARE = 64  # connections beyond worker_connections that those which are being ended may take
# Connections that are picked to be ended, and that are ended at most where there is no room for
# another.
VICTIMS, AT_ONCE = 64, 4
# That an idle connection of a worker that stops may wait for one more request: a proxy whose own
# idle timeout is shorter (4 s in docs/examples) never sends one on a connection that is being
# closed.
LAST_REQUEST_S = 5.0
# glibc keeps what is freed of large replies for each thread, hundreds of megabytes in all, unless
# it is told from what size on it is not to.
M_MMAP_THRESHOLD, LARGE = -3, 1024 * 1024
ARRIVING = frozenset({Phase.HEAD, Phase.BODY})
OUT_OF_FILES = frozenset({errno.EMFILE, errno.ENFILE})


class Settled:
    """gunicorn's configuration once nothing changes it any more.

    Each setting is worked out at its first use.
    """

    def __init__(self, config: Any) -> None:  # noqa: ANN401  gunicorn ships no types
        self._config = config

    def __getattr__(self, name: str) -> Any:  # noqa: ANN401  as above
        value = getattr(self._config, name)
        setattr(self, name, value)
        return value


class Worker(base.Worker):  # type: ignore[misc]  # gunicorn ships no types
    """A worker process that serves HTTP/1.1.

    It has `threads` threads and up to `worker_connections` connections.
    """

    alive: bool
    cfg: Any
    nr: int

    def __init__(self, *args: Any, **more: Any) -> None:  # noqa: ANN401  gunicorn's types
        super().__init__(*args, **more)
        self.cfg = Settled(self.cfg)
        self.capacity = self.cfg.worker_connections
        self._connections: dict[int, Connection] = {}
        self._listeners: dict[int, Any] = {}
        self._listening = threading.Lock()
        self._accepting = False
        self._victims: list[tuple[float, int, Phase, Connection]] = []
        self._paused: list[Connection] = []
        self._dropped = 0
        self._pipelined_s = 0.0
        self.must_end = False  # whether requests that have not arrived are given up
        self._tls: ssl.SSLContext | None = None

    # The life of the worker.

    def run(self) -> None:
        """Serve until told to stop.

        Then serve until what is under way has ended, or the graceful timeout has.
        """
        self.prepare()
        self._turns.start()
        while self.alive:
            self.notify()
            self._pause(TICK_S)
            if self._paused:
                time.sleep(SLOT_S)
            if self.ppid != os.getppid():
                self.log.info("Parent changed, shutting down: %s", self)
                break
            self._look_around()
        self.alive = False
        self._adjust()
        self._close_listeners()
        self._finish()

    def _finish(self) -> None:
        """Serve what is under way.

        Answer what has not ended shortly before the graceful timeout has.
        """
        now = time.monotonic()
        answer, leave = (now + seconds for seconds in shutdown_schedule(self.cfg.graceful_timeout))
        if hasattr(self.wsgi, "end_calls"):
            self.wsgi.end_calls(answer)
        while self._connections and (now := time.monotonic()) < leave:
            self.must_end = now >= answer
            for connection in list(self._connections.values()):
                # Its next request is answered, and told that it is the last.
                if connection.phase is Phase.IDLE:
                    connection.deadline = min(connection.deadline, now + LAST_REQUEST_S, answer)
                elif self.must_end and connection.phase in ARRIVING:
                    connection.deadline = now
            self._pause(SLOT_S / 2)
            self.notify()
            self._look_around()

    def _close_listeners(self) -> None:
        """Refuse connections from now on, but for those that have come.

        The system would reset them with what they have sent.
        """
        for listener in self.sockets:
            while self._accept(listener):
                pass
            listener.close()

    def prepare(self) -> None:
        """Get everything ready but the threads."""
        _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        with suppress(ValueError, OSError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
        self._epoll = select.epoll()
        with suppress(OSError, AttributeError):  # another C library
            ctypes.CDLL(None).mallopt(M_MMAP_THRESHOLD, LARGE)
        self._listeners = {listener.fileno(): listener for listener in self.sockets}
        for listener in self.sockets:
            listener.setblocking(False)
        if self.cfg.is_ssl:
            self._tls = gunicorn_sock.ssl_context(self.cfg)
            self._tls.sslsocket_class = ssl.SSLSocket
            self._tls.options |= ssl.OP_NO_RENEGOTIATION  # which costs a server more than a client
        self._turns = LeaderFollowers(self.cfg.threads, self._events, self._handle_event)
        self.http = Http1(
            self, self.cfg, Unsent(MAX_UNSENT, self._relieve), self._turns.promote_next
        )
        self._adjust()

    def _pause(self, seconds: float) -> None:
        """Wait; a signal ends that."""
        if select.select([self.PIPE[0]], [], [], seconds)[0]:
            with suppress(OSError):
                os.read(self.PIPE[0], 1024)

    def _look_around(self) -> None:
        """Wake connections whose time is up, and such as may go on dropping.

        Accept again where there is room.
        """
        self._pipelined_s, self._dropped = 0.0, 0
        paused, self._paused = self._paused, []
        now = time.monotonic()
        for connection in paused:
            self._wake(connection)
        for connection in list(self._connections.values()):
            if connection.deadline <= now:
                self._wake(connection)
        if len(self._connections) > self.capacity:
            self._evict()
        self._adjust()

    def _wake(self, connection: Connection) -> None:
        """Have a connection resumed although nothing has come.

        For nothing, if it was resumed meanwhile.
        """
        with suppress(OSError, ValueError):
            if connection.phase is Phase.SENDING:
                connection.abort()  # it can't be waited for that its client takes more
            self._epoll.modify(connection.number, WRITE)

    # Connections.

    def _adjust(self) -> None:
        """Accept connections, or do not, as there is room for them."""
        with self._listening:  # the flag and the registration change together
            wanted = self.alive and len(self._connections) < self.capacity + SPARE
            if wanted == self._accepting:
                return
            for number in self._listeners:
                if wanted:
                    self._epoll.register(number, select.EPOLLIN)
                else:
                    self._epoll.unregister(number)
            self._accepting = wanted

    def _events(self) -> list[tuple[int, int]]:
        return self._epoll.poll(TICK_S, EVENTS)

    def _handle_event(self, event: tuple[int, int]) -> None:
        number = event[0]
        connection = self._connections.get(number)
        if connection is not None:
            if connection.claim():
                self._resume(connection)
        elif number in self._listeners and self.alive:
            self._accept(self._listeners[number])

    def _accept(self, listener: Any) -> bool:  # noqa: ANN401  gunicorn's type
        """Accept a connection, and return whether there was one."""
        try:
            client, address = listener.accept()
        except OSError as error:  # another worker was first, or the client is gone
            if error.errno in OUT_OF_FILES:
                self._evict()
                time.sleep(0.01)
            return False
        server = listener.getsockname()
        try:
            connection = (
                Connection(client, address, server)
                if self._tls is None
                else TlsConnection(client, address, server, self._tls)
            )
        except OSError:
            client.close()
            return True
        if len(self._connections) >= self.capacity:
            self._evict()
        self._connections[connection.number] = connection
        if len(self._connections) >= self.capacity + SPARE:
            self._adjust()
        connection.conversation = self.http.converse(connection)
        self._epoll.register(connection.number, 0)
        self._resume(connection)
        return True

    def _resume(self, connection: Connection) -> None:
        """Go on with a connection that this thread has claimed, until it waits for something."""
        try:
            wanted = next(connection.conversation, None)
        except BaseException:
            self.log.exception("a connection was lost")
            wanted = None
        if wanted is None:
            self._end(connection)
            return
        connection.release()
        if wanted == NEITHER:
            self._paused.append(connection)
            with suppress(OSError):
                os.write(self.PIPE[1], b".")  # the main thread looks around sooner then
            return
        # It was resumed by another thread meanwhile, and has ended.
        with suppress(OSError, ValueError):
            self._epoll.modify(connection.number, wanted)

    def _end(self, connection: Connection) -> None:
        self._connections.pop(connection.number, None)  # before its number can be another's
        connection.close()
        if not self._accepting:
            self._adjust()

    def _evict(self) -> None:
        """Make room.

        End connections that have waited longest for their clients, in the phase that matters least.
        """
        for _ in range(min(len(self._connections) - self.capacity + 1, AT_ONCE)):
            # What was picked before may have gone on meanwhile.
            victim = self._victim() or self._victim()
            if victim is None:
                return
            victim.abort()
            self._wake(victim)

    def _victim(self) -> Connection | None:
        if not self._victims:
            waiting = [
                connection
                for connection in list(self._connections.values())
                if connection.phase is not Phase.WORKING
            ]
            least = min((connection.phase for connection in waiting), default=Phase.WORKING)
            waiting = [connection for connection in waiting if connection.phase is least]
            self._victims = sorted(
                ((victim.deadline, id(victim), least, victim) for victim in waiting), reverse=True
            )[-VICTIMS:]
        while self._victims:
            with suppress(IndexError):  # another thread took the last one
                _, _, phase, victim = self._victims.pop()
                if victim.phase is phase and self._connections.get(victim.number) is victim:
                    return victim
        return None

    def _relieve(self, size: int) -> None:
        """Make room for that many bytes.

        End the replies whose clients have taken nothing for the longest time.

        One alone may be as large as it is.
        """
        sending = [
            connection
            for connection in list(self._connections.values())
            if connection.phase is Phase.SENDING
        ]
        for victim in sorted(sending, key=lambda connection: connection.deadline)[:-1]:
            if size <= 0:
                return
            size -= victim.held
            victim.phase = Phase.CLOSING  # so that it is not picked again
            victim.abort()
            self._wake(victim)

    # What the protocol asks of its worker.

    def begin(self, response: Any) -> None:  # noqa: ANN401  gunicorn's type
        """Count a request; its reply says whether the connection ends with it."""
        self.nr += 1
        if self.nr >= self.max_requests and self.alive:
            self.log.info("Autorestarting worker after current request.")
            self.alive = False
        if not self.alive or not self.cfg.keepalive or len(self._connections) > self.capacity:
            response.force_close()

    def may_follow(self) -> bool:
        """Return whether a pipelined request may be answered now.

        Clients that send thousands at once must not delay others.
        """
        return self._pipelined_s < MAX_PIPELINED_S

    def followed(self, seconds: float) -> None:
        """Note how long a pipelined request took.

        To a client that reads nothing one small reply can cost the system milliseconds.
        """
        self._pipelined_s += seconds

    def may_drop(self, size: int) -> bool:
        """Count bytes that were dropped, and return whether there may be more of them for now."""
        self._dropped += size
        return self._dropped < MAX_DROPPED
