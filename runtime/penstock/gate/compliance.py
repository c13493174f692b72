"""Judge each pipeline against its environment's policies, and compile its gate."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from enum import StrEnum
from types import MappingProxyType

from penstock.access.snapshot import Snapshot
from penstock.contracts.pipeline import Pipeline
from penstock.contracts.policies import Candidate, Verdict, Violation
from penstock.contracts.registered import RegisteredAuthenticator, RegisteredPolicy
from penstock.contracts.variables import SecretNeed
from penstock.gate.gate import CLOSED, Gate
from penstock.gate.verdicts import FIX, Round, verdict_of

AGAIN = 5.0  # seconds until what could not be judged is judged again
WARN_BEFORE = 14 * 86_400.0  # seconds before a secret expires


class State(StrEnum):
    """What became of a pipeline in an environment."""

    SERVED = "served"
    NON_CONFORMANT = "non-conformant"
    BLOCKED = "blocked"
    DISABLED = "disabled"
    INTERNAL = "internal"


SERVED_STATES = frozenset({State.SERVED, State.NON_CONFORMANT})


@dataclass(frozen=True, slots=True)
class Evaluation:
    """A pipeline as an environment sees it: its state, why, and the gate its calls meet."""

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
        """Say whether the policies agree to it, whatever operators switched off."""
        return not self.violations


def _plugin(name: str) -> str:
    return "webhook_signature" if name.endswith("_signature") else name


def _needs(
    pipeline: Pipeline, access: Snapshot
) -> tuple[tuple[Violation, ...], tuple[str, ...], float | None]:
    """Say which variables and secrets are missing or end soon, and when to look again."""
    unmet: list[Violation] = []
    expiring: list[str] = []
    again_at: float | None = None
    where = access.environment.name
    for need in sorted(pipeline.needs, key=str):
        if not isinstance(need, SecretNeed):
            if need not in access.variables:
                fix = f"set it: `penstock variable set {need} VALUE --env {where}`"
                unmet.append(
                    Violation(f"it needs the variable {need!r}, which is not set in {where!r}", fix)
                )
            continue
        stored, now = access.secrets.get(need.name), time.time()
        fix = f"set it: `penstock secret set {need.name} --env {where}`"
        if stored is None:
            unmet.append(Violation(f"it needs {need}, which is not set in {where!r}", fix))
        elif stored.expires_at is not None and stored.expires_at <= now:
            unmet.append(Violation(f"it needs {need}, which has expired in {where!r}", fix))
        elif not stored.is_readable(pipeline.id, now):
            unmet.append(
                Violation(
                    f"it needs {need}, which is kept for other pipelines in {where!r}",
                    f"{fix} with `--pipeline {pipeline.id}`",
                )
            )
        elif stored.expires_at is not None:
            soon = stored.expires_at - now <= WARN_BEFORE
            if soon:
                end = f"{datetime.fromtimestamp(stored.expires_at, UTC):%Y-%m-%d %H:%MZ}"
                expiring.append(f"{need} expires on {end}; {fix}")
            look = stored.expires_at if soon else stored.expires_at - WARN_BEFORE
            again_at = min(look, again_at or look)
    return tuple(unmet), tuple(expiring), again_at


def closed(pipeline: Pipeline, violations: Sequence[Violation]) -> Evaluation:
    """Return the judgement of a pipeline that could not be judged.

    It is tried again before long.
    """
    return Evaluation(
        pipeline,
        State.BLOCKED,
        CLOSED,
        violations=tuple(violations),
        reevaluate_at=time.time() + AGAIN,
    )


class PipelineEvaluator:
    """Applies all loaded policies and authenticators; nobody's silence lets a pipeline through.

    `silent` are plugins whose policies can't be asked, and why: every policy must agree, so they
    refuse all pipelines.
    """

    def __init__(
        self,
        policies: Sequence[RegisteredPolicy],
        authenticators: Sequence[RegisteredAuthenticator],
        silent: Mapping[str, str] = MappingProxyType({}),
    ) -> None:
        self._policies = tuple(policies)
        self._authenticators = {item.name: item for item in authenticators}
        self._doubled = sorted(
            {
                item.name
                for item in authenticators
                if sum(other.name == item.name for other in authenticators) > 1
            }
        )
        self._silent = tuple(
            Violation(f"the access policies of plugin {plugin} can't be asked: {why}", FIX)
            for plugin, why in silent.items()
        )

    @property
    def options(self) -> tuple[str, ...]:
        """The environment policies that a loaded plugin understands."""
        return tuple(
            dict.fromkeys(option for policy in self._policies for option in policy.options)
        )

    @property
    def meanings(self) -> dict[str, str]:
        """What each of them means."""
        said = {
            option: meaning
            for policy in self._policies
            for option, meaning in policy.meanings.items()
        }
        return {option: said.get(option, "") for option in self.options}

    def judge(
        self,
        pipeline: Pipeline,
        access: Snapshot,
        asking: Round,
        *,
        policy: str | None = None,
        broken: Sequence[Violation] = (),
        internal: bool = False,
        also: Sequence[Violation] = (),
    ) -> Evaluation:
        """Say whether a pipeline is served, and behind which gate.

        `policy` asks what another one would say.

        `broken` are faults of its declaration: they refuse it whatever the policies say. `internal`
        asks for the internal listener, which has a policy of its own and knows no grace; `also` are
        violations of the environment as a whole.
        """
        trigger = pipeline.trigger
        if not (trigger.internal if internal else trigger.external) and not broken:
            return self._unexposed(pipeline, access, internal=internal)
        facts = access.environment
        policy = facts.internal_policy if internal and policy is None else policy
        if policy is not None:
            facts = replace(facts, policy=policy)
        state, toggles = access.pipeline(pipeline.id), trigger.toggles
        verdict, sound = Verdict(violations=tuple(broken)), False
        requires, lacking = frozenset[str](), tuple[Violation, ...]()
        if not broken:
            candidate = Candidate(
                pipeline.name, pipeline.version, trigger, state.login_flow, internal
            )
            verdict, sound = verdict_of(self._policies, candidate, facts, asking)
            requires, lacking = self._closure(verdict.requires | toggles)
        unmet, expiring, again_at = _needs(pipeline, access)
        unmet += tuple(also) + self._silent
        violations = verdict.violations + lacking + unmet
        warnings = verdict.warnings + expiring
        if not state.enabled:
            return Evaluation(
                pipeline,
                State.DISABLED,
                CLOSED,
                requires,
                violations,
                warnings,
                reevaluate_at=again_at,
            )
        if not violations:
            return Evaluation(
                pipeline,
                State.SERVED,
                self._gate(pipeline, requires),
                requires,
                warnings=warnings,
                reevaluate_at=again_at,
            )
        grace = access.graces.get(pipeline.id) if policy is None and sound and not unmet else None
        if grace is not None and grace.until > time.time():
            kept, lacking = self._closure(grace.requires | toggles)
            if not lacking:
                gate = self._gate(pipeline, kept, grace.until)
                again_at = min(grace.until, again_at or grace.until)
                return Evaluation(
                    pipeline,
                    State.NON_CONFORMANT,
                    gate,
                    kept,
                    violations,
                    warnings,
                    grace.until,
                    again_at,
                )
        again_at = time.time() + AGAIN if asking.faults else None
        return Evaluation(
            pipeline, State.BLOCKED, CLOSED, requires, violations, warnings, reevaluate_at=again_at
        )

    @staticmethod
    def _unexposed(pipeline: Pipeline, access: Snapshot, *, internal: bool) -> Evaluation:
        """Judge a pipeline that is not for a listener.

        Where it is for none, it can still be refused or disabled.
        """
        if internal or pipeline.trigger.internal:
            return Evaluation(pipeline, State.INTERNAL, CLOSED)
        unmet, expiring, again_at = _needs(pipeline, access)
        state = (
            State.DISABLED
            if not access.pipeline(pipeline.id).enabled
            else State.BLOCKED
            if unmet
            else State.INTERNAL
        )
        return Evaluation(
            pipeline, state, CLOSED, violations=unmet, warnings=expiring, reevaluate_at=again_at
        )

    def _closure(self, wanted: frozenset[str]) -> tuple[frozenset[str], tuple[Violation, ...]]:
        """Add what the wanted credentials need themselves; say which of them nobody can prove."""
        names = wanted
        while (
            more := frozenset[str]().union(
                *(
                    self._authenticators[name].needs
                    for name in names
                    if name in self._authenticators
                )
            )
            - names
        ):
            names |= more
        lacking = [
            Violation(
                f"no authenticator for {name!r} is loaded",
                f"load the plugin that proves {name} (penstock_{_plugin(name)})",
            )
            for name in sorted(names - self._authenticators.keys())
        ]
        lacking += [
            Violation(
                f"two plugins offer an authenticator for {name!r}",
                "leave one out (PENSTOCK_PLUGINS_DENY)",
            )
            for name in sorted(names & set(self._doubled))
        ]
        return names, tuple(lacking)

    def _gate(
        self, pipeline: Pipeline, requires: frozenset[str], until: float = float("inf")
    ) -> Gate:
        ordered: list[RegisteredAuthenticator] = []
        waiting = [
            item for name, item in sorted(self._authenticators.items()) if name not in self._doubled
        ]
        while waiting:
            done = {item.name for item in ordered}
            ready = [
                item for item in waiting if item.needs & self._authenticators.keys() <= done
            ] or waiting
            ordered.append(ready[0])
            waiting.remove(ready[0])
        checks = tuple(
            (item, item.name in requires)
            for item in ordered
            if item.name in requires or not item.only_where_asked
        )
        return Gate(pipeline.id, checks, pipeline.trigger.scopes, until)
