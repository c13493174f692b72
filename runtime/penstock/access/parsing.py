"""Convert rows of access data to values, one at a time.

A row that can't be read raises: the snapshot decides what that closes.

The database contains values that were written by us, by hand or by a damaged disk. So a value is
accepted only where it has the type and the meaning of its column, and a flag is True only where it
is True. Nothing is guessed.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any, TypeVar

from penstock.access.by_name import is_name
from penstock.access.callbacks import CallbackTarget
from penstock.access.variables import StoredSecret
from penstock.contracts.access import (
    Consumer,
    Credential,
    EnvironmentFacts,
    SigningKey,
    TrustedIssuer,
)
from penstock.contracts.networks import network_of
from penstock.contracts.rates import Rate
from penstock.contracts.variables import Secret
from penstock.db.columns import LONG_AGO
from penstock.db.tables import (
    AddressRuleRow,
    AssociationRow,
    CallbackTargetRow,
    ConsumerRow,
    CredentialRow,
    EnvironmentRow,
    GraceRow,
    IssuerRow,
    LimitRow,
    PipelineRow,
    PipelineSecretRow,
    RevocationRow,
    SensitiveFieldRow,
    SigningKeyRow,
    VariableRow,
)

Type = TypeVar("Type")
Decrypt = Callable[[bytes], bytes]
RETENTION = 60, 3650 * 86_400  # seconds: the shortest and the longest retention of runs
RECORDED = ("none", "failed", "all")  # which bodies pipelines may record, at most


class Unreadable(ValueError):
    """A column contains an invalid value. The text names the column, never the value."""


@dataclass(frozen=True, slots=True)
class Grace:
    """What a pipeline that stopped complying requires until a moment.

    `until` is in seconds since the epoch.
    """

    requires: frozenset[str]
    until: float


@dataclass(frozen=True, slots=True)
class PipelineState:
    """What operators decided about a pipeline in this environment."""

    enabled: bool = True
    login_flow: bool = False


def _of(kind: type[Type], value: object, column: str) -> Type:
    if type(value) is not kind:
        raise Unreadable(f"{column} can't be read")
    return value


def text(value: object, column: str) -> str:
    """Return a text that is not empty. Raises Unreadable."""
    if not (checked := _of(str, value, column)):
        raise Unreadable(f"{column} is empty")
    return checked


def number(value: object, column: str) -> int:
    """Return a whole number. Raises Unreadable."""
    return _of(int, value, column)


def flag(value: object, column: str) -> bool:
    """Return True or False. Raises Unreadable."""
    return _of(bool, value, column)


def seconds(moment: datetime | None) -> float | None:
    """Return a moment in seconds since the epoch, or None where there is none."""
    return None if moment is None else moment.timestamp()


def texts(value: object, column: str) -> tuple[str, ...]:
    """Return a list of texts. Raises Unreadable."""
    if type(value) is not list or not all(type(item) is str for item in value):
        raise Unreadable(f"{column} can't be read")
    return tuple(value)


def facts_of(row: EnvironmentRow) -> tuple[EnvironmentFacts, list[str]]:
    """Return an environment's rules and the columns that can't be read.

    Each such column has the value that allows least and retains longest.
    """
    facts = EnvironmentFacts(
        id=row.id,
        name=row.name,
        policy=row.policy,
        policy_version=row.policy_version,
        token_lifetime=row.token_lifetime,
        keys_in_query=row.keys_in_query,
        algorithm=row.algorithm,
        run_retention=row.run_retention,
        internal_policy=row.internal_policy,
        record_bodies=row.record_bodies,
    )
    strictest: dict[str, Any] = {
        "policy": "",
        "internal_policy": "",
        "policy_version": 0,
        "token_lifetime": 0,
        "keys_in_query": False,
        "algorithm": "",
        "run_retention": RETENTION[1],
        "record_bodies": "none",
    }
    wrong = {
        name: value
        for name, value in strictest.items()
        if type(getattr(facts, name)) is not type(value)
    }
    if facts.record_bodies not in RECORDED:
        wrong["record_bodies"] = strictest["record_bodies"]
    if "run_retention" not in wrong and facts.run_retention < RETENTION[0]:
        wrong["run_retention"] = strictest["run_retention"]
    return replace(facts, **wrong), sorted(wrong)


def consumer_of(row: ConsumerRow) -> Consumer:
    """Return a consumer. Raises Unreadable."""
    return Consumer(number(row.id, "id"), text(row.name, "name"), flag(row.enabled, "enabled"))


def pipeline_of(row: PipelineRow) -> tuple[str, PipelineState, int]:
    """Return the id of a pipeline, what operators decided about it, and the revision of that.

    A flag that can't be read disables it. Raises Unreadable.
    """
    return (
        text(row.name, "name"),
        PipelineState(row.enabled is True, row.login_flow is True),
        number(row.revision, "revision"),
    )


def pipeline_states(
    pipelines: list[tuple[str, PipelineState, int]],
) -> tuple[dict[str, PipelineState], dict[str, PipelineState]]:
    """Return the states of ids, and those of names.

    A row of a name is of the previous release: it can only remove permissions, from older rows.
    """
    named = {name: (state, revision) for name, state, revision in pipelines if is_name(name)}
    states: dict[str, PipelineState] = {}
    for identifier, state, revision in pipelines:
        if is_name(identifier):
            continue
        of_name, newer = named.get(identifier.partition("/")[2], (state, -1))
        states[identifier] = (
            PipelineState(
                state.enabled and of_name.enabled, state.login_flow and of_name.login_flow
            )
            if newer > revision
            else state
        )
    return states, {name: PipelineState(state.enabled) for name, (state, _) in named.items()}


def association_of(row: AssociationRow) -> tuple[str, int, int, int] | None:
    """Return an association: pipeline, consumer, row and revision.

    None where it was removed, or is of a name. Raises Unreadable.
    """
    pipeline: object = row.pipeline
    if row.active is not True or (type(pipeline) is str and is_name(pipeline)):
        return None
    return (
        text(pipeline, "pipeline"),
        number(row.consumer_id, "consumer_id"),
        number(row.id, "id"),
        number(row.revision, "revision"),
    )


def removed_names(rows: list[AssociationRow]) -> dict[tuple[object, object], int]:
    """Return the revisions at which the previous release removed access, by consumer and name."""
    return {
        (row.consumer_id, row.pipeline): row.revision
        for row in rows
        if row.active is not True and type(row.pipeline) is str and is_name(row.pipeline)
    }


def grace_of(row: GraceRow) -> tuple[str, Grace] | None:
    """Return a pipeline and its grace, None where it has ended. Raises Unreadable."""
    if row.active is not True:
        return None
    return text(row.pipeline, "pipeline"), Grace(
        frozenset(texts(row.requires, "requires")), row.until.timestamp()
    )


def credential_of(row: CredentialRow, decrypt: Decrypt) -> Credential | None:
    """Return a credential, None where it was revoked. Raises Unreadable."""
    if row.revoked_at is not None:
        return None
    consumer_id = number(row.consumer_id, "consumer_id")
    return Credential(
        text(row.id, "id"),
        text(row.kind, "kind"),
        text(row.name, "name"),
        consumer_id,
        decrypt(row.sealed),
        seconds(row.expires_at),
    )


def signing_key_of(row: SigningKeyRow, decrypt: Decrypt) -> SigningKey | None:
    """Return a signing key, None where it was dropped. Raises Unreadable."""
    if row.dropped_at is not None:
        return None
    private = decrypt(row.private_encrypted)
    return SigningKey(
        text(row.kid, "kid"),
        text(row.algorithm, "algorithm"),
        _of(bytes, row.public, "public"),
        private,
        seconds(row.verify_until),
    )


def issuer_of(row: IssuerRow) -> TrustedIssuer | None:
    """Return a trusted issuer, None where it is not trusted any more. Raises Unreadable."""
    if row.active is not True:
        return None
    keys, consumers = row.keys, row.consumers
    if keys is not None and (type(keys) is not list or not all(type(key) is dict for key in keys)):
        raise Unreadable("keys can't be read")
    if type(consumers) is not dict or not all(type(name) is str for name in consumers.values()):
        raise Unreadable("consumers can't be read")
    return TrustedIssuer(
        issuer=text(row.issuer, "issuer"),
        audience=text(row.audience, "audience"),
        jwks_url=None if row.jwks_url is None else text(row.jwks_url, "jwks_url"),
        keys=None if keys is None else tuple(keys),
        consumer=None if row.consumer is None else text(row.consumer, "consumer"),
        consumer_claim=text(row.consumer_claim, "consumer_claim"),
        consumers=consumers,
        scope_claim=text(row.scope_claim, "scope_claim"),
    )


@dataclass(frozen=True, slots=True)
class TokenRevocation:
    """The revocation of one token, until a moment in seconds since the epoch."""

    jti: str
    forget_at: float


@dataclass(frozen=True, slots=True)
class ConsumerRevocation:
    """The revocation of a consumer's tokens issued before a moment in seconds since the epoch."""

    consumer: str
    issued_before: float


