"""Write the pages for operators: settings, problem types, metrics and the status document."""

from __future__ import annotations

from collections.abc import Iterable

from penstock.cli.reference.markdown import code, sentence, table
from penstock.contracts.problem_types import CALL_PROBLEMS, RUN_PROBLEMS, ProblemType
from penstock.metrics import METRICS
from penstock.settings import SETTINGS

SETTINGS_INTRO = """# Settings

Settings are environment variables. A process reads them once, when it starts. A name that is not
in this table, or a value that is not valid, ends the start with exit code 3. `penstock settings`
prints the same table.
"""
PROBLEMS_INTRO = """# Problems

An error answer is a problem document (RFC 9457) with `type`, `title`, `status` and `detail`. `run`
is the id of the run; a path that no pipeline has gets none. `errors` lists every fault of a body or
of parameters.

`type` is relative, such as `not-found`. It is a name to compare: it is the same in every
environment and behind every proxy. RFC 9457 recommends absolute URIs; Penstock does not use them.
A `PipelineError` of a handler may have a type of its own, which its plugin defines.

## Order of the answers

A call gets the first answer that applies:
"""
METRICS_INTRO = """# Metrics and status

## Metrics

`/-/metrics` on the internal listener is for Prometheus ([`PENSTOCK_METRICS`](settings.md)). It
covers all processes of one `penstock serve`. Ages are computed at the scrape, so the age of a value
that nothing refreshes grows.
"""
STATUS_INTRO = """## Status

`/-/status` exists on the internal listener only; elsewhere it is a 404. It is one JSON document
of the process that answers. It does not ask the database, so it works without the database. It
contains no consumer and no credential.
"""
RUNS_NOTE = """The metrics count a durable run twice: as `accepted`, and with its outcome. They do
not count runs that a separate `penstock worker` performs; `penstock runs list` lists those runs.
"""
STATUS_MEMBERS = (
    (("environment", "host", "pid", "version", "since"), "The process, and its start time."),
    (("ready",), "Whether `/-/ready` is 200."),
    (
        ("snapshot",),
        "Revision and age of the view of access, and whether it is recent enough to answer calls.",
    ),
    (
        ("database",),
        (
            "Whether the database answers, since when it does not, and the age of its last answer."
            " Also why changes can't be applied, and whether it is read-only or its disk is full."
        ),
    ),
    (("redis",), "Whether calls are counted in Redis, and whether Redis is away."),
    (
        ("pipelines",),
        (
            "The number of served pipelines, the disabled ones, and the blocked ones with listener,"
            " reason and fix."
        ),
    ),
    (("plugin_errors",), "The number of known plugin errors. The log has their text."),
    (
        ("reloads",),
        "The number of rejected reloads since the start, with time and reason of the last one.",
    ),
    (
        ("runs",),
        (
            "Living workers, waiting runs by pipeline, those without a living worker, and the"
            " longest wait of each. At most five seconds old."
        ),
    ),
    (("processes",), "The living processes of the environment, on all hosts."),
    (("processes_waiting",), "Processes of this server that wait for the database to start."),
    (
        ("threads",),
        "Background threads: seconds since the last heartbeat, the limit, and the failures.",
    ),
)


def settings() -> str:
    """Return the page of settings."""
    rows = ((code(row.name), code(row.default), sentence(row.help)) for row in SETTINGS)
    return f"{SETTINGS_INTRO}\n{table(('setting', 'default', 'meaning'), rows)}"


def problems() -> str:
    """Return the page of problem types, with one heading for each."""
    parts = [PROBLEMS_INTRO, _overview(CALL_PROBLEMS)]
    parts += ["\n## Problems of durable runs\n"]
    parts += ["A durable run that did not succeed has one of these in `problem`, or the problem"]
    parts += ["that its handler raised:\n", _overview(RUN_PROBLEMS), "\n## Types\n"]
    for problem in (*CALL_PROBLEMS, *(item for item in RUN_PROBLEMS if item.name != "timed-out")):
        of_run = next(
            (item for item in RUN_PROBLEMS if item.name == problem.name == "timed-out"), None
        )
        parts += [f"### {problem.name}\n", f"**{_statuses(problem)}.** {problem.when}"]
        parts += [f"A durable run: {of_run.when[0].lower()}{of_run.when[1:]}"] if of_run else []
        parts += [f"\n*Fix:* {problem.fix}\n"]
    return "\n".join(parts)


def metrics() -> str:
    """Return the page of metrics and of the status document."""
    rows = (
        (code(row.name), row.kind, ", ".join(code(label) for label in row.labels), row.help)
        for row in METRICS
    )
    members = ((", ".join(code(name) for name in names), text) for names, text in STATUS_MEMBERS)
    return "\n".join(
        (
            METRICS_INTRO,
            table(("metric", "kind", "labels", "meaning"), rows),
            "",
            RUNS_NOTE,
            STATUS_INTRO,
            table(("member", "meaning"), members),
        )
    )


def _overview(listed: Iterable[ProblemType]) -> str:
    rows = ((_statuses(item), f"[{code(item.name)}](#{item.name})", item.when) for item in listed)
    return table(("status", "`type`", "when"), rows)


def _statuses(problem: ProblemType) -> str:
    return ", ".join(str(status) for status in problem.statuses)
