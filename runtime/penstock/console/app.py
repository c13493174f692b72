"""Add the console to an application: its pages, its sessions, and what templates know."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from functools import cache
from hashlib import sha256
from importlib.resources import files

from flask import Flask, g, url_for
from flask.sessions import SecureCookieSessionInterface
from flask_wtf.csrf import generate_csrf
from markupsafe import Markup, escape

from penstock.access.encryption import load_secret_box
from penstock.access.users import Role
from penstock.console import (
    audit_trail,
    consumers,
    limits,
    oidc,
    overview,
    pipelines,
    policies,
    runs,
    settings,
    sign_in,
    tokens,
    users,
)
from penstock.console import help as help_pages
from penstock.console.context import EXTENSION, ClientInfo, ConsoleContext, Describe
from penstock.console.pages import NAVIGATION, blueprint, csrf
from penstock.contracts.withheld import CONSOLE_COOKIE
from penstock.host.host import Host

# The modules whose views are the pages.
PAGES = (
    overview,
    pipelines,
    consumers,
    policies,
    runs,
    tokens,
    limits,
    settings,
    audit_trail,
    sign_in,
    users,
    help_pages,
)
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


class Sessions(SecureCookieSessionInterface):
    """Signed cookies, Secure where the console is reached over TLS.

    The database has who is signed in; the cookie holds a token of it.
    """

    def get_cookie_secure(self, app: Flask) -> bool:
        """Say whether the cookie is for TLS alone."""
        desk: ConsoleContext = app.extensions[EXTENSION]
        return desk.settings.console_url.startswith("https://") or desk.peer.secure()


def add_console(app: Flask, host: Host, peer: ClientInfo, describe: Describe) -> None:
    """Add the console to an application. Raises CannotStart."""
    box = load_secret_box(host.settings)
    desk = ConsoleContext(host, box, peer, describe)
    app.extensions[EXTENSION] = desk
    newest, *older = box.derived("console")
    app.config.update(
        SECRET_KEY=newest,
        SECRET_KEY_FALLBACKS=older,
        SESSION_COOKIE_NAME=CONSOLE_COOKIE,
        SESSION_COOKIE_PATH=f"{host.settings.console_prefix}/-/",
        SESSION_COOKIE_HTTPONLY=True,
        # An identity provider sends the browser back from another site.
        SESSION_COOKIE_SAMESITE="Lax",
        SEND_FILE_MAX_AGE_DEFAULT=31_536_000,  # their addresses hold a digest
        WTF_CSRF_CHECK_DEFAULT=False,  # the guard asks, in its place
        WTF_CSRF_TIME_LIMIT=None,  # as long as the session
        MAX_FORM_MEMORY_SIZE=1 << 20,
    )
    app.session_interface = Sessions()
    app.jinja_env.trim_blocks = app.jinja_env.lstrip_blocks = True
    app.jinja_env.filters.update(
        brief=brief,
        words=words,
        moment=moment,
        number=number,
        prose=prose,
        pretty=pretty,
        browser=browser,
        duration=duration,
        length_of=length_of,
        share=share,
    )
    app.jinja_env.globals.update(
        asset=asset,
        csrf_token=generate_csrf,
        help_address=help_pages.help_address,
        problem_address=help_pages.problem_address,
    )
    csrf.init_app(app)
    oidc.configure(app, host.settings)
    app.register_blueprint(blueprint)
    app.context_processor(_layout(desk))


def _layout(desk: ConsoleContext) -> Callable[[], dict[str, object]]:
    def values() -> dict[str, object]:
        user = g.get("user")
        role = user.role if user is not None else None
        entries = [entry for entry in NAVIGATION if role is not None and role.may(entry.needs)]
        return {
            "user": user,
            "navigation": entries,
            "may": {item.value: role is not None and role.may(item) for item in Role},
            "desk": desk,
        }

    return values


@cache
def _digest(name: str) -> str:
    return sha256(files("penstock.console").joinpath("static", name).read_bytes()).hexdigest()[:12]


def asset(name: str) -> str:
    """Return the address of a file, which changes when it does."""
    return url_for("console.static", filename=name, v=_digest(name))


def moment(
    value: datetime | float | None, *, empty: str = "never", fine: bool = False
) -> Markup | str:
    """Show a moment: the page's script turns it into the viewer's zone, with UTC on hover.

    `fine` to the second.
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


def pretty(value: object) -> str:
    """Show JSON for people."""
    return json.dumps(value, indent=2, ensure_ascii=False)


def brief(detail: Mapping[str, object]) -> str:
    """Show the facts of an event in one line."""
    return "; ".join(
        f"{name.replace('_', ' ')}: {words(value)}"
        for name, value in detail.items()
        if value not in (None, [], "")
    )


def words(value: object) -> str:
    """Show a value of an event's detail."""
    if isinstance(value, list) and all(isinstance(item, str | int | float) for item in value):
        return ", ".join(str(item) for item in value) or "none"
    if isinstance(value, bool) or value is None:
        return {True: "yes", False: "no", None: "none"}[value]
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def prose(text: str) -> Markup:
    """Show a text of ours in which what is to be typed stands between backticks."""
    parts = [escape(part) for part in text.split("`")]
    return Markup().join(
        Markup("<code>{}</code>").format(part) if index % 2 else part
        for index, part in enumerate(parts)
    )


def browser(agent: str) -> Markup:
    """Show a browser by its name and system; what it said itself stands there on hover."""
    name = next((name for sign, name in BROWSERS if sign in agent), "")
    system = next((name for sign, name in SYSTEMS if sign in agent), "")
    shown = f"{name} on {system}" if name and system else name or agent[:60] or "unknown"
    return Markup('<span title="{}">{}</span>').format(agent, shown)


def number(value: float) -> str:
    """Show a number with thin spaces between thousands."""
    return f"{value:,}".replace(",", "\N{NARROW NO-BREAK SPACE}")


def duration(seconds: float | None) -> str:
    """Show a length of time with two figures that matter."""
    if seconds is None:
        return "-"
    if seconds < 1:
        return f"{seconds * 1000:.2g} ms" if seconds < 0.1 else f"{seconds * 1000:.0f} ms"  # noqa: PLR2004  so that no figure is lost
    return f"{seconds:.2g} s" if seconds < 10 else f"{seconds:.0f} s"  # noqa: PLR2004  the same


def length_of(seconds: int) -> str:
    """Show a length of time that was set: 1 h, 30 days."""
    for unit, name in ((86_400, "day"), (3600, "hour"), (60, "minute")):
        if seconds >= unit and seconds % unit == 0:
            return f"{seconds // unit} {name}{'s' if seconds != unit else ''}"
    return f"{seconds} seconds"


def share(part: float, whole: float) -> str:
    """Show a part of a whole in per cent."""
    if not whole:
        return "-"
    percent = 100 * part / whole
    return f"{percent:.0f} %" if percent in {0, 100} or percent >= 10 else f"{percent:.2g} %"  # noqa: PLR2004  two figures that matter
