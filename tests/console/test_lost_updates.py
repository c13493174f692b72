"""Two people edit the same: the second one sees what the first one saved, and loses nothing."""

from __future__ import annotations

import re

from support.access_pages import engine, oli, runtime
from support.console import ConsoleClient, words_of

from penstock.access import callbacks, environments, issuers, limits, users, variables
from penstock.access.environments import EnvironmentChange
from penstock.access.signing_keys import revoke_tokens
from penstock.access.users import Role
from penstock.contracts.rates import Rate
from penstock.db.engine import Engine
from penstock.testing import Runtime

__all__ = ["engine", "oli", "runtime"]
DAY_S = 86_400


def seen_in(page: str) -> str:
    match = re.search(r'name="seen" value="([0-9a-f]{16})"', page)
    assert match is not None
    return match[1]


def test_settings_of_an_environment(oli: ConsoleClient, engine: Engine) -> None:
    form = {
        "token_minutes": "30",
        "run_days": "30",
        "record_bodies": "all",
        "keys_in_query": "off",
        "seen": seen_in(oli.text("/e/prod/settings/environment")),
    }
    environments.change_environment(
        engine, "ann", "prod", EnvironmentChange(run_retention=45 * DAY_S)
    )
    late = oli.post("/e/prod/settings/environment", form)
    kept = next(row for row in environments.list_environments(engine) if row.name == "prod")
    again = oli.post(
        "/e/prod/settings/environment", {**form, "seen": seen_in(late.text), "run_days": "45"}
    )
    row = next(row for row in environments.list_environments(engine) if row.name == "prod")

    assert late.status_code == 409
    assert "Run retention, in days 45" in words_of(late.text)
    assert re.search(r"name=\"run_days\"[^>]* value=\"30\"", late.text)
    assert re.search(r"name=\"token_minutes\"[^>]* value=\"30\"", late.text)
    assert (kept.run_retention, kept.token_lifetime) == (45 * DAY_S, 3600)
    assert again.status_code == 303
    assert (row.run_retention, row.token_lifetime) == (45 * DAY_S, 1800)


def test_another_kind_of_change_is_no_conflict(oli: ConsoleClient, engine: Engine) -> None:
    seen = seen_in(oli.text("/e/prod/settings/environment"))
    variables.set_variable(engine, "ann", "prod", "zone", "1")
    response = oli.post(
        "/e/prod/settings/environment",
        token_minutes="20",
        run_days="30",
        record_bodies="all",
        keys_in_query="off",
        seen=seen,
    )

    assert response.status_code == 303


def test_a_variable(oli: ConsoleClient, engine: Engine) -> None:
    variables.set_variable(engine, "ann", "test", "region", "first")
    opened = seen_in(oli.text("/e/test/settings/variables/new", name="region"))
    fresh = seen_in(oli.text("/e/test/settings/variables/new"))
    variables.set_variable(engine, "ann", "test", "region", "second <b>")
    late = oli.post("/e/test/settings/variables/new", name="region", value="mine", seen=opened)
    new = oli.post("/e/test/settings/variables/new", name="region", value="mine", seen=fresh)

    assert (late.status_code, new.status_code) == (409, 409)
    for page in (late.text, new.text):
        assert "region second <b>" in words_of(page)
        assert ">\r\nmine</textarea>" in page.replace(">mine", ">\r\nmine")
    assert variables.list_variables(engine, "test")[0].value == "second <b>"
    again = oli.post(
        "/e/test/settings/variables/new", name="region", value="mine", seen=seen_in(late.text)
    )
    assert again.status_code == 303
    assert variables.list_variables(engine, "test")[0].value == "mine"


def test_a_secret(oli: ConsoleClient, engine: Engine, runtime: Runtime) -> None:
    box = runtime._box  # noqa: SLF001  the kit offers no access to it
    variables.set_secret(engine, "ann", "test", "token", "first-value", box)
    opened = seen_in(oli.text("/e/test/settings/secrets/new", name="token"))
    variables.set_secret(engine, "ann", "test", "token", "second-value", box)
    late = oli.post("/e/test/settings/secrets/new", name="token", secret="my-value", seen=opened)

    assert late.status_code == 409
    assert not re.search("first-value|second-value|my-value", late.text)
    revoke_tokens(engine, "ann", "test", jti="x")  # another change is no conflict
    again = oli.post(
        "/e/test/settings/secrets/new", name="token", secret="my-value", seen=seen_in(late.text)
    )
    assert again.status_code == 303


def rates_of(engine: Engine) -> list[tuple[str, str]]:
    return [(row.pipeline, row.rate) for row in limits.list_limits(engine, environment="test")]