def revocation_of(row: RevocationRow) -> TokenRevocation | ConsumerRevocation:
    """Return a revocation. Raises Unreadable."""
    if row.jti is not None:
        forget_at = float("inf") if row.forget_at == LONG_AGO else row.forget_at.timestamp()
        return TokenRevocation(text(row.jti, "jti"), forget_at)
    if row.issued_before is None or row.issued_before == LONG_AGO:
        raise Unreadable("issued_before can't be read")
    return ConsumerRevocation(text(row.consumer, "consumer"), row.issued_before.timestamp())


def limit_of(row: LimitRow) -> tuple[tuple[int, str], Rate] | None:
    """Return a consumer, a pipeline and their limit, None where it was removed.

    Raises Unreadable.
    """
    if not flag(row.active, "active"):
        return None
    rate = Rate.of(text(row.rate, "rate"), text(row.by, "by"))
    if any(rate.problems()):
        raise Unreadable("rate can't be read")
    pipeline = _of(str, row.pipeline, "pipeline")
    return (number(row.consumer_id, "consumer_id"), pipeline), rate


def address_rule_of(row: AddressRuleRow) -> tuple[int, str, bool] | None:
    """Return a consumer, a network and whether it may call from there, None where it was removed.

    Raises Unreadable.
    """
    if not flag(row.active, "active"):
        return None
    network = text(row.network, "network")
    try:
        network_of(network)
    except ValueError:
        raise Unreadable("network can't be read") from None
    return number(row.consumer_id, "consumer_id"), network, flag(row.allowed, "allowed")


