"""The demo: login, orders and the pipeline that is refused."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import closing
from decimal import Decimal
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

import penstock_demo
from penstock import Caller, PipelineError
from penstock.testing import CallerClient, RunRecord, Runtime, a_call
from penstock_demo import login, orders
from penstock_demo.orders import Line, Order, price
from penstock_demo.store import Store

Start = Callable[..., Runtime]


@pytest.fixture
def demo(
    penstock_runtime: Start, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Runtime]:
    runtime = penstock_runtime(penstock_demo)
    runtime.designate("login")
    with closing(Store(f"sqlite:///{tmp_path}/orders.db")) as store:
        monkeypatch.setattr(orders, "_store", store)
        yield runtime


def an_order(reference: str = "PO-1", **changes: object) -> dict[str, Any]:
    line = {"sku": "PEN-01", "quantity": 3, "unit_price": "1.25"}
    return {"reference": reference, "country": "PT", "currency": "EUR", "lines": [line], **changes}


def partner(demo: Runtime, name: str = "acme") -> CallerClient:
    return demo.client(name, scopes={"orders:write"})


def test_an_order_is_priced_with_tax_and_can_be_read_again(demo: Runtime) -> None:
    client = partner(demo)

    taken = client.post("/v1/orders/", json=an_order())

    assert taken.status_code == 201
    assert taken.json is not None
    assert {name: taken.json[name] for name in ("net", "tax", "total")} == {
        "net": "3.75",
        "tax": "0.86",
        "total": "4.61",
    }
    assert client.get(taken.headers["Location"]).json == taken.json


@pytest.mark.parametrize(
    ("country", "quantity", "unit_price", "net", "tax"),
    [
        ("PT", 1, "0.02", "0.02", "0.00"),
        ("ES", 1, "0.50", "0.50", "0.11"),  # 0.105 rounds up
        ("DE", 10_000, "99999.99", "999999900.00", "189999981.00"),
        ("FR", 3, "0.10", "0.30", "0.06"),  # floats would say 0.30000000000000004
    ],
)
def test_amounts_are_exact(
    country: Any, quantity: int, unit_price: str, net: str, tax: str
) -> None:
    receipt = price(
        Order("PO-1", country, "EUR", [Line("PEN-01", quantity, Decimal(unit_price))]), "id"
    )

    assert (str(receipt.net), str(receipt.tax)) == (net, tax)
    assert receipt.total == receipt.net + receipt.tax


@pytest.mark.parametrize("unit_price", ["0", "-1", "1.001", "NaN", "Infinity", "1e-30"])
def test_an_impossible_price_is_refused_by_name(unit_price: str) -> None:
    with pytest.raises(PipelineError) as refused:
        price(Order("PO-1", "PT", "EUR", [Line("PEN-01", 1, Decimal(unit_price))]), "id")

    assert refused.value.extra["errors"] == [
        {
            "pointer": "/lines/0/unit_price",
            "detail": "A price is above 0 and below 1000000, with at most two decimals",
        }
    ]


@pytest.mark.parametrize("unit_price", ["1E+30", "9" * 40, "1E+999999"])
def test_an_absurd_price_is_a_422_and_no_failure(demo: Runtime, unit_price: str) -> None:
    line = {"sku": "PEN-01", "quantity": 1, "unit_price": unit_price}

    answered = partner(demo).post("/v1/orders/", json=an_order(lines=[line]))

    assert answered.status_code == 422


def test_an_unknown_article_is_refused_with_its_pointer(demo: Runtime) -> None:
    lines = [*an_order()["lines"], {"sku": "NOPE", "quantity": 1, "unit_price": "1"}]

    answered = partner(demo).post("/v1/orders/", json=an_order(lines=lines))

    assert answered.status_code == 422
    assert answered.json is not None
    assert answered.json["errors"] == [
        {"pointer": "/lines/1/sku", "detail": "NOPE is not in our catalogue"}
    ]


def test_every_fault_of_an_order_is_listed(demo: Runtime) -> None:
    lines = [
        {"sku": "lower", "quantity": 0},
        {"sku": "PEN-01", "quantity": 1, "unit_price": "1", "colour": "red"},
    ]

    answered = partner(demo).post(
        "/v1/orders/", json={"country": "XX", "currency": "EUR", "lines": lines}
    )

    assert answered.status_code == 422
    assert answered.json is not None
    assert {fault["pointer"] for fault in answered.json["errors"]} == {
        "/reference",
        "/country",
        "/lines/0/sku",
        "/lines/0/quantity",
        "/lines/0/unit_price",
        "/lines/1/colour",
    }


def test_a_reference_is_taken_once_by_each_partner(demo: Runtime) -> None:
    acme, bolt = partner(demo, "acme"), partner(demo, "bolt")

    answers = [
        client.post("/v1/orders/", json=an_order("PO-7")).status_code
        for client in (acme, acme, bolt)
    ]

    assert answers == [201, 409, 201]


def test_a_partner_does_not_see_another_ones_orders(demo: Runtime) -> None:
    acme, bolt = partner(demo, "acme"), partner(demo, "bolt")
    taken = acme.post("/v1/orders/", json=an_order())

    assert bolt.get(taken.headers["Location"]).status_code == 404
    assert bolt.get("/v1/orders/").json == {"orders": []}
    assert bolt.get(f"/v1/orders/?after={(taken.json or {})['id']}").status_code == 422


def test_orders_are_listed_newest_first_page_by_page(demo: Runtime) -> None:
    client = partner(demo)
    for number in range(5):
        client.post("/v1/orders/", json=an_order(f"PO-{number}"))

    first = (client.get("/v1/orders/?limit=3").json or {})["orders"]
    second = (client.get(f"/v1/orders/?limit=3&after={first[-1]['id']}").json or {})["orders"]

    assert [order["reference"] for order in first + second] == [
        "PO-4",
        "PO-3",
        "PO-2",
        "PO-1",
        "PO-0",
    ]


@pytest.mark.parametrize("limit", ["0", "51", "x", "-1", "", "9" * 5000, "٣"])
def test_an_impossible_page_is_refused(demo: Runtime, limit: str) -> None:
    assert partner(demo).get("/v1/orders/", query_string={"limit": limit}).status_code == 422


def test_a_login_gives_a_token_that_takes_orders(demo: Runtime) -> None:
    with_key = demo.client(token=False)

    signed_in = with_key.post("/v1/login/", json={"user": "demo", "password": "demo"})
    token = (signed_in.json or {})["access_token"]

    assert signed_in.headers["Cache-Control"] == "no-store"
    assert (
        with_key.post(
            "/v1/orders/", json=an_order(), headers={"Authorization": f"Bearer {token}"}
        ).status_code
        == 201
    )
    assert with_key.post("/v1/orders/", json=an_order()).status_code == 401


def test_a_reader_may_not_take_orders(demo: Runtime) -> None:
    with_key = demo.client(token=False)
    token = (with_key.post("/v1/login/", json={"user": "reader", "password": "reader"}).json or {})[
        "access_token"
    ]

    answered = with_key.post(
        "/v1/orders/", json=an_order(), headers={"Authorization": f"Bearer {token}"}
    )

    assert (answered.status_code, (answered.json or {})["type"]) == (403, "insufficient-scope")


@pytest.mark.parametrize(
    ("user", "password"), [("demo", "wrong"), ("nobody", "demo"), ("", ""), ("demo", "x" * 100_000)]
)
def test_a_wrong_login_is_one_and_the_same_401(demo: Runtime, user: str, password: str) -> None:
    answered = demo.client(token=False).post(
        "/v1/login/", json={"user": user, "password": password}
    )

    assert answered.status_code == 401
    assert (answered.json or {})["detail"] == "User or password is wrong."


def test_an_unknown_user_costs_a_hash_as_a_known_one_does(
    demo: Runtime, monkeypatch: pytest.MonkeyPatch
) -> None:
    checked: list[str] = []
    real = login._hasher  # noqa: SLF001  what costs the time

    class Counting:
        def verify(self, hashed: str, password: str) -> bool:
            checked.append(hashed.rpartition("$")[0].rpartition("$")[0])  # the hash's kind and cost
            return real.verify(hashed, password)

    monkeypatch.setattr(login, "_hasher", Counting())
    client = demo.client(token=False)
    for user in ("demo", "nobody"):
        client.post("/v1/login/", json={"user": user, "password": "wrong"})

    assert len(checked) == 2
    assert checked[0] == checked[1]


def test_status_is_refused_by_the_default_policy_and_open_under_any(demo: Runtime) -> None:
    (toggles,) = [reasons for name, reasons in demo.blocked().items() if name == "v1/status"]

    assert any("set api_key=True" in reason for reason in toggles)
    assert any("set jwt=True" in reason for reason in toggles)
    assert demo.anonymous().get("/v1/status/").status_code == 503

    demo.policy("any")

    assert demo.anonymous().get("/v1/status/").json == {"status": "running", "environment": "test"}


def test_credentials_are_not_in_the_repr() -> None:
    assert "hunter2" not in repr(login.Credentials("ann", "hunter2"))


class Supplier:
    """A local server in the supplier's place: it fails so many times, then says what is left."""

    def __init__(self, failures: int, left: int) -> None:
        asked: list[str] = []

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                asked.append(self.path)
                good = len(asked) > failures
                body = json.dumps({"left": left}).encode() if good else b"away"
                self.send_response(200 if good else 503)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: object) -> None:
                """Say nothing."""

        self.asked = asked
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        self.url = f"http://127.0.0.1:{self.server.server_port}"


