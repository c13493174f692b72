"""Call a running server with the client that openapi-generator (python) made of its description:
`use_….py FOLDER hard|demo URL KEY TOKEN`."""

from __future__ import annotations

import sys
from datetime import UTC, date, datetime
from importlib import import_module
from typing import Any
from uuid import UUID, uuid4

folder, which, url, key, token = sys.argv[1:]
sys.path.insert(0, folder)
made: Any = import_module("openapi_client")
client = made.ApiClient(made.Configuration(host=url, api_key={"api_key": key}, access_token=token))


def use_hard() -> None:
    orders, second = made.V1OrdersApi(client), made.V2OrdersApi(client)
    files, animals, jobs = (
        made.V1FilesApi(client),
        made.V1AnimalsApi(client),
        made.V1JobsApi(client),
    )
    now, identifier = datetime(2026, 11, 26, 12, 0, 1, tzinfo=UTC), uuid4()
    everything = made.Everything(
        level=made.Level.HIGH,
        placed=now,
        day=date(2026, 11, 26),
        at="12:00:00Z",
        took="PT1S",
        id=identifier,
        price="1.50",
        raw="aGVsbG8=",
        pair=[made.EverythingPairInner(1), made.EverythingPairInner("a")],
        point=[1.0, 2.0],
        address=made.Address(street="High Street"),
        colours=[made.Colour.GREEN],
        maybe=made.Address(street="Low Street", zip_code="1"),
        counts={"a": 1},
        size="small",
    )
    reply = orders.v1_orders_reply_everything_post(everything)
    assert (reply.level, reply.placed, reply.day, reply.id, reply.price) == (
        made.Level.HIGH,
        now,
        date(2026, 11, 26),
        identifier,
        "1.50",
    )
    assert ([item.actual_instance for item in reply.pair], reply.maybe.zip_code, reply.counts) == (
        [1, "a"],
        "1",
        {"a": 1},
    )

    order = orders.v1_orders_create_order_post(
        made.NewOrder(reference="a", quantity=2, level=made.Level.HIGH)
    )
    assert order == made.NewOrder(reference="a", quantity=2, level=made.Level.HIGH)
    given = {
        "limit": 5,
        "tag": ["a", "b"],
        "colour": made.Colour.RED,
        "level": made.Level.HIGH,
        "x_wanted": [1, 2],
        "if_match": '"x"',
    }
    listed = orders.v1_orders_list_orders_get(**given, since=date(2026, 11, 26))
    assert (listed["tag"], listed["colour"], listed["level"], listed["wanted"]) == (
        ["a", "b"],
        "red",
        2,
        [1, 2],
    )
    assert listed["until"] == "2030-01-01T00:00:00Z"
    assert orders.v1_orders_show_order_get(5, made.Colour.RED).quantity == 5
    assert orders.v1_orders_show_order_get(0, made.Colour.RED) is None
    assert (
        second.v2_orders_create_order2_post(
            made.OrdersV2NewOrder(reference="b", due=now, zip_code="9")
        ).due
        == now
    )
    assert [item.reference for item in second.v2_orders_list_orders2_get().items] == ["first"]

    assert files.v1_files_reverse_post(b"abc\xff") == b"\xffcba"
    assert files.v1_files_shout_post("abc") == "ABC"
    assert files.v1_files_upload_post(
        "t", ("a.png", b"12345"), more=[("b", b"1"), ("c", b"2")], level=made.Level.HIGH
    ) == {
        "image": 5,
        "more": 2,
        "level": 2,
    }
    signed = files.v1_files_sign_up_post(
        "Ann", 5, colours=[made.Colour.RED, made.Colour.GREEN], news=True
    )
    assert signed == made.SignUp(
        name="Ann", age=5, colours=[made.Colour.RED, made.Colour.GREEN], news=True
    )

    cat = made.Cat(type="cat", name="Tom", lives=7)
    assert animals.v1_animals_admit_post(made.V1AnimalsAdmitPostRequest(cat)).actual_instance == cat
    square = made.Square(shape="square", side=1.5)
    assert (
        animals.v1_animals_draw_post(made.Drawing(shapes=[made.DrawingShapesInner(square)]))
        .shapes[0]
        .actual_instance
        == square
    )
    assert (
        animals.v1_animals_grow_post(made.Tree(name="a", below=[made.Tree(name="b")])).below[0].name
        == "b"
    )

    run = jobs.v1_jobs_work_post(
        made.NewOrder(reference="a", quantity=2), prefer="wait=20", idempotency_key=str(uuid4())
    )
    assert (type(run.id), run.status, run.result.quantity) == (UUID, "succeeded", 2)
    assert jobs.v1_jobs_runs_show_get(str(run.id)).id == run.id


def use_demo() -> None:
    orders, login = made.V1OrdersApi(client), made.V1LoginApi(client)
    assert (
        login.v1_login_sign_in_post(made.Credentials(user="demo", password="demo")).token_type
        == "Bearer"
    )
    line = made.Line(sku="PEN-01", quantity=3, unit_price="1.25")
    order = made.Order(reference=str(uuid4()), country="PT", currency="EUR", lines=[line])
    taken = orders.v1_orders_take_order_post(order)
    assert taken["total"] == "4.61"
    receipt = orders.v1_orders_show_order_get(taken["id"])
    assert (receipt.reference, receipt.total, receipt.lines) == (order.reference, "4.61", [line])
    assert orders.v1_orders_list_orders_get(limit=1)["orders"][0]["id"] == taken["id"]
    run = orders.v1_orders_import_orders_post(b'{"reference": "x"}\n', prefer="wait=20")
    assert (run.status, run.result.lines, run.result.taken) == ("succeeded", 1, 0)


{"hard": use_hard, "demo": use_demo}[which]()
sys.stdout.write("good\n")
