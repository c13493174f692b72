"""One round of the work on alerts: evaluate in one process at a time, deliver in all."""

from __future__ import annotations

from penstock import clock
from penstock.access.encryption import SecretBox
from penstock.alerts.delivery import deliver_due, forget
from penstock.alerts.evaluation import evaluate
from penstock.db import leases
from penstock.db.engine import Engine
from penstock.settings import Settings

LEASE = "alerts"
ROUND_S = 15.0  # between two rounds of a process
LEASE_S = 2.5 * ROUND_S


def make_round(engine: Engine, box: SecretBox, settings: Settings, process: str) -> None:
    """Evaluate the rules if this process has the lease, and send what is due.

    Any process may send: the one that evaluates may have no mail server. Raises
    DatabaseUnavailable.
    """
    if leases.acquire(engine, LEASE, process, LEASE_S):
        now = clock.utc_now()
        evaluate(engine, now)
        forget(engine, now)
    deliver_due(engine, box, settings)
