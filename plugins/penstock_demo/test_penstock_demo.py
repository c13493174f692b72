"""The demo: login, orders and the pipeline that is refused."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import closing
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

import penstock_demo
from penstock import PipelineError
from penstock.testing import CallerClient, Runtime
from penstock_demo import login, orders
from penstock_demo.orders import Line, Order, price
from penstock_demo.store import Store

Start = Callable[..., Runtime]


@pytest.fixture
def demo(penstock_runtime: Start, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Runtime]:
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
    assert {name: taken.json[name] for name in ("net", "tax", "total")} == {"net": "3.75", "tax": "0.86", "total": "4.61"}
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
def test_amounts_are_exact(country: Any, quantity: int, unit_price: str, net: str, tax: str) -> None:
    receipt = price(Order("PO-1", country, "EUR", [Line("PEN-01", quantity, Decimal(unit_price))]), "id")

    assert (str(receipt.net), str(receipt.tax)) == (net, tax)
    assert receipt.total == receipt.net + receipt.tax


@pytest.mark.parametrize(("unit_price"), ["0", "-1", "1.001", "NaN", "Infinity", "1e-30"])
def test_an_impossible_price_is_refused_by_name(unit_price: str) -> None:
    with pytest.raises(PipelineError) as refused:
        price(Order("PO-1", "PT", "EUR", [Line("PEN-01", 1, Decimal(unit_price))]), "id")

    assert refused.value.extra["errors"] == [
        {"pointer": "/lines/0/unit_price", "detail": "A price is above 0 and below 1000000, with at most two decimals"}
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
    assert answered.json["errors"] == [{"pointer": "/lines/1/sku", "detail": "NOPE is not in our catalogue"}]


def test_every_fault_of_an_order_is_listed(demo: Runtime) -> None:
    lines = [{"sku": "lower", "quantity": 0}, {"sku": "PEN-01", "quantity": 1, "unit_price": "1", "colour": "red"}]

    answered = partner(demo).post("/v1/orders/", json={"country": "XX", "currency": "EUR", "lines": lines})

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

    answers = [client.post("/v1/orders/", json=an_order("PO-7")).status_code for client in (acme, acme, bolt)]

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

    assert [order["reference"] for order in first + second] == ["PO-4", "PO-3", "PO-2", "PO-1", "PO-0"]


@pytest.mark.parametrize("limit", ["0", "51", "x", "-1", "", "9" * 5000, "٣"])
def test_an_impossible_page_is_refused(demo: Runtime, limit: str) -> None:
    assert partner(demo).get("/v1/orders/", query_string={"limit": limit}).status_code == 422


def test_a_login_gives_a_token_that_takes_orders(demo: Runtime) -> None:
    with_key = demo.client(token=False)

    signed_in = with_key.post("/v1/login/", json={"user": "demo", "password": "demo"})
    token = (signed_in.json or {})["access_token"]

    assert signed_in.headers["Cache-Control"] == "no-store"
    assert with_key.post("/v1/orders/", json=an_order(), headers={"Authorization": f"Bearer {token}"}).status_code == 201
    assert with_key.post("/v1/orders/", json=an_order()).status_code == 401


def test_a_reader_may_not_take_orders(demo: Runtime) -> None:
    with_key = demo.client(token=False)
    token = (with_key.post("/v1/login/", json={"user": "reader", "password": "reader"}).json or {})["access_token"]

    answered = with_key.post("/v1/orders/", json=an_order(), headers={"Authorization": f"Bearer {token}"})

    assert (answered.status_code, (answered.json or {})["type"]) == (403, "insufficient-scope")


@pytest.mark.parametrize(("user", "password"), [("demo", "wrong"), ("nobody", "demo"), ("", ""), ("demo", "x" * 100_000)])
def test_a_wrong_login_is_one_and_the_same_401(demo: Runtime, user: str, password: str) -> None:
    answered = demo.client(token=False).post("/v1/login/", json={"user": user, "password": password})

    assert answered.status_code == 401
    assert (answered.json or {})["detail"] == "User or password is wrong."


def test_an_unknown_user_costs_a_hash_as_a_known_one_does(demo: Runtime, monkeypatch: pytest.MonkeyPatch) -> None:
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
    (toggles,) = [reasons for name, reasons in demo.refused().items() if name == "v1/status"]

    assert any("set api_key=True" in reason for reason in toggles)
    assert any("set jwt=True" in reason for reason in toggles)
    assert demo.anonymous().get("/v1/status/").status_code == 503

    demo.policy("any")

    assert demo.anonymous().get("/v1/status/").json == {"status": "running", "environment": "test"}


def test_credentials_are_not_in_the_repr() -> None:
    assert "hunter2" not in repr(login.Credentials("ann", "hunter2"))
