"""Serve, check, and look: the commands of deployment."""

from __future__ import annotations

import functools
import os
import sys
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any, ParamSpec

import click

from penstock import audit, logs
from penstock.access import history
from penstock.access.pipelines import convert_names, has_unconverted_names
from penstock.access.snapshot import Snapshot
from penstock.cli.base import (
    DURATION,
    Context,
    env_option,
    format_option,
    pass_context,
    show,
    show_json,
)
from penstock.cli.isolated import apart
from penstock.contracts.pipeline import PluginProblem
from penstock.db import compatibility, migrate
from penstock.db.engine import same_database, through_pooler
from penstock.errors import BadSetting, CannotStart, PenstockError
from penstock.gate.compliance import State
from penstock.gate.exposure import SERVED, Listed, described, exposures
from penstock.server import supervisor
from penstock.settings import SETTINGS

Options = ParamSpec("Options")


def _logged(command: Callable[Options, int]) -> Callable[Options, int]:
    """Have a command that runs for long tell as its log does why it can't start."""

    @functools.wraps(command)
    def run(*arguments: Options.args, **options: Options.kwargs) -> int:
        try:
            return command(*arguments, **options)
        except PenstockError as error:
            logs.print_error(str(error), os.environ.get("PENSTOCK_LOG_FORMAT", "auto"))
            return error.exit_code

    return run


@click.command()
@env_option
@click.option("--bind", metavar="H:P", help="Address and port; default PENSTOCK_BIND.")
@click.option(
    "--internal-bind",
    metavar="H:P",
    help="Address and port of the internal listener; default PENSTOCK_INTERNAL_BIND.",
)
@click.option(
    "--workers",
    type=click.IntRange(1, 1024),
    help="Processes that answer calls; default PENSTOCK_WORKERS.",
)
@click.option(
    "--threads",
    type=click.IntRange(1, 4096),
    help="Calls that each answers at a time; default PENSTOCK_THREADS.",
)
@click.option(
    "--worker",
    type=click.IntRange(0, 64),
    help="Processes for durable runs beside them, 0 for none; default PENSTOCK_WORKER.",
)
@pass_context
@_logged
def serve(
    context: Context,
    environment: str | None,
    bind: str | None,
    internal_bind: str | None,
    workers: int | None,
    threads: int | None,
    worker: int | None,
) -> int:
    """Serve an environment's pipelines with gunicorn, and perform its durable runs."""
    chosen = {
        "ENVIRONMENT": environment,
        "BIND": bind,
        "INTERNAL_BIND": internal_bind,
        "WORKERS": workers,
        "THREADS": threads,
        "WORKER": worker,
    }
    os.environ.update(
        {f"PENSTOCK_{name}": str(value) for name, value in chosen.items() if value is not None}
    )
    settings = context.settings  # what is wrong with them is said before anything is started
    context.engine.dispose()  # its file must be there
    sys.stdout.flush()
    return supervisor.serve(settings)


@click.command()
@env_option
@click.option("--if-needed", is_flag=True, help="End at once where no pipeline has durable runs.")
@click.option(
    "--ready-fd",
    type=int,
    hidden=True,
    help="Write a byte to this file descriptor once runs are taken.",
)
@click.option(
    "--respawned",
    is_flag=True,
    hidden=True,
    help="Do not judge by PENSTOCK_STRICT: a worker before this one was.",
)
@click.option("--rehearse", is_flag=True, hidden=True, help="Try all that a start needs, and end.")
@pass_context
@_logged
def worker(
    context: Context,
    environment: str | None,
    if_needed: bool,
    ready_fd: int | None,
    respawned: bool,
    rehearse: bool,
) -> int:
    """Perform an environment's durable runs, until told to stop."""
    if environment is not None:
        os.environ["PENSTOCK_ENVIRONMENT"] = environment
    context.engine.dispose()  # its file must be there
    if rehearse:
        return supervisor.rehearse(context.settings, ready_fd)
    return supervisor.work(
        context.settings, if_needed=if_needed, ready_fd=ready_fd, respawned=respawned
    )


