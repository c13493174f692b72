"""Limits of a consumer in an environment: rates, and networks it may call from."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from types import MappingProxyType

from penstock import audit
from penstock.access.by_name import is_name
from penstock.access.lookup import (
    ConsumerPlace,
    consumer_in,
    environment_of,
    list_named_settings,
)
from penstock.access.pipelines import Offered, in_order, meant_by, name_of, stored_in
from penstock.access.seen import require_seen
from penstock.audit.approvals import Kind, gate, is_applying
from penstock.contracts.networks import network_of
from penstock.contracts.rates import Rate, unused_beside
from penstock.db.consumer_settings import NamedAddressRuleRow, NamedLimitRow
from penstock.db.engine import Engine
from penstock.db.tables import AddressRuleRow, LimitRow
from penstock.db.unit_of_work import AccessChange, RowReader
from penstock.errors import UnknownName, UsageError, quoted

BY = ("consumer", "key", "address")


@dataclass(frozen=True, slots=True)
class SetLimit:
    """The pipelines that a limit was set for, by ID, and the rates that it replaced."""

    pipelines: list[str]
    replaced: list[str]


@dataclass(frozen=True, slots=True)
class SetNetworks:
    """The networks as they are stored, and those that had the opposite rule before."""

    networks: list[str]
    replaced: list[str]


def check_rate(rate: Rate) -> None:
    """Raise UsageError where a consumer's limit can't have a rate."""
    for problem, fix in rate.problems():
        raise UsageError(f"{problem}; {fix}")
    if rate.by not in BY:
        raise UsageError(
            f"a consumer's limit can't be counted by {quoted(rate.by)}; use one of {', '.join(BY)}"
        )


def set_limit(  # noqa: PLR0913  one argument a fact
    engine: Engine,
    actor: str,
    consumer: str,
    environment: str,
    rate: Rate,
    *,
    pipeline: str = "",
    offered: Offered = MappingProxyType({}),
    seen: str | None = None,
) -> SetLimit:
    """Set a rate limit of a consumer for pipelines, by name or id.

    An empty `pipeline` is the limit of all pipelines together. A limit with the same window and
    `by` is replaced; limits with other windows stay. `seen` is the token of the limits that are
    replaced (`access.seen`). Raises UnknownName, Outdated, and UsageError, also where one of the
    limits could never be reached.
    """
    check_rate(rate)
    with audit.change(engine, actor, audit.Action.LIMIT_SET, consumer, environment=environment) as (
        rows,
        detail,
    ):
        place = consumer_in(rows, consumer, environment)
        stored_ids = stored_in(rows, place.environment_id) if pipeline else ()
        identifiers = meant_by(pipeline, offered, stored_ids) if pipeline else []
        replaced = _replaced(rows, place, identifiers or [""], rate)
        state = [[row.pipeline, row.rate] for row in replaced]
        saved = [(row.pipeline or "all pipelines", f"{row.rate} by {row.by}") for row in replaced]
        require_seen(seen, state, f"the limit of {consumer}", saved or [("Limit", "none")])
        if is_applying() or any(Rate.of(row.rate, row.by).count < rate.count for row in replaced):
            request = {"rate": rate.text, "by": rate.by, "pipeline": pipeline}
            where = environment_of(rows, place)
            gate(rows, detail, where, Kind.LIMIT, consumer, request=request, state=state)
        for identifier in identifiers or [""]:
            _set_limit(rows, place, identifier, rate)
        detail.update(rate=rate.text, by=rate.by, pipelines=identifiers or None)
        changed = in_order({row.rate for row in replaced if row.rate != rate.text})
        if changed:
            detail["before"] = ", ".join(changed)
    return SetLimit(identifiers, changed)


def _replaced(
    rows: RowReader, place: ConsumerPlace, identifiers: Iterable[str], rate: Rate
) -> list[LimitRow]:
    """Return the limits that a rate replaces, by pipeline."""
    active = rows.all(LimitRow, {**place.of(LimitRow), LimitRow.active: True})
    replaced = [
        row
        for row in active
        if row.pipeline in identifiers and (row.by, row.seconds) == (rate.by, rate.seconds)
    ]
    return sorted(replaced, key=lambda row: row.pipeline)


def _set_limit(rows: AccessChange, place: ConsumerPlace, pipeline: str, rate: Rate) -> None:
    match = {**place.of(LimitRow), LimitRow.pipeline: pipeline}
    active = (
        Rate.of(row.rate, row.by) for row in rows.all(LimitRow, {**match, LimitRow.active: True})
    )
    _check_beside(
        rate,
        [other for other in active if (other.by, other.seconds) != (rate.by, rate.seconds)],
    )
    rows.put(
        LimitRow,
        {**match, LimitRow.by: rate.by, LimitRow.seconds: rate.seconds},
        {LimitRow.rate: rate.text, LimitRow.active: True},
    )


def _check_beside(rate: Rate, others: list[Rate]) -> None:
    for limit, beside in ((rate, others), *((other, [rate]) for other in others)):
        other = unused_beside(limit, beside)
        if other is not None:
            fix = (
                "give it fewer calls"
                if limit is rate
                else "remove the limits that are set (`penstock limit remove`)"
            )
            raise UsageError(f"the limit {limit} can never be used up beside {other}; {fix}")


@dataclass(frozen=True, slots=True)
class RemovedLimits:
    """How many limits were removed, and those that the consumer still has, as texts."""

    number: int
    left: list[str]


def remove_limits(
    engine: Engine, actor: str, consumer: str, environment: str, *, pipeline: str = ""
) -> RemovedLimits:
    """Remove the limits of a consumer for a pipeline, or those of all pipelines together.

    Raises UsageError and UnknownName.
    """
    with audit.change(
        engine, actor, audit.Action.LIMIT_REMOVED, consumer, environment=environment
    ) as (rows, detail):
        place = consumer_in(rows, consumer, environment)
        match = place.of(LimitRow)
        active = rows.all(LimitRow, {**match, LimitRow.active: True})
        limits = [row for row in active if pipeline in {row.pipeline, name_of(row.pipeline)}]
        if not limits:
            raise UsageError(
                f"{consumer} has no limit {'at ' + pipeline if pipeline else 'over all pipelines'}"
                f" in {environment}; `penstock limit list` shows them"
            )
        gate(
            rows,
            detail,
            environment_of(rows, place),
            Kind.REMOVE_LIMIT,
            consumer,
            request={"pipeline": pipeline},
            state=sorted([row.pipeline, row.rate, row.by] for row in limits),
        )
        for row in limits:
            rows.set(LimitRow, {LimitRow.id: row.id}, {LimitRow.active: False})
        by_id = [row for row in limits if not pipeline or not is_name(row.pipeline)]
        detail.update(
            removed=[row.rate for row in by_id],
            pipelines=in_order({row.pipeline for row in by_id}) if pipeline else None,
        )
        left = [row for row in active if row not in limits and not is_name(row.pipeline)]
        return RemovedLimits(
            len(by_id),
            sorted(f"{row.rate} at {row.pipeline or 'all pipelines'}" for row in left),
        )


def list_limits(
    engine: Engine,
    *,
    environment: str | None = None,
    consumer: str | None = None,
    search: str = "",
    after: int | None = None,
    limit: int | None = None,
) -> list[NamedLimitRow]:
    """Return limits by environment, consumer and pipeline; a page begins after an id.

    Raises UnknownName.
    """
    return list_named_settings(
        engine,
        NamedLimitRow,
        LimitRow.pipeline,
        environment,
        consumer,
        search=search,
        after=after,
        limit=limit,
    )


def set_networks(
    engine: Engine,
    actor: str,
    consumer: str,
    environment: str,
    networks: Iterable[str],
    *,
    allowed: bool,
    seen: str | None = None,
) -> SetNetworks:
    """Allow a consumer's calls from some networks alone, or deny calls from them.

    `seen` is the token of the opposite rules that are replaced (`access.seen`). Raises UsageError,
    UnknownName and Outdated.
    """
    action = audit.Action.ADDRESSES_ALLOWED if allowed else audit.Action.ADDRESSES_DENIED
    with audit.change(engine, actor, action, consumer, environment=environment) as (rows, detail):
        place = consumer_in(rows, consumer, environment)
        match = place.of(AddressRuleRow)
        detail["networks"] = stored = check_networks(networks)
        active = rows.all(AddressRuleRow, {**match, AddressRuleRow.active: True})
        opposite = {row.network for row in active if row.allowed is not allowed}
        replaced = sorted(opposite.intersection(stored))
        saved = [(network, "denied" if allowed else "allowed") for network in replaced]
        require_seen(
            seen, replaced, f"the network rules of {consumer}", saved or [("Rules", "none")]
        )
        _gate_networks(rows, detail, place, consumer, stored, allowed=allowed)
        for network in stored:
            rows.put(
                AddressRuleRow,
                {**match, AddressRuleRow.network: network},
                {AddressRuleRow.allowed: allowed, AddressRuleRow.active: True},
            )
        return SetNetworks(stored, replaced)


def _gate_networks(
    rows: AccessChange,
    detail: dict[str, object],
    place: ConsumerPlace,
    consumer: str,
    networks: list[str],
    *,
    allowed: bool | None,
) -> None:
    """Require a second approval where the consumer may call from more networks afterwards.

    The first network that is allowed restricts, and so does one that is denied and was not allowed.
    All else counts as wider. `allowed` is None where rules are removed.
    """
    match = place.of(AddressRuleRow)
    rules = {
        row.network: row.allowed
        for row in rows.all(AddressRuleRow, {**match, AddressRuleRow.active: True})
    }
    narrower = (allowed is True and not rules) or (
        allowed is False and not any(rules.get(network) for network in networks)
    )
    if narrower and not is_applying():
        return
    kinds = {True: Kind.ALLOW_NETWORKS, False: Kind.DENY_NETWORKS, None: Kind.REMOVE_NETWORKS}
    gate(
        rows,
        detail,
        environment_of(rows, place),
        kinds[allowed],
        consumer,
        request={"networks": networks},
        state=rules,
    )


def check_networks(networks: Iterable[str]) -> list[str]:
    """Return networks as they are stored. Raises UsageError."""
    return [_network(text) for text in networks]


def remove_networks(
    engine: Engine, actor: str, consumer: str, environment: str, networks: Iterable[str]
) -> None:
    """Remove networks from a consumer's lists. Raises UsageError and UnknownName."""
    with audit.change(
        engine, actor, audit.Action.ADDRESSES_REMOVED, consumer, environment=environment
    ) as (rows, detail):
        place = consumer_in(rows, consumer, environment)
        match = place.of(AddressRuleRow)
        active = rows.all(AddressRuleRow, {**match, AddressRuleRow.active: True})
        listed = {row.network for row in active}
        detail["networks"] = removed = check_networks(networks)
        _gate_networks(rows, detail, place, consumer, removed, allowed=None)
        for network in removed:
            if network not in listed:
                raise UnknownName(
                    f"network on the lists of {quoted(consumer)} in {quoted(environment)}",
                    network,
                    listed,
                )
            rows.set(
                AddressRuleRow,
                {**match, AddressRuleRow.network: network},
                {AddressRuleRow.active: False},
            )


def list_networks(
    engine: Engine,
    *,
    environment: str | None = None,
    consumer: str | None = None,
    search: str = "",
    after: int | None = None,
    limit: int | None = None,
) -> list[NamedAddressRuleRow]:
    """Return the networks on consumers' lists, by environment and consumer.

    A page begins after an id. Raises UnknownName.
    """
    return list_named_settings(
        engine,
        NamedAddressRuleRow,
        AddressRuleRow.network,
        environment,
        consumer,
        search=search,
        after=after,
        limit=limit,
    )


def _network(text: str) -> str:
    try:
        return str(network_of(text))
    except ValueError as error:
        raise UsageError(
            f"{error}; write networks such as 192.0.2.0/24, 2001:db8::/32, or one address"
        ) from None
