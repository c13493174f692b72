"""gunicorn's worker of threads, with a shorter way for a request and without the ways in which a client could hold a thread."""

from __future__ import annotations

import errno
import os
import select
import socket
import ssl
import struct
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from email.utils import formatdate
from functools import partial
from http import HTTPStatus
from typing import Any

import gunicorn_h1c
from gunicorn.config import PostRequest, PreRequest
from gunicorn.http import errors as http_errors
from gunicorn.http import message, wsgi
from gunicorn.http.parser import RequestParser
from gunicorn.util import unquote_to_wsgi_str, write_nonblock
from gunicorn.workers import gthread

from penstock.errors import Refusal
from penstock.runs.aside import TimeIsUp
from penstock.web.problems import CONTENT_TYPE, problem, status_line
from penstock.web.turns import PASS_ON, Turns
from penstock.web.watchdog import SILENCE, Watchdog, last_response, read_in_time

HEAD = 10.0  # seconds for the head of a request, and for a TLS handshake
DRAIN, DRAINED = 5.0, 64 * 1024  # seconds and bytes of a body that nobody wanted; where there is more, the connection ends
END_OF_HEAD = b"\r\n\r\n"
PIECE, LONGEST_HEAD = 16 * 1024, 64 * 1024  # bytes that are read at once, and of a head that is gathered without a thread
EVENTS = 16  # connections that are looked at in a row
TICK = 1.0  # seconds between two looks at what is idle
LINGER, LINGERED = 2.0, 64 * 1024  # seconds and bytes that are still taken from who was answered for the last time
SINGLE = frozenset({"HOST", "CONTENT-TYPE"})  # headers that come once (RFC 9110 section 5.3)
NAMES = 500  # header names that are known to be well-formed
GONE = frozenset({errno.EPIPE, errno.ECONNRESET, errno.ENOTCONN})
READABLE = 0 if not hasattr(select, "epoll") else select.EPOLLIN | select.EPOLLONESHOT
UNREADABLE = {
    http_errors.LimitRequestLine: 414,
    http_errors.LimitRequestHeaders: 431,
    http_errors.UnsupportedTransferCoding: 501,
    http_errors.ExpectationFailed: 417,
    http_errors.ForbiddenProxyRequest: 403,
    http_errors.ConfigurationProblem: 500,
    http_errors.ParseException: 400,
    ssl.SSLError: 400,
    TimeIsUp: 408,
}

_reading = Watchdog(DRAIN)
_well_formed: set[str] = set()
_usual_names: dict[bytes, str] = {}


def _usual_name(raw: bytes) -> str | None:
    """Return a header's name as gunicorn keeps it, or None where gunicorn must look at it."""
    name = str(raw, "latin-1").upper()
    if "_" in name or name == "EXPECT":
        return None
    if len(_usual_names) < NAMES:
        _usual_names[raw] = name
    return name


class Settled:
    """gunicorn's configuration once nothing changes it any more: each setting is worked out at its first use."""

    def __init__(self, config: Any) -> None:  # noqa: ANN401  gunicorn ships no types
        self._config = config

    def __getattr__(self, name: str) -> Any:  # noqa: ANN401  as above
        value = getattr(self._config, name)
        setattr(self, name, value)
        return value


class Connection(gthread.TConn):  # type: ignore[misc]  # gunicorn ships no types
    """gunicorn's connection, for a sender that may dribble: it holds a thread neither with a TLS handshake nor with the head of a request.

    `ahead` is what has come of the next head; `facts` is what the environ of all its requests has in common, where gunicorn need not say it;
    `lingered` counts the bytes that came after the last answer.
    """

    ahead = b""
    lingered: int | None = None
    facts: dict[str, Any] | None = None

    def init(self) -> None:
        """Get ready to read requests."""
        if self.initialized:
            return
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, struct.pack("ll", SILENCE, 0))
        if self.cfg.is_ssl:
            with self.sock.dup() as wire:  # TLS takes the socket over
                _reading.run(super().init, wire, time.monotonic() + HEAD, bytes)
        else:
            super().init()
        if type(self.parser) is RequestParser:
            self.parser: Any = Reader(self.cfg, self.sock, self.client)

    def gather(self) -> bool | None:
        """Say whether there is a request to read: None where its head has not come in full; nobody waits for that. Raises OSError."""
        if self.cfg.is_ssl or self.cfg.http2_cleartext != "off":
            return True
        if not self.initialized:
            self.init()
        ahead = self.ahead
        if END_OF_HEAD not in ahead:
            try:
                data = self.sock.recv(PIECE, socket.MSG_DONTWAIT)
            except BlockingIOError:
                return None
            if not data:
                return False
            if not ahead:
                self.timeout = time.monotonic() + HEAD
            ahead += data
            if END_OF_HEAD not in ahead and len(ahead) < LONGEST_HEAD and ahead[:1].isalpha() and b"\n\n" not in ahead:
                self.ahead = ahead
                return None
        self.ahead = b""
        self.parser.unreader.unread(ahead)
        self.parser.whole = END_OF_HEAD in ahead and ahead[:1].isalpha()
        return True


