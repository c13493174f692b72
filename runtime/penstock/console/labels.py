"""Labels of states: how pages name stored values, and the colour of their badges."""

from __future__ import annotations

from collections.abc import Mapping

from flask import Flask

from penstock.contracts.run_status import FINISHED, Status
from penstock.gate.compliance import State

STATUS_LABELS: Mapping[str, str] = {
    status.value: status.value.replace("_", " ") for status in Status
}
STATUS_KINDS: Mapping[str, str] = {
    Status.SUCCEEDED.value: "good",
    Status.FAILED.value: "bad",
    Status.TIMED_OUT.value: "bad",
    Status.CLIENT_ERROR.value: "warn",
    Status.CANCELLED.value: "off",
}
STATE_LABELS: Mapping[str, str] = {
    **{state.value: state.value for state in State},
    State.INTERNAL.value: "no HTTP endpoint",
}
STATE_KINDS: Mapping[str, str] = {
    State.SERVED.value: "good",
    State.NON_CONFORMANT.value: "warn",
    State.BLOCKED.value: "bad",
}
KEY_LABELS: Mapping[str, str] = {"usable": "active"}
KEY_KINDS: Mapping[str, str] = {"usable": "good", "disabled": "warn"}
RECORDED_LABELS: Mapping[str, str] = {
    "none": "none",
    "failed": "failed runs, where the pipeline asks for it",
    "all": "all, where the pipeline asks for it",
}


def outcome_label(outcome: str) -> str:
    """Return the label of a counted outcome: the status of a run, or the type of a problem."""
    label = STATUS_LABELS.get(outcome, outcome.replace("-", " ").replace("_", " "))
    return label.replace("api key", "API key")


def add_labels(app: Flask) -> None:
    """Register the labels as filters of the console's templates."""
    app.jinja_env.filters.update(
        outcome_label=outcome_label,
        is_finished=lambda status: status in FINISHED,
        status_label=lambda status: STATUS_LABELS.get(status, status),
        status_kind=lambda status: STATUS_KINDS.get(status, ""),
        state_label=lambda state: STATE_LABELS.get(state, state),
        state_kind=lambda state: STATE_KINDS.get(state, "off"),
        key_label=lambda state: KEY_LABELS.get(state, state),
        key_kind=lambda state: KEY_KINDS.get(state, "off"),
        recorded_label=lambda recorded: RECORDED_LABELS.get(recorded, recorded),
    )
