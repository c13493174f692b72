"""Tokens of an environment: login flows, signing keys, and revocation.

Outside issuers are in `issuers`.
"""

from __future__ import annotations

from dataclasses import dataclass

from flask import Response, request, url_for

from penstock.access import issuers, signing_keys
from penstock.access.pipelines import in_order, set_login_flow
from penstock.access.users import Role
from penstock.console.confirmation import Confirmation
from penstock.console.context import console_context, current_environment
from penstock.console.forms import ChoiceField, ConsoleForm, LineField
from penstock.console.pages import Scope, page, user
from penstock.console.responses import done, show_form

MAX_KEYS = 25  # on the page; older ones are counted


@dataclass(frozen=True, slots=True)
class LoginFlow:
    """A pipeline that is designated as a login flow, or declares `login=True`."""

    id: str
    designated: bool
    declared: bool
    loaded: bool


class TokensForm(ConsoleForm):
    """The fields of the page: the algorithm of a new signing key, and the tokens to revoke."""

    algorithm = ChoiceField(
        "Algorithm of the new key",
        [("", "unchanged"), *((algorithm, algorithm) for algorithm in signing_keys.ALGORITHMS)],
        checked_by_domain=True,
    )
    jti = LineField("Token ID (jti)")
    consumer = LineField("All tokens of a consumer")


def _login_flows(environment: str) -> list[LoginFlow]:
    """Return the pipelines that are designated or declare `login=True`, by ID."""
    context = console_context()
    host, access = context.host, context.view(environment).access
    designated = {identifier for identifier, state in access.pipelines.items() if state.login_flow}
    declared = {
        identifier for identifier in host.catalog.loaded if host.catalog.is_login_flow(identifier)
    }
    return [
        LoginFlow(
            identifier,
            identifier in designated,
            identifier in declared,
            identifier in host.catalog.loaded,
        )
        for identifier in in_order(designated | declared)
    ]


def show_tokens(form: TokensForm) -> Response:
    """Return the page of the current environment."""
    context, environment = console_context(), current_environment()
    keys = signing_keys.list_signing_keys(context.engine, environment)[::-1]
    return show_form(
        "tokens.html",
        form,
        env=environment,
        environments=context.environment_names(),
        flows=_login_flows(environment),
        keys=keys[:MAX_KEYS],
        older=max(0, len(keys) - MAX_KEYS),
        issuers=issuers.list_issuers(context.engine, environment),
        lifetime=context.view(environment).access.environment.token_lifetime,
    )


@page("/e/<env>/tokens", needs=Role.VIEWER, scope=Scope.ONE)
def tokens() -> Response:
    """Show login flows, signing keys and outside issuers."""
    return show_tokens(TokensForm())


def _confirm_designate(major: str, name: str) -> Confirmation:
    return Confirmation(
        f"Designate {major}/{name} as a login flow in {current_environment()}? It can then issue"
        " tokens.",
        verb="Designate login flow",
        other="Cancel",
        back=url_for("console.tokens"),
        danger=False,
    )


@page(
    "/e/<env>/tokens/flows/<major>/<name>/designate",
    needs=Role.OPERATOR,
    method="POST",
    confirm=_confirm_designate,
)
def tokens_flow_designate(major: str, name: str) -> Response:
    """Designate a pipeline as a login flow."""
    return _set_flow(f"{major}/{name}", designated=True)


def _confirm_withdraw(major: str, name: str) -> Confirmation:
    return Confirmation(
        f"Withdraw the login flow {major}/{name} in {current_environment()}? It can't issue tokens"
        " any more. Under jwt-api-key the pipeline may then be blocked.",
        verb="Withdraw login flow",
        other="Keep login flow",
        back=url_for("console.tokens"),
    )


@page(
    "/e/<env>/tokens/flows/<major>/<name>/withdraw",
    needs=Role.OPERATOR,
    method="POST",
    confirm=_confirm_withdraw,
)
def tokens_flow_withdraw(major: str, name: str) -> Response:
    """Withdraw the designation of a login flow."""
    return _set_flow(f"{major}/{name}", designated=False)


