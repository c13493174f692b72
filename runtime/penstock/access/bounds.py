"""Bounds that operators set for a consumer in an environment: how often it may call, and from where."""

from __future__ import annotations

from collections.abc import Iterable

from penstock import audit
from penstock.access.find import consumer_in, environment_row, named
from penstock.cidr import network_of
from penstock.contracts.rates import Rate
from penstock.db.engine import Engine, reading
from penstock.db.rows import Reader
from penstock.errors import Mistaken, Unknown

BY = ("consumer", "key", "address")


def set_limit(engine: Engine, actor: str, consumer: str, environment: str, rate: Rate, *, pipeline: str = "", known: Iterable[str] = ()) -> None:
    """Let a consumer call so often, a pipeline or all of them together; a rate with the same window and `by` is replaced."""
    for problem, mend in rate.problems():
        raise Mistaken(f"{problem}; {mend}")
    with audit.change(engine, actor, audit.Action.LIMIT_SET, consumer, environment=environment) as (rows, detail):
        where = consumer_in(rows, consumer, environment)
        if pipeline:
            names = set(known) | {row["name"] for row in rows.all("pipelines", environment_id=where["environment_id"])}
            if pipeline not in names:
                raise Unknown("pipeline", pipeline, names)
        rows.put("limits", {**where, "pipeline": pipeline, "by": rate.by, "seconds": rate.seconds}, rate=rate.text, active=True)
        detail.update(rate=rate.text, by=rate.by, pipeline=pipeline or None)


def remove_limits(engine: Engine, actor: str, consumer: str, environment: str, *, pipeline: str = "") -> int:
    """Take away what was set for a consumer at a pipeline, or for all of them together; return how many limits that were."""
    with audit.change(engine, actor, audit.Action.LIMIT_REMOVED, consumer, environment=environment) as (rows, detail):
        match = {**consumer_in(rows, consumer, environment), "pipeline": pipeline, "active": True}
        removed = [row["rate"] for row in rows.all("limits", **match)]
        if not removed:
            raise Mistaken(
                f"{consumer} has no limit {'at ' + pipeline if pipeline else 'over all pipelines'} in {environment}; `penstock limit list` shows them"
            )
        rows.set("limits", match, active=False)
        detail.update(removed=removed, pipeline=pipeline or None)
        return len(removed)


def list_limits(engine: Engine, *, environment: str | None = None, consumer: str | None = None) -> list[dict[str, object]]:
    """Return limits by environment, consumer and pipeline."""
    return _listed(engine, "limits", ("pipeline", "rate", "by"), environment, consumer)


def set_networks(engine: Engine, actor: str, consumer: str, environment: str, networks: Iterable[str], *, allowed: bool) -> list[str]:
    """Let a consumer call from networks only, or never from them; return them as they are kept."""
    action = audit.Action.ADDRESSES_ALLOWED if allowed else audit.Action.ADDRESSES_DENIED
    with audit.change(engine, actor, action, consumer, environment=environment) as (rows, detail):
        where = consumer_in(rows, consumer, environment)
        detail["networks"] = [_network(text) for text in networks]
        for network in detail["networks"]:
            rows.put("address_rules", {**where, "network": network}, allowed=allowed, active=True)
        return list(detail["networks"])


def remove_networks(engine: Engine, actor: str, consumer: str, environment: str, networks: Iterable[str]) -> None:
    """Take networks off a consumer's lists."""
    with audit.change(engine, actor, audit.Action.ADDRESSES_REMOVED, consumer, environment=environment) as (rows, detail):
        where = consumer_in(rows, consumer, environment)
        held = {row["network"] for row in rows.all("address_rules", **where, active=True)}
        detail["networks"] = [_network(text) for text in networks]
        for network in detail["networks"]:
            if network not in held:
                raise Unknown(f"network on the lists of {consumer!r} in {environment!r}", network, held)
            rows.set("address_rules", {**where, "network": network}, active=False)


def list_networks(engine: Engine, *, environment: str | None = None, consumer: str | None = None) -> list[dict[str, object]]:
    """Return the networks on consumers' lists."""
    return _listed(engine, "address_rules", ("network", "allowed"), environment, consumer)


def _network(text: str) -> str:
    try:
        return str(network_of(text))
    except ValueError as error:
        raise Mistaken(f"{error}; write networks such as 192.0.2.0/24, 2001:db8::/32, or one address") from None


def _listed(engine: Engine, table: str, columns: tuple[str, ...], environment: str | None, consumer: str | None) -> list[dict[str, object]]:
    with reading(engine) as connection:
        reader = Reader(connection)
        match: dict[str, object] = {"active": True}
        if environment:
            match["environment_id"] = environment_row(reader, environment)["id"]
        if consumer:
            match["consumer_id"] = named(reader, "consumer", consumer)["id"]
        environments, consumers = reader.names_by_id("environments"), reader.names_by_id("consumers")
        rows = [
            {
                "environment": environments[row["environment_id"]],
                "consumer": consumers[row["consumer_id"]],
                **{column: row[column] for column in columns},
            }
            for row in reader.all(table, **match)
        ]
    return sorted(rows, key=lambda row: tuple(str(value) for value in row.values()))
