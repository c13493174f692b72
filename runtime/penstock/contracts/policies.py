"""The interface of access policies: plugins that decide which pipelines may be served."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from penstock.contracts.access import EnvironmentFacts

if TYPE_CHECKING:
    from penstock.contracts.triggers import HttpTrigger


@dataclass(frozen=True, slots=True)
class Candidate:
    """A pipeline that a policy judges.

    `designated` is whether operators made it a login flow here. `internal` is whether it is judged
    for the internal listener.
    """

    name: str
    version: str
    trigger: HttpTrigger
    designated: bool
    internal: bool = False

    @property
    def id(self) -> str:
        """Major version and name, as in the URL: `v1/orders`."""
        return f"v{self.version.partition('.')[0]}/{self.name}"


@dataclass(frozen=True, slots=True)
class Violation:
    """One reason why a pipeline is blocked, and its fix."""

    reason: str
    fix: str


@dataclass(frozen=True, slots=True)
class Verdict:
    """The decision of one policy.

    `requires` are the credentials that each call must present, by the names of authenticators. A
    verdict without `violations` lets the pipeline be served. `warnings` are for operators.
    """

    requires: frozenset[str] = frozenset()
    violations: tuple[Violation, ...] = ()
    warnings: tuple[str, ...] = ()


class AccessPolicy(ABC):
    """Decides whether a pipeline may be served, and what its calls must present.

    All loaded policies must agree: one violation blocks the pipeline, and requirements add up. A
    policy blocks the pipeline too if it raises an exception, returns another type, or takes longer
    than a second. Attributes are read once, when the plugin is loaded.

    Class attributes:
        name: The name of the policy plugin.
        options: The environment policies that it decides on, such as `jwt-api-key`.
        meanings: One sentence for each option, shown to operators.

    """

    name: ClassVar[str]
    options: ClassVar[tuple[str, ...]] = ()
    meanings: ClassVar[Mapping[str, str]] = {}

    @abstractmethod
    def judge(self, candidate: Candidate, environment: EnvironmentFacts) -> Verdict | None:
        """Return a verdict, or None for no opinion.

        A pipeline that no policy has an opinion on is blocked.
        """
