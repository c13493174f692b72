"""A session that ends while its user types: the form comes back after the sign-in."""

from __future__ import annotations

import re
from collections.abc import Callable

import pytest
from support.access_pages import engine, oli, runtime
from support.console import ROOT, ConsoleClient, words_of

from penstock.access import consumers, limits, sessions, variables
from penstock.console import kept_forms
from penstock.console.forms import secret_fields
from penstock.db.engine import Engine
from penstock.testing import Runtime

__all__ = ["engine", "oli", "runtime"]
ENDED = "Your session ended before this form was sent."
VARIABLES = "/e/test/settings/variables/new"


@pytest.fixture
def expired(oli: ConsoleClient, engine: Engine) -> Callable[..., str]:
    """Send a form after the session has ended; return the address of the sign-in page."""

    def send(path: str, form: dict[str, str], *, referrer: str = "") -> str:
        oli.token()
        sessions.end_sessions(engine, "tester", "oli")
        oli.http.headers["Referer"] = f"http://localhost{ROOT}{referrer or path}"
        response = oli.post(path, form)
        assert response.status_code == 303, words_of(response.text)
        return response.headers["Location"]

    return send


def signed_in_again(oli: ConsoleClient, sign_in: str, name: str = "oli") -> tuple[str, str]:
    """Sign in; return the address of the next page, and the page."""
    oli.http.get(sign_in)
    target = oli.sign_in(name).headers["Location"]
    return target, oli.http.get(target).text


def test_what_was_typed_is_in_the_form_again(
    oli: ConsoleClient, engine: Engine, expired: Callable[..., str]
) -> None:
    form = {"name": "region", "value": "porto & <b>\nlisbon", "seen": "a" * 16}
    target, page = signed_in_again(oli, expired(VARIABLES, form))
    unsaved = variables.list_variables(engine)
    second = oli.text(VARIABLES)

    assert target == ROOT + VARIABLES
    assert ENDED in words_of(page)
    assert re.search(r'name="name"[^>]* value="region"', page)
    assert "porto &amp; &lt;b&gt;\nlisbon</textarea>" in page
    assert 'name="seen" value="aaaaaaaaaaaaaaaa"' in page  # a lost update is still found
    assert unsaved == []
    assert ENDED not in words_of(second)


def test_the_page_that_the_form_came_from_is_shown(
    oli: ConsoleClient, expired: Callable[..., str]
) -> None:
    path = "/e/test/policy/change"
    query = "?exposure=external&policy=any"
    form = {"exposure": "external", "policy": "any", "reason": "SEC-118", "digest": "x"}
    target, page = signed_in_again(oli, expired(path, form, referrer=path + query))

    assert target == ROOT + path + query
    assert "SEC-118" in page


def test_a_confirmed_act_is_asked_again(
    oli: ConsoleClient, engine: Engine, expired: Callable[..., str]
) -> None:
    limits.set_networks(engine, "ann", "acme", "test", ["192.0.2.0/24"], allowed=True)
    path = "/e/test/limits/networks/remove"
    _, page = signed_in_again(oli, expired(path, {"consumer": "acme", "network": "192.0.2.0/24"}))

    assert "Remove the rule for 192.0.2.0/24 of acme in test?" in words_of(page)
    assert len(limits.list_networks(engine)) == 1


def test_another_user_does_not_see_it(oli: ConsoleClient, expired: Callable[..., str]) -> None:
    sign_in = expired(VARIABLES, {"name": "region", "value": "typed-by-oli"})
    target, page = signed_in_again(oli, sign_in, "ann")

    assert target == ROOT + VARIABLES
    assert "typed-by-oli" not in page
    assert ENDED not in words_of(page)


def test_secrets_are_not_kept_and_the_cookie_is_encrypted(
    oli: ConsoleClient, expired: Callable[..., str], runtime: Runtime
) -> None:
    path = "/e/test/settings/secrets/new"
    sign_in = expired(path, {"name": "erp_token", "secret": "s3cr3t-value", "days": "30"})
    cookie = oli.http.cookies[kept_forms.COOKIE]
    app = runtime.application
    box = app.extensions["penstock-console"].box
    with app.app_context():  # what is in the cookie
        kept = kept_forms.opened(cookie).values
    _, page = signed_in_again(oli, sign_in)

    assert secret_fields() >= {"password", "current", "new_password", "again", "secret"}
    assert not re.search("erp_token|s3cr3t", cookie)
    assert kept == [("name", "erp_token"), ("days", "30")]
    with pytest.raises(Exception, match="encrypted"):  # the keys at rest can't read it
        box.decrypt(cookie.encode())
    assert re.search(r'name="name"[^>]* value="erp_token"', page)
    assert re.search(r'name="days"[^>]* value="30"', page)
    assert "s3cr3t" not in page


@pytest.mark.parametrize("fault", ["csrf", "large", "own", "search", "anonymous"])
def test_other_forms_are_not_kept(oli: ConsoleClient, engine: Engine, fault: str) -> None:
    oli.token()
    sessions.end_sessions(engine, "tester", "oli")
    if fault == "anonymous":
        oli = ConsoleClient(oli.http)
        oli.http.cookies.clear()
    path = {"own": "/account/password", "search": "/search"}.get(fault, VARIABLES)
    value = "x".join(map(str, range(2500))) if fault == "large" else "x"
    form = {"name": "region", "value": value, "q": "pk_test_abc"}
    response = oli.post(path, form, csrf="wrong" if fault == "csrf" else None)

    assert response.status_code == 401
    assert kept_forms.COOKIE not in oli.http.cookies


def test_it_is_kept_for_minutes(
    oli: ConsoleClient, expired: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    sign_in = expired(VARIABLES, {"name": "region", "value": "x"})
    now = kept_forms.time.time()
    monkeypatch.setattr(kept_forms.time, "time", lambda: now + kept_forms.MAX_AGE_S + 1)
    _, page = signed_in_again(oli, sign_in)

    assert ENDED not in words_of(page)


def test_the_sign_in_page_names_product_environment_and_fault(oli: ConsoleClient) -> None:
    visitor = ConsoleClient(oli.http)
    visitor.http.cookies.clear()
    page = words_of(visitor.text("/sign-in"))
    wrong = visitor.sign_in("oli", "wrong horse staple").text

    assert "Sign in to Penstock Environment of this server: test" in page
    assert re.search(r'role="alert" tabindex="-1" autofocus>The user or the password', wrong)


def test_boxes_that_were_ticked(
    oli: ConsoleClient, engine: Engine, expired: Callable[..., str]
) -> None:
    path = "/consumers/acme/pipelines"
    _, page = signed_in_again(oli, expired(path, {"on": "test/v1/orders", "new": "test"}))

    assert re.search(r'value="test/v1/orders"[^>]* checked', page)
    assert re.search(r'name="new" value="test"[^>]* checked', page)
    assert not consumers.show_consumer(engine, "acme").associations
