"""How pages show values: the filters of the templates, and errors as sentences."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from datetime import UTC, datetime

from flask import Flask
from markupsafe import Markup, escape

from penstock.runs.ids import is_run_id

OF_A_SHELL = re.compile(r"; `penstock [^`]*`[^;`]*$")
BROWSERS = (
    ("Edg/", "Edge"),
    ("Firefox/", "Firefox"),
    ("Chrome/", "Chrome"),
    ("Safari/", "Safari"),
    ("curl/", "curl"),
)
SYSTEMS = (
    ("Windows", "Windows"),
    ("Android", "Android"),
    ("iPhone", "iPhone"),
    ("iPad", "iPad"),
    ("Mac OS X", "macOS"),
    ("Linux", "Linux"),
)
QUOTED = re.compile(r"(?<!\w)'([^'\n]*)'(?!\w)")
WORD_FIRST = re.compile(r"[a-z]+(?=[ ,;:])")
TWO_FIGURES_BELOW_S = 0.1  # below 100 ms a rounded number would lose its second figure
TWO_FIGURES_BELOW = 10
ID_END = 4  # characters at either end of an ID in short


def add_filters(app: Flask) -> None:
    """Register the filters of the console's templates."""
    app.jinja_env.filters.update(
        brief=brief,
        words=words,
        moment=moment,
        ago=ago,
        short_id=short_id,
        number=number,
        prose=prose,
        quotes=quotes,
        as_sentence=as_sentence,
        pretty=pretty,
        browser=browser,
        duration=duration,
        length_of=length_of,
        share=share,
    )


def quotes(text: str) -> str:
    """Return a text with typographic quotes in place of the straight ones around names."""
    return QUOTED.sub(r"“\1”", text)


def as_sentence(text: str) -> str:
    """Return a text with a capital letter and a full stop; names and code stay as they are."""
    if WORD_FIRST.match(text):
        text = text[:1].upper() + text[1:]
    return text if text.endswith((".", "?", "!")) else f"{text}."


def sentence(error: Exception) -> str:
    """Return the text of an error as a sentence of a page, without commands of a shell."""
    return as_sentence(quotes(OF_A_SHELL.sub("", str(error))))


def moment(
    value: datetime | float | None, *, empty: str = "never", fine: bool = False
) -> Markup | str:
    """Show a moment; the page's script turns it into the viewer's time zone, with UTC on hover.

    `fine` shows seconds too. A number is in seconds since the epoch.
    """
    if value is None:
        return empty
    at = (
        datetime.fromtimestamp(value, UTC)
        if isinstance(value, int | float)
        else value.astimezone(UTC)
    )
    utc = f"{at:%Y-%m-%d %H:%M:%S} UTC"
    shown = Markup('<time datetime="{}" title="{}"{}>{}</time>')
    return shown.format(
        at.isoformat(timespec="seconds"), utc, Markup(" data-fine") if fine else "", utc
    )


def ago(value: datetime | float) -> Markup:
    """Show how long ago a moment was; the moment itself on hover and on focus."""
    at = datetime.fromtimestamp(value, UTC) if isinstance(value, int | float) else value
    utc = f"{at.astimezone(UTC):%Y-%m-%d %H:%M:%S} UTC"
    shown = Markup('<time datetime="{}" title="{}" data-ago tabindex="0">{}</time>')
    seconds = (datetime.now(UTC) - at).total_seconds()
    return shown.format(at.isoformat(timespec="seconds"), utc, relative(seconds))


def relative(seconds: float) -> str:
    """Return a length of time before now in words; below 0 it is yet to come."""
    size = abs(seconds)
    unit, name = next(
        ((unit, name) for unit, name in ((86_400, "d"), (3600, "h"), (60, "min")) if size >= unit),
        (1, "s"),
    )
    words = f"{int(size // unit)} {name}"
    return f"{words} ago" if seconds >= 0 else f"in {words}"


def short_id(identifier: str) -> str:
    """Return a long ID in short: its first and last four characters.

    Of a run's ID it is the middle of its time: all have the same first characters for years, and
    all runs of a schedule have the same last ones.
    """
    if is_run_id(identifier):
        return f"{identifier[4:8]}{identifier[9:13]}…{identifier[-ID_END:]}"
    longest = 2 * ID_END + 2
    if len(identifier) <= longest:
        return identifier
    return f"{identifier[:ID_END]}…{identifier[-ID_END:]}"


def pretty(value: object) -> str:
    """Show JSON, indented."""
    return json.dumps(value, indent=2, ensure_ascii=False)


def brief(detail: Mapping[str, object]) -> str:
    """Show the detail of an audit event in one line."""
    return "; ".join(
        f"{name.replace('_', ' ')}: {words(value)}"
        for name, value in detail.items()
        if value not in (None, [], "")
    )


def words(value: object) -> str:
    """Show one value of an audit event's detail."""
    if isinstance(value, list) and all(isinstance(item, str | int | float) for item in value):
        return ", ".join(str(item) for item in value) or "none"
    if isinstance(value, bool) or value is None:
        return {True: "yes", False: "no", None: "none"}[value]
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def prose(text: str) -> Markup:
    """Show a text of Penstock's own, with typographic quotes and code between backticks."""
    parts = text.split("`")
    return Markup().join(
        Markup("<code>{}</code>").format(part) if index % 2 else escape(quotes(part))
        for index, part in enumerate(parts)
    )


def browser(agent: str) -> Markup:
    """Show a browser by its name and system, with the full User-Agent on hover."""
    name = next((name for sign, name in BROWSERS if sign in agent), "")
    system = next((name for sign, name in SYSTEMS if sign in agent), "")
    shown = f"{name} on {system}" if name and system else name or agent[:60] or "unknown"
    return Markup('<span title="{}">{}</span>').format(agent, shown)


def number(value: float) -> str:
    """Show a number with thin spaces between thousands."""
    return f"{value:,}".replace(",", "\N{NARROW NO-BREAK SPACE}")


def duration(seconds: float | None) -> str:
    """Show a measured duration with two significant figures."""
    if seconds is None:
        return "\N{EN DASH}"
    if seconds < 1:
        figures = ".2g" if seconds < TWO_FIGURES_BELOW_S else ".0f"
        return f"{seconds * 1000:{figures}} ms"
    return f"{seconds:{'.2g' if seconds < TWO_FIGURES_BELOW else '.0f'}} s"


def length_of(seconds: int) -> str:
    """Show a configured duration: 1 hour, 30 days."""
    for unit, name in ((86_400, "day"), (3600, "hour"), (60, "minute")):
        if seconds >= unit and seconds % unit == 0:
            return f"{seconds // unit} {name}{'s' if seconds != unit else ''}"
    return f"{seconds} seconds"


def share(part: float, whole: float) -> str:
    """Show a part of a whole in per cent."""
    if not whole:
        return "\N{EN DASH}"
    percent = 100 * part / whole
    precise = 0 < percent < TWO_FIGURES_BELOW
    return f"{percent:.2g} %" if precise else f"{percent:.0f} %"
