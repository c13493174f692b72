"""Lines of the log.

Whatever a value holds, a line has no credential, no control character and no more than 16 KiB.

A value may be a caller's text, an object of plugin code whose `repr` raises, or a list that
contains itself; an exception may carry all of these. So each value is first made plain, masked and
cut, and only then rendered. Credentials are masked before anything is cut: a key that was cut in
two is not known as one.
"""

from __future__ import annotations

import json
import traceback
from collections.abc import Callable, Collection, Iterator, Mapping
from itertools import islice
from typing import Any

from penstock.contracts.masks import DEFAULT_SENSITIVE_NAMES, HIDDEN, is_sensitive, shortened

LONGEST_LINE = 16 * 1024  # bytes
# Characters of a value, of one in a line that is too long, and of a name.
LONGEST_TEXT, SHORT_TEXT, NAME = 2048, 256, 64
# Characters of a traceback; the least fits however it is escaped.
LONGEST_TRACE, SHORT_TRACE, LEAST_TRACE = 8 * 1024, 4 * 1024, 700
# Items of a value, of all values of a line, and values within values.
MOST_ITEMS, MOST_PARTS, DEEPEST = 50, 500, 4
MOST_FRAMES, MOST_CAUSES = 20, 8  # of one exception, and of exceptions in one traceback
# What a line has in any case.
LEAST = (
    "event",
    "timestamp",
    "level",
    "logger",
    "environment",
    "host",
    "pid",
    "run",
    "pipeline",
    "exc_info",
)
LARGE = 10**30

Facts = Mapping[str, Any]


class Plain:
    """Makes the facts of one line plain: no credential, and no more than `most` characters a text.

    `names` are the fields whose values are credentials, by name, in structures and in texts.
    """

    def __init__(self, names: Collection[str], most: int) -> None:
        self._names = names
        self._most = most
        self._left = MOST_PARTS

    def text(self, value: str, most: int = 0) -> str:
        """Return a text."""
        return shortened(value, most or self._most, names=self._names)

    def field(self, name: str, value: Any, deep: int = DEEPEST) -> Any:  # noqa: ANN401  any value
        """Return the value of a field."""
        return HIDDEN if is_sensitive(name, self._names) else self.value(value, deep)

    def value(self, value: Any, deep: int = DEEPEST) -> Any:  # noqa: ANN401  as above
        """Return a value as JSON can hold it."""
        self._left -= 1
        if value is None or isinstance(value, bool):
            return value
        if isinstance(value, str):
            return self.text(str(value))
        if isinstance(value, int | float) and -LARGE < value < LARGE:  # so no NaN either
            return float(value) if isinstance(value, float) else int(value)
        if not isinstance(value, Mapping | list | tuple | set | frozenset):
            return self.text(_repr(value, self._most))
        try:
            return self._parts(value, deep - 1) if deep and self._left > 0 else "…"
        except Exception:  # noqa: BLE001  plugin code decides what its values do
            return f"<{type(value).__name__}>"

    def _parts(self, value: Any, deep: int) -> Any:  # noqa: ANN401  as above
        room = max(0, min(MOST_ITEMS, self._left))
        more = len(value) > room
        if isinstance(value, Mapping):
            made = {
                self.text(str(name), NAME): self.field(str(name), value[name], deep)
                for name in islice(value, room)
            }
            return {**made, "…": len(value) - room} if more else made
        return [self.value(item, deep) for item in islice(value, room)] + (["…"] if more else [])


def _repr(value: object, most: int) -> str:
    try:
        return repr(value[: most + 1] if isinstance(value, bytes | bytearray) else value)
    except Exception:  # noqa: BLE001  as above
        return f"<{type(value).__name__}>"


