"""Calls with an Idempotency-Key: the first runs, repeats get its reply."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from io import BytesIO
from types import SimpleNamespace
from typing import Annotated, Any
from unittest import mock

import pytest
from support.place import Place, Server
from werkzeug.test import TestResponse

from penstock import Call, Form, HttpTrigger, Pipeline, PipelineError, Reply, Upload, hookimpl
from penstock.db import idempotency
from penstock.db.engine import reading
from penstock.db.run_tables import IdempotentReplyRow
from penstock.db.tables import EnvironmentRow
from penstock.db.unit_of_work import RowReader, access_change
from penstock.errors import Refusal
from penstock.host.host import Host
from penstock.runs.idempotency import CLAIM_MARGIN, IdempotencyStore, key_of
from penstock.settings import Settings
from penstock.testing import CallerClient, Runtime

Start = Callable[..., Runtime]
Answering = Callable[..., Callable[..., TestResponse]]


def offering(handler: Callable[..., object], **trigger: Any) -> SimpleNamespace:
    pipeline = Pipeline(
        "orders",
        version="1.0.0",
        trigger=HttpTrigger(**{"api_key": True, "idempotent": "key", **trigger}),
    )
    pipeline.post("/")(handler)
    pipeline.put("/{order_id}")(lambda call, order_id: handler(call))
    pipeline.get("/")(lambda call: handler(call))  # noqa: PLW0108  some handlers take a body, which GET has not

    @hookimpl
    def penstock_pipelines() -> list[Pipeline]:
        return [pipeline]

    return SimpleNamespace(__name__="example", penstock_pipelines=penstock_pipelines)


def post(
    client: CallerClient,
    key: str | None = "k1",
    path: str = "/v1/orders/",
    method: str = "POST",
    **call: Any,
) -> TestResponse:
    return client.open(
        path, method=method, headers={"Idempotency-Key": key} if key is not None else {}, **call
    )


def problem(answered: TestResponse) -> tuple[int, str]:
    return answered.status_code, (answered.json or {}).get("type", "")


class Counter:
    """A handler that says how often it ran, and does with it what a test wants."""

    def __init__(self, then: Callable[[int], object] = lambda number: {"number": number}) -> None:
        self.number = 0
        self._then = then

    def handler(self) -> Callable[..., object]:
        def run(call: Call) -> object:
            _ = call.body
            self.number += 1
            return self._then(self.number)

        return run


def test_a_repeat_gets_the_first_reply_and_runs_nothing(penstock_runtime: Start) -> None:
    count = Counter(
        lambda number: Reply(201, {"Location": f"/v1/orders/{number}"}, {"number": number})
    )
    acme = penstock_runtime(offering(count.handler()), policy="api-key").client("acme", token=False)

    first, repeat, other = (
        post(acme, json={"a": 1}),
        post(acme, '"k1"', json={"a": 1}),
        post(acme, "k2", json={"a": 1}),
    )

    assert (first.status_code, first.headers["Location"], first.json) == (
        201,
        "/v1/orders/1",
        {"number": 1},
    )
    assert (repeat.status_code, repeat.headers["Location"], repeat.json) == (
        201,
        "/v1/orders/1",
        {"number": 1},
    )
    assert ("Idempotency-Replayed" in first.headers, repeat.headers["Idempotency-Replayed"]) == (
        False,
        "true",
    )
    assert (other.json, count.number) == ({"number": 2}, 2)


def test_without_a_key_or_with_a_safe_method_every_call_runs(penstock_runtime: Start) -> None:
    count = Counter()
    acme = penstock_runtime(offering(count.handler()), policy="api-key").client("acme", token=False)

    assert [
        post(acme, None).json,
        post(acme, None).json,
        post(acme, method="GET").json,
        post(acme, method="GET").json,
    ] == [{"number": number} for number in (1, 2, 3, 4)]


def test_a_trigger_that_does_not_say_so_ignores_the_key(penstock_runtime: Start) -> None:
    acme = penstock_runtime(
        offering(Counter().handler(), idempotent=None), policy="api-key"
    ).client("acme", token=False)

    assert [post(acme).json, post(acme).json] == [{"number": 1}, {"number": 2}]


@pytest.mark.parametrize(
    "changed",
    [
        {"json": {"a": 2}},
        {"json": {"a": 1}, "path": "/v1/orders/?dry=1"},
        {"json": {"a": 1}, "path": "/v1/orders/7", "method": "PUT"},
    ],
    ids=["body", "query", "path"],
)
def test_the_key_of_another_request_is_a_422(
    penstock_runtime: Start, changed: dict[str, Any]
) -> None:
    count = Counter()
    acme = penstock_runtime(offering(count.handler()), policy="api-key").client("acme", token=False)
    post(acme, json={"a": 1})

    assert problem(post(acme, **changed)) == (422, "idempotency-key-reused")
    assert count.number == 1


def test_keys_are_of_one_consumer_and_one_person(penstock_runtime: Start) -> None:
    runtime = penstock_runtime(offering(Counter().handler(), jwt=True))
    callers = [
        runtime.client("acme"),
        runtime.client("other"),
        runtime.client("acme", subject="bob"),
    ]

    assert [post(caller).json for caller in callers] == [
        {"number": 1},
        {"number": 2},
        {"number": 3},
    ]
    assert [post(caller).json for caller in callers] == [
        {"number": 1},
        {"number": 2},
        {"number": 3},
    ]


@pytest.mark.parametrize("key", ["", " ", "x" * 256, "a b", "ü", '"'])
def test_a_key_that_is_none_is_a_400(penstock_runtime: Start, key: str) -> None:
    count = Counter()
    acme = penstock_runtime(offering(count.handler()), policy="api-key").client("acme", token=False)

    assert problem(post(acme, key)) == (400, "idempotency-key-invalid")
    assert count.number == 0


def test_a_deliberate_refusal_is_stored_completely(penstock_runtime: Start) -> None:
    def refuse(number: int) -> object:
        raise PipelineError(
            409,
            "Taken",
            f"Number {number} is taken.",
            type="taken",
            headers={"X-Number": str(number)},
            number=number,
        )

    acme = penstock_runtime(offering(Counter(refuse).handler()), policy="api-key").client(
        "acme", token=False
    )

    first, repeat = post(acme), post(acme)

    assert (repeat.status_code, repeat.headers["X-Number"]) == (409, "1")
    assert {**(first.json or {}), "run": ""} == {**(repeat.json or {}), "run": ""}
    assert (repeat.json or {})["detail"] == "Number 1 is taken."


@pytest.mark.parametrize(
    "failure", [ValueError("x"), PipelineError(503), PipelineError(429), SystemExit(1)]
)
def test_a_failure_is_not_kept(penstock_runtime: Start, failure: BaseException) -> None:
    def then(number: int) -> object:
        if number == 1:
            raise failure
        return {"number": number}

    acme = penstock_runtime(offering(Counter(then).handler()), policy="api-key").client(
        "acme", token=False
    )

    assert post(acme).status_code >= 429
    assert post(acme).json == {"number": 2}


def test_a_body_that_does_not_fit_may_be_corrected_under_the_same_key(
    penstock_runtime: Start,
) -> None:
    def take(call: Call, body: dict[str, int]) -> dict[str, int]:
        return body

    acme = penstock_runtime(offering(take), policy="api-key").client("acme", token=False)

    assert [post(acme, json=body).status_code for body in ({"a": "x"}, {"a": 1}, {"a": 1})] == [
        422,
        200,
        200,
    ]


def test_a_repeat_while_the_first_runs_is_a_409(penstock_runtime: Start) -> None:
    began, proceed = threading.Event(), threading.Event()

    def wait(number: int) -> object:
        began.set()
        assert proceed.wait(10)
        return {"number": number}

    acme = penstock_runtime(offering(Counter(wait).handler()), policy="api-key").client(
        "acme", token=False
    )

    with ThreadPoolExecutor(1) as pool:
        first = pool.submit(post, acme)
        assert began.wait(10)
        repeat = post(acme)
        proceed.set()

        assert (problem(repeat), repeat.headers["Retry-After"]) == (
            (409, "idempotency-key-in-use"),
            "1",
        )
        assert first.result().json == post(acme).json == {"number": 1}


def test_what_replies_after_its_time_was_up_is_kept(penstock_runtime: Start) -> None:
    proceed, ended = threading.Event(), threading.Event()

    def late(number: int) -> object:
        assert proceed.wait(10)
        ended.set()
        return {"number": number}

    acme = penstock_runtime(offering(Counter(late).handler(), timeout=1), policy="api-key").client(
        "acme", token=False
    )

    assert post(acme).status_code == 504
    assert problem(post(acme)) == (409, "idempotency-key-in-use")
    proceed.set()
    assert ended.wait(10)
    while (repeat := post(acme)).status_code == 409:
        pass
    assert repeat.json == {"number": 1}


@dataclass
class Parcel:
    note: str
    file: Upload


def test_a_form_is_the_same_with_any_boundary(penstock_runtime: Start) -> None:
    def take(call: Call, parcel: Annotated[Parcel, Form()]) -> dict[str, object]:
        return {"read": parcel.file.read().decode()}

    acme = penstock_runtime(offering(take), policy="api-key").client("acme", token=False)

    def send(content: bytes, note: str = "n") -> TestResponse:
        return post(
            acme,
            data={"note": note, "file": (BytesIO(content), "f.txt")},
            content_type="multipart/form-data",
        )

    assert send(b"one").json == send(b"one").json == {"read": "one"}
    assert problem(send(b"two")) == problem(send(b"one", "m")) == (422, "idempotency-key-reused")


def test_it_asks_who_calls(penstock_runtime: Start) -> None:
    handler = Counter().handler()

    assert (
        "set api_key=True"
        in penstock_runtime(offering(handler, api_key=False), policy="any").problems()[0]
    )
    assert (
        'write idempotent="key"'
        in penstock_runtime(offering(handler, idempotent="body"), policy="any").problems()[0]
    )


class TestKept:
    """The store itself, on each database."""

    WHOSE = ("test", "v1/orders", "1", "", "k1")

    def once(self, place: Place, body: bytes = b"same", reply: str = "first") -> str:
        done = IdempotencyStore(place.engine, place.box).once(
            self.WHOSE, body, 1.0, lambda: (200, [], reply.encode())
        )
        return done[2].decode()

    def rows(self, place: Place) -> list[IdempotentReplyRow]:
        with reading(place.engine) as connection:
            return RowReader(connection).all(IdempotentReplyRow)

    def test_a_reply_is_sealed_and_holds_for_a_day(self, place: Place) -> None:
        assert (self.once(place, reply="a secret reply"), self.once(place, reply="another")) == (
            "a secret reply",
            "a secret reply",
        )

        (row,) = self.rows(place)
        assert b"secret" not in row.reply
        assert b"k1" not in row.digest
        assert (
            timedelta(hours=23, minutes=59)
            < row.expires_at - datetime.now(UTC)
            <= timedelta(hours=24)
        )

    def test_of_many_at_once_one_runs(self, place: Place) -> None:
        ran: list[int] = []
        store = IdempotencyStore(place.engine, place.box)
        gate = threading.Barrier(8)

        def call(number: int) -> str:
            gate.wait()
            try:
                return store.once(
                    self.WHOSE, b"same", 1.0, lambda: (ran.append(number), (200, [], b"first"))[1]
                )[2].decode()  # type: ignore[func-returns-value]  # append returns nothing
            except Refusal as error:
                return error.code

        with ThreadPoolExecutor(8) as pool:
            answered = list(pool.map(call, range(8)))

        assert len(ran) == 1
        assert set(answered) <= {"first", "idempotency-key-in-use"}

    def test_a_claim_whose_process_died_ends_with_its_lease(self, place: Place) -> None:
        now = datetime.now(UTC)
        digest = b"d" * 32
        assert (
            idempotency.claim(
                place.engine, digest, b"body", "one", now, now + timedelta(seconds=60)
            )
            is None
        )
        later = now + timedelta(seconds=61)

        assert idempotency.claim(place.engine, digest, b"body", "two", now, now) is not None
        assert (
            idempotency.claim(
                place.engine, digest, b"body", "two", later, later + timedelta(seconds=60)
            )
            is None
        )
        idempotency.store(place.engine, digest, "one", b"late", later)
        idempotency.release(place.engine, digest, "one")
        idempotency.renew(place.engine, {"one": digest}, later + timedelta(hours=1))
        assert [(row.claim, row.reply, row.expires_at) for row in self.rows(place)] == [
            ("two", None, later + timedelta(seconds=60))
        ]

    def test_the_claim_of_a_call_that_still_runs_is_renewed_and_no_other(
        self, place: Place
    ) -> None:
        store = IdempotencyStore(place.engine, place.box)
        now = datetime.now(UTC)
        idempotency.claim(place.engine, b"d" * 32, b"body", "of a process that died", now, now)

        def leases() -> dict[bool, datetime]:
            return {
                row.claim == "of a process that died": row.expires_at for row in self.rows(place)
            }

        def run_over_its_lease() -> tuple[int, list[tuple[str, str]], bytes]:
            before = leases()
            assert before[False] <= datetime.now(UTC)
            store.renew()
            after = leases()
            assert after[False] > datetime.now(UTC) + timedelta(seconds=30)
            assert after[True] == before[True]
            with pytest.raises(Refusal, match="still running"):
                self.once(place, reply="second")
            return 200, [], b"first"

        store.once(self.WHOSE, b"same", -CLAIM_MARGIN.total_seconds(), run_over_its_lease)
        with mock.patch("penstock.db.idempotency.renew") as renewed:
            store.renew()

        assert self.once(place) == "first"
        assert not renewed.called

    def test_what_has_expired_is_purged(self, place: Place) -> None:
        now = datetime.now(UTC)
        for number in range(idempotency.PURGED_AT_A_TIME + 5):
            idempotency.claim(
                place.engine,
                number.to_bytes(32, "big"),
                b"",
                "x",
                now,
                now + timedelta(seconds=number % 2),
            )

        assert idempotency.purge(place.engine, now) == (idempotency.PURGED_AT_A_TIME + 6) // 2
        assert (
            idempotency.purge(place.engine, now + timedelta(seconds=2))
            == (idempotency.PURGED_AT_A_TIME + 5) // 2
        )
        assert self.rows(place) == []


class TestHost:
    """What a host does with the store while it follows the database."""

    @pytest.fixture
    def host(self, sqlite_place: Place) -> Iterator[Host]:
        host = Host(
            Settings(
                environment="test",
                database_url=sqlite_place.url,
                secret_keys=(sqlite_place.secret,),
            )
        )
        host.start()
        yield host
        host.stop()

    @pytest.fixture
    def often(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("penstock.host.housekeeping.HOUSEKEEPING_INTERVAL_S", 0.0)

    def rows(self, place: Place) -> dict[bytes, datetime]:
        with reading(place.engine) as connection:
            return {
                row.digest: row.expires_at for row in RowReader(connection).all(IdempotentReplyRow)
            }

    def once(self, host: Host, proceed: threading.Event) -> None:
        """Run a call that waits for an event, and whose lease ends soon."""
        assert host.services is not None
        host.services.idempotency.once(
            ("k",),
            b"same",
            10 - CLAIM_MARGIN.total_seconds(),
            lambda: (proceed.wait(30), (200, [], b"done"))[1],
        )

    def test_it_forgets_what_has_expired(
        self, often: None, host: Host, sqlite_place: Place
    ) -> None:
        now = datetime.now(UTC)
        idempotency.claim(sqlite_place.engine, b"old" * 8, b"", "x", now, now)
        idempotency.claim(sqlite_place.engine, b"new" * 8, b"", "x", now, now + timedelta(hours=1))

        assert eventually(lambda: self.rows(sqlite_place).keys() == {b"new" * 8})

    def test_it_renews_the_claims_of_calls_that_still_run(
        self, often: None, host: Host, sqlite_place: Place
    ) -> None:
        proceed = threading.Event()
        with ThreadPoolExecutor(1) as pool:
            pool.submit(self.once, host, proceed)

            renewed = eventually(
                lambda: any(
                    lease > datetime.now(UTC) + timedelta(seconds=30)
                    for lease in self.rows(sqlite_place).values()
                )
            )
            proceed.set()

        assert renewed

    def test_it_does_so_at_once_when_the_database_is_back(
        self, host: Host, sqlite_place: Place
    ) -> None:
        proceed = threading.Event()
        with ThreadPoolExecutor(1) as pool:
            pool.submit(self.once, host, proceed)
            with access_change(sqlite_place.engine) as rows:
                # What can't be read is away.
                rows.set(
                    EnvironmentRow, {EnvironmentRow.name: "test"}, {EnvironmentRow.name: "gone"}
                )
            assert eventually(lambda: not host.view.reachable())
            with access_change(sqlite_place.engine) as rows:
                rows.set(
                    EnvironmentRow, {EnvironmentRow.name: "gone"}, {EnvironmentRow.name: "test"}
                )

            renewed = eventually(
                lambda: any(
                    lease > datetime.now(UTC) + timedelta(seconds=30)
                    for lease in self.rows(sqlite_place).values()
                )
            )
            proceed.set()

        assert renewed


def eventually(fact: Callable[[], bool]) -> bool:
    """Return whether something becomes true within ten seconds."""
    deadline = time.monotonic() + 10
    while not fact() and time.monotonic() < deadline:
        time.sleep(0.02)
    return fact()


PLUGIN = """
import os, uuid
from penstock import Call, HttpTrigger, Pipeline, hookimpl

