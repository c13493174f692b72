"""One environment's access data in memory: everything a gate asks, kept at the database's revision."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from types import MappingProxyType

from penstock.access.callbacks import CallbackTarget
from penstock.access.keys import Keys
from penstock.access.needs import StoredSecret
from penstock.access.secrets import Box
from penstock.contracts.access import ApiKey, Consumer, Credential, EnvironmentFacts, SigningKey, TrustedIssuer
from penstock.contracts.needs import Named, Secret
from penstock.contracts.networks import Networks
from penstock.contracts.rates import Rate
from penstock.db.engine import DatabaseAway, Engine, reading
from penstock.db.replies import claim
from penstock.db.rows import Reader, Row, changed_since, current_revision, keys_since
from penstock.errors import Unknown


@dataclass(frozen=True, slots=True)
class Grace:
    """A pipeline that stopped complying and keeps its old gate until a moment (seconds since the epoch)."""

    requires: frozenset[str]
    until: float


@dataclass(frozen=True, slots=True)
class PipelineState:
    """What operators decided about a pipeline here."""

    enabled: bool = True
    login_flow: bool = False


UNTOUCHED = PipelineState()


class Snapshot:
    """The process's view of access. Only one thread refreshes it; calls read it without a lock.

    A refresh replaces one entry at a time: each is a frozen value, and a call looks up each once.
    """

    def __init__(self, environment: str, box: Box) -> None:
        self._name = environment
        self._box = box
        self._engine: Engine | None = None
        self._environment: EnvironmentFacts | None = None
        self.gates_version = 0
        self.tokens_version = 0
        self.checked_at = float("-inf")
        self._forget()

    def _forget(self) -> None:
        """Know nobody and nothing; what is cached by the versions ends with it."""
        self._keys = Keys()
        self._consumers: dict[int, Consumer] = {}
        self._associations: dict[str, set[int]] = {}  # consumers by pipeline
        self._signing: dict[str, SigningKey] = {}
        self._credentials: dict[str, Mapping[str, Credential]] = {}
        self._issuers: dict[str, TrustedIssuer] = {}
        self._revoked: dict[str, float] = {}
        self._revoked_before: dict[str, float] = {}
        self._bounds: dict[str, dict[int, Row]] = {"limits": {}, "address_rules": {}}
        self.limits: dict[tuple[int, str], tuple[Rate, ...]] = {}
        self.networks: dict[int, Networks] = {}
        self.variables: Mapping[str, str] = Named("variable", self._name)
        self.secrets: Mapping[str, StoredSecret] = {}
        self.sensitive: frozenset[str] = frozenset()
        self.callbacks: dict[int, tuple[CallbackTarget, ...]] = {}
        self.pipelines: dict[str, PipelineState] = {}
        self.graces: dict[str, Grace] = {}
        self.revision = -1
        self.gates_version += 1
        self.tokens_version += 1

    @property
    def environment(self) -> EnvironmentFacts:
        """The environment's rules; there are none before the first refresh."""
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
        """Return a consumer by its name; off the hot path, where a key has not named it already."""
        return next((consumer for consumer in list(self._consumers.values()) if consumer.name == name), None)

    def associated(self, consumer_id: int, pipeline: str) -> bool:
        """Say whether a consumer may call a pipeline here."""
        return consumer_id in self._associations.get(pipeline, ())

    def credentials(self, kind: str) -> Mapping[str, Credential]:
        """Return the credentials that were enrolled with an authenticator of that name, by their names."""
        return self._credentials.get(kind, {})

    def once(self, what: bytes, seconds: float) -> bool:
        """Say whether this is the first time in so many seconds, in any process, that this is asked of `what`. Raises DatabaseAway."""
        if self._engine is None:
            raise DatabaseAway("the snapshot was never read")
        now = datetime.now(UTC)
        digest = sha256(f"once {self._name} ".encode() + what).digest()
        return claim(self._engine, digest, b"", "once", now, now + timedelta(seconds=seconds)) is None

    def signing_keys(self) -> Mapping[str, SigningKey]:
        """Return the keys that sign or still verify, the one that signs first."""
        return self._signing

    def trusted_issuers(self) -> Mapping[str, TrustedIssuer]:
        """Return the outside issuers whose tokens are taken here, by their `iss`."""
        return self._issuers

    def token_revoked(self, jti: str, consumer: str, issued_at: float) -> bool:
        """Say whether a token was revoked, alone or with all earlier ones of its consumer."""
        return jti in self._revoked or issued_at < self._revoked_before.get(consumer, float("-inf"))

    def pipeline(self, name: str) -> PipelineState:
        """Return what operators decided about a pipeline."""
        return self.pipelines.get(name, UNTOUCHED)

    def age(self) -> float:
        """Return the seconds since the database last confirmed this view."""
        return time.monotonic() - self.checked_at

    def refresh(self, engine: Engine) -> bool:
        """Read what changed since the last time and return whether anything did.

        Raises DatabaseAway, and Unknown if the environment does not exist.
        """
        self._engine = engine
        asked_at = time.monotonic()
        with reading(engine) as connection:
            revision = current_revision(connection)
            if revision == self.revision:
                self.checked_at = asked_at
                return False
            if revision < self.revision:  # the database was put back to an earlier state: what we know may be too much
                self._forget()
            reader = Reader(connection)
            environment = reader.find("environments", name=self._name)
            if environment is None:
                raise Unknown("environment", self._name, reader.names("environments"), mend=f"`penstock env create {self._name}` makes it")
            self._apply_keys(keys_since(connection, environment["id"], self.revision))
            changed = changed_since(connection, environment["id"], self.revision)
        self._apply(environment, changed)
        self.revision = revision
        self.checked_at = asked_at
        return True

    def _apply(self, environment: Row, changed: Mapping[str, list[Row]]) -> None:
        facts = EnvironmentFacts(**{name: environment[name] for name in EnvironmentFacts.__slots__})
        if facts != self._environment or changed["graces"] or changed["pipelines"]:
            self.gates_version += 1
        self._environment = facts
        for row in changed["consumers"]:
            self._consumers[row["id"]] = Consumer(row["id"], row["name"], row["enabled"])
        for row in changed["associations"]:
            consumers = self._associations.setdefault(row["pipeline"], set())
            (consumers.add if row["active"] else consumers.discard)(row["consumer_id"])
        for row in changed["pipelines"]:
            self.pipelines[row["name"]] = PipelineState(row["enabled"], row["login_flow"])
        for row in changed["graces"]:
            if row["active"]:
                self.graces[row["pipeline"]] = Grace(frozenset(row["requires"]), row["until"].timestamp())
            else:
                self.graces.pop(row["pipeline"], None)
        self._apply_outside(changed)
        self._apply_tokens(changed)
        self._apply_bounds(changed)
        self._apply_needs(changed)
        self._apply_records(changed)

    def _apply_keys(self, rows: Iterable[tuple[bytes, str, int, datetime | None, bool, bool]]) -> None:
        for digest, key_id, consumer_id, expires, enabled, revoked in rows:
            if revoked:
                self._keys.drop(digest)
            else:
                self._keys.put(digest, key_id, consumer_id, expires.timestamp() if expires else None, usable=enabled)

    def _apply_records(self, changed: Mapping[str, list[Row]]) -> None:
        """Take over what is never written of bodies, and where the ends of durable runs may be told."""
        if changed["sensitive_fields"]:
            gone = {row["field"] for row in changed["sensitive_fields"]}
            self.sensitive = (self.sensitive - gone) | {row["field"] for row in changed["sensitive_fields"] if row["active"]}
        for row in changed["callback_targets"]:
            others = tuple(target for target in self.callbacks.get(row["consumer_id"], ()) if target.prefix != row["prefix"])
            mine = (CallbackTarget(row["prefix"], row["private"], self._box.open(row["sealed"])),) if row["active"] else ()
            self.callbacks[row["consumer_id"]] = others + mine

    def _apply_needs(self, changed: Mapping[str, list[Row]]) -> None:
        """Take over variables and secrets, each as a new mapping: calls hold on to the one they began with."""
        if changed["variables"]:
            variables = Named("variable", self._name, self.variables)
            for row in changed["variables"]:
                variables.pop(row["name"], None)
                if row["active"]:
                    variables[row["name"]] = row["value"]
            self.variables = MappingProxyType(variables)
        if changed["pipeline_secrets"]:
            secrets = dict(self.secrets)
            for row in changed["pipeline_secrets"]:
                secrets.pop(row["name"], None)
                if row["active"]:
                    value = Secret(row["name"], self._box.open(row["sealed"]).decode())
                    expires = row["expires_at"].timestamp() if row["expires_at"] else None
                    secrets[row["name"]] = StoredSecret(value, expires, None if row["pipelines"] is None else frozenset(row["pipelines"]))
            self.secrets = MappingProxyType(secrets)
        if changed["variables"] or changed["pipeline_secrets"]:
            self.gates_version += 1

    def secrets_for(self, pipeline: str) -> Mapping[str, Secret]:
        """Return the secrets that a pipeline may have now."""
        now = time.time()
        usable = {name: stored.value for name, stored in self.secrets.items() if stored.usable(pipeline, now)}
        return Named("secret", self._name, usable)

    def _apply_bounds(self, changed: Mapping[str, list[Row]]) -> None:
        """Put together what bounds each consumer: rates by pipeline (all together: an empty name), and networks."""
        for table, known in self._bounds.items():
            for row in changed[table]:
                known.pop(row["id"], None)
                if row["active"]:
                    known[row["id"]] = row
        if changed["limits"]:
            limits: dict[tuple[int, str], tuple[Rate, ...]] = {}
            for row in self._bounds["limits"].values():
                whose = row["consumer_id"], row["pipeline"]
                limits[whose] = (*limits.get(whose, ()), Rate(row["rate"], by=row["by"]))
            self.limits = limits
        if changed["address_rules"]:
            rules = list(self._bounds["address_rules"].values())
            self.networks = {
                consumer: Networks.of(
                    (row["network"] for row in rules if row["consumer_id"] == consumer and row["allowed"]),
                    (row["network"] for row in rules if row["consumer_id"] == consumer and not row["allowed"]),
                )
                for consumer in {row["consumer_id"] for row in rules}
            }

    def _apply_outside(self, changed: Mapping[str, list[Row]]) -> None:
        """Take over what authenticators look up: enrolled credentials, and the issuers that are trusted."""
        for row in changed["credentials"]:
            kept = {name: item for name, item in self._credentials.get(row["kind"], {}).items() if item.id != row["id"]}
            if row["revoked_at"] is None:
                expires = row["expires_at"].timestamp() if row["expires_at"] else None
                kept[row["name"]] = Credential(row["id"], row["kind"], row["name"], row["consumer_id"], self._box.open(row["sealed"]), expires)
            self._credentials[row["kind"]] = MappingProxyType(kept)
        if changed["issuers"]:
            issuers = dict(self._issuers)
            for row in changed["issuers"]:
                issuers.pop(row["issuer"], None)
                if row["active"]:
                    values = {name: row[name] for name in TrustedIssuer.__slots__}
                    issuers[row["issuer"]] = TrustedIssuer(**values | {"keys": None if row["keys"] is None else tuple(row["keys"])})
            self._issuers = issuers

    def _apply_tokens(self, changed: Mapping[str, list[Row]]) -> None:
        if changed["signing_keys"]:
            keys = dict(self._signing)
            for row in changed["signing_keys"]:
                keys.pop(row["kid"], None)
                if row["dropped_at"] is None:
                    until = row["verify_until"].timestamp() if row["verify_until"] else None
                    private = self._box.open(row["private_encrypted"])
                    keys[row["kid"]] = SigningKey(row["kid"], row["algorithm"], row["public"], private, until)
            self._signing = dict(sorted(keys.items(), key=lambda item: item[1].verify_until is not None))
        for row in changed["revocations"]:
            if row["jti"] is not None:
                self._revoked[row["jti"]] = row["forget_at"].timestamp()
            else:
                before = row["issued_before"].timestamp()
                self._revoked_before[row["consumer"]] = max(before, self._revoked_before.get(row["consumer"], before))
        if changed["signing_keys"] or changed["revocations"] or changed["issuers"]:
            now = time.time()
            self._revoked = {jti: forget for jti, forget in self._revoked.items() if forget > now}
            self.tokens_version += 1
