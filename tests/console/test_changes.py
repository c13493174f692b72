"""Second approval in the console: the author waits, another operator approves on the page."""

from __future__ import annotations

from collections.abc import Callable

from support.console import ConsoleApp, words_of

from penstock.access import consumers, environments, users
from penstock.access.environments import EnvironmentChange
from penstock.access.users import Role
from penstock.audit import approvals


def test_a_grant_waits_for_another_operator(console_app: Callable[..., ConsoleApp]) -> None:
    console = console_app()
    engine = console.place.engine
    consumers.create_consumer(engine, "ann", "acme")
    environments.change_environment(engine, "ann", "prod", EnvironmentChange(second_approval=True))
    users.set_role(engine, "ann", "vic", Role.VIEWER)
    oli, ann, vic = (console.client(name) for name in ("oli", "ann", "vic"))
    saved = oli.post("/consumers/acme/pipelines", on="prod/v1/orders")
    assert "1 waiting for a second approval" in oli.follow(saved)
    number = approvals.list_changes(engine)[0].id

    own, page = oli.post(f"/changes/{number}/approve"), words_of(oli.text("/changes"))
    assert own.status_code == 409
    assert "Approve change" not in page
    assert vic.post(f"/changes/{number}/approve").status_code == 403
    assert consumers.show_consumer(engine, "acme").associations == {}
    assert "Approve change" in words_of(ann.text("/changes"))
    done = ann.follow(ann.post(f"/changes/{number}/approve"))
    assert f"Change {number} of oli applied in prod." in done
    assert consumers.show_consumer(engine, "acme").associations == {"prod": ["v1/orders"]}


def test_the_setting_and_a_policy_lead_to_the_list(
    console_app: Callable[..., ConsoleApp],
) -> None:
    console = console_app()
    engine = console.place.engine
    environments.change_environment(engine, "ann", "prod", EnvironmentChange(second_approval=True))
    oli = console.client("oli")
    off = oli.post(
        "/e/prod/settings/environment",
        token_minutes="60",
        run_days="30",
        record_bodies="all",
        keys_in_query="off",
        second_approval="off",
    )

    assert "waits for the approval of another operator" in oli.follow(off)
    rows = environments.list_environments(engine)
    assert next(row for row in rows if row.name == "prod").second_approval is True


def test_a_change_of_another_environment_stays_unknown(
    console_app: Callable[..., ConsoleApp],
) -> None:
    console = console_app()
    engine = console.place.engine
    consumers.create_consumer(engine, "ann", "acme")
    environments.change_environment(engine, "ann", "prod", EnvironmentChange(second_approval=True))
    users.set_role(engine, "ann", "vic", None)
    users.set_role(engine, "ann", "vic", Role.OPERATOR, environment="test")
    console.client("oli").post("/consumers/acme/pipelines", on="prod/v1/orders")
    number = approvals.list_changes(engine)[0].id
    vic = console.client("vic")

    assert "acme" not in words_of(vic.text("/changes"))
    assert vic.post(f"/changes/{number}/approve").status_code == 404
