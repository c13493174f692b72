"""What the gate asks, and what authenticators, policies and token issuers answer."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from functools import lru_cache
from typing import TYPE_CHECKING, ClassVar, Protocol
from urllib.parse import parse_qs

from penstock.contracts.withheld import split_authorization

if TYPE_CHECKING:
    from penstock.contracts.call import Caller, Token
    from penstock.contracts.triggers import HttpTrigger

MAX_TOKEN_LIFETIME = timedelta(hours=24)
LEEWAY = timedelta(seconds=30)


@dataclass(frozen=True, slots=True)
class PluginSetup:
    """What a plugin may know when it is asked for its parts.

    The process's settings that concern it.

    `max_header` is the size of the longest header field that the server accepts, in bytes with name
    and line end.
    """

    environment: str
    issuer: str
    api_key_headers: tuple[str, ...]
    max_header: int = 8190


@dataclass(frozen=True, slots=True)
class EnvironmentFacts:
    """One environment's rules.

    `token_lifetime` is the longest a token may live, in seconds, `run_retention` how long runs are
    remembered.

    `policy` is the one that a pipeline is judged by: where that is the internal one, it stands here
    too.
    """

    id: int
    name: str
    policy: str
    policy_version: int
    token_lifetime: int
    keys_in_query: bool
    algorithm: str
    internal_policy: str = "api-key"
    run_retention: int = 30 * 86_400
    record_bodies: str = "all"


@dataclass(frozen=True, slots=True)
class Consumer:
    """A caller that an operator knows."""

    id: int
    name: str
    enabled: bool


@dataclass(frozen=True, slots=True)
class ApiKey:
    """What is known of a key: everything but the key.

    `expires_at` is in seconds since the epoch, or None.
    """

    id: str
    consumer_id: int
    expires_at: float | None
    usable: bool


@dataclass(frozen=True, slots=True)
class Credential:
    """What an operator enrolled for a consumer with an authenticator.

    `secret` is what its `enrol` returned.

    `expires_at` is in seconds since the epoch, or None.
    """

    id: str
    kind: str
    name: str
    consumer_id: int
    secret: bytes = field(repr=False)
    expires_at: float | None = None


@dataclass(frozen=True, slots=True)
class SigningKey:
    """A key that signs or verifies the environment's tokens.

    `private` is a PKCS#8 PEM, or the raw secret for HS256; `public` is a SubjectPublicKeyInfo PEM,
    empty for HS256. A key with `verify_until` no longer signs; past that moment (seconds since the
    epoch) it verifies nothing either.
    """

    kid: str
    algorithm: str
    public: bytes
    private: bytes = field(repr=False)
    verify_until: float | None = None


@dataclass(frozen=True, slots=True, eq=False)
class TrustedIssuer:
    """An identity provider whose tokens an environment takes.

    Its keys are `keys` (JWKs), or at `jwks_url`, or found by discovery at the issuer. A token must
    be for `audience`; its consumer is `consumer`, or what `consumers` says of the value of
    `consumer_claim`, or that value itself where it says nothing at all.
    """

    issuer: str
    audience: str
    jwks_url: str | None = None
    keys: tuple[Mapping[str, object], ...] | None = None
    consumer: str | None = None
    consumer_claim: str = "client_id"
    consumers: Mapping[str, str] = field(default_factory=dict)
    scope_claim: str = "scope"


class AccessView(Protocol):
    """One environment's access data as this process knows it now, in memory."""

    @property
    def environment(self) -> EnvironmentFacts:
        """The environment's rules."""

    @property
    def tokens_version(self) -> int:
        """A number that changes whenever signing keys or revocations do.

        Cached verdicts on tokens end with it.
        """

    @property
    def variables(self) -> Mapping[str, str]:
        """The environment's variables."""

    def key(self, digest: bytes) -> ApiKey | None:
        """Return the API key of this environment with that SHA-256 digest."""

    def consumer(self, consumer_id: int) -> Consumer | None:
        """Return a consumer by its id."""

    def credentials(self, kind: str) -> Mapping[str, Credential]:
        """Return this environment's credentials with the authenticator of that name, by name."""

    def associated(self, consumer_id: int, pipeline: str) -> bool:
        """Say whether a consumer may call a pipeline here, by its id: `v1/orders`."""

    def signing_keys(self) -> Mapping[str, SigningKey]:
        """Return the keys that sign or still verify, by `kid`, the one that signs first."""

    def trusted_issuers(self) -> Mapping[str, TrustedIssuer]:
        """Return the outside issuers whose tokens are taken here, by their `iss`."""

    def token_revoked(self, jti: str, consumer: str, issued_at: float) -> bool:
        """Say whether a token was revoked, by its `jti` or by its consumer and moment of issue."""


