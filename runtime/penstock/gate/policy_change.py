"""What another policy would do: which pipelines it would stop and start, said before it is set."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from hashlib import sha256

from penstock.gate.compliance import Evaluation


@dataclass(frozen=True, slots=True)
class PolicyChange:
    """What becomes of an environment's pipelines, by id, where a policy takes the place of another.

    `served` says what each that is served now requires; `changed` are those that go on being
    served, and whose calls must present something else.
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
        """A name of all that would happen: where it is another one, so is what would happen."""
        said = [
            self.environment,
            self.internal,
            self.before,
            self.after,
            *(sorted(group) for group in (self.stops, self.starts, self.changed)),
        ]
        return sha256(repr(said).encode()).hexdigest()[:24]


def change_of(
    environment: str,
    policies: tuple[str, str],
    now: Mapping[str, Evaluation],
    then: Mapping[str, Evaluation],
    *,
    internal: bool,
) -> PolicyChange:
    """Compare what became of pipelines under a policy with what would under another.

    `policies` are the two.
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
