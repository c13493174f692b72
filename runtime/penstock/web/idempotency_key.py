"""The Idempotency-Key of a call (draft-ietf-httpapi-idempotency-key-header)."""

from __future__ import annotations

from penstock.contracts.call import Caller
from penstock.endpoints.endpoint import Endpoint
from penstock.runs.idempotency import SAFE, key_of
from penstock.web.exchange import Exchange


def idempotency_key(
    exchange: Exchange, endpoint: Endpoint, caller: Caller, environment: str
) -> tuple[str, ...] | None:
    """Return what identifies the Idempotency-Key of a call, None where none counts.

    A key belongs to one consumer and one subject at one pipeline. Raises Refusal (400).
    """
    sent = exchange.environ.get("HTTP_IDEMPOTENCY_KEY")
    if sent is None or endpoint.pipeline.trigger.idempotent is None or exchange.method in SAFE:
        return None
    return (
        environment,
        exchange.place.pipeline,
        str(caller.consumer_id),
        caller.subject or "",
        key_of(sent),
    )
