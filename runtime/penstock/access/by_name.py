"""What the release before kept by a pipeline's name.

It becomes ids once, and its processes are told what is taken away meanwhile.

Rows of that release have a name (`orders`) where ours have an id (`v1/orders`). Its processes look
at theirs and we at ours, so both can run beside each other during a rollout:

- The migration makes ids of names, as far as calls that were counted tell which there are. The
  first process of this release that starts in an environment does the rest (`settle`), by what its
  plugins offer at that moment: it is what the release before served there. A name that one plugin
  does not offer then is dropped: whoever offers it later starts with nothing.
- What is taken away by an id is taken away by its name too, for the other release's processes
  (`decided`, `dissociated`); they may be stricter until they end. What that release takes away by
  name counts here as well: a name's row that is newer than an id's (see `Snapshot`).

With the release after this one the rows of names, `environments.by_id` and this module can go.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping

from penstock.db.unit_of_work import AccessChange, Row, RowReader


def is_name(pipeline: str) -> bool:
    """Say whether a row of access data is of the release before."""
    return "/" not in pipeline


def in_force(rows: Iterable[Row]) -> list[Row]:
    """Return the associations of ids that count, of all of a consumer's.

    Not those that were taken away, by id or later by name.
    """
    rows = list(rows)
    names = {
        (row["environment_id"], row["pipeline"]): row["revision"]
        for row in rows
        if row["active"] is not True and is_name(row["pipeline"])
    }
    ids = [row for row in rows if row["active"] is True and not is_name(row["pipeline"])]
    return [
        row
        for row in ids
        if names.get((row["environment_id"], row["pipeline"].partition("/")[2]), -1)
        <= row["revision"]
    ]


def settle(
    rows: AccessChange, environment_id: int, offered: Mapping[str, str], *, whole: bool = True
) -> dict[str, list[str]]:
    """Make ids of an environment's names, and return which each became.

    A name that no plugin alone offers becomes None. Without `whole` a name that is not offered is
    left for a process that offers it.
    """
    here = {"environment_id": environment_id}
    named = _names(rows, here)
    ids = _ids_of(named, offered)
    for name, identifiers in ids.items():
        for identifier in identifiers:
            _settle_pipeline(rows, here, name, identifier)
            for table in ("associations", "limits"):
                rows.copy(table, {**here, "pipeline": name, "active": True}, pipeline=identifier)
    for row in rows.all("pipeline_secrets", **here, active=True):
        more = {identifier for name in row["pipelines"] or () for identifier in ids.get(name, ())}
        if more - set(row["pipelines"] or ()):
            rows.set(
                "pipeline_secrets", {"id": row["id"]}, pipelines=sorted({*row["pipelines"], *more})
            )
    if whole:
        rows.set("environments", {"id": environment_id}, by_id=True)
    return {name: ids.get(name, []) for name in sorted(named) if whole or name in ids}


def waiting(rows: RowReader, environment_id: int, offered: Mapping[str, str]) -> bool:
    """Say whether anything is kept of a name that would become an id."""
    return bool(_ids_of(_names(rows, {"environment_id": environment_id}), offered))


def _names(rows: RowReader, here: Mapping[str, int]) -> set[str]:
    """Return the names of which anything is kept that counts."""
    named = {row["name"] for row in rows.all("pipelines", **here) if is_name(row["name"])}
    for table in ("associations", "limits"):
        named |= {
            row["pipeline"]
            for row in rows.all(table, **here, active=True)
            if row["pipeline"] and is_name(row["pipeline"])
        }
    for row in rows.all("pipeline_secrets", **here, active=True):
        named |= {name for name in row["pipelines"] or () if is_name(name)}
    return named


def _ids_of(named: Iterable[str], offered: Mapping[str, str]) -> dict[str, list[str]]:
    """Return the ids of the names that one plugin alone offers."""
    found: defaultdict[str, list[str]] = defaultdict(list)
    plugins: defaultdict[str, set[str]] = defaultdict(set)
    for identifier, plugin in sorted(offered.items()):
        name = identifier.partition("/")[2]
        found[name].append(identifier)
        plugins[name].add(plugin)
    return {name: found[name] for name in sorted(named) if len(plugins[name]) == 1}


def _settle_pipeline(
    rows: AccessChange, here: Mapping[str, int], name: str, identifier: str
) -> None:
    row = rows.find("pipelines", **here, name=name)
    if row is not None and rows.find("pipelines", **here, name=identifier) is None:
        state = {
            "enabled": row["enabled"] is True,
            "login_flow": row["login_flow"] is True,
            "seen": row["seen"] is not False,
        }
        rows.add("pipelines", **here, name=identifier, **state)


def decided(rows: AccessChange, environment_id: int, identifiers: Iterable[str]) -> None:
    """Tell processes of the release before what was decided about pipelines.

    A name is enabled where all its ids are.
    """
    for name in {identifier.partition("/")[2] for identifier in identifiers}:
        row = rows.find("pipelines", environment_id=environment_id, name=name)
        if row is None:  # none of them serves it
            continue
        ids = [
            item
            for item in rows.all("pipelines", environment_id=environment_id)
            if item["name"].partition("/")[2] == name
        ]
        state = {
            "enabled": all(item["enabled"] is True for item in ids),
            "login_flow": (
                row["login_flow"] is True and all(item["login_flow"] is True for item in ids)
            ),
        }
        rows.set("pipelines", {"id": row["id"]}, **state)
        for item in ids:  # else the name's row would be newer, and count
            rows.set("pipelines", {"id": item["id"]}, enabled=item["enabled"] is True)


def dissociated(rows: AccessChange, where: Mapping[str, int], identifiers: Iterable[str]) -> None:
    """Tell processes of the release before that a consumer may not call pipelines.

    None of that name any more.
    """
    for name in {identifier.rpartition("/")[2] for identifier in identifiers}:
        if rows.set("associations", {**where, "pipeline": name, "active": True}, active=False):
            for row in rows.all("associations", **where, active=True):
                # Else the name's row would be newer, and count.
                if row["pipeline"].partition("/")[2] == name:
                    rows.set("associations", {"id": row["id"]}, active=True)
