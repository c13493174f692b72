"""Serve, check, and look: the commands of deployment."""

from __future__ import annotations

import os
import sys

import click

from penstock import audit
from penstock.access.secrets import make_secret_key
from penstock.cli.base import Context, env_option, format_option, pass_context, show, show_json
from penstock.db import migrate
from penstock.gate.compliance import Judged, State
from penstock.settings import SETTINGS
from penstock.web.openapi import describe


@click.command()
@env_option
@click.option("--bind", metavar="H:P", help="Address and port; default PENSTOCK_BIND.")
@click.option("--workers", type=click.IntRange(1, 1024), help="Worker processes; default PENSTOCK_WORKERS.")
@click.option("--threads", type=click.IntRange(1, 4096), help="Calls a worker answers at a time; default PENSTOCK_THREADS.")
@pass_context
def serve(context: Context, environment: str | None, bind: str | None, workers: int | None, threads: int | None) -> None:
    """Serve an environment's pipelines with gunicorn."""
    chosen = {"ENVIRONMENT": environment, "BIND": bind, "WORKERS": workers, "THREADS": threads}
    os.environ.update({f"PENSTOCK_{name}": str(value) for name, value in chosen.items() if value is not None})
    _ = context.settings  # what is wrong with them is said before anything is replaced
    sys.stdout.flush()
    os.execv(sys.executable, [sys.executable, "-m", "gunicorn", "-c", "python:penstock.gunicorn_conf", "penstock.wsgi:app"])  # noqa: S606  it replaces this process


@click.command()
@env_option
@format_option
@pass_context
def check(context: Context, environment: str | None, form: str) -> int:
    """Say whether everything that is loaded may be served; the deployment gate.

    Exit code 1 if anything is refused, with what to change.
    """
    name = context.environment(environment)
    access, judged = context.host.look(context.engine, name, context.box)
    refused = [item for item in judged.values() if item.violations]
    if form == "json":
        show_json(
            {
                "environment": name,
                "policy": access.environment.policy,
                "good": not refused and not context.host.mistakes,
                "pipelines": [_row(identifier, item, context.host.loaded[identifier].plugin) for identifier, item in judged.items()],
                "mistakes": [{key: getattr(item, key) for key in ("plugin", "pipeline", "problem", "mend")} for item in context.host.mistakes],
            }
        )
        return int(bool(refused or context.host.mistakes))
    for mistake in context.host.mistakes:
        click.echo(f"mistake: {mistake}")
    for identifier, item in judged.items():
        for violation in item.violations:
            click.echo(f"{item.state}: {identifier}: {violation.reason}; {violation.mend}")
        for warning in item.warnings:
            click.echo(f"warning: {identifier}: {warning}")
    served = sum(item.state in {State.SERVED, State.NON_CONFORMANT} for item in judged.values())
    click.echo(f"{name} ({access.environment.policy}): {served} of {len(judged)} pipelines served, {len(refused)} in breach")
    return int(bool(refused or context.host.mistakes))


@click.command()
@env_option
@format_option
@pass_context
def pipelines(context: Context, environment: str | None, form: str) -> None:
    """List pipelines: version, URL, toggles, policy, and what became of them."""
    access, judged = context.host.look(context.engine, context.environment(environment), context.box)
    rows = [
        {**_row(identifier, item, context.host.loaded[identifier].plugin), "policy": access.environment.policy} for identifier, item in judged.items()
    ]
    columns = ("name", "version", "url", "toggles", "policy", "state", "requires", "plugin", "deprecated", "sunset", "why")
    show(rows, form, columns, empty="no plugin offers a pipeline")
    for mistake in context.host.mistakes:
        click.echo(f"mistake: {mistake}", err=True)


def _row(identifier: str, item: Judged, plugin: str) -> dict[str, object]:
    trigger = item.pipeline.trigger
    toggles = [*sorted(trigger.toggles), *(["login"] if trigger.login else []), *([] if trigger.external else ["internal"])]
    why = [f"{violation.reason}; {violation.mend}" for violation in item.violations] + [f"warning: {text}" for text in item.warnings]
    state = item.state.value
    return {
        "name": item.pipeline.name,
        "version": item.pipeline.version,
        "url": f"/{identifier}/",
        "toggles": toggles,
        "state": state,
        "until": item.until,
        "requires": sorted(item.requires),
        "plugin": plugin,
        "deprecated": item.pipeline.deprecated,
        "sunset": item.pipeline.sunset,
        "why": why,
    }


@click.command()
@env_option
@pass_context
def openapi(context: Context, environment: str | None) -> None:
    """Print what an environment serves as OpenAPI 3.1."""
    name = context.environment(environment)
    _, judged = context.host.look(context.engine, name, context.box)
    show_json(describe(context.host, name, judged))


@click.command("audit")
@click.option("--limit", type=click.IntRange(1, 10_000), default=50, help="How many events, newest first.")
@format_option
@pass_context
def audit_command(context: Context, limit: int, form: str) -> None:
    """Show who changed what."""
    rows = [{name: getattr(event, name) for name in audit.Event.__slots__} for event in audit.events(context.engine, limit=limit)]
    show(rows, form, ("at", "actor", "action", "environment", "subject", "detail"))


@click.command()
@format_option
def settings(form: str) -> None:
    """List the settings, their defaults and meaning."""
    show([row._asdict() for row in SETTINGS], form, ("name", "default", "help"))


@click.command("secret-key")
def secret_key() -> None:
    """Make a key for PENSTOCK_SECRET_KEY."""
    click.echo(make_secret_key())


@click.group()
def db() -> None:
    """Bring the database to this release's schema."""


@db.command()
@pass_context
def upgrade(context: Context) -> None:
    """Run the migrations that are missing."""
    before, after = migrate.upgrade(context.engine)
    click.echo(f"at {after} already" if before == after else f"upgraded from {before or 'an empty database'} to {after}")


@db.command()
@pass_context
def current(context: Context) -> int:
    """Say which migration the database is at; exit code 1 if that is not the newest."""
    at, newest = migrate.current(context.engine), migrate.head()
    click.echo(f"{at or 'empty'}" + ("" if at == newest else f"; this release needs {newest}: run `penstock db upgrade`"))
    return int(at != newest)


COMMANDS = (serve, check, pipelines, openapi, audit_command, settings, secret_key, db)
