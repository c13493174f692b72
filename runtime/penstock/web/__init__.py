"""HTTP: the dispatcher on the hot path, and ordinary Flask below it."""

from penstock.web.app import Penstock, create_app

__all__ = ["Penstock", "create_app"]
