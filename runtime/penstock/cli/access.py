"""Steer access.

Environments, policies, pipelines, login flows, signing keys, issuers and tokens.
"""

from __future__ import annotations

from datetime import timedelta
from typing import TextIO

import click

from penstock.access import environments, issuers, policies, signing_keys
from penstock.access import pipelines as access
from penstock.access.parsing import RECORDED
from penstock.cli.base import (
    DURATION,
    Context,
    env_option,
    env_required,
    format_option,
    pass_context,
    show,
)
from penstock.errors import UsageError
from penstock.gate.compliance import State

SERVED = {State.SERVED, State.NON_CONFORMANT}


@click.group()
def env() -> None:
    """Environments: the places pipelines are served from."""


@env.command("list")
@format_option
@pass_context
def env_list(context: Context, form: str) -> None:
    """List environments."""
    rows = environments.list_environments(context.engine)
    show(
        rows,
        form,
        (
            "name",
            "policy",
            "policy_version",
            "token_lifetime",
            "keys_in_query",
            "algorithm",
            "run_retention",
            "record_bodies",
            "created_at",
        ),
    )


@env.command("create")
@click.argument("name")
@pass_context
def env_create(context: Context, name: str) -> None:
    """Make an environment, with the strictest policy."""
    environments.create_environment(context.engine, context.actor, name, context.box)
    click.echo(f"environment {name} created, policy {environments.STRICTEST_POLICY}")


@env.command("set")
@click.argument("name")
@click.option("--token-lifetime", type=DURATION, help="The longest a token may live, at most 24h.")
@click.option(
    "--keys-in-query",
    type=click.Choice(["on", "off"]),
    help="Whether API keys are taken from the query string.",
)
@click.option("--run-retention", type=DURATION, help="How long runs are remembered.")
@click.option(
    "--record-bodies",
    type=click.Choice(RECORDED),
    help="The most that pipelines may keep of bodies.",
)
@pass_context
def env_set(
    context: Context,
    name: str,
    token_lifetime: timedelta | None,
    keys_in_query: str | None,
    run_retention: timedelta | None,
    record_bodies: str | None,
) -> None:
    """Change an environment's limits."""
    environments.change_environment(
        context.engine,
        context.actor,
        name,
        environments.EnvironmentChange(
            token_lifetime=int(token_lifetime.total_seconds()) if token_lifetime else None,
            keys_in_query=keys_in_query == "on" if keys_in_query else None,
            run_retention=int(run_retention.total_seconds()) if run_retention else None,
            record_bodies=record_bodies,
        ),
    )
    click.echo(f"environment {name} changed")


@click.group()
def policy() -> None:
    """External access policies."""


@policy.command("show")
@click.argument("environment", required=False)
@format_option
@pass_context
def policy_show(context: Context, environment: str | None, form: str) -> None:
    """Show policies, or the versions of one environment's policy."""
    if environment is None:
        show(
            environments.list_environments(context.engine),
            form,
            ("name", "policy", "internal_policy", "policy_version"),
        )
        return
    rows = policies.policy_versions(context.engine, environment)
    show(
        rows,
        form,
        ("version", "exposure", "policy", "reason", "actor", "grace_until", "created_at"),
    )


@policy.command("set")
@click.argument("environment")
@click.argument("option", metavar="POLICY")
@click.option(
    "--grace", type=DURATION, help="How long pipelines that would stop keep their old gate."
)
@click.option("--internal", is_flag=True, help="The policy of the internal listener.")
@click.option("--reason", default="", help="Why, for the audit trail.")
@click.option("--dry-run", is_flag=True, help="Only say what would change.")
@click.option("--yes", is_flag=True, help="Do not ask.")
@pass_context
def policy_set(  # noqa: PLR0913, PLR0917  one argument an option
    context: Context,
    environment: str,
    option: str,
    grace: timedelta | None,
    internal: bool,
    reason: str,
    dry_run: bool,
    yes: bool,
) -> None:
    """Set an environment's policy, after saying which pipelines stop or start being served."""
    if internal and grace:
        raise UsageError("the internal policy knows no grace; leave --grace out")
    snapshot, _ = context.host.evaluator.evaluate_environment(
        context.engine, environment, context.box
    )
    change = context.host.evaluator.preview(snapshot, option, internal=internal)
    click.echo(f"{environment}{' (internal)' if internal else ''}: {change.before} -> {option}")
    for name, item in change.stops.items():
        click.echo(
            f"  {'keeps its old gate for now' if grace else 'stops'}: {name}: "
            + "; ".join(violation.fix for violation in item.violations)
        )
    for name, item in change.starts.items():
        click.echo(f"  starts: {name}" + "".join(f" (warning: {text})" for text in item.warnings))
    if not change.stops and not change.starts:
        click.echo("  no pipeline stops or starts")
    if dry_run:
        click.echo("dry run: nothing was changed")
        return
    if change.stops and not grace and not yes:
        click.confirm("Some pipelines stop being served. Go on?", abort=True)
    policies.set_policy(
        context.engine,
        context.actor,
        environment,
        option,
        served=change.served,
        stopping=change.stops,
        grace=grace,
        reason=reason,
        internal=internal,
    )
    click.echo("set")


