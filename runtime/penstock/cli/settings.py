"""The command that lists the settings."""

from __future__ import annotations

import click

from penstock.cli.base import (
    format_option,
    show,
)
from penstock.settings import SETTINGS


@click.command()
@format_option
def settings(form: str) -> None:
    """List all settings with their defaults."""
    show([row._asdict() for row in SETTINGS], form, ("name", "default", "help"))


COMMANDS = (settings,)
