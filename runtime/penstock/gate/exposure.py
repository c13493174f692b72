"""Pipelines as operators look at them: each on the listeners it is for."""

from __future__ import annotations

from collections.abc import Container, Mapping
from typing import Any

from penstock.gate.compliance import Evaluation

Listed = tuple[str, str, Evaluation]


def exposures(
    external: Mapping[str, Evaluation], internal: Mapping[str, Evaluation], broken: Container[str]
) -> list[Listed]:
    """Return what became of each pipeline on each listener it is for.

    Its id, `external`, `internal` or `none`, and the judgement.

    `broken` are the ids of those whose declaration is at fault, which is said once.
    """
    found: list[Listed] = []
    for identifier, item in external.items():
        trigger = item.pipeline.trigger
        if trigger.external or item.violations or not trigger.internal:
            found.append((identifier, "external" if trigger.external else "none", item))
        if trigger.internal and identifier not in broken:
            found.append((identifier, "internal", internal[identifier]))
    return found


def described(identifier: str, exposure: str, item: Evaluation, plugin: str) -> dict[str, Any]:
    """Return what there is to say of a pipeline on a listener."""
    trigger = item.pipeline.trigger
    why = [f"{violation.reason}; {violation.fix}" for violation in item.violations] + [
        f"warning: {text}" for text in item.warnings
    ]
    return {
        "name": item.pipeline.name,
        "version": item.pipeline.version,
        "url": f"/{identifier}/",
        "exposure": exposure,
        "toggles": [
            *sorted(trigger.toggles),
            *(name for name in ("login", "forward_token") if getattr(trigger, name)),
        ],
        "state": item.state.value,
        "until": item.until,
        "requires": sorted(item.requires),
        "plugin": plugin,
        "deprecated": item.pipeline.deprecated or None,
        "sunset": item.pipeline.sunset,
        "why": why,
    }
