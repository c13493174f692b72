"""The answers to calls that the gate's surroundings reject, for HTTP and for explanations alike."""

from __future__ import annotations

from penstock.errors import Refusal


def not_found() -> Refusal:
    """Return the answer to a call of a path without a pipeline."""
    return Refusal(404, "not-found", "There is nothing at this path.")


def address_rejected() -> Refusal:
    """Return the answer to a call from an address that may not call."""
    return Refusal(403, "address-not-allowed", "Calls from this address are not taken here.")


def internal_error() -> Refusal:
    """Return the answer to a call that met a fault of the runtime."""
    return Refusal(500, "internal", "Something went wrong here; the log says what.")
