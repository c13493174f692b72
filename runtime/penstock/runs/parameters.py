"""Typed parameters from the query and from headers: those that a handler takes by keyword alone."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Annotated, Any, get_args, get_origin

import msgspec

from penstock.contracts.call import Call
from penstock.contracts.forms import Header
from penstock.errors import Refusal
from penstock.runs.faults import WHERE

MANY = (list, set, frozenset, tuple, Sequence)
NO_TEXT = (msgspec.inspect.StructType, msgspec.inspect.DataclassType, msgspec.inspect.TypedDictType, msgspec.inspect.DictType)


@dataclass(frozen=True, slots=True)
class Parameter:
    """One parameter: the name the handler and the name the caller has for it, whether it is a header or in the query, and its type.

    `many` says that it may be given several times; it has its default where it need not be there.
    """

    name: str
    sent_as: str
    place: str
    kind: Any
    many: bool
    required: bool
    default: object


def compile_parameter(name: str, hint: Any, default: object) -> Parameter:  # noqa: ANN401  any annotation
    """Return the parameter. Raises TypeError for a type that text can't become."""
    plain = hint
    header: Header | None = None
    while get_origin(plain) is Annotated:
        plain, *marks = get_args(plain)
        header = next((mark if isinstance(mark, Header) else Header() for mark in marks if mark is Header or isinstance(mark, Header)), header)
    many = (get_origin(plain) or plain) in MANY
    if isinstance(msgspec.inspect.type_info(hint), NO_TEXT):
        raise TypeError(f"{hint!r} is no type that text can become")
    with suppress(msgspec.ValidationError):
        msgspec.convert([] if many else "", hint, strict=False)
    required = default is inspect.Parameter.empty
    place, sent_as = ("query", name) if header is None else ("header", header.name or name.replace("_", "-").title())
    return Parameter(name, sent_as, place, hint, many, required, None if required else default)


def read_parameters(call: Call, parameters: Sequence[Parameter]) -> dict[str, object]:
    """Return the parameters by name. Raises Refusal (422) that lists every fault."""
    given: dict[str, object] = {}
    errors: list[dict[str, str]] = []
    for parameter in parameters:
        values = _sent(call, parameter)
        detail = ""
        if values is None:
            detail = "Required, and missing" if parameter.required else ""
            given[parameter.name] = parameter.default
        elif not parameter.many and len(values) > 1:
            detail = "Given more than once"
        else:
            try:
                given[parameter.name] = msgspec.convert(values if parameter.many else values[0], parameter.kind, strict=False)
            except msgspec.ValidationError as error:
                detail = WHERE.sub("", str(error))
        if detail:
            errors.append({"parameter": parameter.sent_as, "in": parameter.place, "detail": detail})
    if errors:
        many = f"{len(errors)} fault{'s' if len(errors) > 1 else ''}"
        raise Refusal(422, "parameters-invalid", f"The parameters do not fit: {many}.", extra={"errors": errors})
    return given


def _sent(call: Call, parameter: Parameter) -> list[str] | None:
    if parameter.place == "query":
        return call.query.get(parameter.sent_as)
    value = call.headers.get(parameter.sent_as)
    if value is None:
        return None
    return [part.strip() for part in value.split(",")] if parameter.many else [value]