@pytest.fixture
def supplier(demo: Runtime) -> Iterator[Callable[..., Supplier]]:
    made: list[Supplier] = []

    def start(*, failures: int = 0, left: int = 100) -> Supplier:
        made.append(Supplier(failures, left))
        demo.operate("variable", "set", "supplier_url", made[-1].url, "--env", "test")
        return made[-1]

    yield start
    for one in made:
        one.server.shutdown()
        one.server.server_close()


def test_a_supplier_that_is_away_now_and_then_is_asked_again(
    demo: Runtime, supplier: Callable[..., Supplier]
) -> None:
    flaky = supplier(failures=2)

    taken = partner(demo).post("/v1/orders/", json=an_order())
    (run,) = demo.runs()

    assert (taken.status_code, flaky.asked) == (201, ["/stock/PEN-01"] * 3)
    steps = {step.name: [bool(attempt.error) for attempt in step.attempts] for step in run["steps"]}
    assert steps == {"net_of": [False], "tax_of": [False], "in_stock": [True, True, False]}


def test_a_supplier_that_stays_away_is_told_as_such(
    demo: Runtime, supplier: Callable[..., Supplier]
) -> None:
    supplier(failures=99)

    answered = partner(demo).post("/v1/orders/", json=an_order())

    assert (
        answered.status_code,
        (answered.json or {})["type"],
        answered.headers["Retry-After"],
    ) == (503, "supplier-away", "10")


