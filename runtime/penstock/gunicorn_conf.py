"""gunicorn's configuration: `gunicorn -c python:penstock.gunicorn_conf wsgi:app` serves as `penstock serve` does."""

from __future__ import annotations

import gc
import os
import select
import shutil
import socket
import ssl
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import structlog
from gunicorn import __version__, version_info
from gunicorn.glogging import Logger as _GunicornLogger
from gunicorn.util import load_class

from penstock import logs, metrics
from penstock.access.secrets import open_box
from penstock.access.snapshot import Snapshot
from penstock.db.engine import open_engine
from penstock.errors import CannotStart
from penstock.host import Host
from penstock.settings import Settings
from penstock.web.watchdog import TlsSocket

GOOD = b"good"
OURS = "penstock.server.worker.Worker"
TESTED = ((26, 2),)  # the releases of gunicorn that our worker was held against, byte by byte (tests/wire)


def _worker_class(wanted: str) -> tuple[str, str]:
    """Return the class of gunicorn's workers, and why it is not the one that was wanted."""
    if wanted != "penstock":
        try:
            load_class(wanted)
        except Exception:  # noqa: BLE001  gunicorn raises several kinds
            sys.stderr.write(f"penstock: PENSTOCK_WORKER_CLASS={wanted} is no worker of gunicorn; write penstock or gthread\n")
            sys.exit(CannotStart.exit_code)
        return wanted, ""
    if version_info[:2] not in TESTED:
        known = ", ".join(f"{major}.{minor}" for major, minor in TESTED)
        return "gthread", f"gunicorn {__version__} was not tested with Penstock's worker ({known} were): using gunicorn's gthread"
    if not hasattr(select, "epoll"):
        return "gthread", "this system has no epoll, which Penstock's worker needs: using gunicorn's gthread"
    return OURS, ""


try:
    _settings = Settings.from_env(os.environ)
except CannotStart as error:
    sys.stderr.write(f"penstock: {error}\n")
    sys.exit(error.exit_code)

_made_for_metrics = metrics.share()
_told = b""  # what the last rehearsal has reported, so that no worker says it again
_access: Snapshot | None = None  # read once, here, for all workers: what is forked is shared memory
bind = [_settings.bind, *([_settings.internal_bind] if _settings.internal_bind else [])]
workers = _settings.workers
threads = _settings.threads
worker_class, _warning = _worker_class(_settings.worker_class)
worker_tmp_dir = "/dev/shm" if os.path.isdir("/dev/shm") else None  # noqa: S108, PTH112  heartbeats must not wait for a disk
graceful_timeout = _settings.graceful_timeout
timeout = 60
keepalive = _settings.keep_alive
limit_request_line = 8190  # RFC 9112 section 3 recommends 8000 at least
limit_request_field_size = _settings.max_header
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


def ssl_context(config: Any, default: Callable[[], ssl.SSLContext]) -> ssl.SSLContext:  # noqa: ANN401, ARG001  gunicorn's type
    """Make TLS connections such as can be told until when they are read."""
    context = default()
    context.sslsocket_class = TlsSocket
    return context


def on_starting(server: Any) -> None:  # noqa: ANN401  gunicorn's type
    """End the start with exit code 3 where no worker could work, and refuse a reload then; gunicorn would end in a traceback or halt."""
    if _warning:
        server.log.warning(_warning)
    _read_access()
    if not _speaks_http1(server.cfg) or not _free(server) or not _rehearsed():
        if server.pidfile is not None:
            server.pidfile.unlink()
        sys.exit(CannotStart.exit_code)
    reload = server.reload

    def careful() -> None:
        _read_access()
        if _rehearsed():
            reload()
        else:
            server.log.error("not reloaded: the workers go on with what they have")

    server.reload = careful


def _read_access() -> None:
    """Read what changed of the access data. Neither plugins, threads nor connections come into this process, or stay there."""
    global _access  # noqa: PLW0603  gunicorn's hooks have nowhere else to keep it
    try:
        engine = open_engine(_settings.database_url)
        try:
            access = _access or Snapshot(_settings.environment, open_box(_settings))
            access.refresh(engine)
        finally:
            engine.dispose()
    except Exception:  # noqa: BLE001  the rehearsal, and each worker, reads all of it then, and says what is wrong
        _access = None
        return
    _access = access
    gc.collect()
    gc.freeze()  # what is not looked at by a worker's garbage collector goes on being shared


def _speaks_http1(config: Any) -> bool:  # noqa: ANN401  gunicorn's type
    """Return whether the workers can speak what gunicorn is configured to."""
    if worker_class == OURS and ("h2" in config.http_protocols or config.http2_cleartext != "off"):
        sys.stderr.write("penstock: Penstock's worker speaks HTTP/1.1 alone; for HTTP/2 put a proxy in front, or set PENSTOCK_WORKER_CLASS=gthread\n")
        return False
    return True


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
    global _told  # noqa: PLW0603  as above
    told, tell = os.pipe()
    child = os.fork()
    if child:
        os.close(tell)
        with os.fdopen(told, "rb") as pipe:
            answer = pipe.read()
        with suppress(ChildProcessError):
            os.waitpid(child, 0)
        _told = answer.removeprefix(GOOD)
        return answer.startswith(GOOD)
    try:
        os.write(tell, GOOD + Host(_settings).rehearse(_access))
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
    app.host.told = _told
    try:
        app.host.start(kind="serve", access=_access)
    except CannotStart as error:
        sys.stderr.write(f"penstock: {error}\n")
        sys.exit(error.exit_code)
    gc.collect()
    gc.freeze()  # what is there now stays: no collection needs to look at it


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
