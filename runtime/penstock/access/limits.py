"""Bounds that operators set for a consumer in an environment.

How often it may call, and from where.
"""

from __future__ import annotations

from collections.abc import Iterable
from types import MappingProxyType

from penstock import audit
from penstock.access.by_name import is_name
from penstock.access.lookup import consumer_in, listed_of_consumers
from penstock.access.pipelines import Offered, in_order, meant_by, name_of, stored_in
from penstock.contracts.networks import network_of
from penstock.contracts.rates import Rate, unused_beside
from penstock.db.engine import Engine
from penstock.errors import UnknownName, UsageError

BY = ("consumer", "key", "address")


def check_rate(rate: Rate) -> None:
    """Refuse a rate that no consumer's limit can have. Raises UsageError."""
    for problem, fix in rate.problems():
        raise UsageError(f"{problem}; {fix}")
    if rate.by not in BY:
        raise UsageError(
            f"a consumer's limit can't be counted by {rate.by!r}; use one of {', '.join(BY)}"
        )


def set_limit(
    engine: Engine,
    actor: str,
    consumer: str,
    environment: str,
    rate: Rate,
    *,
    pipeline: str = "",
    offered: Offered = MappingProxyType({}),
) -> list[str]:
    """Set a rate limit for a consumer, for some pipelines or over all of them together.

    A name or an id says which pipelines. Return their ids.

    A limit with the same window and `by` is replaced; one with another window is added beside it.
    Raises UsageError, also where one of the two could never be used up.
    """
    check_rate(rate)
    with audit.change(engine, actor, audit.Action.LIMIT_SET, consumer, environment=environment) as (
        rows,
        detail,
    ):
        where = consumer_in(rows, consumer, environment)
        found = (
            meant_by(pipeline, offered, stored_in(rows, where["environment_id"]))
            if pipeline
            else []
        )
        for identifier in found or [""]:
            stored = (
                Rate(row["rate"], by=row["by"])
                for row in rows.all("limits", **where, pipeline=identifier, active=True)
            )
            _check_beside(
                rate,
                [other for other in stored if (other.by, other.seconds) != (rate.by, rate.seconds)],
            )
            rows.put(
                "limits",
                {**where, "pipeline": identifier, "by": rate.by, "seconds": rate.seconds},
                rate=rate.text,
                active=True,
            )
        detail.update(rate=rate.text, by=rate.by, pipelines=found or None)
    return found


def _check_beside(rate: Rate, others: list[Rate]) -> None:
    for one, beside in ((rate, others), *((other, [rate]) for other in others)):
        other = unused_beside(one, beside)
        if other is not None:
            fix = (
                "give it fewer calls"
                if one is rate
                else "remove the limits that are set (`penstock limit remove`)"
            )
            raise UsageError(f"the limit {one} can never be used up beside {other}; {fix}")


def remove_limits(
    engine: Engine, actor: str, consumer: str, environment: str, *, pipeline: str = ""
) -> int:
    """Take away what was set for a consumer at a pipeline, or for all of them together.

    Return how many limits that were.
    """
    with audit.change(
        engine, actor, audit.Action.LIMIT_REMOVED, consumer, environment=environment
    ) as (rows, detail):
        where = consumer_in(rows, consumer, environment)
        set_here = [
            row
            for row in rows.all("limits", **where, active=True)
            if pipeline in {row["pipeline"], name_of(row["pipeline"])}
        ]
        if not set_here:
            raise UsageError(
                f"{consumer} has no limit {'at ' + pipeline if pipeline else 'over all pipelines'}"
                f" in {environment}; `penstock limit list` shows them"
            )
        for row in set_here:
            rows.set("limits", {"id": row["id"]}, active=False)
        ours = [row for row in set_here if not pipeline or not is_name(row["pipeline"])]
        detail.update(
            removed=[row["rate"] for row in ours],
            pipelines=in_order({row["pipeline"] for row in ours}) if pipeline else None,
        )
        return len(ours)


def list_limits(
    engine: Engine,
    *,
    environment: str | None = None,
    consumer: str | None = None,
    after: int | None = None,
    limit: int | None = None,
) -> list[dict[str, object]]:
    """Return limits by environment, consumer and pipeline; a page of them goes on after an id."""
    return listed_of_consumers(
        engine,
        "limits",
        ("pipeline", "rate", "by"),
        environment,
        consumer,
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
) -> list[str]:
    """Let a consumer call from networks only, or never from them; return them as they are kept."""
    action = audit.Action.ADDRESSES_ALLOWED if allowed else audit.Action.ADDRESSES_DENIED
    with audit.change(engine, actor, action, consumer, environment=environment) as (rows, detail):
        where = consumer_in(rows, consumer, environment)
        detail["networks"] = check_networks(networks)
        for network in detail["networks"]:
            rows.put("address_rules", {**where, "network": network}, allowed=allowed, active=True)
        return list(detail["networks"])


def check_networks(networks: Iterable[str]) -> list[str]:
    """Return networks as they are kept. Raises UsageError."""
    return [_network(text) for text in networks]


def remove_networks(
    engine: Engine, actor: str, consumer: str, environment: str, networks: Iterable[str]
) -> None:
    """Take networks off a consumer's lists."""
    with audit.change(
        engine, actor, audit.Action.ADDRESSES_REMOVED, consumer, environment=environment
    ) as (rows, detail):
        where = consumer_in(rows, consumer, environment)
        held = {row["network"] for row in rows.all("address_rules", **where, active=True)}
        detail["networks"] = check_networks(networks)
        for network in detail["networks"]:
            if network not in held:
                raise UnknownName(
                    f"network on the lists of {consumer!r} in {environment!r}", network, held
                )
            rows.set("address_rules", {**where, "network": network}, active=False)


def list_networks(
    engine: Engine,
    *,
    environment: str | None = None,
    consumer: str | None = None,
    after: int | None = None,
    limit: int | None = None,
) -> list[dict[str, object]]:
    """Return the networks on consumers' lists, by environment and consumer.

    A page of them goes on after an id.
    """
    return listed_of_consumers(
        engine,
        "address_rules",
        ("network", "allowed"),
        environment,
        consumer,
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
