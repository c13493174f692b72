"""A server of the session with a row of every kind, for console tests that change nothing.

Free texts try to become markup. Names are as long as they may be, beside ordinary ones.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from datetime import timedelta
from functools import partial
from pathlib import Path

import pytest
from playwright.sync_api import Browser

from penstock.access import (
    api_keys,
    callbacks,
    consumers,
    credentials,
    environments,
    issuers,
    limits,
    policies,
    sensitive_fields,
    users,
    variables,
)
from penstock.access.environments import EnvironmentChange
from penstock.access.users import Role
from penstock.audit.approvals import ChangePending
from penstock.contracts.rates import Rate
from penstock.db import call_counts
from penstock.execution.rejected_queries import RejectedQuery, list_rejected
from penstock.execution.run_queries import RunQuery, list_runs
from support.console import EVIL, ConsoleServer, start_console
from support.durable import until
from support.place import Place

LONGEST_CONSUMER = "w" * 64
LONGEST_ENVIRONMENT = "e" * 31
LONGEST_PIPELINE = "p" * 63
LONGEST_USER = "u" * 80
LONGEST_VARIABLE = "v" * 64
SCHEDULE = "*/20 * * * *"

PLUGIN = f"""
from penstock import Call, HttpTrigger, Pipeline, PipelineError, Rate, Schedule
from penstock import hookimpl, sleep, step

closed = HttpTrigger(api_key=True, jwt=True, rate=Rate("600/minute", by="consumer"))
orders = Pipeline("orders", version="1.2.0", summary="Orders", trigger=closed, record_bodies="all")
longest = Pipeline("{LONGEST_PIPELINE}", version="1.0.0", trigger=closed, record_bodies="all")
login = Pipeline("login", version="1.0.0", trigger=HttpTrigger(api_key=True, login=True))
status = Pipeline("status", version="1.0.0", trigger=HttpTrigger(api_key=True))
report = Pipeline("report", version="1.0.0", trigger=Schedule("{SCHEDULE}"))

@step()
def render(number: int) -> None:
    if number == 13: raise RuntimeError("no such template invoice-13")

@orders.get("/")
def show(call: Call):
    call.log.info("listed", consumer=call.caller.consumer)
    if "boom" in call.query: raise ZeroDivisionError("division by zero in the basket")
    if "bad" in call.query: raise PipelineError(409, "Not now", "The basket is closed.")
    return {{"consumer": call.caller.consumer}}

@longest.post("/", mode="durable")
def work(call: Call, body: dict[str, int]):
    call.log.info("invoices begin", number=body["number"])
    render(body["number"])
    if body["number"] == 14: sleep(3600)
    return {{"sent": body["number"]}}

@login.post("/")
def issue(call: Call): return {{}}

@status.get("/")
def tell(call: Call): return {{"up": True}}

@report.post("/", mode="durable")
def write(call: Call): return "written"

