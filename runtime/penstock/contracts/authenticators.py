"""The interface of authenticators: plugins that prove one kind of credential."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from typing import TYPE_CHECKING, ClassVar
from urllib.parse import parse_qs

from penstock.contracts.access import AccessView
from penstock.contracts.withheld import split_authorization

if TYPE_CHECKING:
    from penstock.contracts.call import Caller


@dataclass(frozen=True, slots=True)
class Once:
    """A mark of a call that must not be repeated.

    Another call of the same consumer with the same `message` is rejected for `seconds`.
    """

    message: bytes = field(repr=False)
    seconds: float


@lru_cache(256)
def _environ_key(name: str) -> str:
    """Return the WSGI key of a header (PEP 3333)."""
    return "HTTP_" + name.upper().replace("-", "_")


class RequestHead:
    """The head of a request, before its body is read: the input of an authenticator.

    `pipeline` is the id of the called pipeline.
    """

    __slots__ = ("_certificate", "_environ", "pipeline")

    def __init__(
        self,
        environ: Mapping[str, object],
        pipeline: str = "",
        certificate: Callable[[Mapping[str, object]], bytes | None] | None = None,
    ) -> None:
        self._environ = environ
        self._certificate = certificate
        self.pipeline = pipeline

    @property
    def authorization(self) -> tuple[str, str] | None:
        """Scheme, in lower case, and credential of `Authorization` (RFC 9110 section 11.6.2)."""
        header = self._environ.get("HTTP_AUTHORIZATION")
        return split_authorization(header) if isinstance(header, str) else None

    @property
    def certificate(self) -> bytes | None:
        """The client certificate in DER, verified by TLS or sent by a trusted proxy.

        None without a certificate, empty bytes for one that can't be read.
        """
        return self._certificate(self._environ) if self._certificate is not None else None

    def header(self, name: str) -> str | None:
        """Return the value of a header; several fields of one name are joined by commas."""
        value = self._environ.get(_environ_key(name))
        return value if isinstance(value, str) else None

    def query(self, name: str) -> list[str]:
        """Return all values of a query parameter."""
        text = self._environ.get("QUERY_STRING")
        if not text or not isinstance(text, str):
            return []
        return parse_qs(text, keep_blank_values=True).get(name, [])

    def __repr__(self) -> str:
        """Return a fixed text: the head of a request contains credentials."""
        return "<RequestHead>"


class Authenticator(ABC):
    """Proves one kind of credential.

    There are three outcomes. The request has no credential of this kind: `find` returns None. It
    has an invalid one: any method raises `CredentialRejected`. It has a valid one: `verify` returns
    the caller. The runtime calls authenticators in the order of `needs`.

    Class attributes:
        name: The option of `HttpTrigger` that requires this kind, such as `api_key` or `jwt`.
        noun: Its name in messages to callers, such as `API key`.
        refusal: The problem type for an invalid credential.
        challenge: Its scheme in `WWW-Authenticate` (RFC 9110 section 11.6.1).
        needs: Names of authenticators that must succeed first. Without them this kind is not
            accepted.
        only_where_asked: True: check only calls to pipelines that require this kind. For
            credentials that clients send to every server, such as certificates. By default every
            credential that is sent is checked.
        reads_body: True: the proof needs the body. `verify_body` is called after all other checks.
        guessable: True: people choose the secret, such as a password. Attempts are counted before
            `verify`, and an address with too many failures is rejected, right or wrong.
        asks_for_secret: False: operators add a credential by its name only.
        most: Largest number of credentials in an environment, for kinds that are tried one after
            the other. None: no limit.
        credential_headers: Request headers that contain the credential; handlers don't receive
            them. Include `Authorization` if the credential has a scheme of that header. Leave it
            empty if the value is no secret, such as a signature.
        credential_parameters: Query parameters that contain the credential.

    """

    name: ClassVar[str]
    refusal: ClassVar[str]
    challenge: ClassVar[str]
    noun: ClassVar[str]
    needs: ClassVar[frozenset[str]] = frozenset()
    only_where_asked: ClassVar[bool] = False
    reads_body: ClassVar[bool] = False
    guessable: ClassVar[bool] = False
    asks_for_secret: ClassVar[bool] = True
    most: ClassVar[int | None] = None
    credential_headers: tuple[str, ...] | None = None
    credential_parameters: tuple[str, ...] = ()

    @abstractmethod
    def find(self, head: RequestHead, access: AccessView) -> str | None:
        """Return the credential as sent, or None if there is none of this kind."""

    @abstractmethod
    def verify(self, credential: str, access: AccessView, caller: Caller, now: float) -> Caller:
        """Return the caller that the credential proves.

        Args:
            credential: What `find` returned.
            access: Access data of the environment.
            caller: What earlier authenticators proved. Return it with the new facts added.
            now: Seconds since the epoch.

        Raises:
            CredentialRejected: The credential is invalid.

        """

    def verify_body(
        self,
        credential: str,  # noqa: ARG002  for subclasses
        body: bytes,  # noqa: ARG002  for subclasses
        head: RequestHead,  # noqa: ARG002  for subclasses
        access: AccessView,  # noqa: ARG002  for subclasses
        caller: Caller,
        now: float,  # noqa: ARG002  for subclasses
    ) -> Caller:
        """Return the caller that the credential proves together with the body as sent.

        Raises:
            CredentialRejected: The credential does not fit the body.

        """
        return caller

    def once(self, credential: str, body: bytes, head: RequestHead) -> Once | None:  # noqa: ARG002  for subclasses
        """Return the mark of a call that must not be repeated, or None.

        Override it for credentials of one call, such as a signed message with a time, or a proof
        with an id. It is called after all credentials are proven; `body` is empty without
        `reads_body`. The runtime stores the mark in the database by `name`, consumer and message,
        and rejects a second call in any process. It deletes the mark if the call is rejected after
        all, or fails (500 and above). A repeated call with the same `Idempotency-Key` gets the
        stored reply.

        Raises:
            CredentialRejected: The credential is invalid.

        """
        return None

    def enrol(self, name: str, secret: str) -> tuple[str, bytes]:  # noqa: ARG002  for subclasses
        """Return name and stored form of a secret that an operator enters for a consumer.

        Override it to let operators add credentials (`penstock credential add`). The stored form is
        encrypted at rest. `secret` is empty if `asks_for_secret` is False.

        Raises:
            ValueError: Name or secret is invalid; the text says why.

        """
        raise ValueError(f"{self.name} keeps no credentials")

    def security_scheme(self) -> Mapping[str, object]:
        """Return the Security Scheme Object of this kind of credential for OpenAPI."""
        return {"type": "http", "scheme": self.challenge.lower()}
