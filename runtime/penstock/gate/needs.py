"""Check the variables and secrets that a pipeline needs against those of its environment."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime

from penstock.access.snapshot import Snapshot
from penstock.contracts.pipeline import Pipeline
from penstock.contracts.policies import Violation
from penstock.contracts.variables import SecretNeed
from penstock.errors import quoted

EXPIRY_WARNING_S = 14 * 86_400.0  # before a secret expires


@dataclass(slots=True)
class CheckedNeeds:
    """The needs that are not met, those that expire soon, and when to check again.

    `recheck_at` is in seconds since the epoch, None where time alone changes nothing.
    """

    unmet: list[Violation] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    recheck_at: float | None = None


def check_needs(pipeline: Pipeline, access: Snapshot) -> CheckedNeeds:
    """Return which variables and secrets a pipeline lacks, or loses soon."""
    checked = CheckedNeeds()
    for need in sorted(pipeline.needs, key=str):
        _check_need(need, pipeline, access, checked)
    return checked


def needs_of(
    pipeline: Pipeline, access: Snapshot
) -> Iterator[tuple[str | SecretNeed, Violation | None]]:
    """Yield each need of a pipeline, with why it is not met."""
    for need in sorted(pipeline.needs, key=str):
        checked = CheckedNeeds()
        _check_need(need, pipeline, access, checked)
        yield need, checked.unmet[0] if checked.unmet else None


def _check_need(
    need: str | SecretNeed, pipeline: Pipeline, access: Snapshot, checked: CheckedNeeds
) -> None:
    environment = access.environment.name
    if isinstance(need, SecretNeed):
        _check_secret(need, pipeline, access, checked)
    elif need not in access.variables:
        fix = f"set it: `penstock variable set {need} VALUE --env {environment}`"
        reason = f"it needs the variable {quoted(need)}, which is not set in {quoted(environment)}"
        checked.unmet.append(Violation(reason, fix))


def _check_secret(
    need: SecretNeed, pipeline: Pipeline, access: Snapshot, checked: CheckedNeeds
) -> None:
    environment, now = access.environment.name, time.time()
    secret = access.secrets.get(need.name)
    fix = f"set it: `penstock secret set {need.name} --env {environment}`"
    if secret is None:
        reason = f"it needs {need}, which is not set in {quoted(environment)}"
        checked.unmet.append(Violation(reason, fix))
    elif secret.expires_at is not None and secret.expires_at <= now:
        reason = f"it needs {need}, which has expired in {quoted(environment)}"
        checked.unmet.append(Violation(reason, fix))
    elif not secret.is_readable(pipeline.id, now):
        reason = f"it needs {need}, which is for other pipelines in {quoted(environment)}"
        checked.unmet.append(Violation(reason, f"{fix} with `--pipeline {pipeline.id}`"))
    elif secret.expires_at is not None:
        expires_soon = secret.expires_at - now <= EXPIRY_WARNING_S
        if expires_soon:
            end = f"{datetime.fromtimestamp(secret.expires_at, UTC):%Y-%m-%d %H:%MZ}"
            checked.warnings.append(f"{need} expires on {end}; {fix}")
        recheck_at = secret.expires_at if expires_soon else secret.expires_at - EXPIRY_WARNING_S
        checked.recheck_at = min(recheck_at, checked.recheck_at or recheck_at)
