"""The page Explain: a gate, what it decides about a described call, and what would change that."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import islice

from flask import Response, request, url_for

from penstock.access.pipelines import meant_by
from penstock.access.presented_keys import keys_of
from penstock.access.snapshot import Snapshot
from penstock.access.users import Role
from penstock.console.context import console_context, current_environment
from penstock.console.formatting import sentence
from penstock.console.forms import ChoiceField, FilterForm, LineField, WordsField
from penstock.console.pages import page
from penstock.console.responses import show_form
from penstock.contracts.pipeline import Pipeline
from penstock.errors import UnknownName, UsageError
from penstock.gate.attempts import Token
from penstock.gate.changes import Change, ChangeKind
from penstock.gate.explanations import Explanation
from penstock.host.described_call import UNKNOWN, DescribedCall
from penstock.host.explanation import (
    GateExplanation,
    explain_attempt,
    explain_gate,
    listeners_of,
    loaded_pipeline,
)

MAX_OFFERED_KEYS = 50  # of a consumer; the newest
TOKENS = (
    ("", "none, or valid with scopes"),
    (Token.NONE, "none"),
    (Token.VALID, "valid"),
    (Token.INVALID, "not valid"),
    (Token.OTHER, "of another consumer"),
)
KEYS = (("", "none"), (UNKNOWN, "a key that is not stored"))
LISTENERS = (("", "external"), ("internal", "internal"))
# The page on which an operator makes a change, by its kind: endpoint and text of the link.
PAGES: Mapping[ChangeKind, tuple[str, str]] = {
    ChangeKind.ENABLE_PIPELINE: ("pipelines_one", "Open the pipeline"),
    ChangeKind.DESIGNATE: ("tokens", "Open Tokens"),
    ChangeKind.SET_VARIABLE: ("settings", "Open Variables"),
    ChangeKind.SET_SECRET: ("settings", "Open Variables"),
    ChangeKind.ENABLE_CONSUMER: ("consumers_one", "Open the consumer"),
    ChangeKind.GRANT: ("consumers_pipelines", "Open its access"),
    ChangeKind.ENABLE_KEY: ("consumers_one", "Open its keys"),
    ChangeKind.CREATE_KEY: ("consumers_one", "Open its keys"),
    ChangeKind.ALLOW_ADDRESS: ("limits", "Open Limits"),
    ChangeKind.REMOVE_NETWORK: ("limits", "Open Limits"),
}


class ExplainForm(FilterForm):
    """Describes a call. A key is chosen from a list, so that none is typed into an address."""

    pipeline = LineField("Pipeline", suggestions="pipelines")
    consumer = LineField("Consumer")
    key = ChoiceField("Key", KEYS, default="", description="Keys of the consumer, once it is sent.")
    token = ChoiceField("Token", TOKENS, default="")
    scope = WordsField("Scopes of the token")
    address = LineField("Address of the caller")
    listener = ChoiceField("Listener", LISTENERS, default="")


def page_of_change(change: Change, pipeline: str, consumer: str | None) -> tuple[str, str] | None:
    """Return the address of the page where a change is made, and the text of its link."""
    if change.kind not in PAGES:
        return None
    endpoint, text = PAGES[change.kind]
    if endpoint.startswith("consumers"):
        return (url_for(f"console.{endpoint}", name=consumer), text) if consumer else None
    if endpoint.startswith("pipelines"):
        major, _, name = pipeline.partition("/")
        return url_for(f"console.{endpoint}", major=major, name=name), text
    return url_for(f"console.{endpoint}"), text


def _described(form: ExplainForm) -> DescribedCall:
    """Return the call that the form describes; faults go to their fields."""
    described = DescribedCall(
        form.consumer.data or "",
        form.key.data or "",
        form.token.data or "",
        tuple(form.scope.data or ()),
        form.address.data or "",
    )
    for field, problem in described.problems():
        form.add_fault(field, sentence(UsageError(problem)))
    return described


def _offer_keys(form: ExplainForm, environment: str) -> None:
    """Offer the newest keys of the consumer by their last characters. Raises UnknownName."""
    if form.consumer.data:
        stored = keys_of(console_context().engine, form.consumer.data, environment)
        newest = islice(stored, MAX_OFFERED_KEYS)
        form.key.offer([*KEYS, *((key.id, f"{key.shown_as} ({key.state})") for key, _ in newest)])


def _pipeline(form: ExplainForm) -> Pipeline | None:
    """Return the pipeline of the form, None where there is none; faults go to the field."""
    if not form.pipeline.data:
        return None
    host = console_context().host
    with form.faults_at("pipeline"):
        found = meant_by(form.pipeline.data, host.catalog.offered, ())
        if len(found) > 1:
            names = ", ".join(found)
            raise UsageError(f"there are several versions; write one of {names}")
        return loaded_pipeline(host.catalog, found[0])
    return None


@page("/e/<env>/explain", needs=Role.VIEWER)
def explain() -> Response:
    """Show a gate, and what it decides about the call that the query describes."""
    context, environment, form = console_context(), current_environment(), ExplainForm()
    unknown: UnknownName | None = None
    try:
        _offer_keys(form, environment)
    except UnknownName as error:
        unknown = error
    form.is_valid()
    if unknown is not None:
        form.add_fault("consumer", sentence(unknown))
    pipeline, described = _pipeline(form), _described(form)
    gates: Sequence[GateExplanation] = ()
    explanation: Explanation | None = None
    host, engine = context.host, context.engine
    if pipeline is not None and not form.has_faults:
        names = [described.consumer] if described.consumer else []
        access = Snapshot(environment, context.box, consumers=names)
        access.read(engine)
        sides = [True] if form.listener.data else listeners_of(pipeline)
        gates = [
            explain_gate(host.catalog, host.evaluator, access, pipeline.id, internal=side)
            for side in (sides if described.is_empty else sides[:1])
        ]
        if not described.is_empty:
            with form.faults_at("key", consumer="consumer"):
                attempt = described.attempt(engine, pipeline.id, internal=sides[0])
                explanation = explain_attempt(host.catalog, host.evaluator, access, engine, attempt)
    changes = explanation.changes if explanation is not None else ()
    return show_form(
        "explain.html",
        form,
        env=environment,
        pipeline=pipeline,
        gates=gates,
        explained=explanation,
        changes=[
            (change, page_of_change(change, pipeline.id, described.consumer))
            for change in changes
            if pipeline is not None
        ],
        asked=bool(request.args),
        pipelines=sorted(host.catalog.loaded),
    )
