"""Sign-in with a real identity provider, which runs as a program of its own."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator
from urllib.parse import parse_qs, urlsplit

import httpx
import pytest
from support.console import ROOT, ConsoleClient, ConsoleServer
from support.place import Place, wait_for
from support.services import free_port

from penstock import audit
from penstock.access import users
from penstock.access.users import Role

Start = Callable[..., ConsoleServer]


@pytest.fixture
def provider() -> Iterator[str]:
    """An OpenID Connect provider; return its issuer."""
    port = free_port()
    code = (
        "from oidc_provider_mock import run_server_in_thread; import time\nwith"
        f" run_server_in_thread(port={port}): time.sleep(600)"
    )
    with subprocess.Popen(
        [sys.executable, "-W", "ignore", "-c", code],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    ) as process:
        wait_for(f"http://localhost:{port}/.well-known/openid-configuration", process)
        yield f"http://localhost:{port}"
        process.kill()


@pytest.fixture
def console(console_server: Start, sqlite_place: Place, provider: str) -> ConsoleServer:
    oidc = {"ISSUER": provider, "CLIENT_ID": "console", "CLIENT_SECRET": "hush-hush"}
    return console_server(
        PENSTOCK_CONSOLE_URL="http://console.test",
        **{f"PENSTOCK_CONSOLE_OIDC_{name}": value for name, value in oidc.items()},
    )


def know(provider: str, subject: str, **claims: object) -> None:
    httpx.put(f"{provider}/users/{subject}", json=claims).raise_for_status()


def through(visitor: ConsoleClient, subject: str) -> str:
    """Go through the provider and return where it sends the browser back to, on the console's
    own host."""
    start = visitor.get("/oidc")
    assert start.status_code == 302, start.text
    back = httpx.post(start.headers["Location"], data={"sub": subject}).headers["Location"]
    assert back.startswith(f"http://console.test{ROOT}/oidc/back?")
    return back.removeprefix(f"http://console.test{ROOT}")


def test_an_authenticated_person_signs_in_as_the_user_of_that_name(
    console: ConsoleServer, provider: str
) -> None:
    users.create_user(console.place.engine, "tester", "eve@example.org", Role.OPERATOR, None)
    know(provider, "eve", email="Eve@example.org", email_verified=True)
    eve = console.client()
    start = eve.get("/oidc").headers["Location"]
    asked = {name: values[0] for name, values in parse_qs(urlsplit(start).query).items()}

    assert "Sign in with localhost" in eve.get("/sign-in").text
    assert (asked["code_challenge_method"], asked["client_id"]) == ("S256", "console")
    assert asked["nonce"]
    assert asked["state"]
    signed = eve.get(through(eve, "eve"))
    assert (signed.status_code, signed.headers["Location"]) == (303, f"{ROOT}/")
    assert "operator" in eve.get("/account").text
    event = audit.events(console.place.engine, limit=1)[0]
    assert (event.actor, event.action, event.detail["how"]) == (
        "eve@example.org",
        "user:signed-in",
        provider,
    )
    assert console.client().sign_in("eve@example.org", "").status_code == 422
    assert "hush-hush" not in console.server.log.read_text()


def test_the_provider_sends_browsers_back_below_the_path_of_the_console_s_url(
    console_server: Start, provider: str
) -> None:
    oidc = {
        "URL": "http://console.test/ops",
        "OIDC_ISSUER": provider,
        "OIDC_CLIENT_ID": "console",
        "OIDC_CLIENT_SECRET": "hush-hush",
    }
    start = (
        console_server(**{f"PENSTOCK_CONSOLE_{name}": value for name, value in oidc.items()})
        .client()
        .get("/oidc")
        .headers["Location"]
    )

    assert parse_qs(urlsplit(start).query)["redirect_uri"] == [
        f"http://console.test/ops{ROOT}/oidc/back"
    ]


def test_unknown_disabled_and_unverified_users_do_not_sign_in(
    console: ConsoleServer, provider: str
) -> None:
    engine = console.place.engine
    for name in ("off@example.org", "unverified@example.org"):
        users.create_user(engine, "tester", name, Role.VIEWER, None)
    users.set_user_enabled(engine, "tester", "off@example.org", enabled=False)
    know(provider, "off", email="off@example.org", email_verified=True)
    know(provider, "unverified", email="unverified@example.org", email_verified=False)
    know(provider, "outsider", email="outsider@example.org", email_verified=True)
    know(provider, "silent")
    users.create_user(engine, "tester", "mark@example.org", Role.ADMIN, None)
    know(provider, "kelvin", email="mar\u212a@example.org", email_verified=True)
    know(provider, "spaced", email="\u00a0mark@example.org", email_verified=True)

    for subject in ("off", "unverified", "outsider", "silent", "kelvin", "spaced"):
        visitor = console.client()
        response = visitor.get(through(visitor, subject))
        assert (response.status_code, 'class="problem"' in response.text) == (422, True), subject
        assert visitor.get("/").status_code == 303


def test_an_answer_to_another_browser_is_rejected(console: ConsoleServer, provider: str) -> None:
    users.create_user(console.place.engine, "tester", "eve@example.org", Role.OPERATOR, None)
    know(provider, "eve", email="eve@example.org", email_verified=True)
    eve, victim = console.client(), console.client()
    back = through(eve, "eve")
    victim.get("/oidc")

    assert victim.get(back).status_code == 422
    assert victim.get("/").status_code == 303
    assert eve.get(back).status_code == 303
    assert eve.get(back).status_code == 422
    assert (
        console.client()
        .get("/oidc/back?error=access_denied&error_description=<b>no</b>")
        .status_code
        == 422
    )


def test_an_unreachable_provider_is_reported(console_server: Start) -> None:
    settings = {
        "ISSUER": f"http://localhost:{free_port()}",
        "CLIENT_ID": "console",
        "CLIENT_SECRET": "x",
    }
    console = console_server(
        PENSTOCK_CONSOLE_URL="http://console.test",
        **{f"PENSTOCK_CONSOLE_OIDC_{name}": value for name, value in settings.items()},
    )

    away = console.client().get("/oidc")

    assert (away.status_code, "be reached at the moment" in away.text) == (422, True)
