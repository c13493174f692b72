"""Logs: one JSON line an event, or readable lines on a terminal."""

from __future__ import annotations

import logging
import sys
import threading
from typing import Any

import structlog
from structlog.typing import Processor

from penstock.contracts.keys import LIKE_A_KEY
from penstock.settings import Settings

FEW = 5  # lines of a kind in a minute
MINUTE = 60.0
ROOM = 1024  # kinds that are told apart
Kind = tuple[tuple[str, str], ...]


def configure(settings: Settings) -> None:
    """Set up logging for this process, to standard error: our events, and what libraries have to say."""
    shared, rendered = configure_events(settings)
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared, processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *rendered]
        )
    )
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(max(logging.getLevelNamesMapping()[settings.log_level.upper()], logging.WARNING))


def configure_events(settings: Settings) -> tuple[list[Processor], list[Processor]]:
    """Set up our own events alone; return what prepares and what renders them."""
    readable = settings.log_format == "text" or (settings.log_format == "auto" and sys.stderr.isatty())
    # Not the default formatter: it shows local variables where `rich` is installed, and those hold keys, tokens and bodies.
    console = structlog.dev.ConsoleRenderer(exception_formatter=structlog.dev.plain_traceback)
    rendered: list[Processor] = [console] if readable else [structlog.processors.format_exc_info, structlog.processors.JSONRenderer()]
    rendered.append(_without_keys)
    shared: list[Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    structlog.configure(
        processors=[*shared, *rendered],
        wrapper_class=structlog.make_filtering_bound_logger(logging.getLevelNamesMapping()[settings.log_level.upper()]),
        logger_factory=structlog.WriteLoggerFactory(sys.stderr),
        cache_logger_on_first_use=True,
    )
    return shared, rendered


def _without_keys(_logger: Any, _name: str, line: Any) -> Any:  # noqa: ANN401  structlog's types
    """Take API keys out of a line: what strangers raise may hold them."""
    return LIKE_A_KEY.sub("***", line) if "pk_" in line else line


class Sparing:
    """Lets a few lines of a kind through in a minute; afterwards one line says how many were left out.

    What strangers can cause would fill a disk otherwise. Kinds beyond those there is room for count as one together.
    """

    def __init__(self, log: Any) -> None:  # noqa: ANN401  structlog's
        self._log = log
        self._lines: dict[Kind, tuple[float, int]] = {}  # since when, and how many: those that began first come first
        self._lock = threading.Lock()

    def may(self, now: float, **kind: str) -> bool:
        """Say whether one more line of a kind may be written. `now` is a `time.monotonic()` reading."""
        name: Kind = tuple(kind.items())
        with self._lock:
            if name not in self._lines and len(self._lines) >= ROOM:
                name = tuple((word, "others") for word in kind)
            began, lines = self._lines.get(name, (now, 0))
            over = now - began >= MINUTE
            if over:
                del self._lines[name]
            self._lines[name] = (now, 1) if over else (began, lines + 1)
        if over:
            self._tell(name, lines)
        return over or lines < FEW

    def sweep(self, now: float) -> None:
        """Say what was left out of minutes that are over."""
        with self._lock:
            ended = [(name, lines) for name, (began, lines) in self._lines.items() if now - began >= MINUTE]
            for name, _ in ended:
                del self._lines[name]
        for name, lines in ended:
            self._tell(name, lines)

    def _tell(self, name: Kind, lines: int) -> None:
        if lines > FEW:
            self._log.warning("calls left out of the log", number=lines - FEW, **dict(name))
