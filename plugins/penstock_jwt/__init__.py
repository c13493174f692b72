"""Tokens: verified at the gate, issued in designated login flows, with a public JWK set."""

from __future__ import annotations

from penstock import Authenticator, Document, PluginSetup, TokenIssuer, hookimpl
from penstock_jwt.issuing import Issuer, key_set
from penstock_jwt.tokens import Tokens


@hookimpl
def penstock_authenticators(setup: PluginSetup) -> list[Authenticator]:
    """Offer the token authenticator."""
    return [Tokens(setup.issuer, setup.max_header)]


@hookimpl
def penstock_token_issuers(setup: PluginSetup) -> list[TokenIssuer]:
    """Offer the token issuer."""
    return [Issuer(setup.issuer, setup.max_header)]


@hookimpl
def penstock_documents(setup: PluginSetup) -> list[Document]:  # noqa: ARG001  the hook's argument
    """Offer the keys that others verify these tokens with (RFC 7517)."""
    return [Document("/.well-known/jwks.json", "application/jwk-set+json", key_set)]
