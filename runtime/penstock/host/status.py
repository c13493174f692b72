"""The state of a process and its server, for operators: what fails, since when, and why.

It must be there when the database is not, so it asks nothing: everything comes from what the
threads of this process last saw. It names pipelines, hosts and processes. It has no consumer, no
key, and no value of a variable.
"""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from importlib.metadata import version
from typing import Any

from penstock import metrics, threads
from penstock.db.engine import writes
from penstock.gate.compliance import Evaluation, State
from penstock.gate.rates import Limiter
from penstock.host.database_state import DatabaseState
from penstock.host.parts import HostParts
from penstock.host.view import CurrentView


def status_document(parts: HostParts, limiter: Limiter | None, *, ready: bool) -> dict[str, Any]:
    """Return the status document of a process: `/-/status` on the internal listener.

    `limiter` is None before the start.
    """
    attendance = parts.attendance
    return {
        "environment": parts.settings.environment,
        "host": socket.gethostname(),
        "pid": os.getpid(),
        "version": version("penstock"),
        "since": _moment(parts.started_at),
        "ready": ready,
        "snapshot": _snapshot(parts.view),
        "database": _database(parts.database),
        "redis": _redis(limiter),
        "pipelines": _pipelines(parts.view),
        "plugin_errors": len(parts.catalog.problems),
        "reloads": _reloads(),
        "runs": {
            "workers": attendance.workers,
            "waiting": attendance.waiting,
            "waiting_age_s": _age(attendance.waiting_since),
            "unattended": attendance.unattended,
            "unattended_age_s": _age(attendance.unattended_since),
        },
        "processes": [
            {
                "kind": row.kind,
                "host": row.host,
                "pid": row.pid,
                "since": row.started_at.isoformat(),
                "seen": row.seen_at.isoformat(),
            }
            for row in attendance.processes
        ],
        "processes_waiting": int(metrics.gauge_value("penstock_processes_waiting") or 0),
        "threads": [
            {
                "name": thread.name,
                "age_s": round(thread.age, 1),
                "limit_s": thread.limit,
                "essential": thread.essential,
                "failures": thread.failures,
            }
            for thread in threads.running()
            if thread.limit is not None
        ],
    }


def _moment(seconds: float | None) -> str | None:
    return None if seconds is None else datetime.fromtimestamp(seconds, UTC).isoformat()


def _age(since: float | None) -> float | None:
    """Return the seconds since a moment, itself in seconds since the epoch."""
    return None if since is None else round(max(0.0, time.time() - since), 1)


def _snapshot(view: CurrentView) -> dict[str, Any]:
    access = view.access
    if access is None:
        return {"revision": None, "age_s": None, "fresh": False}
    usable = access.broken is None
    return {
        "revision": access.revision,
        "age_s": round(access.age(), 1) if usable else None,
        "fresh": view.fresh(),
    }


def _database(database: DatabaseState) -> dict[str, Any]:
    answered = database.answered_at > float("-inf")
    return {
        "up": not database.away,
        "away_since": _moment(database.away_since),
        "answered_age_s": round(time.monotonic() - database.answered_at, 1) if answered else None,
        "trouble": database.trouble,
        "read_only": writes.read_only,
        "disk_full": writes.full,
    }


def _redis(limiter: Limiter | None) -> dict[str, Any]:
    used = limiter is not None and limiter.shared
    return {"used": used, "away": used and limiter is not None and limiter.away}


def _pipelines(view: CurrentView) -> dict[str, Any]:
    sides = (("external", view.evaluated.external), ("internal", view.evaluated.internal))
    evaluations = [item for _, side in sides for item in side.items()]
    served = {name for name, evaluation in evaluations if evaluation.served}
    disabled = {name for name, evaluation in evaluations if evaluation.state is State.DISABLED}
    blocked = [document for listener, side in sides for document in _blocked(listener, side)]
    return {"served": len(served), "disabled": sorted(disabled), "blocked": blocked}


def _blocked(listener: str, evaluated: Mapping[str, Evaluation]) -> Iterator[dict[str, Any]]:
    for identifier, item in sorted(evaluated.items()):
        if item.state is State.BLOCKED:
            reasons = [
                {"reason": violation.reason, "fix": violation.fix} for violation in item.violations
            ]
            yield {"pipeline": identifier, "listener": listener, "reasons": reasons}


def _reloads() -> dict[str, Any]:
    rejected = metrics.rejected_reloads()
    if rejected is None:
        return {"rejected": 0, "last_at": None, "last_reason": None}
    return {
        "rejected": rejected.number,
        "last_at": _moment(rejected.at),
        "last_reason": rejected.reason,
    }
