"""The listener on which a call arrived: the external one, or the internal one."""

from __future__ import annotations

import socket
from collections.abc import Mapping

# The environ key with which a server, or the test kit, marks a call as internal.
INTERNAL = "penstock.internal"


def is_internal(environ: Mapping[str, object], bind: str) -> bool:
    """Return whether a call arrived on the internal listener, `bind`.

    The server's own address of the connection decides, never a header. On a server that does not
    pass its connections to the application, all calls are external.
    """
    if environ.get(INTERNAL) is True:
        return True
    connection = environ.get("gunicorn.socket")
    if not bind or not isinstance(connection, socket.socket):
        return False
    try:
        address = connection.getsockname()
    except OSError:
        return False
    if isinstance(address, tuple):
        return not bind.startswith("unix:") and bind.rpartition(":")[2] == str(address[1])
    return bind.startswith("unix:") and bind.removeprefix("unix:") == (
        address.decode() if isinstance(address, bytes) else address
    )