@click.group()
def pipeline() -> None:
    """Enable and disable pipelines, by id or by name.

    An id is v1/orders; a name, orders, means all its major versions.
    """


def _switch(context: Context, name: str, environment: str, *, enabled: bool) -> None:
    found = access.set_pipeline_enabled(
        context.engine,
        context.actor,
        environment,
        name,
        context.host.catalog.offered,
        enabled=enabled,
    )
    click.echo(f"{'enabled' if enabled else 'disabled'} in {environment}: {', '.join(found)}")


@pipeline.command("disable")
@click.argument("name", metavar="PIPELINE")
@env_required
@pass_context
def pipeline_disable(context: Context, name: str, environment: str) -> None:
    """Stop serving a pipeline in an environment."""
    _switch(context, name, environment, enabled=False)


@pipeline.command("enable")
@click.argument("name", metavar="PIPELINE")
@env_required
@pass_context
def pipeline_enable(context: Context, name: str, environment: str) -> None:
    """Serve a pipeline again, if it complies."""
    _switch(context, name, environment, enabled=True)


@click.group("login-flow")
def login_flow() -> None:
    """Login flows: the pipelines that may issue tokens, by id or by name.

    An id is v1/login; a name, login, means all its major versions.
    """


@login_flow.command("designate")
@click.argument("name", metavar="PIPELINE")
@env_required
@pass_context
def login_flow_designate(context: Context, name: str, environment: str) -> None:
    """Let a pipeline issue tokens in an environment."""
    found = access.set_login_flow(
        context.engine,
        context.actor,
        environment,
        name,
        context.host.catalog.offered,
        designated=True,
    )
    click.echo(f"login flow of {environment}: {', '.join(found)}")
    for identifier in found:
        if not context.host.catalog.is_login_flow(identifier):
            click.echo(
                f"warning: the trigger of {identifier} does not say login=True, so it can't issue"
                " tokens",
                err=True,
            )


@login_flow.command("withdraw")
@click.argument("name", metavar="PIPELINE")
@env_required
@pass_context
def login_flow_withdraw(context: Context, name: str, environment: str) -> None:
    """Let a pipeline issue no more tokens in an environment."""
    found = access.set_login_flow(
        context.engine,
        context.actor,
        environment,
        name,
        context.host.catalog.offered,
        designated=False,
    )
    click.echo(f"no login flow of {environment} any more: {', '.join(found)}")


@click.group("signing-key")
def signing_key() -> None:
    """Rotate the keys that sign an environment's tokens."""


@signing_key.command("list")
@env_required
@format_option
@pass_context
def signing_key_list(context: Context, environment: str, form: str) -> None:
    """List signing keys."""
    show(
        signing_keys.list_signing_keys(context.engine, environment),
        form,
        ("kid", "algorithm", "state", "created_at", "verify_until"),
    )


@signing_key.command("rotate")
@env_required
@click.option(
    "--algorithm",
    type=click.Choice(signing_keys.ALGORITHMS),
    help="Sign with another algorithm from now on.",
)
@pass_context
def signing_key_rotate(context: Context, environment: str, algorithm: str | None) -> None:
    """Sign with a new key; old tokens stay good until they expire."""
    kid = signing_keys.rotate_signing_key(
        context.engine, context.actor, environment, context.box, algorithm=algorithm
    )
    click.echo(f"signing key {kid} signs in {environment}")