def traceback_of(error: BaseException, most: int = LONGEST_TRACE) -> str:
    """Return a traceback without variables, of a bounded length.

    What is left out is in the middle, and never what was raised last.
    """
    whole = "\n".join(line for item in _causes(error) for line in _one(*item, most=most // 4))
    if len(whole) <= most:
        return whole
    return (
        f"{whole[: most // 3]}\n… ({len(whole) - most} characters left"
        f" out)\n{whole[most // 3 - most :]}"
    )


def _causes(error: BaseException) -> list[tuple[BaseException, str]]:
    """Return an exception after what it was raised from, each with what leads on to the next."""
    found: list[tuple[BaseException, str]] = []
    current: BaseException | None = error
    link = ""
    while (
        current is not None
        and len(found) < MOST_CAUSES
        and all(current is not known for known, _ in found)
    ):
        found.append((current, link))
        link = "which led to:" if current.__cause__ is not None else "while it was handled:"
        current = current.__cause__ or (
            None if current.__suppress_context__ else current.__context__
        )
    return found[::-1]


def _one(error: BaseException, link: str, margin: str = "", *, most: int) -> Iterator[str]:
    yield f"{margin}Traceback (most recent call last):"
    frames = traceback.extract_tb(error.__traceback__)
    for index, frame in enumerate(frames):
        if MOST_FRAMES // 2 <= index < len(frames) - MOST_FRAMES // 2:
            if index == MOST_FRAMES // 2:
                yield f"{margin}  … ({len(frames) - MOST_FRAMES} frames left out)"
            continue
        yield f'{margin}  File "{frame.filename}", line {frame.lineno}, in {frame.name}'
        if frame.line:
            yield f"{margin}    {visible(shortened(frame.line, SHORT_TEXT))}"
    kind = type(error)
    name = (
        kind.__qualname__
        if kind.__module__ in {"builtins", "__main__"}
        else f"{kind.__module__}.{kind.__qualname__}"
    )
    message = shortened(_message(error), most, names=DEFAULT_SENSITIVE_NAMES)
    yield f"{margin}{name}: {visible(message)[:most]}"
    if isinstance(error, BaseExceptionGroup) and len(margin) < 2 * DEEPEST:
        for item in error.exceptions[:MOST_CAUSES]:
            yield from _one(item, "", f"{margin}| ", most=most // 4)
    if link:
        yield link


def _message(error: BaseException) -> str:
    """Return what an exception says, with its notes."""
    try:
        notes = getattr(error, "__notes__", ())
        return "; ".join([str(error), *(str(note) for note in notes[:MOST_CAUSES])])
    except Exception:  # noqa: BLE001  as above
        return "<it can't be told what>"


def visible(text: str) -> str:
    """Return a text of one line, with the characters escaped that a terminal obeys or hides."""
    if text.isprintable():
        return text
    return "".join(
        character if character.isprintable() else character.encode("unicode_escape").decode()
        for character in text
    )


def line_of(
    facts: Facts, render: Callable[[dict[str, Any]], str], names: Collection[str] = ()
) -> str:
    """Return a line of no more than 16 KiB.

    Where it would be longer its texts are cut, and then its own fields left out; `cut` says so.
    """
    line = render(_made(facts, names, LONGEST_TEXT, LONGEST_TRACE))
    if _fits(line):
        return line
    line = render(_made(facts, names, SHORT_TEXT, SHORT_TRACE) | {"cut": True})
    if _fits(line):
        return line
    return render(
        _made({name: facts[name] for name in LEAST if name in facts}, names, NAME, LEAST_TRACE)
        | {"cut": True}
    )


def _fits(line: str) -> bool:
    return len(line) * 4 <= LONGEST_LINE or len(line.encode("utf-8", "replace")) <= LONGEST_LINE


def _made(facts: Facts, names: Collection[str], most: int, most_of_trace: int) -> dict[str, Any]:
    plain = Plain(names, most)
    error = facts.get("exc_info")
    made = {
        plain.text(str(name), NAME): plain.field(str(name), value)
        for name, value in facts.items()
        if name not in {"exc_info", "stack_info"}
    }
    if isinstance(error, BaseException):
        made["exception"] = traceback_of(error, most_of_trace)
    if facts.get("stack_info"):
        made["stack"] = shortened(
            str(facts["stack_info"]), most_of_trace, names=DEFAULT_SENSITIVE_NAMES
        )
    return made


def as_json(made: Facts) -> str:
    """Return plain facts as JSON, in ASCII: what is no visible character is escaped."""
    return json.dumps(made)


def as_seen(made: Facts) -> dict[str, Any]:
    """Return plain facts as a terminal may be given them.

    Lines of a traceback are set in, so that none looks like a line of the log.
    """
    shown = {visible(name): _seen(value) for name, value in made.items()}
    for name in ("exception", "stack"):
        if isinstance(made.get(name), str):
            shown[name] = "\n".join(f"    {visible(line)}" for line in made[name].splitlines())
    return shown


def _seen(value: Any) -> Any:  # noqa: ANN401  as above
    if isinstance(value, str):
        return visible(value)
    if isinstance(value, dict):
        return {visible(name): _seen(item) for name, item in value.items()}
    return [_seen(item) for item in value] if isinstance(value, list) else value
