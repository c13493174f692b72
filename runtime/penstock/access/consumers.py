"""Consumers, the pipelines they may call, and their API keys."""

from __future__ import annotations

import re
import secrets
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

from penstock import audit
from penstock.access import by_name
from penstock.access.lookup import consumer_in, environment_row, named
from penstock.access.pipelines import Offered, among, in_order, meant_by, stored_in
from penstock.contracts.keys import digest_of, make_api_key
from penstock.db import consumers as stored
from penstock.db.engine import Engine, reading
from penstock.db.unit_of_work import AccessChange, Row, RowReader, access_change, keys_of
from penstock.errors import AlreadyExists, PenstockError, UnknownName, UsageError

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}", re.ASCII)


@dataclass(frozen=True, slots=True)
class NewKey:
    """A key at the only moment it can be seen."""

    id: str
    key: str = field(repr=False)
    consumer: str
    environment: str
    expires_at: datetime | None


def create_consumer(engine: Engine, actor: str, name: str, description: str = "") -> None:
    """Make a consumer; it may call nothing yet."""
    if not NAME.fullmatch(name):
        raise UsageError(
            f"{name!r} can't name a consumer; use letters, digits, dots, dashes and underscores, 64"
            " at most"
        )
    with audit.change(engine, actor, audit.Action.CONSUMER_CREATED, name) as (rows, detail):
        if rows.find("consumers", name=name):
            raise AlreadyExists("consumer", name)
        rows.add(
            "consumers",
            name=name,
            description=description,
            enabled=True,
            created_at=datetime.now(UTC),
        )
        detail["description"] = description


def set_consumer_enabled(engine: Engine, actor: str, name: str, *, enabled: bool) -> None:
    """Let a consumer in again, or keep it out everywhere."""
    action = audit.Action.CONSUMER_ENABLED if enabled else audit.Action.CONSUMER_DISABLED
    with audit.change(engine, actor, action, name) as (rows, _):
        rows.set("consumers", {"id": named(rows, "consumer", name)["id"]}, enabled=enabled)


def list_consumers(engine: Engine) -> list[Row]:
    """Return all consumers by name."""
    with reading(engine) as connection:
        return sorted(RowReader(connection).all("consumers"), key=lambda row: row["name"])


def page_consumers(
    engine: Engine, *, find: str = "", after: str | None = None, limit: int = 50
) -> list[dict[str, object]]:
    """Return consumers by name, a page at a time.

    Each comes with the numbers of its pipelines and usable keys by environment.
    """
    with reading(engine) as connection:
        rows = stored.page(connection, find=find, after=after, limit=limit)
        environments = RowReader(connection).names_by_id("environments")
        held, keys = stored.numbers(connection, [row["id"] for row in rows], datetime.now(UTC))
    return [
        {
            **{name: row[name] for name in ("name", "description", "enabled", "created_at")},
            "pipelines": {
                name: held.get((row["id"], key), 0) for key, name in environments.items()
            },
            "keys": {name: keys.get((row["id"], key), 0) for key, name in environments.items()},
        }
        for row in rows
    ]


def consumers_of(
    engine: Engine, environment: str, pipeline: str, *, after: str | None = None, limit: int = 50
) -> tuple[int, list[Row]]:
    """Return how many consumers are associated with a pipeline in an environment.

    Also return some of them by name.
    """
    with reading(engine) as connection:
        environment_id = environment_row(RowReader(connection), environment)["id"]
        total = stored.count_associated(connection, environment_id, pipeline)
        return total, stored.associated(
            connection, environment_id, pipeline, after=after, limit=limit
        )


def show_consumer(engine: Engine, name: str) -> dict[str, object]:
    """Return a consumer with its associations, by environment, and its keys."""
    with reading(engine) as connection:
        reader = RowReader(connection)
        consumer = named(reader, "consumer", name)
        environments = reader.names_by_id("environments")
        associated: dict[str, list[str]] = {}
        for row in by_name.in_force(reader.all("associations", consumer_id=consumer["id"])):
            associated.setdefault(environments[row["environment_id"]], []).append(row["pipeline"])
        fresh = [
            environments[row["environment_id"]]
            for row in reader.all("new_pipelines", consumer_id=consumer["id"], active=True)
        ]
        keys = [_shown(row) for row in keys_of(connection, None, consumer["id"])]
    return {
        "name": consumer["name"],
        "description": consumer["description"],
        "enabled": consumer["enabled"],
        "created_at": consumer["created_at"],
        "associations": {
            environment: in_order(found) for environment, found in sorted(associated.items())
        },
        "new_pipelines": sorted(fresh),
        "keys": keys,
    }


