"""Forms of the console: typed fields, their validators, and faults of the domain at their field.

The guard in `pages` checks the CSRF token of every POST before a view runs, also of buttons that
have no form class. Forms therefore carry no token of their own.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any

from flask import g, request
from flask_wtf import FlaskForm
from werkzeug.datastructures import MultiDict
from wtforms import (
    HiddenField,
    IntegerField,
    PasswordField,
    RadioField,
    SelectField,
    StringField,
    TextAreaField,
    ValidationError,
)
from wtforms.fields.choices import SelectChoice
from wtforms.fields.core import UnboundField
from wtforms.validators import StopValidation
from wtforms.widgets import TextInput

from penstock.audit.approvals import ChangePending
from penstock.console.formatting import sentence
from penstock.db.failures import DatabaseUnavailable
from penstock.errors import Outdated, PenstockError, Refusal, TooLong, UnknownName

NUMBER = re.compile(r"\d{1,9}(\.\d{1,6})?", re.ASCII)


class ConsoleForm(FlaskForm):  # type: ignore[misc]  # Flask-WTF ships no types
    """A form that a page shows; a POST fills it, the page's own values fill it otherwise."""

    class Meta(FlaskForm.Meta):  # type: ignore[misc]  # the same
        """How fields are bound and rendered."""

        csrf = False  # the guard checks the token

        def wrap_formdata(self, form: Iterable[Any], formdata: object) -> object:  # noqa: ARG002  WTForms' signature
            """Return the values that were sent; None while the form is first shown.

            Values that were typed before a session ended are shown again.
            """
            if request.method == "POST":
                return request.form
            typed = g.get("typed")
            return typed if typed and any(field.name in typed for field in form) else None

        def bind_field(self, form: object, unbound_field: Any, options: dict[str, Any]) -> Any:  # noqa: ANN401  WTForms'
            """Bind a field with the ID that labels, hints and faults refer to."""
            return unbound_field.bind(form=form, **options, id=f"f-{options['name']}")

        def render_field(self, field: Any, render_kw: dict[str, Any]) -> Any:  # noqa: ANN401  WTForms'
            """Render a field with its hint and its fault announced to screen readers."""
            described = [f"e-{field.name}"] if field.errors else []
            described += [f"h-{field.name}"] if field.description else []
            attributes = {"autocomplete": "off"}
            if field.errors:
                attributes["aria-invalid"] = "true"
            if described:
                attributes["aria-describedby"] = " ".join(described)
            return super().render_field(
                field, {**attributes, **(field.render_kw or {}), **render_kw}
            )

    def __init__(self, **values: object) -> None:
        super().__init__(**values)
        self.section_faults: dict[str, str] = {}
        self.conflicts: list[tuple[str, str]] = []

    @property
    def sent(self) -> MultiDict[str, str] | None:
        """The values that the page shows again: of a form with faults, or of an ended session."""
        typed: MultiDict[str, str] | None = g.get("typed")
        return request.form if self.has_faults else typed

    def is_valid(self) -> bool:
        """Return whether every field passes its validators."""
        return bool(self.validate())

    @property
    def has_faults(self) -> bool:
        """Whether a field or a section of the page has a fault."""
        return bool(self.errors or self.section_faults)

    def fault(self, place: str) -> str:
        """Return the fault at a field, by its name in requests, or of a section; or ""."""
        for field in self:
            if field.name == place and field.errors:
                return str(field.errors[0])
        return self.section_faults.get(place, "")

    def add_fault(self, place: str, text: str) -> None:
        """Put a fault at a field, by its name in requests, or at a section of the page."""
        for field in self:
            if field.name == place:
                field.errors = [*field.errors, text]
                return
        self.section_faults[place] = text

    def add_conflict(self, values: Iterable[tuple[str, str]], token: str) -> None:
        """Note what is saved and was not seen: labels and values.

        What was typed stays in the fields. Sent again, the form replaces these values.
        """
        self.conflicts = list(values)
        self["seen"].data = token

    @contextmanager
    def faults_at(self, place: str, **places: str) -> Iterator[None]:
        """Put a domain error that is raised inside at a field or section.

        `places` names the fields of unknown names by their kind: `consumer="mapped"`. Values that
        another user saved meanwhile become conflicts of a form that replaces them. Refusals
        and a lost database end the request as usual.
        """
        try:
            yield
        except PenstockError as error:
            if isinstance(error, DatabaseUnavailable | Refusal | ChangePending):
                raise
            if isinstance(error, Outdated) and error.token and "seen" in self:
                self.add_conflict(error.saved, error.token)
                return
            if isinstance(error, UnknownName | TooLong):
                place = places.get(error.kind, error.kind if error.kind in self else place)
            self.add_fault(place, sentence(error))


