"""Sign in with an OpenID Connect provider: authorization code flow with PKCE, state and nonce.

The provider authenticates a person; only a user that an admin created may sign in.
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
from penstock.console.pages import page
from penstock.console.sign_in import SignInForm, begin_session, show_sign_in
from penstock.errors import UsageError
from penstock.settings import Oidc, Settings

EXTENSION = "penstock-oidc"
# The claim that is compared without case: two users can't differ in the case of an address alone.
EMAIL = "email"
PROVIDER_TIMEOUT_S = 10.0


def configure(app: Flask, settings: Settings) -> None:
    """Register the provider, if one is configured; no request is sent before a sign-in."""
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
            "default_timeout": PROVIDER_TIMEOUT_S,
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
    """Redirect the browser to the provider."""
    provider, settings = _provider()
    try:
        back = urljoin(console_context().settings.console_url, url_for("console.oidc_back"))
        return make_response(provider.authorize_redirect(back))
    except (AuthlibBaseError, RequestException, ValueError, KeyError) as error:
        return _reject(f"{settings.issuer} can't be reached at the moment.", error)


@page("/oidc/back", needs=None)
def oidc_back() -> Response:
    """Sign in the user that the provider authenticated."""
    provider, settings = _provider()
    try:
        claims = provider.authorize_access_token(
            claims_options={"iss": {"essential": True, "value": settings.issuer}}
        ).get("userinfo")
    except (AuthlibBaseError, JoseError, RequestException, ValueError, KeyError) as error:
        return _reject("The identity provider did not authenticate you. Try again.", error)
    claimed = _name(claims or {}, settings.claim)
    if claimed is None:
        return _reject(
            f"The identity provider returned no verified value of the claim {settings.claim}."
        )
    name = find_provider_user(console_context().engine, claimed, fold=settings.claim == EMAIL)
    try:
        if name is not None:
            return begin_session(name, settings.issuer)
    except UsageError as error:
        return _reject(_unknown_user(claimed), error, name=claimed)
    return _reject(_unknown_user(claimed), name=claimed)


def _name(claims: Mapping[str, Any], claim: str) -> str | None:
    """Return the name in the claim; None where it is missing or not verified."""
    name = claims.get(claim)
    if not isinstance(name, str) or not name:
        return None
    return name if claim != EMAIL or claims.get("email_verified") is True else None


def _unknown_user(name: str) -> str:
    return (
        f"There is no active user {name}. An admin can create one of exactly this name:"
        f" `penstock user create {name} --no-password`."
    )


def _reject(detail: str, error: Exception | None = None, *, name: str = "") -> Response:
    structlog.get_logger("penstock").warning(
        "sign-in failed",
        how="provider",
        reason=detail,
        error=type(error).__name__ if error else None,
    )
    context = console_context()
    context.failed_sign_ins.note(context.engine, name, context.client.address(), "provider")
    form = SignInForm()
    form.add_fault("provider", detail)
    return show_sign_in(form)
