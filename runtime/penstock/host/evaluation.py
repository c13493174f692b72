"""Evaluate the pipelines of a catalog against an access snapshot: served, blocked or disabled.

The rounds themselves are `gate/evaluation.py`. Here are the questions that a process, a command and
a page ask of them: what is served now, what another policy would change, and whether a variable's
new value would block everything.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from copy import copy
from dataclasses import replace
from types import MappingProxyType
from typing import Any

from penstock.access.encryption import SecretBox
from penstock.access.snapshot import Snapshot
from penstock.db.engine import Engine
from penstock.errors import UnknownName, UsageError
from penstock.gate.compliance import Evaluation, PipelineEvaluator
from penstock.gate.evaluation import VARIABLE_FIX, BoundedEvaluator, EvaluatedPipelines
from penstock.gate.policy_change import PolicyChange, change_of
from penstock.host.catalog import Catalog
from penstock.host.view import CurrentView


class CatalogEvaluator:
    """Evaluates all pipelines of a process. Several threads may do so at a time."""

    def __init__(self, catalog: Catalog, view: CurrentView) -> None:
        plugins = catalog.plugins
        self._catalog = catalog
        self._view = view
        self._pipelines = PipelineEvaluator(
            plugins.policies, plugins.authenticators, plugins.silent
        )
        self._bounded = BoundedEvaluator(plugins, self._pipelines, catalog.loaded)

    @property
    def options(self) -> tuple[str, ...]:
        """The policies that an environment can have: those that a loaded plugin enforces."""
        return self._pipelines.options

    @property
    def meanings(self) -> dict[str, str]:
        """The meaning of each policy, in a sentence."""
        return self._pipelines.meanings

    def evaluate_all(
        self,
        access: Snapshot,
        *,
        policy: str | None = None,
        live: Callable[[], object] | None = None,
    ) -> EvaluatedPipelines:
        """Return the evaluation of every pipeline on both listeners.

        `policy` takes the place of the environment's own. `live` is for a process that answers
        calls meanwhile: it is called to close all gates where the evaluation takes long.
        """
        return self._bounded.evaluate_all(access, policy=policy, live=live)

    def evaluate_one(
        self,
        access: Snapshot,
        identifier: str,
        *,
        internal: bool = False,
        toggles: Mapping[str, Any] = MappingProxyType({}),
    ) -> Evaluation:
        """Return the evaluation of one pipeline on a listener, by its id.

        `toggles` take the place of options of its trigger, such as `{"api_key": True}`.
        """
        evaluated = self.evaluate_alone(access, identifier, toggles)
        return evaluated.on(internal=internal)[identifier]

    def evaluate_alone(
        self,
        access: Snapshot,
        identifier: str,
        toggles: Mapping[str, Any] = MappingProxyType({}),
    ) -> EvaluatedPipelines:
        """Return the evaluation of one pipeline on both listeners; `toggles` as `evaluate_one`."""
        item = self._catalog.loaded[identifier]
        if toggles:
            pipeline = copy(item.pipeline)
            pipeline.trigger = replace(pipeline.trigger, **toggles)
            item = replace(item, pipeline=pipeline)
        return self._bounded.only({identifier: item}).evaluate_all(access)

    def close_all(self) -> EvaluatedPipelines:
        """Return the evaluation that accepts no call, for the time of a slow evaluation."""
        closed: dict[str, Evaluation] = self._bounded.close_all(
            "it is being evaluated, which takes longer than usual", "look at the log"
        )
        return EvaluatedPipelines(closed, closed, self._view.evaluated.responses)

    def evaluate_environment(
        self, engine: Engine, environment: str, box: SecretBox, *, whole: bool = False
    ) -> tuple[Snapshot, EvaluatedPipelines]:
        """Read an environment's access data, and evaluate every pipeline against it.

        Pipelines are evaluated without consumers. Their data and keys are read with `whole` alone,
        for one who asks whether all access data can be read.
        """
        access = Snapshot(environment, box, consumers=None if whole else ())
        access.read(engine)
        evaluated = self.evaluate_all(access)
        for fault in evaluated.faults:
            self._catalog.note_fault(fault)
        return access, evaluated

    def preview(self, access: Snapshot, policy: str, *, internal: bool = False) -> PolicyChange:
        """Return the pipelines that would stop and start being served under another policy.

        Raises UnknownName if no plugin enforces it.
        """
        options = self.options
        if policy not in options:
            fix = f"there are: {', '.join(options) or 'none loaded'}"
            raise UnknownName("policy", policy, options, fix=fix)
        facts = access.environment
        policies = facts.internal_policy if internal else facts.policy, policy
        now = self.evaluate_all(access).on(internal=internal)
        then = self.evaluate_all(access, policy=policy).on(internal=internal)
        return change_of(facts.name, policies, now, then, internal=internal)

    def check_variable(
        self, engine: Engine, environment: str, box: SecretBox, name: str, value: str
    ) -> None:
        """Raise UsageError if no header policy could work with a variable's new value.

        Such a value would block every pipeline of the environment.
        """
        current = self._view.access
        if current is not None and current.environment.name == environment:
            access = copy(current)
        else:
            access = Snapshot(environment, box, consumers=())
            access.read(engine)
        before = self._bounded.response_violations(access)
        access.variables = {**access.variables, name: value}
        for violation in self._bounded.response_violations(access):
            if violation not in before:
                fix = f"; {violation.fix}" if violation.fix != VARIABLE_FIX else ""
                raise UsageError(
                    f"{name} was not set, for it would block every pipeline of {environment}:"
                    f" {violation.reason}{fix}"
                )
