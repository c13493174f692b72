"""Why a process ended, in words for the log."""

from __future__ import annotations

import signal


def end_reason(code: int, plugin: str, *, ready: bool) -> str:
    """Return why a process ended.

    `code` is its exit code, or its signal as a negative number. `plugin` is the plugin that it was
    loading, empty if none. `ready` tells whether it had begun its work.
    """
    if code >= 0:
        reason = f"exit code {code}"
    elif -code in set(signal.Signals):
        reason = f"signal {signal.Signals(-code).name}"
    else:
        reason = f"signal {-code}"
    if -code == signal.SIGKILL:
        reason += ", which the kernel sends when memory runs out"
    if plugin:
        return f"{reason} while plugin {plugin} was loaded"
    return reason if ready else f"{reason} before it was ready"
