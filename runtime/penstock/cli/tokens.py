"""Commands that manage signing keys, trusted issuers and tokens."""

from __future__ import annotations

from typing import TextIO

import click

from penstock.access import issuers, signing_keys
from penstock.cli.base import (
    Context,
    env_option,
    env_required,
    pass_context,
)
from penstock.cli.listings import Listing, listing_options, show_rows
from penstock.errors import UsageError


@click.group("signing-key")
def signing_key() -> None:
    """List, rotate and revoke the keys that sign tokens."""


@signing_key.command("list")
@env_required
@listing_options
@pass_context
def signing_key_list(context: Context, environment: str, listing: Listing) -> None:
    """List signing keys."""
    rows = signing_keys.list_signing_keys(context.engine, environment)
    columns = ("kid", "algorithm", "state", "created_at", "verify_until")
    show_rows(rows, listing, columns, lambda row: row.kid)


@signing_key.command("rotate")
@env_required
@click.option(
    "--algorithm",
    type=click.Choice(signing_keys.ALGORITHMS),
    help="New signing algorithm.",
)
@pass_context
def signing_key_rotate(context: Context, environment: str, algorithm: str | None) -> None:
    """Create a new signing key. Existing tokens stay valid until they expire."""
    kid = signing_keys.rotate_signing_key(
        context.engine, context.actor, environment, context.box, algorithm=algorithm
    )
    click.echo(f"signing key {kid} signs tokens of {environment} now")


@signing_key.command("drop")
@click.argument("kid")
@env_required
@pass_context
def signing_key_drop(context: Context, kid: str, environment: str) -> None:
    """Revoke a compromised signing key and all its tokens."""
    successor = signing_keys.drop_signing_key(
        context.engine, context.actor, environment, kid, context.box
    )
    click.echo(
        f"signing key {kid} revoked in {environment}"
        + (f"; {successor} signs now" if successor else "")
    )


@click.group()
def issuer() -> None:
    """Trust identity providers as issuers of tokens."""


@issuer.command("trust")
@click.argument("name", metavar="ISSUER")
@env_required
@click.option("--audience", required=True, metavar="AUD", help="Required audience of its tokens.")
@click.option(
    "--jwks-url", metavar="URL", help="URL of its keys. Default: the URL in its discovery document."
)
@click.option(
    "--jwks-file", type=click.File(encoding="utf-8"), help="File with its keys, a JWK set."
)
@click.option("--consumer", "consumer_name", metavar="NAME", help="Consumer of all its tokens.")
@click.option(
    "--consumer-claim",
    metavar="CLAIM",
    default="client_id",
    show_default=True,
    help="Claim that names the consumer.",
)
@click.option(
    "--map",
    "mapped",
    metavar="VALUE=CONSUMER",
    multiple=True,
    help="Consumer for a value of that claim. May be repeated.",
)
@click.option(
    "--scope-claim",
    metavar="CLAIM",
    default="scope",
    show_default=True,
    help="Claim with the scopes: words, or a list.",
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
    """Accept tokens of an identity provider.

    A token is accepted only together with an API key of its consumer.
    """
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
    replaced = issuers.trust_issuer(
        context.engine, context.actor, environment, trusted, own=context.settings.issuer
    )
    options = "; the options of before were replaced" if replaced else ""
    click.echo(f"tokens of {name} are accepted in {environment}{options}")
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
    """Stop accepting tokens of an identity provider."""
    issuers.distrust_issuer(context.engine, context.actor, environment, name)
    click.echo(f"tokens of {name} are no longer accepted in {environment}")


@issuer.command("list")
@env_option
@listing_options
@pass_context
def issuer_list(context: Context, environment: str | None, listing: Listing) -> None:
    """List trusted issuers."""
    rows = issuers.list_issuers(context.engine, environment)
    show_rows(
        rows,
        listing,
        ("environment", "issuer", "audience", "keys", "consumer", "scope_claim"),
        lambda row: f"{row.environment}:{row.issuer}",
        empty="no trusted issuers",
    )


@click.group()
def token() -> None:
    """Revoke tokens."""


@token.command("revoke")
@click.argument("jti", required=False)
@click.option(
    "--consumer",
    "consumer_name",
    metavar="NAME",
    help="Revoke all tokens of this consumer that were issued until now.",
)
@env_required
@pass_context
def token_revoke(
    context: Context, jti: str | None, consumer_name: str | None, environment: str
) -> None:
    """Revoke one token by its ID (jti), or all tokens of a consumer."""
    signing_keys.revoke_tokens(
        context.engine, context.actor, environment, jti=jti, consumer=consumer_name
    )
    click.echo(f"revoked in {environment}: {jti or 'all tokens of ' + str(consumer_name)}")


COMMANDS = (signing_key, issuer, token)
