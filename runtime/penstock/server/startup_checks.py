"""What can be checked before a server starts: protocols and addresses.

Each check prints its own error.
"""

from __future__ import annotations

import os
import socket
from pathlib import Path
from typing import Any

from penstock import logs
from penstock.server.worker_class import PENSTOCK_WORKER


def supports_protocols(config: Any, worker_class: str, log_format: str) -> bool:  # noqa: ANN401  gunicorn ships no types
    """Return whether the worker class speaks the protocols that gunicorn is configured for."""
    if worker_class == PENSTOCK_WORKER and (
        "h2" in config.http_protocols or config.http2_cleartext != "off"
    ):
        logs.print_error(
            "Penstock's worker supports HTTP/1.1 only. Fix: put a proxy with HTTP/2 in front, or"
            " set PENSTOCK_WORKER_CLASS=gthread",
            log_format,
        )
        return False
    return True


def can_listen(server: Any, log_format: str) -> bool:  # noqa: ANN401  gunicorn ships no types
    """Return whether all addresses are free.

    gunicorn itself would try for five seconds, and then not print why it failed.
    """
    if server.LISTENERS or server.master_pid or os.environ.get("LISTEN_FDS"):
        return True  # inherited from the previous process, or from systemd
    for address in server.cfg.address:
        problem = (
            _tcp_problem(address[0], address[1])
            if isinstance(address, tuple)
            else _unix_problem(address)
        )
        if problem:
            logs.print_error(problem, log_format)
            return False
    return True


def _unix_problem(address: object) -> str:
    if isinstance(address, str) and not Path(address).parent.is_dir():
        return f"unix:{address} can't be listened on: there is no folder {Path(address).parent}"
    return ""


def _tcp_problem(host: str, port: int) -> str:
    try:
        family, kind, protocol, _, place = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[
            0
        ]
        with socket.socket(family, kind, protocol) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(place)
    except OSError as error:
        return (
            f"{host}:{port} can't be listened on: {error.strerror}."
            " Fix: choose another address with --bind"
        )
    return ""
