"""Fill a console with real data, and take a picture of each of its pages.

`python -m benchmarks.screenshots FOLDER` starts a server with 18 pipelines and 60 consumers, makes
thousands of calls of all kinds and 250 durable runs, and writes each page at 1280 and 390 pixels,
light and dark, to the folder.
"""

# ruff: noqa: T201  the result; chance is no secret

from __future__ import annotations

import random
import shutil
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from datetime import timedelta
from pathlib import Path

import httpx
from playwright.sync_api import Page, sync_playwright
from support.all_pages import Crawl, crawl
from support.console import ROOT, ConsoleServer, start_console
from support.durable import until
from support.place import Place

from penstock.access import api_keys, limits
from penstock.contracts.rates import Rate
from penstock.execution.rejected_queries import RejectedQuery, list_rejected
from penstock.execution.run_queries import RunQuery, list_runs

PIPELINES, CONSUMERS, CALLS, JOBS = 15, 60, 4_000, 250
OK = 200
SIZES, SCHEMES = (1280, 390), ("light", "dark")
PLUGIN = """
import logging, random, time
from penstock import Call, HttpTrigger, Pipeline, PipelineError, Rate, Retry, Schedule, hookimpl, sleep, step

NAMES = ("orders", "invoices", "catalogue", "customers", "shipping", "returns", "payments", "stock",
         "pricing", "search", "reports", "loyalty", "coupons", "reviews", "newsletter-subscriptions")

@step(retry=Retry(attempts=3, backoff=0.01))
def render(number):
    if random.random() < 0.2: raise RuntimeError(f"template engine: no such template invoice-{number}")

@step()
def deliver(number): time.sleep(random.random() / 50)

def make(name):
    trigger = HttpTrigger(api_key=True, rate=Rate("600/minute", by="consumer")) if name != "search" else HttpTrigger()
    pipeline = Pipeline(name, version="1.2.0", summary=f"Everything about {name}", trigger=trigger, record_bodies="all")

    @pipeline.get("/")
    def show(call: Call):
        time.sleep(random.random() / 40)
        call.log.info("listed", consumer=call.caller.consumer)
        if "boom" in call.query: raise ZeroDivisionError("division by zero in the basket")
        if "bad" in call.query: raise PipelineError(409, "Not now", "The basket is closed.")
        return {"consumer": call.caller.consumer}

    return pipeline

jobs = Pipeline("nightly-invoices", version="2.0.0", trigger=HttpTrigger(api_key=True), record_bodies="all")

@jobs.post("/", mode="durable")
def work(call: Call, body: dict[str, int]):
    call.log.info("invoices begin", number=body["number"])
    render(body["number"])
    if body["number"] % 10 == 0: sleep(0.3)
    deliver(body["number"])
    return {"sent": body["number"]}

report = Pipeline("daily-report", version="1.0.0", trigger=Schedule("*/1 * * * *", timezone="UTC"))

@report.post("/", mode="durable")
def write(call: Call): return "written"

blocked = Pipeline("erp-sync", version="4.0.0", trigger=HttpTrigger(api_key=True), needs=["erp_url"])

@blocked.get("/")
def sync(call: Call): return {}

@hookimpl
def penstock_pipelines(): return [*map(make, NAMES), jobs, report, blocked]
"""  # noqa: E501  text as it is


def fill(console: ConsoleServer) -> dict[str, str]:
    """Make consumers, keys and calls; return the ids of calls by kind."""
    place, random_of = console.place, random.Random(7)
    place.policy("any")
    place.policy("api-key", "prod")
    names = ["acme", *(f"partner-{number:02}" for number in range(1, CONSUMERS))]
    keys = []
    pipelines = ["orders", "invoices", "catalogue", "payments", "stock", "v2/nightly-invoices"]
    for name in names:
        place.consumer(name, *pipelines)
        expires = random_of.choice([None, timedelta(days=9), timedelta(days=200)])
        keys.append(api_keys.create_key(place.engine, "ann", name, "test", expires=expires).key)
    limits.set_limit(place.engine, "ann", "acme", "test", Rate("5000/minute"))

    def call(number: int) -> None:
        key = keys[min(int(abs(random_of.gauss(0, 9))), CONSUMERS - 1)]
        path = random_of.choice([*pipelines[:5], "search", "reviews"])
        query = random_of.choices(["", "?bad", "?boom"], [90, 6, 4])[0]
        sent = {"X-API-Key": key if number % 12 else key[:-1] + "x"}
        client.get(f"/v1/{path}/{query}", headers=sent)

    with httpx.Client(base_url=console.server.url, timeout=30) as client:
        with ThreadPoolExecutor(8) as pool:
            list(pool.map(call, range(CALLS)))
        for number in range(JOBS):
            sent = {"X-API-Key": keys[number % 7]}
            client.post("/v2/nightly-invoices/", json={"number": number}, headers=sent)
    until(lambda: len(list_runs(place.engine, RunQuery(status="succeeded"), limit=100)) >= 100)
    until(lambda: not list_runs(place.engine, RunQuery(status="accepted"), limit=1))
    failed = list_runs(place.engine, RunQuery(status="failed", pipelines=("v2/nightly-invoices",)))
    rejected = list_rejected(place.engine, RejectedQuery(consumer="acme"), limit=1)
    return {"rejected": rejected[0].id, "failed": failed[0].id if failed else ""}


def picture(page: Page, url: str, path: Path) -> None:
    """Write a page as a picture, and report one that is wider than the window."""
    answer = page.goto(url)
    assert answer is not None
    assert answer.status == OK, url
    page.wait_for_timeout(300)
    wide = page.evaluate("document.documentElement.scrollWidth > window.innerWidth")
    page.screenshot(path=path, full_page=True)
    print(f"{path.name}{'  WIDER THAN THE WINDOW' if wide else ''}")


def main(folder: Path) -> None:
    """Start the server, fill it, and take the pictures."""
    folder.mkdir(parents=True, exist_ok=True)
    chromium = shutil.which("chromium")
    with tempfile.TemporaryDirectory() as own, sync_playwright() as play, ExitStack() as stack:
        place = Place.make(f"sqlite:///{own}/penstock.db", Path(own))
        stack.callback(place.engine.dispose)
        browser = play.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        stack.callback(browser.close)
        console = start_console(
            place, stack, lambda: browser, plugin=PLUGIN, worker=1, PENSTOCK_LOG_CALLS="none"
        )
        ids = fill(console)
        assert all(ids.values()), ids
        pages = {
            f"{ROOT}/e/test/rejected/{ids['rejected']}": "rejected-one",
            f"{ROOT}/e/test/runs/{ids['failed']}": "run",
            f"{ROOT}/pipelines/v1/orders": "pipeline",
            f"{ROOT}/consumers/acme": "consumer",
            "/-/docs": "docs",
            **names_of(crawl(console.client("ann"))),
        }
        for scheme in SCHEMES:
            for size in SIZES:
                page = console.page("ann", width=size, scheme=scheme)
                for path, name in pages.items():
                    picture(page, console.server.url + path, folder / f"{name}-{size}-{scheme}.png")


def names_of(found: Crawl) -> dict[str, str]:
    """Return a page of each view, and its name; questions are alike."""
    return {
        next(address for address, html in pages.items() if html): view.removeprefix("console.")
        for view, pages in found.pages.items()
        if any(pages.values()) and not view.endswith("_confirm")
    }


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "screenshots"))
