"""gunicorn's configuration.

`gunicorn -c python:penstock.server.config wsgi:app` serves as `penstock serve` does.
"""

from __future__ import annotations

import gc
import mmap
import os
import select
import shutil
import signal
import socket
import ssl
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from types import FrameType
from typing import Any

import structlog
from gunicorn import __version__, version_info
from gunicorn.glogging import Logger as _GunicornLogger
from gunicorn.util import load_class

from penstock import logs, metrics
from penstock.errors import CannotStart, StartDelayed
from penstock.host.host import Host
from penstock.http.watchdog import DeadlineTlsSocket, shutdown_schedule
from penstock.plugins.guard import ENDED, HANGS, LONGEST_LOAD_S
from penstock.server.inherited import InheritedView
from penstock.settings import Settings

# What a rehearsal answers; told: why it can't start.
GOOD, LATER, TOLD, KILLED = b"good", b"later", b"told", b"killed"
WHY_LATER = {
    LATER: "the database is away",
    KILLED: "it was killed while plugins were loaded, as the kernel does where memory runs out",
}
REASON = 1000  # bytes of why it can't start
DIGEST = 32  # bytes of what a rehearsal has reported
ENDING = (signal.SIGTERM, signal.SIGINT, signal.SIGQUIT)
# Seconds between two tries to start while the database is away.
FIRST_PAUSE, LONGEST_PAUSE = 0.5, 15.0
LOOK = 0.2  # seconds between two looks at what is waited for
OURS = "penstock.server.worker.Worker"
# The releases of gunicorn that our worker was held against, byte by byte (tests/wire).
TESTED = ((26, 2),)


def _worker_class(wanted: str) -> tuple[str, str]:
    """Return the class of gunicorn's workers, and why it is not the one that was wanted."""
    if wanted != "penstock":
        try:
            load_class(wanted)
        except Exception:  # noqa: BLE001  gunicorn raises several kinds
            logs.print_error(
                f"PENSTOCK_WORKER_CLASS={wanted} is no worker of gunicorn; write penstock or"
                " gthread",
                _settings.log_format,
            )
            sys.exit(CannotStart.exit_code)
        return wanted, ""
    if version_info[:2] not in TESTED:
        known = ", ".join(f"{major}.{minor}" for major, minor in TESTED)
        return (
            "gthread",
            (
                f"gunicorn {__version__} was not tested with Penstock's worker ({known} were):"
                " using gunicorn's gthread"
            ),
        )
    if not hasattr(select, "epoll"):
        return (
            "gthread",
            "this system has no epoll, which Penstock's worker needs: using gunicorn's gthread",
        )
    return OURS, ""


try:
    _settings = Settings.from_env(os.environ)
except CannotStart as error:
    logs.print_error(str(error), os.environ.get("PENSTOCK_LOG_FORMAT", "auto"))
    sys.exit(error.exit_code)

_made_for_metrics = metrics.create_shared_folder()
_ready, _tell_ready = os.pipe()  # a byte for each worker that answers calls
os.set_blocking(_ready, False)
_draining = mmap.mmap(-1, 1)  # 1 once this server is about to end; workers see it
_ending: set[int] = set()  # signals that end this process and have come
_told = b""  # what the last rehearsal has reported, so that no worker says it again
_view = InheritedView(_settings)  # read here, for all workers: what is forked is shared memory
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
# Else headers of a loopback peer, SCRIPT_NAME and PATH_INFO among them, would rewrite the path.
forwarded_allow_ips = ""
forwarder_headers = ""
accesslog = None  # calls are logged by the dispatcher, which never shows a query string
logger_class = "penstock.server.config.Logger"


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
    context.sslsocket_class = DeadlineTlsSocket
    return context


