"""gunicorn's configuration: `gunicorn -c python:penstock.gunicorn_conf wsgi:app` serves as `penstock serve` does."""

from __future__ import annotations

import os
import shutil
import socket
import ssl
import struct
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from http import HTTPStatus
from pathlib import Path
from typing import Any

import structlog
from gunicorn.glogging import Logger as _GunicornLogger
from gunicorn.http import errors as http_errors
from gunicorn.http.parser import RequestParser
from gunicorn.util import write_nonblock
from gunicorn.workers import gthread

from penstock import logs, metrics
from penstock.errors import CannotStart, Refusal
from penstock.host import Host
from penstock.runs.aside import TimeIsUp
from penstock.settings import Settings
from penstock.web.problems import CONTENT_TYPE, problem, status_line
from penstock.web.watchdog import SILENCE, TlsSocket, Watchdog, last_response, read_in_time

GOOD = b"good"
HEAD = 10.0  # seconds for the head of a request, and for a TLS handshake
DRAIN, DRAINED = 5.0, 64 * 1024  # seconds and bytes of a body that nobody wanted; where there is more, the connection ends
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

try:
    _settings = Settings.from_env(os.environ)
except CannotStart as error:
    sys.stderr.write(f"penstock: {error}\n")
    sys.exit(error.exit_code)

_reading = Watchdog(DRAIN)
_made_for_metrics = metrics.share()
bind = [_settings.bind, *([_settings.internal_bind] if _settings.internal_bind else [])]
workers = _settings.workers
threads = _settings.threads
worker_class = "penstock.gunicorn_conf.Worker" if _settings.worker_class == "gthread" else _settings.worker_class
worker_tmp_dir = "/dev/shm" if os.path.isdir("/dev/shm") else None  # noqa: S108, PTH112  heartbeats must not wait for a disk
graceful_timeout = _settings.graceful_timeout
timeout = 60
keepalive = _settings.keep_alive
preload_app = False  # a HUP must load plugins anew
control_socket_disable = True
forwarded_allow_ips = ""  # else headers of a loopback peer, SCRIPT_NAME and PATH_INFO among them, would rewrite the path
forwarder_headers = ""
accesslog = None  # calls are logged by the dispatcher, which never shows a query string
logger_class = "penstock.gunicorn_conf.Logger"


class Logger(_GunicornLogger):  # type: ignore[misc]  # gunicorn ships no types
    """Send gunicorn's own events through our log."""

    def exception(self, msg: Any, *args: Any, **kwargs: Any) -> None:  # noqa: ANN401  gunicorn's types
        """Log an exception, unless it is a client's silence."""
        if not isinstance(sys.exception(), BlockingIOError):
            super().exception(msg, *args, **kwargs)

    def setup(self, cfg: Any) -> None:  # noqa: ANN401  gunicorn's type
        """Configure the log."""
        super().setup(cfg)
        logs.configure(_settings)
        self.error_log.handlers[:] = []
        self.error_log.propagate = True


class Connection(gthread.TConn):  # type: ignore[misc]  # gunicorn ships no types
    """gunicorn's connection, for a sender that may dribble: it holds a thread neither with a TLS handshake nor with the head of a request."""

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


class Reader(RequestParser):  # type: ignore[misc]  # gunicorn ships no types
    """gunicorn's parser, which bounds each read of a head, and of a body that nobody wanted, but not how many there may be."""

    def __next__(self) -> Any:  # noqa: ANN401  gunicorn's type
        """Return the next request on the connection."""
        return self._in_time(super().__next__, HEAD, lambda: _refused(408))

    def finish_body(self, deadline: float | None = None, max_bytes: int | None = None) -> bool:
        """Read what is left of a body, and say whether that was all; without a deadline as part of reading the next head."""
        if deadline is None:
            return bool(super().finish_body(None, max_bytes))
        return bool(self._in_time(partial(super().finish_body, None, DRAINED), DRAIN, bytes))

    def _in_time(self, read: Callable[[], Any], seconds: float, late: Callable[[], bytes]) -> Any:  # noqa: ANN401  gunicorn's types
        sock = self.unreader.sock
        until = time.monotonic() + seconds
        return _reading.run(read, sock, until, late) if type(sock) is socket.socket else read_in_time(sock, read, until)


gthread.TConn = Connection  # there is no setting for it


