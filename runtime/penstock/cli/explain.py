"""`penstock explain`: why a call is accepted or rejected, and what would change that."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any

import click
import msgspec

from penstock.access.pipelines import meant_by
from penstock.access.snapshot import Snapshot
from penstock.cli.base import Context, env_option, format_option, pass_context, show, show_json
from penstock.cli.deployments import note_other_plugins
from penstock.cli.run_view import print_run
from penstock.errors import UnknownName, UsageError
from penstock.execution.explained_calls import ExplainedCall, explain_call
from penstock.execution.rejected_queries import find_rejected
from penstock.gate.attempts import Token
from penstock.gate.changes import Change
from penstock.gate.explanations import FIXES, Explanation
from penstock.host.described_call import DescribedCall
from penstock.host.explanation import (
    GateExplanation,
    explain_attempt,
    explain_gate,
    listeners_of,
)
from penstock.runs.ids import is_run_id


@click.command()
@click.argument("subject", metavar="PIPELINE|ID")
@env_option
@click.option("--consumer", help="Consumer that calls.")
@click.option("--key", "key_word", help="ID or last four characters of its key, or `unknown`.")
@click.option(
    "--token",
    type=click.Choice([token.value for token in Token]),
    help="Token that the call carries. Default: none, or a valid one with --scope.",
)
@click.option("--scope", "scopes", multiple=True, help="Scope of the token; repeatable.")
@click.option("--address", default="", help="Network address of the caller.")
@click.option("--internal", is_flag=True, help="The call comes on the internal listener.")
@format_option
@pass_context
def explain(  # noqa: PLR0913, PLR0917  one argument an option
    context: Context,
    subject: str,
    environment: str | None,
    consumer: str | None,
    key_word: str | None,
    token: str | None,
    scopes: tuple[str, ...],
    address: str,
    internal: bool,
    form: str,
) -> None:
    """Explain a gate, what it decides about a caller, or why a call was rejected or failed.

    A pipeline without a caller: each requirement and limit, with its source. With --consumer,
    --key, --token, --scope or --address: whether that call is accepted, and the smallest change
    that lets it pass. The ID of a reply (`run`): why that call was rejected, what the gate decides
    about it now, and the smallest change; or why the run failed. No call is made, and no credential
    is needed.
    """
    described = DescribedCall(consumer or "", key_word or "", token or "", scopes, address)
    if is_run_id(subject):
        if not described.is_empty or internal or environment:
            raise UsageError("an ID names one call; leave out all other options but --format")
        _explain_id(context, subject, form)
        return
    asked = (consumer,) if consumer else ()
    access = Snapshot(context.environment(environment), context.box, consumers=asked)
    access.read(context.engine)
    catalog = context.host.catalog
    identifiers = meant_by(subject, catalog.offered, ())
    if len(identifiers) > 1:
        raise UsageError(f"{subject} has several versions; name one: {', '.join(identifiers)}")
    note_other_plugins(context, access.environment.name)
    identifier, evaluator = identifiers[0], context.host.evaluator
    pipeline = catalog.loaded[identifier].pipeline
    if described.is_empty:
        listeners = [True] if internal else listeners_of(pipeline)
        gates = [
            explain_gate(catalog, evaluator, access, identifier, internal=side)
            for side in listeners
        ]
        _show_gates(gates, form)
        return
    attempt = described.attempt(
        context.engine, identifier, internal=internal or listeners_of(pipeline) == [True]
    )
    explanation = explain_attempt(catalog, evaluator, access, context.engine, attempt)
    if form == "json":
        show_json(explanation.document())
    else:
        _show_explanation(explanation)


def _explain_id(context: Context, identifier: str, form: str) -> None:
    """Explain a rejected call, or how a run ended."""
    try:
        view = context.run_operations.show(identifier)
    except UnknownName:
        call = find_rejected(context.engine, identifier)
        catalog, evaluator = context.host.catalog, context.host.evaluator
        explained = explain_call(catalog, evaluator, context.engine, context.box, call)
        if form == "json":
            show_json(explained.document())
        else:
            _show_explained(explained)
        return
    if form == "json":
        show_json(msgspec.to_builtins(view.document(), builtin_types=(datetime,)))
        return
    print_run(view)
    if view.problem in FIXES:
        click.echo(f"fix: {FIXES[view.problem]}")


def _show_explained(explained: ExplainedCall) -> None:
    call = explained.call
    click.echo(explained.sentence())
    if call.cause:
        click.echo(f"reason: {call.cause}")
    click.echo(f"then: {call.at:%Y-%m-%d %H:%M:%S}Z, {call.method or 'call'} from {call.address}")
    if explained.now is not None:
        click.echo(f"now: {explained.now.verdict()}")
    _show_changes(explained.changes)


def _show_changes(changes: Sequence[Change]) -> None:
    for number, change in enumerate(changes, 1):
        click.echo(f"{number}. {change.actor}: {change.text}")
        if change.command:
            click.echo(f"   {change.command}")


def _show_gates(gates: Sequence[GateExplanation], form: str) -> None:
    """Print the gate of each listener that a pipeline is for."""
    if form == "json":
        first, *others = (_gate_document(gate) for gate in gates)
        show_json(first | ({"internal": others[0]} if others else {}))
        return
    for gate in gates:
        listener = " on the internal listener" if gate.internal else ""
        click.echo(f"{gate.pipeline} in {gate.environment}{listener}")
        show(gate.facts, form, ("name", "value", "source"), empty="its declaration has a fault")
        if not gate.facts:
            for violation in gate.evaluation.violations:
                click.echo(f"{violation.reason}; {violation.fix}")


def _gate_document(gate: GateExplanation) -> dict[str, object]:
    return {
        "pipeline": gate.pipeline,
        "environment": gate.environment,
        "listener": "internal" if gate.internal else "external",
        "state": gate.evaluation.state.value,
        "facts": [_plain(fact) for fact in gate.facts],
    }


def _plain(fact: Any) -> dict[str, str]:  # noqa: ANN401  a fact of a gate
    return {name: getattr(fact, name) for name in ("group", "name", "value", "source")}


def _show_explanation(explanation: Explanation) -> None:
    decision = explanation.decision
    click.echo(explanation.verdict())
    if decision.reason:
        click.echo(f"reason: {decision.reason}")
    _show_changes(explanation.changes)
    if explanation.by_caller_alone:
        click.echo("no change by an operator lets this call pass")
    elif not explanation.complete:
        click.echo("more may be needed after these changes")


COMMANDS = (explain,)
