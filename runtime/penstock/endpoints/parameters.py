"""Typed parameters from the query and from headers: the keyword-only parameters of a handler."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import msgspec

from penstock.contracts.call import Call
from penstock.contracts.forms import Form, Header
from penstock.endpoints.annotation_checks import takes_several, texts_problem
from penstock.endpoints.annotations import find_marker
from penstock.endpoints.validation import validation_errors
from penstock.errors import Refusal
from penstock.header_fields import NAME


@dataclass(frozen=True, slots=True)
class Parameter:
    """A parameter from the query or a header.

    It has a name for the handler and one for callers. With `many` it may occur several times. It is
    required where it has no default.
    """

    name: str
    sent_as: str
    place: str
    kind: Any
    many: bool
    required: bool
    default: object


def compile_parameter(name: str, hint: Any, default: object) -> Parameter:  # noqa: ANN401  any annotation
    """Return a parameter. Raises TypeError for a type that text can't be converted to."""
    header = find_marker(hint, Header)
    if find_marker(hint, Form) is not None:
        raise TypeError("a form is a body: let it stand before the *")
    if problem := texts_problem(hint):
        raise TypeError(problem)
    required = default is inspect.Parameter.empty
    place, sent_as = (
        ("query", name)
        if header is None
        else ("header", header.name or name.replace("_", "-").title())
    )
    if header is not None and (not NAME.fullmatch(sent_as) or "_" in sent_as):
        # Servers drop those with an underscore.
        raise TypeError(f"no header is named {sent_as!r}: write letters, digits and dashes")
    return Parameter(
        name, sent_as, place, hint, takes_several(hint), required, None if required else default
    )


def read_parameters(call: Call, parameters: Sequence[Parameter]) -> dict[str, object]:
    """Return the parameters of a call by name. Raises Refusal (422) with all faults."""
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
                given[parameter.name] = msgspec.convert(
                    values if parameter.many else values[0], parameter.kind, strict=False
                )
            except msgspec.ValidationError as error:
                sent = values if parameter.many else values[0]
                detail = validation_errors(parameter.kind, sent, error, strict=False)[0]["detail"]
        if detail:
            errors.append({"parameter": parameter.sent_as, "in": parameter.place, "detail": detail})
    if errors:
        many = f"{len(errors)} fault{'s' if len(errors) > 1 else ''}"
        raise Refusal(
            422,
            "parameters-invalid",
            f"The parameters do not fit: {many}.",
            extra={"errors": errors},
        )
    return given


def _sent(call: Call, parameter: Parameter) -> list[str] | None:
    if parameter.place == "query":
        return call.query.get(parameter.sent_as)
    value = call.headers.get(parameter.sent_as)
    if value is None:
        return None
    # Empty items do not count (RFC 9110).
    return (
        [text for part in value.split(",") if (text := part.strip())] if parameter.many else [value]
    )
