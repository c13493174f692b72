"""Logs: one JSON line an event, or readable lines on a terminal.

Ours, those of plugin code, and those of libraries.

Plugin code logs as it likes, with `logging` or structlog, and its lines come out as ours do, at
`PENSTOCK_LOG_LEVEL`. That level is for plugin code and Penstock alone: libraries write warnings and
errors, for at `debug` they would write more than all others. A logger is a library's where the
first part of its name is a module that is neither a plugin's nor a helper's; any other is taken for
plugin code's.
"""

from __future__ import annotations

import logging
import os
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator, MutableMapping
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from typing import Any, TextIO

import structlog

from penstock.contracts.call import current_call
from penstock.contracts.masks import ALWAYS
from penstock.logs.lines import as_json, as_seen, line_of
from penstock.logs.throttle import LogThrottle
from penstock.settings import Settings

__all__ = [
    "LogThrottle",
    "configure",
    "configure_events",
    "preserve_logging",
    "print_error",
    "register_plugin_modules",
    "report_dropped_lines",
]

OURS = "penstock"
SERVER = "gunicorn.error"
ORIGIN = ("environment", "host", "pid")
OF_LINE = frozenset({"logger", "run", "pipeline", *ORIGIN})
RESERVED = frozenset({"event", "timestamp", "level", "exception", "stack", "cut"}) | OF_LINE
USUAL = frozenset(vars(logging.LogRecord("", 0, "", 0, "", (), None))) | {
    "message",
    "asctime",
    "taskName",
}
Facts = MutableMapping[str, Any]
Render = Callable[[dict[str, Any]], str]

_environment = ""
_plugin_modules: set[str] = set()
_quieted: set[str] = set()  # loggers of libraries whose level was set here
_server_lines = LogThrottle(
    structlog.get_logger("penstock.server"), "lines of the server left out of the log"
)


def configure(settings: Settings) -> None:
    """Set up logging for this process, to standard error.

    Our events, those of plugin code, and what libraries have to say.
    """
    configure_events(settings)
    level = _level(settings)
    logging.setLoggerClass(Logger)
    handler = Handler(_Output(sys.stderr), _renderer(settings))
    handler.setLevel(level)
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level)
    for name, logger in root.manager.loggerDict.items():  # they were made before, so by libraries
        if (
            isinstance(logger, logging.Logger)
            and not isinstance(logger, Logger)
            and (name in _quieted or logger.level == logging.NOTSET)
        ):
            _quieted.add(name)
            logger.setLevel(max(level, logging.WARNING))
    logging.captureWarnings(capture=True)
    threading.excepthook = _thread_failed


def configure_events(settings: Settings) -> None:
    """Set up structlog alone: our own events, and those of plugin code that uses it."""
    global _environment  # noqa: PLW0603  a process has one log
    _environment = settings.environment
    render = _renderer(settings)

    def finish(output: Any, _method: str, facts: Facts) -> str:  # noqa: ANN401  structlog's type
        error = facts.pop("exc_info", None)
        facts["exc_info"] = (
            error
            if isinstance(error, BaseException)
            else error[1]
            if isinstance(error, tuple)
            else sys.exception()
            if error
            else None
        )
        if _ours(output.name):
            return line_of({"logger": output.name, **_origin(), **facts}, render, ALWAYS)
        own = {f"{name}_" if name in OF_LINE else name: value for name, value in facts.items()}
        return line_of(_in_run(own, output.name), render, ALWAYS)

    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.StackInfoRenderer(),
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            finish,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(_level(settings)),
        logger_factory=lambda *names: _Output(sys.stderr, *names),
        cache_logger_on_first_use=True,
    )


def register_plugin_modules(modules: Iterable[str]) -> None:
    """Take loggers of these modules, by the first parts of their names, for plugin code's."""
    _plugin_modules.update(modules)
    root = logging.getLogger()
    root.setLevel(root.level)  # forgets what was worked out before


@contextmanager
def preserve_logging() -> Iterator[list[str]]:
    """Put back at the end what plugin code has changed of the log meanwhile.

    What that was is in the list then.
    """
    root, changed = logging.getLogger(), list[str]()
    events, handlers, level = structlog.get_config(), list(root.handlers), root.level
    disabled = {
        name
        for name, logger in root.manager.loggerDict.items()
        if getattr(logger, "disabled", False)
    }
    yield changed
    if structlog.get_config() != events:
        structlog.configure(**events)
        changed.append("structlog")
    if root.handlers != handlers or root.level != level:
        root.handlers[:] = handlers
        root.setLevel(level)
        changed.append("the root logger")
    for name, logger in root.manager.loggerDict.items():
        if isinstance(logger, logging.Logger) and logger.disabled and name not in disabled:
            logger.disabled = False


def report_dropped_lines(now: float) -> None:
    """Say what was left out of the server's lines. `now` is a `time.monotonic()` reading."""
    _server_lines.report_expired(now)


