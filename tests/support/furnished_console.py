"""A server of the session with a row of every kind, for console tests that change nothing."""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from playwright.sync_api import Browser

from penstock.access import (
    api_keys,
    callbacks,
    consumers,
    issuers,
    limits,
    policies,
    sensitive_fields,
    variables,
)
from penstock.contracts.rates import Rate
from penstock.db import call_counts
from support.console import EVIL, PLUGIN, ConsoleServer, start_console
from support.place import Place


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


def furnish(place: Place) -> None:
    """Fill a place with a row of every kind, whose free texts try to become markup."""
    engine = place.engine
    consumers.create_consumer(engine, "ann", "acme", EVIL)
    place.associate("acme", "orders")
    api_keys.create_key(engine, "ann", "acme", "test", note=EVIL)
    api_keys.revoke_key(engine, "ann", place.key("acme").id)
    policies.set_policy(engine, EVIL, "test", "jwt-api-key", served={}, stopping=[], reason=EVIL)
    limits.set_limit(engine, "tester", "acme", "test", Rate("5/minute"))
    limits.set_networks(engine, "tester", "acme", "test", ["192.0.2.0/24"], allowed=False)
    variables.set_variable(engine, "tester", "test", "region", "porto " * 50)
    variables.set_variable(engine, "tester", "test", "markup", EVIL)
    variables.set_secret(engine, "tester", "test", "erp", "x", place.box)
    sensitive_fields.add_fields(engine, "tester", "test", ["card_number"])
    callbacks.allow_callbacks(
        engine, "tester", "acme", "test", "https://hooks.example/in", place.box, private=False
    )
    trusted = issuers.parse_issuer("https://id.example", "p")
    issuers.trust_issuer(engine, "tester", "test", trusted, own="penstock")
    place.designate("orders")
    count_calls(place, succeeded=1200, failed=3, invalid_api_key=40, **{EVIL: 3})


@pytest.fixture(scope="session")
def furnished_console(
    upgraded_file: Path, tmp_path_factory: pytest.TempPathFactory, browser: Browser
) -> Iterator[ConsoleServer]:
    """A server of the session with a row of every kind, for tests that change nothing."""
    folder = tmp_path_factory.mktemp("furnished")
    database = shutil.copyfile(upgraded_file, folder / "penstock.db")
    place = Place.make(f"sqlite:///{database}", folder)
    with ExitStack() as stack:
        stack.callback(place.engine.dispose)
        server = start_console(place, stack, lambda: browser, plugin=PLUGIN)
        furnish(place)
        yield server
