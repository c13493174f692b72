"""How long the console's pages take: 200 pipelines, 1,000 consumers, counts of a week, 1,000,000
runs, 50,000 events.

`PYTHONPATH=tests python -m benchmarks.console`.
"""

from __future__ import annotations

import statistics
import sys
import tempfile
import time
from datetime import UTC, datetime
from hashlib import sha256
from pathlib import Path

from support.console import PASSWORD, ROOT, create_users
from support.place import Place

from penstock.access.lookup import ConsumerPlace
from penstock.db import call_counts, runs
from penstock.db.tables import (
    AddressRuleRow,
    ApiKeyRow,
    AssociationRow,
    AuditEventRow,
    CallbackTargetRow,
    ConsumerRow,
    LimitRow,
)
from penstock.db.unit_of_work import access_change
from penstock.host.host import Host
from penstock.runs.ids import first_id
from penstock.settings import Settings
from penstock.web import create_app

PIPELINES, CONSUMERS, RUNS, EVENTS, AT_ONCE, ROUNDS = 200, 1_000, 1_000_000, 50_000, 10_000, 15
EACH = 20  # pipelines of a consumer, in each environment
WEEK = 7 * 86_400
PAGES = (
    "/", "/?from=now-7d", "/?from=now-1h", "/e/test/series?metric=latency", "/users", "/account",
    "/pipelines", "/pipelines?sort=calls", "/pipelines?find=p1&state=served", "/pipelines/v1/p7",
    "/pipelines/v1/p7/points?span=week",
    "/consumers", "/consumers?after=c0500", "/consumers?find=77", "/consumers/c0007",
    "/consumers/c0007/pipelines",
    "/policies", "/e/test/policy", "/e/test/policy/change?policy=api-key",
    "/e/test/policy/change?policy=any", "/e/prod/policy/change?policy=any",
    "/e/test/runs", "/e/test/runs/rows", "/e/test/runs?until=2020-01-01T00:00",
    "/e/test/runs?pipeline=p7", "/e/test/runs?consumer=c0007", "/e/test/runs?status=failed",
    "/e/test/runs?status=timed_out", "/e/test/runs?pipeline=p7&status=failed",
    "/e/test/runs?pipeline=p7&consumer=c0008", "/e/test/runs?consumer=c0007&status=timed_out",
    "/e/test/runs?pipeline=p7&status=timed_out", "/e/test/runs?status=succeeded&since=3600",
    "/e/test/runs?id=no-such-request",
    f"/e/test/runs?before={first_id(time.time() - 80_000)}", "/e/test/runs/{run}",
    "/audit", "/audit?actor=unknown", "/audit?subject=c0007", "/audit?action=limit",
    "/audit?action=run:purged", "/audit?actor=x&before=40000",
    "/e/test/tokens", "/e/test/limits", "/e/test/limits?consumer=c0007", "/e/test/settings",
)  # fmt: skip
PLUGIN = f"""
from penstock import Call, HttpTrigger, Pipeline, hookimpl

def made(number):
    pipeline = Pipeline(f"p{{number}}", version="1.0.0", trigger=HttpTrigger(api_key=True, jwt=number % 2 == 0))
    @pipeline.get("/")
    def show(call: Call): return {{}}
    return pipeline

@hookimpl
def penstock_pipelines(): return [made(number) for number in range({PIPELINES})]
"""  # noqa: E501  text as it is


