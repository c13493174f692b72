"""Roles in single environments: every rule of the URL map, with each role, in each environment."""

from __future__ import annotations

import re
from collections.abc import Callable

import pytest
from support.console import HASH, ROOT, ConsoleApp, ConsoleClient
from support.place import Place
from werkzeug.routing import Rule

from penstock import audit
from penstock.access import api_keys, consumers, users, variables
from penstock.access.users import Role
from penstock.console.pages import NEEDS, PUBLIC, SCOPES, Scope
from penstock.db.engine import Engine
from penstock.db.tables import UserRow
from penstock.db.unit_of_work import access_change
from penstock.errors import UnknownName, UsageError

OWN_VIEWS = {
    "console.sign_out",
    "console.account_password",
    "console.account_session_end",
    "console.account_sessions_end",
}


@pytest.fixture
def console(console_app: Callable[..., ConsoleApp]) -> ConsoleApp:
    """A console with the environments test and prod, and a user of each role in prod alone."""
    app = console_app()
    engine = app.place.engine
    for role in Role:
        users.create_user(engine, "ann", f"prod-{role}", role, None, environments=["prod"])
        with access_change(engine) as rows:
            rows.set(UserRow, {UserRow.name: f"prod-{role}"}, {UserRow.password: HASH})
    consumers.create_consumer(engine, "ann", "acme")
    for name in ("test", "prod"):
        variables.set_variable(engine, "ann", name, "region", f"of-{name}")
    return app


def rules(console: ConsoleApp) -> list[tuple[Rule, str]]:
    return [
        (rule, method)
        for rule in console.app.url_map.iter_rules()
        for method in ("GET", "POST")
        if rule.endpoint.startswith("console.")
        and rule.endpoint not in PUBLIC | OWN_VIEWS
        and method in (rule.methods or ())
    ]


def send(client: ConsoleClient, rule: Rule, method: str, environment: str, key: str) -> int:
    path = rule.rule.replace("<env>", environment).replace("<key_id>", key)
    path = path.replace("/consumers/<name>", "/consumers/acme")
    path = re.sub(r"<[^>]+>", "x", re.sub(r"<int:\w+>", "1", path)).removeprefix(ROOT)
    if method == "GET":
        return client.get(path, env=environment, environment=environment).status_code
    fields = {"environment": environment, "on": f"{environment}/v1/orders"}
    return client.post(f"{path}?env={environment}", fields).status_code


def test_every_endpoint_asks_for_its_role_in_the_environment_it_is_about(
    console: ConsoleApp,
) -> None:
    engine = console.place.engine
    for role in Role:
        client = console.client(f"prod-{role}")
        for rule, method in rules(console):
            needed, scope = NEEDS[rule.endpoint], SCOPES[rule.endpoint]
            prod, test = (
                send(client, rule, method, name, api_keys.create_key(engine, "x", "acme", name).id)
                for name in ("prod", "test")
            )
            where = (rule, method, role)
            if scope is Scope.ALL:
                assert (prod, test) == (403, 403), where
            elif not role.may(needed):
                assert prod == 403, where
                assert test in {403, 404}, where
            elif scope is Scope.ANY:
                assert prod not in {401, 403}, where
            elif scope is Scope.ONE or "<run>" not in rule.rule:
                assert prod not in {401, 403}, where
                assert test in {403, 404}, where


def test_a_role_in_all_environments_includes_each(console: ConsoleApp) -> None:
    oli = console.client("oli")

    for name in ("test", "prod"):
        assert oli.get(f"/e/{name}/settings").status_code == 200
        response = oli.post(f"/e/{name}/settings/variables/new", name="zone", value="1")
        assert response.status_code == 303


def test_other_environments_stay_unknown(console: ConsoleApp) -> None:
    client = console.client("prod-operator")
    engine = console.place.engine
    hidden = api_keys.create_key(engine, "ann", "acme", "test")
    shown = api_keys.create_key(engine, "ann", "acme", "prod")
    for path in (
        "/",
        "/pipelines",
        "/policies",
        "/consumers",
        "/consumers/acme",
        "/e/prod/settings",
    ):
        text = client.text(path)
        main = text[text.index("<main") :]
        assert "of-test" not in main, path
        assert not re.search(r">\s*test\s*<", main), path
        assert not re.search(r"env=test|/e/test/", text), path
    tabs = ("activity", "access", "keys", "limits", "runs", "audit")
    pages = {tab: client.text("/consumers/acme", tab=tab) for tab in tabs}
    events = client.text("/audit")

    assert shown.id in pages["keys"]
    for tab, page in pages.items():
        assert hidden.id not in page, tab
        assert not re.search(r"env=test|/e/test/|>\s*test\s*<", page[page.index("<main") :]), tab
    assert 'data-label="Environment">test<' not in events
    assert "user:created" not in re.sub(r"<select.*?</select>", "", events, flags=re.DOTALL)
    assert "of-test" not in client.get("/e/test/settings").text


def test_an_event_of_another_environment_is_not_found(console: ConsoleApp) -> None:
    client = console.client("prod-viewer")
    events = audit.events(console.place.engine, limit=50)
    for event in events:
        status = client.get(f"/audit/{event.id}").status_code
        assert status == (200 if event.environment == "prod" else 404), event


def test_one_request_may_not_mix_a_hidden_environment_in(console: ConsoleApp) -> None:
    client = console.client("prod-operator")
    mixed = client.post("/consumers/acme/pipelines", on=["prod/v1/orders", "test/v1/orders"])
    allowed = client.post("/consumers/acme/pipelines", on=["prod/v1/orders"])

    assert mixed.status_code == 404
    assert allowed.status_code == 303
    found = consumers.show_consumer(console.place.engine, "acme").associations
    assert found == {"prod": ["v1/orders"]}


def test_a_withdrawn_role_ends_with_the_next_request(console: ConsoleApp) -> None:
    engine, client = console.place.engine, console.client("prod-operator")
    assert client.get("/e/prod/settings").status_code == 200
    users.set_role(engine, "ann", "prod-operator", None, environment="prod")

    assert client.get("/e/prod/settings").status_code == 404
    assert client.get("/audit").status_code == 403
    assert client.get("/users").status_code == 403


def test_an_admin_gives_roles_on_the_page_of_a_user(console: ConsoleApp) -> None:
    ann, engine = console.client("ann"), console.place.engine
    unknown = ann.post("/users/vic/role", role="operator", environment="prodd")
    response = ann.post("/users/vic/role", role="operator", environment="prod")

    assert "Role of vic changed to operator in prod." in ann.follow(response)
    assert unknown.status_code == 422
    row = next(row for row in users.list_users(engine) if row.name == "vic")
    assert (row.role, row.roles) == ("viewer", {"prod": "operator"})
    vic = console.client("vic")
    assert vic.get("/e/prod/settings/variables/new").status_code == 200
    assert vic.get("/e/test/settings/variables/new").status_code == 403


def test_the_last_admin_of_all_environments_stays(engine_of_users: Engine) -> None:
    with pytest.raises(UsageError, match="last admin"):
        users.set_role(engine_of_users, "ann", "ann", None)
    with pytest.raises(UnknownName, match="prodd"):
        users.set_role(engine_of_users, "ann", "ann", Role.VIEWER, environment="prodd")


@pytest.fixture
def engine_of_users(sqlite_place: Place) -> Engine:
    users.create_user(sqlite_place.engine, "ann", "ann", Role.ADMIN, None)
    return sqlite_place.engine
