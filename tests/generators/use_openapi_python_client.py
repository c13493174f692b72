"""Call a running server with the client that openapi-python-client made of its description:
`use_….py FOLDER hard|demo URL KEY TOKEN`."""

from __future__ import annotations

import io
import sys
from datetime import UTC, date, datetime
from importlib import import_module
from typing import Any
from uuid import UUID, uuid4

folder, which, url, key, token = sys.argv[1:]
sys.path.insert(0, folder)
package = "pipelines_of_test_client"
models: Any = import_module(f"{package}.models")
types: Any = import_module(f"{package}.types")
client = import_module(package).AuthenticatedClient(
    base_url=url, token=token, headers={"X-API-Key": key}, raise_on_unexpected_status=True
)


def call(operation: str, *args: Any, **more: Any) -> Any:
    """Make a call and return what the client made of the reply."""
    major, pipeline = operation.split("_")[:2]
    return import_module(f"{package}.api.{major}{pipeline}.{operation}").sync(
        *args, client=client, **more
    )


def use_hard() -> None:
    now, identifier = datetime(2026, 11, 26, 12, 0, 1, tzinfo=UTC), uuid4()
    everything = models.Everything(
        level=models.Level.HIGH,
        placed=now,
        day=date(2026, 11, 26),
        at="12:00:00Z",
        took="PT1S",
        id=identifier,
        price="1.50",
        raw="aGVsbG8=",
        pair=[1, "a"],
        point=[1.0, 2.0],
        address=models.Address(street="High Street"),
        colours=[models.Colour.GREEN],
        maybe=models.Address(street="Low Street", zip_code="1"),
    )
    reply = call("v1_orders_reply_everything_post", body=everything)
    assert (reply.level, reply.placed, reply.day, reply.id, reply.price) == (
        models.Level.HIGH,
        now,
        date(2026, 11, 26),
        identifier,
        "1.50",
    )
    assert (reply.pair, reply.point, reply.maybe.zip_code, reply.colours) == (
        [1, "a"],
        [1.0, 2.0],
        "1",
        [models.Colour.GREEN],
    )

    order = call(
        "v1_orders_create_order_post",
        body=models.NewOrder(reference="a", quantity=2, level=models.Level.HIGH),
    )
    assert order == models.NewOrder(reference="a", quantity=2, level=models.Level.HIGH)
    assert call("v1_orders_show_order_get", 5, models.Colour.RED).quantity == 5
    assert call("v1_orders_show_order_get", 0, models.Colour.RED) is None
    second = call(
        "v2_orders_create_order2_post",
        body=models.OrdersV2NewOrder(reference="b", due=now, pair=[2, "b"], zip_code="9"),
    )
    assert (second.due, second.pair, second.colour, second.zip_code) == (
        now,
        [2, "b"],
        models.Colour.GREEN,
        "9",
    )
    assert [item.reference for item in call("v2_orders_list_orders2_get").items] == ["first"]
    replaced = call(
        "v2_orders_replace_order_put",
        identifier,
        body=models.OrdersV2NewOrder(reference="c"),
        idempotency_key=str(uuid4()),
    )
    assert replaced["reference"] == "c"

    assert (
        call("v1_files_reverse_post", body=types.File(io.BytesIO(b"abc\xff"))).payload.read()
        == b"\xffcba"
    )
    files = [types.File(io.BytesIO(b"1"), "b"), types.File(io.BytesIO(b"2"), "c")]
    picture = models.Picture(
        title="t",
        image=types.File(io.BytesIO(b"12345"), "a.png", "image/png"),
        more=files,
        level=models.Level.HIGH,
    )
    assert call("v1_files_upload_post", body=picture).additional_properties == {
        "image": 5,
        "more": 2,
        "level": 2,
    }
    form = models.SignUp(
        name="Ann", age=5, colours=[models.Colour.RED, models.Colour.GREEN], news=True
    )
    assert call("v1_files_sign_up_post", body=form) == form
    assert call("v1_files_anything_post", body={"a": [1]}) == {"a": [1]}

    cat = models.Cat(type_=models.CatType.CAT, name="Tom", lives=7)
    assert call("v1_animals_admit_post", body=cat) == cat
    dog = models.Dog(type_=models.DogType.DOG, name="Rex", barks=False)
    assert call("v1_animals_admit_many_post", body=[cat, None, dog]) == [cat, None, dog]
    drawing = models.Drawing(shapes=[models.Square(shape=models.SquareShape.SQUARE, side=1.5)])
    assert call("v1_animals_draw_post", body=drawing).shapes == drawing.shapes
    assert (
        call("v1_animals_grow_post", body=models.Tree(name="a", below=[models.Tree(name="b")]))
        .below[0]
        .name
        == "b"
    )

    run = call(
        "v1_jobs_work_post",
        body=models.NewOrder(reference="a", quantity=2),
        prefer="wait=20",
        idempotency_key=str(uuid4()),
    )
    assert (type(run.id), run.status, run.result.quantity) == (UUID, models.RunStatus.SUCCEEDED, 2)
    assert call("v1_jobs_runs_show_get", str(run.id)).id == run.id


def use_demo() -> None:
    token = call("v1_login_sign_in_post", body=models.Credentials(user="demo", password="demo"))
    assert token.token_type == "Bearer"
    line = models.Line(sku="PEN-01", quantity=3, unit_price="1.25")
    order = models.Order(
        reference=str(uuid4()),
        country=models.OrderCountry.PT,
        currency=models.OrderCurrency.EUR,
        lines=[line],
    )
    taken = call("v1_orders_take_order_post", body=order)
    assert taken["total"] == "4.61"
    receipt = call("v1_orders_show_order_get", taken["id"])
    assert (receipt.reference, receipt.total, receipt.lines) == (order.reference, "4.61", [line])
    found = call("v1_orders_list_orders_get", limit=1)
    assert found.additional_properties["orders"][0]["id"] == taken["id"]
    file = types.File(io.BytesIO(b'{"reference": "x"}\n'))
    run = call("v1_orders_import_orders_post", body=file, prefer="wait=20")
    assert (run.status, run.result.lines, run.result.taken) == (models.RunStatus.SUCCEEDED, 1, 0)


{"hard": use_hard, "demo": use_demo}[which]()
sys.stdout.write("good\n")
