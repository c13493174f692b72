"""Pipelines as operators see them: one entry for each listener that a pipeline is for."""

from __future__ import annotations

from collections.abc import Container, Mapping
from typing import Any

from penstock.gate.compliance import Evaluation

Listed = tuple[str, str, Evaluation]


def exposures(
    external: Mapping[str, Evaluation], internal: Mapping[str, Evaluation], broken: Container[str]
) -> list[Listed]:
    """Return the evaluation of each pipeline on each listener that it is for.

    An entry has its id, its exposure (`external`, `internal` or `none`) and its evaluation.
    `broken` are the ids of pipelines with a faulty declaration, which are listed once.
    """
    entries: list[Listed] = []
    for identifier, item in external.items():
        trigger = item.pipeline.trigger
        if trigger.external or item.violations or not trigger.internal:
            entries.append((identifier, "external" if trigger.external else "none", item))
        if trigger.internal and identifier not in broken:
            entries.append((identifier, "internal", internal[identifier]))
    return entries


def exposure_document(
    identifier: str, exposure: str, item: Evaluation, plugin: str
) -> dict[str, Any]:
    """Return a pipeline on a listener as a document: its URL, state, requirements and reasons."""
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
