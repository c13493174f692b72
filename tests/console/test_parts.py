"""One page, only in tests, that shows every part of pages: axe-core finds nothing on it."""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from threading import Thread
from types import SimpleNamespace

from flask import g, render_template_string
from playwright.sync_api import Browser
from support.all_pages import visit
from support.console import ConsoleApp
from werkzeug.serving import make_server

from penstock.access.users import Role
from penstock.console.charts import Chart, Line, Marker
from penstock.console.listing import Sort
from penstock.console.users import NewUserForm

PAGE = (Path(__file__).parent / "parts.html").read_text(encoding="utf-8")
MACROS = Path(__file__).parents[2] / "runtime/penstock/console/templates/_parts.html"


def parts() -> str:
    """Render the page with values of every kind."""
    times = [1_800_000_000.0 + 3600 * hour for hour in range(24)]
    lines = [Line("succeeded", "good", [3.0] * 24), Line("failed", "bad", [None] * 24)]
    g.role = Role.ADMIN
    form = NewUserForm()
    form.add_fault("name", "User “ann” exists already.")
    now = datetime.now(UTC)
    session = SimpleNamespace(
        id=1, agent="", address="", created_at=now, seen_at=now, expires_at=now
    )
    return render_template_string(
        PAGE,
        sort=Sort("calls", descending=True),
        chart=Chart(times, lines, markers=[Marker(times[3], "policy any → api-key")]),
        nothing=Chart([], []),
        form=form,
        session=session,
        end="/sessions/{}".format,
        may={role.value: True for role in Role},
    )


def test_the_page_shows_every_part() -> None:
    macros = set(re.findall(r"{% macro (\w+)\(", MACROS.read_text(encoding="utf-8")))

    assert macros - set(re.findall(r"parts\.(\w+)", PAGE)) == set()


def test_every_part_is_accessible(console_app: Callable[..., ConsoleApp], browser: Browser) -> None:
    console = console_app()
    console.app.add_url_rule("/-/console/parts", "console.parts", parts)
    server = make_server("127.0.0.1", 0, console.app, threaded=True)
    thread = Thread(target=server.serve_forever)
    thread.start()
    try:
        with browser.new_context() as context:
            broken = visit(context.new_page(), f"http://127.0.0.1:{server.port}/-/console/parts")
    finally:
        server.shutdown()
        thread.join()

    assert broken == {}


def test_a_chart_without_numbers_draws_no_line(console_app: Callable[..., ConsoleApp]) -> None:
    with console_app().app.test_request_context("/-/console/parts"):
        page = parts()

    assert 'id="none"' not in page
    assert "Nothing in this time." in page