class Worker(gthread.ThreadWorker):  # type: ignore[misc]  # gunicorn ships no types
    """gunicorn's worker of threads, mended in four places.

    A client that falls silent within a request, or dribbles, loses its connection, not we a thread. A worker that stops does not wait for
    connections that are idle. A request that was read ahead, together with the rest of a body that nobody wanted, is answered:
    gunicorn 26.2 waits for more bytes then, while the client waits for its reply. And what is no HTTP is refused with a problem
    document, and logged without its first line, which may hold a key in the query string.
    """

    def handle(self, conn: Any) -> Any:  # noqa: ANN401  gunicorn's types
        """Answer the requests that have arrived on a connection; return whether to wait for more of them."""
        kept = super().handle(conn)
        while kept is True and (ahead := conn.parser.unreader.take_buffered()):
            conn.parser.unreader.unread(ahead)
            kept = super().handle(conn)
        return kept

    def handle_error(self, req: Any, client: Any, addr: Any, exc: BaseException) -> None:  # noqa: ANN401, ARG002  gunicorn's types
        """Answer what can't be read as a request; the connection ends."""
        status = next((status for kind, status in UNREADABLE.items() if isinstance(exc, kind)), 500)
        kind = type(exc).__name__
        if status == 500:  # noqa: PLR2004  our fault, not the client's
            self.log.error("request failed: %s", kind, exc_info=exc)
        else:
            self.log.warning("request from %s can't be read: %s", addr[0] if addr else "a local socket", kind)
        with suppress(OSError):
            write_nonblock(client, _refused(status))

    def murder_keepalived(self) -> None:
        """Close idle connections whose time is up; when stopping, all of them."""
        if not self.alive:
            for connection in self.keepalived_conns:
                connection.timeout = 0
        super().murder_keepalived()


def _refused(status: int) -> bytes:
    """Return the response, as it goes over the wire, to what can't be read as a request."""
    body = problem(Refusal(status, "request-refused", f"{HTTPStatus(status).phrase}: the request can't be read."), None)
    headers = [("Content-Type", CONTENT_TYPE), ("Content-Length", str(len(body)))]
    return last_response(status_line(status), headers, body)


def ssl_context(config: Any, default: Callable[[], ssl.SSLContext]) -> ssl.SSLContext:  # noqa: ANN401, ARG001  gunicorn's type
    """Make TLS connections such as can be told until when they are read."""
    context = default()
    context.sslsocket_class = TlsSocket
    return context


def on_starting(server: Any) -> None:  # noqa: ANN401  gunicorn's type
    """End the start with exit code 3 where no worker could work, and refuse a reload then; gunicorn would end in a traceback or halt."""
    if not _free(server) or not _rehearsed():
        if server.pidfile is not None:
            server.pidfile.unlink()
        sys.exit(CannotStart.exit_code)
    reload = server.reload

    def careful() -> None:
        if _rehearsed():
            reload()
        else:
            server.log.error("not reloaded: the workers go on with what they have")

    server.reload = careful


def _free(server: Any) -> bool:  # noqa: ANN401  gunicorn's type
    """Say whether the addresses can be listened on; gunicorn itself would try for five seconds and then not say why."""
    if server.LISTENERS or server.master_pid or os.environ.get("LISTEN_FDS"):
        return True  # they come from the process before, or from systemd
    for address in server.cfg.address:
        if not isinstance(address, tuple):
            if isinstance(address, str) and not Path(address).parent.is_dir():
                sys.stderr.write(f"penstock: unix:{address} can't be listened on: there is no folder {Path(address).parent}\n")
                return False
            continue
        host, port = address[0], address[1]
        try:
            family, kind, protocol, _, where = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
            with socket.socket(family, kind, protocol) as probe:
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                probe.bind(where)
        except OSError as error:
            sys.stderr.write(f"penstock: {host}:{port} can't be listened on: {error.strerror}; choose another with --bind\n")
            return False
    return True


def _rehearsed() -> bool:
    """Try a start in a child, so that neither plugins nor threads come into this process.

    A pipe tells how it went: at a reload gunicorn's own handler may be the one that collects the child, and its exit code.
    """
    told, tell = os.pipe()
    child = os.fork()
    if child:
        os.close(tell)
        with os.fdopen(told, "rb") as pipe:
            good = pipe.read() == GOOD
        with suppress(ChildProcessError):
            os.waitpid(child, 0)
        return good
    try:
        Host(_settings).rehearse()
        os.write(tell, GOOD)
    except CannotStart as error:
        sys.stderr.write(f"penstock: {error}\n")
    except BaseException as error:  # noqa: BLE001  whatever it is, the child must end here
        structlog.get_logger("penstock").exception("can't start", error=type(error).__name__)
    finally:
        sys.stderr.flush()
        os._exit(0)


def post_worker_init(worker: Any) -> None:  # noqa: ANN401  gunicorn's type
    """Start the host in the worker, after the fork; what can't start ends the server with exit code 3."""
    app = worker.wsgi
    try:
        app.host.start(kind="serve")
    except CannotStart as error:
        sys.stderr.write(f"penstock: {error}\n")
        sys.exit(error.exit_code)


def child_exit(server: Any, worker: Any) -> None:  # noqa: ANN401, ARG001  gunicorn's types
    """Forget what only a living worker can say."""
    metrics.gone(worker.pid)


def on_exit(server: Any) -> None:  # noqa: ANN401, ARG001  gunicorn's type
    """Take away what was made for this server."""
    if _made_for_metrics is not None:
        shutil.rmtree(_made_for_metrics, ignore_errors=True)


def worker_exit(server: Any, worker: Any) -> None:  # noqa: ANN401, ARG001  gunicorn's types
    """Write what the host still holds."""
    app = getattr(worker, "wsgi", None)
    if app is not None:
        app.host.stop()
