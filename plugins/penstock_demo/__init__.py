"""The demo.

A login flow, orders from partners, a nightly report, and a pipeline that the default policy
refuses.
"""

from __future__ import annotations

from penstock import Pipeline, hookimpl
from penstock_demo import login, orders, report, status


@hookimpl
def penstock_pipelines() -> list[Pipeline]:
    """Offer the four pipelines."""
    return [login.login, orders.orders, report.report, status.status]
