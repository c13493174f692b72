"""What the plugins of a process offer, compiled: pipelines, their names, queues and rates.

The catalog is built once, before a fork, and asks no database. Its list of faults grows while
plugin code is called: any thread may add to it.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from functools import cached_property
from hashlib import sha256

import structlog

from penstock.contracts.pipeline import PluginProblem
from penstock.contracts.rates import OVERRIDDEN_BY_CONSUMER_LIMIT
from penstock.contracts.withheld import Withheld
from penstock.durable.engine import Queue
from penstock.durable.intake import queue_of, ticks_of
from penstock.durable.run_endpoints import RunStatusApi
from penstock.gate.compliance import Evaluation, State
from penstock.gate.verdicts import FIX
from penstock.host.compilation import OfferCompiler
from penstock.host.events import PLUGIN_ERROR, problem_events
from penstock.plugins.guard import PluginFault
from penstock.plugins.offers import Offer, Plugins
from penstock.plugins.versions import own_version, plugin_versions
from penstock.settings import Settings

MAX_PROBLEMS = 500


class Catalog:
    """The pipelines that plugins offer, served or not, by id (`v1/orders`)."""

    def __init__(
        self,
        settings: Settings,
        plugins: Plugins,
        run_status_api: Callable[[], RunStatusApi],
    ) -> None:
        self.plugins = plugins
        self.withheld = _withheld(settings, plugins)
        self._environment = settings.environment
        compiler = OfferCompiler(plugins, self.withheld, settings.check_replies, run_status_api)
        compiled = compiler.compile()
        self.loaded = compiled.loaded
        self.problems: list[PluginProblem] = [*plugins.problems, *compiled.problems]
        self.notes = plugins.notes
        # For pipelines that limit how many of their calls run at a time in a process.
        self.slots = {
            identifier: threading.BoundedSemaphore(item.pipeline.trigger.in_flight)
            for identifier, item in self.loaded.items()
            if item.pipeline.trigger.in_flight and not item.broken
        }
        self._offers = compiled.offers
        self._log = structlog.get_logger("penstock")

    @property
    def offered(self) -> dict[str, str]:
        """The plugin of each pipeline that was loaded, served or not, by id."""
        return {identifier: item.plugin for identifier, item in self.loaded.items()}

    def offers(self, identifier: str) -> list[Offer]:
        """Return all offers of one id: two or more where plugins share it, which blocks it."""
        return self._offers[identifier]

    @property
    def broken(self) -> frozenset[str]:
        """The ids of the pipelines whose declaration has a fault."""
        return frozenset(identifier for identifier, item in self.loaded.items() if item.broken)

    @cached_property
    def versions(self) -> Mapping[str, str]:
        """The version of each plugin by its name, read once: packages are slow to ask."""
        return plugin_versions(self.plugins)

    @cached_property
    def code(self) -> str:
        """A digest of the plugins, the pipelines and their versions.

        Processes of one digest serve the same, given the same access data.
        """
        versions = sorted(self.versions.items())
        failed = sorted({problem.plugin for problem in self.plugins.problems})
        pipelines = sorted(
            (identifier, item.pipeline.version, item.plugin, bool(item.broken))
            for identifier, item in self.loaded.items()
        )
        parts = own_version(), sorted(self.plugins.loaded), versions, failed, pipelines
        return sha256(repr(parts).encode("utf-8", "replace")).hexdigest()

    @property
    def queues(self) -> list[Queue]:
        """The queues of durable runs: one for each durable pipeline, one for its schedules."""
        durable = {
            identifier: item.pipeline for identifier, item in self.loaded.items() if item.durable
        }
        runs = [
            Queue(queue_of(self._environment, identifier), pipeline.durable.concurrency)
            for identifier, pipeline in durable.items()
        ]
        return runs + [
            Queue(ticks_of(self._environment, identifier), patient=True)
            for identifier, pipeline in durable.items()
            if pipeline.schedules
        ]

    def is_login_flow(self, identifier: str) -> bool:
        """Return whether the trigger of a pipeline has login=True.

        Without it a pipeline can't issue tokens, even where an operator has designated it.
        """
        item = self.loaded.get(identifier)
        return item is not None and item.pipeline.trigger.login

    def own_rates(self, identifier: str) -> list[str] | None:
        """Return the pipeline's rates that a consumer's limit overrides; None if not known."""
        item = self.loaded.get(identifier)
        if item is None or item.broken:
            return None
        return [
            str(rate)
            for rate in item.pipeline.trigger.rate
            if rate.by in OVERRIDDEN_BY_CONSUMER_LIMIT
        ]

    def faults(self, evaluated: Mapping[str, Evaluation]) -> list[PluginProblem]:
        """Return the faults of plugins, without those of pipelines that operators disabled."""
        return [
            problem
            for problem in self.problems
            if problem.id not in evaluated or evaluated[problem.id].state is not State.DISABLED
        ]

    def note_fault(self, fault: PluginFault) -> bool:
        """Add a fault of plugin code to the problems. Return whether it is new."""
        problem = _problem_of(fault)
        if problem in self.problems or len(self.problems) >= MAX_PROBLEMS:
            return False
        self.problems.append(problem)
        return True

    def report_fault(self, fault: PluginFault) -> None:
        """Add a fault of plugin code to the problems, and log it if it is new."""
        if self.note_fault(fault):
            for level, event, fields in problem_events(PLUGIN_ERROR, _problem_of(fault)):
                self._log.log(level, event, **fields)


def _problem_of(fault: PluginFault) -> PluginProblem:
    return PluginProblem(fault.plugin, "", fault.problem, FIX, trace=fault.trace)


def _withheld(settings: Settings, plugins: Plugins) -> Withheld:
    """Return the headers and query parameters that handlers don't get."""
    authenticators = plugins.authenticators
    headers = [
        *settings.api_key_headers,
        settings.client_cert_header,
        *(name for item in authenticators for name in item.credential_headers),
    ]
    parameters = (name for item in authenticators for name in item.credential_parameters)
    return Withheld.of(headers, parameters)
