"""Sign-in and sessions: passwords, lifetimes, throttling, and how sessions end."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta

import httpx
import pytest
from support.console import PASSWORD, ROOT, ConsoleClient, ConsoleServer, create_users
from support.place import Place, Server

from penstock import audit
from penstock.access import sessions, users
from penstock.access.users import Role
from penstock.db.tables import UserSessionRow
from penstock.db.unit_of_work import access_change
from penstock.errors import UsageError

Start = Callable[..., ConsoleServer]
WRONG = "wrong horse staple"


def cookie(visitor: ConsoleClient) -> str:
    return visitor.http.cookies["penstock_console"]


def test_a_user_signs_in_and_out_on_both_databases(place: Place, console_server: Start) -> None:
    console = console_server(place, workers=2)
    ann = console.client()

    before = ann.get("/")
    wrong = [
        ann.sign_in("ann", "wrong horse staple"),
        ann.sign_in("unknown"),
        ann.sign_in("ann", ""),
    ]
    ann.get("/sign-in?next=/-/console/users")
    right = ann.sign_in(" Ann ")
    seen = [ann.get("/users").status_code for _ in range(6)]
    session_cookie = cookie(ann)
    out = ann.post("/sign-out")
    stolen = console.client()
    stolen.http.cookies.set("penstock_console", session_cookie, path="/-/")

    assert (before.status_code, before.headers["Location"]) == (303, f"{ROOT}/sign-in")
    assert {response.status_code for response in wrong} == {422}
    assert (
        len({response.text.count("The user or the password is wrong") for response in wrong}) == 1
    )
    assert (right.status_code, right.headers["Location"]) == (303, f"{ROOT}/users")
    assert seen == [200] * 6
    assert out.headers["Location"] == f"{ROOT}/sign-in"
    assert ann.get("/").status_code == stolen.get("/").status_code == 303
    assert [event.action for event in audit.events(place.engine, limit=2)] == [
        "user:signed-out",
        "user:signed-in",
    ]
    assert PASSWORD not in console.server.log.read_text()
    assert session_cookie not in console.server.log.read_text()


def test_a_session_is_renewed_at_sign_in_and_its_cookie_is_guarded(
    console_server: Start, serve: Callable[..., Server]
) -> None:
    console = console_server()
    visitor = console.client()
    planted_token = visitor.token()
    planted = cookie(visitor)
    signed = visitor.sign_in("ann")
    attacker = console.client()
    attacker.http.cookies.set("penstock_console", planted, path="/-/")
    flags = signed.headers["Set-Cookie"]

    assert cookie(visitor) != planted
    assert attacker.get("/").status_code == 303
    assert visitor.post("/account/sessions/end", csrf=planted_token).status_code == 400
    assert "HttpOnly" in flags
    assert "SameSite=Lax" in flags
    assert "Path=/-/" in flags
    assert "Secure" not in flags
    for more, headers in (
        ({"PENSTOCK_CONSOLE_URL": "https://ops.example.com"}, {}),
        ({"PENSTOCK_TRUSTED_PROXIES": "127.0.0.1"}, {"X-Forwarded-Proto": "https"}),
    ):
        secure = serve(console.place, PENSTOCK_CONSOLE="true", **more)
        assert (
            "Secure"
            in secure.client.get(f"{ROOT}/sign-in?next={ROOT}/users", headers=headers).headers[
                "Set-Cookie"
            ]
        )


def test_a_sign_in_redirects_to_own_pages_only(console_server: Start) -> None:
    console = console_server()
    for path in (
        "https://evil.example",
        "//evil.example",
        "/-/console/\\evil",
        "/v1/orders/",
        f"{ROOT}.evil.example/",
    ):
        visitor = console.client()
        visitor.get(f"/sign-in?next={path}")
        assert visitor.sign_in("ann").headers["Location"] == f"{ROOT}/"


def test_password_guesses_are_limited_by_address_and_by_user(console_server: Start) -> None:
    console = console_server(
        PENSTOCK_CONSOLE_SIGN_IN_RATE="3/hour", PENSTOCK_TRUSTED_PROXIES="127.0.0.1"
    )

    def guess(name: str, address: str, password: str = WRONG) -> int:
        visitor = console.client()
        visitor.http.headers["X-Forwarded-For"] = address
        return visitor.sign_in(name, password).status_code

    same_address = [guess("ann", "192.0.2.1") for _ in range(4)]
    right = guess("ann", "192.0.2.1", PASSWORD)
    other = guess("oli", "192.0.2.2", PASSWORD)
    many = [guess("vic", f"198.51.100.{number // 3}") for number in range(16)]

    assert same_address == [422, 422, 422, 429]
    assert right == 429
    assert other == 303
    assert many == [422] * 15 + [429]
    assert guess("vic", "203.0.113.9", PASSWORD) == 429
    assert guess("oli", "203.0.113.9", PASSWORD) == 303


def test_sessions_end_by_time_by_their_user_and_by_an_admin(console_server: Start) -> None:
    console = console_server()
    vic, elsewhere, ann = console.client("vic"), console.client("vic"), console.client("ann")

    def set_session(index: int, **values: object) -> None:
        row = sessions.list_sessions(console.place.engine, "vic")[index]
        with access_change(console.place.engine) as rows:
            rows.set(
                UserSessionRow,
                {UserSessionRow.id: row.id},
                {UserSessionRow.table.c[name]: value for name, value in values.items()},
            )

    assert vic.get("/account").text.count(">current<") == 1
    assert ann.get("/users/vic").status_code == 200
    assert vic.post("/account/sessions/end").status_code == 303
    assert (vic.get("/").status_code, elsewhere.get("/").status_code) == (200, 303)
    mine = sessions.list_sessions(console.place.engine, "vic")[0].id
    assert vic.post(f"/account/sessions/{mine}/end").status_code == 409
    theirs = sessions.list_sessions(console.place.engine, "ann")[0].id
    vic.post(f"/account/sessions/{theirs}/end")
    assert ann.get("/").status_code == 200, "a viewer ended the session of an admin"
    assert ann.post(f"/users/vic/sessions/{mine}/end").status_code == 303
    assert vic.get("/").status_code == 303

    now = datetime.now(UTC)
    for values in (
        {"seen_at": now - timedelta(hours=1, seconds=1)},
        {"expires_at": now - timedelta(seconds=1)},
    ):
        again = console.client("vic")
        assert again.get("/").status_code == 200
        set_session(0, **values)
        assert again.get("/").status_code == 303
    poller = console.client("vic")
    set_session(0, seen_at=now - timedelta(minutes=50))
    poller.get("/e/test/series?poll=1")
    assert sessions.list_sessions(console.place.engine, "vic")[0].seen_at < now - timedelta(
        minutes=49
    ), "a page left open must not keep a session alive"
    poller.get("/e/test/series")
    assert sessions.list_sessions(console.place.engine, "vic")[0].seen_at > now - timedelta(
        minutes=1
    )


def test_a_password_changes_and_the_other_sessions_end(console_server: Start) -> None:
    console = console_server()
    vic, elsewhere = console.client("vic"), console.client("vic")
    new = "battery battery horse"
    form = {"current": PASSWORD, "new_password": new, "again": new}

    assert (
        "This is not your password." in vic.post("/account/password", form | {"current": "x"}).text
    )
    assert (
        "The two new passwords differ." in vic.post("/account/password", form | {"again": "y"}).text
    )
    assert (
        "at least 12 characters"
        in vic.post("/account/password", form | {"new_password": "short", "again": "short"}).text
    )
    assert vic.post("/account/password", form).status_code == 303
    assert "Password changed." in vic.get("/account").text
    assert elsewhere.get("/").status_code == 303
    assert (
        console.client().sign_in("vic").status_code,
        console.client().sign_in("vic", new).status_code,
    ) == (422, 303)


def test_a_disabled_or_demoted_user_loses_access_at_the_next_request(console_server: Start) -> None:
    console = console_server()
    oli, ann = console.client("oli"), console.client("ann")
    users.create_user(console.place.engine, "tester", "bea", Role.ADMIN, PASSWORD)

    users.set_user_enabled(console.place.engine, "tester", "oli", enabled=False)
    users.set_role(console.place.engine, "tester", "ann", Role.VIEWER)

    assert oli.get("/").status_code == 303
    assert console.client().sign_in("oli").status_code == 422
    assert (ann.get("/").status_code, ann.get("/users").status_code) == (200, 403)


def test_a_forged_cookie_is_not_accepted(console_server: Start) -> None:
    console = console_server()
    ann = console.client("ann")
    head, _, tail = cookie(ann).partition(".")
    for forged in (f"{head}x.{tail}", f"{head}.{tail}x", "x", head):
        assert (
            httpx.get(
                f"{console.url}/", headers={"Cookie": f"penstock_console={forged}"}
            ).status_code
            == 303
        )


def test_the_last_admin_stays_and_weak_passwords_are_rejected(place: Place) -> None:
    create_users(place.engine)
    for act in (
        lambda: users.set_role(place.engine, "tester", "ann", Role.VIEWER),
        lambda: users.set_user_enabled(place.engine, "tester", "ann", enabled=False),
        lambda: users.create_user(place.engine, "tester", "new", Role.VIEWER, "short"),
        lambda: users.create_user(place.engine, "tester", "new", Role.VIEWER, "the new password"),
        lambda: users.create_user(place.engine, "tester", "new", Role.VIEWER, "aaaaaaaaaaaaaaaa"),
        lambda: users.create_user(place.engine, "tester", "<b>", Role.VIEWER, PASSWORD),
    ):
        with pytest.raises(UsageError):
            act()
    assert [row.name for row in users.list_users(place.engine)] == ["ann", "oli", "vic"]


def test_the_commands_create_and_change_users(sqlite_place: Place) -> None:
    run = sqlite_place.run
    result = run("user", "create", "Ann", "--role", "admin", "--generate")
    password = result.stdout.splitlines()[-1]

    assert result.stdout.startswith("user ann created, admin")
    assert users.check_password(sqlite_place.engine, "ann", password) == "ann"
    assert (
        run("user", "create", "bob", "--role", "viewer", given="correct horse staple\n").returncode
        == 0
    )
    assert run("user", "create", "bob", "--role", "viewer", "--no-password").returncode == 1
    assert run("user", "role", "bob", "operator").returncode == 0
    assert "did you mean 'bob'" in run("user", "role", "bop", "operator").stderr
    assert run("user", "password", "bob", given="battery battery horse").returncode == 0
    assert users.check_password(sqlite_place.engine, "bob", "battery battery horse") == "bob"
    assert run("user", "disable", "bob").returncode == 0
    assert users.check_password(sqlite_place.engine, "bob", "battery battery horse") is None
    assert "bob   operator  disabled" in run("user", "list").stdout
    assert run("user", "enable", "bob").returncode == 0
    assert "last admin" in run("user", "disable", "ann").stderr
    assert password not in run("audit").stdout
