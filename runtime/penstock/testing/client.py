"""A test client whose calls carry credentials."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from werkzeug.test import Client, TestResponse

from penstock.http.listeners import INTERNAL


class CallerClient(Client):
    """A werkzeug test client that sends credentials with each call.

    Headers that are given with a call replace its own.
    """

    def __init__(
        self,
        application: Any,  # noqa: ANN401  any WSGI application
        headers: Mapping[str, str],
        *,
        internal: bool = False,
    ) -> None:
        super().__init__(application)
        self.headers = dict(headers)
        self._listener = {INTERNAL: True} if internal else {}

    def open(self, *args: Any, **kwargs: Any) -> TestResponse:  # noqa: ANN401  werkzeug's arguments
        """Return the response to a call. Arguments are werkzeug's.

        Example: `client.post("/v1/orders/", json={"sku": "A1"})`.
        """
        environ = self._listener | dict(kwargs.get("environ_overrides") or {})
        headers = self.headers | dict(kwargs.get("headers") or {})
        return super().open(*args, **kwargs | {"headers": headers, "environ_overrides": environ})

    def internal(self) -> CallerClient:
        """Return a client with the same credentials for the internal listener."""
        return CallerClient(self.application, self.headers, internal=True)
