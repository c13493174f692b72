"""The client's certificate.

It comes from the TLS connection that ends here, or from a proxy that is trusted.
"""

from __future__ import annotations

import base64
import ssl
from collections.abc import Mapping
from urllib.parse import unquote

from penstock.http.addresses import Network, from_trusted_proxy

LONGEST = 16_384  # characters


def client_certificate(
    environ: Mapping[str, object], proxies: tuple[Network, ...], header: str
) -> bytes | None:
    """Return the certificate in DER, None where there is none or nobody vouches for it.

    `header` is empty where proxies send none.

    A proxy sends it as RFC 9440 says (`:base64 of DER:`), or as escaped PEM, as nginx does. The
    proxy must have verified it, and must not pass on a header of that name from its client.
    """
    connection = environ.get("gunicorn.socket")
    if (
        isinstance(connection, ssl.SSLSocket)
        and connection.context.verify_mode is not ssl.CERT_NONE
    ):
        own = connection.getpeercert(binary_form=True)
        if own is not None:
            return own
    if not header:
        return None
    said = environ.get("HTTP_" + header.upper().replace("-", "_"))
    if (
        not isinstance(said, str)
        or not 0 < len(said) <= LONGEST
        or not from_trusted_proxy(environ, proxies)
    ):
        return None
    try:
        if said.startswith(":") and said.endswith(":"):
            return base64.b64decode(said[1:-1], validate=True)
        return ssl.PEM_cert_to_DER_cert(unquote(said).strip())
    except ValueError:
        return b""  # something was sent, and it is no certificate
