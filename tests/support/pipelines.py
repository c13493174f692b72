"""Pipelines of all kinds for tests of the console, their calls, and what their pages show."""

from __future__ import annotations

import re
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from html import unescape
from pathlib import Path

from sqlalchemy import event

from penstock.db import call_counts
from penstock.db.engine import Engine
from support.console import EVIL, ConsoleApp, serve_console, words_of
from support.place import Place

HOUR = 3600
PLUGIN = f'''
from dataclasses import dataclass
from penstock import Call, Cors, Durable, HttpTrigger, Pipeline, Rate, Schedule, hookimpl, secret

@dataclass
class Line:
    sku: str
    pieces: int = 1

@dataclass
class Order:
    customer: str
    lines: list[Line]
    note: str = ""

orders = Pipeline("orders", version="1.2.0", summary={EVIL!r}, trigger=HttpTrigger(
    api_key=True, jwt=True, scopes={{"orders:write"}}, rate=Rate("600/minute", by="consumer"),
    allow="192.0.2.0/24", deny="192.0.2.7", max_body=2048, timeout=7, in_flight=3, idempotent="key",
    cors=Cors("https://shop.example", methods="POST", credentials=True)))

@orders.post("/{{order_id}}/lines")
def add(call: Call, order_id: int, order: Order, *, dry: bool = False) -> Order:
    """Add lines to an order."""
    return order

@orders.get("/")
def show(call: Call) -> Order: return Order("a", [])

def simple(name, version="2.0.1", **toggles):
    pipeline = Pipeline(name, version=version, trigger=HttpTrigger(**toggles))
    @pipeline.get("/")
    def show(call: Call): return {{}}
    return pipeline

jobs = Pipeline("jobs", version="1.0.0", trigger=[HttpTrigger(api_key=True, jwt=True), Schedule("0 5 * * *")],
                durable=Durable(concurrency=4, backlog=9, timeout=3600), needs={{"erp_url", secret("erp_token")}},
                record_bodies="all", sensitive={{"iban"}})

@jobs.post("/", mode="durable")
def work(call: Call): return None

@hookimpl
def penstock_pipelines():
    return [orders, simple("orders", api_key=True, jwt=True), simple("status", api_key=True), simple("free"),
            simple("inner", external=False, internal=True, api_key=True), simple("hook", signature="github"),
            Pipeline("empty", version="1.0.0", trigger=HttpTrigger(api_key=True, jwt=True)), jobs]
'''  # noqa: E501  text as it is


def console_of(
    template: Path, folder: Path, plugin: str = PLUGIN, names: tuple[str, ...] = ("test", "prod")
) -> ConsoleApp:
    """Return a console on a copy of an upgraded database, for a fixture of a module."""
    database = shutil.copyfile(template, folder / "penstock.db")
    return serve_console(Place.make(f"sqlite:///{database}", folder, names), plugin)


def count_calls(
    place: Place,
    pipeline: str,
    calls: int,
    outcome: str = "succeeded",
    *,
    env: int = 1,
    hours_ago: float = 1,
) -> None:
    """Count calls to a pipeline in an hour."""
    write_counts(place, [(pipeline, calls, outcome, env, hours_ago)])


def write_counts(place: Place, counts: list[tuple[str, int, str, int, float]]) -> None:
    """Count calls: pipeline, calls, outcome, environment, and how many hours ago."""
    now = time.time()
    rows = [
        call_counts.CallCount(
            env, HOUR, int(now - hours * HOUR) // HOUR * HOUR, pipeline, outcome, "p",
            calls, calls * 900, [0, 0, 0, calls, *[0] * 11],
        )
        for pipeline, calls, outcome, env, hours in counts
    ]  # fmt: skip
    for start in range(0, len(rows), 2000):
        call_counts.write(place.engine, rows[start : start + 2000])


def cells(text: str) -> dict[str, dict[str, str]]:
    """Return the cells of the table's rows by their labels, without markup, by pipeline."""
    rows = re.findall(r'<th scope="row"[^>]*>(.*?)</tr>', text, re.DOTALL)
    return {
        words_of(row.partition("</th>")[0]): {
            unescape(label): words_of(cell)
            for label, cell in re.findall(
                r'<td[^>]*data-label="([^"]*)"[^>]*>(.*?)</td>', row, re.DOTALL
            )
        }
        for row in rows
    }


def ids(text: str) -> list[str]:
    """Return the IDs of the pipelines in the table, in order."""
    return [name.split()[0] for name in cells(text)]


@contextmanager
def counted_queries(engine: Engine) -> Iterator[list[str]]:
    """Collect the queries of a block."""
    queries: list[str] = []

    def note(*args: object) -> None:
        queries.append(str(args[2]))

    event.listen(engine, "before_cursor_execute", note)
    try:
        yield queries
    finally:
        event.remove(engine, "before_cursor_execute", note)
