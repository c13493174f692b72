"""A pipeline as its developer declares it: a name, a version, a trigger and handlers on routes."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from datetime import date, datetime
from functools import cached_property
from typing import Any, Literal, TypeVar

from penstock.contracts.options import (
    Problem,
    one_of,
    option,
    problems_of_options,
    seconds,
    several,
    whole_number,
)
from penstock.contracts.triggers import HttpTrigger, Schedule
from penstock.contracts.variables import SecretNeed, problems_of_needs

Handler = Callable[..., Any]
Mode = Literal["inline", "durable"]
RecordBodies = Literal["none", "failed", "all"]
F = TypeVar("F", bound=Handler)

NAME = re.compile(r"[a-z][a-z0-9]*(-[a-z0-9]+)*")
VERSION = re.compile(r"(0|[1-9]\d*)\.(0|[1-9]\d*)\.(0|[1-9]\d*)(?:[-+][0-9A-Za-z.+-]+)?")
MAX_NAME = 63
MAX_MAJOR_DIGITS = 15  # an id has 80 characters at most
MAX_CONCURRENCY = 10_000
MAX_RUN_S = 30 * 86_400.0
HIGHEST_PRIORITY, DEFAULT_PRIORITY, LOWEST_PRIORITY = 1, 5, 9  # of durable runs


@dataclass(frozen=True, slots=True)
class PluginProblem:
    """A fault of a plugin: where it is, what it is, and how its developer fixes it.

    `pipeline` and `id` name the pipeline that it blocks; both are empty if it blocks none.
    """

    plugin: str
    pipeline: str
    problem: str
    fix: str
    trace: str = field(default="", repr=False, compare=False)
    file: str = ""
    id: str = ""

    def __str__(self) -> str:
        """Return place, fault and fix in one line."""
        where = f"plugin {self.plugin}"
        if self.file and self.file not in self.problem:
            where += f" ({self.file})"
        if self.pipeline:
            where += f", pipeline {self.pipeline}"
        return f"{where}: {self.problem}; {self.fix}"


@dataclass(frozen=True, slots=True)
class Route:
    """One handler on one method and path below the pipeline's URL."""

    method: str
    path: str
    handler: Handler
    mode: Mode = option("inline", one_of(Mode, fix='write mode="durable", or leave it out'))
    priority: int = option(
        DEFAULT_PRIORITY,
        whole_number(
            HIGHEST_PRIORITY,
            LOWEST_PRIORITY,
            fault="is no priority",
            fix=f"give a number from {HIGHEST_PRIORITY}, the most urgent, to {LOWEST_PRIORITY}",
        ),
    )

    @property
    def durable(self) -> bool:
        """Whether its calls are accepted (202) and run in a worker process."""
        return self.mode == "durable"

    def problems(self) -> Iterable[Problem]:
        """Yield what is wrong with its options, each with its fix."""
        yield from problems_of_options(self, f"{self}: {{}}")

    def __str__(self) -> str:
        """Return method and path as the developer wrote them."""
        return f"{self.method} {self.path}"


@dataclass(frozen=True, slots=True)
class Durable:
    """Limits of a pipeline's durable runs.

    Example: `Durable(concurrency=4, timeout=3600)`.

    Args:
        concurrency: Runs at a time, over all processes. Default 0: no limit.
        backlog: Runs that may wait. Further calls are rejected (503). Default 10000.
        timeout: Longest duration of a run from its first start, in seconds. Default: one day.
        recoveries: Recoveries of a run whose worker process died. After them the run fails, since
            it may be the cause. Default 3.

    """

    concurrency: int = option(
        0,
        whole_number(
            0,
            MAX_CONCURRENCY,
            fault="is no number of runs",
            fix="give 1 or more, or 0 for no limit",
        ),
    )
    backlog: int = option(
        10_000, whole_number(1, fault="is no number of runs", fix="give 1 or more")
    )
    timeout: float = option(86_400.0, seconds(MAX_RUN_S))
    recoveries: int = option(3, whole_number(0, fault="is no number", fix="give 0 or more"))

    def problems(self) -> Iterable[Problem]:
        """Yield what is wrong with the limits, each with its fix."""
        yield from problems_of_options(self, "durable runs: {}")