class ReplacingForm(ConsoleForm):
    """A form that replaces values; `seen` is the token of those that it was filled with."""

    seen = HiddenField()

    @property
    def seen_token(self) -> str | None:
        """The token that was sent, None without one."""
        return self.seen.data or None


class FilterForm(ConsoleForm):
    """A form that is sent with GET: the query fills it."""

    class Meta(ConsoleForm.Meta):
        """How the query fills it."""

        def wrap_formdata(self, form: object, formdata: object) -> object:  # noqa: ARG002  WTForms' signature
            """Return the values of the query."""
            return request.args

    def query(self) -> dict[str, Any]:
        """Return the filters in use, as they go into the links of the page."""
        values = ((field.name, request.args.get(field.name, "").strip()) for field in self)
        return {name: value for name, value in values if value}


class Required:
    """Require a value; the message names it."""

    field_flags: Mapping[str, object] = {"required": True}

    def __init__(self, message: str) -> None:
        self.message = message

    def __call__(self, form: object, field: Any) -> None:  # noqa: ANN401, ARG002  WTForms'
        """Raise StopValidation where the field is empty."""
        if field.data in (None, "", []) or (isinstance(field.data, str) and not field.data.strip()):
            raise StopValidation(None if field.errors else self.message)


def _stripped(value: str | None) -> str:
    return (value or "").strip()


class LineField(StringField):  # type: ignore[misc]  # WTForms ships no types
    """One line of text, without the spaces around it."""

    def __init__(
        self,
        label: str,
        required: str = "",
        *,
        suggestions: str = "",
        **more: Any,  # noqa: ANN401  WTForms'
    ) -> None:
        validators = [Required(required)] if required else []
        if suggestions:
            more["render_kw"] = {"list": suggestions, **more.get("render_kw", {})}
        super().__init__(label, validators, filters=(_stripped,), **more)


class AreaField(TextAreaField):  # type: ignore[misc]  # the same
    """A box of several lines."""

    def __init__(self, label: str, required: str = "", **more: Any) -> None:  # noqa: ANN401  WTForms'
        keywords = {"rows": 3, "spellcheck": "false", **more.pop("render_kw", {})}
        validators = [Required(required)] if required else []
        super().__init__(label, validators, render_kw=keywords, **more)


class TextField(AreaField):
    """Text of several lines, as typed: browsers send the end of a line as two characters."""

    def process_formdata(self, values: list[str]) -> None:
        """Take the text with plain line ends."""
        self.data = values[0].replace("\r\n", "\n") if values else ""


class LinesField(AreaField):
    """Text of several lines, whose `data` is the list of lines that are not empty."""

    def process_formdata(self, values: list[str]) -> None:
        """Take the lines."""
        lines = values[0].splitlines() if values else []
        self.data = [line.strip() for line in lines if line.strip()]

    def _value(self) -> str:
        return str(self.raw_data[0]) if self.raw_data else "\n".join(self.data or ())


class WordsField(StringField):  # type: ignore[misc]  # the same
    """Words separated by spaces, commas or line ends; `data` is their list."""

    def __init__(self, label: str, required: str = "", **more: Any) -> None:  # noqa: ANN401  WTForms'
        super().__init__(label, [Required(required)] if required else [], **more)

    def process_formdata(self, values: list[str]) -> None:
        """Take the words."""
        self.data = values[0].replace(",", " ").split() if values else []

    def _value(self) -> str:
        return str(self.raw_data[0]) if self.raw_data else " ".join(self.data or ())


class HiddenTextField(TextField):
    """Text of several lines that no page ever shows again."""

    def _value(self) -> str:
        return ""


class NumberField(StringField):  # type: ignore[misc]  # the same
    """A number times a unit: minutes or days, whose `data` is in seconds."""

    widget = TextInput()

    def __init__(self, label: str, required: str, *, unit: int, **more: Any) -> None:  # noqa: ANN401  WTForms'
        super().__init__(label, [Required(required)], render_kw={"inputmode": "decimal"}, **more)
        self.unit = unit

    def process_formdata(self, values: list[str]) -> None:
        """Take the number in the unit, and return whole seconds."""
        text = values[0].strip() if values else ""
        self.data = None
        if not text:
            return
        if not NUMBER.fullmatch(text):
            raise ValueError(f"“{text}” isn't a number.")
        self.data = round(float(text) * self.unit)

    def _value(self) -> str:
        if self.raw_data:
            return str(self.raw_data[0])
        return "" if self.data is None else f"{self.data / self.unit:g}"


