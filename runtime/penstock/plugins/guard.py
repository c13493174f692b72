"""Call plugin code so that any exception of it is a fault of that plugin, and nothing else ends.

`SystemExit` from a policy once ended the thread that follows the database, and `sys.exit(0)` in a
plugin made `penstock check` succeed. So plugin code is called through `call_plugin` wherever its
answer decides about access or about the process. It is called through `run_bounded` where it must
not take long either.
"""

from __future__ import annotations

import signal
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import TypeVar

from penstock.contracts.masks import shortened
from penstock.contracts.registered import InvalidPluginValue
from penstock.errors import CannotStart, PenstockError
from penstock.plugins.folders import place_of

CHECK_INTERVAL_S = 0.05  # between two looks at work that is waited for
LONGEST_LOAD_S = 60.0  # for loading all plugins in a trial process
MAX_TEXT_LENGTH = 300  # characters of an exception's text
Answer = TypeVar("Answer")


def hangs_text(plugin: str) -> str:
    """Return the fault of plugins that are not loaded in time. `plugin` is that of the progress."""
    culprit = f"plugin {plugin}" if plugin else "one of them"
    return (
        f"plugins were not loaded in {LONGEST_LOAD_S:g} s:"
        f" {culprit} hangs while it is imported or registered"
    )


def ended_text(plugin: str) -> str:
    """Return the fault of a plugin that ends the process. `plugin` is that of the progress."""
    culprit = f"plugin {plugin}" if plugin else "a plugin"
    return f"{culprit} ended the process while it was loaded, as os._exit and crashes do"


class PluginFault(PenstockError):
    """Plugin code raised, or returned an invalid value.

    `plugin` is the plugin's name, `problem` the fault, `trace` the traceback.
    """

    def __init__(self, plugin: str, problem: str, trace: str = "") -> None:
        super().__init__(f"plugin {plugin}: {problem}")
        self.plugin = plugin
        self.problem = problem
        self.trace = trace


def call_plugin(plugin: str, what: str, call: Callable[[], Answer], *, text: bool = True) -> Answer:
    """Return what `call`, which runs plugin code, returns.

    `what` names the code. `text` says that an exception's text may be shown. Raises PluginFault for
    every exception of the code, and for InvalidPluginValue, by which a check within `call` rejects
    an answer. Raises CannotStart for a KeyboardInterrupt that an operator caused with Ctrl-C.
    """
    try:
        with _interrupts() as received:
            return call()
    except KeyboardInterrupt as error:
        if received:
            raise CannotStart(f"interrupted in plugin {plugin} ({what}{where(error)})") from None
        raise _fault(plugin, what, error, text=text) from error
    except InvalidPluginValue as error:
        raise PluginFault(plugin, f"{what}: {error}") from error
    except BaseException as error:  # plugin code may raise anything
        raise _fault(plugin, what, error, text=text) from error


@contextmanager
def _interrupts() -> Iterator[list[int]]:
    """Yield a list of the interrupt signals that arrive meanwhile.

    Only the main thread of a process that handles them as Python does can receive one as an
    exception. Plugin code may raise that exception too.
    """
    received: list[int] = []
    if (
        threading.current_thread() is not threading.main_thread()
        or signal.getsignal(signal.SIGINT) is not signal.default_int_handler
    ):
        yield received
        return

    def note(number: int, frame: FrameType | None) -> None:
        received.append(number)
        signal.default_int_handler(number, frame)

    signal.signal(signal.SIGINT, note)
    try:
        yield received
    finally:
        if signal.getsignal(signal.SIGINT) is note:  # plugin code may have replaced it
            signal.signal(signal.SIGINT, signal.default_int_handler)


def _fault(plugin: str, what: str, error: BaseException, *, text: bool) -> PluginFault:
    try:
        trace = "".join(traceback.format_exception(error)) if text else ""
    except BaseException:  # noqa: BLE001  so may the text of an exception
        trace = ""
    fault = PluginFault(plugin, f"{what} raised {describe_exception(error, text=text)}", trace)
    error.__traceback__ = None  # one that is kept and raised each time would grow by it
    return fault


def describe_exception(error: BaseException, *, text: bool = True) -> str:
    """Return an exception in one line: type, text and place, without API keys."""
    return f"{type(error).__name__}{_text_of(error) if text else ''}{where(error)}"


def _text_of(error: BaseException) -> str:
    try:
        message = str(error.msg if isinstance(error, SyntaxError) else error)
        # Before lines are joined: a line may break within a token.
        text = shortened(message, MAX_TEXT_LENGTH)
    except BaseException:  # noqa: BLE001  plugin code may define that too
        return ": its text can't be read"
    shown = "".join(
        character if character.isprintable() else "?" for character in " ".join(text.split())
    )
    return f": {shown}" if shown else ""


def where(error: BaseException) -> str:
    """Return the file and line of plugin code that raised, in brackets; empty if not known."""
    place = place_of(error)
    return f" ({place})" if place else ""


def run_bounded(
    work: Callable[[], object],
    seconds: float,
    *,
    stalled: Callable[[], bool] = lambda: False,
    soon: float = float("inf"),
    meanwhile: Callable[[], object] = lambda: None,
) -> threading.Thread | None:
    """Run work in a thread of its own and wait for it, at most so many seconds.

    Return None if it ended, and else its thread, which keeps running by itself. Waiting also ends
    when `stalled` returns true. `meanwhile` is called once if the work takes longer than `soon`
    seconds.
    """
    thread = threading.Thread(target=work, name="penstock-plugin-code", daemon=True)
    began = time.monotonic()
    thread.start()
    called = False
    while thread.is_alive() and (taken := time.monotonic() - began) < seconds and not stalled():
        if taken >= soon and not called:
            called = True
            meanwhile()
        thread.join(min(CHECK_INTERVAL_S, seconds - taken))
    return thread if thread.is_alive() else None
