"""Evaluate each pipeline against its environment's policies, and compile its gate.

**Why here.** The environment's policy is enforced twice: when pipelines are evaluated, and at each
call by the gate that the evaluation returns. A pipeline that does not comply has `CLOSED` for a
gate, so a dispatcher that forgets to look at the state still answers 503.

**Fail closed.** A pipeline is served only if every loaded policy was asked and none objects. No
policy that knows the environment's policy name, a policy without an answer, an exception, a value
of another type, or an authenticator that is not loaded: each of them blocks it. A disabled pipeline
is evaluated all the same, so that operators see why enabling it would not help.

**Grace.** A pipeline that stops complying may be served for a while as before, with the
requirements of the old policy. Grace never covers faults: it needs policies that all answered and
needs that are all met. The gate itself ends at the end of the grace, whether or not a new
evaluation has run by then.

**Threads.** An evaluator has no state of its own, so several threads may use it at once: the
follower, a page, a command. Policies are plugin code, called in a thread that `gate/evaluation.py`
bounds. An `Evaluation` is frozen; a new one replaces it, and calls under way keep theirs.

**Rejected.** Asking policies at each call: slow plugin code would be on the hot path, and two calls
of one moment could be judged differently. Caching by pipeline: a policy may read anything of the
environment, so every change evaluates all pipelines.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from types import MappingProxyType

from penstock.access.snapshot import Snapshot
from penstock.contracts.pipeline import Pipeline
from penstock.contracts.policies import Candidate, Verdict, Violation
from penstock.contracts.registered import RegisteredAuthenticator, RegisteredPolicy
from penstock.gate.credentials import GateCompiler
from penstock.gate.gate import CLOSED, Gate
from penstock.gate.needs import check_needs
from penstock.gate.verdicts import FIX, EvaluationRound, combined_verdict

RETRY_FAULTY_S = 5.0  # after which a pipeline is evaluated again that a fault has blocked


class State(StrEnum):
    """The state of a pipeline in an environment, on one of the listeners."""

    SERVED = "served"
    NON_CONFORMANT = "non-conformant"  # served in a grace period
    BLOCKED = "blocked"  # does not comply, or is broken
    DISABLED = "disabled"
    INTERNAL = "internal"  # not for this listener


SERVED_STATES = frozenset({State.SERVED, State.NON_CONFORMANT})


@dataclass(frozen=True, slots=True)
class Evaluation:
    """A pipeline as an environment sees it: its state, the reasons, and the gate of its calls.

    `requires` are the credentials that calls must present. `until` is the end of a grace period,
    `reevaluate_at` when time alone may change the result, both in seconds since the epoch.
    """

    pipeline: Pipeline
    state: State
    gate: Gate
    requires: frozenset[str] = frozenset()
    violations: tuple[Violation, ...] = ()
    warnings: tuple[str, ...] = ()
    until: float | None = None
    reevaluate_at: float | None = None

    @property
    def served(self) -> bool:
        """Whether calls are accepted, be it in a grace period."""
        return self.state in SERVED_STATES

    @property
    def complies(self) -> bool:
        """Whether all policies agree to the pipeline, also if an operator has disabled it."""
        return not self.violations


def is_exposed(pipeline: Pipeline, *, internal: bool) -> bool:
    """Return whether a pipeline is for a listener; on the other one its path does not exist."""
    return pipeline.trigger.internal if internal else pipeline.trigger.external


def blocked_by_fault(pipeline: Pipeline, violations: Sequence[Violation]) -> Evaluation:
    """Return the evaluation of a pipeline that a fault blocks; it is evaluated again soon."""
    return Evaluation(
        pipeline,
        State.BLOCKED,
        CLOSED,
        violations=tuple(violations),
        reevaluate_at=time.time() + RETRY_FAULTY_S,
    )


@dataclass(frozen=True, slots=True)
class Question:
    """What is asked about a pipeline besides the access data.

    `policy` takes the place of the environment's own. `broken` are faults of the declaration: they
    block the pipeline in any case. `internal` is the listener: the internal one has a
    policy of its own and no grace. `environment` are violations of the environment as a whole.
    """

    policy: str | None = None
    broken: Sequence[Violation] = ()
    internal: bool = False
    environment: Sequence[Violation] = ()


@dataclass(slots=True)
class _Findings:
    """What policies and needs say about one pipeline, before its state is decided."""

    all_answered: bool  # a fault of a policy earns no grace
    requires: frozenset[str]
    violations: tuple[Violation, ...]
    unmet: tuple[Violation, ...]
    warnings: tuple[str, ...]
    recheck_at: float | None


class PipelineEvaluator:
    """Applies all loaded policies and authenticators to a pipeline.

    `silent` are plugins whose policies can't be asked, with the reason. Every policy must agree, so
    each of them blocks all pipelines.
    """

    def __init__(
        self,
        policies: Sequence[RegisteredPolicy],
        authenticators: Sequence[RegisteredAuthenticator],
        silent: Mapping[str, str] = MappingProxyType({}),
    ) -> None:
        self._policies = tuple(policies)
        self._gates = GateCompiler(authenticators)
        self._silent = tuple(
            Violation(f"the access policies of plugin {plugin} can't be asked: {reason}", FIX)
            for plugin, reason in silent.items()
        )

    @property
    def options(self) -> tuple[str, ...]:
        """The environment policies that a loaded plugin enforces."""
        return tuple(
            dict.fromkeys(option for policy in self._policies for option in policy.options)
        )

    @property
    def meanings(self) -> dict[str, str]:
        """The meaning of each of them, in a sentence; empty where its plugin gives none."""
        meanings = {
            option: meaning
            for policy in self._policies
            for option, meaning in policy.meanings.items()
        }
        return {option: meanings.get(option, "") for option in self.options}

    def evaluate(
        self,
        pipeline: Pipeline,
        access: Snapshot,
        run: EvaluationRound,
        question: Question = Question(),
    ) -> Evaluation:
        """Return the state of a pipeline on one listener, and its gate."""
        if not is_exposed(pipeline, internal=question.internal) and not question.broken:
            return self._not_exposed(pipeline, access, internal=question.internal)
        findings = self._findings(pipeline, access, run, question)
        evaluation = Evaluation(
            pipeline,
            State.BLOCKED,
            CLOSED,
            findings.requires,
            findings.violations,
            findings.warnings,
            reevaluate_at=findings.recheck_at,
        )
        if not access.pipeline(pipeline.id).enabled:
            return replace(evaluation, state=State.DISABLED)
        if not findings.violations:
            gate = self._gates.gate(pipeline, findings.requires)
            return replace(evaluation, state=State.SERVED, gate=gate)
        if not question.internal and question.policy is None:
            in_grace = self._in_grace(evaluation, access, findings)
            if in_grace is not None:
                return in_grace
        return replace(
            evaluation, reevaluate_at=time.time() + RETRY_FAULTY_S if run.faults else None
        )

    def _findings(
        self, pipeline: Pipeline, access: Snapshot, run: EvaluationRound, question: Question
    ) -> _Findings:
        state, facts = access.pipeline(pipeline.id), access.environment
        policy = question.policy
        if question.internal and policy is None:
            policy = facts.internal_policy
        if policy is not None:
            facts = replace(facts, policy=policy)
        verdict, all_answered = Verdict(violations=tuple(question.broken)), False
        requires, lacking = frozenset[str](), tuple[Violation, ...]()
        trigger = pipeline.trigger
        if not question.broken:
            candidate = Candidate(
                pipeline.name, pipeline.version, trigger, state.login_flow, question.internal
            )
            verdict, all_answered = combined_verdict(self._policies, candidate, facts, run)
            requires, lacking = self._gates.closure(verdict.requires | trigger.toggles)
        needs = check_needs(pipeline, access)
        unmet = (*needs.unmet, *question.environment, *self._silent)
        return _Findings(
            all_answered,
            requires,
            verdict.violations + lacking + unmet,
            unmet,
            (*verdict.warnings, *needs.warnings),
            needs.recheck_at,
        )

    def _in_grace(
        self, evaluation: Evaluation, access: Snapshot, findings: _Findings
    ) -> Evaluation | None:
        """Return the evaluation of a pipeline in its grace period, None if it has none."""
        pipeline = evaluation.pipeline
        grace = access.graces.get(pipeline.id)
        if grace is None or grace.until <= time.time():
            return None
        if not findings.all_answered or findings.unmet:
            return None
        requires, lacking = self._gates.closure(grace.requires | pipeline.trigger.toggles)
        if lacking:
            return None
        return replace(
            evaluation,
            state=State.NON_CONFORMANT,
            gate=self._gates.gate(pipeline, requires, grace.until),
            requires=requires,
            until=grace.until,
            reevaluate_at=min(grace.until, findings.recheck_at or grace.until),
        )

    @staticmethod
    def _not_exposed(pipeline: Pipeline, access: Snapshot, *, internal: bool) -> Evaluation:
        """Return the evaluation of a pipeline that is not for a listener.

        One that is for no listener, such as with schedules alone, can be blocked or disabled.
        """
        if internal or pipeline.trigger.internal:
            return Evaluation(pipeline, State.INTERNAL, CLOSED)
        needs, enabled = check_needs(pipeline, access), access.pipeline(pipeline.id).enabled
        state = State.BLOCKED if needs.unmet else State.INTERNAL
        if not enabled:
            state = State.DISABLED
        return Evaluation(
            pipeline,
            state,
            CLOSED,
            violations=tuple(needs.unmet),
            warnings=tuple(needs.warnings),
            reevaluate_at=needs.recheck_at,
        )
