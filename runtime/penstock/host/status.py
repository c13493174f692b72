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
from penstock.host.host import AWAY, Host


def status_of(host: Host) -> dict[str, Any]:
    """Return the status document of a process: `/-/status` on the internal listener."""
    attendance = host.attendance
    return {
        "environment": host.settings.environment,
        "host": socket.gethostname(),
        "pid": os.getpid(),
        "version": version("penstock"),
        "since": _moment(host.started_at),
        "ready": host.checks()[0],
        "snapshot": _snapshot(host),
        "database": _database(host),
        "redis": _redis(host),
        "pipelines": _pipelines(host),
        "plugin_errors": len(host.problems),
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
                "kind": row["kind"],
                "host": row["host"],
                "pid": row["pid"],
                "since": row["started_at"].isoformat(),
                "seen": row["seen_at"].isoformat(),
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


def _snapshot(host: Host) -> dict[str, Any]:
    access = host.access
    if access is None:
        return {"revision": None, "age_s": None, "fresh": False}
    usable = access.broken is None
    return {
        "revision": access.revision,
        "age_s": round(access.age(), 1) if usable else None,
        "fresh": host.fresh(),
    }


def _database(host: Host) -> dict[str, Any]:
    return {
        "up": host.trouble != AWAY,
        "away_since": _moment(host.away_since),
        "answered_age_s": (
            round(time.monotonic() - host.answered_at, 1)
            if host.answered_at > float("-inf")
            else None
        ),
        "trouble": host.trouble,
        "read_only": writes.read_only,
        "disk_full": writes.full,
    }


def _redis(host: Host) -> dict[str, Any]:
    used = host.limiter is not None and host.limiter.shared
    return {"used": used, "away": used and host.limiter is not None and host.limiter.away}


def _pipelines(host: Host) -> dict[str, Any]:
    sides = (("external", host.evaluated), ("internal", host.evaluated_internal))
    served = {
        name
        for _, evaluated in sides
        for name, item in evaluated.items()
        if item.state in {State.SERVED, State.NON_CONFORMANT}
    }
    disabled = {
        name
        for _, evaluated in sides
        for name, item in evaluated.items()
        if item.state is State.DISABLED
    }
    blocked = [
        document for listener, evaluated in sides for document in _blocked(listener, evaluated)
    ]
    return {"served": len(served), "disabled": sorted(disabled), "blocked": blocked}


def _blocked(listener: str, evaluated: Mapping[str, Evaluation]) -> Iterator[dict[str, Any]]:
    for identifier, item in sorted(evaluated.items()):
        if item.state is State.REFUSED:
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
