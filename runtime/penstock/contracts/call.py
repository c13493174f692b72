"""The call that a handler receives, and the reply that it returns."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping
from contextvars import ContextVar
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Protocol
from urllib.parse import parse_qs

import msgspec
import structlog

from penstock.contracts.forms import Fields, close_files
from penstock.contracts.steps import runner
from penstock.contracts.variables import Secret
from penstock.errors import TokenNotIssued
from penstock.header_fields import HeaderValue

if TYPE_CHECKING:
    import httpx


class Caller(msgspec.Struct, frozen=True):
    """The caller that the credentials proved; all fields are empty for an anonymous caller.

    `consumer` is the consumer's name. `subject` is the token's `sub` (RFC 7519), `scopes` its
    scopes and `claims` all its verified claims.
    """

    consumer: str | None = None
    consumer_id: int | None = None
    key_id: str | None = None
    subject: str | None = None
    scopes: frozenset[str] = frozenset()
    claims: Mapping[str, object] = {}  # msgspec copies defaults

    def replace(self, **changes: Any) -> Caller:  # noqa: ANN401  of any field
        """Return a copy with some fields changed, for an authenticator that proves more."""
        return msgspec.structs.replace(self, **changes)

    def __repr__(self) -> str:
        """Return all fields but the claims, which may hold personal data."""
        shown = (f"{name}={getattr(self, name)!r}" for name in self.__struct_fields__[:-1])
        return f"Caller({', '.join(shown)})"


ANONYMOUS = Caller()
MAX_EXACT_INTEGER = 2**53  # larger integers lose digits in some JSON readers
NO_VARIABLES: Mapping[str, str] = MappingProxyType({})


@dataclass(frozen=True, slots=True)
class Reply:
    """A complete response.

    Example: `Reply(201, {"Location": f"/v1/orders/{order.id}"}, order)`.

    Args:
        status: HTTP status. Default 200.
        headers: Response headers. A value is a text, a number, or a list, which is sent as several
            headers: `{"Set-Cookie": ["a=1", "b=2"]}`. Use `attachment` for the file name of a
            `Content-Disposition`. An invalid header fails the run (500).
        body: Any value that a handler may return. Default None.

    """

    status: int = 200
    headers: Mapping[str, HeaderValue] = field(default_factory=dict)
    body: object = None


@dataclass(frozen=True, slots=True)
class Token:
    """A token of a login flow.

    Return it from the handler (RFC 6749 section 5.1), or send it as a response header.
    `expires_in` is in seconds.
    """

    access_token: str = field(repr=False)
    expires_in: int
    scope: str = ""
    token_type: str = "Bearer"  # noqa: S105  the scheme's name, no secret

    def header(self) -> dict[str, str]:
        """Return the response header `Authorization` with the token."""
        return {"Authorization": f"{self.token_type} {self.access_token}"}


class Issue(Protocol):
    """The type of the function behind `Call.issue_token`."""

    def __call__(
        self,
        *,
        subject: str,
        scopes: frozenset[str],
        lifetime: float | None,
        claims: Mapping[str, object],
    ) -> Token:
        """Return the signed token. Raises TokenNotIssued."""


class Headers(Mapping[str, str]):
    """Request headers; names are case-insensitive."""

    __slots__ = ("_fields",)

    def __init__(self, fields: Mapping[str, str]) -> None:
        self._fields = {name.lower(): value for name, value in fields.items()}

    def __getitem__(self, name: str) -> str:
        return self._fields[name.lower()]

    def __iter__(self) -> Iterator[str]:
        return iter(self._fields)

    def __len__(self) -> int:
        return len(self._fields)

    def __repr__(self) -> str:
        """Return the names of the headers, without values."""
        return f"Headers({', '.join(self._fields)})"


class Call:
    """One accepted call, as its handler receives it.

    `caller` is who calls. `params` are the parameters of the route. `run` is the id of the run.
    `deadline` is a `time.monotonic()` reading; `remaining()` returns the seconds left. `variables`
    are the variables of the environment. `content_type` is the type of the body. Headers, query and
    body are read at first use. Reading a body above the size limit raises `PipelineError` (413).
    """

    __slots__ = (
        "_body",
        "_form",
        "_headers",
        "_http",
        "_issue",
        "_query",
        "_read_body",
        "_read_form",
        "_read_headers",
        "_read_http",
        "_read_secrets",
        "_secrets",
        "caller",
        "content_type",
        "deadline",
        "environment",
        "method",
        "params",
        "path",
        "pipeline",
        "query_string",
        "run",
        "variables",
        "version",
    )

    def __init__(  # noqa: PLR0913  one argument a part of a call
        self,
        *,
        method: str,
        path: str,
        pipeline: str,
        version: str,
        environment: str,
        run: str,
        deadline: float,
        caller: Caller = ANONYMOUS,
        params: Mapping[str, str] | None = None,
        query_string: str = "",
        content_type: str = "",
        read_headers: Callable[[], Mapping[str, str]] = dict,
        read_body: Callable[[], bytes] = bytes,
        read_form: Callable[[bytes | None], Fields] = lambda _: {},
        variables: Mapping[str, str] = NO_VARIABLES,
        read_secrets: Callable[[], Mapping[str, Secret]] = dict,
        read_http: Callable[[], httpx.Client] | None = None,
        issue: Issue | None = None,
    ) -> None:
        self.method = method
        self.path = path
        self.pipeline = pipeline
        self.version = version
        self.environment = environment
        self.run = run
        self.deadline = deadline
        self.caller = caller
        self.params = params if params is not None else {}
        self.query_string = query_string
        self.content_type = content_type
        self._read_headers = read_headers
        self._read_body = read_body
        self._read_form = read_form
        self.variables = variables
        self._read_secrets = read_secrets
        self._read_http = read_http
        self._issue = issue
        self._secrets: Mapping[str, Secret] | None = None
        self._headers: Headers | None = None
        self._http: httpx.Client | None = None
        self._query: Mapping[str, list[str]] | None = None
        self._body: bytes | None = None
        self._form: Fields | None = None

    @property
    def log(self) -> Any:  # noqa: ANN401  structlog's logger
        """A structlog logger. Its lines have the run and the pipeline, and are kept with the run.

        Fields of a line are keyword arguments.
        """
        return structlog.get_logger(f"pipeline.{self.pipeline}")

    @property
    def headers(self) -> Headers:
        """The request's headers; names are case-insensitive."""
        if self._headers is None:
            self._headers = Headers(self._read_headers())
        return self._headers

    @property
    def query(self) -> Mapping[str, list[str]]:
        """The query parameters: each name with its values, in order."""
        if self._query is None:
            self._query = parse_qs(self.query_string, keep_blank_values=True)
        return self._query

    @property
    def body(self) -> bytes:
        """The body as bytes, decompressed if it was sent with gzip.

        Raises:
            PipelineError: It is above the trigger's size limit (413).
            RuntimeError: The body was read as a form before.

        """
        if self._body is None:
            if self._form is not None:
                raise RuntimeError(
                    "the body was read as a form; use call.form, or read call.body before it"
                )
            self._body = self._read_body()
        return self._body

    @property
    def form(self) -> Fields:
        """The body as a form: each name with its values, which are texts or `Upload` files.

        `body` can't be read after `form`.
        """
        if self._form is None:
            self._form = self._read_form(self._body)
        return self._form

    @property
    def secrets(self) -> Mapping[str, Secret]:
        """The secrets that this pipeline may read: `call.secrets["erp_token"].reveal()`."""
        if self._secrets is None:
            self._secrets = self._read_secrets()
        return self._secrets

    @property
    def http(self) -> httpx.Client:
        """An HTTP client of this run.

        Its timeout is the time that the run or the step has left. It sends the run's id and
        `traceparent`.

        Raises:
            RuntimeError: The call was created in a test, without a client.

        """
        if self._http is None:
            if self._read_http is None:
                raise RuntimeError(
                    "this call has no HTTP client; give it one, such as httpx.Client()"
                )
            self._http = self._read_http()
        return self._http

    def progress(self, done: float, of: float | None = None, note: str = "") -> None:
        """Report the progress of a durable run; consumer and operators see it within a second.

        Example: `call.progress(3, of=10, note="pages")`.

        Args:
            done: What is done, in any unit.
            of: The total, in the same unit, if it is known.
            note: A text for people.

        Raises:
            TypeError: `done` or `of` is no number.

        """
        try:
            numbers = _number(done), None if of is None else _number(of)
        except (TypeError, ValueError, OverflowError):
            raise TypeError(f"call.progress takes numbers, not {done!r} of {of!r}") from None
        current = runner.get()
        if current is not None:
            current.progress(*numbers, str(note))

    def so_far(self) -> tuple[bytes | None, Fields | None]:
        """Return body and form if they were read, for the record. The runtime calls this."""
        return self._body, self._form

    def end(self) -> None:
        """Close the files of the form. The runtime calls this."""
        if self._form:
            close_files(self._form)

    def remaining(self) -> float:
        """Return the seconds until the deadline; negative after it."""
        return self.deadline - time.monotonic()

    def issue_token(
        self,
        *,
        subject: str,
        scopes: frozenset[str] | set[str] | tuple[str, ...] | list[str] = frozenset(),
        lifetime: float | None = None,
        claims: Mapping[str, object] | None = None,
    ) -> Token:
        """Return a signed token for the calling consumer (RFC 9068).

        The trigger must declare `login=True`, and an operator must have designated the pipeline as
        a login flow of the environment.

        Args:
            subject: The user who signed in; the claim `sub`.
            scopes: What the token allows; the claim `scope`.
            lifetime: Seconds. Default and upper limit: the environment's limit.
            claims: Further claims. Registered claims can't be set.

        Raises:
            TokenNotIssued: The pipeline is no designated login flow, the call has no consumer, or
                an argument is invalid.

        """
        if self._issue is None:
            message = "no token issuer is loaded"
            raise TokenNotIssued(message)
        return self._issue(
            subject=subject, scopes=frozenset(scopes), lifetime=lifetime, claims=claims or {}
        )

    def __repr__(self) -> str:
        """Return run, method and path, never headers or body."""
        return f"<Call {self.run} {self.method} {self.path}>"


current_call: ContextVar[Call | None] = ContextVar("penstock_call", default=None)
"""The call of the handler that runs in this context, for the log."""


def _number(value: Any) -> float:  # noqa: ANN401  a Decimal too
    if isinstance(value, str | bytes):
        raise TypeError
    number = float(value)
    if not math.isfinite(number):
        raise ValueError
    return value if isinstance(value, int) and abs(value) < MAX_EXACT_INTEGER else number
