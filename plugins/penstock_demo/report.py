"""The nightly report at six in Lisbon: orders by partner. Only its schedule starts it."""

from __future__ import annotations

from penstock import Call, Pipeline, Schedule, step
from penstock_demo import orders

report = Pipeline(
    "report",
    version="1.0.0",
    summary="Reports orders by partner",
    trigger=Schedule("0 6 * * *", timezone="Europe/Lisbon", missed="once"),
    record_bodies="all",
)


@step()
def count() -> dict[str, int]:
    """Count orders by partner."""
    return orders.store().counted()


@report.post("/")
def make(call: Call) -> dict[str, object]:  # noqa: ARG001  a handler gets the call
    """Return orders by partner; `penstock runs show` shows them."""
    counted = count()
    return {"orders": sum(counted.values()), "partners": counted}
