"""What is exposed: who may call each pipeline, in all environments side by side."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol


class Exposed(Protocol):
    """A pipeline on a listener: as it was evaluated, or as the processes report it."""

    @property
    def served(self) -> bool:
        """Whether calls are accepted."""

    @property
    def requires(self) -> frozenset[str]:
        """The credentials that calls must present."""


class Reach(StrEnum):
    """Who may call a pipeline."""

    ANYONE = "anyone"
    KEY_ALONE = "key alone"
    MORE = "more than a key"
    CLOSED = "closed"


@dataclass(frozen=True, slots=True)
class ExposedPipeline:
    """Who may call a pipeline on a listener, by environment.

    `differs` is whether environments differ in reach or requirements; one that has not loaded the
    pipeline is as one where it is closed.
    """

    pipeline: str
    listener: str
    reach: Mapping[str, Reach]
    requires: Mapping[str, frozenset[str]]
    differs: bool

    def reaches(self, *kinds: Reach) -> bool:
        """Return whether any environment has one of these reaches."""
        return any(reach in kinds for reach in self.reach.values())


def reach_of(evaluation: Exposed) -> Reach:
    """Return who may call a pipeline on a listener."""
    if not evaluation.served:
        return Reach.CLOSED
    if not evaluation.requires:
        return Reach.ANYONE
    return Reach.KEY_ALONE if evaluation.requires == {"api_key"} else Reach.MORE


def exposed_pipelines(
    listed: Mapping[str, Iterable[tuple[str, str, Exposed]]],
) -> list[ExposedPipeline]:
    """Return who may call each pipeline over HTTP.

    `listed` has the pipelines of each environment: id, listener (external, internal or none), and
    whether it is served with which requirements.
    """
    reaches: dict[tuple[str, str], dict[str, Exposed]] = {}
    for environment, items in listed.items():
        for identifier, listener, item in items:
            if listener != "none":
                reaches.setdefault((identifier, listener), {})[environment] = item
    return [
        ExposedPipeline(
            identifier,
            listener,
            {name: reach_of(item) for name, item in by_environment.items()},
            {name: item.requires for name, item in by_environment.items() if item.served},
            differs=len(
                {
                    item.requires if item is not None and item.served else None
                    for item in map(by_environment.get, listed)
                }
            )
            > 1,
        )
        for (identifier, listener), by_environment in sorted(reaches.items())
    ]
