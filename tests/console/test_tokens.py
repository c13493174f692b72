"""Tokens in the console: login flows, signing keys, revocation and outside issuers."""

from __future__ import annotations

import json
import re

from support.access_pages import engine, last, oli, runtime
from support.console import ConsoleClient, words_of

from penstock.access import (
    issuers,
    signing_keys,
)
from penstock.db.engine import Engine

__all__ = ["engine", "oli", "runtime"]


class TestTokens:
    def test_a_login_flow_is_designated_and_withdrawn(
        self, oli: ConsoleClient, engine: Engine
    ) -> None:
        before = words_of(oli.get("/e/prod/tokens").text)
        page = oli.follow(oli.post("/e/prod/tokens/flows/v1/login/designate"))
        event = last(engine)
        withdrawn = oli.follow(oli.post("/e/prod/tokens/flows/v1/login/withdraw"))

        assert (
            "login not designated Its trigger sets login=True. It can issue tokens once you"
            " designate it." in before
        )
        assert "login is now a login flow in prod." in page
        assert "login designated Issues tokens to callers with a valid key." in page
        assert event == ("oli", "login-flow:designated", "prod", "v1/login")
        assert "login not designated" in withdrawn
        assert "not designated" in words_of(oli.get("/e/test/tokens").text)

    def test_a_pipeline_without_login_is_designated_with_a_warning(
        self, oli: ConsoleClient
    ) -> None:
        page = oli.follow(oli.post("/e/test/tokens/flows/v1/orders/designate"))
        unknown = oli.post("/e/test/tokens/flows/v1/ordres/designate")

        assert "Its trigger doesn't set login=True, so it can't issue tokens." in page
        assert (unknown.status_code, "did you mean “v1/orders”" in words_of(unknown.text)) == (
            422,
            True,
        )

    def test_signing_keys_are_rotated_and_revoked(self, oli: ConsoleClient, engine: Engine) -> None:
        (first,) = signing_keys.list_signing_keys(engine, "test")
        oli.follow(oli.post("/e/test/tokens/keys/rotate", algorithm="ES256"))
        event = last(engine)
        page = oli.follow(oli.post(f"/e/test/tokens/keys/{first.kid}/drop"))
        keys = signing_keys.list_signing_keys(engine, "test")
        bad = [
            oli.post("/e/test/tokens/keys/rotate", algorithm="none"),
            oli.post("/e/test/tokens/keys/nope/drop"),
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
        single = oli.follow(oli.post("/e/prod/tokens/revoke", jti="abc", consumer=""))
        all_ = oli.follow(oli.post("/e/prod/tokens/revoke", jti="", consumer="acme"))
        event = last(engine)
        both, unknown = (
            oli.post("/e/prod/tokens/revoke", jti="a", consumer="acme"),
            oli.post("/e/prod/tokens/revoke", jti="", consumer="acmee"),
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
            page = oli.follow(oli.post("/e/test/tokens/issuers/new", **usual, **more))

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
            oli.follow(oli.post("/e/test/tokens/issuers/new", **usual, **more))
        )
        oli.follow(oli.post("/e/test/tokens/issuers/distrust", issuer="https://id.example"))
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
            response = oli.post("/e/test/tokens/issuers/new", **{**good, **more})

            assert (response.status_code, re.findall(r'id="e-(\w+)"', response.text)) == (
                422,
                [field],
            )
        assert issuers.list_issuers(engine) == []
