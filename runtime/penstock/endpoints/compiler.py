"""Compile handlers when a plugin is loaded, so that a call only reads and converts its inputs."""

from __future__ import annotations

import inspect
import typing
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import msgspec

from penstock.contracts.call import Call
from penstock.contracts.pipeline import Handler, Pipeline, Route
from penstock.endpoints.annotation_checks import text_problem
from penstock.endpoints.annotations import type_name
from penstock.endpoints.decoders import Body, compile_body
from penstock.endpoints.endpoint import Endpoint, handler_name, source_of
from penstock.endpoints.parameters import Parameter, compile_parameter, read_parameters
from penstock.endpoints.reply_checks import OFF, reply_check
from penstock.endpoints.route_problems import (
    PARAMETER,
    Problem,
    durable_problems,
    path_problems,
    reply_problems,
    schedule_problems,
    step_problems,
)
from penstock.errors import Refusal

BODILESS = frozenset({"GET", "DELETE"})


def compile_routes(
    pipeline: Pipeline, *, check_replies: str = OFF
) -> tuple[list[Endpoint], list[Problem]]:
    """Return the endpoints of a pipeline, and the problems of its routes."""
    endpoints: list[Endpoint] = []
    problems: list[Problem] = []
    seen: dict[tuple[str, str], Route] = {}
    for route in pipeline.routes:
        wrong = list(path_problems(route))
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
        problems += durable_problems(endpoints)
    problems += step_problems(endpoints)
    return endpoints, problems + list(schedule_problems(pipeline, endpoints))


class _Inputs:
    """What a handler takes: from the path, the query, headers and the body."""

    def __init__(self, route: Route, hints: Mapping[str, Any]) -> None:
        self.in_path = tuple(PARAMETER.findall(route.path))
        self.sources: dict[str, Callable[[Call], object]] = {}
        self.parameters: list[Parameter] = []
        self.body: Body | None = None
        self._route = route
        self._hints = hints
        self._where = handler_name(route)

    def add(self, parameter: inspect.Parameter) -> Iterable[Problem]:
        """Add a parameter of the handler, and yield why it can't be filled."""
        name = parameter.name
        if parameter.kind not in {parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY}:
            yield Problem(
                f"{self._where}: the parameter {name!r} can't be given by name",
                "use plain parameters",
            )
        elif self._is_call(name):
            self.sources[name] = _call_itself
        elif name in self.in_path:
            yield from self._add_path(name, self._hints.get(name, str))
        elif parameter.kind is parameter.KEYWORD_ONLY:
            yield from self._add_parameter(name, parameter.default)
        else:
            yield from self._add_body(name)

    def _is_call(self, name: str) -> bool:
        if name in self._hints:
            return self._hints[name] is Call
        return name == "call" and name not in self.in_path

    def _add_path(self, name: str, kind: Any) -> Iterable[Problem]:  # noqa: ANN401  any annotation
        if kind is str:
            self.sources[name] = lambda call: call.params[name]
            return
        try:
            problem = text_problem(kind)
        except (TypeError, NameError) as error:
            problem = str(error)
        if problem:
            yield Problem(
                f"{self._where}: {name!r} can't be a {type_name(kind)}: {problem}",
                "use str, int, or another type that text can become",
            )
            return

        def from_path(call: Call) -> object:
            try:
                return msgspec.convert(call.params[name], kind, strict=False)
            except msgspec.ValidationError:
                raise Refusal(404, "not-found", "There is nothing at this path.") from None

        self.sources[name] = from_path

    def _add_parameter(self, name: str, default: object) -> Iterable[Problem]:
        if name not in self._hints:
            yield Problem(
                f"{self._where}: the query parameter {name!r} has no annotation",
                f"write {name}: str, or another type that text can become",
            )
            return
        kind = self._hints[name]
        try:
            self.parameters.append(compile_parameter(name, kind, default))
        except TypeError as error:
            yield Problem(
                f"{self._where}: the query parameter {name!r} can't be a {type_name(kind)}:"
                f" {error}",
                "use str, int, or another type that text can become",
            )

    def _add_body(self, name: str) -> Iterable[Problem]:
        elsewhere = f"add {{{name}}} to the path, or put it after * to take it from the query"
        method, where = self._route.method, self._where
        if self.body is not None:
            yield Problem(f"{where}: {name!r} is neither in the path nor the body", elsewhere)
            return
        if method in BODILESS:
            yield Problem(f"{where}: {name!r} would be a body, which {method} has not", elsewhere)
            return
        if name not in self._hints:
            yield Problem(
                f"{where}: the body {name!r} has no annotation",
                f"write {name}: dict, bytes, str, or a dataclass or msgspec Struct",
            )
            return
        kind = self._hints[name]
        try:
            self.body = compile_body(name, kind)
        except (TypeError, NameError) as error:
            yield Problem(
                f"{where}: the body can't be decoded into {type_name(kind)}: {error}",
                "use a dataclass, TypedDict, msgspec Struct or Pydantic model",
            )


def _compile(
    pipeline: Pipeline, route: Route, check_replies: str
) -> tuple[Endpoint | None, list[Problem]]:
    handler, where = route.handler, handler_name(route)
    if inspect.iscoroutinefunction(handler) or inspect.isasyncgenfunction(handler):
        return None, [Problem(f"{where} is async, which the runtime is not", "write it with def")]
    try:
        parameters = inspect.signature(handler).parameters
        hints = typing.get_type_hints(handler, include_extras=True)
    except (NameError, TypeError, ValueError) as error:
        fix = "import the names that the annotations use"
        return None, [Problem(f"{where}: an annotation can't be understood: {error}", fix)]
    inputs = _Inputs(route, hints)
    problems = [
        Problem(f"{where} does not take {name!r} from its path", f"add the parameter {name}: str")
        for name in inputs.in_path
        if name not in parameters
    ]
    for parameter in parameters.values():
        problems += inputs.add(parameter)
    returns = hints.get("return")
    problems += reply_problems(where, handler, returns)
    if problems:
        return None, problems
    if inputs.body is not None:
        inputs.sources[inputs.body.name] = inputs.body.read
    read = _reader(inputs.sources, inputs.parameters)
    endpoint = Endpoint(
        pipeline,
        route,
        inputs.in_path,
        _bind(handler, read),
        read,
        {name: hints.get(name, str) for name in inputs.in_path},
        tuple(inputs.parameters),
        inputs.body,
        returns,
        check=reply_check(returns, check_replies, where + source_of(handler)),
    )
    return endpoint, []


def _call_itself(call: Call) -> Call:
    return call


def _bind(
    handler: Handler, read: Callable[[Call], Mapping[str, object]]
) -> Callable[[Call], object]:
    return lambda call: handler(**read(call))


def _reader(
    sources: Mapping[str, Callable[[Call], object]], parameters: Sequence[Parameter]
) -> Callable[[Call], Mapping[str, object]]:
    """Return a function that reads all arguments of a handler from a call."""
    parts = tuple(sources.items())
    if parameters:
        return lambda call: {
            **read_parameters(call, parameters),
            **{name: source(call) for name, source in parts},
        }
    return lambda call: {name: source(call) for name, source in parts}
