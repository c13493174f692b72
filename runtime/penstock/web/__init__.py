"""HTTP: the dispatcher on the hot path, and ordinary Flask below it."""

from penstock.web.app import Penstock, create_app, from_environment

__all__ = ["Penstock", "create_app", "from_environment"]
