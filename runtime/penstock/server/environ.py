"""The WSGI environ of requests (PEP 3333), equal to the one that gunicorn builds.

The entries that are the same for all requests of a connection are built once for each connection.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

from gunicorn.http import wsgi
from gunicorn.util import unquote_to_wsgi_str

from penstock.http.body_protocol import CONNECTION
from penstock.http.leader_followers import PROMOTE_NEXT
from penstock.server.body import RequestBody
from penstock.server.connection import Connection
from penstock.server.request import Request


class EnvironBuilder:
    """Builds the environ of each request of a worker."""

    def __init__(self, config: Any, promote_next: Callable[[], object]) -> None:  # noqa: ANN401  gunicorn ships no types
        self._config = config
        self._promote_next = promote_next
        self._common: dict[str, Any] | None = None
        if (
            not os.environ.get("SCRIPT_NAME")
            and not config.forwarder_headers
            and config.proxy_protocol == "off"
        ):
            self._common = {
                **wsgi.base_environ(config),
                "wsgi.multithread": True,
                PROMOTE_NEXT: promote_next,
            }

    def of_connection(self, connection: Connection) -> dict[str, Any] | None:
        """Return the entries that all requests of a connection have.

        Return None if gunicorn itself must build the environ, see `_build_with_gunicorn`.
        """
        if (
            self._common is None
            or not isinstance(connection.client, tuple)
            or not isinstance(connection.server, tuple)
        ):
            return None
        host, port = connection.client[:2]
        return {
            **self._common,
            CONNECTION: connection,
            "gunicorn.socket": connection.sock,
            "REMOTE_ADDR": host,
            "REMOTE_PORT": str(port),
            "SERVER_NAME": connection.server[0],
            "SERVER_PORT": str(connection.server[1]),
            "SCRIPT_NAME": "",
        }

    def of_request(
        self, connection: Connection, request: Request, body: RequestBody
    ) -> dict[str, Any]:
        """Return the environ of a request."""
        base = connection.base_environ
        if base is None:
            return self._build_with_gunicorn(connection, request, body)
        environ: dict[str, Any] = {
            **base,
            "wsgi.input": body,
            "wsgi.url_scheme": request.scheme,
            "REQUEST_METHOD": request.method,
            "QUERY_STRING": request.query,
            "RAW_URI": request.uri,
            "SERVER_PROTOCOL": f"HTTP/{request.version[0]}.{request.version[1]}",
            "PATH_INFO": unquote_to_wsgi_str(request.path),
        }
        for name, value in request.headers:
            key = name.replace("-", "_")
            if key not in {"CONTENT_TYPE", "CONTENT_LENGTH"}:
                key = "HTTP_" + key
                if key in environ:
                    value = f"{environ[key]},{value}"  # noqa: PLW2901  several fields of one name are one list (RFC 9110 section 5.3)
            environ[key] = value
        return environ

    def _build_with_gunicorn(
        self, connection: Connection, request: Request, body: RequestBody
    ) -> dict[str, Any]:
        """Return the environ for a Unix socket, or where gunicorn's own settings change it."""
        # gunicorn would send `100 Continue` at once; the server sends it when the body is needed.
        expected, request._expected_100_continue = request._expected_100_continue, False  # noqa: SLF001  gunicorn has no other way
        request.body = body
        _, environ = wsgi.create(
            request, connection.sock, connection.client, connection.server, self._config
        )
        request._expected_100_continue = expected  # noqa: SLF001  as above
        environ.pop("wsgi.early_hints", None)
        return {
            **environ,
            "wsgi.multithread": True,
            CONNECTION: connection,
            PROMOTE_NEXT: self._promote_next,
        }
