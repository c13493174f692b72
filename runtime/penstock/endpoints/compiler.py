"""Compile handlers at load.

What each parameter is, how the body is decoded, which route leads to which.
"""

from __future__ import annotations

import inspect
import re
import typing
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec

from penstock.contracts.call import Call
from penstock.contracts.pipeline import Handler, Pipeline, Route
from penstock.contracts.steps import Step
from penstock.endpoints.annotations import is_generator, reply_problem, text_problem, type_name
from penstock.endpoints.decoders import MULTIPART, Body, compile_body
from penstock.endpoints.parameters import Parameter, compile_parameter, read_parameters
from penstock.endpoints.replies import Check
from penstock.endpoints.reply_checks import OFF, reply_check
from penstock.errors import Refusal

METHODS = ("GET", "POST", "PUT", "PATCH", "DELETE")
BODILESS = frozenset({"GET", "DELETE"})
SEGMENT = re.compile(r"[A-Za-z0-9._~-]+")
PARAMETER = re.compile(r"\{([a-z_][a-z0-9_]*)\}")
SCALARS = (str, int, float, bool)


@dataclass(frozen=True, slots=True)
class Endpoint:
    """A handler ready to be called.

    `run(call)` decodes what it asks for, as `read(call)` does alone, and returns what it returned.

    `kinds` are the types of its route parameters, `parameters` what it takes from the query and
    from headers, `body` how its body is read (None: it takes none), `returns` the type of its reply
    (None: it does not say). `of_runtime` says that it is no developer's: it is not recorded as a
    run. `check` raises ValueError for a reply that does not match `returns`. `name` is its method
    and path, as declared; `where` also names its function, file and line.
    """

    pipeline: Pipeline
    route: Route
    in_path: tuple[str, ...]
    run: Callable[[Call], object]
    read: Callable[[Call], Mapping[str, object]]
    kinds: Mapping[str, Any]
    parameters: tuple[Parameter, ...]
    body: Body | None
    returns: Any
    of_runtime: bool = False
    check: Check | None = None
    name: str = field(init=False)
    where: str = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "name", str(self.route))
        object.__setattr__(self, "where", _named(self.route) + _placed(self.route.handler))


def _named(route: Route) -> str:
    return f"handler {getattr(route.handler, '__name__', route.handler)!s} of {route}"


def _placed(handler: Handler) -> str:
    """Return the source of a handler, such as ` (plugins/orders.py:12)`, empty if it is unknown."""
    code = getattr(inspect.unwrap(handler), "__code__", None)
    return (
        f" ({'/'.join(Path(code.co_filename).parts[-2:])}:{code.co_firstlineno})"
        if code is not None
        else ""
    )


@dataclass(frozen=True, slots=True)
class Problem:
    """What is wrong with a route, and its mend."""

    problem: str
    fix: str


def compile_routes(
    pipeline: Pipeline, *, check_replies: str = OFF
) -> tuple[list[Endpoint], list[Problem]]:
    """Return a pipeline's endpoints, and everything that is wrong with its routes."""
    endpoints: list[Endpoint] = []
    problems: list[Problem] = []
    seen: dict[tuple[str, str], Route] = {}
    for route in pipeline.routes:
        wrong = list(_path_problems(route))
        if not wrong:
            shape = (route.method, PARAMETER.sub("{}", route.path.rstrip("/")))
            if shape in seen:
                wrong = [
                    Problem(
                        f"{route} can't be reached: {seen[shape]} takes the same calls",
                        "give the two handlers different paths or methods",
                    )
                ]
            seen.setdefault(shape, route)
        if not wrong:
            endpoint, wrong = _compile(pipeline, route, check_replies)
            endpoints += [endpoint] if endpoint else []
        problems += wrong
    if any(route.durable for route in pipeline.routes):
        problems += _durable_problems(endpoints)
    problems += _step_problems(endpoints)
    return endpoints, problems + list(_schedule_problems(pipeline, endpoints))


