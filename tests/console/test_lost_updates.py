"""Two people edit the same: the second one sees what the first one saved, and loses nothing."""

from __future__ import annotations

import re

from support.access_pages import engine, oli, runtime
from support.console import ConsoleClient, words_of

from penstock.access import environments, variables
from penstock.access.environments import EnvironmentChange
from penstock.access.signing_keys import revoke_tokens
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
    late = oli.post("/e/test/settings/secrets/new", name="token", value="my-value", seen=opened)

    assert late.status_code == 409
    assert not re.search("first-value|second-value|my-value", late.text)
    revoke_tokens(engine, "ann", "test", jti="x")  # another change is no conflict
    again = oli.post(
        "/e/test/settings/secrets/new", name="token", value="my-value", seen=seen_in(late.text)
    )
    assert again.status_code == 303
