"""The log: one JSON line for each event, or readable lines on a terminal.

Plugin code uses `logging` or structlog. Its lines look like those of Penstock, at
`PENSTOCK_LOG_LEVEL`, or at the level that `PENSTOCK_LOG_LEVELS` sets. Libraries write warnings and
errors only: at `debug` they would write more than all others. A logger belongs to a library if the
first part of its name is an imported module that is not a plugin's. Any other logger belongs to
plugin code.
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
from penstock.contracts.masks import DEFAULT_SENSITIVE_NAMES
from penstock.logs import levels
from penstock.logs.levels import register_plugin_loggers
from penstock.logs.lines import as_json, for_terminal, line_of
from penstock.logs.throttle import LogThrottle
from penstock.settings import Settings

__all__ = [
    "LogThrottle",
    "configure",
    "configure_events",
    "keep_lines_of_runs",
    "preserve_logging",
    "print_error",
    "register_plugin_loggers",
    "register_plugin_modules",
    "report_dropped_lines",
]

RUNTIME_LOGGER = "penstock"
SERVER_LOGGER = "gunicorn.error"
ROOT_LOGGER = "root"
ORIGIN_FIELDS = ("environment", "host", "pid")
CONTEXT_FIELDS = frozenset({"logger", "run", "pipeline", *ORIGIN_FIELDS})
RESERVED = frozenset({"event", "timestamp", "level", "exception", "stack", "cut"}) | CONTEXT_FIELDS
# The attributes of every record of the standard library.
STANDARD_ATTRIBUTES = frozenset(vars(logging.LogRecord("", 0, "", 0, "", (), None))) | {
    "message",
    "asctime",
    "taskName",
}
Fields = MutableMapping[str, Any]
Render = Callable[[dict[str, Any]], str]

_environment = ""
# Keeps the lines that plugin code logs within a run; None: nothing keeps them.
_keep: Callable[[dict[str, Any]], None] | None = None
_plugin_modules: set[str] = set()
_quieted: set[str] = set()  # library loggers whose level was set here
_server_lines = LogThrottle(
    structlog.get_logger("penstock.server"), "lines of the server left out of the log"
)


def configure(settings: Settings) -> None:
    """Set up logging for this process, to standard error: `logging` and structlog."""
    configure_events(settings)
    logging.setLoggerClass(Logger)
    handler = Handler(_Output(sys.stderr), _renderer(settings))
    handler.setLevel(levels.lowest())
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(levels.lowest())
    for name, logger in root.manager.loggerDict.items():  # created before, so by libraries
        if (
            isinstance(logger, logging.Logger)
            and not isinstance(logger, Logger)
            and (name in _quieted or logger.level == logging.NOTSET)
        ):
            _quieted.add(name)
            logger.setLevel(levels.level_of(name) or max(levels.default(), logging.WARNING))
    logging.captureWarnings(capture=True)
    threading.excepthook = _thread_failed


def configure_events(settings: Settings) -> None:
    """Set up structlog alone, for events of Penstock and of plugin code that uses it."""
    global _environment  # noqa: PLW0603  a process has one log
    _environment = settings.environment
    levels.configure(settings.log_level, settings.log_levels)
    render = _renderer(settings)

    def finish(output: Any, _method: str, fields: Fields) -> str:  # noqa: ANN401  structlog's type
        if not levels.is_written(_logger_of(output.name), levels.NUMBERS[fields["level"].upper()]):
            raise structlog.DropEvent
        error = fields.pop("exc_info", None)
        fields["exc_info"] = (
            error
            if isinstance(error, BaseException)
            else error[1]
            if isinstance(error, tuple)
            else sys.exception()
            if error
            else None
        )
        if _is_runtime(output.name):
            return line_of(
                {"logger": output.name, **_origin(), **fields}, render, DEFAULT_SENSITIVE_NAMES
            )
        renamed = {
            f"{name}_" if name in CONTEXT_FIELDS else name: value for name, value in fields.items()
        }
        return _plugin_line(_with_context(renamed, output.name), render)

    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.StackInfoRenderer(),
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            finish,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(levels.lowest()),
        logger_factory=lambda *names: _Output(sys.stderr, *names),
        cache_logger_on_first_use=True,
    )


def keep_lines_of_runs(keep: Callable[[dict[str, Any]], None] | None) -> None:
    """Pass the fields of each line that plugin code logs within a run to a function.

    They are plain values without credentials. The function must be quick, and may not raise.
    """
    global _keep  # noqa: PLW0603  a process has one log
    _keep = keep


def _plugin_line(fields: Fields, render: Render) -> str:
    """Return a line of plugin code or of a library, and keep it where it belongs to a run."""
    rendered = dict[str, Any]()

    def render_noted(plain: dict[str, Any]) -> str:
        rendered.clear()
        rendered.update(plain)
        return render(plain)

    line = line_of(fields, render_noted, DEFAULT_SENSITIVE_NAMES)
    # Plugin code may bind a `run` of its own outside of calls.
    if _keep is not None and current_call.get() is not None:
        _keep(rendered)
    return line


def register_plugin_modules(modules: Iterable[str]) -> None:
    """Treat loggers as plugin code's if the first part of their name is one of these modules."""
    _plugin_modules.update(modules)
    root = logging.getLogger()
    root.setLevel(root.level)  # clears the cached levels


