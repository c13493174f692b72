"""Judge each pipeline against its environment's policies, and compile its gate."""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum

from penstock.access.snapshot import Snapshot
from penstock.contracts.access import AccessPolicy, Authenticator, Candidate, EnvironmentFacts, Verdict, Violation
from penstock.contracts.needs import SecretNeed
from penstock.contracts.pipeline import Pipeline
from penstock.gate.gate import CLOSED, Gate

WARN_BEFORE = 14 * 86_400.0  # seconds before a secret expires


class State(StrEnum):
    """What became of a pipeline in an environment."""

    SERVED = "served"
    NON_CONFORMANT = "non-conformant"
    REFUSED = "refused"
    DISABLED = "disabled"
    INTERNAL = "internal"


@dataclass(frozen=True, slots=True)
class Judged:
    """A pipeline as an environment sees it: its state, why, and the gate its calls meet."""

    pipeline: Pipeline
    state: State
    gate: Gate
    requires: frozenset[str] = frozenset()
    violations: tuple[Violation, ...] = ()
    warnings: tuple[str, ...] = ()
    until: float | None = None
    again_at: float | None = None

    @property
    def complies(self) -> bool:
        """Say whether the policies agree to it, whatever operators switched off."""
        return not self.violations


def _plugin(name: str) -> str:
    return "webhook_signature" if name.endswith("_signature") else name


def _needs(pipeline: Pipeline, access: Snapshot) -> tuple[tuple[Violation, ...], tuple[str, ...], float | None]:
    """Say which variables and secrets are not there, which secrets end soon, and when to look again."""
    unmet: list[Violation] = []
    expiring: list[str] = []
    again_at: float | None = None
    where = access.environment.name
    for need in sorted(pipeline.needs, key=str):
        if not isinstance(need, SecretNeed):
            if need not in access.variables:
                mend = f"set it: `penstock variable set {need} VALUE --env {where}`"
                unmet.append(Violation(f"it needs the variable {need!r}, which is not set in {where!r}", mend))
            continue
        stored, now = access.secrets.get(need.name), time.time()
        mend = f"set it: `penstock secret set {need.name} --env {where}`"
        if stored is None:
            unmet.append(Violation(f"it needs {need}, which is not set in {where!r}", mend))
        elif stored.expires_at is not None and stored.expires_at <= now:
            unmet.append(Violation(f"it needs {need}, which has expired in {where!r}", mend))
        elif not stored.usable(pipeline.name, now):
            unmet.append(Violation(f"it needs {need}, which is kept for other pipelines in {where!r}", f"{mend} with `--pipeline {pipeline.name}`"))
        elif stored.expires_at is not None:
            soon = stored.expires_at - now <= WARN_BEFORE
            expiring += [f"{need} expires on {datetime.fromtimestamp(stored.expires_at, UTC):%Y-%m-%d %H:%MZ}; {mend}"] if soon else []
            look = stored.expires_at if soon else stored.expires_at - WARN_BEFORE
            again_at = min(look, again_at or look)
    return tuple(unmet), tuple(expiring), again_at


