"""The headers by which browsers let a page call (the Fetch standard's CORS protocol)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from penstock.contracts.cors import Cors


def cors_headers(cors: Cors, environ: Mapping[str, Any], allowed: str) -> list[tuple[str, str]]:
    """Return the response headers for the origin that a call comes from.

    `allowed` are the path's methods.
    """
    headers = [("Vary", "Origin")]
    origin = environ.get("HTTP_ORIGIN")
    if origin is None or not ("*" in cors.origins or origin in cors.origins):
        return headers
    headers.append(("Access-Control-Allow-Origin", "*" if "*" in cors.origins else origin))
    if cors.credentials:
        headers.append(("Access-Control-Allow-Credentials", "true"))
    if environ["REQUEST_METHOD"] == "OPTIONS":
        methods = [name for name in allowed.split(", ") if not cors.methods or name in cors.methods]
        headers += [
            ("Access-Control-Allow-Methods", ", ".join(methods)),
            ("Access-Control-Allow-Headers", ", ".join(sorted(cors.headers))),
            ("Access-Control-Max-Age", str(cors.max_age)),
        ]
    elif cors.expose:
        headers.append(("Access-Control-Expose-Headers", ", ".join(sorted(cors.expose))))
    return headers