@signing_key.command("drop")
@click.argument("kid")
@env_required
@pass_context
def signing_key_drop(context: Context, kid: str, environment: str) -> None:
    """End a compromised key at once, with all its tokens."""
    successor = signing_keys.drop_signing_key(
        context.engine, context.actor, environment, kid, context.box
    )
    click.echo(
        f"signing key {kid} dropped in {environment}"
        + (f"; {successor} signs now" if successor else "")
    )


@click.group()
def issuer() -> None:
    """Trust outside issuers of tokens: identity providers."""


@issuer.command("trust")
@click.argument("name", metavar="ISSUER")
@env_required
@click.option("--audience", required=True, metavar="AUD", help="Whom its tokens must be for.")
@click.option(
    "--jwks-url", metavar="URL", help="Where its keys are; default as its discovery document says."
)
@click.option("--jwks-file", type=click.File(encoding="utf-8"), help="Its keys, as a JWK set.")
@click.option(
    "--consumer", "consumer_name", metavar="NAME", help="The consumer that all its tokens are of."
)
@click.option(
    "--consumer-claim",
    metavar="CLAIM",
    default="client_id",
    show_default=True,
    help="The claim that names the consumer.",
)
@click.option(
    "--map",
    "mapped",
    metavar="VALUE=CONSUMER",
    multiple=True,
    help="Which consumer a value of that claim means; may be repeated.",
)
@click.option(
    "--scope-claim",
    metavar="CLAIM",
    default="scope",
    show_default=True,
    help="The claim that holds scopes: words, or a list.",
)
@pass_context
def issuer_trust(  # noqa: PLR0913, PLR0917  one argument an option
    context: Context,
    name: str,
    environment: str,
    audience: str,
    jwks_url: str | None,
    jwks_file: TextIO | None,
    consumer_name: str | None,
    consumer_claim: str,
    mapped: tuple[str, ...],
    scope_claim: str,
) -> None:
    """Take an identity provider's tokens, each still with a key of its consumer."""
    keys = issuers.read_keys(_text(jwks_file)) if jwks_file else None
    trusted = issuers.parse_issuer(
        name,
        audience,
        jwks_url=jwks_url,
        keys=keys,
        consumer=consumer_name,
        consumer_claim=consumer_claim,
        mapped=mapped,
        scope_claim=scope_claim,
    )
    issuers.trust_issuer(
        context.engine, context.actor, environment, trusted, own=context.settings.issuer
    )
    click.echo(f"tokens of {name} are taken in {environment}")
    for key in keys.rejected if keys is not None else ():
        click.echo(f"warning: not used: {key}", err=True)


def _text(file: TextIO) -> str:
    try:
        return file.read()
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"can't read {file.name}: {type(error).__name__}") from None


@issuer.command("distrust")
@click.argument("name", metavar="ISSUER")
@env_required
@pass_context
def issuer_distrust(context: Context, name: str, environment: str) -> None:
    """Take an identity provider's tokens no more."""
    issuers.distrust_issuer(context.engine, context.actor, environment, name)
    click.echo(f"tokens of {name} are not taken in {environment} any more")


@issuer.command("list")
@env_option
@format_option
@pass_context
def issuer_list(context: Context, environment: str | None, form: str) -> None:
    """List trusted issuers."""
    rows = issuers.list_issuers(context.engine, environment)
    show(
        rows,
        form,
        ("environment", "issuer", "audience", "keys", "consumer", "scope_claim"),
        empty="no outside issuers",
    )


@click.group()
def token() -> None:
    """Tokens."""


@token.command("revoke")
@click.argument("jti", required=False)
@click.option(
    "--consumer",
    "consumer_name",
    metavar="NAME",
    help="All of this consumer's tokens issued up to now.",
)
@env_required
@pass_context
def token_revoke(
    context: Context, jti: str | None, consumer_name: str | None, environment: str
) -> None:
    """Revoke one token by its jti, or all of a consumer."""
    signing_keys.revoke_tokens(
        context.engine, context.actor, environment, jti=jti, consumer=consumer_name
    )
    click.echo(f"revoked in {environment}: {jti or 'all tokens of ' + str(consumer_name)}")


COMMANDS = (env, policy, pipeline, login_flow, signing_key, issuer, token)
