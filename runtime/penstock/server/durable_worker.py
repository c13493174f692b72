"""The body of `penstock worker`: execute durable runs, or rehearse a start.

`penstock serve` starts this command as a child process, and learns its state through a pipe: the
exit code alone may be that of plugin code that ended the process.
"""

from __future__ import annotations

import os
import signal
import sys
from contextlib import suppress

from penstock import logs
from penstock.access.encryption import load_secret_box
from penstock.errors import CannotStart
from penstock.host.host import Host
from penstock.plugins.progress import write_progress_to
from penstock.plugins.source_tree import keep_tree, load_tree
from penstock.settings import Settings
from penstock.worker import TakenOver, Worker

MAX_REASON_BYTES = 1000
# What the child writes to the pipe: it executes runs, has none to execute, or loaded all plugins.
READY, NOT_NEEDED, LOADED = b"1", b"0", b"2"
STOPPED = 143  # the exit code that shells report for SIGTERM
TAKEN = 75  # EX_TEMPFAIL
STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGQUIT)


def files_option(sources: int, progress: int, state: int) -> tuple[str, str]:
    """Return the option by which a child process gets its open files, by their descriptors."""
    return "--files", f"{sources},{progress},{state}"


def use_files(option: str) -> int:
    """Use the files of `files_option` in the child, and return the one to announce its state."""
    sources, progress, state = map(int, option.split(","))
    keep_tree(load_tree(sources))
    write_progress_to(progress)
    return state


def rehearse(settings: Settings, reason_fd: int | None = None) -> int:
    """Return the exit code that a start would have with these settings and plugins.

    LOADED is written to `reason_fd` if it is 0, else the reason.
    """
    logs.configure(settings)
    if reason_fd is not None:
        os.set_inheritable(reason_fd, False)
    try:
        host = Host(settings)
        host.report.already_written = None  # gunicorn's rehearsal logs what is not served
        host.rehearse()
    except CannotStart as error:
        logs.print_error(str(error), settings.log_format)
        if reason_fd is not None:
            os.write(reason_fd, str(error).encode("utf-8", "replace")[:MAX_REASON_BYTES])
        return error.exit_code
    _announce(reason_fd, LOADED)
    return 0


def work(
    settings: Settings, *, if_needed: bool, ready_fd: int | None = None, respawned: bool = False
) -> int:
    """Execute durable runs until a signal stops the process, and return the exit code.

    Runs in progress are then left to other workers. READY is written to `ready_fd` once the worker
    executes runs, NOT_NEEDED if no pipeline needs it. PENSTOCK_STRICT does not apply to a worker
    that was `respawned`.
    """
    logs.configure(settings)
    if ready_fd is not None:
        os.set_inheritable(ready_fd, False)
    from penstock.durable.engine_dbos import (  # noqa: PLC0415  web processes need not load it
        DbosExecutor,
    )

    host = Host(settings)
    # Under `penstock serve`, gunicorn's workers log what is not served.
    host.report.already_written = None if if_needed else b""
    worker = Worker(
        host, DbosExecutor(settings.database_url, settings.environment, load_secret_box(settings))
    )
    if if_needed and not worker.needed:
        return _not_needed(settings, ready_fd, strict=settings.strict and not respawned)
    for number in STOP_SIGNALS:
        signal.signal(number, lambda *_: worker.stop())
    # Under `penstock serve` the parent handles a reload. A worker of its own stops in order, and
    # its service manager starts it again.
    signal.signal(signal.SIGHUP, signal.SIG_IGN if if_needed else lambda *_: worker.stop())
    code = 0 if not if_needed else STOPPED
    try:
        worker.run(ready=lambda: _announce(ready_fd, READY), respawned=respawned)
    except CannotStart as error:
        # gunicorn's rehearsal fails with the same error earlier, and prints it.
        if not (if_needed and not respawned and host.view.access is None):
            logs.print_error(str(error), settings.log_format)
        code = error.exit_code
    except TakenOver as error:
        logs.print_error(str(error), settings.log_format)
        code = TAKEN
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)  # the interpreter would wait for threads of runs that did not end in time


def _not_needed(settings: Settings, ready_fd: int | None, *, strict: bool) -> int:
    """Return the exit code of a worker without pipelines to execute.

    With PENSTOCK_STRICT its pipelines may be blocked; gunicorn's rehearsal prints why.
    """
    try:
        if strict:
            Host(settings).rehearse()
    except CannotStart as error:
        return error.exit_code
    _announce(ready_fd, NOT_NEEDED)
    return 0


def _announce(fd: int | None, state: bytes) -> None:
    if fd is not None:
        with suppress(OSError):
            os.write(fd, state)
            os.close(fd)