def associate(
    engine: Engine,
    actor: str,
    consumer: str,
    pipelines: Iterable[str],
    environment: str,
    offered: Offered,
    *,
    new_pipelines: bool | None = None,
) -> list[str]:
    """Let a consumer call pipelines in an environment, by name or id.

    Set whether it gets new pipelines by itself. Return the ids of the pipelines.
    """
    wanted = sorted(set(pipelines))
    if not wanted and new_pipelines is None:
        raise UsageError("name at least one pipeline, or give --new-pipelines")
    with audit.change(
        engine, actor, audit.Action.CONSUMER_ASSOCIATED, consumer, environment=environment
    ) as (rows, detail):
        found, facts = _associate(
            rows, consumer_in(rows, consumer, environment), wanted, offered, new_pipelines
        )
        detail.update(facts)
    return found


def _associate(
    rows: AccessChange,
    where: Mapping[str, int],
    wanted: Iterable[str],
    offered: Offered,
    new_pipelines: bool | None,
) -> tuple[list[str], dict[str, object]]:
    stored = stored_in(rows, where["environment_id"])
    found = in_order(
        {identifier for word in sorted(wanted) for identifier in meant_by(word, offered, stored)}
    )
    for identifier in found:
        match = {**where, "pipeline": identifier}
        if not rows.put("associations", match, active=True):
            # Newer than what the release before may have taken away by name.
            rows.set("associations", match, active=True)
    facts: dict[str, object] = {"pipelines": found}
    if new_pipelines is not None:
        rows.put("new_pipelines", where, active=new_pipelines)
        facts["new_pipelines"] = new_pipelines
    return found, facts


def dissociate(
    engine: Engine, actor: str, consumer: str, pipelines: Iterable[str], environment: str
) -> list[str]:
    """Keep a consumer out of pipelines in an environment, by name or id; return their ids."""
    with audit.change(
        engine, actor, audit.Action.CONSUMER_DISSOCIATED, consumer, environment=environment
    ) as (rows, detail):
        where = consumer_in(rows, consumer, environment)
        held = _held(rows, where)
        what = f"pipeline associated with {consumer!r} in {environment!r}"
        found = in_order(
            {identifier for word in pipelines for identifier in among(word, held, what)}
        )
        detail["pipelines"] = found
        _dissociate(rows, where, found)
    return found


def _held(rows: RowReader, where: Mapping[str, int]) -> set[str]:
    return {row["pipeline"] for row in rows.all("associations", **where, active=True)}


def _dissociate(rows: AccessChange, where: Mapping[str, int], identifiers: Iterable[str]) -> None:
    for identifier in identifiers:
        rows.set("associations", {**where, "pipeline": identifier}, active=False)
    by_name.dissociated(rows, where, identifiers)


@dataclass(frozen=True, slots=True)
class Associations:
    """What a consumer may call.

    Pairs of environment and pipeline's id, and the environments in which it gets new pipelines by
    itself.
    """

    pipelines: frozenset[tuple[str, str]]
    new_pipelines: frozenset[str]

    def at(self, environment: str) -> set[str]:
        """Return the ids of one environment's pipelines."""
        return {pipeline for where, pipeline in self.pipelines if where == environment}


def save_associations(
    engine: Engine,
    actor: str,
    consumer: str,
    seen: Associations,
    wanted: Associations,
    offered: Offered,
) -> tuple[int, int]:
    """Change in all environments at once what is different from what was seen.

    Return how many were added and taken away.

    What somebody else changed meanwhile, and this one did not touch, stays. Either all of it is
    done, or nothing.
    """
    added = removed = 0
    with access_change(engine) as rows:
        for environment in sorted(
            {where for where, _ in seen.pipelines ^ wanted.pipelines}
            | (seen.new_pipelines ^ wanted.new_pipelines)
        ):
            where = consumer_in(rows, consumer, environment)
            held = _held(rows, where)
            fresh = wanted.at(environment) - seen.at(environment) - held
            gone = (seen.at(environment) - wanted.at(environment)) & held
            turned = (
                environment in wanted.new_pipelines
                if environment in seen.new_pipelines ^ wanted.new_pipelines
                else None
            )
            if fresh or turned is not None:
                _, detail = _associate(rows, where, fresh, offered, turned)
                audit.note(
                    rows,
                    actor,
                    audit.Action.CONSUMER_ASSOCIATED,
                    consumer,
                    detail,
                    environment=environment,
                )
            if gone:
                _dissociate(rows, where, gone)
                audit.note(
                    rows,
                    actor,
                    audit.Action.CONSUMER_DISSOCIATED,
                    consumer,
                    {"pipelines": sorted(gone)},
                    environment=environment,
                )
            added, removed = added + len(fresh), removed + len(gone)
    return added, removed


