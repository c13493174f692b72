"""Sign in through an OpenID Connect provider: code flow with PKCE, state and nonce.

Users must be known here; the provider only vouches.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any
from urllib.parse import urljoin

import structlog
from authlib.common.errors import AuthlibBaseError
from authlib.integrations.flask_client import OAuth
from flask import Flask, Response, abort, current_app, make_response, url_for
from joserfc.errors import JoseError
from requests import RequestException

from penstock.access.users import find_provider_user
from penstock.console.context import console_context
from penstock.console.pages import Form, page, show_form
from penstock.console.sign_in import begin
from penstock.errors import UsageError
from penstock.settings import Oidc, Settings

EXTENSION = "penstock-oidc"
# The claim whose case does not matter: two users of one address but for case can't be.
EMAIL = "email"
TIMEOUT = 10.0  # seconds that the provider may take


def configure(app: Flask, settings: Settings) -> None:
    """Get ready to ask the provider, where there is one.

    Nothing is asked before somebody signs in.
    """
    if settings.oidc is None:
        return
    provider = OAuth(app).register(
        "provider",
        server_metadata_url=f"{settings.oidc.issuer}/.well-known/openid-configuration",
        client_id=settings.oidc.client_id,
        client_secret=settings.oidc.client_secret,
        client_kwargs={
            "scope": "openid profile email",
            "code_challenge_method": "S256",
            "default_timeout": TIMEOUT,
        },
    )
    app.extensions[EXTENSION] = provider


def _provider() -> tuple[Any, Oidc]:
    settings = console_context().settings.oidc
    if settings is None:
        abort(404)
    return current_app.extensions[EXTENSION], settings


@page("/oidc", needs=None)
def oidc_start() -> Response:
    """Send the browser to the provider."""
    provider, settings = _provider()
    try:
        back = urljoin(console_context().settings.console_url, url_for("console.oidc_back"))
        return make_response(provider.authorize_redirect(back))
    except (AuthlibBaseError, RequestException, ValueError, KeyError) as error:
        return _refuse(f"{settings.issuer} can't be asked at the moment.", error)


@page("/oidc/back", needs=None)
def oidc_back() -> Response:
    """Sign in whom the provider vouches for."""
    provider, settings = _provider()
    try:
        claims = provider.authorize_access_token(
            claims_options={"iss": {"essential": True, "value": settings.issuer}}
        ).get("userinfo")
    except (AuthlibBaseError, JoseError, RequestException, ValueError, KeyError) as error:
        return _refuse("The identity provider did not vouch for you. Try again.", error)
    said = _name(claims or {}, settings.claim)
    if said is None:
        return _refuse(
            "The identity provider says nothing that can be relied on in the claim"
            f" {settings.claim}."
        )
    name = find_provider_user(console_context().engine, said, fold=settings.claim == EMAIL)
    try:
        if name is not None:
            return begin(name, settings.issuer)
    except UsageError as error:
        return _refuse(_unknown(said), error)
    return _refuse(_unknown(said))


def _name(claims: Mapping[str, Any], claim: str) -> str | None:
    """Return the name that the provider says, as it says it."""
    said = claims.get(claim)
    if (
        not isinstance(said, str)
        or not said
        or (claim == EMAIL and claims.get("email_verified") is not True)
    ):
        return None
    return said


def _unknown(said: str) -> str:
    return (
        f"{said} is no user here that may sign in. An admin can create one of exactly that name:"
        f" penstock user create {said} --no-password."
    )


def _refuse(detail: str, error: Exception | None = None) -> Response:
    structlog.get_logger("penstock").warning(
        "sign-in failed",
        how="provider",
        reason=detail,
        error=type(error).__name__ if error else None,
    )
    form = Form()
    form.errors["provider"] = detail
    return show_form("sign_in.html", form, oidc=console_context().settings.oidc)
