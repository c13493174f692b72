"""A pipeline that asks for no credentials.

Refused under the default policy on purpose, to show the reminder.
"""

from __future__ import annotations

from penstock import Call, HttpTrigger, Pipeline

status = Pipeline("status", version="1.0.0", summary="Says that it is there", trigger=HttpTrigger())


@status.get("/")
def show_status(call: Call) -> dict[str, str]:
    """Say where this is."""
    return {"status": "running", "environment": call.environment}