class Request(message.Request):  # type: ignore[misc]  # gunicorn ships no types
    """gunicorn's request, read in a shorter way where nothing about it is out of the ordinary."""

    def _parse_fast(self, unreader: Any, buf: bytearray) -> bytes:  # noqa: ANN401  gunicorn's type
        """Read the head, and return what came after it."""
        data = bytes(buf)
        try:
            found = gunicorn_h1c.parse_request(
                data,
                limit_request_line=self._fast_limit_request_line,
                limit_request_fields=self.limit_request_fields,
                limit_request_field_size=self.limit_request_field_size,
            )
        except Exception:  # noqa: BLE001  whatever it is, gunicorn knows what to do about it
            return bytes(super()._parse_fast(unreader, buf))
        uri = str(found["path"], "latin-1")
        headers: list[tuple[str, str]] = []
        once = set()
        for raw, value in found["headers"]:
            name = _usual_names.get(raw) or _usual_name(raw)
            if name is None or name in once:
                return bytes(super()._parse_fast(unreader, buf))
            if name in SINGLE:
                once.add(name)
            headers.append((name, str(value, "latin-1")))
        if not uri.startswith("/") or uri.startswith("//") or "#" in uri or self.cfg.casefold_http_method or self._peer_is_trusted_proxy():
            return bytes(super()._parse_fast(unreader, buf))
        self.method, self.uri, self.headers = str(found["method"], "latin-1"), uri, headers
        self.path, _, self.query = uri.partition("?")
        self.fragment = ""
        self.version = 1, found["minor_version"]
        return data[found["consumed"] :]

    def _peer_is_trusted_proxy(self) -> bool:
        trusted = getattr(self.unreader, "trusted", None)
        if trusted is None:
            trusted = self.unreader.trusted = super()._peer_is_trusted_proxy()
        return bool(trusted)


class Reader(RequestParser):  # type: ignore[misc]  # gunicorn ships no types
    """gunicorn's parser, which bounds each read of a head, and of a body that nobody wanted, but not how many there may be."""

    mesg_class = Request
    whole = False  # whether the head has come in full

    def __next__(self) -> Any:  # noqa: ANN401  gunicorn's type
        """Return the next request on the connection."""
        if self.whole:
            self.whole = False
            return super().__next__()
        return self._in_time(super().__next__, HEAD, lambda: refused(408))

    def finish_body(self, deadline: float | None = None, max_bytes: int | None = None) -> bool:
        """Read what is left of a body, and say whether that was all; without a deadline as part of reading the next head."""
        if self.mesg is None or (getattr(self.mesg.body.reader, "length", None) == 0 and not self.mesg.body.buf.tell()):
            return True
        if deadline is None:
            return bool(super().finish_body(None, max_bytes))
        return bool(self._in_time(partial(super().finish_body, None, DRAINED), DRAIN, bytes))

    def _in_time(self, read: Callable[[], Any], seconds: float, late: Callable[[], bytes]) -> Any:  # noqa: ANN401  gunicorn's types
        sock = self.unreader.sock
        until = time.monotonic() + seconds
        return _reading.run(read, sock, until, late) if type(sock) is socket.socket else read_in_time(sock, read, until)


