"""Apply changes that another person approved, and reject them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from typing import Any, Protocol

from penstock import audit
from penstock.access import consumers, environments, issuers, limits, pipelines, policies
from penstock.access.pipelines import Offered
from penstock.audit import approvals
from penstock.audit.approvals import Kind, ListedChange
from penstock.contracts.access import TrustedIssuer
from penstock.contracts.rates import Rate
from penstock.db.engine import Engine
from penstock.errors import Outdated


class Effects(Protocol):
    """What a policy would change, as `host.evaluation` previews it."""

    @property
    def served(self) -> Mapping[str, frozenset[str]]:
        """What each pipeline that is served now requires."""

    @property
    def stops(self) -> Mapping[str, object]:
        """The pipelines that would stop."""


# The effects of a policy in an environment, on its internal listener or the external one.
Preview = Callable[[str, str, bool], Effects]


def approve(
    engine: Engine,
    approver: str,
    number: int,
    *,
    offered: Offered,
    own_issuer: str,
    preview: Preview,
) -> ListedChange:
    """Apply a pending change exactly as it was proposed, and return it.

    Raises UnknownName, UsageError where it is decided, expired or the approver's own, and Outdated
    where what it is based on has changed.
    """
    change, approval = approvals.approval_of(engine, number, approver)
    with approvals.applying(approval):
        apply = FUNCTIONS[approval.proposal.kind]
        apply(Applied(engine, change, offered, own_issuer, preview))
    if approvals.show_change(engine, number).state == approvals.State.PENDING:
        raise Outdated(f"change {number} changes nothing any more; reject it")
    audit.record(
        engine,
        approver,
        audit.Action.CHANGE_APPROVED,
        str(number),
        {"author": change.author, "kind": change.kind, "target": change.subject},
        environment=change.environment,
    )
    return change


def reject(engine: Engine, actor: str, number: int) -> ListedChange:
    """Reject a pending change, also one's own. Raises UnknownName and UsageError."""
    change = approvals.show_change(engine, number)
    action = audit.Action.CHANGE_REJECTED
    with audit.change(engine, actor, action, str(number), environment=change.environment) as (
        rows,
        detail,
    ):
        approvals.reject(rows, number, actor)
        detail.update(author=change.author, kind=change.kind, target=change.subject)
    return change


@dataclass(frozen=True, slots=True)
class Applied:
    """An approved change, and what its function needs besides the change itself."""

    engine: Engine
    change: ListedChange
    offered: Offered
    own_issuer: str
    preview: Preview

    @property
    def request(self) -> dict[str, Any]:
        """The values of the change."""
        return dict(self.change.request)


def _policy(item: Applied) -> None:
    change, request = item.change, item.request
    effects = item.preview(change.environment, request["policy"], request["internal"])
    seconds = request["grace_s"]
    policies.set_policy(
        item.engine,
        change.author,
        change.environment,
        request["policy"],
        served=effects.served,
        stopping=effects.stops,
        grace=timedelta(seconds=seconds) if seconds else None,
        reason=request["reason"],
        internal=request["internal"],
    )


def _environment(item: Applied) -> None:
    change = environments.EnvironmentChange(**item.request)
    environments.change_environment(item.engine, item.change.author, item.change.subject, change)


def _access(item: Applied) -> None:
    change, request = item.change, item.request
    consumers.associate(
        item.engine,
        change.author,
        change.subject,
        request["pipelines"],
        change.environment,
        item.offered,
        new_pipelines=request["new_pipelines"],
    )


def _enable_pipeline(item: Applied) -> None:
    change = item.change
    pipelines.set_pipeline_enabled(
        item.engine, change.author, change.environment, change.subject, item.offered, enabled=True
    )


def _login_flow(item: Applied) -> None:
    change = item.change
    pipelines.set_login_flow(
        item.engine,
        change.author,
        change.environment,
        change.subject,
        item.offered,
        designated=True,
    )


def _enable_consumer(item: Applied) -> None:
    consumers.set_consumer_enabled(
        item.engine, item.change.author, item.change.subject, enabled=True
    )


def _issuer(item: Applied) -> None:
    change, request = item.change, item.request
    keys = request.pop("keys")
    trusted = TrustedIssuer(
        issuer=change.subject, keys=None if keys is None else tuple(keys), **request
    )
    issuers.trust_issuer(
        item.engine, change.author, change.environment, trusted, own=item.own_issuer
    )


def _limit(item: Applied) -> None:
    change, request = item.change, item.request
    limits.set_limit(
        item.engine,
        change.author,
        change.subject,
        change.environment,
        Rate.of(request["rate"], request["by"]),
        pipeline=request["pipeline"],
        offered=item.offered,
    )


def _remove_limit(item: Applied) -> None:
    change, pipeline = item.change, item.request["pipeline"]
    limits.remove_limits(
        item.engine, change.author, change.subject, change.environment, pipeline=pipeline
    )


def _networks(item: Applied, *, allowed: bool) -> None:
    change, networks = item.change, item.request["networks"]
    limits.set_networks(
        item.engine, change.author, change.subject, change.environment, networks, allowed=allowed
    )


def _remove_networks(item: Applied) -> None:
    change, networks = item.change, item.request["networks"]
    limits.remove_networks(item.engine, change.author, change.subject, change.environment, networks)


# The function that was stopped, with the same arguments, in the name of the author.
FUNCTIONS: Mapping[Kind, Callable[[Applied], None]] = {
    Kind.POLICY: _policy,
    Kind.ENVIRONMENT: _environment,
    Kind.ACCESS: _access,
    Kind.ENABLE_PIPELINE: _enable_pipeline,
    Kind.LOGIN_FLOW: _login_flow,
    Kind.ENABLE_CONSUMER: _enable_consumer,
    Kind.LIMIT: _limit,
    Kind.REMOVE_LIMIT: _remove_limit,
    Kind.ALLOW_NETWORKS: partial(_networks, allowed=True),
    Kind.DENY_NETWORKS: partial(_networks, allowed=False),
    Kind.REMOVE_NETWORKS: _remove_networks,
    Kind.ISSUER: _issuer,
}
