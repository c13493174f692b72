"""The HTTP client of handlers and steps: it ends with its run and passes the trace on."""

from __future__ import annotations

import os
import random
import re
import threading
import time
from collections.abc import Mapping
from typing import Any

import httpx

from penstock.contracts.steps import runner
from penstock.errors import DeadlineExceeded

# W3C Trace Context section 3.2.
TRACE = re.compile(r"[0-9a-f]{2}-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(?:-.*)?")
NO_TRACE = "0" * 32
_lock = threading.Lock()
_shared: tuple[int, httpx.HTTPTransport] | None = None


def trace_of(traceparent: str | None, run: str) -> tuple[str, str]:
    """Return the trace id and flags that a `traceparent` header passes on.

    Without one a trace begins with this run.
    """
    match = TRACE.fullmatch(traceparent) if traceparent else None
    if match is None or match[1] == NO_TRACE or traceparent.startswith("ff"):  # type: ignore[union-attr]  # it matched, so it is there
        return run.replace("-", ""), "01"
    return match[1], match[3]


def _transport() -> httpx.HTTPTransport:
    """Return the connection pool of this process; it has no cookies."""
    global _shared  # noqa: PLW0603  one pool a process, made after a fork
    if _shared is None or _shared[0] != os.getpid():
        with _lock:
            if _shared is None or _shared[0] != os.getpid():
                _shared = (
                    os.getpid(),
                    httpx.HTTPTransport(
                        limits=httpx.Limits(max_connections=200, max_keepalive_connections=50)
                    ),
                )
    return _shared[1]


class Client(httpx.Client):
    """An `httpx.Client` of one run.

    Its timeouts are at most the time that the run, or the current step, has left.
    """

    def __init__(self, run: str, deadline: float, trace: tuple[str, str]) -> None:
        super().__init__(
            transport=_transport(), timeout=None, trust_env=False, headers={"X-Request-Id": run}
        )
        self._deadline = deadline
        self._trace = trace

    def send(self, request: httpx.Request, **options: Any) -> httpx.Response:  # noqa: ANN401  httpx's own
        """Send a request. Raises DeadlineExceeded where the run has no time left."""
        current = runner.get()
        left = (
            self._deadline if current is None else min(current.deadline, self._deadline)
        ) - time.monotonic()
        if left <= 0:
            raise DeadlineExceeded
        asked: Mapping[str, float | None] = request.extensions.get("timeout", {})
        request.extensions["timeout"] = {
            name: left if asked.get(name) is None else min(left, asked[name] or left)
            for name in ("connect", "read", "write", "pool")
        }
        if "traceparent" not in request.headers:
            request.headers["traceparent"] = (
                f"00-{self._trace[0]}-{random.getrandbits(64) or 1:016x}-{self._trace[1]}"
            )
        return super().send(request, **options)

    def close(self) -> None:
        """Do nothing: the connections belong to the process."""

    def __exit__(self, *_: object) -> None:
        """Do nothing, as `close`."""
