"""Whether a process can answer calls, and the state of each of its parts, for `/-/ready`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from penstock import clock
from penstock.host.parts import HostParts
from penstock.host.services import Services
from penstock.host.status import status_document
from penstock.host.upkeep import Upkeep

# A host whose clock differs by more is not ready: it would accept credentials for so long after
# their end.
MAX_CLOCK_DIFFERENCE_S = 60.0


class Health:
    """Reads the state of a process. It asks neither the database nor a plugin."""

    def __init__(
        self, parts: HostParts, upkeep: Upkeep, services: Callable[[], Services | None]
    ) -> None:
        self.is_draining: Callable[[], bool] = bool  # whether this process is about to end
        self._parts = parts
        self._upkeep = upkeep
        self._services = services

    def checks(self) -> tuple[bool, dict[str, str]]:
        """Return whether this process can answer calls, and the state of each part."""
        view, plugins, services = self._parts.view, self._parts.catalog.plugins, self._services()
        applied = view.access is None or view.access.broken is None
        snapshot = "ok" if view.fresh() else _unless(applied, "too old", "not usable")
        checks = {
            "database": self._database(applied=applied),
            "snapshot": snapshot,
            "plugins": "ok" if not plugins.problems else f"{len(plugins.problems)} blocked",
        }
        if not plugins.loaded:
            checks["plugins"] = "none loaded"
        if services is not None and services.limiter.away is not None:
            checks["rates"] = (
                f"{services.limiter.away}: the storage of PENSTOCK_RATE_LIMIT_URL can't be reached"
            )
        if services is not None and services.run_intake is not None:
            # Calls are answered without a worker, and accepted runs are not lost.
            checks["runs"] = self._parts.attendance.summary()
        clock_fits = abs(seconds := clock.seconds_ahead()) <= MAX_CLOCK_DIFFERENCE_S
        if not clock_fits:
            direction = "behind" if seconds > 0 else "ahead of"
            checks["clock"] = f"{abs(seconds):.0f} s {direction} the database's"
        if self.is_draining():
            checks["process"] = "about to end"
        ready = (
            snapshot == "ok"
            and self._upkeep.following
            and clock_fits
            and bool(plugins.loaded)
            and not self.is_draining()
        )
        return ready, checks

    def status(self) -> dict[str, Any]:
        """Return the status document of this process, for `/-/status`."""
        services = self._services()
        limiter = services.limiter if services is not None else None
        return status_document(self._parts, limiter, ready=self.checks()[0])

    def _database(self, *, applied: bool) -> str:
        if not self._upkeep.following:
            return "not followed: the thread that does it has ended; restart this process"
        if self._parts.view.reachable():
            return "ok"
        return _unless(applied, "can't be reached", "its changes can't be applied")


def _unless(applied: bool, otherwise: str, fault: str) -> str:
    return otherwise if applied else f"{fault}; the log says why"
