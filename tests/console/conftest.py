"""The fixtures of the console's tests."""

from console_kit import console, quick
from desk_kit import desk

__all__ = ["console", "desk", "quick"]
