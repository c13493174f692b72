"""Whether the condition of a rule holds now, and what it concerns."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

import msgspec

from penstock.alerts.kinds import Kind, written_duration, written_threshold
from penstock.alerts.rules import Rule
from penstock.contracts.outcomes import FAULTS, REJECTIONS
from penstock.db import call_sums, durable_runs, expiries, policies, processes
from penstock.db.call_counts import MINUTE
from penstock.db.engine import Connection
from penstock.db.expiries import Ending, Horizon
from penstock.durable.status import received_at
from penstock.runs.statistics import Sum

MAX_SUBJECTS = 100  # that a rule names
NAMED = 5  # of them in a summary
WORKER_SILENT_S = 15.0  # without a heartbeat, which workers send each second
# Policies that Penstock ships, the weakest first. Others can't be compared: a change counts.
STRENGTH = {"any": 0, "api-key": 1, "jwt-api-key": 2}


@dataclass(frozen=True, slots=True)
class Finding:
    """What made a condition hold: a sentence, and what it concerns, the most urgent first."""

    summary: str
    subjects: tuple[str, ...] = ()


Condition = Callable[[Connection, Rule, datetime], Finding | None]


def find(connection: Connection, rule: Rule, now: datetime) -> Finding | None:
    """Return what makes the condition of a rule hold, or None."""
    return CONDITIONS[rule.kind](connection, rule, now)


def _named(subjects: Sequence[str]) -> str:
    more = len(subjects) - NAMED
    return ", ".join(subjects[:NAMED]) + (f" and {more} more" if more > 0 else "")


def _interval(rule: Rule, now: datetime) -> call_sums.Intervals:
    moment = int(now.timestamp())
    end = moment // MINUTE * MINUTE + MINUTE
    # Calls are counted by minutes. The one in which the window begins belongs to it as a whole, or
    # calls of a few seconds on both sides of a minute would be in no window of a minute together.
    start = (moment - rule.settings.window_s) // MINUTE * MINUTE
    return call_sums.Intervals(rule.environment_id, start, end, MINUTE)


def _of_pipeline(rule: Rule, pipeline: str) -> bool:
    return rule.settings.pipeline in {"", pipeline}


def _totals(connection: Connection, rule: Rule, now: datetime) -> list[tuple[str, str, int]]:
    rows = call_sums.totals(connection, _interval(rule, now))
    return [row for row in rows if _of_pipeline(rule, row[0])]


def _error_rate(connection: Connection, rule: Rule, now: datetime) -> Finding | None:
    rows = _totals(connection, rule, now)
    calls = sum(number for _, _, number in rows)
    errors: dict[str, int] = {}
    for pipeline, outcome, number in rows:
        if outcome in FAULTS:
            errors[pipeline] = errors.get(pipeline, 0) + number
    failed = sum(errors.values())
    if (
        not failed
        or calls < rule.settings.minimum
        or 100 * failed < rule.settings.threshold * calls
    ):
        return None
    names = sorted(errors, key=lambda name: -errors[name])[:MAX_SUBJECTS]
    return Finding(
        f"{100 * failed / calls:.3g} % of {calls} calls are server errors, most at {names[0]}",
        tuple(names),
    )


def _latency(connection: Connection, rule: Rule, now: datetime) -> Finding | None:
    chosen = [rule.settings.pipeline] if rule.settings.pipeline else None
    total = Sum()
    for _, _, texts in call_sums.histograms(connection, _interval(rule, now), chosen):
        for buckets in msgspec.json.decode(f"[{texts}]", type=list[list[int]]):
            total.add("", sum(buckets), buckets)
    p95 = total.quantile(0.95)
    if p95 is None or total.calls < rule.settings.minimum or p95 < rule.settings.threshold:
        return None
    return Finding(f"p95 latency of {total.calls} calls is {p95:.3g} s")


def _rejections(connection: Connection, rule: Rule, now: datetime) -> Finding | None:
    reasons: dict[str, int] = {}
    for _, outcome, number in _totals(connection, rule, now):
        if outcome in REJECTIONS and rule.settings.reason in {"", outcome}:
            reasons[outcome] = reasons.get(outcome, 0) + number
    rejected = sum(reasons.values())
    if not rejected or rejected < rule.settings.threshold:
        return None
    names = sorted(reasons, key=lambda name: -reasons[name])
    return Finding(f"{rejected} calls were rejected, most by {names[0]}", tuple(names))


def _queue_age(connection: Connection, rule: Rule, now: datetime) -> Finding | None:
    ages = {
        pipeline: (now - received_at(backlog.oldest)).total_seconds()
        for pipeline, backlog in durable_runs.backlogs(connection, rule.environment_id).items()
        if _of_pipeline(rule, pipeline)
    }
    old = sorted(
        (name for name, age in ages.items() if age >= rule.settings.threshold),
        key=lambda name: -ages[name],
    )
    if not old:
        return None
    return Finding(
        f"the oldest accepted run of {old[0]} has waited for {ages[old[0]]:.0f} s",
        tuple(old[:MAX_SUBJECTS]),
    )


def _no_worker(connection: Connection, rule: Rule, _now: datetime) -> Finding | None:
    backlogs = {
        pipeline: backlog.number
        for pipeline, backlog in durable_runs.backlogs(connection, rule.environment_id).items()
        if _of_pipeline(rule, pipeline)
    }
    if not backlogs:
        return None
    alive = processes.alive(connection, rule.environment_id, silent=WORKER_SILENT_S)
    workers = [process.pipelines for process in alive if process.kind == "worker"]
    alone = sorted(
        name
        for name in backlogs
        if not any(performed is None or name in performed for performed in workers)
    )
    if not alone:
        return None
    waiting = sum(backlogs[name] for name in alone)
    return Finding(
        f"{waiting} accepted runs wait and no live worker performs {_named(alone)}",
        tuple(alone[:MAX_SUBJECTS]),
    )


Endings = Callable[[Connection, Horizon], list[Ending]]


def _ending(endings: Endings) -> Condition:
    """Return the condition that something ends within the threshold of a rule."""

    def condition(connection: Connection, rule: Rule, now: datetime) -> Finding | None:
        until = now + timedelta(seconds=rule.settings.threshold)
        horizon = Horizon(rule.environment_id, now, until, MAX_SUBJECTS)
        found = endings(connection, horizon)
        if not found:
            return None
        subjects = tuple(f"{each.name} ({each.at:%Y-%m-%d %H:%MZ})" for each in found)
        within = written_threshold(rule.kind, rule.settings.threshold)
        return Finding(f"ends within {within}: {_named(subjects)}", subjects)

    return condition


def weaker(before: str | None, after: str) -> bool:
    """Return whether a policy requires less than the one that it replaced.

    Policies of plugins have no order here, so every change from or to one counts.
    """
    if before is None or before == after:
        return False
    if before in STRENGTH and after in STRENGTH:
        return STRENGTH[after] < STRENGTH[before]
    return True


def _policy_weaker(connection: Connection, rule: Rule, now: datetime) -> Finding | None:
    since = now - timedelta(seconds=rule.settings.threshold)
    numbers = expiries.policy_versions_since(
        connection, rule.environment_id, since, limit=MAX_SUBJECTS
    )
    if not numbers:
        return None
    rows = policies.versions(connection, rule.environment_id, before=None, limit=len(numbers))
    current: dict[str, str] = {}
    subjects = []
    for row in rows:  # newest first
        policy = current.setdefault(row.exposure, row.policy)
        # A version whose loosening was taken back does not count any more.
        if weaker(row.replaced, row.policy) and weaker(row.replaced, policy):
            subjects.append(
                f"version {row.version}: {row.exposure} policy from {row.replaced} to"
                f" {row.policy} by {row.actor}"
            )
    if not subjects:
        return None
    within = written_duration(rule.settings.threshold)
    return Finding(f"made weaker within {within}: {_named(subjects)}", tuple(subjects))


CONDITIONS: Mapping[Kind, Condition] = {
    Kind.ERROR_RATE: _error_rate,
    Kind.LATENCY: _latency,
    Kind.REJECTIONS: _rejections,
    Kind.QUEUE_AGE: _queue_age,
    Kind.NO_WORKER: _no_worker,
    Kind.KEY_EXPIRY: _ending(expiries.keys),
    Kind.SECRET_EXPIRY: _ending(expiries.secrets),
    Kind.SIGNING_KEY_EXPIRY: _ending(expiries.signing_keys),
    Kind.GRACE_END: _ending(expiries.graces),
    Kind.POLICY_WEAKER: _policy_weaker,
}
