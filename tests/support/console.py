"""The console for tests: users of every role, one HTTP client, and a fixture per way of starting.

- `console_server` starts real processes; its pages open in a real browser too.
- `console_app` serves the console of a place in this process.
- `console_runtime` serves it from the runtime of the test kit, which can call pipelines.

Tests that change nothing share one server of the session: `support.furnished_console`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from html import unescape
from itertools import count
from pathlib import Path

import httpx
import pytest
from argon2 import PasswordHasher
from playwright.sync_api import Browser, BrowserContext, ConsoleMessage, Page

from penstock import audit
from penstock.access import (
    environments,
    users,
)
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
# A cheap hash: tests sign in often.
HASH = PasswordHasher(time_cost=1, memory_cost=64, parallelism=1).hash(PASSWORD)
AXE = Path(__file__).parents[1] / "console" / "axe" / "axe.min.js"
EVIL = "<script>window.owned=1</script>\"'><img src=x onerror=window.owned=1>"
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


CSRF_TOKEN = re.compile(r'name="csrf-token" content="([^"]+)"')


@dataclass
class ConsoleClient:
    """A browser without scripts: keeps cookies, and sends forms with their CSRF token.

    `http` connects to a server or calls an application of this process; redirects are not followed.
    """

    http: httpx.Client
    _token: str | None = None

    @classmethod
    def of(cls, target: Server | Penstock | Runtime, name: str | None = None) -> ConsoleClient:
        """Return a client of a server, application or runtime; `name` is the user to sign in."""
        if isinstance(target, Server):
            client = cls(httpx.Client(base_url=target.url, timeout=20))
        else:
            app = target.application if isinstance(target, Runtime) else target
            transport = httpx.WSGITransport(app=app)  # type: ignore[arg-type]  # a WSGI application
            client = cls(httpx.Client(base_url="http://localhost", transport=transport))
        if name is not None:
            assert client.sign_in(name).status_code == 303
        return client

    def _noted(self, response: httpx.Response) -> httpx.Response:
        if "Set-Cookie" in response.headers:  # another session has another token
            self._token = None
        return response

    def get(self, path: str, /, **query: object) -> httpx.Response:
        """Request a page below the console."""
        return self._noted(self.http.get(ROOT + path, params=query or None))  # type: ignore[arg-type]  # httpx's own

    def text(self, path: str, /, **query: object) -> str:
        """Return the HTML of a page, which must exist."""
        response = self.get(path, **query)
        assert response.status_code == 200, path
        return response.text

    def token(self) -> str:
        """Return the CSRF token of this client's session."""
        if self._token is None:
            match = CSRF_TOKEN.search(self.get("/sign-in").text)
            assert match is not None
            self._token = match[1]
        return self._token

    def post(
        self,
        path: str,
        form: dict[str, str] | None = None,
        /,
        *,
        csrf: str | None = None,
        **fields: object,
    ) -> httpx.Response:
        """Send a form below the console with a CSRF token; the token of the session by default."""
        data = {"csrf_token": csrf or self.token(), **(form or {}), **fields}
        return self._noted(self.http.post(ROOT + path, data=data))  # type: ignore[arg-type]  # httpx's own

    def sign_in(self, name: str, password: str = PASSWORD) -> httpx.Response:
        """Sign in with the form."""
        return self.post("/sign-in", name=name, password=password)

    def follow(self, response: httpx.Response) -> str:
        """Return the page that a response redirects to, as text without markup."""
        assert response.status_code == 303, words_of(response.text)
        page = self._noted(self.http.get(response.headers["Location"]))
        assert page.status_code == 200
        return words_of(page.text)


@dataclass
class ConsoleServer:
    """A server with the console on, its clients, and pages of a real browser."""

    place: Place
    server: Server
    stack: ExitStack
    browser: Callable[[], Browser]
    complaints: list[str] = field(default_factory=list)

    @property
    def url(self) -> str:
        return self.server.url + ROOT

    def client(self, name: str | None = None) -> ConsoleClient:
        """Return a client; `name` is the user to sign in."""
        client = ConsoleClient.of(self.server, name)
        self.stack.callback(client.http.close)
        return client

    def page(
        self, name: str | None = None, *, width: int = 1280, scheme: str = "light", **more: object
    ) -> Page:
        """Return a page of a real browser, with a user signed in. Errors of the page, and requests
        to other hosts, are noted as complaints."""
        context: BrowserContext = self.browser().new_context(
            viewport={"width": width, "height": 900}, color_scheme=scheme, **more
        )  # type: ignore[arg-type]
        self.stack.callback(context.close)
        if name is not None:  # the form is tested elsewhere; a cookie is enough here
            cookie = self.client(name).http.cookies["penstock_console"]
            context.add_cookies(
                [
                    {
                        "name": "penstock_console",
                        "value": cookie,
                        "domain": "127.0.0.1",
                        "path": "/-/",
                    }
                ]
            )
        page = context.new_page()
        page.on("console", self._note_message)
        page.on("pageerror", lambda error: self.complaints.append(str(error)))
        page.on("request", lambda request: self._note_request(request.url))
        if name is not None:
            page.goto(f"{self.url}/")
        return page

    def _note_message(self, message: ConsoleMessage) -> None:
        if message.type in {"error", "warning"}:
            self.complaints.append(message.text)

    def _note_request(self, url: str) -> None:
        if not url.startswith((self.server.url, "data:")):
            self.complaints.append(f"requests {url}")


