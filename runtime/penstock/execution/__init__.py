"""Run one handler, in one place; pipelines that start pipelines; what operators do to runs."""

from __future__ import annotations

from dataclasses import dataclass

from penstock.execution.calls import CallFactory
from penstock.execution.executor import Executor
from penstock.execution.subpipelines import SubpipelineRunner
from penstock.host.host import Host
from penstock.runs.recorder import Recorder


@dataclass(frozen=True, slots=True)
class Execution:
    """What runs the pipelines of one host."""

    executor: Executor
    calls: CallFactory
    subpipelines: SubpipelineRunner

    @classmethod
    def of(cls, host: Host) -> Execution:
        """Build it; nothing of it holds a thread or a connection."""

        def recorder() -> Recorder | None:
            return host.services.recorder if host.services is not None else None

        executor = Executor(host.catalog.plugins.manager, recorder)
        calls = CallFactory(host.settings.environment, lambda: host.view.access)
        subpipelines = SubpipelineRunner(
            host.catalog, host.view, lambda: host.services, executor, calls
        )
        return cls(executor, calls, subpipelines)
