"""The data of a large installation, written in bulk: runs, rejected calls, counts, access, audit.

A row costs a few microseconds: SQLite gets tuples, PostgreSQL a COPY. Both get them in the
encoding of the columns, so the pages read what the product would have written.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from typing import Any

import msgspec
import sqlalchemy as sa
from support.place import Place

from penstock.contracts.keys import digest_of
from penstock.db.deployment_tables import DeploymentRow
from penstock.db.engine import Engine
from penstock.db.rows import AnyColumn, Row
from penstock.db.run_tables import (
    CallCountRow,
    ConsumerCountRow,
    DurableRunRow,
    RejectedCallRow,
    RunDetailRow,
    RunLogLineRow,
    RunRow,
)
from penstock.db.tables import (
    AddressRuleRow,
    ApiKeyRow,
    AssociationRow,
    AuditEventRow,
    CallbackTargetRow,
    ConsumerRow,
    CredentialRow,
    LimitRow,
    PolicyVersionRow,
    RevocationRow,
    UserRow,
)
from penstock.db.unit_of_work import access_change
from penstock.runs.failures import Failure, Frame
from penstock.runs.steps import Attempt, StepRecord

PIPELINES, SCHEDULED = 200, 20
HOUR, DAY = 3600, 86_400
TEST, PROD = 1, 2  # environments by their ids
GOOD_KEY = "pk_test_" + "0" * 40  # of c00007, which calls most
ERRORS = ("ValueError", "KeyError", "ZeroDivisionError", "TimeoutError", "ConnectionError")
REASONS = (
    ("invalid-api-key", 401),
    ("credentials-missing", 401),
    ("not-associated", 403),
    ("rate-limited", 429),
    ("invalid-token", 401),
    ("insufficient-scope", 403),
    ("address-not-allowed", 403),
)
ACTIONS = ("key:created", "key:rotated", "consumer:associated", "limit:set", "user:signed-in")
BUCKETS = [0, 5, 20, 20, 5]

PLUGIN = f"""
from penstock import Call, HttpTrigger, Pipeline, Schedule, hookimpl

def made(number):
    trigger = HttpTrigger(api_key=True, jwt=number % 2 == 0)
    pipeline = Pipeline(f"p{{number}}", version="1.0.0", summary=f"Number {{number}}", trigger=trigger)
    @pipeline.get("/")
    def show(call: Call): return {{}}
    return pipeline

def ticking(number):
    trigger = Schedule(f"{{number % 60}} * * * *", timezone="UTC")
    pipeline = Pipeline(f"s{{number}}", version="1.0.0", trigger=trigger)
    @pipeline.post("/", mode="durable")
    def work(call: Call): return None
    return pipeline

@hookimpl
def penstock_pipelines():
    return [*map(made, range({PIPELINES})), *map(ticking, range({SCHEDULED}))]