@click.command()
@env_option
@format_option
@pass_context
def check(context: Context, environment: str | None, form: str) -> int:
    """Say whether everything that is loaded may be served; the deployment gate.

    Exit code 1 if anything is refused, with what to change.
    """
    return apart(lambda: context.host, lambda: _check(context, environment, form))


def _check(context: Context, environment: str | None, form: str) -> int:
    name = context.environment(environment)
    access, evaluated = _judged(context, name)
    faults = [
        *context.host.catalog.faults({identifier: item for identifier, _, item in evaluated}),
        *_taken_commands(context),
    ]
    refused = [
        item for _, _, item in evaluated if item.violations and item.state is not State.DISABLED
    ]
    good = not (refused or faults or access.unreadable_rows)
    if form == "json":
        show_json(
            {
                "environment": name,
                "policy": access.environment.policy,
                "internal_policy": access.environment.internal_policy,
                "good": good,
                "pipelines": [
                    described(*row, context.host.catalog.loaded[row[0]].plugin) for row in evaluated
                ],
                "mistakes": [_told(item) for item in faults],
                "notes": [_told(item) for item in context.host.catalog.notes],
                "unreadable": list(access.unreadable_rows),
            }
        )
        return int(not good)
    for item in faults:
        click.echo(f"mistake: {item}")
    for item in context.host.catalog.notes:
        click.echo(f"note: {item}")
    for doubt in access.unreadable_rows:
        click.echo(
            f"unreadable: {doubt}; set it again with the command that made it, or correct the row"
        )
    said: set[tuple[str, str]] = set()
    for identifier, exposure, judgement in evaluated:
        where = f"{identifier} (internal)" if exposure == "internal" else identifier
        broken = identifier in context.host.catalog.broken  # which is said above
        told = [
            (judgement.state.value, f"{item.reason}; {item.fix}")
            for item in judgement.violations
            if not broken
        ]
        notes = (
            ["its handlers get the token itself (forward_token=True)"]
            if judgement.pipeline.trigger.forward_token
            else []
        )
        for kind, text in [
            *told,
            *(("warning", text) for text in judgement.warnings),
            *(("note", text) for text in notes),
        ]:
            if (identifier, text) not in said:
                said.add((identifier, text))
                click.echo(f"{kind}: {where}: {text}")
    served = sum(item.state in SERVED for _, _, item in evaluated)
    click.echo(
        f"{name} ({access.environment.policy}): {served} of {len(evaluated)} pipelines served,"
        f" {len(refused)} in breach"
    )
    return int(not good)


def _told(problem: PluginProblem) -> dict[str, str]:
    return {key: getattr(problem, key) for key in ("plugin", "file", "pipeline", "problem", "fix")}


def _taken_commands(context: Context) -> list[PluginProblem]:
    """Return the commands of plugins that have the name of one of ours, and so are never run."""
    root = click.get_current_context().find_root().command
    ours = root.commands if isinstance(root, click.Group) else {}
    plugins = context.host.catalog.plugins
    taken = [(plugin, command.name) for plugin, command in plugins.commands if command.name in ours]
    return [
        plugins.fault(plugin, f"the command {name!r} is one of Penstock's", "give it another name")
        for plugin, name in taken
    ]


@click.command()
@env_option
@format_option
@pass_context
def pipelines(context: Context, environment: str | None, form: str) -> None:
    """List pipelines: version, URL, toggles, policy, and what became of them."""
    access, evaluated = _judged(context, context.environment(environment))
    policies = {
        "external": access.environment.policy,
        "internal": access.environment.internal_policy,
        "none": None,
    }
    rows = [
        {
            **described(identifier, exposure, replace(item, pipeline=offer.pipeline), offer.plugin),
            "policy": policies[exposure],
        }
        for identifier, exposure, item in evaluated
        for offer in context.host.catalog.offers(identifier)
    ]
    columns = (
        "name",
        "version",
        "url",
        "exposure",
        "toggles",
        "policy",
        "state",
        "requires",
        "plugin",
        "deprecated",
        "sunset",
        "why",
    )
    show(rows, form, columns, empty="no plugin offers a pipeline")
    for problem in context.host.catalog.faults(
        {identifier: item for identifier, _, item in evaluated}
    ):
        click.echo(f"mistake: {problem}", err=True)
    for doubt in access.unreadable_rows:
        click.echo(f"unreadable: {doubt}", err=True)


