"""Second approval: what widens access waits for another person, and applies as it was proposed."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta

import pytest
from support.place import Place

from penstock import audit
from penstock.access import (
    approved_changes,
    consumers,
    environments,
    issuers,
    limits,
    pipelines,
    policies,
)
from penstock.access.consumers import Associations
from penstock.access.environments import EnvironmentChange
from penstock.audit import approvals
from penstock.audit.approvals import ChangePending
from penstock.contracts.access import TrustedIssuer
from penstock.contracts.rates import Rate
from penstock.db.engine import Engine
from penstock.db.tables import PendingChangeRow
from penstock.db.unit_of_work import access_change
from penstock.errors import Outdated, UnknownName, UsageError
from penstock.gate.policy_change import PolicyChange

OFFERED = {"v1/orders": "shop", "v1/stock": "shop"}
ISSUER = TrustedIssuer("https://id.example", "prod", keys=({"kty": "OKP"},), consumer="acme")
Act = Callable[[Engine, str], object]


def associate(engine: Engine, actor: str) -> object:
    return consumers.associate(engine, actor, "acme", ["v1/orders"], "prod", OFFERED)


def policy(engine: Engine, actor: str) -> object:
    return policies.set_policy(
        engine, actor, "prod", "any", served={}, stopping=(), reason="SEC-118"
    )


def change(**values: object) -> Act:
    return lambda engine, actor: environments.change_environment(
        engine,
        actor,
        "prod",
        EnvironmentChange(**values),  # type: ignore[arg-type]  # its fields
    )


WIDER: dict[str, Act] = {
    "policy": policy,
    "access": associate,
    "new pipelines": lambda engine, actor: consumers.associate(
        engine, actor, "acme", [], "prod", OFFERED, new_pipelines=True
    ),
    "pipeline": lambda engine, actor: pipelines.set_pipeline_enabled(
        engine, actor, "prod", "v1/stock", OFFERED, enabled=True
    ),
    "login flow": lambda engine, actor: pipelines.set_login_flow(
        engine, actor, "prod", "v1/stock", OFFERED, designated=True
    ),
    "consumer": lambda engine, actor: consumers.set_consumer_enabled(
        engine, actor, "barred", enabled=True
    ),
    "limit raised": lambda engine, actor: limits.set_limit(
        engine, actor, "acme", "prod", Rate("50/minute")
    ),
    "limit removed": lambda engine, actor: limits.remove_limits(engine, actor, "acme", "prod"),
    "network added": lambda engine, actor: limits.set_networks(
        engine, actor, "acme", "prod", ["198.51.100.0/24"], allowed=True
    ),
    "last allowed network denied": lambda engine, actor: limits.set_networks(
        engine, actor, "acme", "prod", ["192.0.2.0/24"], allowed=False
    ),
    "network removed": lambda engine, actor: limits.remove_networks(
        engine, actor, "acme", "prod", ["192.0.2.0/24"]
    ),
    "issuer": lambda engine, actor: issuers.trust_issuer(
        engine, actor, "prod", ISSUER, own="penstock"
    ),
    "keys in query": change(keys_in_query=True),
    "longer tokens": change(token_lifetime=7200),
    "switched off": change(second_approval=False),
}
NARROWER: dict[str, Act] = {
    "dissociated": lambda engine, actor: consumers.dissociate(
        engine, actor, "acme", ["v1/stock"], "prod"
    ),
    "disabled": lambda engine, actor: consumers.set_consumer_enabled(
        engine, actor, "acme", enabled=False
    ),
    "pipeline disabled": lambda engine, actor: pipelines.set_pipeline_enabled(
        engine, actor, "prod", "v1/orders", OFFERED, enabled=False
    ),
    "limit lowered": lambda engine, actor: limits.set_limit(
        engine, actor, "acme", "prod", Rate("1/minute")
    ),
    "network denied": lambda engine, actor: limits.set_networks(
        engine, actor, "acme", "prod", ["203.0.113.0/24"], allowed=False
    ),
    "shorter tokens": change(token_lifetime=60),
    "same access": lambda engine, actor: consumers.associate(
        engine, actor, "acme", ["v1/stock"], "prod", OFFERED
    ),
}


@pytest.fixture
def engine(sqlite_place: Place) -> Engine:
    """Access data of an environment that asks for a second approval."""
    engine = sqlite_place.engine
    for name in ("acme", "barred"):
        consumers.create_consumer(engine, "ann", name)
        consumers.associate(engine, "ann", name, ["v1/stock"], "prod", OFFERED)
    consumers.set_consumer_enabled(engine, "ann", "barred", enabled=False)
    pipelines.set_pipeline_enabled(engine, "ann", "prod", "v1/stock", OFFERED, enabled=False)
    limits.set_limit(engine, "ann", "acme", "prod", Rate("5/minute"))
    limits.set_networks(engine, "ann", "acme", "prod", ["192.0.2.0/24"], allowed=True)
    change(second_approval=True)(engine, "ann")
    return engine


def preview(environment: str, option: str, internal: bool) -> PolicyChange:
    return PolicyChange(environment, internal, "jwt-api-key", option, {}, {}, {}, {})


def approve(engine: Engine, number: int, by: str = "oli") -> approvals.ListedChange:
    return approved_changes.approve(
        engine, by, number, offered=OFFERED, own_issuer="penstock", preview=preview
    )


def propose(engine: Engine, act: Act, by: str = "ann") -> int:
    with pytest.raises(ChangePending) as pending:
        act(engine, by)
    return pending.value.number


def access_data(place: Place) -> list[object]:
    view = place.snapshot("prod")
    return [
        view.environment,
        view.limits,
        view.networks,
        view.pipelines,
        sorted(view._associations),  # noqa: SLF001  all of them
        {consumer.name: consumer.enabled for consumer in view._consumers.values()},  # noqa: SLF001  the same
        [row.second_approval for row in environments.list_environments(place.engine)],
    ]


@pytest.mark.parametrize("name", WIDER)
def test_what_is_wider_waits_and_is_applied_by_another(
    name: str, engine: Engine, sqlite_place: Place
) -> None:
    act = WIDER[name]
    before = access_data(sqlite_place)
    number = propose(engine, act)
    assert access_data(sqlite_place) == before

    with pytest.raises(UsageError, match="another operator"):
        approve(engine, number, by="Ann")
    assert access_data(sqlite_place) == before
    approve(engine, number)
    event = next(item for item in audit.events(engine, limit=2) if "approved_by" in item.detail)
    assert (event.actor, event.detail["approved_by"]) == ("ann", "oli")
    assert approvals.show_change(engine, number).state == "applied"
    if name not in {"new pipelines", "issuer"}:  # the view has no figure of them
        assert access_data(sqlite_place) != before
    with pytest.raises(UsageError, match="is applied"):
        approve(engine, number, by="eve")


@pytest.mark.parametrize("name", NARROWER)
def test_what_is_narrower_applies_at_once(name: str, engine: Engine) -> None:
    NARROWER[name](engine, "ann")
    assert approvals.list_changes(engine) == []


@pytest.mark.parametrize("name", WIDER)
def test_an_environment_that_does_not_ask_applies_at_once(name: str, engine: Engine) -> None:
    approve(engine, propose(engine, change(second_approval=False)))
    WIDER[name](engine, "ann")
    assert len(approvals.list_changes(engine)) == 1


def test_it_is_refused_where_the_state_has_moved_on(engine: Engine) -> None:
    number, other = propose(engine, associate), propose(engine, policy)
    approve(engine, propose(engine, policy))
    with pytest.raises(Outdated, match="has changed"):
        approve(engine, other)
    consumers.dissociate(engine, "ann", "acme", ["v1/stock"], "prod")
    with pytest.raises(Outdated, match="has changed"):
        approve(engine, number)

    assert {item.state for item in approvals.list_changes(engine, pending=True)} == {"pending"}
    assert consumers.show_consumer(engine, "acme").associations == {}


def test_a_change_of_the_request_in_the_database_is_refused(engine: Engine) -> None:
    number = propose(engine, associate)
    _, approval = approvals.approval_of(engine, number, "oli")
    with approvals.applying(approval), pytest.raises(Outdated):
        WIDER["new pipelines"](engine, "ann")
    assert consumers.show_consumer(engine, "acme").new_pipelines == []


def test_a_change_expires_and_is_rejected(engine: Engine) -> None:
    number, late = propose(engine, associate), propose(engine, policy)
    with access_change(engine) as rows:
        rows.set(
            PendingChangeRow,
            {PendingChangeRow.id: late},
            {PendingChangeRow.expires_at: datetime.now(UTC) - timedelta(seconds=1)},
        )
    approved_changes.reject(engine, "oli", number)

    assert {row.id: row.state for row in approvals.list_changes(engine)} == {
        number: "rejected",
        late: "expired",
    }
    for ended in (number, late):
        with pytest.raises(UsageError, match=r"is (rejected|expired)"):
            approve(engine, ended)
    with pytest.raises(UnknownName):
        approve(engine, 4711)
    assert audit.events(engine, limit=1)[0].action == audit.Action.CHANGE_REJECTED


def test_a_page_of_access_applies_the_rest(engine: Engine) -> None:
    seen = Associations(frozenset({("prod", "v1/stock")}), frozenset())
    chosen = Associations(frozenset({("prod", "v1/orders"), ("test", "v1/orders")}), frozenset())
    counts = consumers.save_associations(engine, "ann", "acme", seen, chosen, OFFERED)

    assert counts == (1, 1, 1)
    assert consumers.show_consumer(engine, "acme").associations == {"test": ["v1/orders"]}
    (waiting,) = approvals.list_changes(engine)
    approve(engine, waiting.id)
    assert consumers.show_consumer(engine, "acme").associations == {
        "prod": ["v1/orders"],
        "test": ["v1/orders"],
    }


def test_the_commands(engine: Engine, sqlite_place: Place) -> None:
    run = sqlite_place.run
    result = run("env", "set", "prod", "--second-approval", "off")
    number = approvals.list_changes(engine)[0].id
    own = run("changes", "approve", str(number))

    assert result.returncode == 1
    assert f"change {number} waits for the approval of another operator" in result.stderr
    assert own.returncode == 2
    assert "another operator approves it" in own.stderr
    assert "environment" in run("changes", "list", "--env", "prod").stdout
    # The operating system's user counts, not the name that is given.
    assert run("--actor", "oli", "changes", "approve", str(number)).returncode == 2
    assert run("changes", "reject", str(number)).returncode == 0
    assert "no change waits" in run("changes", "list").stdout
