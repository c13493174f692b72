"""Access to views: every rule of the URL map is tried without a session, with each role, and
without a CSRF token, so that later pages are included."""

from __future__ import annotations

import re
from collections.abc import Callable

import pytest
from support.console import ROOT, ConsoleApp
from support.place import Place
from werkzeug.routing import Rule

from penstock.access.users import Role
from penstock.console.pages import NEEDS, PUBLIC
from penstock.host.host import Host
from penstock.settings import Settings
from penstock.web import create_app

SIGN_IN_VIEWS = {
    "console.static",
    "console.sign_in",
    "console.sign_in_with_password",
    "console.oidc_start",
    "console.oidc_back",
}
VIEWS_OF_EVERY_ROLE = {
    "console.sign_out",
    "console.account_password",
    "console.account_session_end",
    "console.account_sessions_end",
    "console.search_for",  # changes nothing
}


@pytest.fixture
def console(console_app: Callable[..., ConsoleApp]) -> ConsoleApp:
    return console_app()


def path(rule: Rule) -> str:
    """Return a path that a rule matches."""
    return re.sub(r"<[^>]+>", "x", re.sub(r"<int:\w+>", "1", rule.rule.replace("<env>", "test")))


def rules(console: ConsoleApp, method: str) -> list[Rule]:
    matching = [
        rule
        for rule in console.app.url_map.iter_rules()
        if rule.endpoint.startswith("console.") and method in (rule.methods or ())
    ]
    assert len(matching) > 5
    return matching


def test_every_view_has_a_role_and_only_the_sign_in_is_public(console: ConsoleApp) -> None:
    endpoints = {rule.endpoint for method in ("GET", "POST") for rule in rules(console, method)}

    assert endpoints == PUBLIC | set(NEEDS)
    assert PUBLIC == SIGN_IN_VIEWS
    assert {
        rule.endpoint for rule in rules(console, "POST") if NEEDS.get(rule.endpoint) is Role.VIEWER
    } == VIEWS_OF_EVERY_ROLE


def test_an_unauthenticated_client_reaches_no_page(console: ConsoleApp) -> None:
    client = console.client()
    for rule in rules(console, "GET"):
        if rule.endpoint not in SIGN_IN_VIEWS:
            response = client.http.get(path(rule))
            location = response.headers["Location"].partition("?")[0]
            assert (response.status_code, location) == (303, f"{ROOT}/sign-in"), rule
    for rule in rules(console, "POST"):
        if rule.endpoint not in SIGN_IN_VIEWS:
            assert client.post(path(rule).removeprefix(ROOT)).status_code == 401, rule
            polled = client.http.get(path(rule), headers={"HX-Request": "true"})
            assert polled.status_code in {401, 405}, rule


@pytest.mark.parametrize(("name", "role"), [("vic", Role.VIEWER), ("oli", Role.OPERATOR)])
def test_a_role_gets_no_further_than_declared(console: ConsoleApp, name: str, role: Role) -> None:
    client = console.client(name)
    attempts = 0
    for method in ("GET", "POST"):
        for rule in rules(console, method):
            needed = NEEDS.get(rule.endpoint)
            if needed is None or role.may(needed):
                continue
            attempts += 1
            response = (
                client.http.get(path(rule))
                if method == "GET"
                else client.post(path(rule).removeprefix(ROOT))
            )
            assert response.status_code == 403, rule
            assert f"This needs the {needed.value} role; you are a" in response.text
    assert attempts > 5


def test_every_change_needs_a_csrf_token_of_its_own_session(console: ConsoleApp) -> None:
    admin, other = console.client("ann"), console.client("ann")
    foreign = other.token()
    for rule in rules(console, "POST"):
        for data in ({}, {"csrf_token": "forged"}, {"csrf_token": foreign}):
            assert admin.http.post(path(rule), data=data).status_code == 400, rule
        cross_site = admin.http.post(
            path(rule),
            data={"csrf_token": admin.token()},
            headers={"Sec-Fetch-Site": "cross-site"},
        )
        assert cross_site.status_code == 403, rule
    assert admin.get("/users").status_code == 200


def test_every_page_has_security_headers(console: ConsoleApp) -> None:
    admin = console.client("ann")
    for rule in rules(console, "GET"):
        response = admin.http.get(path(rule))
        policy = dict(
            part.strip().split(" ", 1)
            for part in response.headers["Content-Security-Policy"].split(";")
        )
        assert {name: policy[name] for name in ("default-src", "script-src", "style-src")} == {
            "default-src": "'none'",
            "script-src": "'self'",
            "style-src": "'self'",
        }
        assert policy["frame-ancestors"] == "'none'"
        assert response.headers["X-Frame-Options"] == "DENY"
        if rule.endpoint != "console.static":
            assert response.headers["Cache-Control"] == "no-store", rule
            assert " style=" not in response.text
            assert "<script>" not in response.text


def test_a_view_without_a_registered_role_is_rejected(
    console: ConsoleApp, monkeypatch: pytest.MonkeyPatch
) -> None:
    admin = console.client("ann")
    monkeypatch.delitem(NEEDS, "console.account")

    assert admin.get("/account").status_code == 403


def test_without_the_setting_there_is_no_console(sqlite_place: Place) -> None:
    environ = sqlite_place.environ()
    settings = {name: value for name, value in environ.items() if name.startswith("PENSTOCK_")}
    app = create_app(Host(Settings.from_env(settings)))
    client = app.test_client()

    assert [
        client.get(f"{ROOT}{path}").status_code for path in ("/", "/sign-in", "/static/console.js")
    ] == [404] * 3
    app.host.stop()
