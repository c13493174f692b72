"""Test kit for plugins: a runtime in the test's own process, with clients that have credentials.

This package is a pytest plugin that comes with Penstock; the fixture `penstock_runtime` needs no
import:

    def test_orders(penstock_runtime):
        runtime = penstock_runtime(orders, policy="api-key")
        assert runtime.client().get("/v1/orders/").json == []

There is no server and no network. Calls go to the same WSGI application that gunicorn calls, with
real access checks and a database of their own.
"""

from penstock.runs.step_records import Attempt, StepRecord
from penstock.testing.calls import a_call
from penstock.testing.client import CallerClient
from penstock.testing.fixtures import StartRuntime, penstock_runtime
from penstock.testing.records import ChildRecord, RunRecord
from penstock.testing.runtime import Runtime

__all__ = [
    "Attempt",
    "CallerClient",
    "ChildRecord",
    "RunRecord",
    "Runtime",
    "StartRuntime",
    "StepRecord",
    "a_call",
    "penstock_runtime",
]