"""  # noqa: E501  text as it is


@dataclass(frozen=True, slots=True)
class Size:
    """How much of everything there is."""

    runs: int = 1_000_000
    consumers: int = 10_000
    keys: int = 100_000
    rejected: int = 100_000
    events: int = 1_000_000
    days: int = 90  # of hourly counts
    counts: int = 500  # by consumer, in an hour


@dataclass(frozen=True, slots=True)
class Names:
    """What pages and commands are asked for."""

    run: str
    failed: str
    call: str
    key: str = "key_000007000000"
    consumer: str = "c00007"
    pipeline: str = "p7"


def run_id(millis: int, number: int) -> str:
    """Return the id of a run at a moment in milliseconds since the epoch."""
    return f"{millis >> 16:08x}-{millis & 0xFFFF:04x}-7000-8000-{number:012x}"


class Bulk:
    """Writes rows of one database by the thousand."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def write(
        self, kind: type[Row], columns: Sequence[AnyColumn], rows: Iterable[Sequence[Any]]
    ) -> None:
        """Write rows whose values are in the order of `columns`; other columns are NULL."""
        dialect = self._engine.dialect
        encoders = [
            column.type.dialect_impl(dialect).bind_processor(dialect) or _same for column in columns
        ]
        encoded = ([code(value) for code, value in zip(encoders, row, strict=True)] for row in rows)
        names = ", ".join(column.name for column in columns)
        driver = self._engine.raw_connection()
        try:
            cursor = driver.cursor()
            if dialect.name == "sqlite":
                cursor.execute("PRAGMA synchronous=OFF")
                cursor.execute("PRAGMA cache_size=-500000")  # 500 MB
                cursor.execute("BEGIN")
                marks = ", ".join("?" * len(columns))
                insert = f"INSERT INTO {kind.table.name} ({names}) VALUES ({marks})"
                cursor.executemany(insert, encoded)
            else:
                with cursor.copy(f"COPY {kind.table.name} ({names}) FROM STDIN") as copy:
                    for row in encoded:
                        copy.write_row(row)
            driver.commit()
        finally:
            driver.close()

    def analyze(self) -> None:
        """Do what both databases do by themselves at intervals: collect statistics."""
        with self._engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
            if self._engine.dialect.name == "postgresql":
                connection.execute(sa.text("VACUUM ANALYZE"))


def _same(value: Any) -> Any:
    return value


def fill(place: Place, size: Size) -> Names:
    """Write everything; return names of what exists."""
    bulk, chance, now = Bulk(place.engine), random.Random(7), int(time.time())
    with access_change(place.engine) as change:
        revision = change.revision
    _fill_access(bulk, place, size, revision, now)
    newest, broken = _fill_runs(bulk, size, now, chance)
    call = _fill_rejected(bulk, size, now, chance)
    _fill_counts(bulk, size, now, chance)
    _fill_events(bulk, size, now, chance)
    bulk.analyze()
    return Names(newest, broken, call)


def _consumer(chance: random.Random, size: Size) -> int:
    """Return the id of a consumer: a few call most."""
    return int(size.consumers * chance.random() ** 3) + 1


def _key(consumer: int, number: int) -> str:
    return f"key_{consumer - 1:06x}{number:06x}"


def _fill_access(bulk: Bulk, place: Place, size: Size, revision: int, now: int) -> None:
    at, sealed = datetime.now(UTC), place.box.encrypt(b"0" * 32)
    consumers = range(1, size.consumers + 1)
    row = ConsumerRow
    bulk.write(
        row,
        (row.name, row.description, row.enabled, row.created_at, row.revision),
        ((f"c{item - 1:05}", "made up", item % 50 != 0, at, revision) for item in consumers),
    )
    _fill_keys(bulk, size, revision, now)
    access = AssociationRow
    bulk.write(
        access,
        (
            access.environment_id,
            access.consumer_id,
            access.pipeline,
            access.active,
            access.revision,
        ),
        (
            (environment, item, f"v1/p{(item - 1 + step * 7) % PIPELINES}", True, revision)
            for item in consumers
            for environment in (TEST, PROD)
            for step in range(20)
        ),
    )
    _fill_rules(bulk, consumers, sealed, revision, at)
    revoked, versions, user = RevocationRow, PolicyVersionRow, UserRow
    bulk.write(
        revoked,
        (revoked.environment_id, revoked.jti, revoked.forget_at, revoked.revision),
        ((TEST, f"jti-{item:08}", at + timedelta(hours=1), revision) for item in range(5000)),
    )
    bulk.write(
        versions,
        (
            versions.environment_id,
            versions.version,
            versions.policy,
            versions.reason,
            versions.actor,
            versions.created_at,
            versions.exposure,
        ),
        (
            (TEST, item, "api-key", "a reason", "ann", at - timedelta(days=600 - item), "external")
            for item in range(10, 500)
        ),
    )
    bulk.write(
        user,
        (user.name, user.role, user.active, user.created_at),
        ((f"user{item:03}", "viewer", True, at) for item in range(200)),
    )


