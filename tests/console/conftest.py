"""The fixtures of the console's tests."""

from support.console import console_app, console_runtime, console_server
from support.furnished_console import furnished_console

__all__ = ["console_app", "console_runtime", "console_server", "furnished_console"]
