"""Series over time as charts, and as JSON for charts that poll."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from flask import Response, abort, jsonify, request, url_for

from penstock.access.users import Role
from penstock.console.charts import Chart, Line, Marker
from penstock.console.context import console_context, current_environment
from penstock.console.labels import STATUS_KINDS, outcome_label
from penstock.console.markers import markers_of
from penstock.console.pages import Scope, page
from penstock.console.time_range import TimeRange, time_range
from penstock.runs.series import BY, OTHER, intervals, series_of

CLASS_LABELS = {"client_error": "client error"}
CLASS_KINDS: Mapping[str, str] = {
    "succeeded": "good",
    "client_error": "warn",
    "rejected": "off",
    "failed": "bad",
}


def chart_of(
    environment: str,
    metric: str,
    by: str,
    span: TimeRange,
    markers: Sequence[Marker] | None = None,
    pipeline: str = "",
) -> Chart:
    """Return the chart of a metric of an environment; a click on it leads to the calls.

    `metric` and `by` are names of `penstock.runs.series.BY`. `markers` are read where they are
    None. `pipeline` is the ID of one pipeline, empty for all.
    """
    context = console_context()
    identifier = context.view(environment).access.environment.id
    chosen = intervals(identifier, span.start, span.end, span.bucket_s, pipeline)
    lines = [
        Line(_label(item.name, by), _kind(item.name, metric, by, index), item.values)
        for index, item in enumerate(series_of(context.engine, metric, by, chosen), 1)
    ]
    target = "console.rejected" if metric == "rejections" else "console.runs"
    return Chart(
        chosen.times,
        lines,
        unit="seconds" if metric == "latency" else "count",
        style="lines" if metric == "latency" else "bars",
        markers=markers_of(environment, span) if markers is None else markers,
        link=_link(target, environment, pipeline),
    )


def _link(target: str, environment: str, pipeline: str) -> str:
    address = url_for(target, env=environment, pipeline=pipeline or None)
    return f"{address}{'&' if pipeline else '?'}from={{from}}&to={{to}}"


def _label(name: str, by: str) -> str:
    if by == "class":
        return CLASS_LABELS.get(name) or outcome_label(name)
    return outcome_label(name) if by == "reason" else name


def _kind(name: str, metric: str, by: str, index: int) -> str:
    """Return the colour of a line: of its meaning, where it has one, else of its place."""
    if name == OTHER:
        return "off"
    if by == "class":
        kinds = CLASS_KINDS if metric == "calls" else STATUS_KINDS
        return kinds.get(name, "off")
    return str(index)


@page("/e/<env>/series", needs=Role.VIEWER, scope=Scope.ONE)
def series() -> Response:
    """Return a chart as JSON: `metric`, `by`, `pipeline`, `from` and `to` are in the query."""
    metric = request.args.get("metric", "calls")
    if metric not in BY:
        abort(400, f"“{metric[:40]}” isn't a metric; there are {', '.join(BY)}.")
    by = request.args.get("by", BY[metric][0])
    if by not in BY[metric]:
        abort(400, f"“{by[:40]}” doesn't group {metric}; there are {', '.join(BY[metric])}.")
    span = time_range()
    if span.fault:
        abort(400, span.fault)
    pipeline = request.args.get("pipeline", "")
    return jsonify(chart_of(current_environment(), metric, by, span, pipeline=pipeline).document())
