"""A pipeline that requires no credentials: blocked by the default policy, to show the reason."""

from __future__ import annotations

from penstock import Call, HttpTrigger, Pipeline

status = Pipeline(
    "status", version="1.0.0", summary="Reports that it is running", trigger=HttpTrigger()
)


@status.get("/")
def show_status(call: Call) -> dict[str, str]:
    """Return the environment."""
    return {"status": "running", "environment": call.environment}
