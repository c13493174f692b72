"""The `penstock` command: its subcommands, and errors as one line with an exit code."""

from __future__ import annotations

import os
import sys

import click
import structlog

from penstock import logs
from penstock.cli import (
    alerts,
    audit,
    callbacks,
    changes,
    check,
    completion,
    consumers,
    credentials,
    database,
    deployments,
    docs,
    environments,
    explain,
    exposure,
    limits,
    pipelines,
    queue,
    rejected,
    runs,
    schedules,
    search,
    secret_keys,
    sensitive_fields,
    serve,
    settings,
    tokens,
    usage,
    users,
    variables,
)
from penstock.cli.base import Context, login_name
from penstock.contracts.extensions import Command
from penstock.contracts.masks import masked
from penstock.errors import CannotStart, PenstockError, UnknownName
from penstock.plugins.guard import describe_exception
from penstock.settings import Settings


class Commands(click.Group):
    """The subcommands of Penstock and of plugins."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the names of all subcommands."""
        return sorted({*super().list_commands(ctx), *self._added(ctx)})

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Return a subcommand. Plugins are loaded only if Penstock has none of that name."""
        command = super().get_command(ctx, cmd_name)
        return command or self._added(ctx).get(cmd_name)

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Return the subcommand. Raises UnknownName with the nearest name."""
        if args and self.get_command(ctx, args[0]) is None:
            raise UnknownName("command", args[0], self.list_commands(ctx))
        return super().resolve_command(ctx, args)

    @staticmethod
    def _added(ctx: click.Context) -> dict[str, click.Command]:
        context = ctx.find_object(Context) or Context(login_name())
        try:
            with completion.silent(ctx):
                return {
                    command.name: _adapted(command)
                    for _, command in context.host.catalog.plugins.commands
                }
        except PenstockError:
            # Help and unknown names need no settings. A command that needs them reports a bad one.
            return {}


def _adapted(command: Command) -> click.Command:
    def run(arguments: tuple[str, ...]) -> int:
        try:
            return command.run(arguments)
        except SystemExit as error:  # many programs return their exit code in this way
            return error.code if isinstance(error.code, int) else int(error.code is not None)

    arguments = click.Argument(["arguments"], nargs=-1, type=click.UNPROCESSED)
    settings = {"ignore_unknown_options": True, "allow_interspersed_args": False}
    return click.Command(
        command.name,
        params=[arguments],
        callback=run,
        help=command.help,
        context_settings=settings,
        add_help_option=False,
    )  # the plugin prints the help of its command


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.option(
    "--actor",
    default=None,
    metavar="NAME",
    help="Actor in the audit log. Default: the login name.",
)
@click.version_option(package_name="penstock")
@click.pass_context
def penstock(context: click.Context, actor: str | None) -> None:
    """Serve pipelines, and manage who may call them.

    Exit codes: 0 success, 1 failure or a negative answer, 2 usage error, 3 can't start.
    """
    logs.configure(Settings(log_level="error"))
    structlog.contextvars.clear_contextvars()
    context.obj = Context(actor or login_name())


# Commands that manage access and runs through the database; the test kit runs them too.
MANAGEMENT = (
    *environments.COMMANDS,
    *pipelines.COMMANDS,
    *explain.COMMANDS,
    *exposure.COMMANDS,
    *consumers.COMMANDS,
    *credentials.COMMANDS,
    *limits.COMMANDS,
    *tokens.COMMANDS,
    *variables.COMMANDS,
    *runs.COMMANDS,
    *rejected.COMMANDS,
    *usage.COMMANDS,
    *search.COMMANDS,
    *schedules.COMMANDS,
    *queue.COMMANDS,
    *sensitive_fields.COMMANDS,
    *callbacks.COMMANDS,
    *users.COMMANDS,
    *changes.COMMANDS,
    *deployments.COMMANDS,
    *alerts.COMMANDS,
)
DEPLOYMENT = (
    *serve.COMMANDS,
    *check.COMMANDS,
    *database.COMMANDS,
    *settings.COMMANDS,
    *docs.COMMANDS,
    *secret_keys.COMMANDS,
    *audit.COMMANDS,
    *completion.COMMANDS,
)

for command in (*DEPLOYMENT, *MANAGEMENT):
    completion.complete_names(command)
    penstock.add_command(command)


def main() -> None:
    """Run the command line, or complete a part of one for a shell."""
    if completion.VARIABLE in os.environ:
        logs.configure(Settings(log_level="error"))
        penstock.main(prog_name=completion.PROGRAM, complete_var=completion.VARIABLE)
    try:
        code = penstock.main(standalone_mode=False)
    except click.exceptions.Abort:
        click.echo("penstock: stopped; nothing was changed", err=True)
        sys.exit(1)
    except click.ClickException as error:
        hint = (
            f" (see `{error.ctx.command_path} --help`)"
            if isinstance(error, click.UsageError) and error.ctx
            else ""
        )
        text = " ".join(error.format_message().split())  # click lists choices on lines of their own
        click.echo(f"penstock: {masked(text)}{hint}", err=True)
        sys.exit(error.exit_code)
    except PenstockError as error:
        click.echo(f"penstock: {masked(str(error))}", err=True)  # a key in place of its id, say
        sys.exit(error.exit_code)
    except BrokenPipeError:
        sys.stderr.close()
        sys.exit(1)
    except BaseException as error:  # noqa: BLE001  SystemExit of plugin code too: its exit code has no meaning here
        click.echo(
            f"penstock: stopped by {describe_exception(error)}; nothing after that was done",
            err=True,
        )
        sys.exit(CannotStart.exit_code)
    sys.exit(code if isinstance(code, int) else 0)
