"""All errors of Penstock: each text names the fault and, where there is one, the fix."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from http import HTTPStatus
from typing import Any

from penstock.header_fields import PROBLEM_HEADERS, HeaderValue, header_fields

RETRYABLE_STATUSES = frozenset({408, 425, 429})  # client errors that a retry can solve


APOSTROPHE, TYPOGRAPHIC_APOSTROPHE = "'", "\N{RIGHT SINGLE QUOTATION MARK}"
MAX_QUOTED_LENGTH = 80  # characters of a value in the text of an error


def quoted(value: object) -> str:
    """Return a value in quotes as the text of an error shows it: one short, visible line.

    A character that can't be seen, or that changes the direction of the text, is shown by its code
    point. A value that is no text has no quotes. Pages replace the quotes by typographic ones.
    """
    text = str(value)
    if len(text) > MAX_QUOTED_LENGTH:
        text = f"{text[:MAX_QUOTED_LENGTH]}…"
    shown = "".join(
        character if character.isprintable() else f"U+{ord(character):04X}" for character in text
    )
    if not isinstance(value, str):
        return shown
    return f"'{shown.replace(APOSTROPHE, TYPOGRAPHIC_APOSTROPHE)}'"


def title_of(code: str) -> str:
    """Return the title of a problem type: `Invalid API key` for `invalid-api-key`."""
    return code.replace("-", " ").capitalize().replace("api key", "API key")


class PenstockError(Exception):
    """Base of all errors of Penstock; its text is one line that tells people what to do."""

    exit_code = 1


class Refusal(PenstockError):
    """An HTTP problem that ends a call; the caller receives it as problem details (RFC 9457).

    `code` is the stable `type` of the problem and `status` its HTTP status. `headers` are response
    headers, `extra` further members of the document; neither contains a credential. `counted` is
    True if it was counted as a failed authentication already. `caller` is who called, as far as the
    credentials prove it; the record of a rejected call names it.
    """

    counted = False
    caller: Any = None  # a Caller; its module imports this one

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
        self.title = title or title_of(code)
        self.headers = tuple(headers)
        self.extra = dict(extra or {})

    def document(self, run: str | None) -> dict[str, object]:
        """Return the problem document (RFC 9457); `run` is the id of the run, if there is one."""
        document: dict[str, object] = {
            **self.extra,
            "type": self.code,
            "title": self.title,
            "status": self.status,
            "detail": self.detail,
        }
        return document if run is None else document | {"run": run}


class PipelineError(Refusal):
    """Raise it in a handler to answer with an HTTP problem (RFC 9457).

    Example: `raise PipelineError(404, "No such order", f"order {order_id} does not exist")`.

    Args:
        status: HTTP status, 400 to 599.
        title: The kind of problem, the same for each occurrence. Default: the status's phrase.
        detail: What is wrong in this call, and how the caller can fix it.
        type: Stable type of the problem, a URI reference (RFC 9457 section 3.1.1).
        headers: Response headers, for example ``{"Retry-After": 30}``. A list is sent as several
            headers of that name.
        permanent: Whether a retry is useless. Default: True below 500, except 408, 425 and 429.
        **extra: Further members of the problem document.

    Raises:
        ValueError: The status is no error status, or a header is invalid.

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
                HTTPStatus(status).phrase if status in HTTPStatus.__members__.values() else "Error"
            )
        super().__init__(
            int(status),
            str(type),
            str(detail or title),
            title=str(title),
            headers=header_fields(headers or (), PROBLEM_HEADERS),
            extra=extra,
        )
        self.permanent = (
            status < 500 and status not in RETRYABLE_STATUSES if permanent is None else permanent  # noqa: PLR2004  the first status of a server error
        )


class ReplyError(PenstockError):
    """The reply or the problem of a handler can't be sent; the text names handler and reason."""


