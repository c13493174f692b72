"""The demo: a login flow, orders from partners, and a pipeline that the default policy refuses."""

from __future__ import annotations

from penstock import Pipeline, hookimpl
from penstock_demo.login import login
from penstock_demo.orders import orders
from penstock_demo.status import status


@hookimpl
def penstock_pipelines() -> list[Pipeline]:
    """Offer the three pipelines."""
    return [login, orders, status]