@dataclass(frozen=True, slots=True)
class Once:
    """What makes a call one of a kind.

    A call of the same consumer with the same `message` is rejected for so many `seconds`.
    """

    message: bytes = field(repr=False)
    seconds: float


@lru_cache(256)
def _in_environ(name: str) -> str:
    """Return what WSGI calls a header (PEP 3333)."""
    return "HTTP_" + name.upper().replace("-", "_")


class RequestHead:
    """A request before anything of its body was read: what an authenticator may look at.

    `pipeline` is the id of what it calls. `authorization` is the header of that name: its scheme in
    lower case, and the credential (RFC 9110 section 11.6.2); None where it was not sent.
    """

    __slots__ = ("_certificate", "_environ", "authorization", "pipeline")

    def __init__(
        self,
        environ: Mapping[str, object],
        pipeline: str = "",
        certificate: Callable[[Mapping[str, object]], bytes | None] | None = None,
    ) -> None:
        self._environ = environ
        self._certificate = certificate
        sent = environ.get("HTTP_AUTHORIZATION")
        self.authorization = split_authorization(sent) if isinstance(sent, str) else None
        self.pipeline = pipeline

    @property
    def certificate(self) -> bytes | None:
        """The client's certificate in DER, as TLS or a trusted proxy vouches for it.

        None where there is none, empty where it is none.
        """
        return self._certificate(self._environ) if self._certificate is not None else None

    def header(self, name: str) -> str | None:
        """Return a header's value as sent; several fields of one name are joined by commas."""
        value = self._environ.get(_in_environ(name))
        return value if isinstance(value, str) else None

    def query(self, name: str) -> list[str]:
        """Return all values of a query parameter."""
        text = self._environ.get("QUERY_STRING")
        if not text or not isinstance(text, str):
            return []
        return parse_qs(text, keep_blank_values=True).get(name, [])

    def __repr__(self) -> str:
        """Show nothing: a request's head holds credentials."""
        return "<RequestHead>"


