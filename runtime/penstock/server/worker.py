"""gunicorn's worker class for Penstock: no client can block one of its threads.

**Why.** gunicorn's `gthread` gives each request a thread from its first byte to its last. A client
that is slow, silent or greedy then occupies a thread, and a handful of such clients occupy all of
them. docs/explanation/server.md compares both, with figures.

**Threads.** One thread, the leader, polls epoll and serves the events itself; another thread is
promoted when that takes long (http/leader_followers.py). Passing each request to a pool and back,
as gunicorn does, costs more than most calls do: that was measured first, and rejected. The main
thread tells the arbiter that the worker lives, and resumes connections at their deadlines.

**Connections.** Each has a coroutine (`Http1.serve`) that reads heads, calls the application,
receives bodies and sends replies. It yields wherever it would have to wait for the client, in every
phase: handshake, head, body, reply, unread body, close. A thread resumes it after an epoll event or
at its deadline. A waiting client therefore costs a few kilobytes and no thread; only the
application's own work occupies one.

**Ownership.** A connection is registered with EPOLLONESHOT. It belongs to the thread that claimed
it (`Connection.claim`), until that thread releases it. All threads share all other state.

**Races.** Events name file descriptors, which the system reuses: an event or a wake-up may reach a
later connection with the same number. That is harmless, because a coroutine that is resumed early
finds nothing to do and waits again. Nothing is ever ended by its number alone. `_accepting` and the
registration of the listeners change together, under `_listening`: when two threads each did half of
it, the worker never accepted again.

**Limits.** Every wait has a deadline. A reply must progress and keep a minimum rate; the memory of
all replies together is limited. If there is no room for a connection, another one is ended
(server/eviction.py).
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
from penstock.server.connection import (
    PAUSED,
    WRITE,
    Connection,
    Phase,
    ReplyMemory,
    TlsConnection,
)
from penstock.server.eviction import Evictor
from penstock.server.protocol import Http1

MAX_EVENTS = 16  # events of one poll
ROUND_S = 1.0  # between two rounds of the main thread
SHORT_ROUND_S = 0.1  # the same, while a connection is paused
MAX_PIPELINED_S = 0.01  # time for pipelined requests in a round, of all connections together
MAX_DISCARDED_BYTES = 8 * 1024 * 1024  # in a round, of all connections together
MAX_REPLY_BYTES = 64 * 1024 * 1024  # of replies that wait for their clients, in one process
SPARE = 64  # connections above worker_connections, while others are being ended
# In a stopping worker, an idle connection may send one more request for that time. Proxies with a
# shorter idle timeout (4 s in docs/examples) never send one on a connection that is being closed.
LAST_REQUEST_S = 5.0
# mallopt: return blocks of that size to the system when they are freed. Otherwise glibc keeps
# hundreds of megabytes of large replies, for each thread.
M_MMAP_THRESHOLD, MMAP_THRESHOLD_BYTES = -3, 1024 * 1024
RECEIVING = frozenset({Phase.HEAD, Phase.BODY})
OUT_OF_FILES = frozenset({errno.EMFILE, errno.ENFILE})


class CachedConfig:
    """gunicorn's configuration, final: each setting is computed once."""

    def __init__(self, config: Any) -> None:  # noqa: ANN401  gunicorn ships no types
        self._config = config

    def __getattr__(self, name: str) -> Any:  # noqa: ANN401  as above
        value = getattr(self._config, name)
        setattr(self, name, value)
        return value