class Pipeline:
    """A named, versioned workflow; its URL is `/v{major}/{name}` plus its routes.

    Example: `Pipeline("orders", version="1.2.0", trigger=HttpTrigger(api_key=True))`.

    A wrong declaration raises nothing here. All problems are reported together when the plugin is
    loaded, and block the pipeline.

    Args:
        name: Part of the URL: lower-case letters, digits and single dashes, 63 at most.
        version: Semantic version. Its major number is part of the URL.
        trigger: An `HttpTrigger`, a `Schedule`, or a list of schedules with at most one
            `HttpTrigger`. Without an `HttpTrigger` the pipeline has no URL.
        summary: One line for the OpenAPI document and the console.
        needs: Variables and secrets that the pipeline requires: `{"erp_url", secret("erp_token")}`.
            A missing one blocks the pipeline.
        durable: Limits of its durable runs, for example `Durable(concurrency=4)`.
        sensitive: Fields of bodies that are never stored, by name or as a JSON Pointer: `{"iban",
            "/card/number"}`.
        record_bodies: Runs whose bodies are stored: "failed" (default), "all" or "none".
        deprecated: Date since when the pipeline is deprecated (RFC 9745), or True. Every reply has
            the header.
        sunset: Date when it is expected to end (RFC 8594). Every reply has the header.

    """

    def __init__(  # noqa: PLR0913  one argument a property of a pipeline
        self,
        name: str,
        *,
        version: str,
        trigger: HttpTrigger | Schedule | Iterable[HttpTrigger | Schedule],
        summary: str = "",
        needs: Iterable[str | SecretNeed] = (),
        durable: Durable = Durable(),
        sensitive: Iterable[str] = (),
        record_bodies: RecordBodies = "failed",
        deprecated: date | bool = False,
        sunset: date | None = None,
    ) -> None:
        self.name = name
        self.version = version
        self._triggers = several(trigger, HttpTrigger)
        over_http = [item for item in self._triggers if isinstance(item, HttpTrigger)]
        self.trigger = over_http[0] if over_http else HttpTrigger(external=False)
        self.schedules = tuple(item for item in self._triggers if isinstance(item, Schedule))
        self.durable = durable
        self.sensitive = frozenset(several(sensitive, str))
        self.record_bodies = record_bodies
        self.summary = summary
        self.needs = frozenset(several(needs, str))
        self.deprecated = deprecated
        self.sunset = sunset
        self.routes: list[Route] = []

    @property
    def major(self) -> int:
        """The major version, which is part of the URL."""
        return int(self.version.split(".", 1)[0])

    @cached_property
    def id(self) -> str:
        """Major version and name, as in the URL: `v1/orders`."""
        return f"v{self.major}/{self.name}"

    @property
    def url(self) -> str:
        """The path of the pipeline; all its routes are below it."""
        return f"/{self.id}"

    def route(
        self, method: str, path: str, *, mode: Mode = "inline", priority: int = DEFAULT_PRIORITY
    ) -> Callable[[F], F]:
        """Register a handler for a method and a path, such as `/{order_id}`.

        Args:
            method: HTTP method, in capitals.
            path: Path below the pipeline's URL, with parameters in braces.
            mode: "inline" (default) answers the call. "durable" accepts it (202) and runs the
                handler in a worker process; the run survives a crash of any process.
            priority: Priority of durable runs: 1 runs first, 9 last. Default 5.

        """

        def add(handler: F) -> F:
            self.routes.append(Route(method, path, handler, mode, priority))
            return handler

        return add

    def get(self, path: str) -> Callable[[F], F]:
        """Register a handler for GET (and HEAD)."""
        return self.route("GET", path)

    def post(
        self, path: str, *, mode: Mode = "inline", priority: int = DEFAULT_PRIORITY
    ) -> Callable[[F], F]:
        """Register a handler for POST."""
        return self.route("POST", path, mode=mode, priority=priority)

    def put(
        self, path: str, *, mode: Mode = "inline", priority: int = DEFAULT_PRIORITY
    ) -> Callable[[F], F]:
        """Register a handler for PUT."""
        return self.route("PUT", path, mode=mode, priority=priority)

    def patch(
        self, path: str, *, mode: Mode = "inline", priority: int = DEFAULT_PRIORITY
    ) -> Callable[[F], F]:
        """Register a handler for PATCH."""
        return self.route("PATCH", path, mode=mode, priority=priority)

    def delete(
        self, path: str, *, mode: Mode = "inline", priority: int = DEFAULT_PRIORITY
    ) -> Callable[[F], F]:
        """Register a handler for DELETE."""
        return self.route("DELETE", path, mode=mode, priority=priority)

    def url_problems(self) -> Iterable[Problem]:
        """Yield why the pipeline can't have a URL, each with its fix."""
        if (
            not isinstance(self.name, str)
            or not NAME.fullmatch(self.name)
            or len(self.name) > MAX_NAME
        ):
            yield (
                f"the name {self.name!r} is not fit for a URL",
                "use lower-case letters, digits and single dashes, 63 at most",
            )
        if not isinstance(self.version, str) or not VERSION.fullmatch(self.version):
            yield (
                f"the version {self.version!r} is not a version",
                'write three numbers, such as "1.4.0" (semver.org)',
            )
        elif len(self.version.partition(".")[0]) > MAX_MAJOR_DIGITS:
            yield (
                f"the major version of {self.version!r} is too long",
                f"use {MAX_MAJOR_DIGITS} digits at most",
            )
        over_http = sum(isinstance(item, HttpTrigger) for item in self._triggers)
        if over_http > 1:
            yield f"it has {over_http} HttpTriggers", "keep one, with the options of both"
        elif over_http + len(self.schedules) < max(1, len(self._triggers)):
            yield (
                "the trigger is no trigger",
                "give trigger=HttpTrigger(…), a Schedule(…), or both in a list",
            )

    def problems(self) -> Iterable[Problem]:
        """Yield what else is wrong with the declaration, each with its fix."""
        yield from self.trigger.problems()
        for schedule in self.schedules:
            yield from schedule.problems()
        for (cron, timezone, path), number in Counter(
            (item.cron, item.timezone, item.path) for item in self.schedules
        ).items():
            if number > 1:
                problem = f"the schedule {cron!r} ({timezone}) of {path} is declared {number} times"
                yield f"{problem}, and each tick has one run", "give each its own path or time"
        yield from problems_of_needs(self.needs)
        yield from self._date_problems()
        yield from self._run_problems()
        if not self.routes:
            yield "it has no handler", 'put one on a route, such as @pipeline.post("/")'

    def _date_problems(self) -> Iterable[Problem]:
        since, end = self.deprecated, self.sunset
        if not isinstance(since, bool) and not _is_day(since):
            yield f"deprecated={since!r} is no date", "write deprecated=date(2027, 1, 31), or True"
        elif end is not None and not _is_day(end):
            yield f"sunset={end!r} is no date", "write sunset=date(2027, 1, 31)"
        elif end is not None and not isinstance(since, bool) and end < since:
            yield "it ends before it is deprecated", "set sunset to the later date"

    def _run_problems(self) -> Iterable[Problem]:
        """Yield what is wrong with its runs and their records, each with its fix."""
        if isinstance(self.durable, Durable):
            yield from self.durable.problems()
        else:
            yield f"durable={self.durable!r} is no Durable", "give durable=Durable(concurrency=4)"
        for route in self.routes:
            yield from route.problems()
            if route.durable:
                yield from self._durable_problems(route)
        for item in sorted(self.sensitive, key=str):
            if (
                not isinstance(item, str)
                or not item
                or (item.startswith("/") and re.search(r"~(?![01])", item))
            ):
                yield (
                    f"sensitive={item!r} names nothing",
                    'write a field such as "password", or a JSON Pointer such as "/card/number"',
                )
        if not isinstance(self.summary, str):
            yield f"summary={self.summary!r} is no text", 'write one line, such as "Create orders"'
        yield from one_of(RecordBodies).problems("record_bodies", self.record_bodies)

    def _durable_problems(self, route: Route) -> Iterable[Problem]:
        """Yield why a route can't be durable, each with its fix."""
        if route.method == "GET":
            yield f"{route}: a GET must be answered at once, and a durable run is not", "use POST"
        if not self.trigger.toggles and (self.trigger.external or self.trigger.internal):
            problem = "a durable run belongs to a consumer, and the trigger requires no credential"
            yield f"{route}: {problem}", 'set api_key=True, or drop mode="durable"'
        if self.trigger.login:
            yield f"{route}: a login flow must answer at once", 'drop mode="durable"'

    def __repr__(self) -> str:
        """Return name and version."""
        return f"<Pipeline {self.name} {self.version}>"


def _is_day(value: object) -> bool:
    return isinstance(value, date) and not isinstance(value, datetime)
