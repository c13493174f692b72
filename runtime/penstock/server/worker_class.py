"""Which worker class gunicorn runs.

Penstock's own worker uses internals of gunicorn, so it only runs on the minor releases that it was
compared with byte by byte (tests/wire). On any other release, or without epoll, gunicorn's stock
`gthread` takes its place. docs/explanation/server.md lists what that one does not guarantee.
"""

from __future__ import annotations

import select

from gunicorn import __version__, version_info
from gunicorn.util import load_class

from penstock.errors import CannotStart

PENSTOCK_WORKER = "penstock.server.worker.Worker"
FALLBACK = "gthread"
TESTED_MINORS = ((26, 2),)
# The packages that worker classes of gunicorn require, by the name of the class.
PACKAGES = {
    "gevent": "gevent",
    "gevent_pywsgi": "gevent",
    "gevent_wsgi": "gevent",
    "eventlet": "eventlet",
    "tornado": "tornado",
}


def choose_worker_class(name: str) -> tuple[str, str]:
    """Return gunicorn's name for the worker class, and a warning (empty if there is none).

    `name` is PENSTOCK_WORKER_CLASS: `penstock`, or any name that gunicorn accepts. Raises
    CannotStart if gunicorn does not accept it.
    """
    if name == "penstock":
        return _penstock_worker()
    try:
        load_class(name)
    except Exception as error:  # gunicorn raises several kinds
        package = PACKAGES.get(name)
        if package is not None:
            raise CannotStart(
                f"PENSTOCK_WORKER_CLASS={name} requires the package {package}, which is not"
                f" installed. Fix: install {package}, or set PENSTOCK_WORKER_CLASS to penstock or"
                " gthread"
            ) from error
        raise CannotStart(
            f"PENSTOCK_WORKER_CLASS={name} is not a worker class of gunicorn."
            " Fix: set it to penstock or gthread"
        ) from error
    return name, ""


def _penstock_worker() -> tuple[str, str]:
    if version_info[:2] not in TESTED_MINORS:
        tested = ", ".join(f"{major}.{minor}" for major, minor in TESTED_MINORS)
        return FALLBACK, (
            f"Penstock's worker was not tested with gunicorn {__version__}: using gunicorn's"
            f" gthread. Fix: install gunicorn {tested}"
        )
    if not hasattr(select, "epoll"):
        return FALLBACK, (
            "Penstock's worker requires epoll, which this system does not have: using gunicorn's"
            " gthread"
        )
    return PENSTOCK_WORKER, ""
