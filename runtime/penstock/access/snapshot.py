"""One environment's access data in memory: everything a gate asks, kept at the database's revision.

Threads: one refreshes, all others read without a lock. Each thing that is looked up is replaced as
a whole, by one assignment, and what is taken away goes before what is granted comes: whoever reads
in between is granted no more than the old and the new state both grant.

History: a database that was restored has another history than this view. The view breaks then, and
is read anew as a whole.

Damage: a row that can't be read counts as if it granted nothing. Where a row restricts (a limit, a
network, a revocation), not to know it closes what it may concern. A refresh that fails half-way
leaves a view that nobody may use (`broken`) until one has gone through.
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import replace
from datetime import datetime
from functools import partial
from types import MappingProxyType
from typing import TypeVar

from penstock.access import parsing
from penstock.access.callbacks import CallbackTarget
from penstock.access.encryption import SecretBox
from penstock.access.key_index import Keys
from penstock.access.parsing import Grace, PipelineState, Unreadable
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
from penstock.db.engine import Connection, DatabaseUnavailable, Engine, reading
from penstock.db.unit_of_work import (
    KeyRow,
    Point,
    Row,
    RowReader,
    changed_since,
    keys_since,
    look_at_history,
    wait_for_restore,
)
from penstock.errors import CannotStart, UnknownName

UNTOUCHED = PipelineState()
NOWHERE = Networks.of(["255.255.255.255"], ["0.0.0.0/0", "::/0"])
DIGEST = 32  # bytes
Value = TypeVar("Value")
Changed = Mapping[str, list[Row]]


class HistoryChanged(DatabaseUnavailable):
    """The database was restored.

    A view of it is that of another history, and is read anew at its next refresh.
    """


class Snapshot:
    """The process's view of access. Only one thread refreshes it; calls read it without a lock."""

    def __init__(self, environment: str, box: SecretBox, *, forgiving: bool = False) -> None:
        """Take a name. `forgiving` counts what another key encrypted as damage from the start."""
        self._name = environment
        self._forgiving = forgiving
        self._box = box
        self._environment: EnvironmentFacts | None = None
        self.gates_version = 0
        self.tokens_version = 0
        self.checked_at = float("-inf")
        self.broken: str | None = None
        self._id: int | None = None
        self._forget()

    def _forget(self) -> None:
        """Know nobody and nothing; what is cached by the versions ends with it."""
        self._keys = Keys()
        self._consumers: dict[int, Consumer] = {}
        self._associations: dict[str, dict[int, int]] = {}  # rows by pipeline and consumer
        self._signing: dict[str, SigningKey] = {}
        self._credentials: dict[str, Mapping[str, Credential]] = {}
        self._issuers: dict[str, TrustedIssuer] = {}
        self._revoked: dict[str, float] = {}
        self._revoked_before: dict[str, float] = {}
        self._all_revoked = False
        self._rules: tuple[tuple[int, str, bool], ...] = ()
        self._opened: dict[str, dict[bytes, bytes]] = {}
        self._doubts: dict[str, dict[object, str]] = {}
        self._in_doubt: dict[str, set[int]] = {}  # consumers of whom a table's rows can't be read
        self.limits: dict[tuple[int, str], tuple[Rate, ...]] = {}
        self.networks: dict[int, Networks] = {}
        self.variables: Mapping[str, str] = NamedValues("variable", self._name)
        self.secrets: Mapping[str, StoredSecret] = {}
        self.sensitive: frozenset[str] = frozenset()
        self.callbacks: dict[int, tuple[CallbackTarget, ...]] = {}
        self.pipelines: dict[str, PipelineState] = {}
        self._named: dict[str, PipelineState] = {}  # by the release before
        self.graces: dict[str, Grace] = {}
        self._point = Point(-1, None)
        self.gates_version += 1
        self.tokens_version += 1

    @property
    def environment(self) -> EnvironmentFacts:
        """The environment's rules; there are none before the first refresh."""
        if self._environment is None:
            message = "the snapshot was never read"
            raise RuntimeError(message)
        return self._environment

    @property
    def point(self) -> Point:
        """The point in the database's history that this view was read at."""
        return self._point

    @property
    def revision(self) -> int:
        """The revision that this view was read at, -1 before it was."""
        return self._point.revision

    @property
    def doubts(self) -> tuple[str, ...]:
        """The rows that can't be read, one line each.

        The table, the row and the column, never a value.
        """
        return tuple(text for _, rows in sorted(self._doubts.items()) for text in rows.values())

    def key(self, digest: bytes) -> ApiKey | None:
        """Return the API key with that SHA-256 digest."""
        return self._keys.get(digest)

    def consumer(self, consumer_id: int) -> Consumer | None:
        """Return a consumer by its id."""
        return self._consumers.get(consumer_id)

    def consumer_named(self, name: str) -> Consumer | None:
        """Return a consumer by its name; off the hot path, where a key has not named it already."""
        return next(
            (consumer for consumer in list(self._consumers.values()) if consumer.name == name), None
        )

    def associated(self, consumer_id: int, pipeline: str) -> bool:
        """Say whether a consumer may call a pipeline here, by its id."""
        return consumer_id in self._associations.get(pipeline, ())

    def credentials(self, kind: str) -> Mapping[str, Credential]:
        """Return the credentials enrolled with the authenticator of that name, by their names."""
        return self._credentials.get(kind, {})

    def signing_keys(self) -> Mapping[str, SigningKey]:
        """Return the keys that sign or still verify, the one that signs first."""
        return self._signing

    def trusted_issuers(self) -> Mapping[str, TrustedIssuer]:
        """Return the outside issuers whose tokens are taken here, by their `iss`."""
        return self._issuers

    def token_revoked(self, jti: str, consumer: str, issued_at: float) -> bool:
        """Say whether a token was revoked, alone or with all earlier ones of its consumer."""
        return (
            jti in self._revoked
            or issued_at < self._revoked_before.get(consumer, float("-inf"))
            or self._all_revoked
        )

    def pipeline(self, identifier: str) -> PipelineState:
        """Return what operators decided about a pipeline, by its id."""
        state = self.pipelines.get(identifier)
        return (
            state if state is not None else self._named.get(identifier.partition("/")[2], UNTOUCHED)
        )

    def secrets_for(self, pipeline: str) -> Mapping[str, Secret]:
        """Return the secrets that a pipeline may have now, by its id."""
        now = time.time()
        return NamedValues(
            "secret",
            self._name,
            (
                (name, stored.value)
                for name, stored in self.secrets.items()
                if stored.usable(pipeline, now)
            ),
        )

    def age(self) -> float:
        """Return the seconds since the database last confirmed this view."""
        return float("inf") if self.broken is not None else time.monotonic() - self.checked_at

    def refresh(self, engine: Engine) -> bool:
        """Read what changed since the last time and return whether anything did.

        Raises DatabaseUnavailable, and UnknownName where the environment is not there: both leave
        the view as it was, and it grows stale. HistoryChanged among them, and whatever else is
        raised, breaks it, for what has changed is not known then.
        """
        if self.broken is not None:  # it may hold one half of what has changed
            self._forget()
        try:
            return self._refresh(engine)
        except (DatabaseUnavailable, UnknownName):
            raise
        except BaseException as error:
            self.broken = str(error) if isinstance(error, Unreadable) else type(error).__name__
            raise

    def read(self, engine: Engine) -> None:
        """Refresh, also where the database has another history than this view.

        For whoever answers no calls by it meanwhile.
        """
        with suppress(HistoryChanged):
            self.refresh(engine)
            return
        self.refresh(engine)

    def _refresh(self, engine: Engine) -> bool:
        asked_at = time.monotonic()
        first = self.revision < 0
        with reading(engine) as connection:
            now, mark = look_at_history(connection, self.revision)
            if not first and not self._point.leads_to(now, mark):
                wait_for_restore(connection)
                # From here on no call begins; those that were being judged by this view are, for it
                # is forgotten at the next refresh.
                self.broken = (
                    f"the database was restored: its revision {now.revision} does not follow ours,"
                    f" {self.revision}"
                )
                raise HistoryChanged(self.broken)
            if now.revision == self.revision:
                self.checked_at = asked_at
                return False
            wait_for_restore(connection)
            environment, changed = self._read(connection)
            keys: Iterable[KeyRow] = keys_since(connection, environment["id"], self.revision)
            if first:  # there may be a million, and nobody asks yet
                self._take_keys(keys)
            keys = [] if first else list(keys)
        self._take(environment, changed, keys)
        self._point = now
        self.broken = None
        self.checked_at = asked_at
        return True

    def _read(self, connection: Connection) -> tuple[Row, Changed]:
        reader = RowReader(connection)
        environment = reader.find("environments", name=self._name)
        if environment is None:
            raise UnknownName(
                "environment",
                self._name,
                reader.names("environments"),
                fix=f"`penstock env create {self._name}` makes it",
            )
        # What this process writes is of the one that it began with.
        if self._id not in (None, environment["id"]):
            raise Unreadable(
                f"environment {self._name} is another one than this process began with; restart it"
            )
        self._id = environment["id"]
        return environment, changed_since(connection, environment["id"], self.revision)

    def _take(self, environment: Row, changed: Changed, keys: list[KeyRow]) -> None:
        """Take over what was read: first what is taken away, last what is granted."""
        facts, wrong = parsing.facts_of(environment)
        self._doubts["environments"] = {
            name: f"environments {self._name}: {name} can't be read" for name in wrong
        }
        self._take_revocations(changed["revocations"])
        self._keys.forget({row[1] for row in keys if self._keys.moved(row[1], row[0])})
        self._take_keys(row for row in keys if not _usable(row))
        consumers = self._less_consumers(changed["consumers"])
        associations = self._less_associations(changed["associations"])
        self._take_bounds(changed)
        self._take_records(changed)
        self._take_outside(changed)
        self._take_needs(changed)
        self._take_pipelines(changed)
        if self._doubts.get("sensitive_fields"):  # one that can't be read may be anywhere in a body
            facts = replace(facts, record_bodies="none")
        if facts != self._environment or any(
            changed[name] for name in ("graces", "pipelines", "variables", "pipeline_secrets")
        ):
            self.gates_version += 1
        self._environment = facts
        if changed["signing_keys"] or changed["revocations"] or changed["issuers"]:
            self.tokens_version += 1
        self._consumers.update(consumers)
        for pipeline, consumer_id, row in associations:
            self._associations.setdefault(pipeline, {})[consumer_id] = row
        self._take_keys(row for row in keys if _usable(row))

    def _parsed(
        self, table: str, rows: Iterable[Row], parse: Callable[[Row], Value | None]
    ) -> Iterator[Value]:
        """Yield what the rows of a table say.

        What can't be read is noted, and what it may restrict is closed.
        """
        doubts = self._doubts.setdefault(table, {})
        for row in rows:
            identifier = row["kid"] if table == "signing_keys" else row["id"]
            doubts.pop(identifier, None)
            try:
                value = parse(row)
            except CannotStart as error:
                if self._environment is None and not self._forgiving:
                    raise  # a process is told at its start that its key is another one
                doubts[identifier] = f"{table} {identifier}: {error}"
            except Exception as error:  # noqa: BLE001  a damaged row may hold anything
                doubts[identifier] = (
                    f"{table} {identifier}:"
                    f" {error if isinstance(error, Unreadable) else type(error).__name__}"
                )
            else:
                if value is not None:
                    yield value

    def _whole(
        self,
        table: str,
        rows: list[Row],
        parse: Callable[..., Value | None],
        *,
        sealed: bool = False,
    ) -> list[Value]:
        """Return what all rows of a small table say; what it said before is forgotten.

        `sealed` says that some of it is encrypted.
        """
        self._doubts[table] = {}
        if not sealed:
            return list(self._parsed(table, rows, parse))
        before, opened = self._opened.get(table, {}), dict[bytes, bytes]()
        found = list(
            self._parsed(table, rows, partial(parse, opened=partial(self._open, before, opened)))
        )
        self._opened[table] = opened
        return found

    def _open(
        self, before: Mapping[bytes, bytes], opened: dict[bytes, bytes], sealed: bytes
    ) -> bytes:
        """Decrypt, unless it was decrypted at the last refresh."""
        opened[sealed] = before[sealed] if sealed in before else self._box.decrypt(sealed)
        return opened[sealed]

    def _take_keys(self, rows: Iterable[KeyRow]) -> None:
        doubts = self._doubts.setdefault("api_keys", {})
        for row in rows:
            digest, key_id, consumer_id, expires, enabled, revoked = row
            if doubts:
                doubts.pop(key_id, None)
            if _readable(row) and not revoked:
                self._keys.put(
                    digest,
                    key_id,
                    consumer_id,
                    expires.timestamp() if expires else None,
                    usable=enabled is True,
                )
                continue
            self._keys.drop(digest)
            if not revoked:
                doubts[key_id] = f"api_keys {key_id}: it can't be read"

    def _less_consumers(self, rows: list[Row]) -> dict[int, Consumer]:
        """Take consumers away that are disabled or can't be read, and return all that are there."""
        found = {
            consumer.id: consumer
            for consumer in self._parsed("consumers", rows, parsing.consumer_of)
        }
        for row in rows:
            consumer = found.get(row["id"])
            if consumer is None:
                self._consumers.pop(row["id"], None)
            elif not consumer.enabled:
                self._consumers[consumer.id] = consumer
        return found

    def _less_associations(self, rows: list[Row]) -> list[tuple[str, int, int]]:
        """Take associations away, also what a changed row said before.

        Return those that are there: pipeline, consumer and row.
        """
        if not rows:
            return []
        names, changed = parsing.dissociated_names(rows), {row["id"] for row in rows}
        found = [
            (pipeline, consumer, row)
            for pipeline, consumer, row, revision in self._parsed(
                "associations", rows, parsing.association_of
            )
            if names.get((consumer, pipeline.partition("/")[2]), -1) <= revision
        ]
        places = {item[:2] for item in found}
        for pipeline, consumers in self._associations.items():
            name = pipeline.partition("/")[2]
            gone = [
                consumer
                for consumer, row in consumers.items()
                if (row in changed or (consumer, name) in names)
                and (pipeline, consumer) not in places
            ]
            for consumer in gone:
                del consumers[consumer]
        return found

    def _take_revocations(self, rows: list[Row]) -> None:
        """Take over which tokens are revoked; while a revocation can't be read, all are."""
        before = dict(self._revoked_before)
        now = time.time()
        for jti, consumer, moment in self._parsed("revocations", rows, parsing.revocation_of):
            if jti is not None:
                self._revoked[jti] = moment
            else:
                before[consumer] = max(moment, before.get(consumer, moment))
        self._revoked_before = before
        self._all_revoked = bool(self._doubts["revocations"])
        if rows:
            self._revoked = {jti: forget for jti, forget in self._revoked.items() if forget > now}

    def _take_pipelines(self, changed: Changed) -> None:
        if changed["pipelines"]:
            self.pipelines, self._named = parsing.pipeline_states(
                self._whole("pipelines", changed["pipelines"], parsing.pipeline_of)
            )
            if self._doubts["pipelines"]:
                # It may be any pipeline that is disabled.
                raise Unreadable(", ".join(self._doubts["pipelines"].values()))
        if changed["graces"]:
            self.graces = dict(self._whole("graces", changed["graces"], parsing.grace_of))

    def _take_bounds(self, changed: Changed) -> None:
        """Put together what bounds each consumer: rates by pipeline, and networks.

        The rates of all pipelines together have an empty name.
        """
        if changed["limits"]:
            limits: dict[tuple[int, str], tuple[Rate, ...]] = {}
            for whose, rate in self._whole("limits", changed["limits"], parsing.limit_of):
                limits[whose] = (*limits.get(whose, ()), rate)
            self.limits = limits
        if changed["address_rules"]:
            self._rules = tuple(
                self._whole("address_rules", changed["address_rules"], parsing.address_rule_of)
            )
        if changed["limits"] or changed["address_rules"]:
            lists: defaultdict[int, tuple[list[str], list[str]]] = defaultdict(lambda: ([], []))
            for consumer, network, allowed in self._rules:
                lists[consumer][not allowed].append(network)
            networks = {consumer: Networks.of(*both) for consumer, both in lists.items()}
            self.networks = networks | dict.fromkeys(self._bounded_by_doubts(changed), NOWHERE)

    def _bounded_by_doubts(self, changed: Changed) -> set[int]:
        """Return the consumers of whom a limit or a network can't be read.

        They may call from nowhere. Raises Unreadable.
        """
        for table in ("limits", "address_rules"):
            if changed[table]:
                self._in_doubt[table] = {
                    parsing.number(row, "consumer_id")
                    for row in changed[table]
                    if row["id"] in self._doubts[table]
                }
        return set[int]().union(*self._in_doubt.values())

    def _take_records(self, changed: Changed) -> None:
        """Take over what is never written of bodies, and where ends of durable runs may be told."""
        if changed["sensitive_fields"]:
            self.sensitive = frozenset(
                self._whole("sensitive_fields", changed["sensitive_fields"], parsing.sensitive_of)
            )
        if changed["callback_targets"]:
            callbacks: dict[int, tuple[CallbackTarget, ...]] = {}
            for consumer, target in self._whole(
                "callback_targets", changed["callback_targets"], parsing.callback_of, sealed=True
            ):
                callbacks[consumer] = (*callbacks.get(consumer, ()), target)
            self.callbacks = callbacks

    def _take_needs(self, changed: Changed) -> None:
        """Take over variables and secrets, each as a new mapping.

        Calls hold on to the one they began with.
        """
        if changed["variables"]:
            self.variables = MappingProxyType(
                NamedValues(
                    "variable",
                    self._name,
                    self._whole("variables", changed["variables"], parsing.variable_of),
                )
            )
        if changed["pipeline_secrets"]:
            secrets = dict(
                self._whole(
                    "pipeline_secrets", changed["pipeline_secrets"], parsing.secret_of, sealed=True
                )
            )
            self.secrets = MappingProxyType(secrets)

    def _take_outside(self, changed: Changed) -> None:
        """Take over what authenticators look up.

        Enrolled credentials, keys of tokens, and the issuers that are trusted.
        """
        if changed["credentials"]:
            kinds: dict[str, dict[str, Credential]] = {}
            for item in self._whole(
                "credentials", changed["credentials"], parsing.credential_of, sealed=True
            ):
                kinds.setdefault(item.kind, {})[item.name] = item
            self._credentials = {kind: MappingProxyType(named) for kind, named in kinds.items()}
        if changed["issuers"]:
            self._issuers = {
                item.issuer: item
                for item in self._whole("issuers", changed["issuers"], parsing.issuer_of)
            }
        if changed["signing_keys"]:
            keys = self._whole(
                "signing_keys", changed["signing_keys"], parsing.signing_key_of, sealed=True
            )
            self._signing = {
                key.kid: key for key in sorted(keys, key=lambda key: key.verify_until is not None)
            }


def _readable(row: KeyRow) -> bool:
    digest, key_id, consumer_id, expires, enabled, _ = row
    named = (
        type(digest) is bytes
        and len(digest) == DIGEST
        and type(key_id) is str
        and type(consumer_id) is int
        and consumer_id >= 0
    )
    return named and type(enabled) is bool and (expires is None or type(expires) is datetime)


def _usable(row: KeyRow) -> bool:
    """Say whether a key grants anything, as far as its row says."""
    return _readable(row) and row[4] is True and not row[5]
