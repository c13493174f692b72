"""The fixtures of the console's tests."""

from support.console import console, desk, quick

__all__ = ["console", "desk", "quick"]