def create_key(
    engine: Engine,
    actor: str,
    consumer: str,
    environment: str,
    *,
    expires: timedelta | None = None,
    note: str = "",
) -> NewKey:
    """Make an API key; only its digest is kept."""
    with audit.change(
        engine, actor, audit.Action.KEY_CREATED, consumer, environment=environment
    ) as (rows, detail):
        where = consumer_in(rows, consumer, environment)
        made = _add_key(rows, where, consumer, environment, expires=expires, note=note)
        detail.update(
            key=made.id,
            expires_at=made.expires_at.isoformat() if made.expires_at else None,
            note=note,
        )
        return made


def _add_key(
    rows: AccessChange,
    where: Mapping[str, object],
    consumer: str,
    environment: str,
    *,
    expires: timedelta | None,
    note: str,
) -> NewKey:
    now = datetime.now(UTC)
    key = make_api_key(environment)
    made = NewKey(
        f"key_{secrets.token_hex(6)}",
        key,
        consumer,
        environment,
        now + expires if expires else None,
    )
    rows.add(
        "api_keys",
        id=made.id,
        **where,
        digest=digest_of(key),
        last_four=key[-4:],
        note=note,
        enabled=True,
        created_at=now,
        expires_at=made.expires_at,
    )
    return made


def rotate_key(
    engine: Engine, actor: str, key_id: str, grace: timedelta
) -> tuple[NewKey, datetime]:
    """Make a key's successor and let the old key end after the grace time.

    The old key ends earlier if it would anyway.
    """
    now = datetime.now(UTC)
    with audit.change(engine, actor, audit.Action.KEY_ROTATED, key_id) as (rows, detail):
        old = _key(rows, key_id)
        if old["revoked_at"] or (old["expires_at"] and old["expires_at"] <= now):
            raise PenstockError(
                f"key {key_id} has ended; make a new one with `penstock key create`"
            )
        environment = rows.all("environments", id=old["environment_id"])[0]
        consumer = rows.all("consumers", id=old["consumer_id"])[0]
        where = {"environment_id": old["environment_id"], "consumer_id": old["consumer_id"]}
        lifetime = old["expires_at"] - old["created_at"] if old["expires_at"] else None
        made = _add_key(
            rows, where, consumer["name"], environment["name"], expires=lifetime, note=old["note"]
        )
        ends = min(now + grace, old["expires_at"] or now + grace)
        rows.set("api_keys", {"id": key_id}, expires_at=ends)
        detail.update(successor=made.id, environment=environment["name"], ends=ends.isoformat())
        return made, ends


def revoke_key(engine: Engine, actor: str, key_id: str) -> None:
    """End a key for good; twice is harmless."""
    with audit.change(engine, actor, audit.Action.KEY_REVOKED, key_id) as (rows, _):
        if not _key(rows, key_id)["revoked_at"]:
            rows.set("api_keys", {"id": key_id}, revoked_at=datetime.now(UTC))


def set_key_enabled(engine: Engine, actor: str, key_id: str, *, enabled: bool) -> None:
    """Switch a key on or off; a revoked one stays revoked."""
    action = audit.Action.KEY_ENABLED if enabled else audit.Action.KEY_DISABLED
    with audit.change(engine, actor, action, key_id) as (rows, _):
        if _key(rows, key_id)["revoked_at"]:
            raise PenstockError(
                f"key {key_id} is revoked, which is for good; make a new one with `penstock key"
                " create`"
            )
        rows.set("api_keys", {"id": key_id}, enabled=enabled)


def _key(rows: RowReader, key_id: str) -> Row:
    row = rows.find("api_keys", id=key_id)
    if row is None:
        raise UnknownName(
            "key",
            key_id,
            (row["id"] for row in rows.all("api_keys")),
            fix="`penstock key list` shows their ids",
        )
    return row


def list_keys(
    engine: Engine, *, environment: str | None = None, consumer: str | None = None
) -> list[dict[str, object]]:
    """Return keys, oldest first, as operators may see them."""
    with reading(engine) as connection:
        reader = RowReader(connection)
        environment_id = environment_row(reader, environment)["id"] if environment else None
        consumer_id = named(reader, "consumer", consumer)["id"] if consumer else None
        return [_shown(row) for row in keys_of(connection, environment_id, consumer_id)]


def _shown(row: Row) -> dict[str, object]:
    now = datetime.now(UTC)
    if row["revoked_at"]:
        state = "revoked"
    elif row["expires_at"] and row["expires_at"] <= now:
        state = "expired"
    else:
        state = "usable" if row["enabled"] else "disabled"
    fields = ("id", "consumer", "environment", "note", "created_at", "expires_at", "last_used_at")
    return {
        **{name: row[name] for name in fields},
        "shown_as": f"pk_{row['environment']}_…{row['last_four']}",
        "state": state,
    }
