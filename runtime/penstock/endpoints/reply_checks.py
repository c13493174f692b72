"""Compare replies with the return annotations of handlers, which OpenAPI documents publish."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from types import NoneType
from typing import Any

import msgspec
import structlog

from penstock.contracts.call import Reply
from penstock.endpoints.annotations import type_name, union_parts
from penstock.endpoints.models import model_faults
from penstock.endpoints.replies import BINARY, Answer, Check
from penstock.endpoints.validation import validation_errors

OFF, LOG, FAIL = "off", "log", "fail"
Decoders = Sequence[tuple[Any, Callable[[bytes], object]]]

FIRST_OTHER_STATUS = 300  # from here on the body is not of the annotated type


def reply_check(kind: Any, mode: str, where: str) -> Check | None:  # noqa: ANN401  any annotation
    """Return a function that raises ValueError, or logs, where a reply breaks its annotation.

    Return None where there is nothing to check.
    """
    parts = list(union_parts(kind))
    if mode == OFF or kind is None or Any in parts or object in parts:
        return None
    try:
        decoders = [(part, _decoder(part)) for part in parts if not _is_reply(part)]
    except TypeError:  # msgspec can encode some types that it can't decode
        return None

    def check(value: object, done: Answer) -> None:
        if problem := _problem(parts, decoders, value, done):
            raise ValueError(
                f"the reply does not match the return annotation {type_name(kind)}: {problem}"
            )

    return check if mode == FAIL else _logging(check, where)


def _problem(parts: Sequence[Any], decoders: Decoders, value: object, done: Answer) -> str:
    """Return why a reply matches no part of its annotation, empty if it matches one."""
    if isinstance(value, Reply):
        if any(map(_is_reply, parts)) or done[0] >= FIRST_OTHER_STATUS:
            return ""
        value = value.body
    if value is None:
        return "" if NoneType in parts else "it returned None"
    if isinstance(value, str):
        return "" if str in parts else "it returned text"
    if isinstance(value, BINARY):
        return "" if any(kind in parts for kind in BINARY) else "it returned bytes"
    models = (part for part in parts if hasattr(part, "model_dump"))
    return "" if any(isinstance(value, model) for model in models) else _misfit(decoders, done[2])


def _decoder(kind: Any) -> Callable[[bytes], object]:  # noqa: ANN401  any annotation
    """Return a function that decodes a reply of that type. Raises TypeError if there is none."""
    if hasattr(kind, "model_dump"):
        return getattr(kind, "model_validate_json", bytes)
    return msgspec.json.Decoder(kind, dec_hook=_any_model).decode


def _logging(check: Check, where: str) -> Check:
    log = structlog.get_logger("penstock.calls")

    def log_misfit(value: object, done: Answer) -> None:
        try:
            check(value, done)
        except ValueError as error:
            log.warning("reply does not match its annotation", handler=where, reason=str(error))

    return log_misfit


def _misfit(decoders: Decoders, body: bytes) -> str:
    """Return the first fault of a body that matches none of the types, empty if it matches one."""
    misfit = "it returned JSON"
    for kind, decode in decoders:
        try:
            decode(body)
        except msgspec.ValidationError as error:
            fault = validation_errors(kind, msgspec.json.decode(body), error)[0]
        except ValueError as error:  # Pydantic's
            fault = (
                model_faults(error, msgspec.json.decode(body))
                or [{"pointer": "", "detail": "it is no JSON"}]
            )[0]
        else:
            return ""
        misfit = f"{fault['pointer']}: {fault['detail']}" if fault["pointer"] else fault["detail"]
    return misfit


def _is_reply(kind: Any) -> bool:  # noqa: ANN401  any annotation
    return isinstance(kind, type) and issubclass(kind, Reply)


def _any_model(kind: type, value: object) -> object:
    """Accept any value for a Pydantic model: a model can't always read what it writes.

    The placeholder is never used.
    """
    if isinstance(value, kind):
        return value
    if hasattr(kind, "model_dump"):
        return object.__new__(kind)
    raise msgspec.ValidationError(f"Expected `{kind.__name__}`, got `{type(value).__name__}`")
