"""Cron expressions in words: `0 6 * * 1-5` is "at 06:00, Monday to Friday"."""

from __future__ import annotations

import re
from collections.abc import Sequence

WEEKDAYS = ("Sunday", "Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday")
MONTHS = (
    "January", "February", "March", "April", "May", "June", "July", "August", "September",
    "October", "November", "December",
)  # fmt: skip
NUMBERS = re.compile(r"\d+(,\d+)*", re.ASCII)
STEP = re.compile(r"\*/(\d+)", re.ASCII)
NAME_LENGTH = 3  # of a weekday or a month in an expression
MAX_TIMES = 6  # of a day that are listed
FIELDS_WITH_SECOND = 6


class _NoWords(Exception):
    """An expression is too involved for a sentence."""


def cron_words(cron: str) -> str:
    """Return a cron expression in words, or the expression itself where words would be longer."""
    fields = cron.lower().split()
    second = fields.pop(0) if len(fields) == FIELDS_WITH_SECOND else "0"
    minute, hour, day, month, weekday = fields
    try:
        words = _time(second, minute, hour)
        days = _days(day, weekday)
        months = "" if month == "*" else f"in {_named(month, MONTHS, 1)}"
    except _NoWords:
        return f"cron {cron}"
    if not days and words.startswith("at ") and " of " not in words:
        days = "every day"
    return ", ".join(part for part in (words, days, months) if part)


def _time(second: str, minute: str, hour: str) -> str:
    if second.lstrip("0"):
        if (minute, hour) != ("*", "*"):
            raise _NoWords
        return _every(second, "second")
    if hour == "*":
        return _every(minute, "minute")
    if not NUMBERS.fullmatch(minute):
        raise _NoWords
    minutes = [int(number) for number in minute.split(",")]
    if step := STEP.fullmatch(hour):
        return f"at minute {_listed([str(number) for number in minutes])} of every {step[1]} hours"
    if not NUMBERS.fullmatch(hour):
        raise _NoWords
    times = [f"{int(at):02}:{number:02}" for at in hour.split(",") for number in minutes]
    if len(times) > MAX_TIMES:
        raise _NoWords
    return f"at {_listed(sorted(times))}"


def _every(field: str, unit: str) -> str:
    if field == "*":
        return f"every {unit}"
    if step := STEP.fullmatch(field):
        return f"every {step[1]} {unit}s" if int(step[1]) > 1 else f"every {unit}"
    if not NUMBERS.fullmatch(field):
        raise _NoWords
    whole = "minute" if unit == "second" else "hour"
    return f"at {unit} {_listed([str(int(each)) for each in field.split(',')])} of every {whole}"


def _days(day: str, weekday: str) -> str:
    of_month = ""
    if day not in {"*", "?"}:
        if not NUMBERS.fullmatch(day):
            raise _NoWords
        of_month = f"on day {_listed(day.split(','))} of the month"
    of_week = "" if weekday in {"*", "?"} else _named(weekday, (*WEEKDAYS, WEEKDAYS[0]), 0)
    return " and on ".join(part for part in (of_month, of_week) if part)


def _named(field: str, names: Sequence[str], first: int) -> str:
    """Return a field of weekdays or months in words; `first` is the number of the first name."""

    def name(text: str) -> str:
        if text.isascii() and text.isdigit() and first <= int(text) < first + len(names):
            return names[int(text) - first]
        for each in names:
            if text == each[:NAME_LENGTH].lower():
                return each
        raise _NoWords

    def part(text: str) -> str:
        begin, dash, end = text.partition("-")
        return f"{name(begin)} to {name(end)}" if dash else name(begin)

    return _listed([part(text) for text in field.split(",")])


def _listed(parts: Sequence[str]) -> str:
    return " and ".join(part for part in (", ".join(parts[:-1]), parts[-1]) if part)
