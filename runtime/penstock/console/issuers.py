"""Outside issuers: identity providers whose tokens an environment trusts."""

from __future__ import annotations

from typing import Any

from flask import Response, request, url_for

from penstock.access import issuers as access
from penstock.access.seen import state_token
from penstock.access.users import Role
from penstock.console.confirmation import Confirmation
from penstock.console.context import console_context, current_environment
from penstock.console.forms import (
    LineField,
    LinesField,
    OptionsField,
    ReplacingForm,
    TextField,
)
from penstock.console.pages import Scope, page, user
from penstock.console.responses import done, show_form
from penstock.console.tokens import TokensForm, show_tokens

DEFAULT_CONSUMER_CLAIM, DEFAULT_SCOPE_CLAIM = "client_id", "scope"


class IssuerForm(ReplacingForm):
    """Trusts an issuer: its keys, and the consumers of its tokens."""

    issuer = LineField(
        "Issuer",
        "Enter the issuer.",
        description="The iss claim of its tokens, for example https://id.example.com/",
    )
    audience = LineField(
        "Audience", "Enter the audience.", description="The aud claim that its tokens must have."
    )
    key_source = OptionsField(
        "Signing keys of the issuer",
        [
            ("discovery", "Discovery", "from its /.well-known/openid-configuration"),
            ("url", "URL", "entered below"),
            ("set", "JWK set", "pasted below; for a provider that this host can't reach"),
        ],
        name="found",
        default="discovery",
    )
    jwks_url = LineField("URL of the keys")
    jwks = TextField("JWK set", description='{"keys": […]}, public keys only.')
    consumer_source = OptionsField(
        "Consumer of a token",
        [
            ("claim", "Named by a claim", "the claim holds the name of a consumer"),
            ("map", "Mapped from a claim", "values of the claim are mapped below"),
            ("one", "One consumer", "for all tokens; entered below"),
        ],
        name="whose",
        default="claim",
    )
    consumer_claim = LineField("Claim that names the consumer", default=DEFAULT_CONSUMER_CLAIM)
    mapped = LinesField("Values and consumers", description="One per line: VALUE=CONSUMER")
    consumer = LineField("Consumer of all tokens")
    scope_claim = LineField(
        "Claim that holds scopes",
        default=DEFAULT_SCOPE_CLAIM,
        description="Words separated by spaces, or a list.",
    )


@page("/e/<env>/tokens/issuers/new", needs=Role.OPERATOR, scope=Scope.ONE)
def tokens_issuer_new() -> Response:
    """Show the form for an issuer."""
    return _show_issuer(IssuerForm(seen=state_token(None)))


def _show_issuer(form: IssuerForm) -> Response:
    return show_form("issuer_new.html", form, env=current_environment())


@page("/e/<env>/tokens/issuers/new", needs=Role.OPERATOR, method="POST", scope=Scope.ONE)
def tokens_issuer_trust() -> Response:
    """Trust tokens of an identity provider."""
    context, environment, form = console_context(), current_environment(), IssuerForm()
    issuer, keys = form.issuer.data, None
    form.is_valid()
    if form.key_source.data == "url" and not form.jwks_url.data:
        form.add_fault("jwks_url", "Enter the URL.")
    if form.key_source.data == "set":
        with form.faults_at("jwks"):
            keys = access.read_keys(form.jwks.data)
    with form.faults_at("mapped"):
        access.parse_issuer(issuer, "", mapped=form.mapped.data)
    if form.has_faults:
        return _show_issuer(form)
    single = form.consumer_source.data == "one"
    with form.faults_at("issuer", consumer="consumer" if single else "mapped"):
        trusted = access.parse_issuer(issuer, form.audience.data, keys=keys, **_claims(form))
        access.trust_issuer(
            context.engine,
            user().name,
            environment,
            trusted,
            own=context.settings.issuer,
            seen=form.seen_token,
        )
        message = f"Tokens of {issuer} are trusted in {environment} now."
        if keys is not None:
            message += "".join(f" Not used: {key}." for key in keys.rejected)
        return done(message, "tokens", env=environment)
    return _show_issuer(form)


def _claims(form: IssuerForm) -> dict[str, Any]:
    """Return where keys and consumers are found, as the domain takes it."""
    source = form.consumer_source.data
    return {
        "jwks_url": form.jwks_url.data if form.key_source.data == "url" else None,
        "consumer": (form.consumer.data or None) if source == "one" else None,
        "consumer_claim": form.consumer_claim.data or DEFAULT_CONSUMER_CLAIM,
        "mapped": form.mapped.data if source == "map" else (),
        "scope_claim": form.scope_claim.data or DEFAULT_SCOPE_CLAIM,
    }


def _confirm_distrust() -> Confirmation:
    issuer = request.args.get("issuer", "")
    return Confirmation(
        f"Distrust {issuer} in {current_environment()}? Calls with its tokens are rejected.",
        verb="Distrust issuer",
        other="Keep issuer",
        back=url_for("console.tokens"),
        fields={"issuer": issuer},
    )


@page(
    "/e/<env>/tokens/issuers/distrust",
    needs=Role.OPERATOR,
    method="POST",
    confirm=_confirm_distrust,
)
def tokens_issuer_distrust() -> Response:
    """Stop trusting tokens of an identity provider."""
    context, environment, form = console_context(), current_environment(), TokensForm()
    issuer = request.form.get("issuer", "")
    with form.faults_at("issuers"):
        access.distrust_issuer(context.engine, user().name, environment, issuer)
        return done(
            f"Tokens of {issuer} are no longer trusted in {environment}.",
            "tokens",
            env=environment,
        )
    return show_tokens(form)