class Judge:
    """Applies all loaded policies and authenticators; nobody's silence lets a pipeline through."""

    def __init__(self, policies: Sequence[AccessPolicy], authenticators: Sequence[Authenticator]) -> None:
        self._policies = tuple(policies)
        self._authenticators = {item.name: item for item in authenticators}
        self._doubled = sorted({item.name for item in authenticators if sum(other.name == item.name for other in authenticators) > 1})

    @property
    def options(self) -> tuple[str, ...]:
        """The environment policies that a loaded plugin understands."""
        return tuple(dict.fromkeys(option for policy in self._policies for option in policy.options))

    @property
    def meanings(self) -> dict[str, str]:
        """What each of them means."""
        said = {option: meaning for policy in self._policies for option, meaning in policy.meanings.items()}
        return {option: said.get(option, "") for option in self.options}

    def judge(
        self,
        pipeline: Pipeline,
        access: Snapshot,
        *,
        policy: str | None = None,
        broken: Sequence[Violation] = (),
        internal: bool = False,
        also: Sequence[Violation] = (),
    ) -> Judged:
        """Say whether a pipeline is served, and behind which gate; `policy` asks what another one would say.

        `broken` are faults of its declaration: they refuse it whatever the policies say. `internal` asks for the internal listener, which
        has a policy of its own and knows no grace; `also` are violations of the environment as a whole.
        """
        trigger = pipeline.trigger
        if not (trigger.internal if internal else trigger.external) and not broken:
            return self._unexposed(pipeline, access, internal=internal)
        facts = access.environment
        policy = facts.internal_policy if internal and policy is None else policy
        if policy is not None:
            facts = EnvironmentFacts(**{name: getattr(facts, name) for name in facts.__slots__} | {"policy": policy})
        state = access.pipeline(pipeline.name)
        verdict = (
            Verdict(violations=tuple(broken))
            if broken
            else self._verdict(Candidate(pipeline.name, pipeline.version, trigger, state.login_flow, internal), facts)
        )
        requires, lacking = self._closure(verdict.requires | trigger.toggles) if not broken else (frozenset[str](), ())
        unmet, expiring, again_at = _needs(pipeline, access)
        unmet += tuple(also)
        violations = verdict.violations + lacking + unmet
        warnings = verdict.warnings + expiring
        if not state.enabled:
            return Judged(pipeline, State.DISABLED, CLOSED, requires, violations, warnings, again_at=again_at)
        if not violations:
            return Judged(pipeline, State.SERVED, self._gate(pipeline, requires), requires, warnings=warnings, again_at=again_at)
        grace = access.graces.get(pipeline.id) if policy is None and not broken and not unmet else None
        if grace is not None and grace.until > time.time():
            kept, lacking = self._closure(grace.requires | trigger.toggles)
            if not lacking:
                gate = self._gate(pipeline, kept, grace.until)
                again_at = min(grace.until, again_at or grace.until)
                return Judged(pipeline, State.NON_CONFORMANT, gate, kept, violations, warnings, grace.until, again_at)
        return Judged(pipeline, State.REFUSED, CLOSED, requires, violations, warnings)

    @staticmethod
    def _unexposed(pipeline: Pipeline, access: Snapshot, *, internal: bool) -> Judged:
        """Judge a pipeline that is not for a listener: where it is for none, it can still be refused or disabled."""
        if internal or pipeline.trigger.internal:
            return Judged(pipeline, State.INTERNAL, CLOSED)
        unmet, expiring, again_at = _needs(pipeline, access)
        state = State.DISABLED if not access.pipeline(pipeline.name).enabled else State.REFUSED if unmet else State.INTERNAL
        return Judged(pipeline, state, CLOSED, violations=unmet, warnings=expiring, again_at=again_at)

    def _verdict(self, candidate: Candidate, environment: EnvironmentFacts) -> Verdict:
        """Combine what all policies say: requirements add up, one refusal refuses, silence refuses."""
        if environment.policy not in self.options:
            reason = f"no loaded plugin enforces the policy {environment.policy!r}"
            return Verdict(violations=(Violation(reason, "load penstock_access_policy, or set a policy that a plugin knows"),))
        requires: frozenset[str] = frozenset()
        violations: list[Violation] = []
        warnings: list[str] = []
        heard = False
        for policy in self._policies:
            try:
                verdict = policy.judge(candidate, environment)
            except Exception as error:  # noqa: BLE001  a policy that raises refuses: fail closed
                violations.append(Violation(f"the policy {policy.name} failed: {type(error).__name__}: {error}", "mend or remove that plugin"))
                continue
            if verdict is None:
                violations += self._unheard(policy, environment)
                continue
            heard = True
            requires |= verdict.requires
            violations += verdict.violations
            warnings += verdict.warnings
        if not heard and not violations:
            violations.append(Violation("no policy has an opinion on it", "load a policy plugin that does"))
        return Verdict(requires, tuple(violations), tuple(warnings))

    @staticmethod
    def _unheard(policy: AccessPolicy, environment: EnvironmentFacts) -> Iterable[Violation]:
        if environment.policy in policy.options:
            yield Violation(f"the policy {policy.name} is silent on {environment.policy!r}, which it claims to enforce", "mend that plugin")

    def _closure(self, wanted: frozenset[str]) -> tuple[frozenset[str], tuple[Violation, ...]]:
        """Add what the wanted credentials need themselves; say which of them nobody can prove."""
        names = wanted
        while more := frozenset[str]().union(*(self._authenticators[name].needs for name in names if name in self._authenticators)) - names:
            names |= more
        lacking = [
            Violation(
                f"no authenticator for {name!r} is loaded",
                f"load the plugin that proves {name} (penstock_{_plugin(name)})",
            )
            for name in sorted(names - self._authenticators.keys())
        ]
        lacking += [
            Violation(f"two plugins offer an authenticator for {name!r}", "leave one out (PENSTOCK_PLUGINS_DENY)")
            for name in sorted(names & set(self._doubled))
        ]
        return names, tuple(lacking)

    def _gate(self, pipeline: Pipeline, requires: frozenset[str], until: float = float("inf")) -> Gate:
        ordered: list[Authenticator] = []
        waiting = [item for name, item in sorted(self._authenticators.items()) if name not in self._doubled]
        while waiting:
            done = {item.name for item in ordered}
            ready = [item for item in waiting if item.needs & self._authenticators.keys() <= done] or waiting
            ordered.append(ready[0])
            waiting.remove(ready[0])
        checks = tuple((item, item.name in requires) for item in ordered if item.name in requires or not item.only_where_asked)
        return Gate(pipeline.name, checks, pipeline.trigger.scopes, until)
