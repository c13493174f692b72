"""The command that shows the queue of durable runs."""

from __future__ import annotations

import click

from penstock.cli.base import Context, env_option, pass_context
from penstock.cli.listings import Listing, listing_options, show_rows
from penstock.execution.run_queue import RunQueue, run_queue_of

QUEUE_COLUMNS = (
    "pipeline", "waiting", "oldest", "running", "concurrency", "backlog", "wait_p50",
)  # fmt: skip
WORKER_COLUMNS = ("worker", "host", "pid", "started", "run", "performs", "since")


@click.command()
@env_option
@click.option("--workers", is_flag=True, help="List workers and the run that each performs.")
@listing_options
@pass_context
def queue(context: Context, environment: str | None, workers: bool, listing: Listing) -> None:
    """List what waits for a worker and what runs, by pipeline.

    `oldest` is when the longest waiting run was received, `concurrency` the maximum of running runs
    (0: no limit), and `wait_p50` the median time in the queue over the last day, in seconds.
    """
    found = run_queue_of(
        context.engine,
        context.host.catalog,
        context.run_operations.run_store,
        context.environment(environment),
    )
    if workers:
        show_rows(
            _worker_rows(found),
            listing,
            WORKER_COLUMNS,
            lambda row: f"{row['worker']}:{row['run']}",
            empty="no worker is alive",
        )
        return
    show_rows(
        found.queues,
        listing,
        QUEUE_COLUMNS,
        lambda row: row.pipeline,
        empty="no pipeline has durable runs",
    )


def _worker_rows(found: RunQueue) -> list[dict[str, object]]:
    rows: list[dict[str, object]] = []
    for worker in found.workers:
        own: dict[str, object] = {
            "worker": worker.id,
            "host": worker.host,
            "pid": worker.pid,
            "started": worker.since,
        }
        rows += [
            {**own, "run": work.run, "performs": work.what, "since": work.since}
            for work in worker.work
        ] or [{**own, "run": None, "performs": None, "since": None}]
    return rows


COMMANDS = (queue,)
