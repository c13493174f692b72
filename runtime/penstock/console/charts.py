"""Charts as values: lines over time, drawn by the browser and listed as a table without it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, slots=True)
class Line:
    """A line of a chart; `kind` is its colour: good, warn, bad, off, run, or 1 to 7 for others.

    `values` are as many as the chart has times; None is a gap.
    """

    name: str
    kind: str
    values: Sequence[float | None]


@dataclass(frozen=True, slots=True)
class Marker:
    """An event on the axis of time: a change of a policy, a deployment."""

    at: float
    text: str


@dataclass(frozen=True, slots=True)
class Chart:
    """Lines over the same times, in seconds since the epoch.

    `unit` is "count" or "seconds"; `style` is "bars" (stacked), "lines" or "points". `link` is an
    address with {from} and {to} that a click on an interval opens; `links` has one for each point.
    `span` is the time that the chart shows, also where nothing happened; None: that of its values.
    """

    times: Sequence[float]
    lines: Sequence[Line]
    unit: str = "count"
    style: str = "bars"
    markers: Sequence[Marker] = ()
    link: str = ""
    links: Sequence[str] = field(default=())
    span: tuple[float, float] | None = None

    def document(self) -> dict[str, Any]:
        """Return the chart as the browser's script reads it."""
        return {
            "times": list(self.times),
            "lines": [
                {"name": line.name, "kind": line.kind, "values": list(line.values)}
                for line in self.lines
            ],
            "unit": self.unit,
            "style": self.style,
            "markers": [{"at": marker.at, "text": marker.text} for marker in self.markers],
            "link": self.link,
            "links": list(self.links),
            "span": self.span,
        }

    @property
    def rows(self) -> list[tuple[float, list[float | None]]]:
        """The rows of the table, newest first, without those in which nothing happened."""
        rows = [
            (at, [line.values[index] for line in self.lines]) for index, at in enumerate(self.times)
        ]
        return [(at, values) for at, values in reversed(rows) if any(values)]
