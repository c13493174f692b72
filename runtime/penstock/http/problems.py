"""Problem details (RFC 9457): the body of a call that was rejected or failed."""

from __future__ import annotations

from http import HTTPStatus

from flask import Response

from penstock.contracts.sanitize import as_json
from penstock.endpoints.replies import NO_STORE, Answer
from penstock.errors import Refusal

CONTENT_TYPE = "application/problem+json"
PHRASES = {status.value: f"{status.value} {status.phrase}" for status in HTTPStatus}


def status_line(status: int) -> str:
    """Return a status with its phrase, as PEP 3333 requires."""
    return PHRASES.get(status) or f"{status} Unassigned"


def problem_document(refusal: Refusal, run: str | None) -> bytes:
    """Return the problem document as JSON. `run` is the id of the run, if there is one."""
    return as_json(refusal.document(run))  # a handler may add any values


def refused_response(refusal: Refusal, run: str | None) -> Answer:
    """Return status, headers and body of the response to a call that ends with a problem."""
    headers = [("Content-Type", CONTENT_TYPE), *refusal.headers]
    if not any(name.lower() == "cache-control" for name, _ in headers):
        headers.append(NO_STORE)
    return refusal.status, headers, problem_document(refusal, run)


def problem_response(refusal: Refusal) -> Response:
    """Return the problem document as a Flask response."""
    return Response(
        problem_document(refusal, None),
        refusal.status,
        headers=list(refusal.headers),
        content_type=CONTENT_TYPE,
    )
