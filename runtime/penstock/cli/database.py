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
    """Upgrade or check the schema, or report a restore."""


@db.command()
@pass_context
def upgrade(context: Context) -> int:
    """Upgrade the database schema to this release."""
    engine = context.direct_engine  # the only command that creates a database file
    click.echo(f"database: {context.database}")
    direct = context.settings.database_direct_url
    if through_pooler(engine):
        which = "PENSTOCK_DATABASE_DIRECT_URL" if direct else "PENSTOCK_DATABASE_URL"
        raise BadSetting(
            f"{which} is the URL of a connection pooler; set PENSTOCK_DATABASE_DIRECT_URL to the"
            " URL of the server for migrations"
        )
    if direct and not same_database(engine, context.engine):
        raise BadSetting(
            "PENSTOCK_DATABASE_DIRECT_URL is another database than PENSTOCK_DATABASE_URL"
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
                        f"{environment}: access data of {name} applies to"
                        f" {', '.join(identifiers)} now"
                    )
    click.echo(
        f"already at {after}"
        if before == after
        else f"upgraded from {before or 'an empty database'} to {after}"
    )
    return 0


@db.command()
@pass_context
def restored(context: Context) -> None:
    """Report that the database was restored from a backup.

    Every process then reads the database again.
    """
    done = history.declare_restored(context.engine, context.actor)
    click.echo(
        f"revision {done.revision} begins a new history: every process reads all access data again"
    )
    for environment, number in done.unfinished.items():
        click.echo(
            f"{environment}: {number} runs were unfinished in the backup; workers perform them,"
            " some for the second time"
        )
    click.echo(
        "keys and tokens that were revoked after the backup are valid again: find them in the log"
        " of that time, and revoke them again",
        err=True,
    )


@db.command()
@pass_context
def current(context: Context) -> int:
    """Print the revision of the database schema. Exit code 1 if it is not the newest."""
    context.engine.dispose()  # raises an error if the database does not exist
    at, newest = migrate.current(context.direct_engine), migrate.head()
    if at is not None and not migrate.knows(at):
        click.echo(f"{at}, of a newer release; this release ({newest}) works with that schema")
        return 0
    click.echo(
        f"{at or 'empty'}"
        + ("" if at == newest else f"; this release needs {newest}: run `penstock db upgrade`")
    )
    return int(at != newest)


@db.command("check")
@pass_context
def check_schema(context: Context) -> int:
    """Check whether this release works with the schema.

    Exit code 1 if not. Before a rollback, run this command of the older release.
    """
    safe, text = _verdict(context)
    click.echo(text)
    return int(not safe)


def _verdict(context: Context) -> tuple[bool, str]:
    """Return whether this release works with the schema of the database, and why."""
    from penstock.durable import engine_dbos  # noqa: PLC0415  no other command needs to load it

    context.engine.dispose()  # raises an error if the database does not exist
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
        f"the schema is at {at}, of a newer release"
        if newer
        else f"the schema is at {at}, the newest of this release"
    )
    if problems:
        more = f", and {len(problems) - 1} more" if len(problems) > 1 else ""
        return False, f"not safe: {schema}; {problems[0]}{more}"
    return True, f"safe: {schema}" + (
        f" that only adds to the schema of this release ({own})" if newer else ""
    )


COMMANDS = (db,)
