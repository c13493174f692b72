"""Outputs of steps as the engine stores them: a result, or an error that can be raised again."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from typing import Any

import msgspec

from penstock.contracts.sanitize import safe_str, to_plain
from penstock.contracts.steps import Step
from penstock.durable.engine import Document
from penstock.durable.outcomes import MAX_STORED_BYTES, problem_document, refusal_of
from penstock.endpoints.encoding import name_of, pack, type_named, unpack
from penstock.errors import Refusal, StepFailed
from penstock.runs.failures import Failure, failure_of, remember
from penstock.runs.step_records import StepRecord, describe_error


def pack_result(step: Step[..., Any], result: object, record: StepRecord) -> bytes:
    """Return the result of a step as bytes.

    Raises TypeError or ValueError where it can't be stored and read again; `record` has the reason.
    """
    fault: Exception
    try:
        value = pack(result)
        if len(value) <= MAX_STORED_BYTES:
            unpack(value, step.returns)
            return value
        fault = ValueError(
            f"{step.name} returned {len(value)} bytes; at most {MAX_STORED_BYTES} can be stored"
        )
    except msgspec.ValidationError as error:
        fault = TypeError(
            f"the result of {step.name} does not fit its annotation {_annotation(step.returns)}:"
            f" {safe_str(error)}"
        )
    except (TypeError, ValueError, RecursionError) as error:
        fault = TypeError(f"the result of {step.name} can't be stored: {safe_str(error)}")
    record.attempts[-1].error = describe_error(fault)
    raise fault


def _annotation(kind: Any) -> str:  # noqa: ANN401  any annotation
    return kind.__name__ if type(kind) is type else str(kind)


def error_document(error: BaseException, step: Step[..., Any]) -> Document:
    """Return what a step raised, as the engine stores it."""
    failure = msgspec.to_builtins(failure_of(error, step.function))
    return {**_error_facts(error), "failure": failure}


def _error_facts(error: BaseException) -> Document:
    facts: Document = {"type": name_of(type(error)), "text": describe_error(error)}
    if isinstance(error, Refusal):
        return {**facts, "problem": problem_document(error)}
    if isinstance(error, ExceptionGroup):
        return {
            **facts,
            "message": safe_str(error.message),
            "group": [_error_facts(item) for item in error.exceptions],
        }
    facts["args"] = [_pack_anything(argument) for argument in _arguments(error)]
    facts["facts"] = {
        name: pack(value)
        for name, value in vars(error).items()
        if name.isidentifier() and _is_plain(value)
    }
    return facts


def _arguments(error: BaseException) -> list[object]:
    """Return the arguments of an exception; an OSError has all of them only for pickling."""
    if isinstance(error, OSError):
        with suppress(Exception):
            return list(error.__reduce__()[1])
    return list(error.args)


def _pack_anything(value: object) -> bytes:
    try:
        return pack(value)
    except (TypeError, ValueError, RecursionError):
        return pack(to_plain(value))


def _is_plain(value: object) -> bool:
    if isinstance(value, list | tuple):
        return all(map(_is_plain, value))
    return value is None or isinstance(value, str | int | float | bytes)


def stored_error(stored: Mapping[str, Any]) -> Exception:
    """Return a stored exception, of the same type so that the same handlers catch it.

    Return StepFailed where the type is not known here or can't be built.
    """
    error = _rebuilt(stored)
    remember(error, msgspec.convert(stored["failure"], Failure))
    return error


def _rebuilt(stored: Mapping[str, Any]) -> Exception:
    if "problem" in stored:
        return refusal_of(stored["problem"])
    if "group" in stored:
        return ExceptionGroup(stored["message"], [_rebuilt(item) for item in stored["group"]])
    kind = type_named(stored["type"])
    if kind is None or not issubclass(kind, Exception):
        return StepFailed(stored["text"])
    try:
        arguments = [unpack(argument) for argument in stored["args"]]
        if kind.__module__ == "builtins":  # these need `__init__`: they store more than arguments
            return kind(*arguments)
        error = kind.__new__(kind, *arguments)
        error.args = tuple(arguments)
        vars(error).update({name: unpack(value) for name, value in stored["facts"].items()})
    except Exception:  # noqa: BLE001  an exception of plugin code may need other arguments
        return StepFailed(stored["text"])
    return error
