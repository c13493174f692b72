"""Pages of tokens, limits and settings: empty pages, the view of a viewer, and escaping."""

from __future__ import annotations

from support.access_pages import engine, oli, runtime
from support.console import EVIL, ConsoleClient, words_of

from penstock import Rate, audit
from penstock.access import (
    callbacks,
    issuers,
    limits,
    sensitive_fields,
    signing_keys,
    variables,
)
from penstock.db.engine import Engine
from penstock.testing import Runtime

__all__ = ["engine", "oli", "runtime"]


def test_empty_pages_name_the_next_step(runtime: Runtime) -> None:
    vic = ConsoleClient.of(runtime, "vic")
    page = " ".join(
        words_of(vic.get(path).text)
        for path in ("/e/prod/tokens", "/e/prod/limits", "/e/prod/settings")
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
        "/e/test/tokens/flows/v1/login/designate": {},
        "/e/test/tokens/keys/rotate": {},
        "/e/test/tokens/revoke": {"jti": "a"},
        "/e/test/tokens/issuers/new": {
            "issuer": "https://id.example",
            "audience": "p",
            "found": "discovery",
            "whose": "claim",
        },
        "/e/test/limits/new": {"consumer": "acme", "rate": "900/second", "by": "consumer"},
        "/e/test/limits/remove": {"consumer": "acme", "pipeline": ""},
        "/e/test/limits/networks/new": {
            "consumer": "acme",
            "networks": "0.0.0.0/0",
            "allowed": "yes",
        },
        "/e/test/settings/variables/region/unset": {},
        "/e/test/settings/secrets/new": {"name": "a", "secret": "b"},
        "/e/test/settings/fields/add": {"fields": "a"},
        "/e/test/settings/callbacks/new": {
            "consumer": "acme",
            "url": "https://evil.example",
            "private": "no",
        },
    }

    assert {
        path: vic.post(f"{path}?env=test", **form).status_code for path, form in forms.items()
    } == dict.fromkeys(forms, 403)
    assert len(audit.events(engine, limit=100)) == before
    for path in ("/e/test/tokens", "/e/test/limits", "/e/test/settings"):
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
        for path in (
            "/e/test/tokens?",
            "/e/test/settings?",
            "/audit?",
            "/e/test/settings/variables/new?name=evil&",
        )
    ]
    pages += [
        oli.post(f"{path}?env=test", **dict.fromkeys(fields, EVIL)).text
        for path, fields in (
            ("/e/test/tokens/revoke", ("consumer",)),
            (
                "/e/test/tokens/issuers/new",
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
            ("/e/test/limits/new", ("consumer", "rate", "by", "pipeline")),
            ("/e/test/limits/networks/new", ("consumer", "networks", "allowed")),
            ("/e/test/settings/variables/new", ("name", "value")),
            ("/e/test/settings/secrets/new", ("name", "secret", "days", "pipelines")),
            ("/e/test/settings/callbacks/new", ("consumer", "url")),
        )
    ]

    assert all("window.owned" in page for page in pages)
    assert not any("<script>window" in page or "<img" in page for page in pages)