def wait_for_charts(page: Page) -> None:
    """Wait until every chart of a page is drawn."""
    for chart in page.locator("[data-graph]").all():
        chart.locator("canvas").wait_for()


def accessible(page: Page) -> list[str]:
    """Return the serious and critical findings of axe-core, and whether a page is too wide."""
    page.evaluate(AXE.read_text(encoding="utf-8"))
    result = page.evaluate(
        "axe.run({resultTypes: ['violations'], runOnly: ['wcag2a', 'wcag2aa', 'wcag21a',"
        " 'wcag21aa', 'wcag22aa', 'best-practice']})"
    )
    serious = [
        f"{item['id']}: {node['html'][:160]} {node['failureSummary'][:300]}"
        for item in result["violations"]
        if item["impact"] in {"serious", "critical"}
        for node in item["nodes"]
    ]
    wide = not page.evaluate("document.documentElement.scrollWidth <= window.innerWidth")
    return serious + (["wider than the window"] if wide else [])


def create_users(engine: Engine) -> None:
    """Create a user of every role."""
    for name, role in USERS.items():
        users.create_user(engine, "tester", name, role, None)
        with access_change(engine) as rows:
            rows.set(UserRow, {UserRow.name: name}, {UserRow.password: HASH})


def start_console(
    place: Place,
    stack: ExitStack,
    browser: Callable[[], Browser],
    *,
    plugin: str,
    workers: int = 1,
    **more: str,
) -> ConsoleServer:
    """Start a server for a place, with a plugin and users of every role."""
    place.plugin("shop", plugin)
    create_users(place.engine)
    settings = {"PENSTOCK_CONSOLE": "true", "PENSTOCK_CONSOLE_SIGN_IN_RATE": "1000/minute"} | more
    server = stack.enter_context(Server(place, workers=workers, **settings))
    return ConsoleServer(place, server, stack, browser)


@pytest.fixture
def console_server(
    sqlite_place: Place, request: pytest.FixtureRequest
) -> Iterator[Callable[..., ConsoleServer]]:
    """Start a server with the console on; complaints of its pages fail the test."""
    with ExitStack() as stack:
        servers: list[ConsoleServer] = []

        def start(
            place: Place = sqlite_place, *, plugin: str = PLUGIN, workers: int = 1, **more: str
        ) -> ConsoleServer:
            servers.append(
                start_console(
                    place,
                    stack,
                    lambda: request.getfixturevalue("browser"),
                    plugin=plugin,
                    workers=workers,
                    **more,
                )
            )
            return servers[-1]

        yield start
        for server in servers:
            assert server.complaints == [], server.complaints


@dataclass
class ConsoleApp:
    """The console of a place in this process: no server, no browser."""

    place: Place
    app: Penstock

    def client(self, name: str | None = None) -> ConsoleClient:
        """Return a client; `name` is the user to sign in."""
        return ConsoleClient.of(self.app, name)

    def events(self, limit: int = 20) -> list[tuple[str, str, str | None, str]]:
        """Return actor, action, environment and target of events but sign-ins, newest first."""
        return [
            (event.actor, event.action, event.environment, event.subject)
            for event in audit.events(self.place.engine, limit=limit)
            if event.action != audit.Action.USER_SIGNED_IN
        ]


def serve_console(place: Place, plugin: str) -> ConsoleApp:
    """Return the console of a place in this process, with users of every role."""
    place.plugin(f"app_{next(NUMBERS)}", plugin)  # a process imports a name once
    create_users(place.engine)
    environ = place.environ(PENSTOCK_CONSOLE="true")
    settings = {name: value for name, value in environ.items() if name.startswith("PENSTOCK_")}
    return ConsoleApp(place, create_app(Host(Settings.from_env(settings))))


@pytest.fixture
def console_app(sqlite_place: Place) -> Iterator[Callable[..., ConsoleApp]]:
    """Serve the console of a place in this process."""
    apps: list[ConsoleApp] = []

    def make(*, plugin: str = PLUGIN) -> ConsoleApp:
        apps.append(serve_console(sqlite_place, plugin))
        return apps[-1]

    yield make
    for console in apps:
        console.app.host.stop()


def words_of(html: str) -> str:
    """Return the text of a page's main part, without markup and repeated white space."""
    main = re.search(r"<main[^>]*>(.*)</main>", html, re.DOTALL)
    return " ".join(unescape(re.sub(r"<[^>]+>", " ", main[1] if main else html)).split())


def next_page(html: str) -> str | None:
    """Return the path below the console of a list's next page; None at its end."""
    match = re.search(r'href="/-/console([^"]+)" rel="next"', html)
    return unescape(match[1]) if match else None


def engine_of(runtime: Runtime) -> Engine:
    """Return the database of a runtime, once everything that happened is written."""
    runtime.flush()
    return runtime._engine  # noqa: SLF001  the kit offers no access to the database


@pytest.fixture
def console_runtime(penstock_runtime: Callable[..., Runtime]) -> Callable[..., Runtime]:
    """Start a runtime with the console on, users of every role, and a second environment."""

    def start(*plugins: object, **more: object) -> Runtime:
        runtime = penstock_runtime(
            *plugins, console=True, console_sign_in_rate="1000/minute", **more
        )
        create_users(engine_of(runtime))
        environments.create_environment(engine_of(runtime), "tester", "prod", runtime._box)  # noqa: SLF001  the same
        return runtime

    return start
