"""The demo: a login flow, orders, a nightly report, and a pipeline that the policy blocks."""

from __future__ import annotations

from penstock import Pipeline, hookimpl
from penstock_demo import login, orders, report, status


@hookimpl
def penstock_pipelines() -> list[Pipeline]:
    """Offer the four pipelines."""
    return [login.login, orders.orders, report.report, status.status]