def test_what_is_not_in_stock_is_not_ordered(
    demo: Runtime, supplier: Callable[..., Supplier]
) -> None:
    supplier(left=2)

    answered = partner(demo).post("/v1/orders/", json=an_order())

    assert (answered.status_code, (answered.json or {})["errors"]) == (
        409,
        [{"pointer": "/lines/0", "detail": "Not in stock"}],
    )
    assert (partner(demo).get("/v1/orders/").json or {})["orders"] == []


def ndjson(number: int) -> bytes:
    return b"\n".join(json.dumps(an_order(f"PO-{line}")).encode() for line in range(number))


def test_a_file_of_thousands_of_orders_is_a_durable_run_whose_progress_is_seen(
    demo: Runtime,
) -> None:
    client = partner(demo)

    accepted = client.post(
        "/v1/orders/import", data=ndjson(2500), content_type="application/x-ndjson"
    )
    demo.work()
    document = client.get(accepted.headers["Location"]).json or {}

    assert (accepted.status_code, document["status"]) == (202, "succeeded")
    assert document["result"] == {"lines": 2500, "taken": 2500, "refused": []}
    assert document["progress"] == {"done": 2500, "of": 2500, "note": "2500 taken"}
    assert [step.name for step in demo.runs()[0]["steps"]] == ["take_lines"] * 13


def test_lines_that_are_no_orders_are_told_by_number_and_the_others_are_taken(
    demo: Runtime,
) -> None:
    client = partner(demo)
    rows = (
        "reference,country,currency,sku,quantity,unit_price",
        "A,PT,EUR,PEN-01,3,1.25",
        "B,PT,EUR,NOPE,1,1",
        "C,PT,EUR,PEN-01,many,1",
        "A,PT,EUR,PEN-01,1,1",
    )
    file = "\n".join(rows).encode()

    location = client.post("/v1/orders/import", data=file, content_type="text/csv").headers[
        "Location"
    ]
    demo.work()
    result = (client.get(location).json or {})["result"]

    assert (result["lines"], result["taken"], [line["line"] for line in result["refused"]]) == (
        4,
        1,
        ["2", "3", "4"],
    )


def test_lines_that_an_earlier_attempt_took_are_taken_once(demo: Runtime) -> None:
    call = a_call(caller=Caller(consumer="acme"))

    first = orders.take_lines(call, 1, ndjson(3).splitlines())
    again = orders.take_lines(call, 1, ndjson(3).splitlines())

    assert (first, again) == ((3, []), (3, []))


@pytest.mark.parametrize(
    ("content_type", "file", "code"),
    [
        ("application/json", b"{}", "unknown-file"),
        ("text/csv", b"a,b\n1,2\n", "other-columns"),
        ("text/csv", b"", "other-columns"),
        ("application/x-ndjson", b"\n\n", "no-lines"),
        ("application/x-ndjson", b"\xff", "not-text"),
    ],
)
def test_what_is_no_file_of_orders_is_refused(
    demo: Runtime, content_type: str, file: bytes, code: str
) -> None:
    client = partner(demo)

    location = client.post("/v1/orders/import", data=file, content_type=content_type).headers[
        "Location"
    ]
    demo.work()

    assert (client.get(location).json or {})["problem"]["type"] == code


def test_the_nightly_report_counts_orders_and_nobody_can_call_it(demo: Runtime) -> None:
    partner(demo).post("/v1/orders/", json=an_order())

    started: str | None = demo.tick("report")
    performed: int = demo.work()

    runs: list[RunRecord] = demo.runs(pipeline="report", status="succeeded")
    (report,) = runs
    errors: list[str] = [attempt.error for step in report["steps"] for attempt in step.attempts]
    assert (started, performed, errors) == (report["id"], 1, [""])
    assert report["bodies"] is not None
    assert (report["status"], report["bodies"]["output"]["json"]) == (
        "succeeded",
        {"orders": 1, "partners": {"acme": 1}},
    )
    assert demo.anonymous().post("/v1/report/").status_code == 404
