"""Call plugin code so that whatever it raises is a fault of that plugin.

Told in one line, and the end of nothing else.

`SystemExit` from a policy once ended the thread that follows the database, and `sys.exit(0)` in a
plugin made `penstock check` succeed. Plugin code is therefore called through `ask` wherever its
answer decides about access or about the process, and through `bounded` where it must not take long
either.
"""

from __future__ import annotations

import threading
import time
import traceback
from collections.abc import Callable
from typing import TypeVar

from penstock.contracts.masks import shortened
from penstock.contracts.registered import InvalidPluginValue
from penstock.errors import CannotStart, PenstockError
from penstock.plugins.folders import place_of

LOOK = 0.05  # seconds between two looks at work that is waited for
# What a process that plugins are loaded in for trial may take, and what is said of one that fails.
LONGEST_LOAD_S = 60.0
HANGS = (
    f"plugins were not loaded in {LONGEST_LOAD_S:g} s:"
    " one of them hangs while it is imported or registered"
)
ENDED = "a plugin ended the process while it was loaded, as os._exit and crashes do"
LONGEST_TEXT = 300  # characters of an exception's text that are told
Answer = TypeVar("Answer")


class PluginFault(PenstockError):
    """Plugin code raised, or returned what it must not.

    The text says what; `plugin` is whose it is, `trace` where it was.
    """

    def __init__(self, plugin: str, problem: str, trace: str = "") -> None:
        super().__init__(f"plugin {plugin}: {problem}")
        self.plugin = plugin
        self.problem = problem
        self.trace = trace


def ask(plugin: str, what: str, call: Callable[[], Answer], *, text: bool = True) -> Answer:
    """Return what plugin code returns.

    `what` names it, `clean_text` says that the text of an exception may be told.

    Raises PluginFault for any exception of the code (InvalidPluginValue of a check within `call`
    too), and CannotStart for KeyboardInterrupt in the main thread, which may be an operator's.
    """
    try:
        return call()
    except KeyboardInterrupt as error:
        if threading.current_thread() is threading.main_thread():
            raise CannotStart(f"interrupted in plugin {plugin} ({what}{where(error)})") from None
        raise _fault(plugin, what, error, text=text) from error
    except InvalidPluginValue as error:
        raise PluginFault(plugin, f"{what}: {error}") from error
    except BaseException as error:  # plugin code may raise anything
        raise _fault(plugin, what, error, text=text) from error


def _fault(plugin: str, what: str, error: BaseException, *, text: bool) -> PluginFault:
    try:
        trace = "".join(traceback.format_exception(error)) if text else ""
    except BaseException:  # noqa: BLE001  so may the text of an exception
        trace = ""
    fault = PluginFault(plugin, f"{what} raised {described(error, text=text)}", trace)
    error.__traceback__ = None  # one that is kept and raised each time would grow by it
    return fault


def described(error: BaseException, *, text: bool = True) -> str:
    """Return an exception in one line: type, text and place, without API keys."""
    return f"{type(error).__name__}{_said(error) if text else ''}{where(error)}"


def _said(error: BaseException) -> str:
    try:
        # First: a line may break within a token.
        said = shortened(str(error.msg if isinstance(error, SyntaxError) else error), LONGEST_TEXT)
    except BaseException:  # noqa: BLE001  plugin code may define that too
        return ": it can't be told what"
    shown = "".join(
        character if character.isprintable() else "?" for character in " ".join(said.split())
    )
    return f": {shown}" if shown else ""


def where(error: BaseException) -> str:
    """Return the file and line of plugin code that an exception comes from, in brackets.

    Nothing where there is none.
    """
    place = place_of(error)
    return f" ({place})" if place else ""


def bounded(
    work: Callable[[], object],
    seconds: float,
    *,
    stalled: Callable[[], bool] = lambda: False,
    soon: float = float("inf"),
    meanwhile: Callable[[], object] = lambda: None,
) -> threading.Thread | None:
    """Run work in a thread of its own and wait for it; return the thread if it did not end in time.

    It is left to itself then.

    Waiting ends after so many seconds, or when `stalled` says so. `meanwhile` is called once where
    work takes longer than `soon` seconds.
    """
    thread = threading.Thread(target=work, name="penstock-plugin-code", daemon=True)
    began = time.monotonic()
    thread.start()
    called = False
    while thread.is_alive() and (taken := time.monotonic() - began) < seconds and not stalled():
        if taken >= soon and not called:
            called = True
            meanwhile()
        thread.join(min(LOOK, seconds - taken))
    return thread if thread.is_alive() else None
