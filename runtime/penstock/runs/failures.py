"""Why a handler failed, for operators.

A failure has the exception's type, its text without secrets, and the frames of plugin code without
values.
"""

from __future__ import annotations

import inspect
import sys
import sysconfig
import traceback
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from types import FrameType
from typing import Any
from urllib.parse import quote

import msgspec

from penstock.contracts.masks import HIDDEN, masked_text
from penstock.contracts.sanitize import safe_str

MAX_FRAMES = 30
MAX_CAUSES = 4
MAX_TEXT_LENGTH = 2000  # characters of an exception's text that are stored
# characters of a text that are searched for secrets; a secret cut there is cut off again above
MAX_SEARCHED_LENGTH = 20_000
MIN_SECRET_LENGTH = 6  # characters; shorter ones occur in any text
# the attribute of an exception, raised again after a recovery, with its first failure
ORIGIN = "__penstock_failure__"
NOT_PLUGINS = tuple(
    str(Path(folder)) + "/"
    for folder in {
        *(sysconfig.get_path(name) for name in ("stdlib", "platstdlib", "purelib", "platlib")),
        str(Path(__file__).parent.parent),
    }
)

Clean = Callable[[str], str]


class Frame(msgspec.Struct, frozen=True):
    """A place in a plugin's code."""

    file: str
    line: int
    function: str


class Failure(msgspec.Struct, omit_defaults=True):
    """Why a run failed: the exception, its frames (outermost first) and its causes."""

    type: str
    text: str
    frames: list[Frame] = []  # msgspec copies defaults
    causes: list[Failure] = []


def failure_of(error: BaseException, *functions: Callable[..., object]) -> Failure:
    """Return an exception as a failure.

    `functions` are handlers or steps. Where no frame of plugin code is known, the first of them is
    named.
    """
    return _failure(
        error, tuple(_home(function) for function in functions), _definition(functions), MAX_CAUSES
    )


def failure_at(error: BaseException, thread: int, *functions: Callable[..., object]) -> Failure:
    """Return the failure of work that timed out, with the frames where its thread is now."""
    frame = sys._current_frames().get(thread)  # noqa: SLF001  documented; there is no other way
    homes = tuple(_home(function) for function in functions)
    frames = list(_own(traceback.walk_stack(frame), homes))[::-1] if frame is not None else []
    return Failure(
        type(error).__name__, safe_str(error), frames[-MAX_FRAMES:] or _definition(functions)
    )


def _failure(
    error: BaseException, homes: tuple[str, ...], default: list[Frame], causes: int
) -> Failure:
    origin = getattr(error, ORIGIN, None)
    before: Failure = origin if isinstance(origin, Failure) else Failure("", "")
    frames = [*_own(traceback.walk_tb(error.__traceback__), homes), *before.frames][-MAX_FRAMES:]
    causes_here = (
        [_failure(cause, homes, [], causes - 1) for cause in _causes(error)] if causes else []
    )
    text = safe_str(error)[:MAX_SEARCHED_LENGTH]
    return Failure(
        type(error).__name__, text, frames or default, (causes_here or before.causes)[:MAX_CAUSES]
    )


def _causes(error: BaseException) -> Iterable[BaseException]:
    if isinstance(error, BaseExceptionGroup):
        return error.exceptions[:MAX_CAUSES]
    cause = (
        error.__cause__
        if error.__cause__ is not None or error.__suppress_context__
        else error.__context__
    )
    return () if cause is None else (cause,)


def _own(walked: Iterator[tuple[FrameType, int]], homes: tuple[str, ...]) -> Iterator[Frame]:
    """Yield the frames of plugin code: not of libraries, the runtime, or code without a file."""
    for frame, line in walked:
        code = frame.f_code
        file = code.co_filename
        if (homes and file.startswith(homes)) or not file.startswith(("<", *NOT_PLUGINS)):
            yield Frame(file, line, code.co_qualname)


def _home(function: Callable[..., object]) -> str:
    """Return the folder of a function's package, or its file.

    It tells the frames of an installed plugin from those of other libraries.
    """
    name = getattr(inspect.unwrap(function), "__module__", "") or ""
    top: Any = sys.modules.get(name.partition(".")[0])
    file = getattr(top, "__file__", None)
    if file is None or file.startswith(str(Path(__file__).parent.parent)):
        return "\0"  # no file is there
    return str(Path(file).parent) + "/" if hasattr(top, "__path__") else file


def _definition(functions: Iterable[Callable[..., object]]) -> list[Frame]:
    for function in functions:
        code = getattr(inspect.unwrap(function), "__code__", None)
        if code is not None:
            return [Frame(code.co_filename, code.co_firstlineno, code.co_qualname)]
    return []


def cleaned(failure: Failure, clean: Clean) -> Failure:
    """Return a failure with secrets removed from its texts, which are cut to their maximum."""
    text = clean(failure.text)
    text = text if len(text) <= MAX_TEXT_LENGTH else text[: MAX_TEXT_LENGTH - 1] + "…"
    return Failure(
        failure.type, text, failure.frames, [cleaned(cause, clean) for cause in failure.causes]
    )


def without(secrets: Iterable[str], text: str) -> str:
    """Return a text without tokens and secrets, also where these are encoded in a URL."""
    for secret in secrets:
        for written in {secret, quote(secret, safe="")} if len(secret) >= MIN_SECRET_LENGTH else ():
            text = text.replace(written, HIDDEN)
    return masked_text(text)


def remember(error: BaseException, failure: Failure) -> None:
    """Attach the first failure to an exception that is raised again."""
    with suppress(Exception):  # a class of plugin code may allow no attributes
        setattr(error, ORIGIN, failure)
