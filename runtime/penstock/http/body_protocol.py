"""The contract between application and server about a request body that has not arrived yet.

A thread that reads a body from a slow client can do nothing else. A server that can receive bodies
without a thread therefore calls the application as soon as the head of a request has arrived. The
`wsgi.input` of that call holds the part of the body that came with the head.

The application decides from the head alone: whether the path exists, who the caller is, whether the
declared length is within the limit. It returns `ResumeAfterBody` if it needs the body. The server
calls `resume` once the body is complete, or once it is certain that the body will never be.

On other servers, reading `wsgi.input` blocks, as PEP 3333 specifies.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from enum import Enum
from typing import Any, Generic, NoReturn, TypeVar

Reply = TypeVar("Reply")

# The environ key under which Penstock's own server passes its connection. Any thread may answer on
# that connection.
CONNECTION = "penstock.connection"
# The attribute of an application that may return ResumeAfterBody. The server calls any other
# application only when the body is complete.
SUPPORTS_BODY_PROTOCOL = "supports_body_protocol"


class BodyFault(Enum):
    """The reason why a body is incomplete and will stay so."""

    MALFORMED = "malformed"  # wrong framing, or the connection ended within the body
    TOO_LARGE = "too large"
    TIMED_OUT = "timed out"
    HOST_STOPPING = "not received: the host is stopping"


class BodyNotReceived(BaseException):
    """Raised by `wsgi.input` when it is read before the body is complete.

    The caller of the application must receive the body first, then call again. This is no
    `Exception`, so that error handlers of views do not catch it.
    """


class ResumeAfterBody(Generic[Reply]):
    """A return value of the application in place of a reply: it needs the request's body first.

    Args:
        limit: The maximum size of the body in bytes, without its framing. The server stores no
            more than that.
        deadline: A `time.monotonic()` reading. After it the server sets BodyFault.TIMED_OUT and
            calls `resume`.
        resume: Returns the reply, or ResumeAfterBody again. The server calls it when the body is
            complete or has a fault.

    """

    __slots__ = ("deadline", "limit", "resume")

    def __init__(
        self, limit: int, deadline: float, resume: Callable[[], Reply | ResumeAfterBody[Reply]]
    ) -> None:
        self.limit = limit
        self.deadline = deadline
        self.resume = resume

    def __iter__(self) -> NoReturn:
        """Raise TypeError, so that a server without this protocol never sends it as a reply."""
        raise TypeError("this server does not support ResumeAfterBody")


def body_received(environ: Mapping[str, Any]) -> bool:
    """Return whether the body of a request can be read without BodyNotReceived.

    This is always true on other servers, where reading blocks.
    """
    if CONNECTION not in environ:
        return True
    body = environ["wsgi.input"]
    return bool(body.complete or body.fault is not None)


def body_fault(environ: Mapping[str, Any]) -> BodyFault | None:
    """Return why the body of a request will never be complete, None if it has no fault."""
    return environ["wsgi.input"].fault if CONNECTION in environ else None


def must_close_if_unread(environ: Mapping[str, Any]) -> bool:
    """Return whether the connection must close after a reply that leaves the body unread.

    This holds on other servers: stock gunicorn 26.2 then loses a pipelined request.
    """
    return CONNECTION not in environ and (
        "CONTENT_LENGTH" in environ or "HTTP_TRANSFER_ENCODING" in environ
    )
