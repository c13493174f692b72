"""Pipelines in access data.

What a name or an id means, what operators decided about pipelines, and which have been seen.

Everything that operators decide counts for an id (`v1/orders`). A name (`orders`) is a shorthand in
commands: it means all major versions that one plugin offers now, and is stored as their ids. Where
two plugins share a name, it means neither.

`offered` is what plugins offer in this process: the plugin of each id.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from penstock import audit
from penstock.access import by_name
from penstock.access.lookup import environment_row
from penstock.db.engine import Engine, reading
from penstock.db.unit_of_work import AccessChange, RowReader
from penstock.errors import UnknownName, UsageError

Offered = Mapping[str, str]


def name_of(identifier: str) -> str:
    """Return the name within an id; a name is its own."""
    return identifier.rpartition("/")[2]


def in_order(identifiers: Iterable[str]) -> list[str]:
    """Return ids by name and major version."""
    return sorted(identifiers, key=lambda item: (name_of(item), len(item), item))


def meant_by(word: str, offered: Offered, stored: Iterable[str] = ()) -> list[str]:
    """Return the ids that a name or an id means where something is granted.

    `stored` are ids that the database knows.

    Raises UnknownName, and UsageError where it is not clear.
    """
    if "/" in word:
        if word not in offered and word not in set(stored):
            raise UnknownName("pipeline", word, {*offered, *stored})
        return [word]
    found = [identifier for identifier in offered if name_of(identifier) == word]
    plugins = sorted({offered[identifier] for identifier in found})
    if len(plugins) > 1:
        raise UsageError(
            f"{word!r} is offered by plugins {' and '.join(plugins)}; write an id, such as"
            f" {in_order(found)[0]}"
        )
    if not found:
        seen = in_order(identifier for identifier in stored if name_of(identifier) == word)
        if seen:
            raise UsageError(f"no plugin offers {word!r} here; write the id: {' or '.join(seen)}")
        raise UnknownName("pipeline", word, {*map(name_of, offered), *map(name_of, stored)})
    return in_order(found)


def among(word: str, held: Iterable[str], what: str) -> list[str]:
    """Return which of some ids a name or an id means where something is taken away.

    All majors, of whichever plugin. Raises UnknownName.
    """
    known = list(held)
    found = [identifier for identifier in known if word in {identifier, name_of(identifier)}]
    if not found:
        raise UnknownName(what, word, {*known, *map(name_of, known)})
    return in_order(found)


def stored_in(rows: RowReader, environment_id: int) -> set[str]:
    """Return the ids that were seen or decided about in an environment."""
    return {
        row["name"]
        for row in rows.all("pipelines", environment_id=environment_id)
        if "/" in row["name"]
    }


def set_pipeline_enabled(
    engine: Engine, actor: str, environment: str, word: str, offered: Offered, *, enabled: bool
) -> list[str]:
    """Enable or disable the pipelines that a name or an id means, and return their ids."""
    action = audit.Action.PIPELINE_ENABLED if enabled else audit.Action.PIPELINE_DISABLED
    return _set(engine, actor, action, environment, word, offered, grants=enabled, enabled=enabled)


def set_login_flow(
    engine: Engine, actor: str, environment: str, word: str, offered: Offered, *, designated: bool
) -> list[str]:
    """Designate the pipelines that a name or an id means as login flows, or withdraw that.

    Return their ids.
    """
    action = audit.Action.LOGIN_FLOW_DESIGNATED if designated else audit.Action.LOGIN_FLOW_WITHDRAWN
    return _set(
        engine, actor, action, environment, word, offered, grants=designated, login_flow=designated
    )


def _set(
    engine: Engine,
    actor: str,
    action: audit.Action,
    environment: str,
    word: str,
    offered: Offered,
    *,
    grants: bool,
    **values: bool,
) -> list[str]:
    """Store what operators decided about pipelines.

    What grants nothing may name pipelines that no plugin offers any more.
    """
    with audit.change(engine, actor, action, word, environment=environment) as (rows, detail):
        environment_id = environment_row(rows, environment)["id"]
        stored = stored_in(rows, environment_id)
        identifiers = (
            meant_by(word, offered, stored)
            if grants
            else among(word, {*offered, *stored}, "pipeline")
        )
        detail["pipelines"] = identifiers
        for identifier in identifiers:
            _decide(rows, environment_id, identifier, **values)
        by_name.decided(rows, environment_id, identifiers)
    return identifiers


def _decide(rows: AccessChange, environment_id: int, identifier: str, **values: bool) -> None:
    row = rows.find("pipelines", environment_id=environment_id, name=identifier)
    if row is None:
        rows.add(
            "pipelines",
            environment_id=environment_id,
            name=identifier,
            **{"enabled": True, "login_flow": False, "seen": False} | values,
        )
    else:
        rows.set("pipelines", {"id": row["id"]}, **values)


def pipelines_seen(
    engine: Engine, actor: str, environment: str, offered: Offered
) -> Mapping[str, list[str]]:
    """Note which pipelines a process offers here.

    Return what became of the names that the release before kept, at the first time.

    Consumers that ask for new pipelines are associated with those never seen before; a grace whose
    pipeline is gone ends, so that what comes back must comply at once. Writes nothing when nothing
    is new.
    """
    with reading(engine) as connection:
        reader = RowReader(connection)
        row = environment_row(reader, environment)
        known, ended = _seen(reader, row["id"]), _ended(reader, row["id"], offered)
    if offered.keys() <= known and not ended and row["by_id"]:
        return {}
    names: Mapping[str, list[str]] = {}
    with audit.change(
        engine, actor, audit.Action.PIPELINES_SEEN, environment, environment=environment
    ) as (rows, detail):
        row = environment_row(rows, environment)
        if not row["by_id"]:
            detail["names"] = names = by_name.settle(rows, row["id"], offered)
        fresh = in_order(offered.keys() - _seen(rows, row["id"]))
        for identifier in fresh:
            _decide(rows, row["id"], identifier, seen=True)
            for eager in rows.all("new_pipelines", environment_id=row["id"], active=True):
                where = {
                    "environment_id": row["id"],
                    "consumer_id": eager["consumer_id"],
                    "pipeline": identifier,
                }
                rows.put("associations", where, active=True)
        ended = _ended(rows, row["id"], offered)
        for identifier in ended:
            rows.set("graces", {"environment_id": row["id"], "pipeline": identifier}, active=False)
        detail.update(new=fresh, grace_ended=ended)
    return names


def waiting_names(engine: Engine) -> bool:
    """Say whether an environment holds names of the release before without an id yet."""
    with reading(engine) as connection:
        return any(row["by_id"] is not True for row in RowReader(connection).all("environments"))


def settle_names(
    engine: Engine, actor: str, offered: Offered
) -> dict[str, Mapping[str, list[str]]]:
    """Make ids of the names that the release before kept, by environment.

    Names of pipelines that no plugin here offers are left.
    """
    became: dict[str, Mapping[str, list[str]]] = {}
    with reading(engine) as connection:
        reader = RowReader(connection)
        waiting = [
            row
            for row in reader.all("environments")
            if row["by_id"] is not True and by_name.waiting(reader, row["id"], offered)
        ]
    for row in waiting:
        with audit.change(
            engine, actor, audit.Action.PIPELINES_SEEN, row["name"], environment=row["name"]
        ) as (rows, detail):
            detail["names"] = became[row["name"]] = by_name.settle(
                rows, row["id"], offered, whole=False
            )
    return became


def _seen(reader: RowReader, environment_id: int) -> set[str]:
    """Return the pipelines that were here before.

    Where that can't be read, they were: what is new may be granted to consumers.
    """
    return {
        row["name"]
        for row in reader.all("pipelines", environment_id=environment_id)
        if row["seen"] is not False
    }


def _ended(reader: RowReader, environment_id: int, offered: Offered) -> list[str]:
    return [
        row["pipeline"]
        for row in reader.all("graces", environment_id=environment_id, active=True)
        if row["pipeline"] not in offered
    ]
