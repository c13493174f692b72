"""The queue of durable runs: what waits, since when, and what each worker performs."""

from __future__ import annotations

from penstock.access.users import Role
from penstock.console.context import ConsoleContext, console_context, current_environment
from penstock.console.menu import Count, menu_count
from penstock.console.pages import page
from penstock.console.responses import render
from penstock.execution.run_queue import count_overdue, run_queue_of


@menu_count("queue")
def _queue_count(context: ConsoleContext, environment: str) -> Count:
    """Return how many runs wait in queues whose oldest run has waited long."""
    environment_id = context.view(environment).access.environment.id
    return Count(
        count_overdue(context.engine, environment_id),
        "warn",
        "runs wait, the oldest for more than a minute",
    )


@page("/e/<env>/queue", needs=Role.VIEWER)
def queue() -> str:
    """Show the queue of an environment, and its workers."""
    context, environment = console_context(), current_environment()
    found = run_queue_of(
        context.engine, context.host.catalog, context.run_operations.run_store, environment
    )
    return render("queue.html", env=environment, found=found)
