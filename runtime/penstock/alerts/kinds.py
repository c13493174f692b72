"""What an alert rule can watch: its kinds, their thresholds, and the rules that ship."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum

from penstock.access.durations import read_duration
from penstock.errors import UsageError, quoted

MAX_WINDOW_S = 3600  # counts of calls are kept by the minute for two hours
MINUTE_S, DAY_S = 60, 86_400
NUMBER = re.compile(r"\d{1,9}(\.\d{1,3})?", re.ASCII)
LATENCY = re.compile(r"(?P<number>\d{1,6}(\.\d{1,3})?)\s*(?P<unit>ms|s)?", re.ASCII)
UNITS = (("w", 604_800), ("d", DAY_S), ("h", 3600), ("m", MINUTE_S), ("s", 1))


class Kind(StrEnum):
    """The kinds of rules."""

    ERROR_RATE = "error-rate"
    LATENCY = "latency"
    REJECTIONS = "rejections"
    QUEUE_AGE = "queue-age"
    NO_WORKER = "no-worker"
    KEY_EXPIRY = "key-expiry"
    SECRET_EXPIRY = "secret-expiry"  # noqa: S105  a word, no secret
    SIGNING_KEY_EXPIRY = "signing-key-expiry"
    GRACE_END = "grace-end"
    POLICY_WEAKER = "policy-weaker"


class Unit(StrEnum):
    """What the threshold of a kind is measured in."""

    PERCENT = "per cent"
    LATENCY = "a latency"
    CALLS = "calls"
    AGE = "a duration"
    NONE = "nothing"


@dataclass(frozen=True, slots=True)
class KindFacts:
    """What a kind of rule has.

    `watches` completes "Fires when …", with the threshold for {threshold} and the window for
    {window}. A windowed kind counts calls over a time. `each` is True where everything that begins
    to match is announced, such as each key.
    """

    unit: Unit
    watches: str
    threshold: float
    hold_s: int = 0
    windowed: bool = False
    by_pipeline: bool = False
    by_reason: bool = False
    each: bool = False


KINDS: Mapping[Kind, KindFacts] = {
    Kind.ERROR_RATE: KindFacts(
        Unit.PERCENT,
        "at least {threshold} of the calls of {window} are server errors",
        5,
        hold_s=2 * MINUTE_S,
        windowed=True,
        by_pipeline=True,
    ),
    Kind.LATENCY: KindFacts(
        Unit.LATENCY,
        "the p95 latency of the calls of {window} is at least {threshold}",
        2,
        hold_s=2 * MINUTE_S,
        windowed=True,
        by_pipeline=True,
    ),
    Kind.REJECTIONS: KindFacts(
        Unit.CALLS,
        "at least {threshold} were rejected within {window}",
        100,
        windowed=True,
        by_pipeline=True,
        by_reason=True,
    ),
    Kind.QUEUE_AGE: KindFacts(
        Unit.AGE, "an accepted run has waited for {threshold}", 5 * MINUTE_S, by_pipeline=True
    ),
    Kind.NO_WORKER: KindFacts(
        Unit.NONE,
        "accepted runs wait and no live worker performs runs of their pipeline",
        0,
        hold_s=2 * MINUTE_S,
        by_pipeline=True,
    ),
    Kind.KEY_EXPIRY: KindFacts(
        Unit.AGE, "an API key expires within {threshold}", 14 * DAY_S, each=True
    ),
    Kind.SECRET_EXPIRY: KindFacts(
        Unit.AGE, "a secret or credential expires within {threshold}", 14 * DAY_S, each=True
    ),
    Kind.SIGNING_KEY_EXPIRY: KindFacts(
        Unit.AGE,
        "tokens of a replaced signing key stop being accepted within {threshold}",
        3600,
        each=True,
    ),
    Kind.GRACE_END: KindFacts(
        Unit.AGE, "the grace of a pipeline ends within {threshold}", 3 * DAY_S, each=True
    ),
    Kind.POLICY_WEAKER: KindFacts(
        Unit.AGE, "a policy was replaced by a weaker one within {threshold}", DAY_S, each=True
    ),
}

# The rules of every environment, by their names.
SHIPPED: Mapping[str, Kind] = {
    "keys-expire": Kind.KEY_EXPIRY,
    "secrets-expire": Kind.SECRET_EXPIRY,
    "grace-ends": Kind.GRACE_END,
    "no-worker": Kind.NO_WORKER,
    "policy-weaker": Kind.POLICY_WEAKER,
}
DEFAULT_WINDOW_S = 5 * MINUTE_S
DEFAULT_MINIMUM = 20


def read_kind(text: str) -> Kind:
    """Return a kind by its name. Raises UsageError."""
    try:
        return Kind(text)
    except ValueError:
        raise UsageError(
            f"{quoted(text)} is no kind of rule; use one of {', '.join(Kind)}"
        ) from None


def read_threshold(kind: Kind, text: str) -> float:
    """Return a threshold as a user writes it: 5%, 500ms, 100 or 14d. Raises UsageError."""
    unit = KINDS[kind].unit
    text = text.strip()
    if unit is Unit.NONE:
        raise UsageError(f"a rule of kind {kind} has no threshold; leave it out")
    if unit is Unit.AGE:
        return read_duration(text).total_seconds()
    if unit is Unit.LATENCY:
        match = LATENCY.fullmatch(text)
        seconds = float(match["number"]) if match else 0.0
        seconds /= 1000 if match and match["unit"] == "ms" else 1
        if not seconds:
            raise UsageError(f"{quoted(text)} is no latency; write 500ms or 2s")
        return seconds
    plain = text.removesuffix("%").rstrip() if unit is Unit.PERCENT else text
    value = float(plain) if NUMBER.fullmatch(plain) else 0.0
    most = 100 if unit is Unit.PERCENT else 1e9
    whole = unit is Unit.PERCENT or value == int(value)
    if not 0 < value <= most or not whole:
        example = "a percentage such as 5%" if unit is Unit.PERCENT else "a number such as 100"
        raise UsageError(
            f"{quoted(text)} is no threshold of a rule of kind {kind}; write {example}"
        )
    return value


def written_duration(seconds: float) -> str:
    """Return whole seconds as a user writes them: 14d, 5m."""
    return next(f"{int(seconds) // size}{unit}" for unit, size in UNITS if int(seconds) % size == 0)


def written_threshold(kind: Kind, threshold: float) -> str:
    """Return a threshold as `read_threshold` reads it; empty where the kind has none."""
    unit = KINDS[kind].unit
    if unit is Unit.NONE:
        return ""
    if unit is Unit.AGE:
        return written_duration(threshold)
    if unit is Unit.LATENCY:
        return f"{threshold * 1000:g}ms" if threshold < 1 else f"{threshold:g}s"
    return f"{threshold:g}%" if unit is Unit.PERCENT else f"{threshold:.0f}"
