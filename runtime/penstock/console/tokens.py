"""Tokens of an environment.

Who issues them, which keys sign them, whose are taken from outside, and which are revoked.
"""

from __future__ import annotations

from flask import Response

from penstock.access import issuers, signing_keys
from penstock.access.pipelines import in_order, set_login_flow
from penstock.access.users import Role
from penstock.console.context import console_context
from penstock.console.pages import Form, done, environment, page, show_form, user

MOST_KEYS = 25  # old ones that are shown


def _flows(name: str) -> list[dict[str, object]]:
    """Return the pipelines that are designated, or ask to be, by their ids."""
    host, access = console_context().host, console_context().view(name).access
    designated = {identifier for identifier, state in access.pipelines.items() if state.login_flow}
    asking = {
        identifier for identifier in host.catalog.loaded if host.catalog.is_login_flow(identifier)
    }
    return [
        {
            "id": identifier,
            "designated": identifier in designated,
            "asks": identifier in asking,
            "loaded": identifier in host.catalog.loaded,
        }
        for identifier in in_order(designated | asking)
    ]


def _show(form: Form) -> Response:
    here, name = console_context(), environment()
    keys = signing_keys.list_signing_keys(here.engine, name)[::-1]
    return show_form(
        "tokens.html",
        form,
        env=name,
        environments=here.environments(),
        flows=_flows(name),
        keys=keys[:MOST_KEYS],
        left_out=max(0, len(keys) - MOST_KEYS),
        algorithms=[
            ("", "as before"),
            *((algorithm, algorithm) for algorithm in signing_keys.ALGORITHMS),
        ],
        issuers=issuers.list_issuers(here.engine, name),
        lifetime=here.view(name).access.environment.token_lifetime,
    )


@page("/tokens", needs=Role.VIEWER)
def tokens() -> Response:
    """Show login flows, signing keys and outside issuers."""
    return _show(Form())


@page("/tokens/flows/<major>/<name>/designate", needs=Role.OPERATOR, method="POST")
def tokens_flow_designate(major: str, name: str) -> Response:
    """Let a pipeline issue tokens."""
    return _set_flow(f"{major}/{name}", designated=True)


@page("/tokens/flows/<major>/<name>/withdraw", needs=Role.OPERATOR, method="POST")
def tokens_flow_withdraw(major: str, name: str) -> Response:
    """Let a pipeline issue no more tokens."""
    return _set_flow(f"{major}/{name}", designated=False)


def _set_flow(identifier: str, *, designated: bool) -> Response:
    here, env, form = console_context(), environment(), Form()
    with form.blaming("flow"):
        set_login_flow(
            here.engine,
            user().name,
            env,
            identifier,
            here.host.catalog.offered,
            designated=designated,
        )
        said = (
            f"{identifier} is a login flow of {env} now."
            if designated
            else f"{identifier} is no login flow of {env} any more."
        )
        if designated and not here.host.catalog.is_login_flow(identifier):
            said += " But its trigger does not say login=True, so it can't issue tokens."
        return done(said, "tokens", env=env)
    return _show(form)


@page("/tokens/keys/rotate", needs=Role.OPERATOR, method="POST")
def tokens_key_rotate() -> Response:
    """Sign with a new key from now on."""
    here, env, form = console_context(), environment(), Form()
    with form.blaming("algorithm"):
        kid = signing_keys.rotate_signing_key(
            here.engine, user().name, env, here.box, algorithm=form["algorithm"] or None
        )
        return done(
            f"{kid} signs in {env} now; tokens of the keys before it stay good until they expire.",
            "tokens",
            env=env,
        )
    return _show(form)


@page("/tokens/keys/<kid>/drop", needs=Role.OPERATOR, method="POST")
def tokens_key_drop(kid: str) -> Response:
    """End a compromised key at once, with all its tokens."""
    here, env, form = console_context(), environment(), Form()
    with form.blaming("key"):
        successor = signing_keys.drop_signing_key(here.engine, user().name, env, kid, here.box)
        return done(
            f"{kid} is dropped, and its tokens with it"
            + (f"; {successor} signs now." if successor else "."),
            "tokens",
            env=env,
        )
    return _show(form)


@page("/tokens/revoke", needs=Role.OPERATOR, method="POST")
def tokens_revoke() -> Response:
    """Revoke one token, or all that a consumer has."""
    here, env, form = console_context(), environment(), Form()
    jti, consumer = form["jti"].strip(), form["consumer"].strip()
    if bool(jti) == bool(consumer):
        form.errors["jti"] = "Give a token's jti or a consumer, one of the two."
        return _show(form)
    with form.blaming("jti" if jti else "consumer"):
        signing_keys.revoke_tokens(
            here.engine, user().name, env, jti=jti or None, consumer=consumer or None
        )
        return done(
            f"Revoked in {env}: {jti or f'all tokens of {consumer} up to now'}.", "tokens", env=env
        )
    return _show(form)


@page("/tokens/issuers/new", needs=Role.OPERATOR)
def tokens_issuer_new() -> Response:
    """Show the form for an outside issuer."""
    return _show_issuer(
        Form(found="discovery", whose="claim", consumer_claim="client_id", scope_claim="scope")
    )


def _show_issuer(form: Form) -> Response:
    return show_form("issuer_new.html", form, env=environment())


@page("/tokens/issuers/new", needs=Role.OPERATOR, method="POST")
def tokens_issuer_trust() -> Response:
    """Take an identity provider's tokens."""
    here, env, form = console_context(), environment(), Form()
    issuer, keys, whose = form["issuer"].strip(), form["found"], form["whose"]
    if keys not in {"discovery", "url", "set"}:
        form.errors["found"] = "Say where its keys are."
    if keys == "url" and not form["jwks_url"].strip():
        form.errors["jwks_url"] = "Give the URL."
    given = None
    if keys == "set":
        with form.blaming("jwks"):
            given = issuers.read_keys(form["jwks"])
    if whose not in {"claim", "map", "one"}:
        form.errors["whose"] = "Say whose its tokens are."
    with form.blaming("mapped"):
        issuers.parse_issuer(issuer, "", mapped=_lines(form["mapped"]))
    if form.errors:
        return _show_issuer(form)
    with form.blaming("issuer", consumer="consumer" if whose == "one" else "mapped"):
        trusted = issuers.parse_issuer(
            issuer,
            form["audience"].strip(),
            jwks_url=form["jwks_url"].strip() if keys == "url" else None,
            keys=given,
            consumer=form["consumer"].strip() or None if whose == "one" else None,
            consumer_claim=form["consumer_claim"].strip() or "client_id",
            mapped=_lines(form["mapped"]) if whose == "map" else (),
            scope_claim=form["scope_claim"].strip() or "scope",
        )
        issuers.trust_issuer(here.engine, user().name, env, trusted, own=here.settings.issuer)
        unused = (
            "".join(f" Not used: {key}." for key in given.rejected) if given is not None else ""
        )
        return done(f"Tokens of {issuer} are taken in {env} now.{unused}", "tokens", env=env)
    return _show_issuer(form)


def _lines(text: str) -> list[str]:
    return [line.strip() for line in text.splitlines() if line.strip()]


@page("/tokens/issuers/distrust", needs=Role.OPERATOR, method="POST")
def tokens_issuer_distrust() -> Response:
    """Take an identity provider's tokens no more."""
    here, env, form = console_context(), environment(), Form()
    with form.blaming("issuers"):
        issuers.distrust_issuer(here.engine, user().name, env, form["issuer"])
        return done(
            f"Tokens of {form['issuer']} are not taken in {env} any more.", "tokens", env=env
        )
    return _show(form)