def _judged(context: Context, environment: str) -> tuple[Snapshot, list[Listed]]:
    """Read an environment, and return what became of each pipeline on each listener it is for."""
    access, evaluated = context.host.evaluator.evaluate_environment(
        context.engine, environment, context.box
    )
    return access, exposures(evaluated.external, evaluated.internal, context.host.catalog.broken)


@click.command()
@env_option
@click.option("--internal", is_flag=True, help="What the internal listener serves.")
@pass_context
def openapi(context: Context, environment: str | None, internal: bool) -> None:
    """Print what an environment serves as OpenAPI 3.1."""
    name = context.environment(environment)
    _, evaluated = context.host.evaluator.evaluate_environment(context.engine, name, context.box)
    from penstock.web.openapi.document import (  # noqa: PLC0415  it brings Flask with it, which other commands need not load
        describe,
    )

    show_json(
        describe(
            context.host.catalog,
            name,
            evaluated.on(internal=internal),
            "" if internal else context.settings.url,
        )
    )


@click.command("audit")
@env_option
@click.option("--by", metavar="ACTOR", help="Only what this one did.")
@click.option(
    "--action", metavar="ACTION", help="Only this action, such as key:revoked, or this kind: key."
)
@click.option("--subject", metavar="NAME", help="Only what was done to this one.")
@click.option("--since", type=DURATION, help="Only of the last hours or days: 2h, 7d.")
@click.option(
    "--before",
    type=click.IntRange(1),
    metavar="ID",
    help="The page after the one that ended with this event.",
)
@click.option(
    "--limit", type=click.IntRange(1, 10_000), default=50, help="How many events, newest first."
)
@click.option(
    "--export",
    type=click.Choice(["csv", "jsonl"]),
    help="Print all of them, however many: as CSV, or as JSON lines.",
)
@format_option
@pass_context
def audit_command(  # noqa: PLR0913, PLR0917  one argument an option
    context: Context,
    environment: str | None,
    by: str | None,
    action: str | None,
    subject: str | None,
    since: timedelta | None,
    before: int | None,
    limit: int,
    export: str | None,
    form: str,
) -> None:
    """Show who changed what."""
    wanted: dict[str, Any] = {
        "environment": environment,
        "actor": by,
        "action": action,
        "subject": subject,
        "since": datetime.now(UTC) - since if since else None,
    }
    if export:
        write = audit.as_csv if export == "csv" else audit.as_json_lines
        for line in write(audit.every_event(context.engine, **wanted)):
            click.echo(line, nl=False)
        return
    rows = [
        {name: getattr(event, name) for name in audit.COLUMNS}
        for event in audit.events(context.engine, limit=limit, before=before, **wanted)
    ]
    show(rows, form, ("id", "at", "actor", "action", "environment", "subject", "detail"))


@click.command()
@format_option
def settings(form: str) -> None:
    """List the settings, their defaults and meaning."""
    show([row._asdict() for row in SETTINGS], form, ("name", "default", "help"))


@click.group()
def db() -> None:
    """Bring the database to this release's schema, or say that it was restored."""


