"""Steer access: environments, policies, consumers, keys, login flows and tokens."""

from __future__ import annotations

import secrets
from datetime import timedelta
from typing import TextIO

import click

from penstock.access import bounds, consumers, credentials, environments, issuers, needs, signing
from penstock.cli.base import DURATION, Context, env_option, env_required, format_option, pass_context, read_secret, show, show_json
from penstock.contracts.access import Authenticator, TrustedIssuer
from penstock.contracts.rates import Rate
from penstock.errors import Mistaken, Unknown
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
    show(rows, form, ("name", "policy", "policy_version", "token_lifetime", "keys_in_query", "algorithm", "created_at"))


@env.command("create")
@click.argument("name")
@pass_context
def env_create(context: Context, name: str) -> None:
    """Make an environment, with the strictest policy."""
    environments.create_environment(context.engine, context.actor, name, context.box)
    click.echo(f"environment {name} created, policy {environments.STRICTEST}")


@env.command("set")
@click.argument("name")
@click.option("--token-lifetime", type=DURATION, help="The longest a token may live, at most 24h.")
@click.option("--keys-in-query", type=click.Choice(["on", "off"]), help="Whether API keys are taken from the query string.")
@pass_context
def env_set(context: Context, name: str, token_lifetime: timedelta | None, keys_in_query: str | None) -> None:
    """Change an environment's limits."""
    environments.change_environment(
        context.engine,
        context.actor,
        name,
        token_lifetime=int(token_lifetime.total_seconds()) if token_lifetime else None,
        keys_in_query=keys_in_query == "on" if keys_in_query else None,
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
        show(environments.list_environments(context.engine), form, ("name", "policy", "internal_policy", "policy_version"))
        return
    rows = environments.policy_versions(context.engine, environment)
    show(rows, form, ("version", "exposure", "policy", "reason", "actor", "grace_until", "created_at"))


@policy.command("set")
@click.argument("environment")
@click.argument("option", metavar="POLICY")
@click.option("--grace", type=DURATION, help="How long pipelines that would stop keep their old gate.")
@click.option("--internal", is_flag=True, help="The policy of the internal listener.")
@click.option("--reason", default="", help="Why, for the audit trail.")
@click.option("--dry-run", is_flag=True, help="Only say what would change.")
@click.option("--yes", is_flag=True, help="Do not ask.")
@pass_context
def policy_set(  # noqa: PLR0913, PLR0917  one argument an option
    context: Context, environment: str, option: str, grace: timedelta | None, internal: bool, reason: str, dry_run: bool, yes: bool
) -> None:
    """Set an environment's policy, after saying which pipelines would stop or start being served."""
    if option not in context.host.judge.options:
        raise Unknown("policy", option, context.host.judge.options, mend=f"there are: {', '.join(context.host.judge.options) or 'none loaded'}")
    if internal and grace:
        raise Mistaken("the internal policy knows no grace; leave --grace out")
    access, before = context.host.look(context.engine, environment, context.box, internal=internal)
    after = context.host.judge_all(access, policy=option, internal=internal)
    served = {name: item.requires for name, item in before.items() if item.state in SERVED}
    stops = [name for name in served if after[name].violations]
    starts = [name for name, item in after.items() if item.state in SERVED and name not in served]
    now = access.environment.internal_policy if internal else access.environment.policy
    click.echo(f"{environment}{' (internal)' if internal else ''}: {now} -> {option}")
    for name in stops:
        click.echo(f"  {'keeps its old gate for now' if grace else 'stops'}: {name}: " + "; ".join(item.mend for item in after[name].violations))
    for name in starts:
        click.echo(f"  starts: {name}" + "".join(f" (warning: {text})" for text in after[name].warnings))
    if not stops and not starts:
        click.echo("  no pipeline stops or starts")
    if dry_run:
        click.echo("dry run: nothing was changed")
        return
    if stops and not grace and not yes:
        click.confirm("Some pipelines stop being served. Go on?", abort=True)
    environments.set_policy(
        context.engine, context.actor, environment, option, served=served, stopping=stops, grace=grace, reason=reason, internal=internal
    )
    click.echo("set")


@click.group()
def pipeline() -> None:
    """Switch pipelines on and off."""


def _switch(context: Context, name: str, environment: str, *, enabled: bool) -> None:
    environments.set_pipeline_enabled(context.engine, context.actor, environment, name, context.host.names, enabled=enabled)
    click.echo(f"pipeline {name} {'enabled' if enabled else 'disabled'} in {environment}")


@pipeline.command("disable")
@click.argument("name")
@env_required
@pass_context
def pipeline_disable(context: Context, name: str, environment: str) -> None:
    """Stop serving a pipeline in an environment."""
    _switch(context, name, environment, enabled=False)


@pipeline.command("enable")
@click.argument("name")
@env_required
@pass_context
def pipeline_enable(context: Context, name: str, environment: str) -> None:
    """Serve a pipeline again, if it complies."""
    _switch(context, name, environment, enabled=True)


@click.group()
def consumer() -> None:
    """Consumers: the callers we know."""


@consumer.command("create")
@click.argument("name")
@click.option("--description", default="", help="Who that is.")
@pass_context
def consumer_create(context: Context, name: str, description: str) -> None:
    """Make a consumer."""
    consumers.create_consumer(context.engine, context.actor, name, description)
    click.echo(f"consumer {name} created")


@consumer.command("list")
@format_option
@pass_context
def consumer_list(context: Context, form: str) -> None:
    """List consumers."""
    show(consumers.list_consumers(context.engine), form, ("name", "description", "enabled", "created_at"))


@consumer.command("show")
@click.argument("name")
@format_option
@pass_context
def consumer_show(context: Context, name: str, form: str) -> None:
    """Show a consumer with its associations and keys."""
    found = consumers.show_consumer(context.engine, name)
    if form == "json":
        show_json(found)
        return
    click.echo(f"{found['name']}: {found['description'] or 'no description'} ({'enabled' if found['enabled'] else 'disabled'})")
    for environment, names in found["associations"].items():  # type: ignore[attr-defined]  # a dict, see show_consumer
        click.echo(f"  {environment}: {', '.join(names)}")
    show(found["keys"], form, ("id", "environment", "shown_as", "state", "expires_at", "last_used_at", "note"), empty="no keys")  # type: ignore[arg-type]  # a list of rows


@consumer.command("disable")
@click.argument("name")
@pass_context
def consumer_disable(context: Context, name: str) -> None:
    """Keep a consumer out everywhere."""
    consumers.set_consumer_enabled(context.engine, context.actor, name, enabled=False)
    click.echo(f"consumer {name} disabled")


@consumer.command("enable")
@click.argument("name")
@pass_context
def consumer_enable(context: Context, name: str) -> None:
    """Let a consumer in again."""
    consumers.set_consumer_enabled(context.engine, context.actor, name, enabled=True)
    click.echo(f"consumer {name} enabled")


@consumer.command("associate")
@click.argument("name")
@click.argument("pipelines", nargs=-1, metavar="PIPELINE")
@env_required
@click.option("--new-pipelines", type=click.Choice(["on", "off"]), help="Whether it is associated with pipelines that appear later.")
@pass_context
def consumer_associate(context: Context, name: str, pipelines: tuple[str, ...], environment: str, new_pipelines: str | None) -> None:
    """Let a consumer call pipelines in an environment."""
    fresh = new_pipelines == "on" if new_pipelines else None
    consumers.associate(context.engine, context.actor, name, pipelines, environment, context.host.names, new_pipelines=fresh)
    click.echo(f"consumer {name} associated in {environment}: {', '.join(pipelines) or 'new pipelines ' + str(new_pipelines)}")


@consumer.command("dissociate")
@click.argument("name")
@click.argument("pipelines", nargs=-1, required=True, metavar="PIPELINE")
@env_required
@pass_context
def consumer_dissociate(context: Context, name: str, pipelines: tuple[str, ...], environment: str) -> None:
    """Keep a consumer out of pipelines in an environment."""
    consumers.dissociate(context.engine, context.actor, name, pipelines, environment)
    click.echo(f"consumer {name} dissociated in {environment}: {', '.join(pipelines)}")


@click.group()
def key() -> None:
    """Make, list and end API keys."""


def _show_key(made: consumers.NewKey, form: str, more: str = "") -> None:
    if form == "json":
        show_json({name: getattr(made, name) for name in ("id", "key", "consumer", "environment", "expires_at")})
    else:
        click.echo(f"{made.id} for {made.consumer} in {made.environment}; it is shown this once:\n{made.key}{more}")


@key.command("create")
@click.argument("consumer_name", metavar="CONSUMER")
@env_required
@click.option("--expires", type=DURATION, help="How long it works; default for ever.")
@click.option("--note", default="", help="What it is for.")
@format_option
@pass_context
def key_create(context: Context, consumer_name: str, environment: str, expires: timedelta | None, note: str, form: str) -> None:
    """Make an API key; it is shown once."""
    _show_key(consumers.create_key(context.engine, context.actor, consumer_name, environment, expires=expires, note=note), form)


@key.command("list")
@env_option
@click.option("--consumer", "consumer_name", metavar="NAME", help="Only this consumer's.")
@format_option
@pass_context
def key_list(context: Context, environment: str | None, consumer_name: str | None, form: str) -> None:
    """List keys."""
    rows = consumers.list_keys(context.engine, environment=environment, consumer=consumer_name)
    show(rows, form, ("id", "consumer", "environment", "shown_as", "state", "expires_at", "last_used_at", "note"))


@key.command("revoke")
@click.argument("key_id", metavar="ID")
@pass_context
def key_revoke(context: Context, key_id: str) -> None:
    """End a key for good."""
    consumers.revoke_key(context.engine, context.actor, key_id)
    click.echo(f"key {key_id} revoked")


@key.command("disable")
@click.argument("key_id", metavar="ID")
@pass_context
def key_disable(context: Context, key_id: str) -> None:
    """Switch a key off."""
    consumers.set_key_enabled(context.engine, context.actor, key_id, enabled=False)
    click.echo(f"key {key_id} disabled")


@key.command("enable")
@click.argument("key_id", metavar="ID")
@pass_context
def key_enable(context: Context, key_id: str) -> None:
    """Switch a key on again."""
    consumers.set_key_enabled(context.engine, context.actor, key_id, enabled=True)
    click.echo(f"key {key_id} enabled")


@key.command("rotate")
@click.argument("key_id", metavar="ID")
@click.option("--grace", type=DURATION, default="7d", show_default=True, help="How long the old one goes on.")
@format_option
@pass_context
def key_rotate(context: Context, key_id: str, grace: timedelta, form: str) -> None:
    """Make a key's successor; the old one ends by itself."""
    made, ends = consumers.rotate_key(context.engine, context.actor, key_id, grace)
    _show_key(made, form, f"\n{key_id} ends {ends:%Y-%m-%d %H:%MZ}")


@click.group("login-flow")
def login_flow() -> None:
    """Login flows: the pipelines that may issue tokens."""


@login_flow.command("designate")
@click.argument("name", metavar="PIPELINE")
@env_required
@pass_context
def login_flow_designate(context: Context, name: str, environment: str) -> None:
    """Let a pipeline issue tokens in an environment."""
    environments.set_login_flow(context.engine, context.actor, environment, name, context.host.names, designated=True)
    click.echo(f"pipeline {name} is a login flow of {environment}")
    if not any(item.pipeline.trigger.login for item in context.host.loaded.values() if item.pipeline.name == name):
        click.echo(f"warning: the trigger of {name} does not say login=True, so it can't issue tokens", err=True)


@login_flow.command("withdraw")
@click.argument("name", metavar="PIPELINE")
@env_required
@pass_context
def login_flow_withdraw(context: Context, name: str, environment: str) -> None:
    """Let a pipeline issue no more tokens in an environment."""
    environments.set_login_flow(context.engine, context.actor, environment, name, context.host.names, designated=False)
    click.echo(f"pipeline {name} is no login flow of {environment} any more")


@click.group("signing-key")
def signing_key() -> None:
    """Rotate the keys that sign an environment's tokens."""


@signing_key.command("list")
@env_required
@format_option
@pass_context
def signing_key_list(context: Context, environment: str, form: str) -> None:
    """List signing keys."""
    show(signing.list_signing_keys(context.engine, environment), form, ("kid", "algorithm", "state", "created_at", "verify_until"))


@signing_key.command("rotate")
@env_required
@click.option("--algorithm", type=click.Choice(signing.ALGORITHMS), help="Sign with another algorithm from now on.")
@pass_context
def signing_key_rotate(context: Context, environment: str, algorithm: str | None) -> None:
    """Sign with a new key; old tokens stay good until they expire."""
    kid = signing.rotate_signing_key(context.engine, context.actor, environment, context.box, algorithm=algorithm)
    click.echo(f"signing key {kid} signs in {environment}")


@signing_key.command("drop")
@click.argument("kid")
@env_required
@pass_context
def signing_key_drop(context: Context, kid: str, environment: str) -> None:
    """End a compromised key at once, with all its tokens."""
    successor = signing.drop_signing_key(context.engine, context.actor, environment, kid, context.box)
    click.echo(f"signing key {kid} dropped in {environment}" + (f"; {successor} signs now" if successor else ""))


@click.group()
def issuer() -> None:
    """Trust outside issuers of tokens: identity providers."""


@issuer.command("trust")
@click.argument("name", metavar="ISSUER")
@env_required
@click.option("--audience", required=True, metavar="AUD", help="Whom its tokens must be for.")
@click.option("--jwks-url", metavar="URL", help="Where its keys are; default as its discovery document says.")
@click.option("--jwks-file", type=click.File(encoding="utf-8"), help="Its keys, as a JWK set.")
@click.option("--consumer", "consumer_name", metavar="NAME", help="The consumer that all its tokens are of.")
@click.option("--consumer-claim", metavar="CLAIM", default="client_id", show_default=True, help="The claim that names the consumer.")
@click.option("--map", "mapped", metavar="VALUE=CONSUMER", multiple=True, help="Which consumer a value of that claim means; may be repeated.")
@click.option("--scope-claim", metavar="CLAIM", default="scope", show_default=True, help="The claim that holds scopes: words, or a list.")
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
    if jwks_url and jwks_file:
        raise Mistaken("give --jwks-url or --jwks-file, not both")
    if consumer_name and mapped:
        raise Mistaken("give --consumer or --map, not both")
    pairs = [pair.rpartition("=") for pair in mapped]
    if not all(value and consumer for value, _, consumer in pairs):
        raise Mistaken("--map wants VALUE=CONSUMER")
    trusted = TrustedIssuer(
        issuer=name,
        audience=audience,
        jwks_url=jwks_url,
        keys=tuple(issuers.read_keys(_text(jwks_file))) if jwks_file else None,
        consumer=consumer_name,
        consumer_claim=consumer_claim,
        consumers={value: consumer for value, _, consumer in pairs},
        scope_claim=scope_claim,
    )
    issuers.trust_issuer(context.engine, context.actor, environment, trusted, own=context.settings.issuer)
    click.echo(f"tokens of {name} are taken in {environment}")


def _text(file: TextIO) -> str:
    try:
        return file.read()
    except (OSError, UnicodeDecodeError) as error:
        raise Mistaken(f"can't read {file.name}: {type(error).__name__}") from None


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
    show(rows, form, ("environment", "issuer", "audience", "keys", "consumer", "scope_claim"), empty="no outside issuers")


@click.group()
def token() -> None:
    """Tokens."""


@token.command("revoke")
@click.argument("jti", required=False)
@click.option("--consumer", "consumer_name", metavar="NAME", help="All of this consumer's tokens issued up to now.")
@env_required
@pass_context
def token_revoke(context: Context, jti: str | None, consumer_name: str | None, environment: str) -> None:
    """Revoke one token by its jti, or all of a consumer."""
    signing.revoke_tokens(context.engine, context.actor, environment, jti=jti, consumer=consumer_name)
    click.echo(f"revoked in {environment}: {jti or 'all tokens of ' + str(consumer_name)}")


@click.group()
def limit() -> None:
    """How often a consumer may call."""


@limit.command("set")
@click.argument("consumer_name", metavar="CONSUMER")
@click.argument("rate")
@env_required
@click.option(
    "--pipeline", "pipeline_name", metavar="NAME", default="", help="Only there, in place of its own rates; default all pipelines together."
)
@click.option("--by", type=click.Choice(bounds.BY), default="consumer", show_default=True, help="What is counted together.")
@pass_context
def limit_set(context: Context, consumer_name: str, rate: str, environment: str, pipeline_name: str, by: str) -> None:
    """Let a consumer call so often: 100/second, 5000/12 hours."""
    known = context.host.names if pipeline_name else ()
    bounds.set_limit(context.engine, context.actor, consumer_name, environment, Rate(rate, by=by), pipeline=pipeline_name, known=known)
    click.echo(f"{consumer_name} may call {pipeline_name or 'all pipelines together'} {rate} by {by} in {environment}")


@limit.command("remove")
@click.argument("consumer_name", metavar="CONSUMER")
@env_required
@click.option("--pipeline", "pipeline_name", metavar="NAME", default="", help="Those of this pipeline; default those over all together.")
@pass_context
def limit_remove(context: Context, consumer_name: str, environment: str, pipeline_name: str) -> None:
    """Take a consumer's limits away."""
    number = bounds.remove_limits(context.engine, context.actor, consumer_name, environment, pipeline=pipeline_name)
    click.echo(f"{number} limit{'s' if number > 1 else ''} of {consumer_name} removed in {environment}")


@limit.command("list")
@env_option
@click.option("--consumer", "consumer_name", metavar="NAME", help="Only this consumer's.")
@format_option
@pass_context
def limit_list(context: Context, environment: str | None, consumer_name: str | None, form: str) -> None:
    """List limits."""
    rows = bounds.list_limits(context.engine, environment=environment, consumer=consumer_name)
    show(rows, form, ("environment", "consumer", "pipeline", "rate", "by"), empty="no limits")


@click.group()
def address() -> None:
    """Where a consumer may call from."""


def _put_networks(context: Context, consumer_name: str, networks: tuple[str, ...], environment: str, *, allowed: bool) -> None:
    kept = bounds.set_networks(context.engine, context.actor, consumer_name, environment, networks, allowed=allowed)
    click.echo(f"{consumer_name} may {'' if allowed else 'not '}call from {', '.join(kept)} in {environment}")


@address.command("allow")
@click.argument("consumer_name", metavar="CONSUMER")
@click.argument("networks", nargs=-1, required=True, metavar="NETWORK")
@env_required
@pass_context
def address_allow(context: Context, consumer_name: str, networks: tuple[str, ...], environment: str) -> None:
    """Take a consumer's calls from networks that are allowed, and from no others."""
    _put_networks(context, consumer_name, networks, environment, allowed=True)


@address.command("deny")
@click.argument("consumer_name", metavar="CONSUMER")
@click.argument("networks", nargs=-1, required=True, metavar="NETWORK")
@env_required
@pass_context
def address_deny(context: Context, consumer_name: str, networks: tuple[str, ...], environment: str) -> None:
    """Take no calls of a consumer from these networks, whatever is allowed."""
    _put_networks(context, consumer_name, networks, environment, allowed=False)


@address.command("remove")
@click.argument("consumer_name", metavar="CONSUMER")
@click.argument("networks", nargs=-1, required=True, metavar="NETWORK")
@env_required
@pass_context
def address_remove(context: Context, consumer_name: str, networks: tuple[str, ...], environment: str) -> None:
    """Take networks off a consumer's lists."""
    bounds.remove_networks(context.engine, context.actor, consumer_name, environment, networks)
    click.echo(f"{', '.join(networks)} removed from the lists of {consumer_name} in {environment}")


@address.command("list")
@env_option
@click.option("--consumer", "consumer_name", metavar="NAME", help="Only this consumer's.")
@format_option
@pass_context
def address_list(context: Context, environment: str | None, consumer_name: str | None, form: str) -> None:
    """List consumers' networks."""
    rows = bounds.list_networks(context.engine, environment=environment, consumer=consumer_name)
    show(rows, form, ("environment", "consumer", "network", "allowed"), empty="no networks")


@click.group()
def variable() -> None:
    """Plain values for pipelines, by environment."""


@variable.command("set")
@click.argument("name")
@click.argument("value")
@env_required
@pass_context
def variable_set(context: Context, name: str, value: str, environment: str) -> None:
    """Set a variable of an environment."""
    needs.set_variable(context.engine, context.actor, environment, name, value)
    click.echo(f"variable {name} set in {environment}")


@variable.command("unset")
@click.argument("name")
@env_required
@pass_context
def variable_unset(context: Context, name: str, environment: str) -> None:
    """Take a variable away; pipelines that need it are refused."""
    needs.unset_variable(context.engine, context.actor, environment, name)
    click.echo(f"variable {name} unset in {environment}")


@variable.command("list")
@env_option
@format_option
@pass_context
def variable_list(context: Context, environment: str | None, form: str) -> None:
    """List variables."""
    show(needs.list_variables(context.engine, environment), form, ("environment", "name", "value"), empty="no variables")


@click.group()
def secret() -> None:
    """Secrets for pipelines, by environment, sealed at rest."""


@secret.command("set")
@click.argument("name")
@env_required
@click.option("--expires", type=DURATION, help="How long it is good; warned about two weeks before. Default for ever.")
@click.option("--pipeline", "allowed", metavar="NAME", multiple=True, help="Only this pipeline may have it; give several times for several.")
@pass_context
def secret_set(context: Context, name: str, environment: str, expires: timedelta | None, allowed: tuple[str, ...]) -> None:
    """Keep a secret; its value is read from standard input, or asked for."""
    value = read_secret(f"Value of {name}")
    known = context.host.names if allowed else ()
    ends = needs.set_secret(context.engine, context.actor, environment, name, value, context.box, expires=expires, pipelines=allowed, known=known)
    click.echo(f"secret {name} set in {environment}" + (f", good until {ends:%Y-%m-%d %H:%MZ}" if ends else ""))


@secret.command("unset")
@click.argument("name")
@env_required
@pass_context
def secret_unset(context: Context, name: str, environment: str) -> None:
    """Wipe a secret; pipelines that need it are refused."""
    needs.unset_secret(context.engine, context.actor, environment, name)
    click.echo(f"secret {name} unset in {environment}")


@secret.command("list")
@env_option
@format_option
@pass_context
def secret_list(context: Context, environment: str | None, form: str) -> None:
    """List secrets, without their values."""
    show(needs.list_secrets(context.engine, environment), form, ("environment", "name", "expires_at", "pipelines"), empty="no secrets")


@click.group()
def credential() -> None:
    """Enrol what consumers prove themselves with besides API keys: passwords, signing secrets, certificates."""


@credential.command("add")
@click.argument("kind")
@click.argument("consumer_name", metavar="CONSUMER")
@env_required
@click.option("--name", required=True, metavar="NAME", help="The user's name, the certificate's, or one to tell secrets apart.")
@click.option("--generate", is_flag=True, help="Make the secret; it is shown once.")
@click.option("--expires", type=DURATION, help="How long it is good; default for ever.")
@click.option("--note", default="", help="What it is for.")
@pass_context
def credential_add(  # noqa: PLR0913, PLR0917  one argument an option
    context: Context, kind: str, consumer_name: str, environment: str, name: str, generate: bool, expires: timedelta | None, note: str
) -> None:
    """Enrol a credential; its secret is read from standard input, or asked for."""
    offered = {item.name: item for item in context.host.plugins.authenticators if type(item).enrol is not Authenticator.enrol}
    if kind not in offered:
        raise Unknown("kind of credential", kind, offered, mend=f"there are: {', '.join(sorted(offered)) or 'none loaded'}")
    authenticator = offered[kind]
    value = ""
    if authenticator.asks_for_secret:
        value = secrets.token_urlsafe(32) if generate else read_secret(f"Secret of {name}")
    identifier, name = credentials.add_credential(
        context.engine,
        context.actor,
        consumer_name,
        environment,
        kind=kind,
        name=name,
        secret=value,
        box=context.box,
        enrol=authenticator.enrol,
        expires=expires,
        note=note,
    )
    click.echo(f"{identifier}: {kind} {name} of {consumer_name} in {environment}")
    if generate and value:
        click.echo(f"its secret is shown this once:\n{value}")


@credential.command("revoke")
@click.argument("credential_id", metavar="ID")
@pass_context
def credential_revoke(context: Context, credential_id: str) -> None:
    """End a credential for good."""
    credentials.revoke_credential(context.engine, context.actor, credential_id)
    click.echo(f"credential {credential_id} revoked")


@credential.command("list")
@env_option
@click.option("--consumer", "consumer_name", metavar="NAME", help="Only this consumer's.")
@format_option
@pass_context
def credential_list(context: Context, environment: str | None, consumer_name: str | None, form: str) -> None:
    """List credentials, without their secrets."""
    rows = credentials.list_credentials(context.engine, environment=environment, consumer=consumer_name)
    show(rows, form, ("id", "kind", "name", "consumer", "environment", "state", "expires_at", "note"), empty="no credentials")


COMMANDS = (issuer, credential, variable, secret, limit, address, env, policy, pipeline, consumer, key, login_flow, signing_key, token)
