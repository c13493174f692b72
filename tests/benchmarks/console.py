"""How long each page of the console and each listing of the commands takes in a large installation.

`PYTHONPATH=tests python -m benchmarks.console` writes 1,000,000 runs, 10,000 consumers with 100,000
keys, 100,000 rejected calls, 1,000,000 audit events and the hourly counts of 90 days to SQLite and
to PostgreSQL. It requests every page of the URL map, and prints for each: milliseconds of the first
request of a process and of later ones, kilobytes (gzip), and SQL statements.

With `--check` it fails where a page takes more than 100 ms or 40 KB, or a listing more than 1 s.
`--folder` keeps the data for the next time; `--postgres URL` is then the server that has it.
"""

# ruff: noqa: T201  the result

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, replace
from datetime import timedelta
from pathlib import Path
from typing import Any
from urllib.parse import quote

import psycopg
import sqlalchemy as sa
from benchmarks.console_data import PLUGIN, Names, Size, fill
from support.console import ROOT, create_users
from support.place import Place
from support.services import Postgres, initdb
from werkzeug.routing import Rule
from werkzeug.test import Client

from penstock.access.encryption import SecretBox
from penstock.access.sessions import begin_session
from penstock.db.engine import open_engine
from penstock.host.host import Host
from penstock.settings import Settings
from penstock.web import Penstock, create_app

MAX_PAGE_MS, MAX_PAGE_KB, MAX_LISTING_MS = 100.0, 40.0, 1000.0
ROUNDS = 5
EXPECTED = {200, 204, 303, 404}  # a page, nothing new, a redirect, and a thing that is not there
SMALL = Size(20_000, 200, 2_000, 2_000, 20_000, 9, 50)
# Not pages: a file, a stream, what another site answers, and what a signed-in user never sees.
LEFT_OUT = {"static", "audit_export", "oidc_begin", "oidc_back", "sign_in", "nothing"}
ARGUMENTS = {
    "env": "test",
    "major": "v1",
    "number": "999000",
    "identifier": f"{1:032x}",
    "kid": "unknown",
    "issuer": "unknown",
    "field": "iban",
    "topic": "how-to/console",
}
# Pages that need a query, by their endpoints.
QUERIES = {
    "policies_preview": "policy=any",
    "policies_callers": "policy=jwt-api-key",
}
# Pages whose first request in a process is measured.
FIRST = (
    "/",
    "/e/test/policy/change?policy=any",
    "/policies",
    "/pipelines",
    "/pipelines/v1/p7",
    "/consumers",
    "/keys",
    "/e/test/runs",
    "/e/test/rejected",
    "/audit",
)
# Filters, sorts, ranges and later pages, besides each page as its link shows it.
VARIANTS = (
    "/?from=now-1h",
    "/?from=now-7d",
    "/?from=now-90d",
    "/?sort=-p95",
    "/e/test/series?metric=latency&from=now-30d",
    "/e/test/series?metric=calls&by=consumer&from=now-90d",
    "/pipelines?sort=calls",
    "/pipelines?find=p1&state=served",
    "/pipelines/v1/p7/points?span=week",
    "/consumers?after=c05000",
    "/consumers?find=77",
    "/consumers?find=nothing",
    "/keys?show=expiring",
    "/keys?show=unused",
    "/keys?show=never-used",
    "/keys?show=no-expiry",
    "/keys?show=disabled-consumers",
    "/keys?show=expiring&env=prod",
    "/keys?consumer=c00007",
    "/keys?find=nothing-like-this",
    "/keys?after={key}",
    "/e/test/policy/change?policy=api-key",
    "/e/prod/policy/change?policy=any",
    "/e/test/runs?from=now-90d",
    "/e/test/runs?pipeline=p7",
    "/e/test/runs?consumer=c00007",
    "/e/test/runs?consumer=c09999",
    "/e/test/runs?status=failed",
    "/e/test/runs?status=timed_out",
    "/e/test/runs?status=cancelled",
    "/e/test/runs?pipeline=p7&status=failed",
    "/e/test/runs?pipeline=p7&consumer=c00008",
    "/e/test/runs?consumer=c09999&status=timed_out",
    "/e/test/runs?pipeline=p7&status=timed_out",
    "/e/test/runs?error=KeyError",
    "/e/test/runs?error=NothingLikeThis",
    "/e/test/runs?key={key}",
    "/e/test/runs?key=key_unknown",
    "/e/test/runs?duration=60",
    "/e/test/runs?id=no-such-request",
    "/e/test/runs?from=now-2d&to=now-1d",
    "/e/test/rejected?from=now-30d",
    "/e/test/rejected?from=now-30d&reason=rate-limited",
    "/e/test/rejected?from=now-30d&consumer=c09999",
    "/e/test/rejected?from=now-30d&address=192.0.2.7",
    "/e/test/rejected?from=now-30d&find=nothing",
    "/e/test/usage?from=now-24h",
    "/e/test/usage?from=now-90d",
    "/e/test/usage?by=key",
    "/e/test/usage?by=pipeline",
    "/e/test/usage?consumer=c00007",
    "/search?q=c0000",
    "/search?q=p7",
    "/search?q={run}",
    "/search?q=request-000000000003",
    "/search?q=no-such-thing-at-all",
    "/search?q=0007",
    "/audit?actor=unknown",
    "/audit?actor=ann&q=nothing-like-this",
    "/audit?q=nothing-like-this",
    "/audit?subject=c00007",
    "/audit?subject=unknown",
    "/audit?action=limit",
    "/audit?action=run:purged",
    "/audit?env=prod&since=720",
    "/audit?actor=ann&before=40000",
    "/e/test/limits?consumer=c00007",
    "/deployments?q=nothing",
)
LISTINGS = (
    "runs list",
    "runs list --status failed",
    "runs list --consumer c09999",
    "runs list --search c0999",
    "runs list --search nothing-like-this",
    "runs show {failed}",
    "rejected list",
    "rejected list --search nothing-like-this",
    "rejected show {call}",
    "usage",
    "usage --by key",
    "consumer list",
    "consumer list --search 77",
    "consumer show c00007",
    "keys",
    "keys --unused 90d",
    "keys --expiring 14d",
    "keys --search nothing-like-this",
    "key list --consumer c00007",
    "credential list",
    "limit list",
    "address list",
    "callback list",
    "pipelines",
    "env list",
    "policy show",
    "exposure",
    "schedules",
    "queue",
    "search c0000",
    "search {run}",
    "audit",
    "audit --search nothing-like-this",
    "audit --subject unknown",
    "deployments list",
    "ps",
    "issuer list",
    "signing-key list --env test",
    "variable list",
    "sensitive-fields list",
    "user list",
    "changes list",
    "explain v1/p7",
    "explain {call}",
)
REAL_LISTINGS = ("runs list", "keys", "audit", "pipelines")


