"""Compile gates: which authenticators prove the credentials that calls must present, in order."""

from __future__ import annotations

from collections.abc import Sequence

from penstock.contracts.pipeline import Pipeline
from penstock.contracts.policies import Violation
from penstock.contracts.registered import RegisteredAuthenticator
from penstock.errors import quoted
from penstock.gate.gate import Gate


class GateCompiler:
    """Compiles gates from the loaded authenticators."""

    def __init__(self, authenticators: Sequence[RegisteredAuthenticator]) -> None:
        names = [item.name for item in authenticators]
        self._authenticators = {item.name: item for item in authenticators}
        self._duplicates = {name for name in names if names.count(name) > 1}

    def closure(self, required: frozenset[str]) -> tuple[frozenset[str], tuple[Violation, ...]]:
        """Add the credentials that the required ones need themselves.

        Return all names, and a violation for each that no loaded authenticator, or more than one,
        can prove.
        """
        names = required
        while more := self._needs_of(names) - names:
            names |= more
        lacking = [
            Violation(
                f"no authenticator for {quoted(name)} is loaded",
                f"correct the trigger, or load the plugin that proves {name}"
                f" (penstock_{_plugin(name)})",
            )
            for name in sorted(names - self._authenticators.keys())
        ]
        lacking += [
            Violation(
                f"two plugins offer an authenticator for {quoted(name)}",
                "leave one out (PENSTOCK_PLUGINS_DENY)",
            )
            for name in sorted(names & self._duplicates)
        ]
        return names, tuple(lacking)

    def gate(
        self, pipeline: Pipeline, requires: frozenset[str], until: float = float("inf")
    ) -> Gate:
        """Return the gate of a pipeline, open until a moment in seconds since the epoch."""
        checks = tuple(
            (item, item.name in requires)
            for item in self._ordered()
            if item.name in requires or not item.only_where_asked
        )
        return Gate(pipeline.id, checks, pipeline.trigger.scopes, until)

    def _needs_of(self, names: frozenset[str]) -> frozenset[str]:
        present = [self._authenticators[name] for name in names if name in self._authenticators]
        return frozenset[str]().union(*(item.needs for item in present))

    def _ordered(self) -> list[RegisteredAuthenticator]:
        """Return the authenticators, each after those whose proof it needs."""
        ordered: list[RegisteredAuthenticator] = []
        waiting = [
            item
            for name, item in sorted(self._authenticators.items())
            if name not in self._duplicates
        ]
        while waiting:
            done = {item.name for item in ordered}
            ready = [
                item for item in waiting if item.needs & self._authenticators.keys() <= done
            ] or waiting
            ordered.append(ready[0])
            waiting.remove(ready[0])
        return ordered


def _plugin(name: str) -> str:
    return "webhook_signature" if name.endswith("_signature") else name
