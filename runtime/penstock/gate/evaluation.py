"""Evaluate all pipelines of a process in one round that plugin code can neither end nor block.

The round runs in a thread of its own. Every pipeline is closed until it is evaluated. A round that
does not end in time leaves the rest closed and names the plugin that it waits for. That plugin is
not asked again until its last call has returned. The follower waits for a round a second at most,
and closes all gates once half of that has passed.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import pluggy

from penstock.access.snapshot import Snapshot
from penstock.contracts.cors import Cors
from penstock.contracts.pipeline import Pipeline
from penstock.contracts.policies import Violation
from penstock.contracts.responses import ResponseHeader, ResponsePolicy, problems_of_response_policy
from penstock.gate.compliance import (
    Evaluation,
    PipelineEvaluator,
    Question,
    blocked_by_fault,
)
from penstock.gate.verdicts import FIX, EvaluationRound
from penstock.plugins.guard import PluginFault, call_plugin, run_bounded
from penstock.plugins.offers import Plugins

MAX_ROUND_S = 10.0  # at a start, in a command or for a page
VARIABLE_FIX = "fix what that plugin reads (`penstock variable list`)"
# While calls are answered: of a round, and until all gates are closed meanwhile.
MAX_LIVE_ROUND_S, CLOSE_AFTER_S = 1.0, 0.5


class CatalogEntry(Protocol):
    """A pipeline as it was loaded."""

    @property
    def plugin(self) -> str:
        """The plugin that offers it."""

    @property
    def pipeline(self) -> Pipeline:
        """The pipeline."""

    @property
    def broken(self) -> tuple[Violation, ...]:
        """The faults of its declaration."""


@dataclass(frozen=True, slots=True)
class EvaluatedPipelines:
    """The result of a round: each pipeline on both listeners, and the headers of all replies.

    `faults` are those of plugins, `gates_version` is that of the access data.
    """

    external: Mapping[str, Evaluation]
    internal: Mapping[str, Evaluation]
    responses: ResponsePolicy
    faults: tuple[PluginFault, ...] = ()
    gates_version: int = -1

    def on(self, *, internal: bool) -> Mapping[str, Evaluation]:
        """Return the evaluation of each pipeline on one of the listeners."""
        return self.internal if internal else self.external

    def due(self, now: float) -> bool:
        """Return whether time alone may have changed a result. `now`: seconds since the epoch."""
        return any(
            evaluation.reevaluate_at is not None and evaluation.reevaluate_at <= now
            for side in (self.external, self.internal)
            for evaluation in side.values()
        )


@dataclass(slots=True)
class _Work:
    """What a round has done so far."""

    run: EvaluationRound
    policy: str | None
    responses: ResponsePolicy = field(default_factory=ResponsePolicy)
    evaluated: dict[tuple[bool, str], Evaluation] = field(default_factory=dict)


class BoundedEvaluator:
    """Evaluates loaded pipelines. Several threads may do so at a time."""

    def __init__(
        self,
        plugins: Plugins,
        pipelines: PipelineEvaluator,
        loaded: Mapping[str, CatalogEntry],
        stuck: dict[str, threading.Thread] | None = None,
    ) -> None:
        """Create an evaluator of loaded pipelines. `stuck` are plugins that are known to hang."""
        self._plugins = plugins
        self._hooks: Sequence[pluggy.HookImpl] = (
            plugins.manager.hook.penstock_response_policy.get_hookimpls()
        )
        self._pipelines = pipelines
        self._loaded = loaded
        self._stuck = {} if stuck is None else stuck

    def only(self, loaded: Mapping[str, CatalogEntry]) -> BoundedEvaluator:
        """Return an evaluator of other pipelines that knows the same plugins that hang."""
        return BoundedEvaluator(self._plugins, self._pipelines, loaded, self._stuck)

    def evaluate_all(
        self,
        access: Snapshot,
        *,
        policy: str | None = None,
        live: Callable[[], object] | None = None,
    ) -> EvaluatedPipelines:
        """Return the evaluation of every pipeline on both listeners.

        `policy` takes the place of the environment's own on both. `live` is for a process that
        answers calls meanwhile: it is called to close all gates where the round takes long.
        """
        version = access.gates_version
        work = _Work(EvaluationRound(self._stuck), policy)
        run = work.run
        thread = run_bounded(
            lambda: self._run(work, access),
            MAX_ROUND_S if live is None else MAX_LIVE_ROUND_S,
            stalled=run.stalled,
            soon=float("inf") if live is None else CLOSE_AFTER_S,
            meanwhile=live or bool,
        )
        run.over = True
        if thread is not None:
            run.add_fault(self._timeout(run.asked, thread))
        # Copied: the thread of a round that is late may still write.
        evaluated, faults = dict(work.evaluated), tuple(run.faults.values())
        missing = [Violation(str(fault), FIX) for fault in faults] or [
            Violation("it could not be evaluated", "look at the log")
        ]
        external, internal = (
            {
                name: evaluated.get((is_internal, name)) or blocked_by_fault(item.pipeline, missing)
                for name, item in sorted(self._loaded.items())
            }
            for is_internal in (False, True)
        )
        return EvaluatedPipelines(external, internal, work.responses, faults, version)

    def response_violations(self, access: Snapshot) -> tuple[Violation, ...]:
        """Return why no valid reply headers can be determined for an environment."""
        run = EvaluationRound(self._stuck)
        violations: list[Violation] = []
        thread = run_bounded(
            lambda: violations.extend(self._response_policy(access, run)[1]),
            MAX_ROUND_S,
            stalled=run.stalled,
        )
        run.over = True
        if thread is not None:
            violations.append(Violation(str(self._timeout(run.asked, thread)), FIX))
        return tuple(violations)

    def close_all(self, reason: str, fix: str) -> dict[str, Evaluation]:
        """Return the evaluation that accepts no call."""
        return {
            name: blocked_by_fault(item.pipeline, [Violation(reason, fix)])
            for name, item in sorted(self._loaded.items())
        }

    def _timeout(self, plugin: str | None, thread: threading.Thread) -> PluginFault:
        if plugin is None:
            return PluginFault("?", "the evaluation took longer than it may")
        self._stuck[plugin] = thread
        return PluginFault(plugin, "took too long over its answer, and is waited for no more")

    def _run(self, work: _Work, access: Snapshot) -> None:
        """Do the round. No exception leaves it: what it has not evaluated stays closed."""
        run = work.run
        try:
            work.responses, violations = self._response_policy(access, run)
            for name, item in sorted(self._loaded.items()):
                for internal in (False, True):
                    if run.over:
                        return
                    question = Question(work.policy, item.broken, internal, violations)
                    work.evaluated[internal, name] = self._evaluate(item, access, run, question)
        except BaseException as error:  # noqa: BLE001  as its summary says
            run.add_fault(PluginFault("?", f"the evaluation failed: {type(error).__name__}"))

    def _evaluate(
        self, item: CatalogEntry, access: Snapshot, run: EvaluationRound, question: Question
    ) -> Evaluation:
        """Evaluate one pipeline. Its declaration is plugin code too."""
        try:
            return call_plugin(
                item.plugin,
                "its pipeline",
                lambda: self._pipelines.evaluate(item.pipeline, access, run, question),
            )
        except PluginFault as fault:
            return blocked_by_fault(item.pipeline, [run.add_fault(fault)])

    def _response_policy(
        self, access: Snapshot, run: EvaluationRound
    ) -> tuple[ResponsePolicy, tuple[Violation, ...]]:
        """Return the headers and CORS of all replies, and the faults of the plugins that set them.

        Such a fault blocks every pipeline: replies must not go out without their headers.
        """
        headers: dict[str, ResponseHeader] = {}
        cors: tuple[Cors | None, bool] = None, False
        violations: list[Violation] = []
        for hook in self._hooks:
            try:
                policy, problems = self._ask_for_headers(hook, access, run)
            except PluginFault as fault:
                run.add_fault(fault)
                violations.append(Violation(f"the header policy of {fault}", VARIABLE_FIX))
                continue
            violations += [
                Violation(f"the header policy of {hook.plugin_name} is not valid: {problem}", fix)
                for problem, fix in problems
            ]
            if policy is not None and not problems:
                headers |= {rule.name.lower(): rule for rule in policy.headers}
                cors = (policy.cors, policy.cors_override) if policy.cors is not None else cors
        return ResponsePolicy(tuple(headers.values()), *cors), tuple(violations)

    @staticmethod
    def _ask_for_headers(
        hook: pluggy.HookImpl, access: Snapshot, run: EvaluationRound
    ) -> tuple[ResponsePolicy | None, list[tuple[str, str]]]:
        """Return the response policy of one plugin, and its faults. Raises PluginFault."""

        def answer() -> tuple[ResponsePolicy | None, list[tuple[str, str]]]:
            policy: Any = hook.function(*([access] if hook.argnames else []))
            return policy, [] if policy is None else list(problems_of_response_policy(policy))

        run.begin(hook.plugin_name)
        try:
            return call_plugin(hook.plugin_name, "penstock_response_policy", answer)
        finally:
            run.asked = None
