"""Which of the process's listeners a call came in on: the external one, or the internal one."""

from __future__ import annotations

import socket
from collections.abc import Mapping

# In the environ, where a server (or the test kit) says itself that a call is internal.
INTERNAL = "penstock.internal"


def is_internal(environ: Mapping[str, object], bind: str) -> bool:
    """Say whether a call came in on the internal listener.

    Nothing that the caller sends is asked: the connection's own address tells.

    On a server that does not hand over its connections all calls are external.
    """
    if environ.get(INTERNAL) is True:
        return True
    connection = environ.get("gunicorn.socket")
    if not bind or not isinstance(connection, socket.socket):
        return False
    try:
        here = connection.getsockname()
    except OSError:
        return False
    if isinstance(here, tuple):
        return not bind.startswith("unix:") and bind.rpartition(":")[2] == str(here[1])
    return bind.startswith("unix:") and bind.removeprefix("unix:") == (
        here.decode() if isinstance(here, bytes) else here
    )
