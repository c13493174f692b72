"""Commands that change API keys: some by their ids, or all that filters leave."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from functools import wraps
from typing import Any, TypeVar

import click

from penstock.access import api_keys
from penstock.access.api_keys import KeyQuery, list_keys
from penstock.access.key_changes import (
    KeyAct,
    change_keys,
    changed_by,
    require_bounded,
)
from penstock.cli.base import DURATION, Context, env_option, pass_context, show
from penstock.errors import UsageError

Result = TypeVar("Result")
MAX_READ = 10_000  # keys of which the ones to change are found
SHOWN = ("id", "consumer", "environment", "shown_as", "state", "expires_at", "last_used_at")
FILTERS = (
    env_option,
    click.option("--consumer", metavar="NAME", help="Only keys of this consumer."),
    click.option("--unused", type=DURATION, help="Only keys without a call for this time: 90d."),
    click.option("--expiring", type=DURATION, help="Only keys that expire within this time: 14d."),
    click.option("--never-used", is_flag=True, help="Only keys without an accepted call."),
    click.option("--no-expiry", is_flag=True, help="Only keys that never expire."),
    click.option("--disabled-consumers", is_flag=True, help="Only keys of disabled consumers."),
)
FIELDS = (
    "environment",
    "consumer",
    "unused",
    "expiring",
    "never_used",
    "no_expiry",
    "disabled_consumers",
)


def key_filters(command: Callable[..., Result]) -> Callable[..., Result]:
    """Give a command the filters of keys; it takes them as `query`."""

    @wraps(command)
    def run(*arguments: Any, **options: Any) -> Result:  # noqa: ANN401  those of the command
        chosen = {name: options.pop(name) for name in FIELDS}
        return command(*arguments, query=KeyQuery(**chosen), **options)

    for option in reversed(FILTERS):
        run = option(run)
    return run


def _changes(command: Callable[..., Result]) -> Callable[..., Result]:
    """Give a command ids or filters of keys, and --yes."""
    command = click.option(
        "--yes", is_flag=True, help="Change the keys that the filters leave, instead of a list."
    )(key_filters(command))
    return click.argument("ids", nargs=-1, metavar="[ID]...")(command)


def _apply(
    context: Context,
    ids: Sequence[str],
    query: KeyQuery,
    act: KeyAct,
    *,
    yes: bool,
    until: datetime | None = None,
) -> None:
    """Change the keys of some ids, or those that filters leave; without `yes` list the latter."""
    filtered = query != KeyQuery()
    if bool(ids) == filtered:
        raise UsageError(f"name the keys to {act}, or give filters such as --unused 90d")
    moment, keys = until or datetime.now(UTC), list[api_keys.ListedKey]()
    if filtered:
        found = list_keys(context.engine, query, limit=MAX_READ)
        keys = changed_by(found, act, moment)
        require_bounded(len(keys))
        ids = [key.id for key in keys]
        if not keys or not yes:
            show(keys, "table", SHOWN, empty=f"no keys to {act}")
            if keys:
                click.echo(f"{len(keys)} keys; repeat with --yes to {act} them", err=True)
            return
    changed = {key.id for key in change_keys(context.engine, context.actor, ids, act, until)}
    for identifier in ids:
        word = DONE[act] if identifier in changed else "left as it is"
        click.echo(f"key {identifier} {word}")


DONE = {
    KeyAct.REVOKE: "revoked",
    KeyAct.DISABLE: "disabled",
    KeyAct.EXPIRE: "expires earlier",
    KeyAct.EXTEND: "extended",
}


@click.command("revoke")
@_changes
@pass_context
def key_revoke(context: Context, ids: tuple[str, ...], query: KeyQuery, *, yes: bool) -> None:
    """Revoke keys for good: those named, or with --yes those that the filters leave."""
    if len(ids) == 1 and query == KeyQuery():
        api_keys.revoke_key(context.engine, context.actor, ids[0])
        click.echo(f"key {ids[0]} revoked")
        return
    _apply(context, ids, query, KeyAct.REVOKE, yes=yes)


@click.command("disable")
@_changes
@pass_context
def key_disable(context: Context, ids: tuple[str, ...], query: KeyQuery, *, yes: bool) -> None:
    """Disable keys: those named, or with --yes those that the filters leave."""
    if len(ids) == 1 and query == KeyQuery():
        api_keys.set_key_enabled(context.engine, context.actor, ids[0], enabled=False)
        click.echo(f"key {ids[0]} disabled")
        return
    _apply(context, ids, query, KeyAct.DISABLE, yes=yes)


after_option = click.option(
    "--in", "after", type=DURATION, required=True, help="Time from now until they expire: 30d."
)


@click.command("expire")
@_changes
@after_option
@pass_context
def key_expire(
    context: Context, ids: tuple[str, ...], query: KeyQuery, after: timedelta, *, yes: bool
) -> None:
    """Let keys expire earlier. A key that expires before that time is left as it is."""
    _apply(context, ids, query, KeyAct.EXPIRE, yes=yes, until=datetime.now(UTC) + after)


@click.command("extend")
@_changes
@after_option
@pass_context
def key_extend(
    context: Context, ids: tuple[str, ...], query: KeyQuery, after: timedelta, *, yes: bool
) -> None:
    """Let keys expire later. A key that has ended, or never expires, is left as it is."""
    _apply(context, ids, query, KeyAct.EXTEND, yes=yes, until=datetime.now(UTC) + after)


BULK = (key_revoke, key_disable, key_expire, key_extend)
