"""Apply changed rows to a view: first what they remove, last what they grant.

Each function replaces attributes of the view as a whole. While a row can't be read, what it may
restrict is closed: a limit or a network closes its consumer, a revocation all tokens, and a
pipeline's row the whole view.
"""

# ruff: noqa: SLF001  these functions are the writing side of AccessView

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import replace
from datetime import datetime
from types import MappingProxyType

from penstock.access import parsing
from penstock.access.callbacks import CallbackTarget
from penstock.access.parsing import ConsumerRevocation, TokenRevocation, Unreadable
from penstock.access.row_parser import RowParser
from penstock.access.view import AccessView
from penstock.contracts.access import Consumer, Credential
from penstock.contracts.networks import Networks
from penstock.contracts.rates import Rate
from penstock.contracts.variables import NamedValues
from penstock.db.access_rows import Changes, KeyValues
from penstock.db.tables import (
    AddressRuleRow,
    ApiKeyRow,
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

NO_NETWORK = Networks.of(["255.255.255.255"], ["0.0.0.0/0", "::/0"])
DIGEST_BYTES = 32


def apply(
    view: AccessView,
    parser: RowParser,
    environment: EnvironmentRow,
    changes: Changes,
    keys: list[KeyValues],
) -> None:
    """Apply all changes. Raises Unreadable where a row of a pipeline can't be read."""
    facts, wrong = parsing.facts_of(environment)
    parser.unreadable[EnvironmentRow] = {
        name: f"environments {environment.name}: {name} can't be read" for name in wrong
    }
    _apply_revocations(view, parser, changes[RevocationRow])
    view._keys.forget({key[1] for key in keys if view._keys.moved(key[1], key[0])})
    apply_keys(view, parser, (key for key in keys if not _is_usable(key)))
    consumers = _remove_consumers(view, parser, changes[ConsumerRow])
    associations = _remove_associations(view, parser, changes[AssociationRow])
    _apply_limits(view, parser, changes)
    _apply_run_rules(view, parser, changes)
    _apply_authenticators(view, parser, changes)
    _apply_variables(view, parser, changes)
    _apply_pipelines(view, parser, changes)
    if parser.unreadable.get(SensitiveFieldRow):  # it may be any field of a body
        facts = replace(facts, record_bodies="none")
    if facts != view._environment or changes.has(
        GraceRow, PipelineRow, VariableRow, PipelineSecretRow
    ):
        view.gates_version += 1
    view._environment = facts
    if changes.has(SigningKeyRow, RevocationRow, IssuerRow):
        view.tokens_version += 1
    view._consumers.update(consumers)
    for pipeline, consumer_id, row in associations:
        view._associations.setdefault(pipeline, {})[consumer_id] = row
    apply_keys(view, parser, (key for key in keys if _is_usable(key)))


def apply_keys(view: AccessView, parser: RowParser, keys: Iterable[KeyValues]) -> None:
    """Apply API keys one after the other: there may be a million."""
    unreadable = parser.unreadable.setdefault(ApiKeyRow, {})
    for key in keys:
        digest, key_id, consumer_id, expires, enabled, revoked = key
        if unreadable:
            unreadable.pop(key_id, None)
        if _is_readable(key) and not revoked:
            view._keys.put(
                digest,
                key_id,
                consumer_id,
                expires.timestamp() if expires else None,
                usable=enabled is True,
            )
            continue
        view._keys.drop(digest)
        if not revoked:
            unreadable[key_id] = f"api_keys {key_id}: it can't be read"


def _is_readable(key: KeyValues) -> bool:
    digest, key_id, consumer_id, expires, enabled, _ = key
    identified = (
        type(digest) is bytes
        and len(digest) == DIGEST_BYTES
        and type(key_id) is str
        and type(consumer_id) is int
        and consumer_id >= 0
    )
    return identified and type(enabled) is bool and (expires is None or type(expires) is datetime)


def _is_usable(key: KeyValues) -> bool:
    """Return whether a key grants anything, as far as its row says."""
    return _is_readable(key) and key[4] is True and not key[5]


def _remove_consumers(
    view: AccessView, parser: RowParser, rows: list[ConsumerRow]
) -> dict[int, Consumer]:
    """Remove consumers that are disabled or can't be read; return all that can."""
    consumers = {
        consumer.id: consumer for consumer in parser.parse(ConsumerRow, rows, parsing.consumer_of)
    }
    for row in rows:
        consumer = consumers.get(row.id)
        if consumer is None:
            view._consumers.pop(row.id, None)
        elif not consumer.enabled:
            view._consumers[consumer.id] = consumer
    return consumers


def _remove_associations(
    view: AccessView, parser: RowParser, rows: list[AssociationRow]
) -> list[tuple[str, int, int]]:
    """Remove associations, also those that a changed row had before.

    Return those that exist: pipeline, consumer and row.
    """
    if not rows:
        return []
    names, changed = parsing.removed_names(rows), {row.id for row in rows}
    associations = [
        (pipeline, consumer, row)
        for pipeline, consumer, row, revision in parser.parse(
            AssociationRow, rows, parsing.association_of
        )
        if names.get((consumer, pipeline.partition("/")[2]), -1) <= revision
    ]
    granted = {association[:2] for association in associations}
    for pipeline, consumers in view._associations.items():
        name = pipeline.partition("/")[2]
        removed = [
            consumer
            for consumer, row in consumers.items()
            if (row in changed or (consumer, name) in names) and (pipeline, consumer) not in granted
        ]
        for consumer in removed:
            del consumers[consumer]
    return associations


def _apply_revocations(view: AccessView, parser: RowParser, rows: list[RevocationRow]) -> None:
    """Apply revocations; while one can't be read, all tokens are revoked."""
    before = dict(view._revoked_before)
    now = time.time()
    revocations: Iterator[TokenRevocation | ConsumerRevocation] = parser.parse(
        RevocationRow, rows, parsing.revocation_of
    )
    for revocation in revocations:
        if isinstance(revocation, TokenRevocation):
            view._revoked[revocation.jti] = revocation.forget_at
        else:
            moment = revocation.issued_before
            before[revocation.consumer] = max(moment, before.get(revocation.consumer, moment))
    view._revoked_before = before
    view._all_revoked = bool(parser.unreadable[RevocationRow])
    if rows:
        view._revoked = {jti: forget for jti, forget in view._revoked.items() if forget > now}


def _apply_pipelines(view: AccessView, parser: RowParser, changes: Changes) -> None:
    if changes[PipelineRow]:
        view.pipelines, view._named_pipelines = parsing.pipeline_states(
            parser.parse_all(PipelineRow, changes[PipelineRow], parsing.pipeline_of)
        )
        if parser.unreadable[PipelineRow]:  # it may disable any pipeline
            raise Unreadable(", ".join(parser.unreadable[PipelineRow].values()))
    if changes[GraceRow]:
        view.graces = dict(parser.parse_all(GraceRow, changes[GraceRow], parsing.grace_of))


def _apply_limits(view: AccessView, parser: RowParser, changes: Changes) -> None:
    """Apply the limits of consumers: rates by pipeline, and networks.

    The rates of all pipelines together have an empty name.
    """
    if changes[LimitRow]:
        limits: dict[tuple[int, str], tuple[Rate, ...]] = {}
        for key, rate in parser.parse_all(LimitRow, changes[LimitRow], parsing.limit_of):
            limits[key] = (*limits.get(key, ()), rate)
        view.limits = limits
        _close_consumers(view, parser, LimitRow, changes[LimitRow])
    if changes[AddressRuleRow]:
        view._address_rules = tuple(
            parser.parse_all(AddressRuleRow, changes[AddressRuleRow], parsing.address_rule_of)
        )
        _close_consumers(view, parser, AddressRuleRow, changes[AddressRuleRow])
    if changes.has(LimitRow, AddressRuleRow):
        lists: defaultdict[int, tuple[list[str], list[str]]] = defaultdict(lambda: ([], []))
        for consumer, network, allowed in view._address_rules:
            lists[consumer][not allowed].append(network)
        networks = {consumer: Networks.of(*both) for consumer, both in lists.items()}
        closed = set[int]().union(*view._closed_consumers.values())
        view.networks = networks | dict.fromkeys(closed, NO_NETWORK)


def _close_consumers(
    view: AccessView,
    parser: RowParser,
    kind: type[LimitRow | AddressRuleRow],
    rows: Iterable[LimitRow | AddressRuleRow],
) -> None:
    """Close the consumers of rows that can't be read: they may call from no network.

    Raises Unreadable.
    """
    view._closed_consumers[kind] = {
        parsing.number(row.consumer_id, "consumer_id")
        for row in rows
        if row.id in parser.unreadable[kind]
    }


def _apply_run_rules(view: AccessView, parser: RowParser, changes: Changes) -> None:
    """Apply sensitive fields and callback targets."""
    if changes[SensitiveFieldRow]:
        view.sensitive = frozenset(
            parser.parse_all(SensitiveFieldRow, changes[SensitiveFieldRow], parsing.sensitive_of)
        )
    if changes[CallbackTargetRow]:
        callbacks: dict[int, tuple[CallbackTarget, ...]] = {}
        for consumer, target in parser.decrypt_all(
            CallbackTargetRow, changes[CallbackTargetRow], parsing.callback_of
        ):
            callbacks[consumer] = (*callbacks.get(consumer, ()), target)
        view.callbacks = callbacks


def _apply_variables(view: AccessView, parser: RowParser, changes: Changes) -> None:
    """Apply variables and secrets, each as a new mapping: running calls keep their own."""
    if changes[VariableRow]:
        view.variables = MappingProxyType(
            NamedValues(
                "variable",
                view._name,
                parser.parse_all(VariableRow, changes[VariableRow], parsing.variable_of),
            )
        )
    if changes[PipelineSecretRow]:
        view.secrets = MappingProxyType(
            dict(
                parser.decrypt_all(PipelineSecretRow, changes[PipelineSecretRow], parsing.secret_of)
            )
        )


def _apply_authenticators(view: AccessView, parser: RowParser, changes: Changes) -> None:
    """Apply what authenticators look up: credentials, signing keys, and trusted issuers."""
    if changes[CredentialRow]:
        kinds: dict[str, dict[str, Credential]] = {}
        for credential in parser.decrypt_all(
            CredentialRow, changes[CredentialRow], parsing.credential_of
        ):
            kinds.setdefault(credential.kind, {})[credential.name] = credential
        view._credentials = {kind: MappingProxyType(named) for kind, named in kinds.items()}
    if changes[IssuerRow]:
        view._issuers = {
            issuer.issuer: issuer
            for issuer in parser.parse_all(IssuerRow, changes[IssuerRow], parsing.issuer_of)
        }
    if changes[SigningKeyRow]:
        keys = parser.decrypt_all(SigningKeyRow, changes[SigningKeyRow], parsing.signing_key_of)
        view._signing_keys = {
            key.kid: key for key in sorted(keys, key=lambda key: key.verify_until is not None)
        }