def _durable_problems(endpoints: Sequence[Endpoint]) -> Iterable[Problem]:
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


def _step_problems(endpoints: Sequence[Endpoint]) -> Iterable[Problem]:
    """Yield steps whose results could not be read again.

    It knows the steps that handlers and their modules name.
    """
    found: dict[int, Step[..., Any]] = {}
    for endpoint in endpoints:
        function = inspect.unwrap(endpoint.route.handler)
        cells = getattr(function, "__closure__", None) or ()
        named = [
            *getattr(function, "__globals__", {}).values(),
            *(cell.cell_contents for cell in cells if _is_filled(cell)),
        ]
        found |= {id(value): value for value in named if isinstance(value, Step)}
    for step in found.values():
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


def _schedule_problems(pipeline: Pipeline, endpoints: Sequence[Endpoint]) -> Iterable[Problem]:
    for schedule in pipeline.schedules:
        where = f"the schedule {schedule.cron!r}"
        found = [
            endpoint
            for endpoint in endpoints
            if endpoint.route.method == "POST" and endpoint.route.path == schedule.path
        ]
        if not found or found[0].in_path:
            yield Problem(
                f"{where} has no handler",
                f'put one on @pipeline.post("{schedule.path}"), without parameters in its path',
            )
            continue
        try:
            sent = b"" if schedule.body is None else msgspec.json.encode(schedule.body)
            found[0].read(_made_by_hand(pipeline, sent))
        except (TypeError, ValueError, Refusal) as error:
            faults = error.extra.get("errors") if isinstance(error, Refusal) else None
            yield Problem(
                f"{where}: its body does not fit its handler: {faults or error}",
                "give Schedule(…, body=…) what the handler takes",
            )


def _made_by_hand(pipeline: Pipeline, body: bytes) -> Call:
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


def _path_problems(route: Route) -> Iterable[Problem]:
    if route.method not in METHODS:
        yield Problem(f"{route}: the method is unknown", f"use one of {', '.join(METHODS)}")
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


def _compile(
    pipeline: Pipeline, route: Route, check_replies: str
) -> tuple[Endpoint | None, list[Problem]]:
    handler = route.handler
    where = _named(route)
    if inspect.iscoroutinefunction(handler) or inspect.isasyncgenfunction(handler):
        return None, [Problem(f"{where} is async, which the runtime is not", "write it with def")]
    try:
        signature = inspect.signature(handler)
        hints = typing.get_type_hints(handler, include_extras=True)
    except (NameError, TypeError, ValueError) as error:
        return None, [
            Problem(
                f"{where}: an annotation can't be understood: {error}",
                "import the names that the annotations use",
            )
        ]
    in_path = PARAMETER.findall(route.path)
    problems = [
        Problem(f"{where} does not take {name!r} from its path", f"add the parameter {name}: str")
        for name in in_path
        if name not in signature.parameters
    ]
    sources: dict[str, Callable[[Call], object]] = {}
    parameters: list[Parameter] = []
    bodies: list[Body] = []
    for name, parameter in signature.parameters.items():
        if parameter.kind not in {parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY}:
            problems.append(
                Problem(
                    f"{where}: the parameter {name!r} can't be given by name",
                    "use plain parameters",
                )
            )
        elif hints.get(name) is Call or (
            name == "call" and name not in hints and name not in in_path
        ):
            sources[name] = _itself
        elif name in in_path:
            problems += _take_path(sources, where, name, hints.get(name, str))
        elif parameter.kind is parameter.KEYWORD_ONLY:
            problems += _take_parameter(parameters, where, name, hints, parameter.default)
        else:
            problems += _take_body(bodies, where, name, hints, route)
    problems += _reply_problems(where, handler, hints.get("return"))
    if problems:
        return None, problems
    sources |= {body.name: body.read for body in bodies}
    kinds = {name: hints.get(name, str) for name in in_path}
    read, body, returns = (
        _reader(sources, parameters),
        next(iter(bodies), None),
        hints.get("return"),
    )
    check = reply_check(returns, check_replies, where + _placed(handler))
    return (
        Endpoint(
            pipeline,
            route,
            tuple(in_path),
            _bind(handler, read),
            read,
            kinds,
            tuple(parameters),
            body,
            returns,
            check=check,
        ),
        [],
    )