class Response(wsgi.Response):  # type: ignore[misc]  # gunicorn ships no types
    """gunicorn's response, that goes out in one piece."""

    headers_sent: bool

    _date: tuple[int, str] = (0, "")

    def process_headers(self, headers: Iterable[tuple[str, str]]) -> None:
        """Take the headers; a name that was seen to be well-formed and of no meaning to the server is not looked at again."""
        for name, value in headers:
            if name in _well_formed and isinstance(value, str) and wsgi.HEADER_VALUE_RE.fullmatch(value):
                self.headers.append((name, value.strip(" \t")))
                continue
            before = len(self.headers)
            super().process_headers([(name, value)])
            lower = name.lower()
            if len(self.headers) > before and lower not in {"content-length", "upgrade"} and len(_well_formed) < NAMES:
                _well_formed.add(name)

    def default_headers(self) -> list[str]:
        """Return the first lines, with the time of this second (RFC 9110 section 6.6.1)."""
        if self.upgrade or self.chunked:
            return list(super().default_headers())
        now = int(time.time())
        if self._date[0] != now:
            Response._date = now, formatdate(now, usegmt=True)
        major, minor = self.req.version
        connection = "close" if self.should_close() else "keep-alive"
        return [f"HTTP/{major}.{minor} {self.status}\r\nServer: {self.version}\r\nDate: {self._date[1]}\r\nConnection: {connection}\r\n"]

    def write(self, arg: bytes) -> None:
        """Send a part of the body, the first together with the head."""
        if self.headers_sent or self.chunked or self._omits_body or type(arg) is not bytes:
            super().write(arg)
            return
        if self.response_length is not None and len(arg) > self.response_length:
            arg = arg[: self.response_length]
        head = "".join([*self.default_headers(), *[f"{name}: {value}\r\n" for name, value in self.headers], "\r\n"])
        self.headers_sent = True
        self.sent += len(arg)
        self.sock.sendall(head.encode("latin-1") + arg)


