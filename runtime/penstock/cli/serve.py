"""Commands that start servers and workers."""

from __future__ import annotations

import functools
import os
import sys
from collections.abc import Callable
from typing import ParamSpec

import click

from penstock import logs
from penstock.cli.base import (
    Context,
    env_option,
    pass_context,
)
from penstock.errors import PenstockError
from penstock.server import durable_worker, supervisor

Options = ParamSpec("Options")


def _logged(command: Callable[Options, int]) -> Callable[Options, int]:
    """Print the error of a server or worker that can't start in the format of its log."""

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
@click.option("--bind", metavar="H:P", help="Address and port. Default: PENSTOCK_BIND.")
@click.option(
    "--internal-bind",
    metavar="H:P",
    help="Address and port of the internal listener. Default: PENSTOCK_INTERNAL_BIND.",
)
@click.option(
    "--workers",
    type=click.IntRange(1, 1024),
    help="Number of web processes. Default: PENSTOCK_WORKERS.",
)
@click.option(
    "--threads",
    type=click.IntRange(1, 4096),
    help="Calls that one web process answers at a time. Default: PENSTOCK_THREADS.",
)
@click.option(
    "--worker",
    type=click.IntRange(0, 64),
    help="Number of worker processes for durable runs. Default: PENSTOCK_WORKER.",
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
    """Serve pipelines, and perform durable runs."""
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
    settings = context.settings  # report a wrong setting before any process starts
    context.engine.dispose()  # raises an error if the database does not exist
    sys.stdout.flush()
    return supervisor.serve(settings)


@click.command()
@env_option
@click.option("--if-needed", is_flag=True, help="Exit at once if no pipeline has durable runs.")
@click.option(
    "--files",
    hidden=True,
    help="Descriptors: sources of plugins, progress of loading, announcement of the state.",
)
@click.option(
    "--respawned",
    is_flag=True,
    hidden=True,
    help="Ignore PENSTOCK_STRICT: an earlier worker was checked by it.",
)
@click.option(
    "--rehearse", is_flag=True, hidden=True, help="Check everything that a start needs, and exit."
)
@pass_context
@_logged
def worker(
    context: Context,
    environment: str | None,
    if_needed: bool,
    files: str | None,
    respawned: bool,
    rehearse: bool,
) -> int:
    """Perform durable runs, until it is stopped."""
    if environment is not None:
        os.environ["PENSTOCK_ENVIRONMENT"] = environment
    state_fd = durable_worker.use_files(files) if files else None
    context.engine.dispose()  # raises an error if the database does not exist
    if rehearse:
        return durable_worker.rehearse(context.settings, state_fd)
    return durable_worker.work(
        context.settings, if_needed=if_needed, ready_fd=state_fd, respawned=respawned
    )


COMMANDS = (serve, worker)
