"""Find pipelines and schedules by the names that a test gives."""

from __future__ import annotations

from penstock.contracts.triggers import Schedule
from penstock.errors import UnknownName, UsageError
from penstock.host.catalog import Catalog


def pipeline_id(catalog: Catalog, name: str) -> str:
    """Return the id of a pipeline by its id (`v1/orders`) or its name (`orders`).

    Raises UsageError if several pipelines have that name, and UnknownName if none has.
    """
    ids = [
        identifier
        for identifier, item in catalog.loaded.items()
        if name in {identifier, item.pipeline.name}
    ]
    if len(ids) > 1:
        write = " or ".join(sorted(ids))
        raise UsageError(f"there are several pipelines named {name!r}: write {write}")
    if not ids:
        problems = "; ".join(str(problem) for problem in catalog.problems)
        names = {item.pipeline.name for item in catalog.loaded.values()}
        raise UnknownName(
            "pipeline",
            name,
            {*catalog.loaded, *names},
            fix=problems or "give the runtime the plugin that offers it",
        )
    return ids[0]


def first_schedule(catalog: Catalog, identifier: str) -> Schedule:
    """Return the first schedule of a pipeline. Raises UsageError if it has none."""
    schedules = catalog.loaded[identifier].pipeline.schedules
    if not schedules:
        raise UsageError(f'{identifier} has no schedule: give it trigger=Schedule("0 6 * * *")')
    return schedules[0]
