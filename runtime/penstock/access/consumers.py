"""Consumers, the pipelines they may call, and their API keys."""

from __future__ import annotations

import re
import secrets
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

from penstock import audit
from penstock.access.find import consumer_in, environment_row, named
from penstock.contracts.keys import digest_of, make_api_key
from penstock.db.engine import Engine, reading
from penstock.db.rows import Change, Reader, Row, keys_of
from penstock.errors import Exists, Mistaken, PenstockError, Unknown

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
        raise Mistaken(f"{name!r} can't name a consumer; use letters, digits, dots, dashes and underscores, 64 at most")
    with audit.change(engine, actor, audit.Action.CONSUMER_CREATED, name) as (rows, detail):
        if rows.find("consumers", name=name):
            raise Exists("consumer", name)
        rows.add("consumers", name=name, description=description, enabled=True, created_at=datetime.now(UTC))
        detail["description"] = description


def set_consumer_enabled(engine: Engine, actor: str, name: str, *, enabled: bool) -> None:
    """Let a consumer in again, or keep it out everywhere."""
    action = audit.Action.CONSUMER_ENABLED if enabled else audit.Action.CONSUMER_DISABLED
    with audit.change(engine, actor, action, name) as (rows, _):
        rows.set("consumers", {"id": named(rows, "consumer", name)["id"]}, enabled=enabled)


def list_consumers(engine: Engine) -> list[Row]:
    """Return all consumers by name."""
    with reading(engine) as connection:
        return sorted(Reader(connection).all("consumers"), key=lambda row: row["name"])


def show_consumer(engine: Engine, name: str) -> dict[str, object]:
    """Return a consumer with its associations, by environment, and its keys."""
    with reading(engine) as connection:
        reader = Reader(connection)
        consumer = named(reader, "consumer", name)
        environments = reader.names_by_id("environments")
        associated: dict[str, list[str]] = {}
        for row in reader.all("associations", consumer_id=consumer["id"], active=True):
            associated.setdefault(environments[row["environment_id"]], []).append(row["pipeline"])
        fresh = [environments[row["environment_id"]] for row in reader.all("new_pipelines", consumer_id=consumer["id"], active=True)]
        keys = [_shown(row) for row in keys_of(connection, None, consumer["id"])]
    return {
        "name": consumer["name"],
        "description": consumer["description"],
        "enabled": consumer["enabled"],
        "associations": {environment: sorted(names) for environment, names in sorted(associated.items())},
        "new_pipelines": sorted(fresh),
        "keys": keys,
    }


def associate(
    engine: Engine, actor: str, consumer: str, pipelines: Iterable[str], environment: str, known: Iterable[str], *, new_pipelines: bool | None = None
) -> None:
    """Let a consumer call pipelines in an environment, and say whether it gets new ones by itself."""
    wanted = sorted(set(pipelines))
    if not wanted and new_pipelines is None:
        raise Mistaken("name at least one pipeline, or give --new-pipelines")
    with audit.change(engine, actor, audit.Action.CONSUMER_ASSOCIATED, consumer, environment=environment) as (rows, detail):
        where = consumer_in(rows, consumer, environment)
        names = set(known) | {row["name"] for row in rows.all("pipelines", environment_id=where["environment_id"])}
        for name in wanted:
            if name not in names:
                raise Unknown("pipeline", name, names)
            rows.put("associations", {**where, "pipeline": name}, active=True)
        if new_pipelines is not None:
            rows.put("new_pipelines", where, active=new_pipelines)
            detail["new_pipelines"] = new_pipelines
        detail["pipelines"] = wanted


def dissociate(engine: Engine, actor: str, consumer: str, pipelines: Iterable[str], environment: str) -> None:
    """Keep a consumer out of pipelines in an environment."""
    with audit.change(engine, actor, audit.Action.CONSUMER_DISSOCIATED, consumer, environment=environment) as (rows, detail):
        where = consumer_in(rows, consumer, environment)
        held = {row["pipeline"] for row in rows.all("associations", **where, active=True)}
        detail["pipelines"] = sorted(set(pipelines))
        for name in detail["pipelines"]:
            if name not in held:
                raise Unknown(f"pipeline associated with {consumer!r} in {environment!r}", name, held)
            rows.set("associations", {**where, "pipeline": name}, active=False)


def create_key(engine: Engine, actor: str, consumer: str, environment: str, *, expires: timedelta | None = None, note: str = "") -> NewKey:
    """Make an API key; only its digest is kept."""
    with audit.change(engine, actor, audit.Action.KEY_CREATED, consumer, environment=environment) as (rows, detail):
        where = consumer_in(rows, consumer, environment)
        made = _add_key(rows, where, consumer, environment, expires=expires, note=note)
        detail.update(key=made.id, expires_at=made.expires_at.isoformat() if made.expires_at else None, note=note)
        return made


def _add_key(rows: Change, where: Mapping[str, object], consumer: str, environment: str, *, expires: timedelta | None, note: str) -> NewKey:
    now = datetime.now(UTC)
    key = make_api_key(environment)
    made = NewKey(f"key_{secrets.token_hex(6)}", key, consumer, environment, now + expires if expires else None)
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


def rotate_key(engine: Engine, actor: str, key_id: str, grace: timedelta) -> tuple[NewKey, datetime]:
    """Make a key's successor and let the old one end after the grace time, or earlier if it would anyway."""
    now = datetime.now(UTC)
    with audit.change(engine, actor, audit.Action.KEY_ROTATED, key_id) as (rows, detail):
        old = _key(rows, key_id)
        if old["revoked_at"] or (old["expires_at"] and old["expires_at"] <= now):
            raise PenstockError(f"key {key_id} has ended; make a new one with `penstock key create`")
        environment = rows.all("environments", id=old["environment_id"])[0]
        consumer = rows.all("consumers", id=old["consumer_id"])[0]
        where = {"environment_id": old["environment_id"], "consumer_id": old["consumer_id"]}
        lifetime = old["expires_at"] - old["created_at"] if old["expires_at"] else None
        made = _add_key(rows, where, consumer["name"], environment["name"], expires=lifetime, note=old["note"])
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
            raise PenstockError(f"key {key_id} is revoked, which is for good; make a new one with `penstock key create`")
        rows.set("api_keys", {"id": key_id}, enabled=enabled)


def _key(rows: Reader, key_id: str) -> Row:
    row = rows.find("api_keys", id=key_id)
    if row is None:
        raise Unknown("key", key_id, (row["id"] for row in rows.all("api_keys")), mend="`penstock key list` shows their ids")
    return row


def list_keys(engine: Engine, *, environment: str | None = None, consumer: str | None = None) -> list[dict[str, object]]:
    """Return keys, oldest first, as operators may see them."""
    with reading(engine) as connection:
        reader = Reader(connection)
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
    return {**{name: row[name] for name in fields}, "shown_as": f"pk_{row['environment']}_…{row['last_four']}", "state": state}
