"""Logs: one JSON line an event, or readable lines on a terminal."""

from __future__ import annotations

import logging
import sys

import structlog
from structlog.typing import Processor

from penstock.settings import Settings


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
