"""Settings in the console: environment, variables, secrets, sensitive fields, callback targets."""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import timedelta
from types import SimpleNamespace

from support.access_pages import engine, last, oli, runtime
from support.console import ConsoleClient, engine_of, words_of

from penstock import Call, HttpTrigger, Pipeline, audit, hookimpl, secret
from penstock.access import (
    callbacks,
    environments,
    sensitive_fields,
    variables,
)
from penstock.db.engine import Engine
from penstock.testing import Runtime

__all__ = ["engine", "oli", "runtime"]
VALUE = "line one\nline two of a secret"


class TestSettings:
    def test_an_environment_changes_only_where_the_form_differs(
        self, oli: ConsoleClient, engine: Engine
    ) -> None:
        usual = {
            "token_minutes": "60",
            "run_days": "30",
            "record_bodies": "all",
            "keys_in_query": "off",
        }
        same = oli.follow(oli.post("/e/prod/settings/environment", **usual))
        none = last(engine)[1]
        page = oli.follow(
            oli.post(
                "/e/prod/settings/environment",
                **{**usual, "token_minutes": "0.5", "run_days": "90", "keys_in_query": "on"},
            )
        )
        event = audit.events(engine, limit=1)[0]
        bad = [
            oli.post("/e/prod/settings/environment", **{**usual, field: value})
            for field, value in (
                ("token_minutes", "1441"),
                ("token_minutes", "soon"),
                ("run_days", "0"),
                ("record_bodies", "some"),
            )
        ]

        assert "Nothing changed in prod." in same
        assert none != "environment:changed"
        assert "Max token lifetime 30 seconds Run retention 90 days" in page
        assert "Accepted (keys can leak into proxy logs)" in page
        assert (event.actor, event.action, event.subject) == ("oli", "environment:changed", "prod")
        assert event.detail == {
            "token_lifetime": 30,
            "run_retention": 7_776_000,
            "keys_in_query": True,
            "before": {"token_lifetime": 3600, "run_retention": 2_592_000, "keys_in_query": False},
        }
        assert [
            (response.status_code, re.findall(r'id="e-(\w+)"', response.text)) for response in bad
        ] == [
            (422, ["token_minutes"]),
            (422, ["token_minutes"]),
            (422, ["run_days"]),
            (422, ["record_bodies"]),
        ]
        test = next(row for row in environments.list_environments(engine) if row.name == "test")
        assert (test.token_lifetime, test.keys_in_query) == (3600, False)

    def test_a_variable_is_set_changed_and_deleted(
        self, oli: ConsoleClient, engine: Engine
    ) -> None:
        oli.follow(
            oli.post("/e/prod/settings/variables/new", name="region", value="porto\r\nlisbon")
        )
        event = last(engine)
        (row,) = variables.list_variables(engine)
        form = oli.get("/e/prod/settings/variables/new", name="region").text
        bad = oli.post("/e/prod/settings/variables/new", name="Region", value="x")
        oli.follow(oli.post("/e/prod/settings/variables/region/unset"))

        wrong = oli.post(
            "/e/prod/settings/variables/new",
            name="penstock_cors",
            value='{"origins": ["shop.example"]}',
        )

        assert (wrong.status_code, re.findall(r'id="e-(\w+)"', wrong.text)) == (422, ["value"])
        assert "an origin is scheme, host and port: write https://shop.example" in wrong.text
        assert (row.environment, row.value) == ("prod", "porto\nlisbon")
        assert event == ("oli", "variable:set", "prod", "region")
        assert "porto\nlisbon</textarea>" in form
        assert (bad.status_code, 'id="e-name"' in bad.text) == (422, True)
        assert variables.list_variables(engine) == []

    def test_the_value_of_a_secret_is_never_shown(
        self, oli: ConsoleClient, engine: Engine, runtime: Runtime
    ) -> None:
        sent = {
            "name": "erp",
            "secret": VALUE.replace("\n", "\r\n"),
            "days": "30",
            "pipelines": "orders, login",
        }
        page = oli.follow(oli.post("/e/test/settings/secrets/new", **sent))
        wrong = [
            oli.post("/e/test/settings/secrets/new", **{**sent, **more})
            for more in ({"name": "Bad"}, {"days": "soon"}, {"pipelines": "ordres"})
        ]
        empty = oli.post("/e/test/settings/secrets/new", **{**sent, "secret": ""})
        runtime.operate("variable", "list")  # reads the current snapshot
        pages = [
            oli.get(path).text
            for path in ("/e/test/settings", "/e/test/settings/secrets/new?name=erp", "/audit")
        ]

        assert "erp" in page
        assert "v1/login, v1/orders" in page
        assert runtime.access.secrets["erp"].value.reveal() == VALUE  # type: ignore[attr-defined]  # the snapshot has it
        assert [re.findall(r'id="e-(\w+)"', response.text) for response in (*wrong, empty)] == [
            ["name"],
            ["days"],
            ["pipelines"],
            ["secret"],
        ]
        assert not any(
            "line two" in text for text in (page, *(response.text for response in wrong), *pages)
        )
        assert "line two" not in str([event.detail for event in audit.events(engine, limit=50)])
        assert last(engine)[:3] == ("oli", "secret:set", "test")
        oli.follow(oli.post("/e/test/settings/secrets/erp/unset"))
        assert variables.list_secrets(engine) == []

    def test_sensitive_fields_are_added_and_removed(
        self, oli: ConsoleClient, engine: Engine
    ) -> None:
        oli.follow(
            oli.post("/e/test/settings/fields/add", fields="card_number\r\n/customer/name\r\n")
        )
        event = last(engine)
        page = oli.follow(oli.post("/e/test/settings/fields/remove", field="card_number"))
        bad = [oli.post("/e/test/settings/fields/add", fields=text) for text in (" ", "/a/~2")]

        assert event == ("oli", "sensitive-field:added", "test", "test")
        assert "card_number is no longer sensitive in test." in page
        assert [row.field for row in sensitive_fields.list_fields(engine)] == ["/customer/name"]
        assert [
            (response.status_code, re.findall(r'id="e-(\w+)"', response.text)) for response in bad
        ] == [(422, ["fields"])] * 2

    def test_callbacks_are_allowed_with_a_secret_shown_once(
        self, oli: ConsoleClient, engine: Engine
    ) -> None:
        response = oli.post(
            "/e/test/settings/callbacks/new",
            consumer="acme",
            url="https://hooks.example/in",
            private="no",
        )
        secret = re.search(r"whsec_[\w+/=]+", response.text)
        event = last(engine)
        later = oli.get("/e/test/settings").text
        plain = oli.post(
            "/e/test/settings/callbacks/new",
            consumer="acme",
            url="http://10.0.0.1/in",
            private="no",
        )
        unknown = oli.post(
            "/e/test/settings/callbacks/new",
            consumer="acmee",
            url="https://hooks.example/in",
            private="no",
        )
        oli.follow(
            oli.post(
                "/e/test/settings/callbacks/remove",
                consumer="acme",
                url="https://hooks.example/in",
            )
        )

        assert secret is not None
        assert event == ("oli", "callback:allowed", "test", "acme")
        assert "https://hooks.example/in" in later
        assert "whsec_" not in later
        assert [re.findall(r'id="e-(\w+)"', response.text) for response in (plain, unknown)] == [
            ["url"],
            ["consumer"],
        ]
        assert callbacks.list_callbacks(engine) == []


