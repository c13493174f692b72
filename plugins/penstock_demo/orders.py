"""Partners' orders: validated, priced with tax, checked against stock, and stored.

They arrive one by one, or as a file.
"""

from __future__ import annotations

import uuid
from decimal import ROUND_HALF_UP, Decimal
from functools import partial
from typing import Annotated, Literal

import httpx
import msgspec

from penstock import Call, HttpTrigger, Pipeline, PipelineError, Reply, Retry, gather, step
from penstock_demo.lines import read_lines
from penstock_demo.store import Store

orders = Pipeline(
    "orders",
    version="1.4.0",
    summary="Takes orders from partners",
    trigger=HttpTrigger(
        api_key=True, jwt=True, scopes={"orders:write"}, idempotent="key", max_body=8 * 1024 * 1024
    ),
)

TAX = {"PT": Decimal("0.23"), "ES": Decimal("0.21"), "DE": Decimal("0.19"), "FR": Decimal("0.20")}
CATALOGUE = {"PEN-01": "Pen", "INK-02": "Ink", "NIB-03": "Nib"}
CENT = Decimal("0.01")
MAX_PRICE = 1_000_000
PAGE = 50
BATCH = 200  # lines of a file that one step takes
MAX_REPORTED = 100  # rejected lines in a reply
SUPPLIER = "supplier_url"  # a variable; if it is not set, everything is in stock
_store = Store()

PRICE = {"pattern": r"^[0-9]{1,6}(\.[0-9]{1,2})?$"}
Price = Annotated[
    Decimal,
    msgspec.Meta(description="Net price of one, in the order's currency", extra_json_schema=PRICE),
]


class Line(msgspec.Struct, forbid_unknown_fields=True):
    """One article of an order."""

    sku: Annotated[str, msgspec.Meta(pattern=r"^[A-Z0-9-]{1,32}$")]
    quantity: Annotated[int, msgspec.Meta(ge=1, le=10_000)]
    unit_price: Price


class Order(msgspec.Struct, forbid_unknown_fields=True):
    """An order of a partner. `reference` is chosen by the partner and unique."""

    reference: Annotated[str, msgspec.Meta(min_length=1, max_length=64)]
    country: Literal["PT", "ES", "DE", "FR"]
    currency: Literal["EUR"]
    lines: Annotated[list[Line], msgspec.Meta(min_length=1, max_length=500)]


class Receipt(msgspec.Struct):
    """A priced order. Amounts are exact decimals, written as text."""

    id: str
    reference: str
    country: str
    currency: str
    net: Decimal
    tax: Decimal
    total: Decimal
    lines: list[Line]


def price(order: Order, order_id: str) -> Receipt:
    """Return the order with its amounts; tax is rounded once, on the sum.

    Raises PipelineError for an unknown article or an impossible price.
    """
    for index, line in enumerate(order.lines):
        if line.sku not in CATALOGUE:
            fault = {
                "pointer": f"/lines/{index}/sku",
                "detail": f"{line.sku} is not in our catalogue",
            }
            raise PipelineError(
                422,
                "Unknown article",
                "The order has an article that we don't sell.",
                type="unknown-article",
                errors=[fault],
            )
        if (
            not line.unit_price.is_finite()
            or not 0 < line.unit_price < MAX_PRICE
            or line.unit_price != line.unit_price.quantize(CENT)
        ):
            fault = {
                "pointer": f"/lines/{index}/unit_price",
                "detail": f"A price is above 0 and below {MAX_PRICE}, with at most two decimals",
            }
            raise PipelineError(
                422,
                "Impossible price",
                "The order has a price that can't be.",
                type="impossible-price",
                errors=[fault],
            )
    net = net_of(order.lines)
    tax = tax_of(net, order.country)
    return Receipt(
        order_id, order.reference, order.country, order.currency, net, tax, net + tax, order.lines
    )


@step()
def net_of(lines: list[Line]) -> Decimal:
    """Return the sum of the lines."""
    return sum((line.unit_price * line.quantity for line in lines), Decimal(0)).quantize(CENT)


@step()
def tax_of(net: Decimal, country: str) -> Decimal:
    """Return the tax of a country."""
    return (net * TAX[country]).quantize(CENT, ROUND_HALF_UP)


@step(retry=Retry(attempts=4, backoff=0.1, on=httpx.HTTPError), timeout=5)
def in_stock(call: Call, sku: str, quantity: int) -> bool:
    """Ask the supplier whether so many are in stock; failed requests are retried."""
    url = call.variables.get(SUPPLIER)
    if url is None:
        return True
    answered = call.http.get(f"{url}/stock/{sku}").raise_for_status()
    return int(answered.json()["left"]) >= quantity


