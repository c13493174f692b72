"""Typed query parameters: those that a handler takes by keyword alone."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Annotated, Any, get_args, get_origin

import msgspec

from penstock.contracts.call import Call
from penstock.errors import Refusal
from penstock.runs.faults import WHERE

MANY = (list, set, frozenset, tuple, Sequence)
NOT_IN_A_QUERY = (msgspec.inspect.StructType, msgspec.inspect.DataclassType, msgspec.inspect.TypedDictType, msgspec.inspect.DictType)


@dataclass(frozen=True, slots=True)
class Query:
    """One query parameter: its type, whether it may be given several times, and its default where it need not be there."""

    name: str
    kind: Any
    many: bool
    required: bool
    default: object


def compile_query(name: str, kind: Any, default: object) -> Query:  # noqa: ANN401  any annotation
    """Return the parameter. Raises TypeError for a type that text can't become."""
    plain = kind
    while get_origin(plain) is Annotated:
        plain = get_args(plain)[0]
    many = (get_origin(plain) or plain) in MANY
    if isinstance(msgspec.inspect.type_info(kind), NOT_IN_A_QUERY):
        raise TypeError(f"{kind!r} is no type of a query parameter")
    with suppress(msgspec.ValidationError):
        msgspec.convert([] if many else "", kind, strict=False)
    required = default is inspect.Parameter.empty
    return Query(name, kind, many, required, None if required else default)


def read_queries(call: Call, queries: Sequence[Query]) -> dict[str, object]:
    """Return the parameters by name. Raises Refusal (422) that lists every fault."""
    given: dict[str, object] = {}
    errors: list[dict[str, str]] = []
    for query in queries:
        values = call.query.get(query.name)
        if values is None:
            if query.required:
                errors.append({"parameter": query.name, "detail": "Required, and missing"})
            given[query.name] = query.default
        elif not query.many and len(values) > 1:
            errors.append({"parameter": query.name, "detail": "Given more than once"})
        else:
            try:
                given[query.name] = msgspec.convert(values if query.many else values[0], query.kind, strict=False)
            except msgspec.ValidationError as error:
                errors.append({"parameter": query.name, "detail": WHERE.sub("", str(error))})
    if errors:
        many = f"{len(errors)} fault{'s' if len(errors) > 1 else ''}"
        raise Refusal(422, "query-invalid", f"The query does not fit: {many}.", extra={"errors": errors})
    return given
