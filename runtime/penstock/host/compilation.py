"""Compile the pipelines that plugins offer, and find the faults of their declarations.

A declaration is plugin code: it may raise anything, and it may have any name. A fault of one
pipeline blocks that pipeline and no other.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from functools import partial

from penstock.contracts.pipeline import Pipeline, PluginProblem
from penstock.contracts.policies import Violation
from penstock.contracts.withheld import Withheld
from penstock.durable.run_endpoints import RunStatusApi, run_endpoints
from penstock.endpoints.compiler import compile_routes
from penstock.endpoints.endpoint import Endpoint
from penstock.plugins.guard import PluginFault, call_plugin
from penstock.plugins.offers import Offer, Plugins

Problem = tuple[str, str]  # a fault and its fix


@dataclass(frozen=True, slots=True)
class LoadedPipeline:
    """A pipeline as it was loaded: its plugin, its endpoints and the faults of its declaration."""

    plugin: str
    pipeline: Pipeline
    endpoints: tuple[Endpoint, ...]
    broken: tuple[Violation, ...] = ()

    @property
    def durable(self) -> bool:
        """Whether the pipeline has durable runs: of calls, or by a schedule."""
        return bool(self.endpoints) and (
            bool(self.pipeline.schedules)
            or any(endpoint.route.durable for endpoint in self.endpoints)
        )


@dataclass(slots=True)
class CompiledOffers:
    """All pipelines of a process by id, the offers behind each, and the faults found."""

    loaded: dict[str, LoadedPipeline] = field(default_factory=dict)
    offers: defaultdict[str, list[Offer]] = field(default_factory=lambda: defaultdict(list))
    problems: list[PluginProblem] = field(default_factory=list)


class OfferCompiler:
    """Compiles every offered pipeline. Used once, when a process starts."""

    def __init__(
        self,
        plugins: Plugins,
        withheld: Withheld,
        check_replies: str,
        run_status_api: Callable[[], RunStatusApi],
    ) -> None:
        self._plugins = plugins
        self._withheld = withheld
        self._check_replies = check_replies
        self._run_status_api = run_status_api
        self._compiled = CompiledOffers()

    def compile(self) -> CompiledOffers:
        """Return all offered pipelines, compiled, with the faults of those that are broken."""
        named = [
            (offer, identity)
            for offer in self._plugins.offers
            if (identity := self._identity(offer)) is not None
        ]
        declared = Counter(identifier for _, (identifier, _) in named)
        owners: defaultdict[str, set[str]] = defaultdict(set)
        for offer, (_, name) in named:
            owners[name].add(offer.plugin)
        for offer, (identifier, name) in named:
            endpoints, problems = self._endpoints(offer)
            if declared[identifier] > 1:
                problems.append(
                    (
                        f"{identifier} is declared {declared[identifier]} times",
                        "keep one, or give them different major versions",
                    )
                )
            problems += self._credential_parameters(offer.pipeline, endpoints)
            if others := sorted(owners[name] - {offer.plugin}):
                problems.append(
                    (
                        f"the name {name} is also offered by plugin {', '.join(others)}",
                        "a name belongs to one plugin: rename one of them",
                    )
                )
            self._add(offer, (identifier, name), endpoints, problems)
        return self._compiled

    def _add(
        self,
        offer: Offer,
        identity: tuple[str, str],
        endpoints: list[Endpoint],
        problems: list[Problem],
    ) -> None:
        """Add a pipeline; where its id was declared before, the faults of both add up."""
        identifier, name = identity
        self._compiled.offers[identifier].append(offer)
        self._compiled.problems += [
            self._problem(offer, name, *problem, identifier=identifier) for problem in problems
        ]
        if any(endpoint.route.durable for endpoint in endpoints):
            endpoints += run_endpoints(offer.pipeline, self._run_status_api)
        broken = tuple(Violation(*problem) for problem in problems)
        before = self._compiled.loaded.get(identifier)
        broken += before.broken if before else ()
        self._compiled.loaded[identifier] = LoadedPipeline(
            offer.plugin, offer.pipeline, () if broken else tuple(endpoints), broken
        )

    def _identity(self, offer: Offer) -> tuple[str, str] | None:
        """Return a pipeline's id and name. Without a valid URL: note the faults, return None."""
        pipeline = offer.pipeline

        def read() -> tuple[list[Problem], str, str]:
            problems = list(pipeline.url_problems())
            return problems, "" if problems else pipeline.id, str(pipeline.name)

        try:
            problems, identifier, name = call_plugin(
                offer.plugin, "the declaration of a pipeline", read
            )
        except PluginFault as fault:
            problems = [(fault.problem, "give name and version as their documentation says")]
            identifier = name = ""
        self._compiled.problems += [self._problem(offer, name, *problem) for problem in problems]
        return None if problems else (identifier, name)

    def _endpoints(self, offer: Offer) -> tuple[list[Endpoint], list[Problem]]:
        """Return a pipeline's endpoints, and the faults of its declaration."""
        compile_one = partial(_compile, offer.pipeline, self._check_replies)
        try:
            return call_plugin(offer.plugin, "the declaration", compile_one)
        except PluginFault as fault:
            problem = fault.problem.removeprefix("the declaration raised ")
            return [], [
                (
                    f"its declaration can't be understood: {problem}",
                    "give each option the value that its documentation describes",
                )
            ]

    def _credential_parameters(
        self, pipeline: Pipeline, endpoints: Iterable[Endpoint]
    ) -> Iterator[Problem]:
        """Yield the parameters of handlers that would hold a credential.

        Handlers get no credentials, except the token where the trigger has forward_token=True.
        """
        for endpoint in endpoints:
            for parameter in endpoint.parameters:
                name = parameter.sent_as.lower()
                withheld = (
                    parameter.sent_as in self._withheld.parameters
                    if parameter.place == "query"
                    else name in self._withheld.headers
                )
                if withheld and not (
                    parameter.place == "header"
                    and name == "authorization"
                    and pipeline.trigger.forward_token
                ):
                    problem = (
                        f"{endpoint.route}: the {parameter.place} {parameter.sent_as} holds a"
                        " credential, which handlers don't get"
                    )
                    fix = (
                        "use call.caller; to forward the token, set forward_token=True on its"
                        " HttpTrigger"
                    )
                    yield problem, fix

    def _problem(
        self, offer: Offer, name: str, problem: str, fix: str, *, identifier: str = ""
    ) -> PluginProblem:
        file = self._plugins.files.get(offer.plugin, "")
        return PluginProblem(offer.plugin, name, problem, fix, file=file, id=identifier)


def _compile(pipeline: Pipeline, check_replies: str) -> tuple[list[Endpoint], list[Problem]]:
    """Return a pipeline's endpoints, and the faults of its declaration."""
    endpoints, route_problems = compile_routes(pipeline, check_replies=check_replies)
    problems = [(item.problem, item.fix) for item in route_problems]
    problems += [
        problem
        for problem in pipeline.problems()
        if problem[0] != "it has no handler" or not route_problems
    ]
    return endpoints, problems
