"""Tokens.

Verified at the gate, issued in designated login flows, their public keys published as a JWK set.
"""

from __future__ import annotations

from penstock import Authenticator, Document, PluginSetup, TokenIssuer, hookimpl
from penstock_jwt.tokens import Issuer, Tokens, key_set


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
    """Publish the keys that others verify our tokens with (RFC 7517)."""
    return [Document("/.well-known/jwks.json", "application/jwk-set+json", key_set)]