@contextmanager
def preserve_logging() -> Iterator[list[str]]:
    """Restore the configuration of the log at the end, if plugin code changed it.

    The list then names what was changed.
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
    """Log how many lines of the server were dropped. `now` is a `time.monotonic()` reading."""
    _server_lines.report_expired(now)


class Logger(logging.Logger):
    """A logger of the standard library that was created after `configure`.

    Its level is the one in PENSTOCK_LOG_LEVELS. Else it is PENSTOCK_LOG_LEVEL for plugin code, and
    `warning` for libraries.
    """

    def getEffectiveLevel(self) -> int:  # noqa: N802  the library's name
        """Return its own level or that of a parent, or else the level of its kind."""
        named = levels.level_of(self.name)
        if named is not None:
            return named
        logger: logging.Logger | None = self
        while logger is not None and logger.parent is not None:
            if logger.level:
                return logger.level
            logger = logger.parent
        level = max(logging.getLogger().level, levels.default() if levels.are_set() else 0)
        return level if _is_plugin_code(self.name) else max(level, logging.WARNING)


def _is_plugin_code(name: str) -> bool:
    first = name.partition(".")[0]
    return first in _plugin_modules or not (
        first in sys.stdlib_module_names or first in sys.modules
    )


class Handler(logging.Handler):
    """Writes records of the standard library's loggers like structlog's events."""

    def __init__(self, output: _Output, render: Render) -> None:
        super().__init__()
        self._output = output
        self._render = render

    def emit(self, record: logging.LogRecord) -> None:
        """Write a record. Warnings of the server, which clients can cause, are limited."""
        if record.name == ROOT_LOGGER and not levels.is_written(ROOT_LOGGER, record.levelno):
            return
        if (
            record.name == SERVER_LOGGER
            and record.levelno >= logging.WARNING
            and not _server_lines.allow(time.monotonic(), what=str(record.msg)[:100])
        ):
            return
        try:
            line = _plugin_line(_fields_of(record), self._render)
        except Exception as error:  # noqa: BLE001  any argument of plugin code; logging must not fail
            line = self._render(
                {
                    "event": "a line could not be written",
                    "level": "error",
                    "logger": record.name[:100],
                    "error": type(error).__name__,
                }
            )
        self._output.msg(line)


def _fields_of(record: logging.LogRecord) -> Fields:
    try:
        event = record.getMessage()
    except Exception:  # noqa: BLE001  the arguments do not fit the format
        event = str(record.msg)
    own = {
        f"{name}_" if name in RESERVED else name: value
        for name, value in vars(record).items()
        if name not in STANDARD_ATTRIBUTES
    }
    moment = datetime.fromtimestamp(record.created, UTC).isoformat().replace("+00:00", "Z")
    fields = {
        **structlog.contextvars.get_contextvars(),
        **own,
        "event": event,
        "level": record.levelname.lower(),
        "timestamp": moment,
    }
    fields |= {
        "exc_info": record.exc_info[1] if record.exc_info else None,
        "stack_info": record.stack_info,
    }
    return _with_context(fields, record.name)


def _with_context(fields: Fields, logger: str) -> Fields:
    """Add logger, process, run and pipeline to the fields of a line."""
    fields.update(_origin())
    if logger:
        fields["logger"] = logger
    call = current_call.get()
    if call is not None:
        fields["run"] = call.run
        fields["pipeline"] = f"v{call.version.partition('.')[0]}/{call.pipeline}"
    return fields


class _Output(structlog.WriteLogger):
    """The output of structlog for finished lines. `name` is the logger's."""

    def __init__(self, file: TextIO, name: object = "", *_: object) -> None:
        super().__init__(file)
        self.name = name if isinstance(name, str) else ""

    def msg(self, message: str) -> None:
        """Write a line. A failure is ignored: there is no other place to report it."""
        with suppress(OSError, ValueError):
            super().msg(message)

    log = debug = info = warn = warning = msg
    fatal = failure = err = error = critical = exception = msg


def print_error(text: str, log_format: str = "auto") -> None:
    """Print why this process can't start or reload, in the format of the log.

    The log need not be configured.
    """
    if _is_json(log_format):
        moment = datetime.now(UTC).isoformat().replace("+00:00", "Z")
        fields = {
            "event": text,
            "level": "error",
            "timestamp": moment,
            "logger": RUNTIME_LOGGER,
            **_origin(),
        }
        _Output(sys.stderr).msg(line_of(fields, as_json))
    else:
        sys.stderr.write(f"penstock: {text}\n")
    with suppress(OSError, ValueError):
        sys.stderr.flush()


def _origin() -> dict[str, Any]:
    """Return the fields that name environment, host and process of a line."""
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
    return lambda fields: str(
        console(
            None,
            "",
            for_terminal(
                {name: value for name, value in fields.items() if name not in ORIGIN_FIELDS}
            ),
        )
    )


def _logger_of(name: str) -> str:
    """Return the name of a logger; within a run, one without a name is that of its pipeline."""
    call = current_call.get() if not name else None
    return f"pipeline.{call.pipeline}" if call is not None else name


def _is_runtime(name: str) -> bool:
    return name == RUNTIME_LOGGER or name.startswith(f"{RUNTIME_LOGGER}.")


def _thread_failed(failed: threading.ExceptHookArgs) -> None:
    """Log the exception that ended a thread. The interpreter would print it unredacted."""
    if failed.exc_value is not None and not isinstance(failed.exc_value, SystemExit):
        name = failed.thread.name if failed.thread is not None else None
        structlog.get_logger(RUNTIME_LOGGER).error(
            "a thread failed", thread=name, exc_info=failed.exc_value
        )