class Logger(logging.Logger):
    """A logger of the standard library that was made once ours were set up.

    A logger of plugin code has the level that is set, a logger of a library has warning.
    """

    def getEffectiveLevel(self) -> int:  # noqa: N802  the library's name
        """Return its own level or its parents', else what is usual for its kind."""
        logger: logging.Logger | None = self
        while logger is not None and logger.parent is not None:
            if logger.level:
                return logger.level
            logger = logger.parent
        usual = logging.getLogger().level
        return usual if _of_plugin_code(self.name) else max(usual, logging.WARNING)


def _of_plugin_code(name: str) -> bool:
    first = name.partition(".")[0]
    return first in _plugin_modules or not (
        first in sys.stdlib_module_names or first in sys.modules
    )


class Handler(logging.Handler):
    """Writes records of the standard library's loggers as our own events are written."""

    def __init__(self, output: _Output, render: Render) -> None:
        super().__init__()
        self._output = output
        self._render = render

    def emit(self, record: logging.LogRecord) -> None:
        """Write a record; those that clients can make the server write are few."""
        if (
            record.name == SERVER
            and record.levelno >= logging.WARNING
            and not _server_lines.allow(time.monotonic(), what=str(record.msg)[:100])
        ):
            return
        try:
            line = line_of(_facts(record), self._render, ALWAYS)
        except Exception as error:  # noqa: BLE001  whatever plugin code has handed over, it must not stop who logs
            line = self._render(
                {
                    "event": "a line could not be written",
                    "level": "error",
                    "logger": record.name[:100],
                    "error": type(error).__name__,
                }
            )
        self._output.msg(line)


def _facts(record: logging.LogRecord) -> Facts:
    try:
        event = record.getMessage()
    except Exception:  # noqa: BLE001  the arguments do not fit the text
        event = str(record.msg)
    own = {
        f"{name}_" if name in RESERVED else name: value
        for name, value in vars(record).items()
        if name not in USUAL
    }
    moment = datetime.fromtimestamp(record.created, UTC).isoformat().replace("+00:00", "Z")
    facts = {
        **structlog.contextvars.get_contextvars(),
        **own,
        "event": event,
        "level": record.levelname.lower(),
        "timestamp": moment,
    }
    facts |= {
        "exc_info": record.exc_info[1] if record.exc_info else None,
        "stack_info": record.stack_info,
    }
    return _in_run(facts, record.name)


def _in_run(facts: Facts, logger: str) -> Facts:
    """Add whose line it is, which process wrote it, and in which run and pipeline."""
    facts.update(_origin())
    if logger:
        facts["logger"] = logger
    call = current_call.get()
    if call is not None:
        facts["run"] = call.run
        facts["pipeline"] = f"v{call.version.partition('.')[0]}/{call.pipeline}"
    return facts


class _Output(structlog.WriteLogger):
    """Where structlog hands finished lines over; `name` is the logger's."""

    def __init__(self, file: TextIO, name: object = "", *_: object) -> None:
        super().__init__(file)
        self.name = name if isinstance(name, str) else ""

    def msg(self, message: str) -> None:
        """Write a line; where that fails, nobody is left to tell, and calls go on."""
        with suppress(OSError, ValueError):
            super().msg(message)

    log = debug = info = warn = warning = msg
    fatal = failure = err = error = critical = exception = msg


def print_error(text: str, log_format: str = "auto") -> None:
    """Write why this process can't start or reload.

    A line of JSON where the log has such lines, else text. The log need not be configured.
    """
    if _is_json(log_format):
        moment = datetime.now(UTC).isoformat().replace("+00:00", "Z")
        facts = {"event": text, "level": "error", "timestamp": moment, "logger": OURS, **_origin()}
        _Output(sys.stderr).msg(line_of(facts, as_json))
    else:
        sys.stderr.write(f"penstock: {text}\n")
    with suppress(OSError, ValueError):
        sys.stderr.flush()


def _origin() -> dict[str, Any]:
    """Return where a line comes from: hosts and processes write to one place."""
    return {
        "environment": _environment or os.environ.get("PENSTOCK_ENVIRONMENT", "test"),
        "host": socket.gethostname(),
        "pid": os.getpid(),
    }


def _is_json(log_format: str) -> bool:
    return log_format == "json" or (log_format != "text" and not sys.stderr.isatty())


def _renderer(settings: Settings) -> Render:
    if _is_json(settings.log_format):
        return as_json
    console = structlog.dev.ConsoleRenderer(exception_formatter=structlog.dev.plain_traceback)
    return lambda made: str(
        console(
            None, "", as_seen({name: value for name, value in made.items() if name not in ORIGIN})
        )
    )


def _level(settings: Settings) -> int:
    return logging.getLevelNamesMapping()[settings.log_level.upper()]


def _ours(name: str) -> bool:
    return name == OURS or name.startswith(f"{OURS}.")


def _thread_failed(failed: threading.ExceptHookArgs) -> None:
    """Log what ended a thread, for the interpreter would write it as it is."""
    if failed.exc_value is not None and not isinstance(failed.exc_value, SystemExit):
        name = failed.thread.name if failed.thread is not None else None
        structlog.get_logger(OURS).error("a thread failed", thread=name, exc_info=failed.exc_value)
