"""Render refusals as RFC 9457 problem details."""

from __future__ import annotations

from http import HTTPStatus

from flask import Response

from penstock.contracts.sanitize import as_json
from penstock.errors import Refusal

CONTENT_TYPE = "application/problem+json"
PHRASES = {status.value: f"{status.value} {status.phrase}" for status in HTTPStatus}


def status_line(status: int) -> str:
    """Return a status with its phrase, as WSGI wants it."""
    return PHRASES.get(status) or f"{status} Unassigned"


def problem_document(refusal: Refusal, run: str | None) -> bytes:
    """Return the document."""
    return as_json(refusal.document(run))  # what a handler adds may be anything


def problem_response(refusal: Refusal) -> Response:
    """Return the document as Flask's response."""
    return Response(
        problem_document(refusal, None),
        refusal.status,
        headers=list(refusal.headers),
        content_type=CONTENT_TYPE,
    )
