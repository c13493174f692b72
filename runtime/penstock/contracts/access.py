"""Access data of one environment, as authenticators, policies and token issuers see it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Protocol

MAX_TOKEN_LIFETIME = timedelta(hours=24)
LEEWAY = timedelta(seconds=30)


@dataclass(frozen=True, slots=True)
class PluginSetup:
    """Settings of the process that concern plugins; an argument of their hooks.

    `max_header` is the longest header field that the server accepts, in bytes with name and line
    end.
    """

    environment: str
    issuer: str
    api_key_headers: tuple[str, ...]
    max_header: int = 8190


@dataclass(frozen=True, slots=True)
class EnvironmentFacts:
    """The rules of one environment.

    `policy` is the one that applies to the pipeline in question: the internal policy on the
    internal listener. `token_lifetime` is the longest lifetime of a token and `run_retention` the
    time that runs are stored, both in seconds. `record_bodies` is "none", "failed" or "all".
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
    """A registered caller: an organisation or a system."""

    id: int
    name: str
    enabled: bool


@dataclass(frozen=True, slots=True)
class ApiKey:
    """An API key without the key itself.

    `expires_at` is in seconds since the epoch, or None. `usable` is False for a disabled or revoked
    key.
    """

    id: str
    consumer_id: int
    expires_at: float | None
    usable: bool


@dataclass(frozen=True, slots=True)
class Credential:
    """A credential that an operator added for a consumer.

    `kind` is the authenticator's name and `secret` what its `enrol` returned. `expires_at` is in
    seconds since the epoch, or None.
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

    `private` is a PKCS#8 PEM, or the raw secret for HS256. `public` is a SubjectPublicKeyInfo PEM,
    empty for HS256. A key with `verify_until` (seconds since the epoch) does not sign any more. It
    verifies tokens until that moment.
    """

    kid: str
    algorithm: str
    public: bytes
    private: bytes = field(repr=False)
    verify_until: float | None = None


@dataclass(frozen=True, slots=True, eq=False)
class TrustedIssuer:
    """An identity provider whose tokens an environment accepts.

    Its keys are `keys` (JWKs), or at `jwks_url`, or found by discovery at the issuer. A token must
    have `audience`. Its consumer is `consumer`. Without that, `consumers` maps the value of
    `consumer_claim` to a consumer; an empty map means that the value is the consumer's name.
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
    """The access data of one environment, in memory, as this process knows it now."""

    @property
    def environment(self) -> EnvironmentFacts:
        """The environment's rules."""

    @property
    def tokens_version(self) -> int:
        """A number that changes with signing keys and revocations.

        Discard cached results of token checks when it changes.
        """

    @property
    def variables(self) -> Mapping[str, str]:
        """The environment's variables."""

    def key(self, digest: bytes) -> ApiKey | None:
        """Return the API key of this environment with that SHA-256 digest."""

    def consumer(self, consumer_id: int) -> Consumer | None:
        """Return a consumer by its id."""

    def credentials(self, kind: str) -> Mapping[str, Credential]:
        """Return the environment's credentials of an authenticator, by their names."""

    def associated(self, consumer_id: int, pipeline: str) -> bool:
        """Return whether a consumer has access to a pipeline, by its id: `v1/orders`."""

    def signing_keys(self) -> Mapping[str, SigningKey]:
        """Return the keys that sign or still verify, by `kid`. The first one signs."""

    def trusted_issuers(self) -> Mapping[str, TrustedIssuer]:
        """Return the trusted issuers, by their `iss`."""

    def token_revoked(self, jti: str, consumer: str, issued_at: float) -> bool:
        """Return whether a token is revoked, by its `jti` or by its consumer and time of issue."""
