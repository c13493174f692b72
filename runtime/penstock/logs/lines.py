"""Render one line of the log: no credential, no control character, at most 16 KiB.

**Why.** A value may be a caller's text, an object of plugin code whose `repr` raises, or a list
that contains itself. An exception may carry all of these. Each value is therefore converted to
plain JSON, redacted and shortened before the line is rendered. Redaction comes before shortening:
half of a key is not recognised as a key.
"""

from __future__ import annotations

import json
import traceback
from collections.abc import Callable, Collection, Iterator, Mapping
from itertools import islice
from typing import Any

from penstock.contracts.masks import DEFAULT_SENSITIVE_NAMES, HIDDEN, is_sensitive, shortened

MAX_LINE_BYTES = 16 * 1024
# Characters of a value; of a value in a line that is too long; of a name.
MAX_TEXT, SHORT_TEXT, MAX_NAME = 2048, 256, 64
# Characters of a traceback. MIN_TRACE fits into a line however its characters are escaped.
MAX_TRACE, SHORT_TRACE, MIN_TRACE = 8 * 1024, 4 * 1024, 700
MAX_ITEMS = 50  # of one list or mapping
MAX_VALUES = 500  # of a line
MAX_DEPTH = 4  # of values within values
MAX_FRAMES, MAX_CAUSES = 20, 8  # of one exception; exceptions of one traceback
# The fields that every line keeps.
REQUIRED_FIELDS = (
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
MAX_NUMBER = 10**30

Fields = Mapping[str, Any]


class Sanitizer:
    """Converts the fields of one line to plain JSON, without credentials.

    `names` are the names of sensitive fields, in mappings and in texts. `max_text` is the maximum
    length of a text in characters.
    """

    def __init__(self, names: Collection[str], max_text: int) -> None:
        self._names = names
        self._max_text = max_text
        self._values_left = MAX_VALUES

    def text(self, value: str, max_length: int = 0) -> str:
        """Return a text, redacted and shortened."""
        return shortened(value, max_length or self._max_text, names=self._names)

    def field(self, name: str, value: Any, depth: int = MAX_DEPTH) -> Any:  # noqa: ANN401  any value
        """Return the value of a field."""
        return HIDDEN if is_sensitive(name, self._names) else self.value(value, depth)

    def value(self, value: Any, depth: int = MAX_DEPTH) -> Any:  # noqa: ANN401  as above
        """Return a value as JSON represents it."""
        self._values_left -= 1
        if value is None or isinstance(value, bool):
            return value
        if isinstance(value, str):
            return self.text(str(value))
        if isinstance(value, int | float) and -MAX_NUMBER < value < MAX_NUMBER:  # excludes NaN
            return float(value) if isinstance(value, float) else int(value)
        if not isinstance(value, Mapping | list | tuple | set | frozenset):
            return self.text(_repr(value, self._max_text))
        try:
            return self._items(value, depth - 1) if depth and self._values_left > 0 else "…"
        except Exception:  # noqa: BLE001  plugin code defines its own containers
            return f"<{type(value).__name__}>"

    def _items(self, value: Any, depth: int) -> Any:  # noqa: ANN401  as above
        room = max(0, min(MAX_ITEMS, self._values_left))
        more = len(value) > room
        if isinstance(value, Mapping):
            fields = {
                self.text(str(name), MAX_NAME): self.field(str(name), value[name], depth)
                for name in islice(value, room)
            }
            return {**fields, "…": len(value) - room} if more else fields
        return [self.value(item, depth) for item in islice(value, room)] + (["…"] if more else [])


def _repr(value: object, max_length: int) -> str:
    try:
        return repr(value[: max_length + 1] if isinstance(value, bytes | bytearray) else value)
    except Exception:  # noqa: BLE001  as above
        return f"<{type(value).__name__}>"


def traceback_of(error: BaseException, max_length: int = MAX_TRACE) -> str:
    """Return a traceback without variables, of at most that many characters.

    A long traceback lacks its middle, never the exception that was raised last.
    """
    whole = "\n".join(
        line for cause in _causes(error) for line in _lines(*cause, max_length=max_length // 4)
    )
    if len(whole) <= max_length:
        return whole
    return (
        f"{whole[: max_length // 3]}\n… ({len(whole) - max_length} characters left"
        f" out)\n{whole[max_length // 3 - max_length :]}"
    )


def _causes(error: BaseException) -> list[tuple[BaseException, str]]:
    """Return an exception and its causes, first cause first, each with the text that follows it."""
    causes: list[tuple[BaseException, str]] = []
    current: BaseException | None = error
    link = ""
    while (
        current is not None
        and len(causes) < MAX_CAUSES
        and all(current is not cause for cause, _ in causes)
    ):
        causes.append((current, link))
        link = "which led to:" if current.__cause__ is not None else "while it was handled:"
        current = current.__cause__ or (
            None if current.__suppress_context__ else current.__context__
        )
    return causes[::-1]


def _lines(error: BaseException, link: str, margin: str = "", *, max_length: int) -> Iterator[str]:
    """Yield the lines of one exception's traceback, without its causes."""
    yield f"{margin}Traceback (most recent call last):"
    frames = traceback.extract_tb(error.__traceback__)
    for index, frame in enumerate(frames):
        if MAX_FRAMES // 2 <= index < len(frames) - MAX_FRAMES // 2:
            if index == MAX_FRAMES // 2:
                yield f"{margin}  … ({len(frames) - MAX_FRAMES} frames left out)"
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
    message = visible(shortened(_message(error), max_length, names=DEFAULT_SENSITIVE_NAMES))[
        :max_length
    ]
    yield f"{margin}{name}: {message}"
    if isinstance(error, BaseExceptionGroup) and len(margin) < 2 * MAX_DEPTH:
        for member in error.exceptions[:MAX_CAUSES]:
            yield from _lines(member, "", f"{margin}| ", max_length=max_length // 4)
    if link:
        yield link


def _message(error: BaseException) -> str:
    """Return the message of an exception, with its notes."""
    try:
        notes = getattr(error, "__notes__", ())
        return "; ".join([str(error), *(str(note) for note in notes[:MAX_CAUSES])])
    except Exception:  # noqa: BLE001  as above
        return "<message not available>"


def visible(text: str) -> str:
    """Return a text of one line in which characters that a terminal obeys or hides are escaped."""
    if text.isprintable():
        return text
    return "".join(
        character if character.isprintable() else character.encode("unicode_escape").decode()
        for character in text
    )


def line_of(
    fields: Fields, render: Callable[[dict[str, Any]], str], names: Collection[str] = ()
) -> str:
    """Return a line of at most 16 KiB.

    A longer line gets shorter texts first, and loses its optional fields then. It has `cut`.
    """
    line = render(_sanitized(fields, names, MAX_TEXT, MAX_TRACE))
    if _fits(line):
        return line
    line = render(_sanitized(fields, names, SHORT_TEXT, SHORT_TRACE) | {"cut": True})
    if _fits(line):
        return line
    required = {name: fields[name] for name in REQUIRED_FIELDS if name in fields}
    return render(_sanitized(required, names, MAX_NAME, MIN_TRACE) | {"cut": True})


def _fits(line: str) -> bool:
    return len(line) * 4 <= MAX_LINE_BYTES or len(line.encode("utf-8", "replace")) <= MAX_LINE_BYTES


def _sanitized(
    fields: Fields, names: Collection[str], max_text: int, max_trace: int
) -> dict[str, Any]:
    sanitizer = Sanitizer(names, max_text)
    error = fields.get("exc_info")
    sanitized = {
        sanitizer.text(str(name), MAX_NAME): sanitizer.field(str(name), value)
        for name, value in fields.items()
        if name not in {"exc_info", "stack_info"}
    }
    if isinstance(error, BaseException):
        sanitized["exception"] = traceback_of(error, max_trace)
    if fields.get("stack_info"):
        sanitized["stack"] = shortened(
            str(fields["stack_info"]), max_trace, names=DEFAULT_SENSITIVE_NAMES
        )
    return sanitized


def as_json(fields: Fields) -> str:
    """Return plain fields as JSON in ASCII, which escapes all characters that are not visible."""
    return json.dumps(fields)


def for_terminal(fields: Fields) -> dict[str, Any]:
    """Return plain fields for a terminal.

    Lines of a traceback are indented, so that none looks like a line of the log.
    """
    escaped = {visible(name): _escaped(value) for name, value in fields.items()}
    for name in ("exception", "stack"):
        if isinstance(fields.get(name), str):
            escaped[name] = "\n".join(f"    {visible(line)}" for line in fields[name].splitlines())
    return escaped


def _escaped(value: Any) -> Any:  # noqa: ANN401  as above
    if isinstance(value, str):
        return visible(value)
    if isinstance(value, dict):
        return {visible(name): _escaped(item) for name, item in value.items()}
    return [_escaped(item) for item in value] if isinstance(value, list) else value