def check_stock(call: Call, order: Order) -> None:
    """Check all lines of an order in parallel. Raises PipelineError if one is not in stock."""
    try:
        in_stock_by_line = gather(
            *(partial(in_stock, call, line.sku, line.quantity) for line in order.lines)
        )
    except httpx.HTTPError:
        headers = {"Retry-After": "10"}
        raise PipelineError(
            503,
            "Supplier away",
            "Stock can't be asked for now; try again.",
            type="supplier-away",
            headers=headers,
        ) from None
    missing = [
        {"pointer": f"/lines/{index}", "detail": "Not in stock"}
        for index, available in enumerate(in_stock_by_line)
        if not available
    ]
    if missing:
        raise PipelineError(
            409,
            "Not in stock",
            "The order has more than there is.",
            type="not-in-stock",
            errors=missing,
        )


@orders.post("/")
def take_order(call: Call, order: Order) -> Reply:
    """Accept an order. A reference is accepted once."""
    receipt = price(order, uuid.uuid4().hex)
    check_stock(call, order)
    if not _store.add(_partner(call), receipt.id, receipt.reference, msgspec.json.encode(receipt)):
        raise PipelineError(
            409,
            "Already ordered",
            f"There is an order with the reference {order.reference!r}.",
            type="already-ordered",
        )
    return Reply(201, {"Location": f"/v1/orders/{receipt.id}"}, receipt)


class Imported(msgspec.Struct):
    """The result of a file of orders: how many were accepted, and the first rejected lines.

    A rejected line has its number and the reason.
    """

    lines: int
    taken: int
    refused: list[dict[str, str]]


@orders.post("/import", mode="durable")
def import_orders(call: Call, file: bytes) -> Imported:
    """Accept a file of orders.

    It is NDJSON with one order a line, or CSV with the columns reference, country, currency, sku,
    quantity, unit_price.
    """
    lines = read_lines(call.content_type, file)
    done = Imported(len(lines), 0, [])
    for start in range(0, len(lines), BATCH):
        taken, refused = take_lines(call, start + 1, lines[start : start + BATCH])
        done.taken += taken
        done.refused = (done.refused + refused)[:MAX_REPORTED]
        call.progress(min(start + BATCH, len(lines)), of=len(lines), note=f"{done.taken} taken")
    return done


@step()
def take_lines(call: Call, first: int, lines: list[bytes]) -> tuple[int, list[dict[str, str]]]:
    """Accept some lines.

    Ids are made of the run and the line number, so a line that was stored before a worker died is
    recognised and not stored twice.
    """
    taken, refused = 0, []
    for number, line in enumerate(lines, first):
        try:
            receipt = price(
                msgspec.json.decode(line, type=Order),
                uuid.uuid5(uuid.UUID(call.run), str(number)).hex,
            )
        except (msgspec.MsgspecError, PipelineError) as error:
            refused.append({"line": str(number), "detail": getattr(error, "detail", str(error))})
            continue
        fresh = _store.add(
            _partner(call), receipt.id, receipt.reference, msgspec.json.encode(receipt)
        )
        if fresh or _store.get(_partner(call), receipt.id) is not None:
            taken += 1
        else:
            refused.append(
                {
                    "line": str(number),
                    "detail": f"There is an order with the reference {receipt.reference!r}.",
                }
            )
    return taken, refused


@orders.get("/")
def list_orders(
    call: Call,
    *,
    limit: Annotated[int, msgspec.Meta(ge=1, le=PAGE)] = PAGE,
    after: str | None = None,
) -> dict[str, object]:
    """List the partner's own orders, newest first, in pages of `?limit=` from `?after=`."""
    documents = _store.page(_partner(call), limit, after)
    if documents is None:
        raise PipelineError(
            422, "Impossible page", "after names no order of yours.", type="impossible-page"
        )
    return {"orders": [msgspec.Raw(document) for document in documents]}


@orders.get("/{order_id}")
def show_order(call: Call, order_id: str) -> Receipt:
    """Show one of the partner's own orders."""
    document = _store.get(_partner(call), order_id)
    if document is None:
        raise PipelineError(
            404, "No such order", "There is no such order of yours.", type="no-such-order"
        )
    return msgspec.json.decode(document, type=Receipt)


def store() -> Store:
    """Return the store of orders."""
    return _store


def _partner(call: Call) -> str:
    return call.caller.consumer or ""
