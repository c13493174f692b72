"""Markers of charts: what changed in an environment, deployments and changes of a policy."""

from __future__ import annotations

from penstock.access.policies import policy_versions
from penstock.console.charts import Marker
from penstock.console.context import console_context
from penstock.console.time_range import TimeRange
from penstock.host.deployment_list import deployment_markers


def markers_of(environment: str, span: TimeRange) -> tuple[Marker, ...]:
    """Return the deployments and the changes of a policy within a time, oldest first."""
    engine = console_context().engine
    markers = [
        Marker(at, f"deployment on {text}")
        for at, text in deployment_markers(engine, environment, span.start, span.end)
    ]
    for version in policy_versions(engine, environment):
        at = version.created_at.timestamp()
        if span.start <= at <= span.end and version.replaced != version.policy:
            change = (
                f"{version.replaced} → {version.policy}" if version.replaced else version.policy
            )
            markers.append(Marker(at, f"{version.exposure} policy {change}"))
    return tuple(sorted(markers, key=lambda marker: marker.at))