class Worker(gthread.ThreadWorker):  # type: ignore[misc]  # gunicorn ships no types
    """gunicorn's worker of threads, mended.

    The thread that sees a request come answers it: gunicorn hands each over to a pool and back (see `Turns`). A client that falls silent within
    a request, or dribbles, loses its connection, not we a thread. A worker that stops does not wait for connections that are idle. A request
    that was read ahead, together with the rest of a body that nobody wanted, is answered: gunicorn 26.2 waits for more bytes then, while the
    client waits for its reply. And what is no HTTP is refused with a problem document, and logged without its first line, which may hold a
    key in the query string.
    """

    alive: bool
    cfg: Any

    def __init__(self, *args: Any, **more: Any) -> None:  # noqa: ANN401  gunicorn's types
        super().__init__(*args, **more)
        self.cfg = Settled(self.cfg)
        hooks = self.cfg.pre_request is PreRequest.default, self.cfg.post_request is PostRequest.default
        self._plain = all(hooks) and not self.log.access_log_enabled and not os.environ.get("SCRIPT_NAME")
        self._plain = self._plain and not self.cfg.forwarder_headers and self.cfg.proxy_protocol == "off"
        self._common = {**wsgi.base_environ(self.cfg), "wsgi.multithread": True}

    # Connections.

    def run(self) -> None:
        """Answer until told to stop."""
        if not READABLE:  # a system without epoll
            super().run()
            return
        self._epoll = select.epoll()
        self._open: set[Connection] = set()
        self._waiting: dict[int, Connection] = {}  # those that nobody serves: who takes one out serves or ends it
        self._listeners = {listener.fileno(): listener for listener in self.sockets}
        for listener in self.sockets:
            listener.setblocking(False)
        self._listen(listening=True)
        turns = Turns(self.cfg.threads, self._events, self._handle_event)
        self._common[PASS_ON] = turns.pass_on
        turns.start()
        while self.alive:
            self.notify()
            self._pause(TICK)
            if not self.is_parent_alive():
                break
            self._end_idle(time.monotonic())
        self._listen(listening=False)
        until = time.monotonic() + self.cfg.graceful_timeout
        while self._open and time.monotonic() < until:
            self._end_idle(float("inf"))
            self._pause(0.05)
            self.notify()
        for listener in self.sockets:
            listener.close()

    def _pause(self, seconds: float) -> None:
        """Wait; a signal ends that."""
        if select.select([self.PIPE[0]], [], [], seconds)[0]:
            with suppress(OSError):
                os.read(self.PIPE[0], 1024)

    def _listen(self, *, listening: bool) -> None:
        self._accepting = listening
        for number in self._listeners:
            with suppress(FileExistsError, FileNotFoundError):
                if listening:
                    self._epoll.register(number, select.EPOLLIN)
                else:
                    self._epoll.unregister(number)

    def _events(self) -> list[tuple[int, int]]:
        return self._epoll.poll(TICK, EVENTS)

    def _handle_event(self, event: tuple[int, int]) -> None:
        connection = self._waiting.pop(event[0], None)
        try:
            if connection is not None and connection.lingered is None:
                self._serve(connection)
            elif connection is not None:
                self._linger(connection)
            elif event[0] in self._listeners and self.alive:
                self._accept(self._listeners[event[0]])
        except BaseException:
            self.log.exception("a connection was lost")
            if connection is not None:
                self._end(connection)

    def _accept(self, listener: Any) -> None:  # noqa: ANN401  gunicorn's type
        try:
            client, address = listener.accept()
        except OSError:  # another worker was first, or the client is gone
            return
        connection = Connection(self.cfg, client, address, listener.getsockname())
        connection.data_ready = True
        connection.facts = self._facts(connection)
        client.setblocking(True)
        self._open.add(connection)
        if len(self._open) >= self.worker_connections:
            self._listen(listening=False)
        self._epoll.register(client.fileno(), 0)
        self._wait_for(connection, self.cfg.keepalive)

    def _facts(self, connection: Connection) -> dict[str, Any] | None:
        """Return what is the same in all environs of a connection (PEP 3333), or None where gunicorn must say it."""
        if not self._plain or not isinstance(connection.client, tuple) or not isinstance(connection.server, tuple):
            return None
        host, port = connection.client[:2]
        return {
            **self._common,
            "REMOTE_ADDR": host,
            "REMOTE_PORT": str(port),
            "SERVER_NAME": connection.server[0],
            "SERVER_PORT": str(connection.server[1]),
            "SCRIPT_NAME": "",
        }

    def _wait_for(self, connection: Connection, seconds: float) -> None:
        number = connection.sock.fileno()
        connection.timeout = time.monotonic() + seconds
        self._waiting[number] = connection
        self._epoll.modify(number, READABLE)

    def _serve(self, connection: Connection) -> None:
        """Answer what has come on a connection, and wait for more of it."""
        try:
            while (here := connection.gather()) and self.handle(connection) and self.alive:
                if not self._read_ahead(connection):
                    self._wait_for(connection, self.cfg.keepalive)
                    return
            if here is None and self.alive:
                self._wait_for(connection, connection.timeout - time.monotonic() if connection.ahead else self.cfg.keepalive)
                return
        except OSError:
            pass  # the client is gone
        self._part(connection)

    def _part(self, connection: Connection) -> None:
        """End a connection such that its client can read the last answer (RFC 9112 section 9.6); nobody waits for that."""
        try:
            if self.cfg.is_ssl:
                connection.close(graceful=True)
                self._end(connection)
                return
            connection.sock.shutdown(socket.SHUT_WR)
            connection.lingered = 0
            self._wait_for(connection, LINGER)
        except OSError:
            self._end(connection)

    def _linger(self, connection: Connection) -> None:
        try:
            data = connection.sock.recv(PIECE, socket.MSG_DONTWAIT)
            connection.lingered = (connection.lingered or 0) + len(data)
            if data and connection.lingered < LINGERED:
                self._wait_for(connection, connection.timeout - time.monotonic())
                return
        except OSError:
            pass  # it has gone, or its time is up
        self._end(connection)

    @staticmethod
    def _read_ahead(connection: Connection) -> bool:
        """Say whether something of the next request has come already."""
        unreader = connection.parser.unreader
        ahead: bytes = unreader.take_buffered()
        if isinstance(connection.sock, ssl.SSLSocket):
            unreader.unread(ahead)
            return bool(ahead or connection.sock.pending())
        connection.ahead = ahead
        return bool(ahead)

    def _end_idle(self, now: float) -> None:
        """End the connections whose time is up; who began a request is told."""
        for number, connection in list(self._waiting.items()):
            over = connection.timeout <= (now if connection.lingered is None else time.monotonic())
            if over and self._waiting.pop(number, None) is not None:
                if connection.ahead:
                    with suppress(OSError):
                        write_nonblock(connection.sock, refused(408))
                self._end(connection)

    def _end(self, connection: Connection) -> None:
        with suppress(OSError):
            connection.close()
        self._open.discard(connection)
        if not self._accepting and self.alive and len(self._open) < self.worker_connections:
            self._listen(listening=True)

    # Requests.

    def handle(self, conn: Any) -> Any:  # noqa: ANN401  gunicorn's types
        """Answer the next request on a connection; return whether it may have another."""
        if conn.facts is None or self.cfg.is_ssl or self.cfg.http2_cleartext != "off":
            return super().handle(conn)
        request = None
        try:
            request = next(conn.parser)
            return self._keepalive_after(conn, self.handle_request(request, conn))
        except (http_errors.NoMoreData, StopIteration):
            pass
        except OSError as error:
            if error.errno not in GONE:
                self.log.exception("Socket error processing request.")
        except Exception as error:  # noqa: BLE001  a stranger may send anything
            self.handle_error(request, conn.sock, conn.client, error)
        return False

    def handle_request(self, req: Any, conn: Any) -> bool:  # noqa: ANN401  gunicorn's types
        """Answer one request; return whether its connection may have another."""
        if conn.facts is None:
            return bool(super().handle_request(req, conn))
        response = Response(req, conn.sock, self.cfg)
        self.nr += 1
        if self.nr >= self.max_requests and self.alive:
            self.log.info("Autorestarting worker after current request.")
            self.alive = False
        if not self.alive or not self.cfg.keepalive or len(self._open) > self.max_keepalived:
            response.force_close()
        try:
            reply = self.wsgi(_environ(req, conn), response.start_response)
            try:
                for item in reply:
                    response.write(item)
                response.close()
            finally:
                if hasattr(reply, "close"):
                    reply.close()
        except OSError:
            raise
        except Exception:
            if response.headers_sent:  # it can't be taken back: the client must see that it is not whole
                self.log.exception("Error handling request")
                raise StopIteration from None
            raise
        return not response.should_close()

    def handle_error(self, req: Any, client: Any, addr: Any, exc: BaseException) -> None:  # noqa: ANN401, ARG002  gunicorn's types
        """Answer what can't be read as a request; the connection ends."""
        status = next((status for kind, status in UNREADABLE.items() if isinstance(exc, kind)), 500)
        kind = type(exc).__name__
        if status == 500:  # noqa: PLR2004  our fault, not the client's
            self.log.error("request failed: %s", kind, exc_info=exc)
        else:
            self.log.warning("request from %s can't be read: %s", addr[0] if addr else "a local socket", kind)
        with suppress(OSError):
            write_nonblock(client, refused(status))


