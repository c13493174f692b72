"""Who may ask for what: every rule of the URL map is tried as nobody, as a viewer and without a
CSRF token, later pages included."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace

import pytest
from flask.testing import FlaskClient
from support.console import PASSWORD, PLUGIN, people
from support.place import ROOT, Place
from werkzeug.routing import Rule

from penstock.access.users import Role
from penstock.console.pages import NEEDS, PUBLIC
from penstock.host.host import Host
from penstock.settings import Settings
from penstock.web import Penstock, create_app

OPEN = {
    "console.static",
    "console.sign_in",
    "console.sign_in_with_password",
    "console.oidc_start",
    "console.oidc_back",
}
OWN = {
    "console.sign_out",
    "console.account_password",
    "console.account_session_end",
    "console.account_sessions_end",
}


@pytest.fixture
def app(sqlite_place: Place) -> Iterator[Penstock]:
    sqlite_place.plugin("shop", PLUGIN)
    people(sqlite_place)
    settings = Settings.from_env(
        {
            name: value
            for name, value in sqlite_place.environ().items()
            if name.startswith("PENSTOCK_")
        }
        | {"PENSTOCK_CONSOLE": "true"}
    )
    made = create_app(Host(settings))
    yield made
    made.host.stop()


def client(app: Penstock, name: str | None = None) -> FlaskClient:
    made = app.test_client()
    if name is not None:
        assert (
            made.post(
                f"{ROOT}/sign-in",
                data={"name": name, "password": PASSWORD, "csrf_token": token(made)},
            ).status_code
            == 303
        )
    return made


def token(client: FlaskClient) -> str:
    return (
        client.get(f"{ROOT}/sign-in")
        .text.partition('name="csrf-token" content="')[2]
        .partition('"')[0]
    )


def path(rule: Rule) -> str:
    return re.sub(r"<[^>]+>", "x", re.sub(r"<int:\w+>", "1", rule.rule))


def rules(app: Penstock, method: str) -> list[Rule]:
    found = [
        rule
        for rule in app.url_map.iter_rules()
        if rule.rule.startswith(ROOT) and method in (rule.methods or ())
    ]
    assert len(found) > 5
    return found


def test_every_rule_says_what_it_needs_and_only_the_sign_in_is_public(app: Penstock) -> None:
    endpoints = {rule.endpoint for method in ("GET", "POST") for rule in rules(app, method)}

    assert endpoints == PUBLIC | set(NEEDS)
    assert PUBLIC == OPEN
    assert {
        rule.endpoint for rule in rules(app, "POST") if NEEDS.get(rule.endpoint) is Role.VIEWER
    } == OWN


def test_nobody_sees_nothing(app: Penstock) -> None:
    visitor = client(app)
    for rule in rules(app, "GET"):
        answered = visitor.get(path(rule))
        if rule.endpoint not in OPEN:
            assert (answered.status_code, answered.headers["Location"].partition("?")[0]) == (
                303,
                f"{ROOT}/sign-in",
            ), rule
    for rule in rules(app, "POST"):
        if rule.endpoint not in OPEN:
            assert (
                visitor.post(path(rule), data={"csrf_token": token(visitor)}).status_code == 401
            ), rule
            assert visitor.get(path(rule), headers={"HX-Request": "true"}).status_code in {
                401,
                405,
            }, rule


@pytest.mark.parametrize(("name", "role"), [("vic", Role.VIEWER), ("oli", Role.OPERATOR)])
def test_a_role_gets_no_further_than_it_says(app: Penstock, name: str, role: Role) -> None:
    visitor = client(app, name)
    valid = token(visitor)
    tried = 0
    for method in ("GET", "POST"):
        for rule in rules(app, method):
            needed = NEEDS.get(rule.endpoint)
            if needed is None or role.may(needed):
                continue
            tried += 1
            answered = visitor.open(
                path(rule), method=method, data={"csrf_token": valid} if method == "POST" else None
            )
            assert answered.status_code == 403, rule
            assert f"takes the role {needed.value}" in answered.text
    assert tried > 5


def test_what_changes_anything_wants_a_csrf_token_of_this_session(app: Penstock) -> None:
    admin, other = client(app, "ann"), client(app, "ann")
    foreign = token(other)
    for rule in rules(app, "POST"):
        for data in ({}, {"csrf_token": "forged"}, {"csrf_token": foreign}):
            assert admin.post(path(rule), data=data).status_code == 400, rule
        crossed = admin.post(
            path(rule), data={"csrf_token": token(admin)}, headers={"Sec-Fetch-Site": "cross-site"}
        )
        assert crossed.status_code == 403, rule
    assert admin.get(f"{ROOT}/users").status_code == 200


def test_every_page_is_guarded_by_its_headers(app: Penstock) -> None:
    admin = client(app, "ann")
    for rule in rules(app, "GET"):
        answered = admin.get(path(rule))
        policy = dict(
            part.strip().split(" ", 1)
            for part in answered.headers["Content-Security-Policy"].split(";")
        )
        assert (
            policy["default-src"],
            policy["script-src"],
            policy["style-src"],
            policy["frame-ancestors"],
        ) == (
            "'none'",
            "'self'",
            "'self'",
            "'none'",
        )
        assert answered.headers["X-Frame-Options"] == "DENY"
        if rule.endpoint != "console.static":
            assert answered.headers["Cache-Control"] == "no-store", rule
            assert " style=" not in answered.text
            assert "<script>" not in answered.text


def test_a_view_that_was_not_registered_with_a_role_is_refused(app: Penstock) -> None:
    admin = client(app, "ann")
    kept = NEEDS.pop("console.account")
    try:
        assert admin.get(f"{ROOT}/account").status_code == 403
    finally:
        NEEDS["console.account"] = kept


def test_without_the_setting_there_is_no_console(sqlite_place: Place) -> None:
    settings = Settings.from_env(
        {
            name: value
            for name, value in sqlite_place.environ().items()
            if name.startswith("PENSTOCK_")
        }
    )
    made = create_app(Host(settings))
    asked = made.test_client()

    assert [
        asked.get(path).status_code
        for path in (f"{ROOT}/", f"{ROOT}/sign-in", f"{ROOT}/static/console.js")
    ] == [404] * 3
    made.host.stop()
    assert not replace(settings).console