def test_a_limit(oli: ConsoleClient, engine: Engine) -> None:
    form = {"consumer": "acme", "rate": "9/minute", "by": "consumer", "pipeline": ""}
    path = "/e/test/limits/new"
    opened = seen_in(oli.text(path))
    limits.set_limit(engine, "ann", "acme", "test", Rate("5/minute"))
    late = oli.post(path, {**form, "seen": opened})
    kept = rates_of(engine)
    other = oli.post(path, {**form, "rate": "70/hour", "seen": opened})
    again = oli.post(path, {**form, "seen": seen_in(late.text)})

    assert late.status_code == 409
    assert "all pipelines 5/minute by consumer" in words_of(late.text)
    assert re.search(r'name="rate"[^>]* value="9/minute"', late.text)
    assert kept == [("", "5/minute")]
    assert (other.status_code, again.status_code) == (303, 303)
    assert sorted(rates_of(engine)) == [("", "70/hour"), ("", "9/minute")]


def test_a_limit_that_is_edited(oli: ConsoleClient, engine: Engine) -> None:
    limits.set_limit(engine, "ann", "acme", "test", Rate("5/minute"))
    form = {"consumer": "acme", "rate": "9/minute", "by": "consumer", "pipeline": ""}
    path = "/e/test/limits/new"
    seen = seen_in(oli.text(path, **{**form, "rate": "5/minute"}))
    limits.remove_limits(engine, "ann", "acme", "test")
    late = oli.post(path, {**form, "seen": seen})

    assert late.status_code == 409
    assert rates_of(engine) == []


def test_network_rules(oli: ConsoleClient, engine: Engine) -> None:
    path, network = "/e/test/limits/networks/new", "192.0.2.0/24"
    seen = seen_in(oli.text(path))
    limits.set_networks(engine, "ann", "acme", "test", [network], allowed=False)
    form = {"consumer": "acme", "networks": network, "allowed": "yes"}
    late = oli.post(path, {**form, "seen": seen})
    kept = limits.list_networks(engine)[0].allowed
    again = oli.post(path, {**form, "seen": seen_in(late.text)})

    assert (late.status_code, kept, again.status_code) == (409, False, 303)
    assert "192.0.2.0/24 denied" in words_of(late.text)
    assert limits.list_networks(engine)[0].allowed


def test_a_callback_target(oli: ConsoleClient, engine: Engine, runtime: Runtime) -> None:
    path, url = "/e/test/settings/callbacks/new", "https://acme.example/hooks"
    seen = seen_in(oli.text(path))
    box = runtime._box  # noqa: SLF001  the kit offers no access to it
    first = callbacks.allow_callbacks(engine, "ann", "acme", "test", url, box, private=False)
    form = {"consumer": "acme", "url": url, "private": "no"}
    late = oli.post(path, {**form, "seen": seen})
    again = oli.post(path, {**form, "seen": seen_in(late.text)})

    assert (first.replaced, late.status_code, again.status_code) == (False, 409, 200)
    assert f"{url} allowed; its signing secret is replaced" in words_of(late.text)
    assert first.secret not in late.text + again.text + repr(first)


def test_an_issuer(oli: ConsoleClient, engine: Engine) -> None:
    path, issuer = "/e/test/tokens/issuers/new", "https://id.example.com/"
    seen = seen_in(oli.text(path))
    trusted = issuers.parse_issuer(issuer, "saved-audience", consumer="acme")
    issuers.trust_issuer(engine, "ann", "test", trusted, own="penstock")
    form = {"issuer": issuer, "audience": "my-audience", "found": "discovery", "whose": "claim"}
    late = oli.post(path, {**form, "seen": seen})
    kept = issuers.list_issuers(engine)[0].audience
    again = oli.post(path, {**form, "seen": seen_in(late.text)})

    assert (late.status_code, kept, again.status_code) == (409, "saved-audience", 303)
    assert "Audience saved-audience" in words_of(late.text)
    assert re.search(r'name="audience"[^>]* value="my-audience"', late.text)


def test_roles_of_a_user(engine: Engine, runtime: Runtime) -> None:
    ann = ConsoleClient.of(runtime, "ann")
    seen = seen_in(ann.text("/users/vic"))
    users.set_role(engine, "tester", "vic", Role.OPERATOR, environment="prod")
    form = {"role": "admin", "environment": ""}
    late = ann.post("/users/vic/role", {**form, "seen": seen})
    again = ann.post("/users/vic/role", {**form, "seen": seen_in(late.text)})
    vic = next(row for row in users.list_users(engine) if row.name == "vic")

    assert (late.status_code, again.status_code) == (409, 303)
    assert "All environments viewer prod operator" in words_of(late.text)
    assert (vic.role, vic.roles) == ("admin", {"prod": "operator"})