def on_starting(server: Any) -> None:  # noqa: ANN401  gunicorn's type
    """End the start with exit code 3 where no worker could work, and refuse a reload then.

    Gunicorn would end in a traceback or halt.

    While the database is away it is tried again and again: nobody has to do anything here for that
    to end.
    """
    if _warning:
        server.log.warning(_warning)
    if not _speaks_http1(server.cfg) or not _free(server) or not _started(server):
        if server.pidfile is not None:
            server.pidfile.unlink()
        sys.exit(CannotStart.exit_code)
    _adapt(server)


def _adapt(server: Any) -> None:  # noqa: ANN401  gunicorn's type
    """Have the arbiter rehearse reloads, drain before it stops, and refresh its view of access."""
    reload, handle, stop, manage = server.reload, server.signal, server.stop, server.manage_workers

    def noted(number: int, frame: FrameType | None) -> None:
        if number in ENDING:
            _ending.add(number)
        handle(number, frame)

    def careful() -> None:
        server.log.debug("reload: reading the access data and rehearsing a start")
        _view.read()
        answer = _rehearsed(server)
        if answer == GOOD:
            server.log.debug("reload: the rehearsal succeeded; starting new workers")
            _replace(server, reload)
        else:
            server.log.error("not reloaded: the workers go on with what they have")
            metrics.record_rejected_reload(
                answer.removeprefix(TOLD).decode("utf-8", "replace")
                or "a start did not succeed; the log says why"
            )

    murder = server.murder_workers

    def looked_after() -> None:
        murder()
        _view.keep_up()

    def drained(graceful: bool = True) -> None:
        if graceful:
            _drain(server)
        stop(graceful)

    def managed() -> None:
        # Within a reload the old workers may be the only ones that answer while this server drains.
        if not _is_to_end():
            manage()

    server.reload, server.signal, server.stop, server.manage_workers = (
        careful,
        noted,
        drained,
        managed,
    )
    server.murder_workers = looked_after


def _started(server: Any) -> bool:  # noqa: ANN401  gunicorn's type
    """Rehearse a start until it is known whether it can succeed.

    Signals that would end this process end it; a reload means nothing yet.
    """
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    pause = FIRST_PAUSE
    try:
        while True:
            _view.read()
            answer = _rehearsed(server)
            if answer not in WHY_LATER:
                return answer == GOOD
            server.log.warning(
                "not started yet: %s; trying again in %g s", WHY_LATER[answer], pause
            )
            time.sleep(pause)
            pause = min(pause * 2, LONGEST_PAUSE)
    finally:
        signal.signal(signal.SIGHUP, before)


class _ToEnd(Exception):
    """A reload is broken off: this server is to end."""


def _replace(server: Any, reload: Callable[[], None]) -> None:  # noqa: ANN401  gunicorn's type
    """Reload, and tell the old workers to stop once as many new ones answer calls.

    Gunicorn itself would tell them at once.

    gunicorn then waits until they have ended, which takes as long as their calls. A signal that
    ends this server ends that too.
    """
    with suppress(BlockingIOError):
        os.read(_ready, 4096)  # those of before
    manage, reap = server.manage_workers, server.reap_workers

    def manage_later() -> None:
        until, ready = time.monotonic() + LONGEST_LOAD_S, 0
        while ready < server.num_workers and time.monotonic() < until:
            if select.select([_ready], [], [], LOOK)[0]:
                ready += len(os.read(_ready, 4096))
            server.reap_workers()
        manage()

    def reap_until_end() -> None:
        reap()
        if _is_to_end():
            raise _ToEnd

    server.manage_workers, server.reap_workers = manage_later, reap_until_end
    try:
        with suppress(_ToEnd):
            reload()
    finally:
        server.manage_workers, server.reap_workers = manage, reap


def _drain(server: Any) -> None:  # noqa: ANN401  gunicorn's type
    """Answer `/-/ready` with 503 for a while before anything else ends.

    Load balancers then send their calls elsewhere.
    """
    _draining[0] = 1
    until = time.monotonic() + _settings.drain_delay
    if server.WORKERS and _settings.drain_delay:
        server.log.info("draining for %g s: not ready, and answering calls", _settings.drain_delay)
    while server.WORKERS and time.monotonic() < until:
        time.sleep(LOOK)
        server.reap_workers()


