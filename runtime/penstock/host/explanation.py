"""Explain gates and calls in any environment, by the plugins that this process has loaded."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any

from penstock.access.presented_keys import FoundKey, keys_of
from penstock.access.snapshot import Snapshot
from penstock.db.engine import Engine
from penstock.errors import UnknownName
from penstock.gate.attempts import Attempt, PresentedKey
from penstock.gate.compliance import Evaluation
from penstock.gate.decisions import Examination
from penstock.gate.explanations import Explanation, explain
from penstock.gate.gate_facts import GateFact, GateSources, gate_facts
from penstock.host.catalog import Catalog
from penstock.host.evaluation import CatalogEvaluator

NO_TOGGLES: Mapping[str, Any] = MappingProxyType(
    {"api_key": False, "jwt": False, "basic": False, "mtls": False, "signature": None}
)


@dataclass(frozen=True, slots=True)
class GateExplanation:
    """The gate of a pipeline in an environment, each fact with its source."""

    pipeline: str
    environment: str
    evaluation: Evaluation
    facts: tuple[GateFact, ...]


def explain_gate(
    catalog: Catalog,
    evaluator: CatalogEvaluator,
    access: Snapshot,
    identifier: str,
    *,
    internal: bool | None = None,
) -> GateExplanation:
    """Return the gate of a pipeline, by its id. Raises UnknownName.

    `internal` chooses the listener; by default it is the external one, where the pipeline has it.
    """
    item = catalog.loaded.get(identifier)
    if item is None:
        raise UnknownName("pipeline", identifier, catalog.loaded)
    if internal is None:
        internal = not item.pipeline.trigger.external and item.pipeline.trigger.internal
    evaluated = evaluator.evaluate_alone(access, identifier)
    evaluation = evaluated.on(internal=internal)[identifier]
    bare = evaluator.evaluate_one(access, identifier, internal=internal, toggles=NO_TOGGLES)
    sources = GateSources(
        bare.requires,
        tuple(catalog.plugins.authenticators),
        catalog.plugins.files.get(item.plugin, ""),
        evaluated.responses,
        internal=internal,
    )
    facts = () if item.broken else gate_facts(evaluation, access, sources)
    return GateExplanation(identifier, access.environment.name, evaluation, facts)


def presented(found: FoundKey) -> PresentedKey:
    """Return a stored key as one that a call presents."""
    key, digest = found
    return PresentedKey(key.id, key.consumer, key.environment, key.shown_as, key.state, digest)


def explain_attempt(
    catalog: Catalog,
    evaluator: CatalogEvaluator,
    access: Snapshot,
    engine: Engine,
    attempt: Attempt,
) -> Explanation:
    """Return what becomes of a call now, and the smallest change that lets it pass.

    Raises UnknownName for a pipeline or a consumer that does not exist.
    """
    return explain(examination_of(catalog, evaluator, access, engine, attempt))


def examination_of(
    catalog: Catalog,
    evaluator: CatalogEvaluator,
    access: Snapshot,
    engine: Engine,
    attempt: Attempt,
) -> Examination:
    """Return a call with what decides about it. Raises UnknownName."""
    item = catalog.loaded.get(attempt.pipeline)
    if item is None:
        raise UnknownName("pipeline", attempt.pipeline, catalog.loaded)
    internal = not item.pipeline.trigger.external and item.pipeline.trigger.internal
    spare = None
    if attempt.consumer is not None:
        keys = keys_of(engine, attempt.consumer, access.environment.name)
        spare = next((presented(key) for key in keys if key[0].state == "usable"), None)

    def evaluate(supposed: Snapshot, toggles: frozenset[str]) -> Evaluation:
        return evaluator.evaluate_one(
            supposed, attempt.pipeline, internal=internal, toggles=dict.fromkeys(toggles, True)
        )

    issuers = catalog.plugins.issuers
    return Examination(replace(attempt, internal=internal), access, evaluate, issuers, spare)