class Authenticator(ABC):
    """Proves one kind of credential.

    `name` is the toggle it satisfies (`api_key`, `jwt`), `noun` what callers know it as (`API
    key`), `refusal` the problem type of a bad one, `challenge` its scheme in `WWW-Authenticate`
    (RFC 9110 section 11.6.1). `needs` names credentials without which this kind is never usable;
    they are proven first. There are three outcomes: not mine (`find` returns None), mine and bad
    (either method raises `CredentialRejected`), and a caller.

    What was sent without being asked for is checked all the same, unless `only_where_asked`: for
    what is sent to any server, such as a certificate. With `reads_body` the proof needs the body:
    `verify_body` is called after all else held. `guessable` is what people choose, such as a
    password: each look is counted before `verify` is called, and an address that failed too often
    can try no other, right or wrong. With `once` a call with the same message is rejected. With
    `enrol` operators can keep credentials for it, `penstock credential add`, of all consumers
    together at most `most` in an environment: where a call is tried with one after the other.

    `credential_headers` and `credential_parameters` are the request headers and query parameters
    that hold the credential: handlers don't get them. Name `Authorization` among the headers where
    the credential has a scheme of that header, and no header where what is sent is no secret.
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
        """Return the credential as sent, or None when there is none of this kind."""

    @abstractmethod
    def verify(self, credential: str, access: AccessView, caller: Caller, now: float) -> Caller:
        """Return what the credential proves on top of `caller`.

        `caller` is what earlier authenticators proved.

        `now` is in seconds since the epoch. Raises CredentialRejected.
        """

    def verify_body(
        self,
        credential: str,  # noqa: ARG002  for those who read it
        body: bytes,  # noqa: ARG002  for those who read it
        head: RequestHead,  # noqa: ARG002  for those who read it
        access: AccessView,  # noqa: ARG002  for those who read it
        caller: Caller,
        now: float,  # noqa: ARG002  for those who read it
    ) -> Caller:
        """Return what the credential proves together with the body, as it was sent.

        Raises CredentialRejected.
        """
        return caller

    def once(self, credential: str, body: bytes, head: RequestHead) -> Once | None:  # noqa: ARG002  for those whose calls count once
        """Return what this call counts once for, or None where it may be repeated.

        Raises CredentialRejected.

        For credentials that hold for one call, such as a signed message with its time, or a proof
        with an id. It is asked after all credentials are proven; `body` is empty without
        `reads_body`. The runtime does the rest: it keeps the mark by `name`, consumer and message
        in the database, rejects a second call in any process, and gives the mark back when the call
        is rejected after all or fails (500 and above). A repeat with the same `Idempotency-Key`
        gets the stored reply.
        """
        return None

    def enrol(self, name: str, secret: str) -> tuple[str, bytes]:  # noqa: ARG002  for those who keep some
        """Return the name and what is kept of a secret that an operator enters for a consumer.

        Raises ValueError that says what is wrong.

        What is kept is sealed at rest; where `asks_for_secret` is off, the name is all there is.
        """
        raise ValueError(f"{self.name} keeps no credentials")

    def security_scheme(self) -> Mapping[str, object]:
        """Return how an OpenAPI document describes this kind of credential.

        A Security Scheme Object.
        """
        return {"type": "http", "scheme": self.challenge.lower()}


@dataclass(frozen=True, slots=True)
class Candidate:
    """A pipeline that asks to be served.

    `designated` says that an operator made it a login flow here, `internal` on which listener.
    """

    name: str
    version: str
    trigger: HttpTrigger
    designated: bool
    internal: bool = False

    @property
    def id(self) -> str:
        """Major version and name, as in the URL: `v1/orders`.

        What operators decide counts for it.
        """
        return f"v{self.version.partition('.')[0]}/{self.name}"


@dataclass(frozen=True, slots=True)
class Violation:
    """One reason why a pipeline is refused, and what to change."""

    reason: str
    fix: str


@dataclass(frozen=True, slots=True)
class Verdict:
    """One policy's answer: what each call must present, and what is wrong.

    No violations means it may be served.
    """

    requires: frozenset[str] = frozenset()
    violations: tuple[Violation, ...] = ()
    warnings: tuple[str, ...] = ()


class AccessPolicy(ABC):
    """Judges whether a pipeline may be served in an environment and what its calls must present.

    `options` are the environment policies it understands, `meanings` what those mean, for who
    chooses among them. Every loaded policy must agree: one refusal refuses and what they require
    adds up. One that raises, returns anything but a `Verdict` or None, or takes longer than a
    second refuses what it did not judge. Attributes are read once, when the plugin is loaded.
    """

    name: ClassVar[str]
    options: ClassVar[tuple[str, ...]] = ()
    meanings: ClassVar[Mapping[str, str]] = {}

    @abstractmethod
    def judge(self, candidate: Candidate, environment: EnvironmentFacts) -> Verdict | None:
        """Return a verdict, or None for no opinion.

        A pipeline nobody has an opinion on is refused.
        """


class TokenIssuer(ABC):
    """Makes the tokens that a login flow hands out."""

    @abstractmethod
    def issue(
        self,
        access: AccessView,
        consumer: str,
        *,
        subject: str,
        scopes: frozenset[str],
        lifetime: float | None,
        claims: Mapping[str, object],
        now: float,
    ) -> Token:
        """Return a signed token for that consumer, or raise TokenNotIssued."""


@dataclass(frozen=True, slots=True)
class Document:
    """A public document below `/.well-known/`, such as a key set.

    Served without credentials, from memory.
    """

    path: str
    content_type: str
    render: Callable[[AccessView], bytes]
    max_age: int = 60


@dataclass(frozen=True, slots=True)
class Command:
    """A subcommand that a plugin adds.

    `run` gets all remaining arguments, `--help` too, and returns the exit code.

    `help` is its line in `penstock --help`.
    """

    name: str
    help: str
    run: Callable[[Iterable[str]], int]