def _say(text: str) -> None:
    logs.print_error(text, _settings.log_format)


def _speaks_http1(config: Any) -> bool:  # noqa: ANN401  gunicorn's type
    """Return whether the workers can speak what gunicorn is configured to."""
    if worker_class == OURS and ("h2" in config.http_protocols or config.http2_cleartext != "off"):
        _say(
            "Penstock's worker speaks HTTP/1.1 alone; for HTTP/2 put a proxy in front, or set"
            " PENSTOCK_WORKER_CLASS=gthread"
        )
        return False
    return True


def _free(server: Any) -> bool:  # noqa: ANN401  gunicorn's type
    """Say whether the addresses can be listened on.

    Gunicorn itself would try for five seconds and then not say why.
    """
    if server.LISTENERS or server.master_pid or os.environ.get("LISTEN_FDS"):
        return True  # they come from the process before, or from systemd
    for address in server.cfg.address:
        if not isinstance(address, tuple):
            if isinstance(address, str) and not Path(address).parent.is_dir():
                _say(
                    f"unix:{address} can't be listened on: there is no folder"
                    f" {Path(address).parent}"
                )
                return False
            continue
        host, port = address[0], address[1]
        try:
            family, kind, protocol, _, where = socket.getaddrinfo(
                host, port, type=socket.SOCK_STREAM
            )[0]
            with socket.socket(family, kind, protocol) as probe:
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                probe.bind(where)
        except OSError as error:
            _say(
                f"{host}:{port} can't be listened on: {error.strerror}; choose another with --bind"
            )
            return False
    return True


def _rehearsed(server: Any) -> bytes:  # noqa: ANN401  gunicorn's type
    """Try a start in a child, so that neither plugins nor threads come into this process.

    Return GOOD, LATER, or nothing where it can't.

    A pipe tells how it went: at a reload gunicorn's own handler may be the one that collects the
    child, and its exit code. Plugin code may hang while it is imported: the child is waited for so
    long and no longer, and not at all once this process is told to stop.
    """
    global _told  # noqa: PLW0603  as above
    told, tell = os.pipe()
    child = os.fork()
    if child:
        os.close(tell)
        answer = _answer_of(server, child, told)
        os.close(told)
        _told = answer.removeprefix(GOOD)
        return GOOD if answer.startswith(GOOD) else answer
    try:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        os.write(tell, GOOD + Host(_settings).rehearse(_view.access))
    except StartDelayed as error:
        _say(str(error))
        os.write(tell, LATER)
    except CannotStart as error:
        _say(str(error))
        os.write(tell, TOLD + str(error).encode("utf-8", "replace")[:REASON])
    except BaseException as error:  # noqa: BLE001  whatever it is, the child must end here
        structlog.get_logger("penstock").exception("can't start", error=type(error).__name__)
    finally:
        sys.stderr.flush()
        os._exit(0)


def _answer_of(server: Any, child: int, told: int) -> bytes:  # noqa: ANN401  gunicorn's type
    """Return what a child has written once it has ended, or nothing: then why is in the log."""
    answer, until = b"", time.monotonic() + LONGEST_LOAD_S
    while time.monotonic() < until and not _is_to_end():
        if select.select([told], [], [], LOOK)[0]:
            part = os.read(told, 4096)
            answer += part
            # What it has forked may hold the pipe open.
            if not part or answer.startswith((LATER, TOLD)) or len(answer) == len(GOOD) + DIGEST:
                break
        if server.WORKERS:  # one that has ended meanwhile is replaced
            server.reap_workers()
            server.manage_workers()
    else:
        with suppress(ProcessLookupError):
            os.kill(child, signal.SIGKILL)
        if not _is_to_end():
            server.log.error(HANGS)
        answer = b""
    status = 0
    with suppress(ChildProcessError):
        _, status = os.waitpid(child, 0)
    if not answer and not _is_to_end() and time.monotonic() < until:
        if os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL:
            return KILLED
        server.log.error(ENDED)
    return answer