orders = Pipeline("orders", version="1.0.0", trigger=HttpTrigger(api_key=True, idempotent="key", timeout=5))

@orders.post("/")
def take(call: Call, body: dict): return {"id": uuid.uuid4().hex, "pid": os.getpid()}

@hookimpl
def penstock_pipelines(): return [orders]
"""  # noqa: E501  text as it is


def test_it_holds_across_workers_and_survives_a_restart(
    place: Place, serve: Callable[..., Server]
) -> None:
    place.plugin("orders", PLUGIN)
    place.policy("api-key")
    place.consumer("acme", "orders")
    key = place.key("acme").key

    def ids(server: Server, times: int) -> set[str]:
        import httpx

        headers = {"X-API-Key": key, "Idempotency-Key": "8e03978e-40d5-43dd-bc93-6894a57f9324"}
        return {
            httpx.post(
                f"{server.url}/v1/orders/", json={"a": 1}, headers=headers, timeout=10
            ).json()["id"]
            for _ in range(times)
        }

    with Server(place, workers=2) as first:
        before = ids(first, 10)
    after = ids(serve(place, workers=2), 10)

    assert len(before) == 1
    assert before == after


@pytest.mark.parametrize("header", ["one,two", "one, two", "same,same", '"one","two"'])
def test_two_headers_that_a_server_has_joined_are_no_key(header: str) -> None:
    with pytest.raises(Refusal, match="is sent once"):
        key_of(header)


def test_a_comma_within_quotes_belongs_to_the_key() -> None:
    assert key_of('"one,two"') == "one,two"