def _reply_problems(where: str, handler: Handler, kind: Any) -> Iterable[Problem]:  # noqa: ANN401  any annotation
    """Yield why no value of a handler could be sent."""
    fix = "return a dict, a dataclass, a list, text, bytes, None or a Reply"
    if is_generator(handler):
        yield Problem(f"{where} yields: a reply is sent as a whole", fix)
    elif problem := reply_problem(kind):
        yield Problem(f"{where}: its reply can't be a {type_name(kind)}: {problem}", fix)


def _itself(call: Call) -> Call:
    return call


def _take_path(
    sources: dict[str, Callable[[Call], object]],
    where: str,
    name: str,
    kind: Any,  # noqa: ANN401  any annotation
) -> Iterable[Problem]:
    if kind is str:
        sources[name] = lambda call: call.params[name]
        return
    try:
        problem = text_problem(kind)
    except (TypeError, NameError) as error:
        problem = str(error)
    if problem:
        yield Problem(
            f"{where}: {name!r} can't be a {type_name(kind)}: {problem}",
            "use str, int, or another type that text can become",
        )
        return

    def from_path(call: Call) -> object:
        try:
            return msgspec.convert(call.params[name], kind, strict=False)
        except msgspec.ValidationError:
            raise Refusal(404, "not-found", "There is nothing at this path.") from None

    sources[name] = from_path


def _take_body(
    bodies: list[Body], where: str, name: str, hints: Mapping[str, Any], route: Route
) -> Iterable[Problem]:
    elsewhere = f"add {{{name}}} to the path, or put it after * to take it from the query"
    if bodies:
        yield Problem(f"{where}: {name!r} is neither in the path nor the body", elsewhere)
        return
    if route.method in BODILESS:
        yield Problem(f"{where}: {name!r} would be a body, which {route.method} has not", elsewhere)
        return
    if name not in hints:
        yield Problem(
            f"{where}: the body {name!r} has no annotation",
            f"write {name}: dict, bytes, str, or a dataclass or msgspec Struct",
        )
        return
    try:
        bodies.append(compile_body(name, hints[name]))
    except (TypeError, NameError) as error:
        fix = "use a dataclass, TypedDict, msgspec Struct or Pydantic model"
        yield Problem(
            f"{where}: the body can't be decoded into {type_name(hints[name])}: {error}", fix
        )


def _take_parameter(
    parameters: list[Parameter], where: str, name: str, hints: Mapping[str, Any], default: object
) -> Iterable[Problem]:
    if name not in hints:
        yield Problem(
            f"{where}: the query parameter {name!r} has no annotation",
            f"write {name}: str, or another type that text can become",
        )
        return
    try:
        parameters.append(compile_parameter(name, hints[name], default))
    except TypeError as error:
        yield Problem(
            f"{where}: the query parameter {name!r} can't be a {type_name(hints[name])}: {error}",
            "use str, int, or another type that text can become",
        )


def _bind(
    handler: Handler, read: Callable[[Call], Mapping[str, object]]
) -> Callable[[Call], object]:
    return lambda call: handler(**read(call))


def _reader(
    sources: Mapping[str, Callable[[Call], object]], parameters: Sequence[Parameter]
) -> Callable[[Call], Mapping[str, object]]:
    """Return what reads all that a handler takes."""
    parts = tuple(sources.items())
    if parameters:
        return lambda call: {
            **read_parameters(call, parameters),
            **{name: source(call) for name, source in parts},
        }
    return lambda call: {name: source(call) for name, source in parts}
