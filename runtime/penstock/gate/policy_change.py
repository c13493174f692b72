"""Preview of a policy change: the pipelines that would stop and start being served."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from hashlib import sha256

from penstock.gate.compliance import Evaluation


@dataclass(frozen=True, slots=True)
class PolicyChange:
    """What a policy change does to an environment's pipelines, by id.

    `served` are the requirements of those that are served now. `changed` are those that would still
    be served, but whose calls must present other credentials.
    """

    environment: str
    internal: bool
    before: str
    after: str
    served: Mapping[str, frozenset[str]]
    stops: Mapping[str, Evaluation]
    starts: Mapping[str, Evaluation]
    changed: Mapping[str, Evaluation]

    @property
    def digest(self) -> str:
        """A digest of all effects: it differs if an effect does."""
        effects = [
            self.environment,
            self.internal,
            self.before,
            self.after,
            *(sorted(group) for group in (self.stops, self.starts, self.changed)),
        ]
        return sha256(repr(effects).encode()).hexdigest()[:24]


def change_of(
    environment: str,
    policies: tuple[str, str],
    now: Mapping[str, Evaluation],
    then: Mapping[str, Evaluation],
    *,
    internal: bool,
) -> PolicyChange:
    """Return the effects of a policy change, from the evaluations before and after.

    `policies` are the names of both.
    """
    served = {name: item.requires for name, item in now.items() if item.served}
    return PolicyChange(
        environment,
        internal,
        *policies,
        served,
        stops={name: then[name] for name in served if then[name].violations},
        starts={name: item for name, item in then.items() if item.served and name not in served},
        changed={
            name: then[name]
            for name, requires in served.items()
            if not then[name].violations and then[name].requires != requires
        },
    )