@hookimpl
def penstock_pipelines(): return [orders, longest, login, status, report]
"""


def count_calls(place: Place, **outcomes: int) -> None:
    """Count calls of v1/orders in environment 1, two minutes ago, by outcome."""
    minute = int(time.time()) // 60 * 60 - 120
    rows = [
        {
            "environment_id": 1, "span": 60, "since": minute, "pipeline": "v1/orders",
            "outcome": name.replace("_", "-"), "process": "p",
            "calls": number, "micros": number * 9000, "buckets": [0, 0, 0, number, *[0] * 11],
        }
        for name, number in outcomes.items()
    ]  # fmt: skip
    call_counts.write(place.engine, [call_counts.CallCount(**row) for row in rows])


Credentials = dict[str, dict[str, str]]


def furnish(place: Place) -> Credentials:
    """Fill a place with a row of every kind. Return the credentials of its consumers."""
    engine = place.engine
    consumers.create_consumer(engine, "ann", "acme", EVIL)
    consumers.create_consumer(engine, "ann", LONGEST_CONSUMER)
    place.associate("acme", "orders")
    place.associate(LONGEST_CONSUMER, "orders", LONGEST_PIPELINE)
    api_keys.create_key(engine, "ann", "acme", "test", note=EVIL, expires=timedelta(days=3))
    api_keys.create_key(engine, "ann", "acme", LONGEST_ENVIRONMENT, note="n" * 200)
    api_keys.revoke_key(engine, "ann", place.key("acme").id)
    old = api_keys.create_key(engine, "ann", "acme", "test", note="rotated")
    api_keys.rotate_key(engine, "ann", old.id, timedelta(days=7))
    credentials.add_credential(
        engine, "ann", "acme", "test", kind="basic", name="till", secret="x", box=place.box,
        enrol=lambda name, _: (name, b"digest"), note=EVIL,
    )  # fmt: skip
    policies.set_policy(engine, EVIL, "test", "jwt-api-key", served={}, stopping=[], reason=EVIL)
    place.policy("any", "prod")
    users.create_user(engine, "tester", LONGEST_USER, Role.VIEWER, None)
    environments.change_environment(
        engine, "ann", LONGEST_ENVIRONMENT, EnvironmentChange(second_approval=True)
    )
    with suppress(ChangePending):
        place.associate(LONGEST_CONSUMER, "orders", env=LONGEST_ENVIRONMENT)
    for name in ("acme", LONGEST_CONSUMER):
        limits.set_limit(engine, "tester", name, "test", Rate("5000/minute"))
        limits.set_networks(engine, "tester", name, "test", ["192.0.2.0/24"], allowed=False)
        callbacks.allow_callbacks(
            engine, "tester", name, "test", "https://hooks.example/in", place.box, private=False
        )
    variables.set_variable(engine, "tester", "test", "region", "porto " * 50)
    variables.set_variable(engine, "tester", "test", "markup", EVIL)
    variables.set_variable(engine, "tester", "test", LONGEST_VARIABLE, "x" * 300)
    variables.set_secret(engine, "tester", "test", "erp", "x", place.box)
    sensitive_fields.add_fields(engine, "tester", "test", ["card_number"])
    for address in ("https://id.example", f"https://{'i' * 60}.example/{'i' * 60}"):
        trusted = issuers.parse_issuer(address, "p")
        issuers.trust_issuer(engine, "tester", "test", trusted, own="penstock")
    place.designate("orders")
    count_calls(place, succeeded=1200, failed=3, invalid_api_key=40, **{EVIL: 3})
    return {
        name: {"key": place.key(name).key, "token": place.token(name)}
        for name in ("acme", LONGEST_CONSUMER)
    }


def make_calls(console: ConsoleServer, credentials: Credentials) -> None:
    """Make calls of every kind, and wait until all are recorded."""
    engine, call = console.place.engine, console.server.call
    work = f"/v1/{LONGEST_PIPELINE}/"
    for given in credentials.values():
        for query in ("", "?boom", "?bad"):
            call("GET", f"/v1/orders/{query}", **given)
        call("POST", work, **given, json={"number": 12})  # acme has no access
        call("GET", "/v1/orders/", key=given["key"])
        call("GET", "/v1/orders/", key=f"{given['key'][:-1]}!", token=given["token"])
    for number in (13, 14):
        call("POST", work, **given, json={"number": number})
    until(lambda: list_rejected(engine, RejectedQuery(consumer="acme"), limit=1), 30)
    for status in ("failed", "running"):
        until(partial(list_runs, engine, RunQuery(status=status, pipelines=(work[1:-1],))), 30)


@pytest.fixture(scope="session")
def furnished_console(
    upgraded_file: Path, tmp_path_factory: pytest.TempPathFactory, browser: Browser
) -> Iterator[ConsoleServer]:
    """A server of the session with a row of every kind, for tests that change nothing."""
    folder = tmp_path_factory.mktemp("furnished")
    database = shutil.copyfile(upgraded_file, folder / "penstock.db")
    names = ("test", "prod", LONGEST_ENVIRONMENT)
    place = Place.make(f"sqlite:///{database}", folder, names)
    with ExitStack() as stack:
        stack.callback(place.engine.dispose)
        credentials = furnish(place)
        server = start_console(
            place, stack, lambda: browser, plugin=PLUGIN, worker=1, PENSTOCK_OPENAPI="true"
        )
        until(lambda: server.server.client.get("/-/ready").status_code == 200)
        make_calls(server, credentials)
        attacker = server.client()
        attacker.http.headers["User-Agent"] = EVIL  # the sessions of ann name the browser
        assert attacker.sign_in("ann").status_code == 303
        attacker.sign_in("ann", "wrong")
        yield server
