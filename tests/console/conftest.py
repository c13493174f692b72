"""The fixtures of the console's tests."""

from console_kit import console

__all__ = ["console"]