@dataclass(frozen=True, slots=True)
class Figures:
    """What a page takes: of its first request in a process, and the median of later ones."""

    ms: float
    kb: float
    statements: int
    status: int
    first: float | None = None

    def faults(self) -> list[str]:
        """Return the bounds that the page passes."""
        found = []
        if self.status not in EXPECTED:
            found.append(f"status {self.status}")
        if self.ms > MAX_PAGE_MS:
            found.append(f"more than {MAX_PAGE_MS:.0f} ms")
        if self.first is not None and self.first > MAX_PAGE_MS:
            found.append(f"first more than {MAX_PAGE_MS:.0f} ms")
        if self.kb > MAX_PAGE_KB:
            found.append(f"more than {MAX_PAGE_KB:.0f} KB")
        return found


class Statements:
    """Counts the statements that this thread sends to databases."""

    def __init__(self) -> None:
        self.number = 0
        self._thread = threading.get_ident()
        sa.event.listen(sa.Engine, "before_cursor_execute", self._count)

    def _count(self, *_: object) -> None:
        self.number += threading.get_ident() == self._thread


def addresses_of(app: Penstock, names: Names) -> list[str]:
    """Return the address of every page of the URL map, then those of VARIANTS."""
    found = dict.fromkeys(
        address
        for rule in app.url_map.iter_rules()
        if (address := _address(rule, names)) is not None
    )
    for variant in VARIANTS:
        found[ROOT + variant.format(run=names.run, key=names.key)] = None
    return list(found)


