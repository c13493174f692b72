"""The `penstock` command: puts the subcommands together and turns our errors into one line and an exit code."""

from __future__ import annotations

import sys

import click
import structlog

from penstock import logs
from penstock.cli import access, operate
from penstock.cli.base import Context, login_name
from penstock.errors import PenstockError
from penstock.settings import Settings


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--actor", default=None, metavar="NAME", help="Who makes the change, for the audit trail; default the login name.")
@click.version_option(package_name="penstock")
@click.pass_context
def penstock(context: click.Context, actor: str | None) -> None:
    """Serve pipelines, and steer who may call them.

    Exit codes: 0 good, 1 the answer is no, 2 usage, 3 can't start.
    """
    logs.configure(Settings(log_level="error"))
    structlog.contextvars.clear_contextvars()
    context.obj = Context(actor or login_name())


for command in (*operate.COMMANDS, *access.COMMANDS):
    penstock.add_command(command)


def main() -> None:
    """Run the command line."""
    try:
        code = penstock.main(standalone_mode=False)
    except click.exceptions.Abort:
        click.echo("penstock: stopped; nothing was changed", err=True)
        sys.exit(1)
    except click.ClickException as error:
        hint = f" (see `{error.ctx.command_path} --help`)" if isinstance(error, click.UsageError) and error.ctx else ""
        click.echo(f"penstock: {error.format_message()}{hint}", err=True)
        sys.exit(error.exit_code)
    except PenstockError as error:
        click.echo(f"penstock: {error}", err=True)
        sys.exit(error.exit_code)
    except BrokenPipeError:
        sys.stderr.close()
        sys.exit(1)
    sys.exit(code if isinstance(code, int) else 0)
