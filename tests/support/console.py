"""A real gunicorn with the console on, users of every role, and browsers that are signed in."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from html import unescape
from html.parser import HTMLParser
from itertools import count
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import httpx
import pytest
from argon2 import PasswordHasher
from flask.testing import FlaskClient
from playwright.sync_api import Browser, BrowserContext, Page
from werkzeug.test import TestResponse

from penstock import audit
from penstock.access import environments, users
from penstock.access.users import Role
from penstock.db.engine import Engine
from penstock.db.tables import UserRow
from penstock.db.unit_of_work import access_change
from penstock.host.host import Host
from penstock.settings import Settings
from penstock.testing import Runtime
from penstock.web import Penstock, create_app
from support.place import Place, Server

PASSWORD = "correct horse staple"
ROOT = "/-/console"
# Cheap, for tests sign in often.
HASH = PasswordHasher(time_cost=1, memory_cost=64, parallelism=1).hash(PASSWORD)
AXE = Path(__file__).parents[1] / "console" / "axe" / "axe.min.js"
USERS = {"vic": Role.VIEWER, "oli": Role.OPERATOR, "ann": Role.ADMIN}

NUMBERS = count()

PLUGIN = """
from penstock import Call, HttpTrigger, Pipeline, hookimpl

orders = Pipeline("orders", version="1.2.0", summary="Orders", trigger=HttpTrigger(api_key=True, jwt=True))
status = Pipeline("status", version="1.0.0", trigger=HttpTrigger(api_key=True))

@orders.get("/")
def show(call: Call): return {"consumer": call.caller.consumer}

@status.get("/")
def tell(call: Call): return {"up": True}

@hookimpl
def penstock_pipelines(): return [orders, status]
"""  # noqa: E501  text as it is


class _Forms(HTMLParser):
    """Finds the hidden fields of a page's forms, by their action."""

    def __init__(self) -> None:
        super().__init__()
        self.forms: dict[str, dict[str, str]] = {}
        self._here: dict[str, str] = {}

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = {name: value or "" for name, value in attrs}
        if tag == "form":
            self._here = self.forms.setdefault(given.get("action", ""), {})
        elif tag == "input" and given.get("type") == "hidden":
            self._here[given["name"]] = given.get("value", "")


@dataclass
class Visitor:
    """A browser without scripts: keeps cookies, and sends forms with their CSRF token."""

    server: Server
    client: httpx.Client = field(init=False)

    def __post_init__(self) -> None:
        self.client = httpx.Client(base_url=self.server.url, timeout=20)

    def get(self, path: str, **more: object) -> httpx.Response:
        """Ask for a page below the console."""
        return self.client.get(ROOT + path, **more)  # type: ignore[arg-type]  # httpx's own

    def token(self) -> str:
        """Return the CSRF token of this browser's session."""
        found = re.search(r'name="csrf-token" content="([^"]+)"', self.get("/sign-in").text)
        assert found is not None
        return found[1]

    def post(
        self, path: str, form: dict[str, str] | None = None, *, token: str | None = None
    ) -> httpx.Response:
        """Send a form below the console, with the CSRF token that a page of it holds; what
        answers is not followed."""
        return self.client.post(
            ROOT + path,
            data={"csrf_token": token if token is not None else self.token(), **(form or {})},
        )

    def sign_in(self, name: str, password: str = PASSWORD) -> httpx.Response:
        """Sign in with the form."""
        return self.post("/sign-in", {"name": name, "password": password})


@dataclass
class Console:
    """A server with the console on, and who uses it."""

    place: Place
    server: Server
    stack: ExitStack
    browser: Callable[[], Browser]
    complaints: list[str] = field(default_factory=list)

    @property
    def url(self) -> str:
        return self.server.url + ROOT

    def visitor(self, name: str | None = None) -> Visitor:
        """Return a browser without scripts: nobody's, or one in which a user is signed in."""
        made = Visitor(self.server)
        self.stack.callback(made.client.close)
        if name is not None:
            assert made.sign_in(name).status_code == 303
        return made

    def page(
        self, name: str | None = None, *, width: int = 1280, scheme: str = "light", **more: object
    ) -> Page:
        """Return a page of a real browser in which a user is signed in. What it complains about
        fails the test."""
        context: BrowserContext = self.browser().new_context(
            viewport={"width": width, "height": 900}, color_scheme=scheme, **more
        )  # type: ignore[arg-type]
        self.stack.callback(context.close)
        page = context.new_page()
        page.on(
            "console",
            lambda message: (
                self.complaints.append(message.text)
                if message.type in {"error", "warning"}
                else None
            ),
        )
        page.on("pageerror", lambda error: self.complaints.append(str(error)))
        page.on(
            "request",
            lambda sent: (
                None
                if sent.url.startswith((self.server.url, "data:"))
                else self.complaints.append(f"asks {sent.url}")
            ),
        )
        if name is not None:
            page.goto(f"{self.url}/sign-in")
            page.get_by_label("User").fill(name)
            page.get_by_label("Password").fill(PASSWORD)
            page.get_by_role("button", name="Sign in").click()
            page.wait_for_url(f"{self.url}/")
        return page


