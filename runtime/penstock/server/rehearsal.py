"""Rehearse a start in a child process, before the server starts and before each reload.

Plugins and threads must not get into the arbiter: it forks workers, and a reload must load plugins
anew. The child reports through a pipe, because at a reload gunicorn's own handler may collect the
child and its exit code. Plugin code may hang or end the process while it is imported: the arbiter
waits for a limited time, and stops waiting when it receives a signal to stop.
"""

from __future__ import annotations

import os
import select
import signal
import sys
import time
from contextlib import suppress
from enum import Enum
from typing import Any, NamedTuple

import structlog

from penstock import logs
from penstock.errors import CannotStart, StartDelayed
from penstock.host.host import Host
from penstock.plugins.guard import LONGEST_LOAD_S, ended_text, hangs_text
from penstock.plugins.progress import LoadingNote, write_progress_to
from penstock.plugins.source_tree import SourceTree, keep_tree, read_tree
from penstock.server.arbiter_state import ArbiterState

CHECK_INTERVAL_S = 0.2
MAX_REASON_BYTES = 1000
DIGEST_BYTES = 32  # of the messages that the child logged
# What the child writes to the pipe, before the digest or the reason.
GOOD, DELAYED, FAILED = b"good", b"delayed", b"failed"
UNKNOWN_REASON = "the rehearsed start failed; see the log"


class Outcome(Enum):
    """How a rehearsal ended."""

    GOOD = "good"
    DATABASE_AWAY = "the database is away"
    KILLED = "it was killed while plugins were loaded, as the kernel does when memory runs out"
    FAILED = "failed"


RETRYABLE = frozenset({Outcome.DATABASE_AWAY, Outcome.KILLED})


class Rehearsal(NamedTuple):
    """The outcome of a rehearsal, with the sources of plugins that it loaded.

    `reported` is the digest of the messages it logged, `reason` why it failed.
    """

    outcome: Outcome
    tree: SourceTree
    reported: bytes = b""
    reason: str = UNKNOWN_REASON


def rehearse(server: Any, state: ArbiterState) -> Rehearsal:  # noqa: ANN401  gunicorn ships no types
    """Rehearse a start in a child process, and return its result.

    The digest of a successful rehearsal is stored in the state. The caller keeps its sources.
    """
    try:
        tree = read_tree(state.settings.plugin_path)
    except OSError as error:
        reason = f"{error.filename} can't be read: {error.strerror}"
        logs.print_error(reason, state.settings.log_format)
        return Rehearsal(Outcome.FAILED, SourceTree((), (), {}), reason=reason)
    read_end, write_end = os.pipe()
    note = LoadingNote()
    child = os.fork()
    if not child:
        write_progress_to(note.fileno())
        keep_tree(tree)
        _run_child(state, write_end)
    os.close(write_end)
    try:
        rehearsal = _result_of(server, state, _Child(child, read_end, note, tree))
    finally:
        os.close(read_end)
        note.close()
    if rehearsal.outcome is Outcome.GOOD:
        state.reported = rehearsal.reported
    return rehearsal


class _Child(NamedTuple):
    """The child that rehearses: its process, the end of its pipe, its plugin and its sources."""

    pid: int
    read_end: int
    note: LoadingNote
    tree: SourceTree


def _run_child(state: ArbiterState, write_end: int) -> None:
    log_format = state.settings.log_format
    try:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        os.write(write_end, GOOD + Host(state.settings).rehearse(state.view.access))
    except StartDelayed as error:
        logs.print_error(str(error), log_format)
        os.write(write_end, DELAYED)
    except CannotStart as error:
        logs.print_error(str(error), log_format)
        os.write(write_end, FAILED + str(error).encode("utf-8", "replace")[:MAX_REASON_BYTES])
    except BaseException as error:  # noqa: BLE001  the child must end here in any case
        structlog.get_logger("penstock").exception("can't start", error=type(error).__name__)
    finally:
        sys.stderr.flush()
        os._exit(0)


def _result_of(server: Any, state: ArbiterState, child: _Child) -> Rehearsal:  # noqa: ANN401  as above
    """Return what the child reported, once it has ended. A missing report is logged."""
    deadline = time.monotonic() + LONGEST_LOAD_S
    report = _read_report(server, state, child.read_end, deadline)
    if report is None:
        with suppress(ProcessLookupError):
            os.kill(child.pid, signal.SIGKILL)
        with suppress(ChildProcessError):
            os.waitpid(child.pid, 0)
        reason = hangs_text(child.note.read())
        if not state.is_stopping():
            server.log.error(reason)
        return Rehearsal(Outcome.FAILED, child.tree, reason=reason)
    status = 0
    with suppress(ChildProcessError):
        _, status = os.waitpid(child.pid, 0)
    if report == b"" and not state.is_stopping() and time.monotonic() < deadline:
        if os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL:
            return Rehearsal(Outcome.KILLED, child.tree, reason=Outcome.KILLED.value)
        reason = ended_text(child.note.read())
        server.log.error(reason)
        return Rehearsal(Outcome.FAILED, child.tree, reason=reason)
    return _parsed(report, child.tree)


def _read_report(
    server: Any,  # noqa: ANN401  as above
    state: ArbiterState,
    read_end: int,
    deadline: float,
) -> bytes | None:
    """Return the child's report, empty if it ended without one, None if it must be killed."""
    report = b""
    while time.monotonic() < deadline and not state.is_stopping():
        if select.select([read_end], [], [], CHECK_INTERVAL_S)[0]:
            part = os.read(read_end, 4096)
            report += part
            # Processes that plugin code has started may keep the pipe open.
            if (
                not part
                or report.startswith((DELAYED, FAILED))
                or len(report) == len(GOOD) + DIGEST_BYTES
            ):
                return report
        if server.WORKERS:  # replace workers that end meanwhile
            server.reap_workers()
            server.manage_workers()
    return None


def _parsed(report: bytes, tree: SourceTree) -> Rehearsal:
    if report.startswith(GOOD):
        return Rehearsal(Outcome.GOOD, tree, reported=report.removeprefix(GOOD), reason="")
    if report == DELAYED:
        return Rehearsal(Outcome.DATABASE_AWAY, tree, reason=Outcome.DATABASE_AWAY.value)
    reason = report.removeprefix(FAILED).decode("utf-8", "replace")
    return Rehearsal(Outcome.FAILED, tree, reason=reason or UNKNOWN_REASON)
