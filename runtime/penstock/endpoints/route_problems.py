"""Find the faults of routes that a developer must fix before the pipeline can be served."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec

from penstock.contracts.call import Call
from penstock.contracts.pipeline import Handler, Pipeline, Route
from penstock.contracts.steps import Step
from penstock.endpoints.annotation_checks import is_generator, reply_problem
from penstock.endpoints.annotations import type_name
from penstock.endpoints.decoders import MULTIPART
from penstock.endpoints.endpoint import Endpoint
from penstock.errors import Refusal

METHODS = ("GET", "POST", "PUT", "PATCH", "DELETE")


SEGMENT = re.compile(r"[A-Za-z0-9._~-]+")


PARAMETER = re.compile(r"\{([a-z_][a-z0-9_]*)\}")


@dataclass(frozen=True, slots=True)
class Problem:
    """A fault of a route, and how to fix it."""

    problem: str
    fix: str


def durable_problems(endpoints: Sequence[Endpoint]) -> Iterable[Problem]:
    """Yield why routes of a pipeline with durable runs can't work."""
    for endpoint in endpoints:
        if endpoint.route.path.strip("/").split("/")[0] == "runs":
            yield Problem(
                f"{endpoint.route} is in the way: below /runs callers look up the durable runs of"
                " this pipeline",
                "give it another path",
            )
        if (
            endpoint.route.durable
            and endpoint.body is not None
            and endpoint.body.media == MULTIPART
        ):
            yield Problem(
                f"{endpoint.route}: a durable run can't take files, which are gone when the call"
                " ends",
                "take bytes: body: bytes",
            )


def step_problems(endpoints: Sequence[Endpoint]) -> Iterable[Problem]:
    """Yield why results of steps can't be decoded, for steps in modules of handlers."""
    steps: dict[int, Step[..., Any]] = {}
    for endpoint in endpoints:
        function = inspect.unwrap(endpoint.route.handler)
        cells = getattr(function, "__closure__", None) or ()
        named = [
            *getattr(function, "__globals__", {}).values(),
            *(cell.cell_contents for cell in cells if _is_filled(cell)),
        ]
        steps |= {id(value): value for value in named if isinstance(value, Step)}
    for step in steps.values():
        try:
            _ = step.returns
        except Exception as error:  # noqa: BLE001  an annotation may be anything
            fix = "import the names that its annotations use, not only under TYPE_CHECKING"
            yield Problem(f"the step {step.name}: its annotation can't be understood: {error}", fix)


def _is_filled(cell: Any) -> bool:  # noqa: ANN401  a cell of a closure
    try:
        cell.cell_contents  # noqa: B018  it raises where nothing was put in yet
    except ValueError:
        return False
    return True


def schedule_problems(pipeline: Pipeline, endpoints: Sequence[Endpoint]) -> Iterable[Problem]:
    """Yield why schedules of a pipeline can't start its handlers."""
    for schedule in pipeline.schedules:
        where = f"the schedule {schedule.cron!r}"
        handlers = [
            endpoint
            for endpoint in endpoints
            if endpoint.route.method == "POST" and endpoint.route.path == schedule.path
        ]
        if not handlers or handlers[0].in_path:
            yield Problem(
                f"{where} has no handler",
                f'put one on @pipeline.post("{schedule.path}"), without parameters in its path',
            )
            continue
        try:
            body = b"" if schedule.body is None else msgspec.json.encode(schedule.body)
            handlers[0].read(_scheduled_call(pipeline, body))
        except (TypeError, ValueError, Refusal) as error:
            faults = error.extra.get("errors") if isinstance(error, Refusal) else None
            yield Problem(
                f"{where}: its body does not fit its handler: {_in_words(faults) or error}",
                "give Schedule(…, body=…) what the handler takes",
            )


def _in_words(faults: object) -> str:
    """Return the faults of a body in one line, each with its JSON Pointer."""
    if not isinstance(faults, list):
        return ""
    return ", ".join(
        f"{fault['pointer']}: {fault['detail']}" if fault.get("pointer") else str(fault["detail"])
        for fault in faults
    )


def _scheduled_call(pipeline: Pipeline, body: bytes) -> Call:
    return Call(
        method="POST",
        path=pipeline.url,
        pipeline=pipeline.name,
        version=pipeline.version,
        environment="",
        run="",
        deadline=0.0,
        content_type="application/json" if body else "",
        read_body=lambda: body,
    )


def path_problems(route: Route) -> Iterable[Problem]:
    """Yield what is wrong with the method and the path of a route."""
    if route.method not in METHODS:
        yield Problem(f"{route}: the method is unknown", f"use one of {', '.join(METHODS)}")
    if not isinstance(route.path, str):
        yield Problem(f"{route}: {route.path!r} is no path", 'write one such as "/{order_id}"')
        return
    if not route.path.startswith("/"):
        yield Problem(
            f"{route} can't be reached: paths begin with a slash", f'write "/{route.path}"'
        )
        return
    segments = route.path.strip("/").split("/") if route.path.strip("/") else []
    if "//" in route.path:
        yield Problem(f"{route} can't be reached: it has an empty segment", "drop the second slash")
    for segment in segments:
        if segment in {".", ".."} or not (
            SEGMENT.fullmatch(segment) or PARAMETER.fullmatch(segment) or not segment
        ):
            yield Problem(
                f"{route} can't be reached: {segment!r} is no path segment",
                "use letters, digits and -._~, or one {parameter} for a whole segment",
            )
    names = PARAMETER.findall(route.path)
    for name in sorted({name for name in names if names.count(name) > 1}):
        yield Problem(f"{route} names the parameter {name!r} twice", "give each its own name")


def reply_problems(where: str, handler: Handler, kind: Any) -> Iterable[Problem]:  # noqa: ANN401  any annotation
    """Yield why no result of a handler can be sent."""
    fix = "return a dict, a dataclass, a list, text, bytes, None or a Reply"
    if is_generator(handler):
        yield Problem(f"{where} yields: a reply is sent as a whole", fix)
    elif problem := reply_problem(kind):
        yield Problem(f"{where}: its reply can't be a {type_name(kind)}: {problem}", fix)
