"""The keys of PENSTOCK_SECRET_KEY: make one, and replace one by another."""

from __future__ import annotations

import time

import click

from penstock.access import rotation
from penstock.access.encryption import make_secret_key
from penstock.access.rotation import Count
from penstock.cli.base import Context, format_option, pass_context, show

PAUSE = 1.0  # seconds between two lines of progress


@click.group("secret-key", invoke_without_command=True)
@click.pass_context
def secret_key(context: click.Context) -> None:
    """Make a key for PENSTOCK_SECRET_KEY."""
    if context.invoked_subcommand is None:
        click.echo(make_secret_key())


@secret_key.command("rotate")
@click.option(
    "--check",
    "--dry-run",
    "check",
    is_flag=True,
    help="Change nothing; say what still needs an older key.",
)
@format_option
@pass_context
def rotate(context: Context, check: bool, form: str) -> int:
    """Encrypt all that is stored with the first key of PENSTOCK_SECRET_KEY.

    Exit code 1 while anything needs another.

    Hosts may serve meanwhile. Every host must have both keys before, in this order: `old,new` on
    all of them, restarted one after the other; then `new,old` on all of them, restarted again; then
    this; then `new` alone. Whoever is stopped in the middle runs it again.
    """
    progress = _Progress()
    counts = (
        rotation.count(context.engine, context.box, progress)
        if check
        else rotation.rotate(context.engine, context.actor, context.box, progress)
    )
    rows = [
        {
            "stored": str(item.column),
            "newest": item.newest,
            "older": item.older,
            "unknown": item.unknown,
            "encrypted": item.written,
        }
        for item in counts
        if item.all
    ]
    show(
        rows,
        form,
        ("stored", "newest", "older", "unknown", *([] if check else ["encrypted"])),
        empty="nothing is encrypted yet",
    )
    older, unknown = (sum(getattr(item, name) for item in counts) for name in ("older", "unknown"))
    first, *others = context.box.fingerprints
    click.echo(
        f"penstock: the first key is {first}"
        + (f", older: {', '.join(others)}" if others else ", and there is no other"),
        err=True,
    )
    if unknown:
        click.echo(
            f"penstock: {unknown} can't be read with any of these keys; add the key that they were"
            " encrypted with",
            err=True,
        )
    if older and check:
        click.echo(
            f"penstock: {older} need an older key; `penstock secret-key rotate` encrypts them with"
            " the first one",
            err=True,
        )
    elif older:
        click.echo(
            f"penstock: {older} need an older key: a process still encrypts with it; restart it"
            " with the new one first, and run this again",
            err=True,
        )
    elif not unknown:
        click.echo("penstock: nothing needs another key than the first", err=True)
    return int(bool(older or unknown))


class _Progress:
    """Tells now and then how far it is, on standard error."""

    def __init__(self) -> None:
        self._told = time.monotonic()

    def __call__(self, count: Count) -> None:
        """Tell of a column that is being gone through."""
        if time.monotonic() - self._told >= PAUSE:
            self._told = time.monotonic()
            click.echo(
                f"penstock: {count.column}: {count.all} read, {count.written} encrypted anew",
                err=True,
            )


COMMANDS = (secret_key,)
