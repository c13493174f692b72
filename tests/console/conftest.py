"""The fixtures of the console's tests."""

from console_kit import console, desk

__all__ = ["console", "desk"]
