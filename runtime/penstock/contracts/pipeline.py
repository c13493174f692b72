"""A pipeline as its developer declares it: a name, a version, a trigger and handlers on routes."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from datetime import date, datetime
from functools import cached_property
from typing import Any, TypeVar

from penstock.contracts.triggers import HttpTrigger, Schedule
from penstock.contracts.variables import SecretNeed
from penstock.contracts.variables import problems_of as needs_problems

Handler = Callable[..., Any]
F = TypeVar("F", bound=Handler)

NAME = re.compile(r"[a-z][a-z0-9]*(-[a-z0-9]+)*")
VERSION = re.compile(r"(0|[1-9]\d*)\.(0|[1-9]\d*)\.(0|[1-9]\d*)(?:[-+][0-9A-Za-z.+-]+)?")
MAX_NAME = 63
MAX_MAJOR = 15  # digits: an id has 80 characters at most
MAX_CONCURRENCY = 10_000
MAX_RUN = 30 * 86_400.0  # seconds
URGENT, USUAL, LEAST = 1, 5, 9  # priorities of durable runs


@dataclass(frozen=True, slots=True)
class PluginProblem:
    """A fault of a plugin: where it is, what it is, and how its developer corrects it.

    `id` is that of the pipeline it stops, if any.
    """

    plugin: str
    pipeline: str
    problem: str
    fix: str
    trace: str = field(default="", repr=False, compare=False)
    file: str = ""
    id: str = ""

    def __str__(self) -> str:
        """Say it in one line."""
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
    mode: str = "inline"
    priority: int = USUAL

    @property
    def durable(self) -> bool:
        """Whether its calls are accepted, and run in a worker."""
        return self.mode == "durable"

    def problems(self) -> Iterable[tuple[str, str]]:
        """Yield what makes no sense about how it runs, each with its mend."""
        if self.mode not in {"inline", "durable"}:
            yield (
                f"{self}: mode={self.mode!r} is not known",
                'write mode="durable", or leave it out',
            )
        if type(self.priority) is not int or not URGENT <= self.priority <= LEAST:
            yield (
                f"{self}: priority={self.priority!r} is none",
                f"give a number from {URGENT}, the most urgent, to {LEAST}",
            )

    def __str__(self) -> str:
        """Name it as the developer wrote it."""
        return f"{self.method} {self.path}"


@dataclass(frozen=True, slots=True)
class Durable:
    """How a pipeline's durable runs are held.

    Args:
        concurrency: How many run at a time, over all processes; 0 is no limit.
        backlog: How many may wait; past it calls are answered 503.
        timeout: The longest a run may take from its first start, in seconds.
        recoveries: How often a run may be taken over from a worker that died in it, before it
            counts as failed: it may be what kills them.

    """

    concurrency: int = 0
    backlog: int = 10_000
    timeout: float = 86_400.0
    recoveries: int = 3

    def problems(self) -> Iterable[tuple[str, str]]:
        """Yield what makes no sense, each with its mend."""
        if type(self.concurrency) is not int or not 0 <= self.concurrency <= MAX_CONCURRENCY:
            yield (
                f"concurrency={self.concurrency!r} is no number of runs",
                "give 1 or more, or 0 for no limit",
            )
        if type(self.backlog) is not int or self.backlog < 1:
            yield f"backlog={self.backlog!r} is no number of runs", "give 1 or more"
        if not isinstance(self.timeout, int | float) or not 0 < self.timeout <= MAX_RUN:
            yield (
                f"the timeout {self.timeout!r} of durable runs is out of bounds",
                f"give seconds above 0, at most {MAX_RUN:g}",
            )
        if type(self.recoveries) is not int or self.recoveries < 0:
            yield f"recoveries={self.recoveries!r} is no number", "give 0 or more"


class Pipeline:
    """A named, versioned workflow; its URL is `/v{major}/{name}` plus its routes.

    `needs` are the variables and secrets that it can't do without: `{"erp_url",
    secret("erp_token")}`; where one is not set, the pipeline is refused. `deprecated` is since when
    nobody should build on it (RFC 9745), or True, `sunset` when it is expected to end (RFC 8594):
    both are said in every reply. `trigger` is an `HttpTrigger`, a `Schedule`, or several schedules
    beside one `HttpTrigger`; without that nobody reaches it over HTTP. `durable` says how its
    durable runs are held. `record_bodies` is whose bodies are kept with the record of a run: those
    of "failed" runs, of "all" or of "none"; what `sensitive` names, by field or as a JSON Pointer,
    is never among it. What is wrong with a declaration is reported when the plugin is loaded, all
    at once, not raised here.
    """

    def __init__(  # noqa: PLR0913  one argument a promise
        self,
        name: str,
        *,
        version: str,
        trigger: HttpTrigger | Schedule | Iterable[HttpTrigger | Schedule],
        summary: str = "",
        needs: Iterable[str | SecretNeed] = (),
        durable: Durable = Durable(),
        sensitive: Iterable[str] = (),
        record_bodies: str = "failed",
        deprecated: date | bool = False,
        sunset: date | None = None,
    ) -> None:
        self.name = name
        self.version = version
        self._triggers = tuple(trigger) if isinstance(trigger, Iterable) else (trigger,)
        over_http = [item for item in self._triggers if isinstance(item, HttpTrigger)]
        self.trigger = over_http[0] if over_http else HttpTrigger(external=False)
        self.schedules = tuple(item for item in self._triggers if isinstance(item, Schedule))
        self.durable = durable
        self.sensitive = frozenset({sensitive} if isinstance(sensitive, str) else sensitive)
        self.record_bodies = record_bodies
        self.summary = summary
        self.needs = frozenset({needs} if isinstance(needs, str | SecretNeed) else needs)
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
        """The path below which all its routes are."""
        return f"/{self.id}"

    def route(
        self, method: str, path: str, *, mode: str = "inline", priority: int = USUAL
    ) -> Callable[[F], F]:
        """Put a handler on a method and a path, such as `/{order_id}`.

        With `mode="durable"` its calls are accepted (202) and run in a worker, whatever happens to
        processes meanwhile, those with the lowest `priority` first.
        """

        def add(handler: F) -> F:
            self.routes.append(Route(method, path, handler, mode, priority))
            return handler

        return add

    def get(self, path: str) -> Callable[[F], F]:
        """Put a handler on GET (and HEAD)."""
        return self.route("GET", path)

    def post(self, path: str, *, mode: str = "inline", priority: int = USUAL) -> Callable[[F], F]:
        """Put a handler on POST."""
        return self.route("POST", path, mode=mode, priority=priority)

    def put(self, path: str, *, mode: str = "inline", priority: int = USUAL) -> Callable[[F], F]:
        """Put a handler on PUT."""
        return self.route("PUT", path, mode=mode, priority=priority)

    def patch(self, path: str, *, mode: str = "inline", priority: int = USUAL) -> Callable[[F], F]:
        """Put a handler on PATCH."""
        return self.route("PATCH", path, mode=mode, priority=priority)

    def delete(self, path: str, *, mode: str = "inline", priority: int = USUAL) -> Callable[[F], F]:
        """Put a handler on DELETE."""
        return self.route("DELETE", path, mode=mode, priority=priority)

    def url_problems(self) -> Iterable[tuple[str, str]]:
        """Yield why it has no URL at all, each with its mend."""
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
        elif len(self.version.partition(".")[0]) > MAX_MAJOR:
            yield (
                f"the major version of {self.version!r} is too long",
                f"use {MAX_MAJOR} digits at most",
            )
        over_http = sum(isinstance(item, HttpTrigger) for item in self._triggers)
        if over_http > 1 or over_http + len(self.schedules) < max(1, len(self._triggers)):
            yield (
                "the trigger is no trigger",
                "give trigger=HttpTrigger(…), a Schedule(…), or both in a list",
            )

    def problems(self) -> Iterable[tuple[str, str]]:
        """Yield what else is wrong with its declaration, each with its mend."""
        yield from self.trigger.problems()
        for schedule in self.schedules:
            yield from schedule.problems()
        for (cron, timezone, path), number in Counter(
            (item.cron, item.timezone, item.path) for item in self.schedules
        ).items():
            if number > 1:
                yield (
                    (
                        f"the schedule {cron!r} ({timezone}) of {path} is there {number} times, and"
                        " each tick has one run"
                    ),
                    "give each its own path or time",
                )
        yield from needs_problems(self.needs)
        yield from self._date_problems()
        yield from self._run_problems()
        if not self.routes:
            yield "it has no handler", 'put one on a route, such as @pipeline.post("/")'

    def _date_problems(self) -> Iterable[tuple[str, str]]:
        since, end = self.deprecated, self.sunset
        if not isinstance(since, bool) and not _is_day(since):
            yield f"deprecated={since!r} is no date", "write deprecated=date(2027, 1, 31), or True"
        elif end is not None and not _is_day(end):
            yield f"sunset={end!r} is no date", "write sunset=date(2027, 1, 31)"
        elif end is not None and not isinstance(since, bool) and end < since:
            yield "it ends before it is deprecated", "let sunset be the later date"

    def _run_problems(self) -> Iterable[tuple[str, str]]:
        """Yield what makes no sense about its runs and their records."""
        if isinstance(self.durable, Durable):
            yield from self.durable.problems()
        else:
            yield (
                f"durable={self.durable!r} says nothing of runs",
                "give durable=Durable(concurrency=4)",
            )
        for route in self.routes:
            yield from route.problems()
            if route.durable and route.method == "GET":
                yield (
                    f"{route}: a GET asks for an answer, and a durable run gives it later",
                    "use POST",
                )
            if (
                route.durable
                and not self.trigger.toggles
                and (self.trigger.external or self.trigger.internal)
            ):
                yield (
                    (
                        f"{route}: a durable run is its consumer's alone, and it does not ask who"
                        " calls"
                    ),
                    'set api_key=True, or drop mode="durable"',
                )
            if route.durable and self.trigger.login:
                yield f"{route}: a login flow answers at once", 'drop mode="durable"'
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
        if self.record_bodies not in {"none", "failed", "all"}:
            yield (
                f"record_bodies={self.record_bodies!r} is not known",
                'write "none", "failed" or "all"',
            )

    def __repr__(self) -> str:
        """Name it."""
        return f"<Pipeline {self.name} {self.version}>"


def _is_day(value: object) -> bool:
    return isinstance(value, date) and not isinstance(value, datetime)