@db.command()
@pass_context
def upgrade(context: Context) -> int:
    """Run the migrations that are missing."""
    engine = context.direct_engine  # the one command that may create a database file
    click.echo(f"database: {context.database}")
    direct = context.settings.database_direct_url
    if through_pooler(engine):
        which = "PENSTOCK_DATABASE_DIRECT_URL" if direct else "PENSTOCK_DATABASE_URL"
        raise BadSetting(
            f"{which} leads to a connection pooler; set PENSTOCK_DATABASE_DIRECT_URL to the server"
            " itself for migrations"
        )
    if direct and not same_database(engine, context.engine):
        raise BadSetting(
            "PENSTOCK_DATABASE_DIRECT_URL leads to another database than PENSTOCK_DATABASE_URL"
        )
    with migrate.alone(engine):
        before, after = migrate.upgrade(engine)
        if not migrate.knows(after):
            safe, text = _verdict(context)
            click.echo(f"nothing was changed; {text}")
            return 0 if safe else CannotStart.exit_code
        from penstock.durable import engine_dbos  # noqa: PLC0415  no other command needs to load it

        engine_dbos.migrate(context.settings.direct_url)
        if has_unconverted_names(engine):
            for environment, names in convert_names(
                engine, context.actor, context.host.catalog.offered
            ).items():
                for name, identifiers in names.items():
                    click.echo(
                        f"{environment}: what was kept for {name} counts for"
                        f" {', '.join(identifiers)} now"
                    )
    click.echo(
        f"at {after} already"
        if before == after
        else f"upgraded from {before or 'an empty database'} to {after}"
    )
    return 0


@db.command()
@pass_context
def restored(context: Context) -> None:
    """Say that the database was restored from a backup, so that every process reads it anew."""
    done = history.declare_restored(context.engine, context.actor)
    click.echo(
        f"revision {done.revision} begins a new history: every process reads all access data anew"
    )
    for environment, number in done.unfinished.items():
        click.echo(
            f"{environment}: {number} runs had not ended when the backup was made; workers perform"
            " them, some for the second time"
        )
    click.echo(
        "what was revoked since the backup was made is in force again: see the log of that time,"
        " and revoke it again",
        err=True,
    )


@db.command()
@pass_context
def current(context: Context) -> int:
    """Say which migration the database is at; exit code 1 if that is not the newest."""
    context.engine.dispose()  # its file must be there
    at, newest = migrate.current(context.direct_engine), migrate.head()
    if at is not None and not migrate.knows(at):
        click.echo(f"{at}, by a newer release; this one ({newest}) works with that schema")
        return 0
    click.echo(
        f"{at or 'empty'}"
        + ("" if at == newest else f"; this release needs {newest}: run `penstock db upgrade`")
    )
    return int(at != newest)


@db.command("check")
@pass_context
def check_schema(context: Context) -> int:
    """Say whether this release can start on the schema of the database.

    Exit code 1 if not. Before a rollback, run it with the release that you go back to.
    """
    safe, text = _verdict(context)
    click.echo(text)
    return int(not safe)


def _verdict(context: Context) -> tuple[bool, str]:
    """Return whether this release works with the database's schema, and a line that says so."""
    from penstock.durable import engine_dbos  # noqa: PLC0415  no other command needs to load it

    context.engine.dispose()  # its file must be there
    at, own = migrate.current(context.direct_engine), migrate.head()
    newer = at is not None and not migrate.knows(at)
    if not newer and (at != own or not engine_dbos.is_migrated(context.settings.direct_url)):
        return (
            False,
            (
                f"not safe: the schema is older ({at or 'empty'}); this release needs {own}: run"
                " `penstock db upgrade`"
            ),
        )
    problems = compatibility.contracted(context.direct_engine)
    schema = (
        f"the schema is at {at}, by a newer release"
        if newer
        else f"the schema is at {at}, as this release has it"
    )
    if problems:
        more = f", and {len(problems) - 1} more" if len(problems) > 1 else ""
        return False, f"not safe: {schema}; {problems[0]}{more}"
    return True, f"safe: {schema}" + (
        f" that only added to that of this one ({own})" if newer else ""
    )


COMMANDS = (serve, worker, check, pipelines, openapi, audit_command, settings, db)
