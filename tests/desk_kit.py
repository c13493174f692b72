"""The console of a runtime in this process, and users who are signed in to it: quick, for there
is neither server nor browser."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from html import unescape
from types import SimpleNamespace
from typing import cast

import pytest
from console_kit import PASSWORD, ROOT, people
from flask.testing import FlaskClient
from kit import Place
from werkzeug.test import TestResponse

from penstock.access import environments
from penstock.db.engine import Engine
from penstock.testing import Runtime


@dataclass
class Hand:
    """A user who is signed in to the console of a runtime."""

    client: FlaskClient
    csrf: str = ""

    @classmethod
    def of(cls, runtime: Runtime, name: str) -> Hand:
        """Sign a user in."""
        made = cls(runtime.application.test_client())
        made.csrf = (
            made.get("/sign-in").text.partition('name="csrf-token" content="')[2].partition('"')[0]
        )
        assert made.post("/sign-in", name=name, password=PASSWORD).status_code == 303
        made.csrf = (
            made.get("/account").text.partition('name="csrf-token" content="')[2].partition('"')[0]
        )
        return made

    def get(self, path: str, **query: object) -> TestResponse:
        """Ask for a page below the console."""
        return self.client.get(ROOT + path, query_string=query or None)

    def post(self, path: str, **form: object) -> TestResponse:
        """Send a form below the console."""
        return self.client.post(ROOT + path, data={"csrf_token": self.csrf, **form})

    def follow(self, answered: TestResponse) -> str:
        """Return the page that an answer leads to, as text without markup."""
        assert answered.status_code == 303, words_of(answered.text)
        page = self.client.get(answered.headers["Location"])
        assert page.status_code == 200
        return words_of(page.text)


def words_of(html: str) -> str:
    """Return the text of a page, its markup and white space left out."""
    main = re.search(r"<main[^>]*>(.*)</main>", html, re.DOTALL)
    return " ".join(unescape(re.sub(r"<[^>]+>", " ", main[1] if main else html)).split())


def engine_of(runtime: Runtime) -> Engine:
    """Return a runtime's database, once it holds all that has happened."""
    runtime.flush()
    return runtime._engine  # noqa: SLF001  the kit has no door to the database


@pytest.fixture
def desk(penstock_runtime: Callable[..., Runtime]) -> Callable[..., Runtime]:
    """Start a runtime with the console on, users of every role, and a second environment."""

    def start(*plugins: object, **more: object) -> Runtime:
        runtime = penstock_runtime(
            *plugins, console=True, console_sign_in_rate="1000/minute", **more
        )
        people(cast(Place, SimpleNamespace(engine=engine_of(runtime))))
        environments.create_environment(engine_of(runtime), "tester", "prod", runtime._box)  # noqa: SLF001  the same
        return runtime

    return start