gthread.TConn = Connection  # for HTTP/2 and for systems without epoll; there is no setting for it


def _environ(request: Any, connection: Connection) -> dict[str, Any]:  # noqa: ANN401  gunicorn's type
    """Return a request's environ (PEP 3333), as gunicorn makes it where no peer is believed anything."""
    environ: dict[str, Any] = {
        **(connection.facts or {}),
        "wsgi.input": request.body,
        "wsgi.url_scheme": request.scheme,
        "gunicorn.socket": connection.sock,
        "REQUEST_METHOD": request.method,
        "QUERY_STRING": request.query,
        "RAW_URI": request.uri,
        "SERVER_PROTOCOL": f"HTTP/{request.version[0]}.{request.version[1]}",
        "PATH_INFO": unquote_to_wsgi_str(request.path),
    }
    if request._expected_100_continue:  # noqa: SLF001  gunicorn's own function reads it the same way
        connection.sock.send(b"HTTP/1.1 100 Continue\r\n\r\n")
    for name, value in request.headers:
        key = name.replace("-", "_")
        if key not in {"CONTENT_TYPE", "CONTENT_LENGTH"}:
            key = "HTTP_" + key
            if key in environ:
                value = f"{environ[key]},{value}"  # noqa: PLW2901  several fields of one name are one list (RFC 9110 section 5.3)
        environ[key] = value
    return environ


def refused(status: int) -> bytes:
    """Return the response, as it goes over the wire, to what can't be read as a request."""
    body = problem(Refusal(status, "request-refused", f"{HTTPStatus(status).phrase}: the request can't be read."), None)
    headers = [("Content-Type", CONTENT_TYPE), ("Content-Length", str(len(body)))]
    return last_response(status_line(status), headers, body)
