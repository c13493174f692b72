"""`penstock exposure`: what is open to anyone, or by key alone, over all environments."""

from __future__ import annotations

from collections.abc import Mapping

import click

from penstock.access.environments import list_environments
from penstock.cli.base import Context, format_option, pass_context, show, show_json
from penstock.gate.open_pipelines import ExposedPipeline, Reach, exposed_pipelines
from penstock.host.served import ServedEnvironment, served_in


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
    are not the same in all environments. It is what the processes of an environment report. Where
    none reports, it is what the plugins of this command would serve: (would be).
    """
    served = {row.name: _served(context, row.name) for row in list_environments(context.engine)}
    names = list(served)
    titles = {
        name: name if item.reported else f"{name} (would be)" for name, item in served.items()
    }
    listed = {
        name: [(each.pipeline, each.listener, each) for each in item.pipelines]
        for name, item in served.items()
    }
    rows = [
        item
        for item in exposed_pipelines(listed)
        if search.lower() in item.pipeline.lower()
        and (item.differs or not differs)
        and (everything or differs or item.reaches(Reach.ANYONE, Reach.KEY_ALONE))
    ][:limit]
    if form == "json":
        show_json([_document(item, served) for item in rows])
        return
    show(
        [
            {
                "pipeline": item.pipeline,
                "listener": item.listener,
                **{titles[name]: _reach(item, name) for name in names},
                "differs": item.differs,
            }
            for item in rows
        ],
        form,
        ("pipeline", "listener", *titles.values(), "differs"),
        empty="no pipeline is open to anyone, or by key alone",
    )


def _served(context: Context, environment: str) -> ServedEnvironment:
    access, evaluated = context.host.evaluator.evaluate_environment(
        context.engine, environment, context.box
    )
    return served_in(
        context.engine, context.host.catalog, access, evaluated.external, evaluated.internal
    )


def _reach(item: ExposedPipeline, environment: str) -> str:
    reach = item.reach.get(environment)
    return "not loaded" if reach is None else reach.value


def _document(item: ExposedPipeline, served: Mapping[str, ServedEnvironment]) -> dict[str, object]:
    return {
        "pipeline": item.pipeline,
        "listener": item.listener,
        "reach": {name: reach.value for name, reach in item.reach.items()},
        "requires": {name: sorted(names) for name, names in item.requires.items()},
        "reported": {name: environment.reported for name, environment in served.items()},
        "differs": item.differs,
    }


COMMANDS = (exposure,)
