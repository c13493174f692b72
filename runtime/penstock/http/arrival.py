"""The agreement between the application and the server about a request body that has not arrived.

A thread that reads a body from a slow client does nothing else meanwhile. So where the server knows
how to receive bodies without a thread, it calls the application as soon as the head of a request is
there, with a `wsgi.input` that holds what has come so far. The application decides from the head
alone (is there such a path, who calls, is the declared length within the limit), and returns
`AwaitBody` if it needs the rest; the server goes on with `resume` once the body is whole, or never
will be. On other servers reading `wsgi.input` blocks, as PEP 3333 has it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from enum import Enum
from typing import Any, Generic, NoReturn, TypeVar

Reply = TypeVar("Reply")

# In the environ of our own server: its connection, on which any thread can answer.
CLIENT = "penstock.client"
# The attribute of an application that knows AwaitBody; others are called when the body is whole.
TAKES_HEADS = "takes_heads"


class BodyFault(Enum):
    """Why a body is not whole and never will be."""

    BROKEN = "broken"  # its framing is, or the connection ended within it
    TOO_LARGE = "too large"
    LATE = "late"
    STOPPED = "not awaited: the host is stopping"


class BodyNeeded(BaseException):
    """Raised by `wsgi.input` when it is read before the body is whole.

    Whoever called the application has to wait for it first.

    It is no `Exception`, so that it passes through what handles the errors of views.
    """


class AwaitBody(Generic[Reply]):
    """Returned by the application in place of a reply: the request's body is needed first.

    Args:
        limit: The bytes that the body may have, without its framing; the server keeps no more of
            it.
        deadline: A `time.monotonic()` reading; past it the server goes on with BodyFault.LATE.
        resume: Returns the reply, or once more AwaitBody; called when the body is whole or has a
            fault.

    """

    __slots__ = ("deadline", "limit", "resume")

    def __init__(
        self, limit: int, deadline: float, resume: Callable[[], Reply | AwaitBody[Reply]]
    ) -> None:
        self.limit = limit
        self.deadline = deadline
        self.resume = resume

    def __iter__(self) -> NoReturn:
        """Raise TypeError: a server that does not know AwaitBody must not take it for a reply."""
        raise TypeError("this server does not know AwaitBody")


def arrived(environ: Mapping[str, Any]) -> bool:
    """Return whether a request's body can be read to its end.

    On other servers it always can, because their reading blocks.
    """
    if CLIENT not in environ:
        return True
    body = environ["wsgi.input"]
    return bool(body.complete or body.fault is not None)


def fault_of(environ: Mapping[str, Any]) -> BodyFault | None:
    """Return why a request's body will never be whole."""
    return environ["wsgi.input"].fault if CLIENT in environ else None


def unread_elsewhere(environ: Mapping[str, Any]) -> bool:
    """Return whether a body may be left unread on another server.

    Stock gunicorn 26.2 then forgets a request that came behind it.
    """
    return CLIENT not in environ and (
        "CONTENT_LENGTH" in environ or "HTTP_TRANSFER_ENCODING" in environ
    )
