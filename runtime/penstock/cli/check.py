"""The deployment gate: `penstock check`."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import click

from penstock.access.snapshot import Snapshot
from penstock.cli.base import (
    Context,
    env_option,
    format_option,
    pass_context,
    show_json,
)
from penstock.cli.isolated import run_isolated
from penstock.cli.pipelines import evaluate
from penstock.contracts.pipeline import PluginProblem
from penstock.gate.compliance import Evaluation, State
from penstock.gate.exposure import Listed, exposure_document


@click.command()
@env_option
@format_option
@pass_context
def check(context: Context, environment: str | None, form: str) -> int:
    """Check that every pipeline and plugin can be served.

    Run it before each deployment. Exit code 1 if a pipeline is blocked or a plugin is broken. Each
    problem is printed with its fix.
    """
    return run_isolated(lambda: context.host, lambda: _check(context, environment, form))


@dataclass(frozen=True)
class _Result:
    """The result of a check of one environment."""

    environment: str
    access: Snapshot
    evaluated: list[Listed]
    problems: list[PluginProblem]
    violations: int

    @property
    def good(self) -> bool:
        return not (self.violations or self.problems or self.access.unreadable_rows)


def _check(context: Context, environment: str | None, form: str) -> int:
    name = context.environment(environment)
    access, evaluated = evaluate(context, name, whole=True)
    result = _Result(
        name,
        access,
        evaluated,
        [
            *context.host.catalog.faults({identifier: item for identifier, _, item in evaluated}),
            *_taken_commands(context),
        ],
        sum(bool(item.violations) and item.state is not State.DISABLED for _, _, item in evaluated),
    )
    if form == "json":
        _show_json(context, result)
    else:
        _show_text(context, result)
    return int(not result.good)


def _show_json(context: Context, result: _Result) -> None:
    catalog, facts = context.host.catalog, result.access.environment
    show_json(
        {
            "environment": result.environment,
            "policy": facts.policy,
            "internal_policy": facts.internal_policy,
            "good": result.good,
            "pipelines": [
                exposure_document(*row, catalog.loaded[row[0]].plugin) for row in result.evaluated
            ],
            "problems": [_problem_document(item) for item in result.problems],
            "notes": [_problem_document(item) for item in catalog.notes],
            "unreadable": list(result.access.unreadable_rows),
        }
    )


def _show_text(context: Context, result: _Result) -> None:
    for item in result.problems:
        click.echo(f"plugin error: {item}")
    for item in context.host.catalog.notes:
        click.echo(f"note: {item}")
    for doubt in result.access.unreadable_rows:
        click.echo(
            f"unreadable: {doubt}; set it again with the command that created it, or correct the"
            " row"
        )
    printed: set[tuple[str, str]] = set()
    for identifier, exposure, evaluation in result.evaluated:
        where = f"{identifier} (internal)" if exposure == "internal" else identifier
        broken = identifier in context.host.catalog.broken  # which is printed above
        for kind, text in _lines(evaluation, broken=broken):
            if (identifier, text) not in printed:
                printed.add((identifier, text))
                click.echo(f"{kind}: {where}: {text}")
    served = sum(item.served for _, _, item in result.evaluated)
    for place in _empty_places(context, result):
        click.echo(f"note: {place}")
    click.echo(
        f"{result.environment} ({result.access.environment.policy}): {served} of"
        f" {len(result.evaluated)} pipelines served, {result.violations} with violations"
    )
    if not result.good:
        click.echo("help: `penstock docs fix-blocked-pipelines`")


def _lines(evaluation: Evaluation, *, broken: bool) -> Iterator[tuple[str, str]]:
    """Yield the lines of a pipeline: kind and text."""
    if evaluation.state is State.DISABLED:
        yield "disabled", "an operator disabled it; `penstock pipeline enable` serves it again"
    if not broken:
        for item in evaluation.violations:
            yield evaluation.state.value, f"{item.reason}; {item.fix}"
    for text in evaluation.warnings:
        yield "warning", text
    if evaluation.pipeline.trigger.forward_token:
        yield "note", "its handlers receive the token (forward_token=True)"


def _empty_places(context: Context, result: _Result) -> Iterator[str]:
    """Yield where pipelines were looked for, if there is none."""
    if result.evaluated:
        return
    folders = ", ".join(map(str, context.settings.plugin_path))
    yield (
        f"no plugin offers a pipeline; {folders or 'no plugin folder'} and the installed plugins"
        " were searched. Fix: put a plugin there, or set PENSTOCK_PLUGIN_PATH"
    )


def _problem_document(problem: PluginProblem) -> dict[str, str]:
    return {key: getattr(problem, key) for key in ("plugin", "file", "pipeline", "problem", "fix")}


def _taken_commands(context: Context) -> list[PluginProblem]:
    """Return the problems of plugins whose commands have the name of one of Penstock's."""
    root = click.get_current_context().find_root().command
    ours = root.commands if isinstance(root, click.Group) else {}
    plugins = context.host.catalog.plugins
    taken = [(plugin, command.name) for plugin, command in plugins.commands if command.name in ours]
    return [
        plugins.fault(plugin, f"the command {name!r} is one of Penstock's", "give it another name")
        for plugin, name in taken
    ]


COMMANDS = (check,)
