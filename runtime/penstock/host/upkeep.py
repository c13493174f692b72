"""The threads of a process besides those of calls: follow, listen, keep house, watch, alert."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from functools import partial

import structlog

from penstock import threads
from penstock.db.engine import Engine, open_engine
from penstock.db.history import HistoryPoint
from penstock.db.postgres import listen
from penstock.host.alerting import Alerting
from penstock.host.background import BackgroundErrors
from penstock.host.follower import POLL_S, POLL_WHEN_LISTENING_S, Follower
from penstock.host.housekeeping import Housekeeping
from penstock.host.parts import HostParts
from penstock.host.presence import Presence
from penstock.host.reporter import ProcessReporter
from penstock.host.services import Services
from penstock.host.signals import Signals
from penstock.host.watcher import STUCK_AFTER_S, Watcher

STOP_TIMEOUT_S = 3.0  # for which the end of each thread is waited for
LISTEN_RETRY_S = 1.0

Work = Callable[[Engine, threads.MonitoredThread], None]


class Upkeep:
    """Starts and stops the threads. A start after a fork makes new ones, with new events."""

    def __init__(self, parts: HostParts) -> None:
        self.database = parts.database
        self.attendance = parts.attendance
        self.log_throttle = parts.log_throttle
        # Called when the database has confirmed the view; set it before the start.
        self.on_confirmed: Callable[[HistoryPoint, float], object] = lambda _point, _moment: None
        self._parts = parts
        self.reporter = ProcessReporter(parts)
        self._threads: list[threads.MonitoredThread] = []
        self._signals = Signals()
        self._follower: Follower | None = None
        self._reserved: Engine | None = None
        self._errors = BackgroundErrors(parts.log_throttle)
        self._log = structlog.get_logger("penstock")

    def start(self, services: Services, signals: Signals, kind: str | None) -> None:
        """Start the threads. A process of a `kind` is listed as alive from then on."""
        engine, settings = services.engine, self._parts.settings
        presence = Presence(kind, self._parts.view.environment_id, self.reporter.listed_as)
        if self.database.trouble is None:
            presence.heartbeat(engine)
        self._signals = signals
        listens = engine.dialect.name == "postgresql"
        follower = self._follower = Follower(
            self._parts,
            services,
            presence,
            signals,
            on_confirmed=self.on_confirmed,
            poll_s=POLL_WHEN_LISTENING_S if listens else POLL_S,
        )
        housekeeping = Housekeeping(self._parts, services, presence, self.reporter, signals)
        watcher = Watcher(self._parts, services.limiter, signals, self._follower_thread)
        works: list[tuple[str, Work, bool]] = [
            ("penstock-follow", follower.follow, True),
            ("penstock-house", housekeeping.run, True),
            ("penstock-watch", watcher.run, True),
            ("penstock-alerts", Alerting(self._parts, signals).run, False),
        ]
        if listens:
            # Not essential: without it the follower polls more often.
            works.append(("penstock-listen", self._listen, False))
            # Connections of their own, which no number of calls can use up.
            engine = self._reserved = open_engine(settings.database_url, reserved=True)
        self._threads = [
            threads.start(name, partial(work, engine), limit=STUCK_AFTER_S, essential=essential)
            for name, work, essential in works
        ]

    def stop(self) -> None:
        """End the threads, and wait for them."""
        self._signals.stop_all()
        for thread in self._threads:
            thread.join(timeout=STOP_TIMEOUT_S)
        if self._reserved is not None:
            self._reserved.dispose()

    @property
    def following(self) -> bool:
        """Whether the thread that follows the database is alive, or was not started yet."""
        return not self._threads or self._threads[0].is_alive()

    def catch_up(self, engine: Engine) -> None:
        """Read what changed in the database now. Raises DatabaseUnavailable."""
        if self._follower is None:
            message = "the host was not started"
            raise RuntimeError(message)
        self._follower.catch_up(engine)

    def _follower_thread(self) -> int | None:
        return self._threads[0].ident if self._threads else None

    def _listen(self, _engine: Engine, thread: threads.MonitoredThread) -> None:
        """Wake the follower at each notification; where listening fails, it polls."""

        def stopped() -> bool:
            thread.heartbeat()
            return self._signals.stop.is_set()

        while not stopped():
            with self._errors.logged("listening to the database"), suppress(OSError):
                if listen(self._parts.settings.direct_url, self._signals.changed.set, stopped):
                    continue
                if self._follower is not None:
                    self._follower.listening_failed()
                fix = "set PENSTOCK_DATABASE_DIRECT_URL to the server itself"
                self._log.warning(
                    "changes of access are polled: a connection pooler passes no notifications on",
                    fix=fix,
                )
                return
            self._signals.stop.wait(LISTEN_RETRY_S)
