"""A bare WSGI application that returns its environ and body in a header, also for HEAD."""

from __future__ import annotations

import base64
import json
import time
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

from penstock.http.body_protocol import ResumeAfterBody, body_fault, body_received

IGNORED_KEYS = frozenset({"REMOTE_PORT", "SERVER_PORT", "SERVER_SOFTWARE"})


def app(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
    """Answer a request."""
    body = environ["wsgi.input"].read()
    strings = {
        name: value
        for name, value in environ.items()
        if isinstance(value, str) and name not in IGNORED_KEYS
    }
    given = json.dumps(
        {"environ": strings, "body": base64.b64encode(body).decode()}, sort_keys=True
    )
    head = environ["REQUEST_METHOD"] == "HEAD"
    start_response(
        "200 OK",
        [
            ("X-Given", base64.b64encode(given.encode()).decode()),
            ("Content-Length", str(0 if head else len(body))),
        ],
    )
    return [] if head else [body]


class HeadsFirst:
    """The same application with the body protocol: it asks for the body after the head."""

    supports_body_protocol = True

    def __call__(
        self, environ: dict[str, Any], start_response: Callable[..., Any]
    ) -> Iterable[bytes]:
        """Answer a request, or ask for its body."""
        if not body_received(environ):
            return ResumeAfterBody(
                1 << 40, time.monotonic() + 30, partial(self._with_body, environ, start_response)
            )
        return self._with_body(environ, start_response)

    def _with_body(
        self, environ: dict[str, Any], start_response: Callable[..., Any]
    ) -> Iterable[bytes]:
        if body_fault(environ) is not None:
            start_response("400 Bad Request", [("Content-Length", "0")])
            return []
        return app(environ, start_response)


heads_first = HeadsFirst()
