"""The entry of this process in the list of processes: registered, renewed, removed at the end."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable
from contextlib import suppress

from penstock.db import processes
from penstock.db.engine import Engine
from penstock.errors import PenstockError
from penstock.runs.ids import new_run_id


class Presence:
    """Says that this process is alive. Errors are suppressed: the next heartbeat tries again.

    `kind` is `serve` for a process that answers calls; None for one that is not to be listed.
    """

    def __init__(
        self,
        kind: str | None,
        environment_id: int,
        on_listed: Callable[[str], object] = lambda _process: None,
    ) -> None:
        """Take a function that is called with the process's id in the list."""
        self._kind = kind
        self._on_listed = on_listed
        self._environment_id = environment_id
        self._process: str | None = None

    @property
    def registered(self) -> bool:
        """Whether the process is in the list."""
        return self._process is not None

    def heartbeat(self, engine: Engine) -> None:
        """Renew the entry, or make it: at the start, or as soon as the database is there."""
        if self._kind is None:
            return
        with suppress(PenstockError):
            if self._process is None:
                process = new_run_id()
                processes.register(
                    engine,
                    process,
                    kind=self._kind,
                    environment_id=self._environment_id,
                    host=socket.gethostname(),
                    pid=os.getpid(),
                )
                self._process = process
                self._on_listed(process)
            elif not processes.heartbeat(engine, self._process):
                # The entry is gone: it was silent too long, or the database was restored.
                self._process = None

    def end(self, engine: Engine) -> None:
        """Remove the entry."""
        if self._process is not None:
            with suppress(PenstockError):
                processes.unregister(engine, self._process)