def accessible(page: Page) -> list[str]:
    """Return what axe-core finds serious or critical on a page, and whether it is wider than its
    window."""
    page.evaluate(AXE.read_text(encoding="utf-8"))
    found = page.evaluate(
        "axe.run({runOnly: ['wcag2a', 'wcag2aa', 'wcag21a', 'wcag21aa', 'wcag22aa',"
        " 'best-practice']})"
    )
    serious = [
        f"{item['id']}: {node['html'][:160]} {node['failureSummary'][:300]}"
        for item in found["violations"]
        if item["impact"] in {"serious", "critical"}
        for node in item["nodes"]
    ]
    wide = not page.evaluate("document.documentElement.scrollWidth <= window.innerWidth")
    return serious + (["wider than the window"] if wide else [])


def people(place: Place) -> None:
    """Make a user of every role."""
    for name, role in USERS.items():
        users.create_user(place.engine, "tester", name, role, None)
        with access_change(place.engine) as rows:
            rows.set(UserRow, {UserRow.name: name}, {UserRow.password: HASH})


@pytest.fixture
def console(
    sqlite_place: Place, request: pytest.FixtureRequest
) -> Iterator[Callable[..., Console]]:
    """Start a server with the console on; what its pages complain about in a browser fails the
    test."""
    with ExitStack() as stack:
        made: list[Console] = []

        def start(
            place: Place = sqlite_place, *, plugin: str = PLUGIN, workers: int = 1, **more: str
        ) -> Console:
            place.plugin("shop", plugin)
            people(place)
            settings = {
                "PENSTOCK_CONSOLE": "true",
                "PENSTOCK_CONSOLE_SIGN_IN_RATE": "1000/minute",
            } | more
            server = stack.enter_context(Server(place, workers=workers, **settings))
            made.append(Console(place, server, stack, lambda: request.getfixturevalue("browser")))
            return made[-1]

        yield start
        for item in made:
            assert item.complaints == [], item.complaints


@dataclass
class Quick:
    """The console in this process: no server, no browser."""

    place: Place
    app: Penstock

    def visitor(self, name: str) -> QuickVisitor:
        """Return a browser without scripts in which a user is signed in."""
        made = QuickVisitor(self.app.test_client())
        assert made.post("/sign-in", name=name, password=PASSWORD).status_code == 303
        return made

    def events(self, limit: int = 20) -> list[tuple[str, str, str | None, str]]:
        """Return who did what where to whom, newest first."""
        found = audit.events(self.place.engine, limit=limit)
        return [
            (event.actor, event.action, event.environment, event.subject)
            for event in found
            if event.action != audit.Action.USER_SIGNED_IN
        ]


@dataclass
class QuickVisitor:
    """Asks for pages, and sends forms with their CSRF token."""

    client: FlaskClient

    def get(self, path: str, **query: object) -> TestResponse:
        """Ask for a page below the console."""
        return self.client.get(ROOT + path, query_string=query or None)

    def text(self, path: str, **query: object) -> str:
        """Return a page that is there."""
        answered = self.get(path, **query)
        assert answered.status_code == 200, path
        return answered.text

    def post(self, path: str, **form: object) -> TestResponse:
        """Send a form below the console; what answers is not followed."""
        found = re.search(r'name="csrf-token" content="([^"]+)"', self.get("/sign-in").text)
        assert found is not None
        return self.client.post(ROOT + path, data={"csrf_token": found[1], **form})


@pytest.fixture
def quick(sqlite_place: Place) -> Iterator[Callable[..., Quick]]:
    """Make the console of a place in this process."""
    made: list[Penstock] = []

    def make(*, plugin: str = PLUGIN) -> Quick:
        sqlite_place.plugin(f"quick_{next(NUMBERS)}", plugin)  # a process imports a name once
        people(sqlite_place)
        given = {
            name: value
            for name, value in sqlite_place.environ().items()
            if name.startswith("PENSTOCK_")
        }
        made.append(create_app(Host(Settings.from_env(given | {"PENSTOCK_CONSOLE": "true"}))))
        return Quick(sqlite_place, made[-1])

    yield make
    for app in made:
        app.host.stop()


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