class CountField(IntegerField):  # type: ignore[misc]  # the same
    """A whole number within bounds, or nothing where it has a default."""

    def __init__(self, label: str, *, low: int, high: int, unit: str, **more: Any) -> None:  # noqa: ANN401  WTForms'
        super().__init__(label, render_kw={"min": low, "max": high}, **more)
        self.low, self.high, self.unit = low, high, unit

    def process_formdata(self, values: list[str]) -> None:
        """Take a whole number within the bounds."""
        text = values[0].strip() if values else ""
        if not text:
            self.data = self.default
            return
        digits = text.isascii() and text.isdigit() and len(text) <= len(str(self.high))
        if not digits or not self.low <= int(text) <= self.high:
            self.data = None
            raise ValueError(
                f"“{text}” isn't a {self.unit}; write a number from {self.low} to {self.high}."
            )
        self.data = int(text)


class UtcMomentField(StringField):  # type: ignore[misc]  # the same
    """A moment as a browser sends it, taken as UTC; `data` is in seconds since the epoch."""

    def __init__(self, label: str, **more: Any) -> None:  # noqa: ANN401  WTForms'
        super().__init__(label, render_kw={"type": "datetime-local"}, **more)

    def process_formdata(self, values: list[str]) -> None:
        """Take a moment, or nothing."""
        text = values[0].strip() if values else ""
        self.data = None
        if not text:
            return
        try:
            self.data = datetime.fromisoformat(text).replace(tzinfo=UTC).timestamp()
        except ValueError:
            raise ValueError(
                f"“{text}” isn't a date and time; write 2026-11-25T14:30, for example."
            ) from None

    def _value(self) -> str:
        return str(self.raw_data[0]) if self.raw_data else ""


def secret_fields(kind: type[ConsoleForm] = ConsoleForm) -> set[str]:
    """Return the names, in requests, of all fields of forms that no page ever shows."""
    names = set()
    for name, value in vars(kind).items():
        secret = (PasswordField, HiddenTextField)
        if isinstance(value, UnboundField) and issubclass(value.field_class, secret):
            names.add(value.name or name)
    return names.union(*(secret_fields(derived) for derived in kind.__subclasses__()))


def _choices(pairs: Iterable[tuple[str, str]]) -> list[SelectChoice]:
    return [SelectChoice(value, text) for value, text in pairs]


def _known_choice(field: Any) -> None:  # noqa: ANN401  WTForms'
    values = [str(choice.value) for choice in field.iter_choices()]
    if str(field.data) not in values:
        named = ", ".join(value for value in values if value)
        raise ValidationError(f"“{field.data or ''}” isn't a choice here; choose one of {named}.")


class ChoiceField(SelectField):  # type: ignore[misc]  # the same
    """A list to choose one of; `choices` are pairs of value and text.

    `checked_by_domain` leaves an unknown value to the domain, which suggests the nearest name.
    """

    def __init__(
        self,
        label: str,
        choices: Iterable[tuple[str, str]] = (),
        *,
        checked_by_domain: bool = False,
        **more: Any,  # noqa: ANN401  WTForms'
    ) -> None:
        super().__init__(label, choices=_choices(choices), validate_choice=False, **more)
        self.checked_by_domain = checked_by_domain

    def offer(self, choices: Iterable[tuple[str, str]]) -> None:
        """Replace the choices of this form."""
        self.choices = _choices(choices)

    def pre_validate(self, form: object) -> None:  # noqa: ARG002  WTForms' signature
        """Raise ValidationError for a value that is no choice."""
        if not self.checked_by_domain:
            _known_choice(self)


class OptionsField(RadioField):  # type: ignore[misc]  # the same
    """Radio buttons; `options` are triples of value, text and meaning."""

    def __init__(self, label: str, options: Iterable[tuple[str, str, str]], **more: Any) -> None:  # noqa: ANN401  WTForms'
        options = list(options)
        choices = _choices((value, text) for value, text, _ in options)
        super().__init__(label, choices=choices, validate_choice=False, **more)
        self.meanings = {value: meaning for value, _, meaning in options}

    def pre_validate(self, form: object) -> None:  # noqa: ARG002  WTForms' signature
        """Raise ValidationError for a value that is no option."""
        _known_choice(self)
