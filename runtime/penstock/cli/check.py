"""The deployment gate: `penstock check`."""

from __future__ import annotations

import click

from penstock.cli.base import (
    Context,
    env_option,
    format_option,
    pass_context,
    show_json,
)
from penstock.cli.isolated import apart
from penstock.cli.pipelines import evaluate
from penstock.contracts.pipeline import PluginProblem
from penstock.gate.compliance import State
from penstock.gate.exposure import described


@click.command()
@env_option
@format_option
@pass_context
def check(context: Context, environment: str | None, form: str) -> int:
    """Say whether everything that is loaded may be served; the deployment gate.

    Exit code 1 if anything is refused, with what to change.
    """
    return apart(lambda: context.host, lambda: _check(context, environment, form))


def _check(context: Context, environment: str | None, form: str) -> int:
    name = context.environment(environment)
    access, evaluated = evaluate(context, name)
    faults = [
        *context.host.catalog.faults({identifier: item for identifier, _, item in evaluated}),
        *_taken_commands(context),
    ]
    refused = [
        item for _, _, item in evaluated if item.violations and item.state is not State.DISABLED
    ]
    good = not (refused or faults or access.unreadable_rows)
    if form == "json":
        show_json(
            {
                "environment": name,
                "policy": access.environment.policy,
                "internal_policy": access.environment.internal_policy,
                "good": good,
                "pipelines": [
                    described(*row, context.host.catalog.loaded[row[0]].plugin) for row in evaluated
                ],
                "mistakes": [_problem_document(item) for item in faults],
                "notes": [_problem_document(item) for item in context.host.catalog.notes],
                "unreadable": list(access.unreadable_rows),
            }
        )
        return int(not good)
    for item in faults:
        click.echo(f"mistake: {item}")
    for item in context.host.catalog.notes:
        click.echo(f"note: {item}")
    for doubt in access.unreadable_rows:
        click.echo(
            f"unreadable: {doubt}; set it again with the command that made it, or correct the row"
        )
    said: set[tuple[str, str]] = set()
    for identifier, exposure, judgement in evaluated:
        where = f"{identifier} (internal)" if exposure == "internal" else identifier
        broken = identifier in context.host.catalog.broken  # which is said above
        told = [
            (judgement.state.value, f"{item.reason}; {item.fix}")
            for item in judgement.violations
            if not broken
        ]
        notes = (
            ["its handlers get the token itself (forward_token=True)"]
            if judgement.pipeline.trigger.forward_token
            else []
        )
        for kind, text in [
            *told,
            *(("warning", text) for text in judgement.warnings),
            *(("note", text) for text in notes),
        ]:
            if (identifier, text) not in said:
                said.add((identifier, text))
                click.echo(f"{kind}: {where}: {text}")
    served = sum(item.served for _, _, item in evaluated)
    click.echo(
        f"{name} ({access.environment.policy}): {served} of {len(evaluated)} pipelines served,"
        f" {len(refused)} in breach"
    )
    return int(not good)


def _problem_document(problem: PluginProblem) -> dict[str, str]:
    return {key: getattr(problem, key) for key in ("plugin", "file", "pipeline", "problem", "fix")}


def _taken_commands(context: Context) -> list[PluginProblem]:
    """Return the commands of plugins that have the name of one of ours, and so are never run."""
    root = click.get_current_context().find_root().command
    ours = root.commands if isinstance(root, click.Group) else {}
    plugins = context.host.catalog.plugins
    taken = [(plugin, command.name) for plugin, command in plugins.commands if command.name in ours]
    return [
        plugins.fault(plugin, f"the command {name!r} is one of Penstock's", "give it another name")
        for plugin, name in taken
    ]


COMMANDS = (check,)
