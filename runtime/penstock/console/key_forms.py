"""Forms of API keys: create one, rotate one, and the date on which a key ends."""

from __future__ import annotations

from datetime import UTC, date, datetime, time, timedelta
from typing import Any

from wtforms import StringField
from wtforms.widgets import DateInput

from penstock.console.forms import ChoiceField, ConsoleForm, LineField, OptionsField

USUAL_LIFETIME = timedelta(days=90)
USUAL_GRACE = timedelta(days=7)


def today() -> date:
    """Return the date in UTC."""
    return datetime.now(UTC).date()


class DateField(StringField):  # type: ignore[misc]  # WTForms ships no types
    """A date from today on, as a browser sends it; `data` is a date, None where it is empty."""

    widget = DateInput()

    def __init__(self, label: str, **more: Any) -> None:  # noqa: ANN401  WTForms'
        super().__init__(label, **more)

    def process_formdata(self, values: list[str]) -> None:
        """Take a date that is not past."""
        text = values[0].strip() if values else ""
        self.data = None
        if not text:
            return
        try:
            chosen = date.fromisoformat(text)
        except ValueError:
            chosen = None
        if chosen is None:
            raise ValueError(f"“{text}” isn't a date; write 2026-12-03, for example.")
        if chosen < today():
            raise ValueError(f"{chosen} is past; choose today or a later date.")
        self.data = chosen

    def _value(self) -> str:
        if self.raw_data:
            return str(self.raw_data[0])
        return self.data.isoformat() if self.data else ""


def end_of(chosen: date) -> datetime:
    """Return the last second of a date, in UTC."""
    return datetime.combine(chosen, time(23, 59, 59), UTC)


class NewKeyForm(ConsoleForm):
    """Creates a key of a consumer."""

    environment = ChoiceField("Environment", checked_by_domain=True)
    expiry = OptionsField(
        "Expiry",
        [
            ("date", "On a date", "calls with the key are rejected after that day"),
            ("never", "Never", "the key is accepted until it is revoked"),
        ],
        default="date",
    )
    ends = DateField("Expires on", description="At the end of this day, in UTC.")
    note = LineField("Note", description="Its purpose, or whom to ask.")

    def expires_at(self) -> datetime | None:
        """Return when the key expires, None for never; a missing date is a fault."""
        if self.expiry.data == "never":
            return None
        if self.ends.data is None:
            self.add_fault("ends", "Choose a date, or choose never.")
            return None
        return end_of(self.ends.data)


class RotateForm(ConsoleForm):
    """Chooses when a rotated key ends."""

    ends = DateField(
        "Old key ends on",
        description="At the end of this day, in UTC. Until then both keys are accepted.",
    )