def test_variables_name_the_pipelines_that_need_them_and_secrets_that_expire(
    console_runtime: Callable[..., Runtime],
) -> None:
    trigger = HttpTrigger(api_key=True)
    orders = Pipeline(
        "orders", version="1.0.0", trigger=trigger, needs=["region", secret("erp"), secret("old")]
    )

    @orders.get("/")
    def show(call: Call) -> dict[str, bool]:
        return {}

    @hookimpl
    def penstock_pipelines() -> list[Pipeline]:
        return [orders]

    shop = SimpleNamespace(__name__="shop", penstock_pipelines=penstock_pipelines)
    runtime = console_runtime(shop)
    engine, box = engine_of(runtime), runtime._box  # noqa: SLF001  the kit offers no access to it
    variables.set_variable(engine, "ann", "test", "region", "porto")
    variables.set_variable(engine, "ann", "test", "unused", "x")
    for name, days in (("erp", 3), ("old", -1), ("fresh", 30)):
        variables.set_secret(engine, "ann", "test", name, "x", box, expires=timedelta(days=days))
    page = words_of(ConsoleClient.of(runtime, "oli").text("/e/test/settings"))

    assert re.search(r"region porto v1/orders", page)
    assert re.search(r"unused x \W", page)
    assert re.search(r"erp \S+ \S+ UTC expires soon all pipelines v1/orders", page)
    assert re.search(r"old \S+ \S+ UTC expired all pipelines v1/orders", page)
    assert re.search(r"fresh \S+ \S+ UTC all pipelines \W", page)
