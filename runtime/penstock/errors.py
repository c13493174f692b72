"""One error tree: what went wrong, for whom, and how to mend it."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from http import HTTPStatus

from penstock.header_fields import PROBLEM, HeaderValue, header_fields

RETRYABLE_STATUSES = frozenset({408, 425, 429})  # statuses below 500 that ask to try again


class PenstockError(Exception):
    """Base of everything we raise on purpose; its text is one line a person can act on."""

    exit_code = 1


class Refusal(PenstockError):
    """A call gets no further: the answer its caller receives, as RFC 9457 problem details.

    `code` is the problem's stable `type`, `status` its HTTP status. `headers` go out with it,
    `extra` are further members of the document. Neither ever holds a credential. `counted` says
    that it counts as a failed credential already.
    """

    counted = False

    def __init__(
        self,
        status: int,
        code: str,
        detail: str,
        *,
        title: str | None = None,
        headers: Iterable[tuple[str, str]] = (),
        extra: Mapping[str, object] | None = None,
    ) -> None:
        super().__init__(detail)
        self.status = status
        self.code = code
        self.detail = detail
        self.title = title or code.replace("-", " ").capitalize()
        self.headers = tuple(headers)
        self.extra = dict(extra or {})

    def document(self, run: str | None) -> dict[str, object]:
        """Return the problem document (RFC 9457) that its caller receives."""
        known: dict[str, object] = {
            **self.extra,
            "type": self.code,
            "title": self.title,
            "status": self.status,
            "detail": self.detail,
        }
        return known if run is None else known | {"run": run}


class PipelineError(Refusal):
    """Raised by a handler that refuses a call on purpose.

    Args:
        status: The HTTP status, 400 to 599.
        title: What kind of problem it is, the same for each occurrence.
        detail: What went wrong this time, and how the caller can mend it.
        type: The problem's stable type, a URI reference (RFC 9457 section 3.1.1).
        headers: Response headers, for example ``{"Retry-After": 30}``; a list is sent as several
            headers of that name.
        permanent: Whether trying again can't help; by default so below 500, but for 408, 425 and
            429.
        **extra: Further members of the problem document.

    Raises:
        ValueError: The status is not one of a refusal, or a header can't be sent.

    """

    def __init__(
        self,
        status: int,
        title: str | None = None,
        detail: str = "",
        *,
        type: str = "pipeline-failed",  # noqa: A002  the member's name in RFC 9457
        headers: Mapping[str, HeaderValue] | Iterable[tuple[str, HeaderValue]] = (),
        permanent: bool | None = None,
        **extra: object,
    ) -> None:
        if isinstance(status, bool) or not isinstance(status, int) or not 400 <= status <= 599:  # noqa: PLR2004  the bounds of HTTP error statuses
            message = f"PipelineError takes a status from 400 to 599, not {status!r}"
            raise ValueError(message)
        if title is None:
            title = (
                HTTPStatus(status).phrase
                if status in HTTPStatus.__members__.values()
                else "Refused"
            )
        super().__init__(
            int(status),
            str(type),
            str(detail or title),
            title=str(title),
            headers=header_fields(headers or (), PROBLEM),
            extra=extra,
        )
        self.permanent = (
            status < 500 and status not in RETRYABLE_STATUSES if permanent is None else permanent  # noqa: PLR2004  the server's faults
        )


class ReplyError(PenstockError):
    """Raised when the reply or the refusal of a handler can't be sent.

    The text names the handler and the reason.
    """


class PipelineCallError(PipelineError):
    """Raised by `call_pipeline` where the other pipeline refused or failed.

    It has the other's `status`, `code`, `title`, `detail` and `extra`; `pipeline` is its id. A
    handler that does not catch it has failed: its own caller gets 500, for that one sent nothing of
    what the other refused. `raise error.passed_on()` gives the answer to the caller.
    """

    def __init__(self, pipeline: str, answer: Refusal) -> None:
        super().__init__(
            answer.status,
            answer.title,
            answer.detail,
            type=answer.code,
            permanent=getattr(answer, "permanent", None),
        )
        self.args = (f"{pipeline} answered {answer.status} {answer.code}: {answer.detail}",)
        self.pipeline = pipeline
        self.headers = answer.headers
        self.extra = dict(answer.extra)

    def passed_on(self) -> PipelineError:
        """Return the other pipeline's answer as one of this pipeline's own, to be raised."""
        error = PipelineError(
            self.status, self.title, self.detail, type=self.code, permanent=self.permanent
        )
        error.headers, error.extra = self.headers, dict(self.extra)
        return error


class CalledPipelineFailed(PenstockError):
    """A handler did not catch what `call_pipeline` raised.

    The text is what the other pipeline answered, for operators.
    """


MAYBE_ACCEPTED = (
    "The run may have been accepted all the same: repeat the call with its Idempotency-Key, and"
    " there is one run."
)


class DeadlineExceeded(Refusal):
    """The run's own time is up; no retry can help."""

    def __init__(self, detail: str = "The pipeline took longer than it may.") -> None:
        super().__init__(504, "timed-out", detail)


class HostStopping(Refusal):
    """The process ends before the call does, or before all of the call has arrived."""

    def __init__(
        self,
        detail: str = (
            "The host stopped before the call ended. The call may or may not have been performed."
        ),
    ) -> None:
        super().__init__(503, "host-stopping", detail)


class StepTimedOut(PenstockError):
    """A step took longer than its `timeout`.

    What it was doing goes on by itself, and counts for nothing.
    """


class StepFailed(PenstockError):
    """A step that failed before a run was taken up again.

    The text is what it raised then, of a type that can't be made again.
    """


class CredentialRejected(PenstockError):
    """An authenticator knows this kind of credential, and this one is no good.

    The text is for the log, never for the caller: which of several reasons it was would help an
    attacker.
    """


class TokenNotIssued(PenstockError):
    """A token was asked for where none may be made; the text says what is missing."""


class NotStarted(PenstockError):
    """A pipeline wanted to start another in a way that can't be; its developer has to mend it."""


class UsageError(PenstockError):
    """A command was given something that does not exist or does not fit: a usage error."""

    exit_code = 2


class UnknownName(UsageError):
    """Nothing of that kind has that name; the nearest ones are suggested."""

    def __init__(self, kind: str, name: str, known: Iterable[str] = (), *, fix: str = "") -> None:
        near = difflib.get_close_matches(name, sorted(known), n=1, cutoff=0.5)
        hint = f"; did you mean {near[0]!r}?" if near else (f"; {fix}" if fix else "")
        super().__init__(f"no {kind} is named {name!r}{hint}")
        self.kind = kind


class AlreadyExists(PenstockError):
    """Something of that kind has that name already."""

    def __init__(self, kind: str, name: str) -> None:
        super().__init__(f"{kind} {name!r} exists already")


class CannotStart(PenstockError):
    """The process must not serve: the text says why and what to do."""

    exit_code = 3


class StartDelayed(CannotStart):
    """The process can't serve now, and nobody has to change anything for it to start later.

    The exit code is EX_TEMPFAIL of sysexits.h.
    """

    exit_code = 75


class BadSetting(CannotStart):
    """A setting can't be understood, is missing, or is not one of ours."""