def _address(rule: Rule, names: Names) -> str | None:
    endpoint = rule.endpoint.removeprefix("console.")
    if endpoint == rule.endpoint or endpoint in LEFT_OUT or "GET" not in (rule.methods or ()):
        return None
    if rule.rule in {ROOT, f"{ROOT}/e/<env>"}:  # they redirect
        return None
    names_by_page = {"consumers": names.consumer, "pipelines": names.pipeline, "users": "ann"}
    values = ARGUMENTS | {
        "run": names.failed,
        "call": names.call,
        "key_id": names.key,
        "name": names_by_page.get(endpoint.partition("_")[0], "unknown"),
        "session": "1",
        "schedule": "unknown",
    }
    path = rule.rule
    for argument in rule.arguments:
        converters = (f"<{argument}>", f"<int:{argument}>", f"<path:{argument}>")
        for converter in converters:
            path = path.replace(converter, quote(values.get(argument, "unknown"), safe="/"))
    query = QUERIES.get(endpoint, "")
    return path + (f"?{query}" if query else "")


class Browser:
    """Requests pages of an application in this process, as a user who is signed in."""

    def __init__(self, app: Penstock, cookie: str) -> None:
        self._client = Client(app)
        self._client.set_cookie("penstock_console", cookie, domain="localhost", path="/-/")
        self._statements = Statements()

    def request(self, address: str) -> Figures:
        """Request a page once."""
        before, began = self._statements.number, time.perf_counter()
        response = self._client.get(address, headers={"Accept-Encoding": "gzip"})
        size = len(response.get_data())
        ms = (time.perf_counter() - began) * 1000
        return Figures(ms, size / 1024, self._statements.number - before, response.status_code)

    def median(self, address: str) -> Figures:
        """Request a page several times, after once."""
        self.request(address)
        found = [self.request(address) for _ in range(ROUNDS)]
        return replace(found[-1], ms=statistics.median(item.ms for item in found))


