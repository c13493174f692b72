"""Names of pipelines that the previous release stored, and how they become ids.

Its rows have a name (`orders`) where rows of this release have an id (`v1/orders`). Its processes
read the rows of names and ours read those of ids, so both can run during a rollout:

- The migration converts names to ids, as far as counted calls tell which ids there are. The first
  process of this release that starts in an environment converts the rest (`convert_names`), by what
  its plugins offer at that moment: the previous release served the same there. A name that no
  plugin alone offers then is dropped, and a plugin that offers it later starts without access.
- What is removed by id is also removed by name for the processes of the previous release
  (`update_name_rows`, `remove_names`); they may be stricter until they end. What that release
  removes by name counts here too: a row of a name that is newer than that of an id (see
  `Snapshot`).

Remove the rows of names, `environments.by_id` and this module in the next release.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping

from penstock.access.lookup import ConsumerPlace
from penstock.db.tables import (
    AssociationRow,
    EnvironmentRow,
    LimitRow,
    PipelineRow,
    PipelineSecretRow,
)
from penstock.db.unit_of_work import AccessChange, RowReader


def is_name(pipeline: str) -> bool:
    """Return whether a pipeline in access data is a name, as the previous release stored it."""
    return "/" not in pipeline


def in_force(rows: Iterable[AssociationRow]) -> list[AssociationRow]:
    """Return the associations that count of all those of a consumer.

    Those that were removed, by id or later by name, do not count.
    """
    rows = list(rows)
    names = {
        (row.environment_id, row.pipeline): row.revision
        for row in rows
        if row.active is not True and is_name(row.pipeline)
    }
    ids = [row for row in rows if row.active is True and not is_name(row.pipeline)]
    return [
        row
        for row in ids
        if names.get((row.environment_id, row.pipeline.partition("/")[2]), -1) <= row.revision
    ]


def convert_names(
    rows: AccessChange, environment_id: int, offered: Mapping[str, str], *, whole: bool = True
) -> dict[str, list[str]]:
    """Convert an environment's names to ids, and return the ids of each name.

    A name that no plugin alone offers gets no ids. Without `whole`, a name that is not offered is
    left to a process that offers it.
    """
    names = _names(rows, environment_id)
    ids = _ids_of(names, offered)
    for name, identifiers in ids.items():
        for identifier in identifiers:
            _convert_pipeline(rows, environment_id, name, identifier)
            rows.copy(
                AssociationRow,
                {
                    AssociationRow.environment_id: environment_id,
                    AssociationRow.pipeline: name,
                    AssociationRow.active: True,
                },
                {AssociationRow.pipeline: identifier},
            )
            rows.copy(
                LimitRow,
                {
                    LimitRow.environment_id: environment_id,
                    LimitRow.pipeline: name,
                    LimitRow.active: True,
                },
                {LimitRow.pipeline: identifier},
            )
    _convert_secrets(rows, environment_id, ids)
    if whole:
        rows.set(EnvironmentRow, {EnvironmentRow.id: environment_id}, {EnvironmentRow.by_id: True})
    return {name: ids.get(name, []) for name in sorted(names) if whole or name in ids}


def has_convertible_names(rows: RowReader, environment_id: int, offered: Mapping[str, str]) -> bool:
    """Return whether an environment has names that would become ids."""
    return bool(_ids_of(_names(rows, environment_id), offered))


def _names(rows: RowReader, environment_id: int) -> set[str]:
    """Return the names in active rows of an environment."""
    pipelines = rows.all(PipelineRow, {PipelineRow.environment_id: environment_id})
    names = {row.name for row in pipelines if is_name(row.name)}
    associations = rows.all(
        AssociationRow,
        {AssociationRow.environment_id: environment_id, AssociationRow.active: True},
    )
    limits = rows.all(LimitRow, {LimitRow.environment_id: environment_id, LimitRow.active: True})
    granted = [*(row.pipeline for row in associations), *(row.pipeline for row in limits)]
    names |= {pipeline for pipeline in granted if pipeline and is_name(pipeline)}
    for row in _secrets(rows, environment_id):
        names |= {name for name in row.pipelines or () if is_name(name)}
    return names


def _ids_of(names: Iterable[str], offered: Mapping[str, str]) -> dict[str, list[str]]:
    """Return the ids of the names that one plugin alone offers."""
    ids: defaultdict[str, list[str]] = defaultdict(list)
    plugins: defaultdict[str, set[str]] = defaultdict(set)
    for identifier, plugin in sorted(offered.items()):
        name = identifier.partition("/")[2]
        ids[name].append(identifier)
        plugins[name].add(plugin)
    return {name: ids[name] for name in sorted(names) if len(plugins[name]) == 1}


def _convert_pipeline(rows: AccessChange, environment_id: int, name: str, identifier: str) -> None:
    row = _pipeline(rows, environment_id, name)
    if row is not None and _pipeline(rows, environment_id, identifier) is None:
        rows.add(
            PipelineRow,
            {
                PipelineRow.environment_id: environment_id,
                PipelineRow.name: identifier,
                PipelineRow.enabled: row.enabled is True,
                PipelineRow.login_flow: row.login_flow is True,
                PipelineRow.seen: row.seen is not False,
            },
        )


def _pipeline(rows: RowReader, environment_id: int, name: str) -> PipelineRow | None:
    return rows.find(
        PipelineRow, {PipelineRow.environment_id: environment_id, PipelineRow.name: name}
    )


def _convert_secrets(rows: AccessChange, environment_id: int, ids: Mapping[str, list[str]]) -> None:
    for row in _secrets(rows, environment_id):
        names = row.pipelines or ()
        added = {identifier for name in names for identifier in ids.get(name, ())}
        if added - set(names):
            rows.set(
                PipelineSecretRow,
                {PipelineSecretRow.id: row.id},
                {PipelineSecretRow.pipelines: sorted({*names, *added})},
            )


def _secrets(rows: RowReader, environment_id: int) -> list[PipelineSecretRow]:
    return rows.all(
        PipelineSecretRow,
        {PipelineSecretRow.environment_id: environment_id, PipelineSecretRow.active: True},
    )


def update_name_rows(rows: AccessChange, environment_id: int, identifiers: Iterable[str]) -> None:
    """Write what was decided about pipelines for processes of the previous release.

    A name is enabled where all its ids are.
    """
    for name in {identifier.partition("/")[2] for identifier in identifiers}:
        row = _pipeline(rows, environment_id, name)
        if row is None:  # no process of the previous release serves it
            continue
        ids = [
            other
            for other in rows.all(PipelineRow, {PipelineRow.environment_id: environment_id})
            if other.name.partition("/")[2] == name
        ]
        login_flow = row.login_flow is True and all(other.login_flow is True for other in ids)
        rows.set(
            PipelineRow,
            {PipelineRow.id: row.id},
            {
                PipelineRow.enabled: all(other.enabled is True for other in ids),
                PipelineRow.login_flow: login_flow,
            },
        )
        for other in ids:  # else the row of the name would be newer, and count
            rows.set(
                PipelineRow,
                {PipelineRow.id: other.id},
                {PipelineRow.enabled: other.enabled is True},
            )


def remove_names(rows: AccessChange, place: ConsumerPlace, identifiers: Iterable[str]) -> None:
    """Remove a consumer's access to names, for processes of the previous release.

    It then has no access to any version of that name there.
    """
    active = {**place.of(AssociationRow), AssociationRow.active: True}
    for name in {identifier.rpartition("/")[2] for identifier in identifiers}:
        if rows.set(
            AssociationRow,
            {**active, AssociationRow.pipeline: name},
            {AssociationRow.active: False},
        ):
            for row in rows.all(AssociationRow, active):
                # Else the row of the name would be newer, and count.
                if row.pipeline.partition("/")[2] == name:
                    rows.set(
                        AssociationRow,
                        {AssociationRow.id: row.id},
                        {AssociationRow.active: True},
                    )