def _is_to_end() -> bool:
    """Say whether a signal that ends this process has come."""
    return bool(_ending)


def pre_fork(server: Any, worker: Any) -> None:  # noqa: ANN401, ARG001  gunicorn's types
    """Count from here how long a worker is silent.

    gunicorn counts from its first sign of life, so one that hangs in a plugin would stay for ever.
    """
    worker.tmp.notify()


def post_worker_init(worker: Any) -> None:  # noqa: ANN401  gunicorn's type
    """Start the host in the worker, after the fork.

    A start was rehearsed, so nothing that ends a worker here may end the others: what the database
    does, or an operator changes, is waited for. A worker without a view of access that is fresh
    accepts nothing before the others' views are as old as its own.
    """
    app = worker.wsgi
    app.host.report.already_written = _told
    app.host.health.is_draining = lambda: _draining[0] == 1
    app.host.upkeep.on_confirmed = _view.confirm
    access = _view.inherit()
    until, tell_at = time.monotonic() + _settings.max_staleness, 0.0
    while worker.alive:
        usable = (
            access is not None
            and not _view.contradicted
            and access.age() <= _settings.max_staleness
        )
        fresh = usable or (access is not None and time.monotonic() >= until)
        try:
            app.host.start(kind="serve", access=access, respawned=True, without_database=fresh)
            break
        # What a start can't do was rehearsed, so this has come to be since, and may pass.
        except CannotStart as error:
            if time.monotonic() >= tell_at:
                tell_at = time.monotonic() + LONGEST_PAUSE
                why = (
                    ""
                    if access is None
                    else (
                        " (its view of access is"
                        f" {'outdated' if _view.contradicted else f'{access.age():.0f} s old'})"
                    )
                )
                worker.log.error("a worker waits to start%s: %s", why, error)
            metrics.set_gauge("penstock_processes_waiting", 1)
            worker.notify()
            time.sleep(FIRST_PAUSE)
    if worker_class != OURS:
        _end_in_order(worker)
    if tell_at:
        metrics.set_gauge("penstock_processes_waiting", 0)
    gc.collect()
    gc.freeze()  # what is there now stays: no collection needs to look at it
    os.write(_tell_ready, b"1")


def _end_in_order(worker: Any) -> None:  # noqa: ANN401  gunicorn's type
    """Have gunicorn's own worker answer what has not ended, and leave, shortly before it is killed.

    Ours does so by itself.
    """
    answer, leave = shutdown_schedule(graceful_timeout)
    worker.cfg.set("graceful_timeout", max(1, int(leave)))
    stop = worker.handle_exit

    def handle_exit(number: int, frame: FrameType | None) -> None:
        first = worker.alive
        stop(number, frame)
        if first:
            worker.wsgi.end_calls(time.monotonic() + answer)

    signal.signal(signal.SIGTERM, handle_exit)


def child_exit(server: Any, worker: Any) -> None:  # noqa: ANN401, ARG001  gunicorn's types
    """Forget what only a living worker can say, and go on counting what it has counted."""
    metrics.forget_process(worker.pid)


def on_exit(server: Any) -> None:  # noqa: ANN401, ARG001  gunicorn's type
    """Take away what was made for this server."""
    if _made_for_metrics is not None:
        shutil.rmtree(_made_for_metrics, ignore_errors=True)


def worker_exit(server: Any, worker: Any) -> None:  # noqa: ANN401, ARG001  gunicorn's types
    """Write what the host still holds."""
    app = getattr(worker, "wsgi", None)
    if app is not None:
        app.host.stop()