def in_child(work: Callable[[], Any]) -> Any:
    """Return what a function returns in a forked process, as the processes of a server are."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        code = 1
        try:
            os.close(reader)
            with os.fdopen(writer, "w") as out:
                json.dump(work(), out)
            code = 0
        finally:
            os._exit(code)
    os.close(writer)
    with os.fdopen(reader) as answer:
        text = answer.read()
    os.waitpid(child, 0)
    return json.loads(text)


class Bench:
    """The pages and the listings of one place."""

    def __init__(self, place: Place, names: Names) -> None:
        self.place = place
        self.names = names
        environ = place.environ(PENSTOCK_CONSOLE="true", PENSTOCK_LOG_LEVEL="error")
        given = {key: value for key, value in environ.items() if key.startswith("PENSTOCK_")}
        self.app = create_app(Host(Settings.from_env(given)))
        token = begin_session(
            place.engine,
            "ann",
            lifetime=timedelta(days=7),
            address="127.0.0.1",
            agent="benchmark",
            how="benchmark",
        )
        signer = self.app.session_interface.get_signing_serializer(self.app)  # type: ignore[attr-defined]  # Flask's own class has it
        self.cookie = signer.dumps({"token": token})
        place.engine.dispose()

    def pages(self, chosen: str, first: Sequence[str]) -> dict[str, Figures]:
        """Return the figures of the pages whose address contains a text."""
        addresses = [item for item in addresses_of(self.app, self.names) if chosen in item]

        def measure() -> list[dict[str, Any]]:
            self.app.host.start(kind="serve")
            browser = Browser(self.app, self.cookie)
            return [asdict(browser.median(address)) for address in addresses]

        figures = {
            address: Figures(**item)
            for address, item in zip(addresses, in_child(measure), strict=True)
        }
        for address in addresses:
            if address.removeprefix(ROOT) in first or "all" in first:
                figures[address] = replace(figures[address], first=self._first(address))
        return figures

    def _first(self, address: str) -> float:
        def measure() -> float:
            self.app.host.start(kind="serve")
            if self.app.prepare is not None:  # as a worker of the server does
                self.app.prepare()
            return Browser(self.app, self.cookie).request(address).ms

        result: float = in_child(measure)
        return result

    def listings(self, chosen: str) -> dict[str, float]:
        """Return the milliseconds of the listings whose words contain a text."""

        def measure() -> dict[str, float]:
            from click.testing import CliRunner

            from penstock.cli.main import penstock

            os.environ.update(self.place.environ())
            found = {}
            for words in LISTINGS:
                if chosen in words:
                    arguments = self._words(words)
                    began = time.perf_counter()
                    result = CliRunner().invoke(penstock, arguments)
                    found[words] = (time.perf_counter() - began) * 1000
                    if result.exit_code:
                        found[words] = float("inf")
                        print(words, result.output, result.exception, file=sys.stderr)
            return found

        return dict(in_child(measure))

    def real(self, words: str) -> float:
        """Return the milliseconds of a listing as a process of its own."""
        command = [sys.executable, "-m", "penstock", *self._words(words)]
        began = time.perf_counter()
        subprocess.run(command, env=self.place.environ(), check=True, capture_output=True)
        return (time.perf_counter() - began) * 1000

    def _words(self, words: str) -> list[str]:
        names = asdict(self.names)
        return [word.format(**names) for word in words.split()]


def place_of(url: str, folder: Path, size: Size) -> tuple[Place, Names]:
    """Return a filled database, the one in the folder if it is there."""
    state = folder / "state.json"
    if state.exists():
        stored = json.loads(state.read_text())
        box = SecretBox((stored["secret"],))
        place = Place(url, folder, stored["secret"], open_engine(url), box)
        return place, Names(**stored["names"])
    began = time.perf_counter()
    place = Place.make(url, folder)
    place.plugin("many", PLUGIN)
    create_users(place.engine)
    place.policy("api-key")
    names = fill(place, size)
    state.write_text(json.dumps({"secret": place.secret, "names": asdict(names)}))
    print(f"filled in {time.perf_counter() - began:.0f} s", file=sys.stderr)
    return place, names


@contextmanager
def database(kind: str, folder: Path, server: str | None) -> Iterator[str]:
    """Yield the URL of a database of a kind."""
    if kind == "sqlite":
        yield f"sqlite:///{folder}/penstock.db"
        return
    with ExitStack() as stack:
        if server is None:
            programs = initdb()
            if programs is None:
                sys.exit("PostgreSQL is not installed")
            own = Postgres(programs)
            stack.callback(own.remove)
            own.start()
            server = own.url
        with psycopg.connect(f"{server}/postgres", autocommit=True) as connection:
            query = "SELECT 1 FROM pg_database WHERE datname = 'console_bench'"
            if connection.execute(query).fetchone() is None:
                connection.execute("CREATE DATABASE console_bench")
        yield f"{server}/console_bench"


def report(bench: Bench, options: argparse.Namespace) -> list[str]:
    """Print the figures of a place, and return what passes the bounds."""
    faults = []
    figures = bench.pages(options.only, options.first or FIRST) if options.pages else {}
    for address, item in figures.items():
        found = item.faults()
        first = f"{item.first:8.1f}" if item.first is not None else " " * 8
        numbers = f"{first} {item.ms:8.1f} ms {item.kb:6.1f} KB {item.statements:4d}"
        print(f"{address.removeprefix(ROOT)[:72]:72} {numbers} {', '.join(found)}")
        faults += [f"{address}: {text}" for text in found]
    for words, ms in bench.listings(options.only).items() if options.listings else ():
        late = ms > MAX_LISTING_MS
        print(f"penstock {words:63} {ms:17.1f} ms{'  more than 1 s' if late else ''}")
        faults += [f"penstock {words}: more than 1 s"] if late else []
    for words in REAL_LISTINGS if options.real else ():
        print(f"penstock {words:63} {bench.real(words):17.1f} ms as a process")
    return faults


def main() -> None:
    """Measure, and exit with 1 past the bounds where that is asked for."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="fail past the bounds")
    parser.add_argument("--small", action="store_true", help="little data, to try this program")
    parser.add_argument("--database", choices=("sqlite", "postgresql"), action="append")
    parser.add_argument("--folder", type=Path, help="keep the data here")
    parser.add_argument("--postgres", help="URL of a server, without a database")
    parser.add_argument("--only", default="", help="pages and listings that contain this text")
    parser.add_argument("--first", action="append", help="addresses, or all")
    parser.add_argument("--no-pages", dest="pages", action="store_false")
    parser.add_argument("--no-listings", dest="listings", action="store_false")
    parser.add_argument("--real", action="store_true", help="also run commands as processes")
    options = parser.parse_args()
    faults = []
    for kind in options.database or ("sqlite", "postgresql"):
        with tempfile.TemporaryDirectory() as temporary, ExitStack() as stack:
            folder = (options.folder or Path(temporary)) / kind
            folder.mkdir(parents=True, exist_ok=True)
            url = stack.enter_context(database(kind, folder, options.postgres))
            print(f"\n{kind}\n{'':72}    first    later")
            bench = Bench(*place_of(url, folder, SMALL if options.small else Size()))
            faults += [f"{kind} {fault}" for fault in report(bench, options)]
    if options.check and faults:
        sys.exit("\n".join(faults))


if __name__ == "__main__":
    main()
