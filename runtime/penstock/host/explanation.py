"""Explain gates and calls in any environment, by the plugins that this process has loaded."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from penstock.access.presented_keys import FoundKey, keys_of
from penstock.access.snapshot import Snapshot
from penstock.contracts.pipeline import Pipeline
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
    """The gate of a pipeline on a listener of an environment, each fact with its source."""

    pipeline: str
    environment: str
    internal: bool
    evaluation: Evaluation
    facts: tuple[GateFact, ...]


def explain_gate(
    catalog: Catalog,
    evaluator: CatalogEvaluator,
    access: Snapshot,
    identifier: str,
    *,
    internal: bool,
) -> GateExplanation:
    """Return the gate of a pipeline, by its id, on a listener. Raises UnknownName."""
    item = catalog.loaded.get(identifier)
    if item is None:
        raise UnknownName("pipeline", identifier, catalog.loaded)
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
    return GateExplanation(identifier, access.environment.name, internal, evaluation, facts)


def loaded_pipeline(catalog: Catalog, identifier: str) -> Pipeline:
    """Return a pipeline that this process has loaded, by its id. Raises UnknownName."""
    item = catalog.loaded.get(identifier)
    if item is None:
        raise UnknownName("pipeline", identifier, catalog.loaded)
    return item.pipeline


def listeners_of(pipeline: Pipeline) -> list[bool]:
    """Return the listeners that a pipeline is for, each by whether it is the internal one.

    That of a pipeline without HTTP is the external one: it does not exist there either.
    """
    internal = [True] if pipeline.trigger.internal else []
    return [*([False] if pipeline.trigger.external or not internal else []), *internal]


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
    loaded_pipeline(catalog, attempt.pipeline)
    spare = None
    if attempt.consumer is not None:
        keys = keys_of(engine, attempt.consumer, access.environment.name)
        usable = (key for key in keys if key[0].state in {"usable", "consumer disabled"})
        spare = next((presented(key) for key in usable), None)

    def evaluate(supposed: Snapshot, toggles: frozenset[str]) -> Evaluation:
        return evaluator.evaluate_one(
            supposed,
            attempt.pipeline,
            internal=attempt.internal,
            toggles=dict.fromkeys(toggles, True),
        )

    issuers = catalog.plugins.issuers
    return Examination(attempt, access, evaluate, issuers, spare)
