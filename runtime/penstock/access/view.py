"""The access data of one environment in memory, and how it is looked up."""

from __future__ import annotations

import time
from collections.abc import Mapping

from penstock.access.callbacks import CallbackTarget
from penstock.access.key_index import Keys
from penstock.access.parsing import Grace, PipelineState
from penstock.access.variables import StoredSecret
from penstock.contracts.access import (
    ApiKey,
    Consumer,
    Credential,
    EnvironmentFacts,
    SigningKey,
    TrustedIssuer,
)
from penstock.contracts.networks import Networks
from penstock.contracts.rates import Rate
from penstock.contracts.variables import NamedValues, Secret
from penstock.db.rows import Row

NO_DECISION = PipelineState()


class AccessView:
    """Access data, with the lookups that a gate makes.

    One thread replaces the attributes, other threads read them without a lock: see
    `access/snapshot.py`. Those that begin with an underscore are for lookups and for that thread.
    `gates_version` and `tokens_version` increase when something changes that gates, or the
    verification of tokens, may cache.
    """

    def __init__(self, name: str) -> None:
        """Create a view without data; `name` is that of the environment."""
        self._name = name
        self._environment: EnvironmentFacts | None = None
        self.gates_version = 0
        self.tokens_version = 0
        self.clear()

    def clear(self) -> None:
        """Remove all data: nothing is granted any more, and caches by the versions end."""
        self._keys = Keys()
        self._consumers: dict[int, Consumer] = {}
        self._associations: dict[str, dict[int, int]] = {}  # ids of rows by pipeline and consumer
        self._signing_keys: dict[str, SigningKey] = {}
        self._credentials: dict[str, Mapping[str, Credential]] = {}
        self._issuers: dict[str, TrustedIssuer] = {}
        self._revoked: dict[str, float] = {}
        self._revoked_before: dict[str, float] = {}
        self._all_revoked = False
        self._address_rules: tuple[tuple[int, str, bool], ...] = ()
        # By table: the consumers with a limit or a network that can't be read.
        self._closed_consumers: dict[type[Row], set[int]] = {}
        self._named_pipelines: dict[str, PipelineState] = {}  # by the previous release
        self.limits: dict[tuple[int, str], tuple[Rate, ...]] = {}
        self.networks: dict[int, Networks] = {}
        self.variables: Mapping[str, str] = NamedValues("variable", self._name)
        self.secrets: Mapping[str, StoredSecret] = {}
        self.sensitive: frozenset[str] = frozenset()
        self.callbacks: dict[int, tuple[CallbackTarget, ...]] = {}
        self.pipelines: dict[str, PipelineState] = {}
        self.graces: dict[str, Grace] = {}
        self.gates_version += 1
        self.tokens_version += 1

    @property
    def environment(self) -> EnvironmentFacts:
        """The environment's rules. Raises RuntimeError before the first refresh."""
        if self._environment is None:
            message = "the snapshot was never read"
            raise RuntimeError(message)
        return self._environment

    def key(self, digest: bytes) -> ApiKey | None:
        """Return the API key with that SHA-256 digest."""
        return self._keys.get(digest)

    def consumer(self, consumer_id: int) -> Consumer | None:
        """Return a consumer by its id."""
        return self._consumers.get(consumer_id)

    def consumer_named(self, name: str) -> Consumer | None:
        """Return a consumer by its name. It scans all consumers; a key has the consumer's id."""
        return next(
            (consumer for consumer in list(self._consumers.values()) if consumer.name == name), None
        )

    def associated(self, consumer_id: int, pipeline: str) -> bool:
        """Return whether a consumer has access to a pipeline, by its id."""
        return consumer_id in self._associations.get(pipeline, ())

    def credentials(self, kind: str) -> Mapping[str, Credential]:
        """Return the credentials of an authenticator, by their names."""
        return self._credentials.get(kind, {})

    def signing_keys(self) -> Mapping[str, SigningKey]:
        """Return the keys that sign or verify tokens by `kid`, the one that signs first."""
        return self._signing_keys

    def trusted_issuers(self) -> Mapping[str, TrustedIssuer]:
        """Return the outside issuers whose tokens are accepted, by their `iss`."""
        return self._issuers

    def token_revoked(self, jti: str, consumer: str, issued_at: float) -> bool:
        """Return whether a token was revoked, alone or with all earlier ones of its consumer."""
        return (
            jti in self._revoked
            or issued_at < self._revoked_before.get(consumer, float("-inf"))
            or self._all_revoked
        )

    def pipeline(self, identifier: str) -> PipelineState:
        """Return what operators decided about a pipeline, by its id."""
        state = self.pipelines.get(identifier)
        return (
            state
            if state is not None
            else self._named_pipelines.get(identifier.partition("/")[2], NO_DECISION)
        )

    def secrets_for(self, pipeline: str) -> Mapping[str, Secret]:
        """Return the secrets that a pipeline may read now, by its id."""
        now = time.time()
        return NamedValues(
            "secret",
            self._name,
            (
                (name, stored.value)
                for name, stored in self.secrets.items()
                if stored.is_readable(pipeline, now)
            ),
        )
