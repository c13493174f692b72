"""`penstock exposure`: what is open to anyone, or by key alone, over all environments."""

from __future__ import annotations

import click

from penstock.access.environments import list_environments
from penstock.cli.base import Context, format_option, pass_context, show, show_json
from penstock.gate.open_pipelines import ExposedPipeline, Reach, exposed_pipelines


@click.command()
@click.option("--all", "everything", is_flag=True, help="List pipelines that need more, too.")
@click.option("--differs", is_flag=True, help="List only those that differ by environment.")
@click.option("--search", default="", help="Part of a pipeline's ID.")
@click.option("--limit", type=click.IntRange(1), help="Largest number of lines.")
@format_option
@pass_context
def exposure(
    context: Context,
    everything: bool,
    differs: bool,
    search: str,
    limit: int | None,
    form: str,
) -> None:
    """List what is open to anyone, or by an API key alone, over all environments.

    A column for each environment says who may call. `differs` marks pipelines whose requirements
    are not the same in all environments.
    """
    evaluator = context.host.evaluator
    names = [row.name for row in list_environments(context.engine)]
    evaluated = {
        name: evaluator.evaluate_environment(context.engine, name, context.box)[1] for name in names
    }
    rows = [
        item
        for item in exposed_pipelines(evaluated, context.host.catalog.broken)
        if search.lower() in item.pipeline.lower()
        and (item.differs or not differs)
        and (everything or differs or item.reaches(Reach.ANYONE, Reach.KEY_ALONE))
    ][:limit]
    if form == "json":
        show_json([_document(item) for item in rows])
        return
    show(
        [
            {
                "pipeline": item.pipeline,
                "listener": item.listener,
                **{name: item.reach[name].value for name in names},
                "differs": item.differs,
            }
            for item in rows
        ],
        form,
        ("pipeline", "listener", *names, "differs"),
        empty="no pipeline is open to anyone, or by key alone",
    )


def _document(item: ExposedPipeline) -> dict[str, object]:
    return {
        "pipeline": item.pipeline,
        "listener": item.listener,
        "reach": {name: reach.value for name, reach in item.reach.items()},
        "requires": {name: sorted(names) for name, names in item.requires.items()},
        "differs": item.differs,
    }


COMMANDS = (exposure,)