def _set_flow(identifier: str, *, designated: bool) -> Response:
    context, environment, form = console_context(), current_environment(), TokensForm()
    with form.faults_at("flow"):
        set_login_flow(
            context.engine,
            user().name,
            environment,
            identifier,
            context.host.catalog.offered,
            designated=designated,
        )
        message = f"{identifier} is {'now' if designated else 'no longer'} a login flow"
        message += f" in {environment}."
        if designated and not context.host.catalog.is_login_flow(identifier):
            message += " Its trigger doesn't set login=True, so it can't issue tokens."
        return done(message, "tokens", env=environment)
    return show_tokens(form)


def _confirm_rotate() -> Confirmation:
    return Confirmation(
        f"Rotate the signing key of {current_environment()}? Tokens of the current key stay valid"
        " until they expire.",
        verb="Rotate signing key",
        other="Keep signing key",
        back=url_for("console.tokens"),
        fields={"algorithm": request.args.get("algorithm", "")},
        danger=False,
    )


@page(
    "/e/<env>/tokens/keys/rotate",
    needs=Role.OPERATOR,
    method="POST",
    confirm=_confirm_rotate,
)
def tokens_key_rotate() -> Response:
    """Create a new signing key, which signs from now on."""
    context, environment, form = console_context(), current_environment(), TokensForm()
    with form.faults_at("algorithm"):
        kid = signing_keys.rotate_signing_key(
            context.engine,
            user().name,
            environment,
            context.box,
            algorithm=form.algorithm.data or None,
        )
        return done(
            f"{kid} signs tokens in {environment} now. Tokens of older keys stay valid until they"
            " expire.",
            "tokens",
            env=environment,
        )
    return show_tokens(form)


def _confirm_drop(kid: str) -> Confirmation:
    return Confirmation(
        f"Revoke signing key {kid} of {current_environment()}? All tokens it signed stop working"
        " now. Only if the key is compromised.",
        verb="Revoke signing key",
        other="Keep signing key",
        back=url_for("console.tokens"),
    )


@page(
    "/e/<env>/tokens/keys/<kid>/drop",
    needs=Role.OPERATOR,
    method="POST",
    confirm=_confirm_drop,
)
def tokens_key_drop(kid: str) -> Response:
    """Revoke a compromised signing key with all its tokens."""
    context, environment, form = console_context(), current_environment(), TokensForm()
    with form.faults_at("key"):
        successor = signing_keys.drop_signing_key(
            context.engine, user().name, environment, kid, context.box
        )
        message = f"Signing key {kid} and all its tokens revoked in {environment}."
        if successor:
            message += f" {successor} signs tokens now."
        return done(message, "tokens", env=environment)
    return show_tokens(form)


def _confirm_revoke() -> Confirmation:
    environment, jti = current_environment(), request.args.get("jti", "").strip()
    consumer = request.args.get("consumer", "").strip()
    what = f"token {jti}" if jti else f"all tokens of {consumer}" if consumer else "tokens"
    return Confirmation(
        f"Revoke {what} in {environment}? This can't be undone; consumers can request new tokens.",
        verb="Revoke tokens",
        other="Keep tokens",
        back=url_for("console.tokens"),
        fields={"jti": jti, "consumer": consumer},
    )


@page(
    "/e/<env>/tokens/revoke",
    needs=Role.OPERATOR,
    method="POST",
    confirm=_confirm_revoke,
)
def tokens_revoke() -> Response:
    """Revoke one token, or all tokens of a consumer."""
    context, environment, form = console_context(), current_environment(), TokensForm()
    jti, consumer = form.jti.data, form.consumer.data
    if bool(jti) == bool(consumer):
        form.add_fault("jti", "Enter either a token ID or a consumer.")
        return show_tokens(form)
    with form.faults_at("jti" if jti else "consumer"):
        signing_keys.revoke_tokens(
            context.engine, user().name, environment, jti=jti or None, consumer=consumer or None
        )
        what = f"Token {jti}" if jti else f"All tokens of {consumer} issued so far"
        return done(f"{what} revoked in {environment}.", "tokens", env=environment)
    return show_tokens(form)
