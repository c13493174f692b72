"""The queue of durable runs: what waits, since when, and what each worker performs."""

from __future__ import annotations

from penstock.access.users import Role
from penstock.console.context import console_context, current_environment
from penstock.console.pages import page
from penstock.console.responses import render
from penstock.execution.run_queue import run_queue_of


@page("/e/<env>/queue", needs=Role.VIEWER)
def queue() -> str:
    """Show the queue of an environment, and its workers."""
    context, environment = console_context(), current_environment()
    found = run_queue_of(
        context.engine, context.host.catalog, context.run_operations.run_store, environment
    )
    return render("queue.html", env=environment, found=found)
