"""The client certificate of a call: from the TLS connection, or from a trusted proxy's header."""

from __future__ import annotations

import base64
import ssl
from collections.abc import Mapping
from urllib.parse import unquote

from penstock.http.addresses import Network, from_trusted_proxy

MAX_HEADER_LENGTH = 16_384  # characters


def client_certificate(
    environ: Mapping[str, object], proxies: tuple[Network, ...], header: str
) -> bytes | None:
    """Return the verified certificate in DER, None if there is none.

    `header` is the header in which trusted proxies send it, empty if they send none. Its value is
    that of RFC 9440 (`:base64 of DER:`), or escaped PEM, as nginx writes it. The proxy must verify
    the certificate, and must remove a header of that name that its client sent. Return empty bytes
    if the value is no certificate.
    """
    connection = environ.get("gunicorn.socket")
    if (
        isinstance(connection, ssl.SSLSocket)
        and connection.context.verify_mode is not ssl.CERT_NONE
    ):
        certificate = connection.getpeercert(binary_form=True)
        if certificate is not None:
            return certificate
    if not header:
        return None
    value = environ.get("HTTP_" + header.upper().replace("-", "_"))
    if (
        not isinstance(value, str)
        or not 0 < len(value) <= MAX_HEADER_LENGTH
        or not from_trusted_proxy(environ, proxies)
    ):
        return None
    try:
        if value.startswith(":") and value.endswith(":"):
            return base64.b64decode(value[1:-1], validate=True)
        return ssl.PEM_cert_to_DER_cert(unquote(value).strip())
    except ValueError:
        return b""  # a header was sent, and it is no certificate