def _fill_keys(bulk: Bulk, size: Size, revision: int, now: int) -> None:
    """Write ten keys a consumer: most of them in use, some expired, revoked or about to expire."""
    key, each = ApiKeyRow, size.keys // size.consumers
    columns = (
        key.id,
        key.environment_id,
        key.consumer_id,
        key.digest,
        key.last_four,
        key.note,
        key.enabled,
        key.created_at,
        key.expires_at,
        key.revoked_at,
        key.last_used_at,
        key.revision,
    )

    def rows() -> Iterator[Sequence[Any]]:
        for consumer in range(1, size.consumers + 1):
            for number in range(each):
                total = consumer * each + number
                made = datetime.fromtimestamp(now - 400 * DAY + total * 300, UTC)
                digest = sha256(f"{consumer} {number}".encode()).digest()
                if (consumer, number) == (8, 0):
                    digest = digest_of(GOOD_KEY)
                used = datetime.fromtimestamp(now - total % 120 * DAY, UTC)
                ends = datetime.fromtimestamp(now + (total % 400 - 30) * DAY, UTC)
                yield (
                    _key(consumer, number),
                    TEST if number < each * 0.7 else PROD,
                    consumer,
                    digest,
                    f"{total % 10_000:04}",
                    f"key {number} of c{consumer - 1:05}",
                    total % 40 != 0,
                    made,
                    ends if total % 3 else None,
                    used if total % 25 == 0 else None,
                    used if total % 4 else None,
                    revision,
                )

    bulk.write(key, columns, rows())


def _fill_rules(
    bulk: Bulk, consumers: Iterable[int], sealed: bytes, revision: int, at: datetime
) -> None:
    """Write a limit, a network, a callback and a credential of each consumer."""
    limit, rule, target, credential = LimitRow, AddressRuleRow, CallbackTargetRow, CredentialRow
    bulk.write(
        limit,
        (
            limit.environment_id,
            limit.consumer_id,
            limit.pipeline,
            limit.by,
            limit.seconds,
            limit.rate,
            limit.active,
            limit.revision,
        ),
        ((TEST, item, "", "consumer", 60, "900/minute", True, revision) for item in consumers),
    )
    bulk.write(
        rule,
        (
            rule.environment_id,
            rule.consumer_id,
            rule.network,
            rule.allowed,
            rule.active,
            rule.revision,
        ),
        ((TEST, item, "192.0.2.0/24", True, True, revision) for item in consumers),
    )
    bulk.write(
        target,
        (
            target.environment_id,
            target.consumer_id,
            target.prefix,
            target.private,
            target.sealed,
            target.active,
            target.revision,
        ),
        (
            (TEST, item, "https://hooks.example/", False, sealed, True, revision)
            for item in consumers
        ),
    )
    bulk.write(
        credential,
        (
            credential.id,
            credential.environment_id,
            credential.consumer_id,
            credential.kind,
            credential.name,
            credential.sealed,
            credential.note,
            credential.created_at,
            credential.revision,
        ),
        (
            (f"cred_{item:08}", TEST, item, "basic", f"c{item:05}", sealed, "", at, revision)
            for item in consumers
        ),
    )


