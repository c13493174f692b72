"""Commands that create and rotate the keys of PENSTOCK_SECRET_KEY."""

from __future__ import annotations

import time
from collections.abc import Iterable

import click

from penstock.access import rotation
from penstock.access.encryption import make_secret_key
from penstock.access.rotation import Count
from penstock.cli.base import Context, format_option, pass_context, show

PROGRESS_INTERVAL_S = 1.0


@click.group("secret-key", invoke_without_command=True)
@click.pass_context
def secret_key(context: click.Context) -> None:
    """Print a new PENSTOCK_SECRET_KEY, or rotate the keys."""
    if context.invoked_subcommand is None:
        click.echo(make_secret_key())


@secret_key.command("rotate")
@click.option(
    "--check",
    "--dry-run",
    "check",
    is_flag=True,
    help="Change nothing; report what still needs an older key.",
)
@format_option
@pass_context
def rotate(context: Context, check: bool, form: str) -> int:
    """Encrypt all stored secrets with the first key.

    The first key is that of PENSTOCK_SECRET_KEY. Exit code 1 as long as any secret needs another.

    Hosts can serve during the rotation. First set `old,new` on all hosts and restart them one
    after the other. Then set `new,old` and restart them again. Then run this command. At last set
    `new`. An interrupted rotation can be repeated.
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
        empty="no encrypted data",
    )
    older, unknown = (sum(getattr(item, name) for item in counts) for name in ("older", "unknown"))
    _report_keys(context.box.fingerprints)
    _report_counts(older, unknown, check=check)
    return int(bool(older or unknown))


def _report_keys(fingerprints: Iterable[str]) -> None:
    """Print the fingerprints of the keys on standard error."""
    first, *others = fingerprints
    click.echo(
        f"penstock: the first key is {first}"
        + (f", older: {', '.join(others)}" if others else "; there is no other"),
        err=True,
    )


def _report_counts(older: int, unknown: int, *, check: bool) -> None:
    """Print on standard error how many values need another key than the first."""
    if unknown:
        click.echo(
            f"penstock: {unknown} can't be decrypted with any of these keys; add the key that"
            " encrypted them",
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
            " with the new key first, and run this command again",
            err=True,
        )
    elif not unknown:
        click.echo("penstock: all secrets are encrypted with the first key", err=True)


class _Progress:
    """Prints the progress on standard error, once a second."""

    def __init__(self) -> None:
        self._printed_at = time.monotonic()

    def __call__(self, count: Count) -> None:
        """Print the progress of a column."""
        if time.monotonic() - self._printed_at >= PROGRESS_INTERVAL_S:
            self._printed_at = time.monotonic()
            click.echo(
                f"penstock: {count.column}: {count.all} read, {count.written} encrypted again",
                err=True,
            )


COMMANDS = (secret_key,)
