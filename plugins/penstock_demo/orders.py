"""Partners' orders: validated, priced with tax, and kept in a table of our own."""

from __future__ import annotations

import uuid
from decimal import ROUND_HALF_UP, Decimal
from typing import Annotated, Literal

import msgspec

from penstock import Call, HttpTrigger, Pipeline, PipelineError, Reply
from penstock_demo.store import Store

orders = Pipeline(
    "orders",
    version="1.4.0",
    summary="Takes orders from partners",
    trigger=HttpTrigger(api_key=True, jwt=True, scopes={"orders:write"}, idempotent="key"),
)

TAX = {"PT": Decimal("0.23"), "ES": Decimal("0.21"), "DE": Decimal("0.19"), "FR": Decimal("0.20")}
CATALOGUE = {"PEN-01": "Pen", "INK-02": "Ink", "NIB-03": "Nib"}
CENT = Decimal("0.01")
DEAREST = 1_000_000
PAGE = 50
_store = Store()

PRICE = {"pattern": r"^[0-9]{1,6}(\.[0-9]{1,2})?$"}
Price = Annotated[Decimal, msgspec.Meta(description="Net price of one, in the order's currency", extra_json_schema=PRICE)]


class Line(msgspec.Struct, forbid_unknown_fields=True):
    """One article of an order."""

    sku: Annotated[str, msgspec.Meta(pattern=r"^[A-Z0-9-]{1,32}$")]
    quantity: Annotated[int, msgspec.Meta(ge=1, le=10_000)]
    unit_price: Price


class Order(msgspec.Struct, forbid_unknown_fields=True):
    """What a partner orders; `reference` is the partner's own, and unique."""

    reference: Annotated[str, msgspec.Meta(min_length=1, max_length=64)]
    country: Literal["PT", "ES", "DE", "FR"]
    currency: Literal["EUR"]
    lines: Annotated[list[Line], msgspec.Meta(min_length=1, max_length=500)]


class Receipt(msgspec.Struct):
    """What we made of an order; amounts are exact decimals, in text."""

    id: str
    reference: str
    country: str
    currency: str
    net: Decimal
    tax: Decimal
    total: Decimal
    lines: list[Line]


def price(order: Order, order_id: str) -> Receipt:
    """Add an order up; tax is rounded once, on the sum. Raises PipelineError for what we don't sell."""
    for index, line in enumerate(order.lines):
        if line.sku not in CATALOGUE:
            fault = {"pointer": f"/lines/{index}/sku", "detail": f"{line.sku} is not in our catalogue"}
            raise PipelineError(422, "Unknown article", "The order has an article that we don't sell.", type="unknown-article", errors=[fault])
        if not line.unit_price.is_finite() or not 0 < line.unit_price < DEAREST or line.unit_price != line.unit_price.quantize(CENT):
            fault = {"pointer": f"/lines/{index}/unit_price", "detail": f"A price is above 0 and below {DEAREST}, with at most two decimals"}
            raise PipelineError(422, "Impossible price", "The order has a price that can't be.", type="impossible-price", errors=[fault])
    net = sum((line.unit_price * line.quantity for line in order.lines), Decimal(0)).quantize(CENT)
    tax = (net * TAX[order.country]).quantize(CENT, ROUND_HALF_UP)
    return Receipt(order_id, order.reference, order.country, order.currency, net, tax, net + tax, order.lines)


@orders.post("/")
def take_order(call: Call, order: Order) -> Reply:
    """Take an order; one reference is taken once."""
    receipt = price(order, uuid.uuid4().hex)
    if not _store.add(_partner(call), receipt.id, receipt.reference, msgspec.json.encode(receipt)):
        raise PipelineError(409, "Already ordered", f"There is an order with the reference {order.reference!r}.", type="already-ordered")
    return Reply(201, {"Location": f"/v1/orders/{receipt.id}"}, receipt)


@orders.get("/")
def list_orders(call: Call, *, limit: Annotated[int, msgspec.Meta(ge=1, le=PAGE)] = PAGE, after: str | None = None) -> dict[str, object]:
    """List the partner's own orders, newest first; `?limit=` and `?after=` page through them."""
    found = _store.page(_partner(call), limit, after)
    if found is None:
        raise PipelineError(422, "Impossible page", "after names no order of yours.", type="impossible-page")
    return {"orders": [msgspec.Raw(document) for document in found]}


@orders.get("/{order_id}")
def show_order(call: Call, order_id: str) -> Receipt:
    """Show one of the partner's own orders."""
    document = _store.get(_partner(call), order_id)
    if document is None:
        raise PipelineError(404, "No such order", "There is no such order of yours.", type="no-such-order")
    return msgspec.json.decode(document, type=Receipt)


def _partner(call: Call) -> str:
    return call.caller.consumer or ""
