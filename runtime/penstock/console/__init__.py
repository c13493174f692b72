"""The console: pages at `/-/console` that see and steer access.

It calls what the commands call; no rule lives in a view.
"""

from penstock.console.app import add_console
from penstock.console.context import ClientInfo
from penstock.console.pages import only_signed_in

__all__ = ["ClientInfo", "add_console", "only_signed_in"]
