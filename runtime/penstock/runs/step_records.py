"""Records of steps: their attempts, and the label that tells two calls of one step apart."""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import date
from decimal import Decimal
from enum import Enum
from string import Formatter
from typing import Any
from uuid import UUID

import msgspec

from penstock.contracts.masks import (
    DEFAULT_SENSITIVE_NAMES,
    HIDDEN,
    is_sensitive,
    shortened,
)
from penstock.contracts.sanitize import clean_text, safe_str
from penstock.contracts.steps import Step
from penstock.runs.failures import Clean

MAX_ERROR_LENGTH = 500  # characters of an error
MAX_LABEL_LENGTH = 100  # characters of a label
# characters that are searched for secrets; a secret cut there is cut off again above
MAX_SEARCHED_LENGTH = 1000
# Types of a first argument that makes a label. Labels are stored in clear, and what callers send is
# not: a text, which may be anything that they sent, is in a label only if its plugin asks for it.
LABELLED = (int, Decimal, UUID, date, Enum)


class Attempt(msgspec.Struct, omit_defaults=True):
    """One attempt of a step.

    `at` is its beginning in milliseconds since that of the run, `ms` its duration, and `error` the
    text of its exception. An attempt is `interrupted` if its process ended before it.
    """

    at: float
    ms: float
    error: str = ""
    interrupted: bool = False


class StepRecord(msgspec.Struct, omit_defaults=True):
    """The record of a step: its attempts, and whether it failed.

    `at` and `ms` are as in Attempt. `number` is that of the engine, 0 for inline runs. `label` is
    not redacted while `parameter` names the parameters that it shows. `running` and `copied` are of
    views: the step runs now, or its result was copied from the run that this one repeats.
    """

    name: str
    at: float
    ms: float = 0.0
    attempts: list[Attempt] = []  # msgspec copies defaults
    failed: bool = False
    number: int = 0
    label: str = ""
    parameter: str = ""
    running: bool = False
    copied: bool = False


def new_record(
    step: Step[..., Any], args: tuple[Any, ...], kwargs: Mapping[str, Any], at: float
) -> StepRecord:
    """Return the record of a step that begins."""
    parameter, label = _label_of(step, args, kwargs)
    return StepRecord(step.name, at, label=label, parameter=parameter)


def _label_of(
    step: Step[..., Any], args: tuple[Any, ...], kwargs: Mapping[str, Any]
) -> tuple[str, str]:
    """Return the parameters that a label shows, and the label, which is not redacted yet.

    Both are empty where there is none: a label never fails its step.
    """
    label = step.label
    try:
        if label is None:
            name = step.first_parameter
            value = args[0] if args else kwargs.get(name)
            if isinstance(value, LABELLED) and not isinstance(value, bool):
                return name, _one_line(value)
            return "", ""
        if not isinstance(label, str):
            return "", _one_line(label(*args, **kwargs))
        names = " ".join(_named(label))
        return names, _one_line(label.format_map(_shown(step, args, kwargs)) if names else label)
    except Exception:  # noqa: BLE001  plugin code may raise anything
        return "", ""


def _named(label: str) -> list[str]:
    """Return the parameters that a label names."""
    fields = (name for _, name, _, _ in Formatter().parse(label) if name)
    return [re.split(r"[.\[]", name, maxsplit=1)[0] for name in fields]


def _shown(
    step: Step[..., Any], args: tuple[Any, ...], kwargs: Mapping[str, Any]
) -> dict[str, Any]:
    """Return the arguments of a step by name, without those with the name of a credential."""
    bound = step.signature.bind(*args, **kwargs)
    bound.apply_defaults()
    return {
        name: HIDDEN if is_sensitive(name, DEFAULT_SENSITIVE_NAMES) else value
        for name, value in bound.arguments.items()
    }


def _one_line(value: object) -> str:
    text = clean_text(str(value)[:MAX_SEARCHED_LENGTH])
    if not text.isprintable():
        text = "".join(character if character.isprintable() else " " for character in text)
    return " ".join(text.split())


def redact_step(record: StepRecord, clean: Clean) -> None:
    """Remove secrets from the label of a step and from the errors of its attempts."""
    for attempt in record.attempts:
        if attempt.error:
            attempt.error = clean(attempt.error)
    if record.label:
        record.label = _redacted(record, clean)
    record.parameter = ""


def _redacted(record: StepRecord, clean: Clean) -> str:
    """Return a label of limited length; none of the value of a sensitive field."""
    fields = [f"{name}=x" for name in record.parameter.split()]
    if any(clean(field) != field for field in fields):
        return HIDDEN
    return shortened(clean(record.label), MAX_LABEL_LENGTH)


def shifted(record: StepRecord, ms: float) -> StepRecord:
    """Return a record whose times are some milliseconds later."""
    attempts = [
        msgspec.structs.replace(attempt, at=max(0.0, round(attempt.at + ms, 3)))
        for attempt in record.attempts
    ]
    return msgspec.structs.replace(record, at=max(0.0, round(record.at + ms, 3)), attempts=attempts)


def describe_error(error: BaseException) -> str:
    """Return type and text of an exception in one line of limited length."""
    return shortened(
        " ".join(f"{type(error).__name__}: {safe_str(error)}".split()), MAX_ERROR_LENGTH
    )
