"""Judge all pipelines of a process in one round.

It runs in a thread that plugin code can neither end nor hold, with an answer for each pipeline.

Every pipeline is closed until it was judged. A round that does not end in time leaves the rest
closed, names the plugin that it waits for, and does not ask that plugin again while its last answer
is outstanding. The thread that follows the database waits for a round a second at most, and closes
all gates meanwhile where it takes more than half of that.
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
from penstock.gate.compliance import Evaluation, PipelineEvaluator, closed
from penstock.gate.verdicts import FIX, Round
from penstock.plugins.guard import PluginFault, ask, bounded
from penstock.plugins.loading import Plugins

AT_LEISURE = 10.0  # seconds that a round may take at a start, in a command or for a page
WHAT_IT_READS = "fix what that plugin reads (`penstock variable list`)"
# Seconds that it may take while calls are answered, and after which they wait for it.
LIVE, SOON = 1.0, 0.5


class Item(Protocol):
    """A pipeline as it was loaded."""

    @property
    def plugin(self) -> str:
        """The plugin that offers it."""

    @property
    def pipeline(self) -> Pipeline:
        """The pipeline."""

    @property
    def broken(self) -> tuple[Violation, ...]:
        """What is wrong with its declaration."""


@dataclass(frozen=True, slots=True)
class EvaluatedPipelines:
    """What a round has come to.

    Every pipeline on each listener, what replies have in common, and the faults of plugins.
    """

    external: Mapping[str, Evaluation]
    internal: Mapping[str, Evaluation]
    responses: ResponsePolicy
    faults: tuple[PluginFault, ...] = ()
    # `Snapshot.gates_version` of the access data that was evaluated.
    gates_version: int = -1

    def on(self, *, internal: bool) -> Mapping[str, Evaluation]:
        """Return what became of each pipeline on one of the listeners."""
        return self.internal if internal else self.external

    def due(self, now: float) -> bool:
        """Return whether a pipeline is to be evaluated again, for time has passed.

        `now` is in seconds since the epoch.
        """
        return any(
            item.reevaluate_at is not None and item.reevaluate_at <= now
            for side in (self.external, self.internal)
            for item in side.values()
        )


@dataclass(slots=True)
class _Work:
    """What a round has done so far."""

    run_status_api: Round
    responses: ResponsePolicy = field(default_factory=ResponsePolicy)
    evaluated: dict[tuple[bool, str], Evaluation] = field(default_factory=dict)


class BoundedEvaluator:
    """Judges what is loaded. Several threads may do so at a time."""

    def __init__(
        self, plugins: Plugins, judge: PipelineEvaluator, loaded: Mapping[str, Item]
    ) -> None:
        self._hooks: Sequence[pluggy.HookImpl] = (
            plugins.manager.hook.penstock_response_policy.get_hookimpls()
        )
        self._judge = judge
        self._loaded = loaded
        self._stuck: dict[str, threading.Thread] = {}

    def evaluate_all(
        self,
        access: Snapshot,
        *,
        policy: str | None = None,
        live: Callable[[], object] | None = None,
    ) -> EvaluatedPipelines:
        """Judge every pipeline on both listeners.

        `policy` asks what another policy would say, on whichever of them.

        `live` says that calls are answered meanwhile, and is called to close all gates where it
        takes long.
        """
        work, version = _Work(Round(self._stuck)), access.gates_version
        asking = work.run_status_api
        limits = {"seconds": AT_LEISURE} if live is None else {"seconds": LIVE, "soon": SOON}
        thread = bounded(
            lambda: self._run(work, access, policy),
            stalled=asking.stalled,
            meanwhile=live or bool,
            **limits,
        )
        asking.over = True
        if thread is not None:
            asking.failed(self._late(asking.asked, thread))
        done, faults = dict(work.evaluated), tuple(asking.faults.values())
        missing = [Violation(str(fault), FIX) for fault in faults] or [
            Violation("it could not be judged", "look at the log")
        ]
        sides = [
            {
                name: done.get((internal, name)) or closed(item.pipeline, missing)
                for name, item in sorted(self._loaded.items())
            }
            for internal in (False, True)
        ]
        return EvaluatedPipelines(sides[0], sides[1], work.responses, faults, version)

    def response_violations(self, access: Snapshot) -> tuple[Violation, ...]:
        """Return why replies can't be given what an environment wants of all of them."""
        asking = Round(self._stuck)
        found: list[Violation] = []
        thread = bounded(
            lambda: found.extend(self._response_policy(access, asking)[1]),
            AT_LEISURE,
            stalled=asking.stalled,
        )
        asking.over = True
        if thread is not None:
            found.append(Violation(str(self._late(asking.asked, thread)), FIX))
        return tuple(found)

    def close_all(self, reason: str, fix: str) -> dict[str, Evaluation]:
        """Return the judgement that lets nothing through."""
        return {
            name: closed(item.pipeline, [Violation(reason, fix)])
            for name, item in sorted(self._loaded.items())
        }

    def _late(self, plugin: str | None, thread: threading.Thread) -> PluginFault:
        if plugin is None:
            return PluginFault("?", "judging took longer than it may")
        self._stuck[plugin] = thread
        return PluginFault(plugin, "took too long over its answer, and is waited for no more")

    def _run(self, work: _Work, access: Snapshot, policy: str | None) -> None:
        """Do the round. Nothing that it raises ends the process; what it has not done is closed."""
        asking = work.run_status_api
        try:
            work.responses, also = self._response_policy(access, asking)
            for name, item in sorted(self._loaded.items()):
                for internal in (False, True):
                    if asking.over:
                        return
                    work.evaluated[internal, name] = self._one(
                        item, access, asking, policy=policy, internal=internal, also=also
                    )
        except BaseException as error:  # noqa: BLE001  as its summary says
            asking.failed(PluginFault("?", f"judging failed: {type(error).__name__}"))

    def _one(
        self,
        item: Item,
        access: Snapshot,
        asking: Round,
        *,
        policy: str | None,
        internal: bool,
        also: tuple[Violation, ...],
    ) -> Evaluation:
        """Judge one pipeline. Its declaration is plugin code too."""
        try:
            return ask(
                item.plugin,
                "its pipeline",
                lambda: self._judge.judge(
                    item.pipeline,
                    access,
                    asking,
                    policy=policy,
                    broken=item.broken,
                    internal=internal,
                    also=also,
                ),
            )
        except PluginFault as fault:
            return closed(item.pipeline, [asking.failed(fault)])

    def _response_policy(
        self, access: Snapshot, asking: Round
    ) -> tuple[ResponsePolicy, tuple[Violation, ...]]:
        """Return what the environment's replies have in common, and why that can't be said."""
        headers: dict[str, ResponseHeader] = {}
        cors: tuple[Cors | None, bool] = None, False
        failures: list[Violation] = []
        for hook in self._hooks:
            try:
                said, wrong = self._headers_of(hook, access, asking)
            except PluginFault as fault:
                asking.failed(fault)
                failures.append(Violation(f"the header policy of {fault}", WHAT_IT_READS))
                continue
            failures += [
                Violation(f"the header policy of {hook.plugin_name} makes no sense: {problem}", fix)
                for problem, fix in wrong
            ]
            if said is not None and not wrong:
                headers |= {rule.name.lower(): rule for rule in said.headers}
                cors = (said.cors, said.cors_override) if said.cors is not None else cors
        return ResponsePolicy(tuple(headers.values()), *cors), tuple(failures)

    @staticmethod
    def _headers_of(
        hook: pluggy.HookImpl, access: Snapshot, asking: Round
    ) -> tuple[ResponsePolicy | None, list[tuple[str, str]]]:
        """Ask one plugin for its response policy; return it, and what is wrong with it.

        Raises PluginFault.
        """

        def said() -> tuple[ResponsePolicy | None, list[tuple[str, str]]]:
            answer: Any = hook.function(*([access] if hook.argnames else []))
            return answer, [] if answer is None else list(problems_of_response_policy(answer))

        asking.begin(hook.plugin_name)
        try:
            return ask(hook.plugin_name, "penstock_response_policy", said)
        finally:
            asking.asked = None