class Worker(base.Worker):  # type: ignore[misc]  # gunicorn ships no types
    """A worker process with `threads` threads and up to `worker_connections` connections."""

    alive: bool
    cfg: Any
    nr: int

    def __init__(self, *args: Any, **more: Any) -> None:  # noqa: ANN401  gunicorn's types
        super().__init__(*args, **more)
        self.cfg = CachedConfig(self.cfg)
        self.capacity = self.cfg.worker_connections
        self._connections: dict[int, Connection] = {}
        self._listeners: dict[int, Any] = {}
        self._listening = threading.Lock()
        self._accepting = False
        self._evictor = Evictor(lambda: self._connections, self.capacity, self._wake)
        self._paused: list[Connection] = []
        self._discarded = 0
        self._pipelined_s = 0.0
        self.rejects_incomplete = False  # whether incomplete requests are answered with 503
        self._tls: ssl.SSLContext | None = None

    # Process.

    def run(self) -> None:
        """Serve until a signal stops the worker, then finish the calls in progress.

        The graceful timeout limits that second part.
        """
        self.prepare()
        self._threads.start()
        while self.alive:
            self.notify()
            self._wait_for_signal(ROUND_S)
            if self._paused:
                time.sleep(SHORT_ROUND_S)
            if self.ppid != os.getppid():
                self.log.info("Parent changed, shutting down: %s", self)
                break
            self._start_round()
        self.alive = False
        self._update_listening()
        self._close_listeners()
        self._finish()

    def prepare(self) -> None:
        """Set up everything but the threads."""
        _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        with suppress(ValueError, OSError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
        self._epoll = select.epoll()
        with suppress(OSError, AttributeError):  # another C library
            ctypes.CDLL(None).mallopt(M_MMAP_THRESHOLD, MMAP_THRESHOLD_BYTES)
        self._listeners = {listener.fileno(): listener for listener in self.sockets}
        for listener in self.sockets:
            listener.setblocking(False)
        if self.cfg.is_ssl:
            self._tls = gunicorn_sock.ssl_context(self.cfg)
            self._tls.sslsocket_class = ssl.SSLSocket
            # A renegotiation costs the server more than the client.
            self._tls.options |= ssl.OP_NO_RENEGOTIATION
        self._threads = LeaderFollowers(self.cfg.threads, self._poll, self._handle_event)
        memory = ReplyMemory(MAX_REPLY_BYTES, self._evictor.free_memory)
        self.http = Http1(self, self.cfg, memory, self._threads.promote_next)
        self._update_listening()

    def _finish(self) -> None:
        """Serve the calls in progress, and answer the rest before the graceful timeout ends."""
        now = time.monotonic()
        answer, leave = (now + seconds for seconds in shutdown_schedule(self.cfg.graceful_timeout))
        if hasattr(self.wsgi, "end_calls"):
            self.wsgi.end_calls(answer)
        while self._connections and (now := time.monotonic()) < leave:
            self.rejects_incomplete = now >= answer
            for connection in list(self._connections.values()):
                # Its next request is answered with `Connection: close`.
                if connection.phase is Phase.IDLE:
                    connection.deadline = min(connection.deadline, now + LAST_REQUEST_S, answer)
                elif self.rejects_incomplete and connection.phase in RECEIVING:
                    connection.deadline = now
            self._wait_for_signal(SHORT_ROUND_S / 2)
            self.notify()
            self._start_round()

    def _close_listeners(self) -> None:
        """Accept the connections that wait in the backlog, then close the listeners.

        The system would reset connections in the backlog, with the requests they sent.
        """
        for listener in self.sockets:
            while self._accept(listener):
                pass
            listener.close()

    def _wait_for_signal(self, seconds: float) -> None:
        """Wait that long, or until a signal or `_resume` writes to the pipe."""
        if select.select([self.PIPE[0]], [], [], seconds)[0]:
            with suppress(OSError):
                os.read(self.PIPE[0], 1024)

    def _start_round(self) -> None:
        """Resume paused connections and those at their deadline; reset the limits of a round."""
        self._pipelined_s, self._discarded = 0.0, 0
        paused, self._paused = self._paused, []
        now = time.monotonic()
        for connection in paused:
            self._wake(connection)
        for connection in list(self._connections.values()):
            if connection.deadline <= now:
                self._wake(connection)
        if len(self._connections) > self.capacity:
            self._evictor.make_room()
        self._update_listening()

    def _wake(self, connection: Connection) -> None:
        """Have a thread resume a connection without an event. An early resumption is harmless."""
        with suppress(OSError, ValueError):
            if connection.phase is Phase.SENDING:
                connection.abort()  # epoll would not report it before the client receives more
            self._epoll.modify(connection.fd, WRITE)

    # Connections.

    def _update_listening(self) -> None:
        """Accept connections if there is room, and stop accepting if there is none."""
        with self._listening:  # the flag and the registration change together
            accepting = self.alive and len(self._connections) < self.capacity + SPARE
            if accepting == self._accepting:
                return
            for fd in self._listeners:
                if accepting:
                    self._epoll.register(fd, select.EPOLLIN)
                else:
                    self._epoll.unregister(fd)
            self._accepting = accepting

    def _poll(self) -> list[tuple[int, int]]:
        return self._epoll.poll(ROUND_S, MAX_EVENTS)

    def _handle_event(self, event: tuple[int, int]) -> None:
        fd = event[0]
        connection = self._connections.get(fd)
        if connection is not None:
            if connection.claim():
                self._resume(connection)
        elif fd in self._listeners and self.alive:
            self._accept(self._listeners[fd])

    def _accept(self, listener: Any) -> bool:  # noqa: ANN401  gunicorn's type
        """Accept a connection, and return whether there was one."""
        try:
            client, address = listener.accept()
        except OSError as error:  # another worker was first, or the client closed it
            if error.errno in OUT_OF_FILES:
                self._evictor.make_room()
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
            self._evictor.make_room()
        self._connections[connection.fd] = connection
        if len(self._connections) >= self.capacity + SPARE:
            self._update_listening()
        connection.coroutine = self.http.serve(connection)
        self._epoll.register(connection.fd, 0)
        self._resume(connection)
        return True

    def _resume(self, connection: Connection) -> None:
        """Resume the coroutine of a connection that this thread has claimed, until it waits."""
        try:
            events = next(connection.coroutine, None)
        except BaseException:
            self.log.exception("connection failed")
            events = None
        if events is None:
            self._end(connection)
            return
        connection.release()
        if events == PAUSED:
            self._paused.append(connection)
            with suppress(OSError):
                os.write(self.PIPE[1], b".")  # the next round of the main thread begins sooner
            return
        # Another thread may have resumed and ended it meanwhile.
        with suppress(OSError, ValueError):
            self._epoll.modify(connection.fd, events)

    def _end(self, connection: Connection) -> None:
        # Before the socket is closed: another connection may get its number then.
        self._connections.pop(connection.fd, None)
        connection.close()
        if not self._accepting:
            self._update_listening()

    # What Http1 calls.

    def count_request(self, response: Any) -> None:  # noqa: ANN401  gunicorn's type
        """Count a request, and have its reply close the connection where that is necessary."""
        self.nr += 1
        if self.nr >= self.max_requests and self.alive:
            self.log.info("Autorestarting worker after current request.")
            self.alive = False
        if not self.alive or not self.cfg.keepalive or len(self._connections) > self.capacity:
            response.force_close()

    def may_pipeline(self) -> bool:
        """Return whether another pipelined request may be served in this round.

        Clients that send thousands of requests at once must not delay others.
        """
        return self._pipelined_s < MAX_PIPELINED_S

    def count_pipelined(self, seconds: float) -> None:
        """Add the duration of a pipelined request.

        One small reply to a client that does not read can cost the system milliseconds.
        """
        self._pipelined_s += seconds

    def may_discard(self, size: int) -> bool:
        """Count discarded bytes, and return whether more may be discarded in this round."""
        self._discarded += size
        return self._discarded < MAX_DISCARDED_BYTES