def fill(place: Place) -> None:
    """Write what a week of calls leaves behind."""
    now = int(time.time())
    for span, since in [
        *((60, now // 60 * 60 - 60 * ago) for ago in range(1, 60)),
        *((3600, now // 3600 * 3600 - 3600 * ago) for ago in range(2, 168)),
    ]:
        row = {
            "environment_id": 1,
            "span": span,
            "since": since,
            "process": "p",
            "calls": 50,
            "micros": 500_000,
            "buckets": [0, 5, 20, 20, 5],
        }
        call_counts.write(
            place.engine,
            [
                call_counts.CallCount(**row, pipeline=f"v1/p{number}", outcome="succeeded")
                for number in range(PIPELINES)
            ],
        )
    for batch in range(RUNS // AT_ONCE):
        moment = first_id(now - WEEK + (batch + 1) * WEEK * AT_ONCE // RUNS)[:18]
        numbers = range(batch * AT_ONCE, (batch + 1) * AT_ONCE)
        runs.record(
            place.engine, [_run(f"{moment}-8000-{number:012x}", number) for number in numbers], []
        )
    fill_access(place)


def _run(run: str, number: int) -> tuple[object, ...]:
    status, http_status = ("failed", 500) if number % 100 == 77 else ("succeeded", 200)
    pipeline = f"v1/p{number * 7 % PIPELINES}"
    return (
        run,
        1,
        pipeline,
        "1.0.0",
        "GET /",
        False,
        number % CONSUMERS + 1,
        None,
        status,
        http_status,
        900,
        *[None] * 8,
    )


def fill_access(place: Place) -> None:
    """Write consumers with their bounds, and what was done before."""
    with access_change(place.engine) as rows:
        now, sealed = datetime.now(UTC), place.box.encrypt(b"0" * 32)
        for number in range(CONSUMERS):
            consumer = rows.add(
                ConsumerRow,
                {
                    ConsumerRow.name: f"c{number:04}",
                    ConsumerRow.description: "made up",
                    ConsumerRow.enabled: True,
                    ConsumerRow.created_at: now,
                },
            )
            where = ConsumerPlace(1, consumer)
            rows.add(
                LimitRow,
                {
                    **where.of(LimitRow),
                    LimitRow.pipeline: "",
                    LimitRow.by: "consumer",
                    LimitRow.seconds: 60,
                    LimitRow.rate: "900/minute",
                    LimitRow.active: True,
                },
            )
            rows.add(
                AddressRuleRow,
                {
                    **where.of(AddressRuleRow),
                    AddressRuleRow.network: "192.0.2.0/24",
                    AddressRuleRow.allowed: True,
                    AddressRuleRow.active: True,
                },
            )
            rows.add(
                CallbackTargetRow,
                {
                    **where.of(CallbackTargetRow),
                    CallbackTargetRow.prefix: "https://hooks.example/",
                    CallbackTargetRow.private: False,
                    CallbackTargetRow.sealed: sealed,
                    CallbackTargetRow.active: True,
                },
            )
            for environment in (1, 2):
                where = ConsumerPlace(environment, consumer)
                rows.add(
                    ApiKeyRow,
                    {
                        **where.of(ApiKeyRow),
                        ApiKeyRow.id: f"key_{environment}_{number}",
                        ApiKeyRow.digest: sha256(f"{where}".encode()).digest(),
                        ApiKeyRow.last_four: "abcd",
                        ApiKeyRow.note: "",
                        ApiKeyRow.enabled: True,
                        ApiKeyRow.created_at: now,
                    },
                )
                for step in range(EACH):
                    rows.add(
                        AssociationRow,
                        {
                            **where.of(AssociationRow),
                            AssociationRow.pipeline: f"v1/p{(number + step * 7) % PIPELINES}",
                            AssociationRow.active: True,
                        },
                    )
        for number in range(EVENTS):
            rows.add(
                AuditEventRow,
                {
                    AuditEventRow.at: now,
                    AuditEventRow.actor: "ann",
                    AuditEventRow.action: "key:created",
                    AuditEventRow.environment: "test",
                    AuditEventRow.subject: f"c{number % CONSUMERS:04}",
                    AuditEventRow.detail: {"key": f"key_{number}"},
                },
            )


def main() -> None:
    """Fill a database, and time the pages in this process, after a first look that is reported
    apart."""
    with tempfile.TemporaryDirectory() as folder:
        place = Place.make(f"sqlite:///{folder}/penstock.db", Path(folder))
        place.plugin("many", PLUGIN)
        create_users(place.engine)
        fill(place)
        given = {
            name: value for name, value in place.environ().items() if name.startswith("PENSTOCK_")
        }
        app = create_app(Host(Settings.from_env(given | {"PENSTOCK_CONSOLE": "true"})))
        client = app.test_client()
        token = (
            client.get(f"{ROOT}/sign-in")
            .text.partition('name="csrf-token" content="')[2]
            .partition('"')[0]
        )
        client.post(
            f"{ROOT}/sign-in", data={"name": "ann", "password": PASSWORD, "csrf_token": token}
        )
        newest = (
            client.get(f"{ROOT}/e/test/runs")
            .text.partition(f'href="{ROOT}/e/test/runs/')[2]
            .partition('"')[0]
        )
        for page in (page.format(run=newest) for page in PAGES):
            took = []
            for _ in range(ROUNDS + 1):
                began = time.perf_counter()
                answered = client.get(ROOT + page)
                took.append((time.perf_counter() - began) * 1000)
                assert answered.status_code == 200, page
            sys.stdout.write(
                f"{page:52} first {took[0]:7.1f} ms   then {statistics.median(took[1:]):6.1f} ms\n"
            )
        app.host.stop()


if __name__ == "__main__":
    main()
