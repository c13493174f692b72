"""A process prepares its console: the first page is as quick as the next, and nothing changes."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from flask import Flask
from support.console import ConsoleApp

from penstock import audit
from penstock.console.preparation import PREPARED, prepare


def compiled(app: Flask) -> set[str]:
    cache = app.jinja_env.cache
    assert cache is not None
    return {name for _, name in cache.keys()}  # noqa: SIM118  a cache of jinja is no mapping


def test_all_templates_are_compiled_and_nothing_is_written(
    console_app: Callable[..., ConsoleApp],
) -> None:
    console = console_app()
    console.client("ann")
    before = audit.events(console.place.engine, limit=100)

    prepare(console.app, pause=lambda _: None)

    names = console.app.jinja_env.list_templates(extensions=["html"])
    assert compiled(console.app) == set(names)
    assert audit.events(console.place.engine, limit=100) == before


@pytest.mark.parametrize("path", PREPARED)
def test_what_is_prepared_is_a_page(console_app: Callable[..., ConsoleApp], path: str) -> None:
    client = console_app().client("vic")

    assert client.get(path.format(env="test")).status_code == 200


def test_a_page_that_fails_keeps_no_other_from_being_prepared(
    console_app: Callable[..., ConsoleApp], monkeypatch: pytest.MonkeyPatch
) -> None:
    console = console_app()
    rendered = []

    def fail() -> str:
        raise ZeroDivisionError

    def render() -> str:
        rendered.append("audit")
        return ""

    monkeypatch.setitem(console.app.view_functions, "console.overview", fail)
    monkeypatch.setitem(console.app.view_functions, "console.audit", render)

    prepare(console.app, pause=lambda _: None)

    assert rendered == ["audit"]


def test_an_application_has_the_work_that_its_server_starts(
    console_app: Callable[..., ConsoleApp],
) -> None:
    assert console_app().app.prepare is not None
