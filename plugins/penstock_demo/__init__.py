"""The demo: a login flow, orders from partners, and a pipeline that the default policy refuses."""

from __future__ import annotations

from penstock import Pipeline, hookimpl
from penstock_demo import login, orders, status


@hookimpl
def penstock_pipelines() -> list[Pipeline]:
    """Offer the three pipelines."""
    return [login.login, orders.orders, status.status]