def _fill_runs(bulk: Bulk, size: Size, now: int, chance: random.Random) -> tuple[str, str]:
    """Write runs of a week; return the newest and the newest failed one."""
    row = RunRow
    columns = (
        row.id,
        row.environment_id,
        row.pipeline,
        row.version,
        row.route,
        row.durable,
        row.consumer_id,
        row.status,
        row.http_status,
        row.micros,
        row.request_id,
        row.key_id,
        row.error_type,
    )
    start, step = (now - 7 * DAY) * 1000, 7 * DAY * 1000 / size.runs

    def rows() -> Iterator[Sequence[Any]]:
        for number in range(size.runs):
            consumer, environment = _consumer(chance, size), PROD if number % 10 == 3 else TEST
            status, http_status, error = "succeeded", 200, None
            if number % 100 == 77:
                status, http_status, error = "failed", 500, ERRORS[number // 100 % len(ERRORS)]
            elif number % 1000 == 55:
                status, http_status = "timed_out", 504
            elif number % 30 == 2:
                status, http_status = "client_error", 409
            yield (
                run_id(int(start + number * step), number),
                environment,
                f"v1/p{number * 7 % PIPELINES}",
                "1.0.0",
                "GET /",
                False,
                consumer,
                status,
                http_status,
                int(chance.lognormvariate(9.5, 1.5)),  # microseconds: 13 ms, one in forty 250 ms
                f"request-{number:012}" if number % 3 == 0 else None,
                _key(consumer, 0 if environment == TEST else 9),
                error,
            )

    bulk.write(row, columns, rows())
    last = size.runs - 1
    failed = next(
        number for number in range(last, 0, -1) if number % 100 == 77 and number % 10 != 3
    )
    newest, broken = (run_id(int(start + number * step), number) for number in (last, failed))
    _fill_details(bulk, (newest, broken), now)
    _fill_waiting(bulk, now)
    return newest, broken


def _fill_details(bulk: Bulk, runs: Sequence[str], now: int) -> None:
    """Write 200 steps, a failure and 500 log lines of some runs."""
    detail, line = RunDetailRow, RunLogLineRow
    steps = [
        StepRecord(
            f"step {number % 7}", number * 10.0, 9.0, [Attempt(number * 10.0, 9.0)], number=0
        )
        for number in range(200)
    ]
    frames = [Frame("shop.py", number, "work") for number in range(10)]
    failure = Failure("ValueError", "a number was expected", frames)
    bulk.write(
        detail,
        (detail.run_id, detail.steps, detail.failure),
        ((run, msgspec.json.encode(steps), msgspec.json.encode(failure)) for run in runs),
    )
    bulk.write(
        line,
        (line.run_id, line.at, line.number, line.level, line.logger, line.text),
        (
            (run, now * 1_000_000 + number, number, "info", "shop", f"line {number} of the run")
            for run in runs
            for number in range(500)
        ),
    )


def _fill_waiting(bulk: Bulk, now: int) -> None:
    """Write durable runs that wait, and the last ticks of schedules."""
    row, durable = RunRow, DurableRunRow
    waiting = [run_id((now - 600) * 1000 + number, 1 << 40 | number) for number in range(300)]
    bulk.write(
        row,
        (
            row.id,
            row.environment_id,
            row.pipeline,
            row.version,
            row.route,
            row.durable,
            row.status,
        ),
        (
            (run, TEST, f"v1/s{number % SCHEDULED}", "1.0.0", "POST /", True, "accepted")
            for number, run in enumerate(waiting)
        ),
    )
    bulk.write(durable, (durable.run_id, durable.recoveries), ((run, 0) for run in waiting))


def _fill_rejected(bulk: Bulk, size: Size, now: int, chance: random.Random) -> str:
    row = RejectedCallRow
    columns = (
        row.id,
        row.environment_id,
        row.pipeline,
        row.problem,
        row.address,
        row.consumer_id,
        row.http_status,
        row.method,
        row.path,
        row.route,
        row.key_id,
        row.request_id,
    )
    start, step = (now - 30 * DAY) * 1000, 30 * DAY * 1000 / size.rejected
    ids = [run_id(int(start + number * step), 1 << 41 | number) for number in range(size.rejected)]

    def rows() -> Iterator[Sequence[Any]]:
        for number, identifier in enumerate(ids):
            problem, status = REASONS[number % len(REASONS)]
            consumer = _consumer(chance, size) if number % 2 else None
            yield (
                identifier,
                TEST,
                f"v1/p{number * 7 % PIPELINES}",
                problem,
                f"192.0.2.{number % 250}",
                consumer,
                status,
                "GET",
                f"/v1/p{number * 7 % PIPELINES}/",
                "GET /",
                _key(consumer, 0) if consumer else None,
                f"request-{number:012}" if number % 3 == 0 else None,
            )

    bulk.write(row, columns, rows())
    return ids[-1] if len(ids) % 2 == 0 else ids[-2]


def _fill_counts(bulk: Bulk, size: Size, now: int, chance: random.Random) -> None:
    """Write counts of the last hour by minute, and of all hours before."""
    count, by = CallCountRow, ConsumerCountRow
    minute, hour = now // 60 * 60, now // HOUR * HOUR
    spans = [
        *((60, minute - 60 * ago) for ago in range(1, 60)),
        *((HOUR, hour - HOUR * ago) for ago in range(2, size.days * 24)),
    ]
    outcomes = (("succeeded", 1), ("failed", 10), ("invalid-api-key", 5))
    bulk.write(
        count,
        (
            count.environment_id,
            count.span,
            count.since,
            count.pipeline,
            count.outcome,
            count.process,
            count.calls,
            count.micros,
            count.buckets,
        ),
        (
            (TEST, span, since, f"v1/p{number}", outcome, "", 50, 500_000, BUCKETS)
            for span, since in spans
            for number in range(PIPELINES)
            for outcome, every in outcomes
            if number % every == 0
        ),
    )

    def keys() -> Iterator[Sequence[Any]]:
        for ago in range(size.days * 24):
            rows = set()
            for place in range(size.counts):
                consumer = _consumer(chance, size)
                number = (consumer - 1 + int(20 * chance.random() ** 2) * 7) % PIPELINES
                rows.add((consumer, f"v1/p{number}", "succeeded" if place % 20 else "rejected"))
            for consumer, pipeline, outcome in sorted(rows):
                key = _key(consumer, 0)
                yield TEST, hour - HOUR * ago, consumer, key, pipeline, outcome, 40

    bulk.write(
        by,
        (
            by.environment_id,
            by.since,
            by.consumer_id,
            by.key_id,
            by.pipeline,
            by.outcome_class,
            by.calls,
        ),
        keys(),
    )


def _fill_events(bulk: Bulk, size: Size, now: int, chance: random.Random) -> None:
    row, deployment = AuditEventRow, DeploymentRow
    start, step = now - 400 * DAY, 400 * DAY / size.events
    actors: Callable[[int], str] = lambda number: ("ann", "oli", "deploy")[number % 3]  # noqa: E731
    bulk.write(
        row,
        (row.at, row.actor, row.action, row.environment, row.subject, row.detail),
        (
            (
                datetime.fromtimestamp(start + number * step, UTC),
                actors(number),
                ACTIONS[number % len(ACTIONS)],
                ("test", "prod", None)[number % 7 % 3],
                f"c{_consumer(chance, size) - 1:05}",
                {"key": f"key_{number:012x}", "note": "made up"},
            )
            for number in range(size.events)
        ),
    )
    bulk.write(
        deployment,
        (
            deployment.id,
            deployment.environment_id,
            deployment.host,
            deployment.at,
            deployment.loaded_at,
            deployment.started_by,
            deployment.code,
            deployment.report,
            deployment.policy_version,
            deployment.served,
            deployment.blocked,
            deployment.changes,
        ),
        (
            (
                f"{number:032x}",
                TEST,
                f"web-{number % 4}",
                datetime.fromtimestamp(now - number * 3 * HOUR, UTC),
                (now - number * 3 * HOUR) * 1000,
                "deploy",
                f"{number:064x}",
                f"{number:064x}",
                1,
                200,
                0,
                {},
            )
            for number in range(1, 1000)
        ),
    )
