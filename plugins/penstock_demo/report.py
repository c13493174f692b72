"""The nightly report: what partners have ordered so far, at six in Lisbon. No caller reaches it."""

from __future__ import annotations

from penstock import Call, Pipeline, Schedule, step
from penstock_demo import orders

report = Pipeline(
    "report",
    version="1.0.0",
    summary="Reports what was ordered",
    trigger=Schedule("0 6 * * *", timezone="Europe/Lisbon", missed="once"),
    record_bodies="all",
)


@step()
def count() -> dict[str, int]:
    """Count orders by partner."""
    return orders.store().counted()


@report.post("/")
def make(call: Call) -> dict[str, object]:  # noqa: ARG001  a handler may do without
    """Report orders by partner; operators see it with `penstock runs show`."""
    counted = count()
    return {"orders": sum(counted.values()), "partners": counted}
