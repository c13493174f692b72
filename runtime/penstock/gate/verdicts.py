"""Ask access policies, and combine their verdicts.

Policies are plugin code. Each gets values of its own, so that none can change what the next one
sees. Only a `Verdict` whose parts have their declared types is an answer. Anything else is a fault
of that plugin and blocks the pipeline: no policy can lower what a call must present.
"""

from __future__ import annotations

import copy
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from penstock.contracts.access import EnvironmentFacts
from penstock.contracts.policies import Candidate, Verdict, Violation
from penstock.contracts.registered import (
    InvalidPluginValue,
    RegisteredPolicy,
    require_line,
    require_texts,
)
from penstock.errors import quoted
from penstock.plugins.guard import PluginFault, call_plugin

MAX_ANSWER_S = 1.0  # that a policy may take over one pipeline
FIX = "fix that plugin, or leave it out (PENSTOCK_PLUGINS_DENY)"


@dataclass(slots=True)
class EvaluationRound:
    """One round of evaluating pipelines: which plugin is asked since when, and the faults so far.

    `stuck` are the threads of plugins that have not answered in an earlier round. Once `over`, the
    thread of the round must stop, for its result is not awaited any more.
    """

    stuck: Mapping[str, threading.Thread]
    asked: str | None = None
    since: float = 0.0
    over: bool = False
    faults: dict[str, PluginFault] = field(default_factory=dict)

    def stalled(self) -> bool:
        """Return whether a plugin takes longer over its answer than it may."""
        return self.asked is not None and time.monotonic() - self.since > MAX_ANSWER_S

    def begin(self, plugin: str) -> None:
        """Note that a plugin is asked now. Raises PluginFault if its last call has not returned."""
        thread = self.stuck.get(plugin)
        if thread is not None and thread.is_alive():
            raise PluginFault(
                plugin, "does not return; it was asked before and has not answered yet"
            )
        self.asked, self.since = plugin, time.monotonic()

    def add_fault(self, fault: PluginFault) -> Violation:
        """Note a fault, and return it as a reason to block a pipeline."""
        self.faults.setdefault(str(fault), fault)
        return Violation(str(fault), FIX)


def read_verdict(answer: object) -> Verdict | None:
    """Return a policy's answer as plain values. Raises InvalidPluginValue for any other type."""
    if answer is None:
        return None
    if type(answer) is not Verdict:
        raise InvalidPluginValue(f"it returned {type(answer).__name__}, not a Verdict or None")
    violations = answer.violations
    if type(violations) not in {tuple, list} or not all(
        type(item) is Violation for item in violations
    ):
        raise InvalidPluginValue("the violations of its Verdict are no tuple of Violation values")
    return Verdict(
        frozenset(require_texts(answer.requires, "what its Verdict requires")),
        tuple(
            Violation(
                require_line(violation.reason, "the reason of a violation"),
                require_line(violation.fix, "the fix of a violation"),
            )
            for violation in violations
        ),
        tuple(
            require_line(warning, "a warning of its Verdict")
            for warning in require_texts(answer.warnings, "the warnings of its Verdict")
        ),
    )


def combined_verdict(
    policies: Sequence[RegisteredPolicy],
    candidate: Candidate,
    environment: EnvironmentFacts,
    run: EvaluationRound,
) -> tuple[Verdict, bool]:
    """Return the verdict of all policies together, and whether each of them could answer.

    Requirements add up. One violation blocks the pipeline, and so does the silence of all policies,
    or of one that claims to enforce the environment's policy.
    """
    name = environment.policy
    if not any(name in policy.options for policy in policies):
        violation = Violation(
            f"no loaded plugin enforces the policy {quoted(name)}",
            "load penstock_access_policy, or set a policy that a plugin knows",
        )
        return Verdict(violations=(violation,)), False
    requires: frozenset[str] = frozenset()
    violations: list[Violation] = []
    warnings: tuple[str, ...] = ()
    any_answer, all_answered = False, True
    for policy in policies:
        try:
            verdict = _verdict(policy, candidate, environment, run)
        except PluginFault as fault:
            violations.append(run.add_fault(fault))
            all_answered = False
            continue
        if verdict is None:
            if name in policy.options:
                violations.append(_silent(policy, name))
                all_answered = False
            continue
        any_answer = True
        requires |= verdict.requires
        violations += verdict.violations
        warnings += verdict.warnings
    if not any_answer and not violations:
        violations.append(
            Violation("no policy has an opinion on it", "load a policy plugin that does")
        )
        all_answered = False
    return Verdict(requires, tuple(violations), warnings), all_answered


def _silent(policy: RegisteredPolicy, name: str) -> Violation:
    reason = f"the policy {policy.name} is silent on {quoted(name)}, which it claims to enforce"
    return Violation(reason, FIX)


def _verdict(
    policy: RegisteredPolicy,
    candidate: Candidate,
    environment: EnvironmentFacts,
    run: EvaluationRound,
) -> Verdict | None:
    """Ask one policy, with copies of its own. Raises PluginFault."""
    own = replace(candidate, trigger=copy.copy(candidate.trigger))
    run.begin(policy.plugin)
    try:
        return call_plugin(
            policy.plugin,
            f"the policy {policy.name}",
            lambda: read_verdict(policy.judge(own, replace(environment))),
        )
    finally:
        run.asked = None