class PipelineCallError(PipelineError):
    """`call_pipeline` raises it if the other pipeline failed or returned a problem.

    It has `status`, `code`, `title`, `detail` and `extra` of the other's problem; `pipeline` is the
    other's id. If a handler does not catch it, its own run fails (500), since the caller did not
    cause the problem. `raise error.passed_on()` returns the problem to the caller.
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
        """Return the other pipeline's problem as an error that this pipeline can raise."""
        error = PipelineError(
            self.status, self.title, self.detail, type=self.code, permanent=self.permanent
        )
        error.headers, error.extra = self.headers, dict(self.extra)
        return error


class CalledPipelineFailed(PenstockError):
    """A handler did not catch the error of `call_pipeline`; the text is for operators."""


MAYBE_ACCEPTED = (
    "The run may have been accepted all the same: repeat the call with its Idempotency-Key, and"
    " there is one run."
)


class DeadlineExceeded(Refusal):
    """The run has reached its deadline."""

    def __init__(self, detail: str = "The pipeline exceeded its timeout.") -> None:
        super().__init__(504, "timed-out", detail)


class HostStopping(Refusal):
    """The process stopped before the call ended, or before the whole request arrived."""

    def __init__(
        self,
        detail: str = (
            "The host stopped before the call ended. The call may or may not have been performed."
        ),
    ) -> None:
        super().__init__(503, "host-stopping", detail)


class StepTimedOut(PenstockError):
    """A step exceeded its `timeout`. Its thread keeps running; the result is discarded."""


class StepFailed(PenstockError):
    """A step failed before the run was recovered.

    The text is that of the original exception, whose type can't be restored.
    """


class CredentialRejected(PenstockError):
    """An authenticator raises it for an invalid credential of its kind.

    The text is for the log. The caller does not receive it, since the exact reason would help an
    attacker. `caller` is a Caller: whose credential it is, where that is known although it is not
    valid. It appears in the record of the rejected call alone.
    """

    def __init__(self, reason: str = "", caller: Any = None) -> None:  # noqa: ANN401  its module imports this one
        super().__init__(reason)
        self.caller = caller


class TokenNotIssued(PenstockError):
    """A token can't be issued; the text says what is missing."""


class NotStarted(PenstockError):
    """A pipeline called another one in a wrong way; its developer must fix the call."""


class UsageError(PenstockError):
    """An argument names nothing that exists, or is invalid."""

    exit_code = 2


class TooLong(UsageError):
    """A text has more characters than its kind may have."""

    def __init__(self, kind: str, text: str, longest: int) -> None:
        super().__init__(
            f"the {kind} has {len(text)} characters; write at most {longest} characters"
        )
        self.kind = kind


class UnknownName(UsageError):
    """No object of that kind has that name; the text suggests the nearest one."""

    def __init__(self, kind: str, name: str, names: Iterable[str] = (), *, fix: str = "") -> None:
        near = difflib.get_close_matches(name, sorted(names), n=1, cutoff=0.5)
        hint = f"; did you mean {quoted(near[0])}?" if near else (f"; {fix}" if fix else "")
        super().__init__(f"no {kind} is named {quoted(name)}{hint}")
        self.kind = kind


class Outdated(PenstockError):
    """What a change was based on has changed meanwhile.

    `saved` are names and values as they are now, and `token` the token of these (`access.seen`).
    """

    def __init__(
        self, text: str, *, token: str = "", saved: Iterable[tuple[str, str]] = ()
    ) -> None:
        super().__init__(text)
        self.token = token
        self.saved = tuple(saved)


class AlreadyExists(PenstockError):
    """Another object of that kind has that name."""

    def __init__(self, kind: str, name: str) -> None:
        super().__init__(f"{kind} {quoted(name)} exists already")


class CannotStart(PenstockError):
    """The process can't start; the text names the reason and the fix."""

    exit_code = 3


class StartDelayed(CannotStart):
    """The process can't start now, but can later without a change. Exit code: EX_TEMPFAIL."""

    exit_code = 75


class BadSetting(CannotStart):
    """A setting is invalid, missing or unknown."""
