"""Ask access policies, and read what they answer.

Whatever a policy returns, raises or does, a call must present no less for it.

Policies are plugin code. Each is asked with values of its own, so that none can change what the
next one sees. Only a `Verdict` whose parts have the types they are declared with is an answer;
anything else is a fault of that plugin, and refuses the pipeline.
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
from penstock.plugins.guard import PluginFault, ask

LONGEST_ANSWER = 1.0  # seconds that a policy may take over one pipeline
FIX = "fix that plugin, or leave it out (PENSTOCK_PLUGINS_DENY)"


@dataclass(slots=True)
class Round:
    """One round of judging.

    Which plugin is being asked since when, and what has gone wrong so far.
    """

    stuck: Mapping[str, threading.Thread]
    asked: str | None = None
    since: float = 0.0
    over: bool = False
    faults: dict[str, PluginFault] = field(default_factory=dict)

    def stalled(self) -> bool:
        """Say whether a plugin takes longer over its answer than it may."""
        return self.asked is not None and time.monotonic() - self.since > LONGEST_ANSWER

    def begin(self, plugin: str) -> None:
        """Note that a plugin is asked now.

        Raises PluginFault where it has not answered the last time yet.
        """
        thread = self.stuck.get(plugin)
        if thread is not None and thread.is_alive():
            raise PluginFault(
                plugin, "does not return; it was asked before and has not answered yet"
            )
        self.asked, self.since = plugin, time.monotonic()

    def failed(self, fault: PluginFault) -> Violation:
        """Note a fault, and return it as a reason to refuse a pipeline."""
        self.faults.setdefault(str(fault), fault)
        return Violation(str(fault), FIX)


def read_verdict(answer: object) -> Verdict | None:
    """Return a policy's answer as plain values. Raises InvalidPluginValue where it is none."""
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
                require_line(item.reason, "the reason of a violation"),
                require_line(item.fix, "the mend of a violation"),
            )
            for item in violations
        ),
        tuple(
            require_line(item, "a warning of its Verdict")
            for item in require_texts(answer.warnings, "the warnings of its Verdict")
        ),
    )


def verdict_of(
    policies: Sequence[RegisteredPolicy],
    candidate: Candidate,
    environment: EnvironmentFacts,
    asking: Round,
) -> tuple[Verdict, bool]:
    """Combine what all policies say, and whether each could say it.

    Requirements add up, one refusal refuses, silence refuses.
    """
    if not any(environment.policy in policy.options for policy in policies):
        reason = f"no loaded plugin enforces the policy {environment.policy!r}"
        return (
            Verdict(
                violations=(
                    Violation(
                        reason, "load penstock_access_policy, or set a policy that a plugin knows"
                    ),
                )
            ),
            False,
        )
    requires: frozenset[str] = frozenset()
    violations: list[Violation] = []
    warnings: tuple[str, ...] = ()
    heard, sound = False, True
    for policy in policies:
        try:
            verdict = _asked(policy, candidate, environment, asking)
        except PluginFault as fault:
            violations.append(asking.failed(fault))
            sound = False
            continue
        if verdict is None:
            if environment.policy in policy.options:
                reason = (
                    f"the policy {policy.name} is silent on {environment.policy!r}, which it claims"
                    " to enforce"
                )
                violations.append(Violation(reason, FIX))
                sound = False
            continue
        heard = True
        requires |= verdict.requires
        violations += verdict.violations
        warnings += verdict.warnings
    if not heard and not violations:
        violations.append(
            Violation("no policy has an opinion on it", "load a policy plugin that does")
        )
        sound = False
    return Verdict(requires, tuple(violations), warnings), sound


def _asked(
    policy: RegisteredPolicy, candidate: Candidate, environment: EnvironmentFacts, asking: Round
) -> Verdict | None:
    """Ask one policy, with copies of its own. Raises PluginFault."""
    own = replace(candidate, trigger=copy.copy(candidate.trigger))
    asking.begin(policy.plugin)
    try:
        return ask(
            policy.plugin,
            f"the policy {policy.name}",
            lambda: read_verdict(policy.judge(own, replace(environment))),
        )
    finally:
        asking.asked = None
