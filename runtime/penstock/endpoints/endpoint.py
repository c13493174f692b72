"""An endpoint: a handler with everything that is needed to call it."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from penstock.contracts.call import Call
from penstock.contracts.pipeline import Handler, Pipeline, Route
from penstock.endpoints.decoders import Body
from penstock.endpoints.parameters import Parameter
from penstock.endpoints.replies import Check


@dataclass(frozen=True, slots=True)
class Endpoint:
    """A compiled handler.

    `read(call)` decodes the arguments of the handler, `run(call)` also calls it and returns its
    result. `kinds` are the types of its path parameters, `parameters` those from the query and from
    headers. `body` is None where the handler takes none; `returns` is None without an annotation.
    `of_runtime` marks endpoints of the runtime, which are not recorded as runs. `check` raises
    ValueError for a reply that does not match `returns`. `name` is method and path as declared;
    `where` adds function, file and line.
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
        object.__setattr__(self, "where", handler_name(self.route) + source_of(self.route.handler))


def handler_name(route: Route) -> str:
    """Return the name of a route's handler for messages: `handler show of GET /{id}`."""
    return f"handler {getattr(route.handler, '__name__', route.handler)!s} of {route}"


def source_of(handler: Handler) -> str:
    """Return the source of a handler, such as ` (plugins/orders.py:12)`, empty if it is unknown."""
    code = getattr(inspect.unwrap(handler), "__code__", None)
    return (
        f" ({'/'.join(Path(code.co_filename).parts[-2:])}:{code.co_firstlineno})"
        if code is not None
        else ""
    )
