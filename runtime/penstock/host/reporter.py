"""Writes what this process serves: at its start, and when that changes.

The housekeeping thread calls it twice a second; a call that finds nothing new costs a comparison.
"""

from __future__ import annotations

import os
import pwd
import socket
import time
from contextlib import suppress
from pathlib import Path

import msgspec

from penstock.db.deployments import ReportingProcess, write_report
from penstock.db.engine import Engine
from penstock.errors import PenstockError
from penstock.gate.evaluation import EvaluatedPipelines
from penstock.host.attendance import SERVING_TIMEOUT_S
from penstock.host.deployment_changes import changes_between
from penstock.host.parts import HostParts
from penstock.host.process_report import ProcessReport, encoded, read_report, report_of

INTERVAL_S = 15.0  # between two writes where the revision alone has changed, or one has failed
MAX_NAME_LENGTH = 64


class ProcessReporter:
    """The last report of this process, and when the next one is due."""

    def __init__(self, parts: HostParts) -> None:
        self._parts = parts
        self._process: str | None = None
        self._deployment: str | None = None
        # Of the last write: the process, its evaluation and the revision.
        self._written: tuple[str, EvaluatedPipelines, int] | None = None
        self._facts_written: tuple[str, str, int, int] | None = None
        self._next_at = float("-inf")  # `time.monotonic()` reading

    def listed_as(self, process: str) -> None:
        """Report from now on as a process of the list of processes, by its id there."""
        self._process = process

    def write_if_changed(self, engine: Engine) -> None:
        """Write what this process serves if that is new. Errors: a later call tries again."""
        process, view = self._process, self._parts.view
        evaluated, access = view.evaluated, view.access
        if process is None or access is None:
            return
        revision = access.revision
        # Read in this order: a report never has a revision that its states do not know yet.
        if evaluated.gates_version != access.gates_version:
            return
        now = time.monotonic()
        if self._written is not None:
            same = self._written[0] == process and self._written[1] is evaluated
            if same and (self._written[2] == revision or now < self._next_at):
                return
        elif now < self._next_at:
            return
        self._next_at, self._written = now + INTERVAL_S, None
        with suppress(PenstockError):
            self._write(engine, process, evaluated, revision)
            self._written = process, evaluated, revision

    def _write(
        self, engine: Engine, process: str, evaluated: EvaluatedPipelines, revision: int
    ) -> None:
        parts = self._parts
        facts = parts.view.snapshot().environment
        report = report_of(
            parts.catalog,
            evaluated,
            parts.view.secret_cleaner(),
            serves=parts.settings.pipelines,
        )
        stored = encoded(report, parts.catalog.code)
        facts_written = process, stored.digest, revision, facts.policy_version
        if facts_written == self._facts_written:  # it was evaluated again, with the same result
            return
        self._deployment = write_report(
            engine,
            ReportingProcess(
                process,
                facts.id,
                socket.gethostname(),
                int(parts.started_at * 1000),
                started_by(),
                revision,
                facts.policy_version,
                SERVING_TIMEOUT_S,
            ),
            stored,
            self._deployment,
            (lambda before: _changes(before, report)) if report.serves else None,
        )
        self._facts_written = facts_written


def _changes(before: bytes | None, report: ProcessReport) -> object:
    return msgspec.to_builtins(changes_between(read_report(before), report))


def started_by() -> str:
    """Return who started this process: the OS user, and the service manager where one is known."""
    uid = os.geteuid()
    try:
        user = pwd.getpwuid(uid).pw_name
    except KeyError:  # containers may have users without a name
        user = f"uid {uid}"
    environ = os.environ
    sudo = "".join(filter(str.isprintable, environ.get("SUDO_USER", "")))[:MAX_NAME_LENGTH]
    if "INVOCATION_ID" in environ:
        return f"{user} (systemd)"
    if "KUBERNETES_SERVICE_HOST" in environ:
        return f"{user} (Kubernetes)"
    if Path("/.dockerenv").exists():
        return f"{user} (container)"
    return f"{user} (sudo by {sudo})" if sudo else user
