"""Commands that manage the database schema."""

from __future__ import annotations

import click

from penstock.access import history
from penstock.access.pipelines import convert_names, has_unconverted_names
from penstock.cli.base import (
    Context,
    pass_context,
)
from penstock.db import compatibility, migrate
from penstock.db.engine import same_database, through_pooler
from penstock.errors import BadSetting, CannotStart


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


COMMANDS = (db,)
