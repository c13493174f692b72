"""Tokens, limits and settings in the console: each change applies and is audited with its user, and
faults are beside their field."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from types import SimpleNamespace

import pytest
from support.console import EVIL, ConsoleClient, engine_of, words_of

from penstock import Call, HttpTrigger, Pipeline, Rate, audit, hookimpl
from penstock.access import (
    callbacks,
    consumers,
    environments,
    issuers,
    limits,
    sensitive_fields,
    signing_keys,
    variables,
)
from penstock.db.engine import Engine
from penstock.testing import Runtime

VALUE = "line one\nline two of a secret"


def shop() -> SimpleNamespace:
    orders = Pipeline(
        "orders",
        version="1.2.0",
        trigger=HttpTrigger(api_key=True, rate=[Rate("2/minute"), Rate("900/hour", by="pipeline")]),
    )
    login = Pipeline("login", version="1.0.0", trigger=HttpTrigger(api_key=True, login=True))

    @orders.get("/")
    def show(call: Call) -> dict[str, bool]:
        return {}

    @login.post("/")
    def give(call: Call) -> dict[str, bool]:
        return {}

    @hookimpl
    def penstock_pipelines() -> list[Pipeline]:
        return [orders, login]

    return SimpleNamespace(__name__="shop", penstock_pipelines=penstock_pipelines)


@pytest.fixture
def runtime(console_runtime: Callable[..., Runtime]) -> Runtime:
    runtime = console_runtime(shop())
    for name in ("acme", "globex"):
        consumers.create_consumer(engine_of(runtime), "tester", name)
    return runtime


@pytest.fixture
def engine(runtime: Runtime) -> Engine:
    return engine_of(runtime)


@pytest.fixture
def oli(runtime: Runtime) -> ConsoleClient:
    return ConsoleClient.of(runtime, "oli")


def last(engine: Engine) -> tuple[str, str, str | None, str]:
    event = audit.events(engine, limit=1)[0]
    return event.actor, event.action, event.environment, event.subject


class TestTokens:
    def test_a_login_flow_is_designated_and_withdrawn(
        self, oli: ConsoleClient, engine: Engine
    ) -> None:
        before = words_of(oli.get("/tokens", env="prod").text)
        page = oli.follow(oli.post("/tokens/flows/v1/login/designate?env=prod"))
        event = last(engine)
        withdrawn = oli.follow(oli.post("/tokens/flows/v1/login/withdraw?env=prod"))

        assert (
            "login not designated Its trigger sets login=True. It can issue tokens once you"
            " designate it." in before
        )
        assert "login is now a login flow in prod." in page
        assert "login designated Issues tokens to callers with a valid key." in page
        assert event == ("oli", "login-flow:designated", "prod", "v1/login")
        assert "login not designated" in withdrawn
        assert "not designated" in words_of(oli.get("/tokens", env="test").text)

    def test_a_pipeline_without_login_is_designated_with_a_warning(
        self, oli: ConsoleClient
    ) -> None:
        page = oli.follow(oli.post("/tokens/flows/v1/orders/designate?env=test"))
        unknown = oli.post("/tokens/flows/v1/ordres/designate?env=test")

        assert "Its trigger doesn't set login=True, so it can't issue tokens." in page
        assert (unknown.status_code, "did you mean “v1/orders”" in words_of(unknown.text)) == (
            422,
            True,
        )

    def test_signing_keys_are_rotated_and_revoked(self, oli: ConsoleClient, engine: Engine) -> None:
        (first,) = signing_keys.list_signing_keys(engine, "test")
        oli.follow(oli.post("/tokens/keys/rotate?env=test", algorithm="ES256"))
        event = last(engine)
        page = oli.follow(oli.post(f"/tokens/keys/{first.kid}/drop?env=test"))
        keys = signing_keys.list_signing_keys(engine, "test")
        bad = [
            oli.post("/tokens/keys/rotate?env=test", algorithm="none"),
            oli.post("/tokens/keys/nope/drop?env=test"),
        ]

        assert event == ("oli", "signing-key:rotated", "test", "test")
        assert [(key.algorithm, key.state) for key in keys] == [
            ("EdDSA", "dropped"),
            ("ES256", "signs"),
        ]
        assert f"Signing key {first.kid} and all its tokens revoked in test." in page
        assert last(engine) == ("oli", "signing-key:dropped", "test", first.kid)
        assert [response.status_code for response in bad] == [422, 422]
        assert "signs no tokens here; choose one of EdDSA" in words_of(bad[0].text)
        assert len(signing_keys.list_signing_keys(engine, "prod")) == 1

    def test_tokens_are_revoked_one_or_all_of_a_consumer(
        self, oli: ConsoleClient, engine: Engine
    ) -> None:
        single = oli.follow(oli.post("/tokens/revoke?env=prod", jti="abc", consumer=""))
        all_ = oli.follow(oli.post("/tokens/revoke?env=prod", jti="", consumer="acme"))
        event = last(engine)
        both, unknown = (
            oli.post("/tokens/revoke?env=prod", jti="a", consumer="acme"),
            oli.post("/tokens/revoke?env=prod", jti="", consumer="acmee"),
        )

        assert "Token abc revoked in prod." in single
        assert "All tokens of acme issued so far revoked in prod." in all_
        assert event == ("oli", "token:revoked", "prod", "acme")
        assert (both.status_code, 'id="e-jti"' in both.text) == (422, True)
        assert (unknown.status_code, 'id="e-consumer"' in unknown.text) == (422, True)

    def test_an_outside_issuer_is_trusted_in_each_way_and_distrusted(
        self, oli: ConsoleClient, engine: Engine
    ) -> None:
        keys = json.dumps(
            {
                "keys": [
                    {
                        "kty": "OKP",
                        "crv": "Ed25519",
                        "x": "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo",
                    }
                ]
            }
        )
        usual = {
            "issuer": "https://id.example",
            "audience": "penstock",
            "consumer_claim": "azp",
            "scope_claim": "scp",
        }
        for more, keys_shown, consumer_shown in (
            ({"found": "discovery", "whose": "claim"}, "by discovery", "claim azp"),
            (
                {
                    "found": "url",
                    "jwks_url": "https://id.example/keys",
                    "whose": "one",
                    "consumer": "acme",
                },
                "https://id.example/keys",
                "acme",
            ),
            (
                {"found": "set", "jwks": keys, "whose": "map", "mapped": "a=acme\r\n\r\nb=globex"},
                "1 from a file",
                "claim azp: a=acme, b=globex",
            ),
        ):
            page = oli.follow(oli.post("/tokens/issuers/new?env=test", **usual, **more))

            (row,) = issuers.list_issuers(engine, "test")
            assert (row.keys, row.consumer, row.scope_claim) == (
                keys_shown,
                consumer_shown,
                "scp",
            )
            assert "https://id.example penstock" in page
        assert last(engine) == ("oli", "issuer:trusted", "test", "https://id.example")
        more = {
            "found": "set",
            "jwks": keys.replace("]", ', {"kty": "RSA", "kid": "old", "n": "AQAB", "e": "AQAB"}]'),
            "whose": "claim",
        }
        assert "Not used: key 2 (kid 'old'): an RSA key of 17 bits" in words_of(
            oli.follow(oli.post("/tokens/issuers/new?env=test", **usual, **more))
        )
        oli.follow(oli.post("/tokens/issuers/distrust?env=test", issuer="https://id.example"))
        assert issuers.list_issuers(engine, "test") == []

    def test_faults_of_an_issuer_are_beside_their_field(
        self, oli: ConsoleClient, engine: Engine
    ) -> None:
        good = {
            "issuer": "https://id.example",
            "audience": "p",
            "found": "discovery",
            "whose": "claim",
        }
        for field, more in (
            ("issuer", {"issuer": "http://id.example"}),
            ("issuer", {"issuer": ""}),
            ("jwks", {"found": "set", "jwks": '{"keys": [{"kty": "oct", "k": "c2VjcmV0"}]}'}),
            (
                "jwks",
                {"found": "set", "jwks": '{"keys": [{"kty": "RSA", "n": "AQAB", "e": "AQAB"}]}'},
            ),
            ("jwks_url", {"found": "url"}),
            ("found", {"found": "odd"}),
            ("whose", {"whose": "odd"}),
            ("mapped", {"whose": "map", "mapped": "nonsense"}),
            ("mapped", {"whose": "map", "mapped": "a=unknown"}),
            ("consumer", {"whose": "one", "consumer": "unknown"}),
        ):
            response = oli.post("/tokens/issuers/new?env=test", **{**good, **more})

            assert (response.status_code, re.findall(r'id="e-(\w+)"', response.text)) == (
                422,
                [field],
            )
        assert issuers.list_issuers(engine) == []


class TestLimits:
    def test_a_limit_is_set_shown_and_removed(self, oli: ConsoleClient, engine: Engine) -> None:
        page = oli.follow(
            oli.post(
                "/limits/new?env=prod",
                consumer="acme",
                rate="5/minute",
                by="key",
                pipeline="orders",
            )
        )
        event = last(engine)
        oli.follow(
            oli.post(
                "/limits/new?env=prod", consumer="acme", rate="9/hour", by="consumer", pipeline=""
            )
        )
        removed = oli.follow(
            oli.post("/limits/remove?env=prod", consumer="acme", pipeline="orders")
        )
        again = oli.post("/limits/remove?env=prod", consumer="acme", pipeline="orders")
        unused = oli.post(
            "/limits/new?env=prod", consumer="acme", rate="9/minute", by="consumer", pipeline=""
        )

        assert (unused.status_code, re.findall(r'id="e-(\w+)"', unused.text)) == (422, ["rate"])
        assert "The limit replaces the pipeline's own rates: 2/minute by consumer." in page
        assert "acme v1/orders 5/minute key" in page
        assert event == ("oli", "limit:set", "prod", "acme")
        assert "1 limit of acme removed in prod." in removed
        assert [
            (row.environment, row.pipeline, row.rate) for row in limits.list_limits(engine)
        ] == [("prod", "", "9/hour")]
        assert (again.status_code, "has no limit at orders" in words_of(again.text)) == (422, True)

    def test_faults_of_a_limit_are_beside_their_field(
        self, oli: ConsoleClient, engine: Engine
    ) -> None:
        good = {"consumer": "acme", "rate": "5/minute", "by": "consumer", "pipeline": ""}
        for field, value in (("consumer", "acmee"), ("rate", "often"), ("pipeline", "ordres")):
            response = oli.post("/limits/new?env=test", **{**good, field: value})

            assert (response.status_code, re.findall(r'id="e-(\w+)"', response.text)) == (
                422,
                [field],
            )
        assert oli.post("/limits/new?env=test", **{**good, "by": "pipeline"}).status_code == 422
        assert limits.list_limits(engine) == []

    def test_networks_are_allowed_denied_and_removed(
        self, oli: ConsoleClient, engine: Engine
    ) -> None:
        page = oli.follow(
            oli.post(
                "/limits/networks/new?env=test",
                consumer="acme",
                networks="192.0.2.0/24\r\n2001:db8::/32",
                allowed="yes",
            )
        )
        oli.follow(
            oli.post(
                "/limits/networks/new?env=test",
                consumer="globex",
                networks="198.51.100.7",
                allowed="no",
            )
        )
        event = last(engine)
        oli.follow(
            oli.post("/limits/networks/remove?env=test", consumer="acme", network="192.0.2.0/24")
        )
        rows = [(row.consumer, row.network, row.allowed) for row in limits.list_networks(engine)]
        bad = [
            oli.post(
                "/limits/networks/new?env=test", consumer="acme", networks="nowhere", allowed="yes"
            ),
            oli.post("/limits/networks/new?env=test", consumer="acme", networks=" ", allowed="yes"),
            oli.post(
                "/limits/networks/new?env=test",
                consumer="acmee",
                networks="192.0.2.1",
                allowed="yes",
            ),
            oli.post(
                "/limits/networks/new?env=test",
                consumer="acme",
                networks="192.0.2.1",
                allowed="odd",
            ),
        ]

        assert "Calls of acme from 192.0.2.0/24, 2001:db8::/32 are allowed in test." in page
        assert event == ("oli", "address:denied", "test", "globex")
        assert rows == [("acme", "2001:db8::/32", True), ("globex", "198.51.100.7/32", False)]
        assert [re.findall(r'id="e-(\w+)"', response.text) for response in bad] == [
            ["networks"],
            ["networks"],
            ["consumer"],
            ["allowed"],
        ]

    def test_lists_are_paged_by_key_and_filtered_by_consumer(
        self, oli: ConsoleClient, engine: Engine
    ) -> None:
        for index in range(12):
            consumers.create_consumer(engine, "tester", f"c{index:02}")
            for rate in ("1/second", "2/minute", "3/hour", "5/day", "4/12 hours"):
                limits.set_limit(engine, "tester", f"c{index:02}", "test", Rate(rate))
        names, path = list[str](), "/limits?env=test"
        while path:
            page = oli.get(path).text
            names += re.findall(r'<th scope="row">(c\d\d)</th>', page)
            match = re.search(r'href="/-/console([^"]+)" rel="next"', page)
            path = match[1].replace("&amp;", "&") if match else ""

        assert names == sorted(f"c{index:02}" for index in range(12) for _ in range(5))
        assert set(
            re.findall(
                r'<th scope="row">(c\d\d)</th>', oli.get("/limits", env="test", consumer="c07").text
            )
        ) == {"c07"}
        wrong = oli.get("/limits", env="test", consumer="c77")
        assert (wrong.status_code, 'id="e-consumer"' in wrong.text) == (422, True)


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
        same = oli.follow(oli.post("/settings/environment?env=prod", **usual))
        none = last(engine)[1]
        page = oli.follow(
            oli.post(
                "/settings/environment?env=prod",
                **{**usual, "token_minutes": "0.5", "run_days": "90", "keys_in_query": "on"},
            )
        )
        event = audit.events(engine, limit=1)[0]
        bad = [
            oli.post("/settings/environment?env=prod", **{**usual, field: value})
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
            oli.post("/settings/variables/new?env=prod", name="region", value="porto\r\nlisbon")
        )
        event = last(engine)
        (row,) = variables.list_variables(engine)
        form = oli.get("/settings/variables/new", env="prod", name="region").text
        bad = oli.post("/settings/variables/new?env=prod", name="Region", value="x")
        oli.follow(oli.post("/settings/variables/region/unset?env=prod"))

        wrong = oli.post(
            "/settings/variables/new?env=prod",
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
            "value": VALUE.replace("\n", "\r\n"),
            "days": "30",
            "pipelines": "orders, login",
        }
        page = oli.follow(oli.post("/settings/secrets/new?env=test", **sent))
        wrong = [
            oli.post("/settings/secrets/new?env=test", **{**sent, **more})
            for more in ({"name": "Bad"}, {"days": "soon"}, {"pipelines": "ordres"})
        ]
        empty = oli.post("/settings/secrets/new?env=test", **{**sent, "value": ""})
        runtime.operate("variable", "list")  # reads the current snapshot
        pages = [
            oli.get(path).text
            for path in ("/settings?env=test", "/settings/secrets/new?env=test&name=erp", "/audit")
        ]

        assert "erp" in page
        assert "v1/login, v1/orders" in page
        assert runtime.access.secrets["erp"].value.reveal() == VALUE  # type: ignore[attr-defined]  # the snapshot has it
        assert [re.findall(r'id="e-(\w+)"', response.text) for response in (*wrong, empty)] == [
            ["name"],
            ["days"],
            ["pipelines"],
            ["value"],
        ]
        assert not any(
            "line two" in text for text in (page, *(response.text for response in wrong), *pages)
        )
        assert "line two" not in str([event.detail for event in audit.events(engine, limit=50)])
        assert last(engine)[:3] == ("oli", "secret:set", "test")
        oli.follow(oli.post("/settings/secrets/erp/unset?env=test"))
        assert variables.list_secrets(engine) == []

    def test_sensitive_fields_are_added_and_removed(
        self, oli: ConsoleClient, engine: Engine
    ) -> None:
        oli.follow(
            oli.post("/settings/fields/add?env=test", fields="card_number\r\n/customer/name\r\n")
        )
        event = last(engine)
        page = oli.follow(oli.post("/settings/fields/remove?env=test", field="card_number"))
        bad = [oli.post("/settings/fields/add?env=test", fields=text) for text in (" ", "/a/~2")]

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
            "/settings/callbacks/new?env=test",
            consumer="acme",
            url="https://hooks.example/in",
            private="no",
        )
        secret = re.search(r"whsec_[\w+/=]+", response.text)
        event = last(engine)
        later = oli.get("/settings", env="test").text
        plain = oli.post(
            "/settings/callbacks/new?env=test",
            consumer="acme",
            url="http://10.0.0.1/in",
            private="no",
        )
        unknown = oli.post(
            "/settings/callbacks/new?env=test",
            consumer="acmee",
            url="https://hooks.example/in",
            private="no",
        )
        oli.follow(
            oli.post(
                "/settings/callbacks/remove?env=test",
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


def test_empty_pages_name_the_next_step(runtime: Runtime) -> None:
    vic = ConsoleClient.of(runtime, "vic")
    page = " ".join(
        words_of(vic.get(path, env="prod").text) for path in ("/tokens", "/limits", "/settings")
    )

    for text in (
        "Trust an identity provider to accept its tokens",
        "Set a limit to restrict one consumer.",
        "Allow networks, and the keys of a consumer",
        "needs=[…]",
        "Allow one to have the ends of a consumer's durable runs sent there",
    ):
        assert text in page


def test_a_viewer_sees_no_buttons_and_what_is_sent_changes_nothing(
    runtime: Runtime, engine: Engine
) -> None:
    variables.set_variable(engine, "tester", "test", "region", "porto")
    limits.set_limit(engine, "tester", "acme", "test", Rate("5/minute"))
    vic = ConsoleClient.of(runtime, "vic")
    before = len(audit.events(engine, limit=100))
    forms = {
        "/tokens/flows/v1/login/designate": {},
        "/tokens/keys/rotate": {},
        "/tokens/revoke": {"jti": "a"},
        "/tokens/issuers/new": {
            "issuer": "https://id.example",
            "audience": "p",
            "found": "discovery",
            "whose": "claim",
        },
        "/limits/new": {"consumer": "acme", "rate": "900/second", "by": "consumer"},
        "/limits/remove": {"consumer": "acme", "pipeline": ""},
        "/limits/networks/new": {"consumer": "acme", "networks": "0.0.0.0/0", "allowed": "yes"},
        "/settings/variables/region/unset": {},
        "/settings/secrets/new": {"name": "a", "value": "b"},
        "/settings/fields/add": {"fields": "a"},
        "/settings/callbacks/new": {
            "consumer": "acme",
            "url": "https://evil.example",
            "private": "no",
        },
    }

    assert {
        path: vic.post(f"{path}?env=test", **form).status_code for path, form in forms.items()
    } == dict.fromkeys(forms, 403)
    assert len(audit.events(engine, limit=100)) == before
    for path in ("/tokens", "/limits", "/settings"):
        page = vic.get(path, env="test").text
        assert 'method="post"' not in page.partition("<main")[2]
        assert 'role="button"' not in page


def test_nothing_that_was_typed_becomes_markup(
    runtime: Runtime, oli: ConsoleClient, engine: Engine
) -> None:
    variables.set_variable(engine, "tester", "test", "evil", EVIL)
    sensitive_fields.add_fields(engine, "tester", "test", [EVIL])
    signing_keys.revoke_tokens(engine, "tester", "test", jti=EVIL)
    trusted = issuers.parse_issuer(
        f"https://id.example/{EVIL.replace(' ', '/')}",
        EVIL,
        consumer_claim=EVIL,
        scope_claim=EVIL,
        mapped=[f"{EVIL}=acme"],
    )
    issuers.trust_issuer(engine, "tester", "test", trusted, own="penstock")
    callbacks.allow_callbacks(
        engine,
        "tester",
        "acme",
        "test",
        f"https://a.example/{EVIL.replace('?', '')}",
        runtime._box,  # noqa: SLF001  the kit offers no access to it
        private=False,
    )
    pages = [
        oli.get(f"{path}env=test").text
        for path in ("/tokens?", "/settings?", "/audit?", "/settings/variables/new?name=evil&")
    ]
    pages += [
        oli.post(f"{path}?env=test", **dict.fromkeys(fields, EVIL)).text
        for path, fields in (
            ("/tokens/revoke", ("consumer",)),
            (
                "/tokens/issuers/new",
                (
                    "issuer",
                    "audience",
                    "found",
                    "whose",
                    "jwks",
                    "jwks_url",
                    "mapped",
                    "consumer",
                    "consumer_claim",
                    "scope_claim",
                ),
            ),
            ("/limits/new", ("consumer", "rate", "by", "pipeline")),
            ("/limits/networks/new", ("consumer", "networks", "allowed")),
            ("/settings/variables/new", ("name", "value")),
            ("/settings/secrets/new", ("name", "value", "days", "pipelines")),
            ("/settings/callbacks/new", ("consumer", "url")),
        )
    ]

    assert all("window.owned" in page for page in pages)
    assert not any("<script>window" in page or "<img" in page for page in pages)
