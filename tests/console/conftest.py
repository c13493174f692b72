"""The fixtures of the console's tests."""

from console_kit import console, quick

__all__ = ["console", "quick"]
