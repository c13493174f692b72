"""gunicorn's configuration.

`gunicorn -c python:penstock.server.config wsgi:app` serves as `penstock serve` does. gunicorn reads
every name in this module that is one of its settings or hooks.
"""

from __future__ import annotations

import os
import shutil
import ssl
import sys
from collections.abc import Callable
from typing import Any

from gunicorn.glogging import Logger as _GunicornLogger

from penstock import logs, metrics
from penstock.errors import CannotStart
from penstock.http.watchdog import DeadlineTlsSocket
from penstock.plugins.progress import write_progress_to
from penstock.server.arbiter import adapt, rehearse_start
from penstock.server.arbiter_state import ArbiterState
from penstock.server.startup_checks import can_listen, supports_protocols
from penstock.server.worker_class import PENSTOCK_WORKER, choose_worker_class
from penstock.server.worker_ends import prepare
from penstock.server.worker_start import (
    freeze_memory,
    prepare_pages,
    start_host,
    stop_in_time,
)
from penstock.settings import Settings

try:
    _settings = Settings.from_env(os.environ)
    worker_class, _warning = choose_worker_class(_settings.worker_class)
except CannotStart as error:
    logs.print_error(str(error), os.environ.get("PENSTOCK_LOG_FORMAT", "auto"))
    sys.exit(error.exit_code)

_metrics_folder = metrics.create_shared_folder()  # None where the supervisor created it
_state = ArbiterState(_settings)

bind = [_settings.bind, *([_settings.internal_bind] if _settings.internal_bind else [])]
workers = _settings.workers
threads = _settings.threads
worker_tmp_dir = "/dev/shm" if os.path.isdir("/dev/shm") else None  # noqa: S108, PTH112  heartbeats must not wait for a disk
graceful_timeout = _settings.graceful_timeout
timeout = 60
keepalive = _settings.keep_alive
limit_request_line = 8190  # RFC 9112 section 3 recommends 8000 at least
limit_request_field_size = _settings.max_header
preload_app = False  # a reload must load plugins anew
control_socket_disable = True
# Otherwise headers of a loopback peer, SCRIPT_NAME and PATH_INFO among them, rewrite the path.
forwarded_allow_ips = ""
forwarder_headers = ""
accesslog = None  # the dispatcher logs calls, without their query strings
logger_class = "penstock.server.config.Logger"


class Logger(_GunicornLogger):  # type: ignore[misc]  # gunicorn ships no types
    """Writes gunicorn's own events to Penstock's log."""

    def exception(self, msg: Any, *args: Any, **kwargs: Any) -> None:  # noqa: ANN401  gunicorn's types
        """Log an exception, unless a client was silent for too long."""
        if not isinstance(sys.exception(), BlockingIOError):
            super().exception(msg, *args, **kwargs)

    def setup(self, cfg: Any) -> None:  # noqa: ANN401  gunicorn's type
        """Configure the log."""
        super().setup(cfg)
        logs.configure(_settings)
        self.error_log.handlers[:] = []
        self.error_log.propagate = True


def ssl_context(config: Any, default: Callable[[], ssl.SSLContext]) -> ssl.SSLContext:  # noqa: ANN401, ARG001  gunicorn's type
    """Return a TLS context whose connections accept a deadline for reading."""
    context = default()
    context.sslsocket_class = DeadlineTlsSocket
    return context


def on_starting(server: Any) -> None:  # noqa: ANN401  gunicorn's type
    """Check and rehearse the start. Exit with code 3 if no worker could start.

    gunicorn itself would print a traceback, or stop later.
    """
    if _warning:
        server.log.warning(_warning)
    log_format = _settings.log_format
    if not (
        supports_protocols(server.cfg, worker_class, log_format)
        and can_listen(server, log_format)
        and rehearse_start(server, _state)
    ):
        if server.pidfile is not None:
            server.pidfile.unlink()
        sys.exit(CannotStart.exit_code)
    adapt(server, _state)


def pre_fork(server: Any, worker: Any) -> None:  # noqa: ANN401, ARG001  gunicorn's types
    """Start the heartbeat of a worker, and note what its end is judged by.

    gunicorn starts the heartbeat later, so it would never end a worker that hangs in a plugin's
    import.
    """
    prepare(worker)
    worker.tmp.notify()


def post_fork(server: Any, worker: Any) -> None:  # noqa: ANN401, ARG001  gunicorn's types
    """Have the worker write which plugin it loads."""
    write_progress_to(worker.loading_note.fileno())


def post_worker_init(worker: Any) -> None:  # noqa: ANN401  gunicorn's type
    """Start the host in the worker, and announce it to the arbiter."""
    start_host(worker, _state)
    if worker_class != PENSTOCK_WORKER:
        stop_in_time(worker, graceful_timeout)
    freeze_memory()
    _state.announce_ready()
    prepare_pages(worker)


def child_exit(server: Any, worker: Any) -> None:  # noqa: ANN401, ARG001  gunicorn's types
    """Keep the counters of a worker that ended, and remove its gauges."""
    metrics.forget_process(worker.pid)


def on_exit(server: Any) -> None:  # noqa: ANN401, ARG001  gunicorn's type
    """Remove the folder of the metrics, if this process created it."""
    if _metrics_folder is not None:
        shutil.rmtree(_metrics_folder, ignore_errors=True)


def worker_exit(server: Any, worker: Any) -> None:  # noqa: ANN401, ARG001  gunicorn's types
    """Stop the host of a worker, which writes its remaining records."""
    app = getattr(worker, "wsgi", None)
    if app is not None:
        app.host.stop()
