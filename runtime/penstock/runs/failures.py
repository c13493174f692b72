"""Record why a handler failed, for operators.

The exception's type, its text without secrets, and the plugin's frames without any values.
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

MOST_FRAMES = 30
MOST_CAUSES = 4
LONGEST_TEXT = 2000  # characters that are kept of an exception's text
# Characters that are looked through for secrets: one that is cut there is cut again above.
LONGEST_READ = 20_000
LEAST_SECRET = 6  # characters: what is shorter is found in any text
# Where an exception that a step raised keeps why, when it is raised again.
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
    """Why a run failed: what was raised, where, the outermost frame first, and because of what."""

    type: str
    text: str
    frames: list[Frame] = []  # msgspec copies defaults
    causes: list[Failure] = []


def failure_of(error: BaseException, *functions: Callable[..., object]) -> Failure:
    """Return why something failed.

    `functions` are handlers or steps: where no plugin's frame is known, the first one is named.
    """
    return _failure(
        error, tuple(_home(function) for function in functions), _definition(functions), MOST_CAUSES
    )


def failure_at(error: BaseException, thread: int, *functions: Callable[..., object]) -> Failure:
    """Return where a thread is now, as the failure of what it does: its time is up."""
    frame = sys._current_frames().get(thread)  # noqa: SLF001  documented; there is no other way
    homes = tuple(_home(function) for function in functions)
    found = list(_own(traceback.walk_stack(frame), homes))[::-1] if frame is not None else []
    return Failure(
        type(error).__name__, safe_str(error), found[-MOST_FRAMES:] or _definition(functions)
    )


def _failure(
    error: BaseException, homes: tuple[str, ...], default: list[Frame], causes: int
) -> Failure:
    origin = getattr(error, ORIGIN, None)
    before: Failure = origin if isinstance(origin, Failure) else Failure("", "")
    frames = [*_own(traceback.walk_tb(error.__traceback__), homes), *before.frames][-MOST_FRAMES:]
    found = [_failure(cause, homes, [], causes - 1) for cause in _causes(error)] if causes else []
    text = safe_str(error)[:LONGEST_READ]
    return Failure(
        type(error).__name__, text, frames or default, (found or before.causes)[:MOST_CAUSES]
    )


def _causes(error: BaseException) -> Iterable[BaseException]:
    if isinstance(error, BaseExceptionGroup):
        return error.exceptions[:MOST_CAUSES]
    cause = (
        error.__cause__
        if error.__cause__ is not None or error.__suppress_context__
        else error.__context__
    )
    return () if cause is None else (cause,)


def _own(walked: Iterator[tuple[FrameType, int]], homes: tuple[str, ...]) -> Iterator[Frame]:
    """Yield the frames of plugins.

    Frames of libraries, of the runtime and of code that is in no file are left out.
    """
    for frame, line in walked:
        code = frame.f_code
        file = code.co_filename
        if (homes and file.startswith(homes)) or not file.startswith(("<", *NOT_PLUGINS)):
            yield Frame(file, line, code.co_qualname)


def _home(function: Callable[..., object]) -> str:
    """Return the folder of the package that a function is from, or its file.

    An installed plugin is among the libraries.
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
    """Return a failure whose texts have no secrets, and are not too long."""
    text = clean(failure.text)
    text = text if len(text) <= LONGEST_TEXT else text[: LONGEST_TEXT - 1] + "…"
    return Failure(
        failure.type, text, failure.frames, [cleaned(cause, clean) for cause in failure.causes]
    )


def without(secrets: Iterable[str], text: str) -> str:
    """Return a text without tokens, and without secrets as they are or as they stand in a URL."""
    for secret in secrets:
        for written in {secret, quote(secret, safe="")} if len(secret) >= LEAST_SECRET else ():
            text = text.replace(written, HIDDEN)
    return masked_text(text)


def remember(error: BaseException, failure: Failure) -> None:
    """Have an exception that is raised again say where it was raised first."""
    with suppress(Exception):  # a stranger's class may allow no attributes
        setattr(error, ORIGIN, failure)