def variable_of(row: VariableRow) -> tuple[str, str] | None:
    """Return a variable's name and value, None where it was unset. Raises Unreadable."""
    if row.active is not True:
        return None
    value = _of(str, row.value, "value")
    return text(row.name, "name"), value


def secret_of(row: PipelineSecretRow, decrypt: Decrypt) -> tuple[str, StoredSecret] | None:
    """Return a secret by its name, None where it was deleted. Raises Unreadable."""
    if row.active is not True:
        return None
    name, pipelines = text(row.name, "name"), row.pipelines
    allowed = None if pipelines is None else frozenset(texts(pipelines, "pipelines"))
    return name, StoredSecret(
        Secret(name, decrypt(row.sealed).decode()), seconds(row.expires_at), allowed
    )


def sensitive_of(row: SensitiveFieldRow) -> str | None:
    """Return a sensitive field, None where it was removed. Raises Unreadable."""
    return None if row.active is False else text(row.field, "field")


def callback_of(row: CallbackTargetRow, decrypt: Decrypt) -> tuple[int, CallbackTarget] | None:
    """Return a consumer and its callback target, None where it was removed. Raises Unreadable."""
    if row.active is not True:
        return None
    return number(row.consumer_id, "consumer_id"), CallbackTarget(
        text(row.prefix, "prefix"), row.private is True, decrypt(row.sealed)
    )
