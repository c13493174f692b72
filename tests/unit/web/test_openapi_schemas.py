"""Schemas of an OpenAPI document: names, titles, types, formats and defaults that client
generators can use."""

from __future__ import annotations

import enum
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, make_dataclass
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from importlib.util import module_from_spec, spec_from_file_location
from types import ModuleType, SimpleNamespace
from typing import Annotated, Any, Literal, NamedTuple
from uuid import UUID

import msgspec
import pydantic
import pytest
from openapi_spec_validator import validate
from support.place import ROOT, Place

from penstock import Call, Form, Header, HttpTrigger, Pipeline, Reply, hookimpl
from penstock.testing import Runtime
from penstock.web.openapi.shapes import describe_type

Start = Callable[..., Runtime]
Document = dict[str, Any]
TEXT = {"type": "string"}


class Level(enum.IntEnum):
    LOW = 1
    HIGH = 2


class Colour(enum.Enum):
    RED = "red"
    GREEN = "green"


class Point(NamedTuple):
    x: float
    y: float = 0.0


class Pair(msgspec.Struct, array_like=True):
    x: int
    y: str = ""


class Numbered(msgspec.Struct, tag=1):
    x: int


class Other(msgspec.Struct, tag=2):
    y: int


@dataclass
class Car:
    colour: Colour


class Bike(pydantic.BaseModel):
    colour: Colour
    pair: tuple[int, str] = (1, "a")
    kind: Literal["bike"] = "bike"
    raw: bytes = b""
    since: datetime = datetime(2026, 1, 1)  # noqa: DTZ001  without a zone on purpose


def pipeline(name: str, *handlers: Callable[..., object], version: str = "1.0.0") -> Pipeline:
    """Make a pipeline with each handler on a path of its name."""
    made = Pipeline(name, version=version, trigger=HttpTrigger())
    for handler in handlers:
        made.post(f"/{handler.__name__}")(handler)
    return made


def taking(name: str, body: Any, reply: Any = None) -> Callable[..., object]:
    """Make a handler of these types."""

    def handler(call: Call, body: Any) -> Any:
        return body

    handler.__name__ = name
    handler.__annotations__ = {"call": Call, "body": body, "return": reply}
    return handler


def offering(*pipelines: Pipeline) -> SimpleNamespace:
    @hookimpl
    def penstock_pipelines() -> list[Pipeline]:
        return list(pipelines)

    return SimpleNamespace(__name__="made", penstock_pipelines=penstock_pipelines)


@pytest.fixture
def document(penstock_runtime: Start) -> Callable[..., Document]:
    def read(*pipelines: Pipeline, plugin: object = None, policy: str = "any") -> Document:
        answered = (
            penstock_runtime(plugin or offering(*pipelines), policy=policy)
            .anonymous()
            .get("/-/openapi.json")
        )
        found: Document = json.loads(answered.data)
        validate(found)
        return found

    return read


@pytest.fixture(scope="module")
def hard() -> ModuleType:
    spec = spec_from_file_location(
        "hard_of_the_descriptions", ROOT / "tests" / "generators" / "hard.py"
    )
    assert spec is not None
    assert spec.loader is not None
    module = module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def every(value: object, word: str) -> Iterator[Any]:
    """Yield all that stands under a word, anywhere."""
    if isinstance(value, dict):
        for name, item in value.items():
            if name == word:
                yield item
            yield from every(item, word)
    elif isinstance(value, list):
        for item in value:
            yield from every(item, word)


def reference(document: Document, path: str) -> str:
    """Return the name of the schema that a path takes."""
    content = document["paths"][path]["post"]["requestBody"]["content"]["application/json"]
    return str(content["schema"]["$ref"]).rpartition("/")[2]


def orders(major: int, **fields: type) -> Pipeline:
    return pipeline(
        "orders", taking("take", make_dataclass("NewOrder", fields.items())), version=f"{major}.0.0"
    )


def test_each_schema_has_one_name_and_that_is_its_title(
    document: Callable[..., Document], hard: ModuleType
) -> None:
    schemas = document(plugin=hard)["components"]["schemas"]

    assert {name: schema["title"] for name, schema in schemas.items()} == {
        name: name for name in schemas
    }
    assert all(re.fullmatch(r"[A-Z][A-Za-z0-9_]*", name) for name in schemas)
    assert {
        "NewOrder",
        "OrdersV2NewOrder",
        "OrdersV2NewOrderReply",
        "Page_NewOrder",
        "Colour",
        "Level",
    } <= set(schemas)


@pytest.mark.parametrize("turned", [False, True])
def test_what_is_there_keeps_its_name_when_another_major_version_comes(
    document: Callable[..., Document], turned: bool
) -> None:
    alone = document(orders(1, a=int))
    both = document(
        *sorted([orders(1, a=int), orders(2, b=int)], key=lambda item: item.major, reverse=turned)
    )

    assert reference(alone, "/v1/orders/take") == reference(both, "/v1/orders/take") == "NewOrder"
    assert reference(both, "/v2/orders/take") == "OrdersV2NewOrder"
    assert list(both["paths"]) == ["/v1/orders/take", "/v2/orders/take"]


def test_two_classes_that_are_described_alike_are_one_schema(
    document: Callable[..., Document],
) -> None:
    found = document(orders(1, a=int), orders(2, a=int))

    assert reference(found, "/v1/orders/take") == reference(found, "/v2/orders/take") == "NewOrder"


@pytest.mark.parametrize("turned", [False, True])
def test_an_enum_of_a_dataclass_and_a_pydantic_model_is_one_schema(
    document: Callable[..., Document], turned: bool
) -> None:
    handlers = [taking("car", Car), taking("bike", Bike)]
    schemas = document(pipeline("shop", *(reversed(handlers) if turned else handlers)))[
        "components"
    ]["schemas"]

    assert set(schemas) == {"Problem", "Car", "Bike", "Colour"}
    assert schemas["Colour"] == {
        "title": "Colour",
        "type": "string",
        "enum": ["red", "green"],
        "x-enum-varnames": ["RED", "GREEN"],
    }


def test_names_differ_in_more_than_case_and_signs(document: Callable[..., Document]) -> None:
    kinds = [
        make_dataclass(name, [(f"f{index}", int)])
        for index, name in enumerate(("Order_Line", "OrderLine", "orderline", "Größe", "Заказ"))
    ]
    schemas = document(
        pipeline("shop", *(taking(f"h{index}", kind) for index, kind in enumerate(kinds)))
    )["components"]["schemas"]

    assert set(schemas) == {
        "Problem",
        "Order_Line",
        "ShopV1OrderLine",
        "ShopV1orderline2",
        "Groe",
        "Type",
    }


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        (datetime, {"type": "string", "format": "date-time"}),
        (Annotated[datetime, msgspec.Meta(tz=True)], {"type": "string", "format": "date-time"}),
        (Annotated[datetime, msgspec.Meta(tz=False)], TEXT),  # RFC 3339 has an offset
        (date, {"type": "string", "format": "date"}),
        (time, {"type": "string", "format": "time"}),
        (timedelta, {"type": "string", "format": "duration"}),
        (UUID, {"type": "string", "format": "uuid"}),
        (Decimal, {"type": "string", "format": "decimal"}),
        (bytes, {"type": "string", "contentEncoding": "base64"}),
        (
            Annotated[bytes, msgspec.Meta(max_length=4)],
            {"type": "string", "contentEncoding": "base64", "maxLength": 8},
        ),
        (
            Annotated[int, msgspec.Meta(ge=1, lt=9, multiple_of=2)],
            {"type": "integer", "minimum": 1, "exclusiveMaximum": 9, "multipleOf": 2},
        ),
        (
            Annotated[str, msgspec.Meta(pattern="^a", description="Text")],
            {"description": "Text", "type": "string", "pattern": "^a"},
        ),
        (Literal["a", "b"], {"type": "string", "enum": ["a", "b"]}),
        (
            Literal["a", 1] | None,
            {
                "anyOf": [
                    {"type": "integer", "enum": [1]},
                    {"type": "string", "enum": ["a"]},
                    {"type": "null"},
                ]
            },
        ),
        (int | None, {"anyOf": [{"type": "integer"}, {"type": "null"}]}),
        (dict[str, int], {"type": "object", "additionalProperties": {"type": "integer"}}),
        (dict, {"type": "object", "additionalProperties": True}),
        (list[Any], {"type": "array", "items": {}}),
        (set[int], {"type": "array", "items": {"type": "integer"}, "uniqueItems": True}),
        (tuple[int, ...], {"type": "array", "items": {"type": "integer"}}),
        (
            tuple[int, str],
            {
                "type": "array",
                "prefixItems": [{"type": "integer"}, TEXT],
                "minItems": 2,
                "items": {"anyOf": [{"type": "integer"}, TEXT]},
                "maxItems": 2,
            },
        ),
        (tuple[()], {"type": "array", "minItems": 0, "items": {}, "maxItems": 0}),
        (Any, {}),
    ],
)
def test_types_have_their_formats(kind: Any, expected: Document) -> None:
    assert describe_type(kind, reply=False) == (expected, {})


def part(kind: Any) -> Document:
    schema, parts = describe_type(kind, reply=False)
    return parts[schema["$ref"]].schema


def test_enums_and_classes_that_are_arrays_have_a_type() -> None:
    assert (part(Level)["type"], part(Level)["enum"]) == ("integer", [1, 2])
    assert (part(Point)["minItems"], part(Point)["maxItems"], part(Point)["items"]) == (
        1,
        2,
        {"type": "number"},
    )
    # It may have more.
    assert (part(Pair)["minItems"], "maxItems" in part(Pair), part(Pair)["items"]) == (1, False, {})


def test_only_unions_with_text_tags_have_a_discriminator() -> None:
    texts = (
        msgspec.defstruct("A", [("x", int)], tag="a"),
        msgspec.defstruct("B", [("x", int)], tag="b"),
    )
    union = describe_type(texts[0] | texts[1] | None, reply=False)[0]["anyOf"][0]  # type: ignore[operator]  # two types

    assert (union["discriminator"]["propertyName"], set(union["discriminator"]["mapping"])) == (
        "type",
        {"a", "b"},
    )
    assert list(union["discriminator"]["mapping"].values()) == [
        option["$ref"] for option in union["oneOf"]
    ]
    assert "discriminator" not in json.dumps(describe_type(Numbered | Other, reply=False)[0])


def test_what_pydantic_says_has_the_same_form() -> None:
    fields = part(Bike)["properties"]

    assert fields["kind"] == {"default": "bike", "type": "string", "enum": ["bike"]}
    assert fields["pair"]["items"] == {"anyOf": [{"type": "integer"}, TEXT]}
    assert "format" not in fields["raw"]  # text within JSON
    # Its default has no zone, which the format asks for.
    assert fields["since"] == {"type": "string", "format": "date-time"}


def listing(  # noqa: PLR0913  one of each kind
    call: Call,
    *,
    limit: int = 50,
    after: str | None = None,
    colour: Colour = Colour.GREEN,
    colours: list[Colour] = [Colour.RED],  # noqa: B006  a handler's default, never changed
    numbers: set[int] = {3, 1, 2},  # noqa: B006  the same
    day: date = date(2026, 1, 31),
    at: datetime = datetime(2026, 1, 31, tzinfo=UTC),
    naive: datetime = datetime(2026, 1, 31),  # noqa: DTZ001  without a zone on purpose
    price: Decimal = Decimal("1.50"),
    active: bool = False,
    needed: Level,
    level: Level | None = None,
    trace: Annotated[str, Header("X-Trace")] = "none",
) -> None: ...


def test_parameters_have_their_types_and_defaults(document: Callable[..., Document]) -> None:
    found = document(pipeline("shop", listing))["paths"]["/v1/shop/listing"]["post"]["parameters"]
    by_name = {item["name"]: item for item in found}

    defaults = {
        name: item["schema"]["default"]
        for name, item in by_name.items()
        if "default" in item["schema"]
    }
    assert defaults == {
        "limit": 50,
        "colour": "green",
        "colours": ["red"],
        "numbers": [1, 2, 3],
        "day": "2026-01-31",
        "at": "2026-01-31T00:00:00Z",
        "price": "1.50",
        "active": False,
        "X-Trace": "none",
    }
    assert [name for name, item in by_name.items() if item["required"]] == ["needed"]
    assert by_name["after"]["schema"] == TEXT  # a query has no null: it is left out
    assert (
        by_name["level"]["schema"]
        == by_name["needed"]["schema"]
        == {"$ref": "#/components/schemas/Level"}
    )
    assert by_name["X-Trace"]["in"] == "header"


@pytest.mark.parametrize(
    ("returns", "expected"),
    [
        (Reply, {"2XX": ["application/json", "*/*"]}),
        (Any, {"2XX": ["application/json", "*/*"]}),
        (type(None), {"204": []}),
        (Car, {"200": ["application/json"]}),
        (Car | None, {"200": ["application/json"], "204": []}),
        (str, {"200": ["text/plain"]}),
        (bytes, {"200": ["application/octet-stream"]}),
        (dict | bytes | None, {"200": ["application/json", "application/octet-stream"], "204": []}),
        (Car | Reply, {"200": ["application/json"], "2XX": ["application/json", "*/*"]}),
        (Car | Bike, {"200": ["application/json"]}),
    ],
)
def test_replies_are_described_by_what_a_handler_returns(
    document: Callable[..., Document], returns: Any, expected: Document
) -> None:
    found = document(pipeline("shop", taking("give", bytes, returns)))["paths"]["/v1/shop/give"][
        "post"
    ]["responses"]

    assert {
        status: list(reply.get("content", {}))
        for status, reply in found.items()
        if status.startswith("2")
    } == expected
    assert all("schema" in media for media in every(found, "content") for media in media.values())


def test_every_media_type_has_a_schema_and_every_operation_a_summary_and_its_security(
    document: Callable[..., Document], hard: ModuleType
) -> None:
    found = document(plugin=hard, policy="api-key")
    contents = [
        media
        for content in every(found, "content")
        if isinstance(content, dict)
        for media in content.values()
    ]
    operations = [item for path in found["paths"].values() for item in path.values()]
    operations += [
        item
        for callbacks in every(found, "callbacks")
        for callback in callbacks.values()
        for path in callback.values()
        for item in path.values()
    ]

    assert len(contents) > 100
    assert all("schema" in media for media in contents)
    assert all(
        item["summary"] and item["operationId"] and "security" in item for item in operations
    )
    assert len(
        {re.sub("[^a-z0-9]", "", item["operationId"].lower()) for item in operations}
    ) == len(operations)
    assert found["servers"] == [{"url": "/"}]
    assert all(tag["description"] for tag in found["tags"])
    assert not any(path.endswith("/") for path in found["paths"])


def test_a_body_is_required_also_of_text_and_bytes_which_may_be_empty(
    document: Callable[..., Document],
) -> None:
    raw = Pipeline("raw", version="1.0.0", trigger=HttpTrigger())

    def give_back(call: Call, body: bytes) -> bytearray:
        return bytearray(body)

    raw.post("/")(give_back)

    def keep(call: Call, body: dict[str, int]) -> dict[str, int]:
        return body

    raw.put("/")(keep)

    paths = document(raw)["paths"]["/v1/raw"]

    # openapi-generator takes no bytes for one that is not.
    assert paths["post"]["requestBody"]["required"] is True
    assert paths["put"]["requestBody"]["required"] is True
    assert paths["post"]["responses"]["200"]["content"] == {
        "application/octet-stream": {"schema": {"type": "string", "format": "binary"}}
    }


def test_a_handler_without_a_docstring_is_named_in_words(document: Callable[..., Document]) -> None:
    def take_order(call: Call) -> None: ...

    def wrapped(call: Call) -> None:
        """Take an order
        that has two lines.

        And more.
        """

    shop = pipeline("shop", take_order, wrapped)
    shop.get("/")(lambda: "unnamed")
    found = document(shop)["paths"]

    assert [found[f"/v1/shop/{name}"]["post"]["summary"] for name in ("take_order", "wrapped")] == [
        "Take order",
        "Take an order that has two lines.",
    ]
    assert found["/v1/shop/wrapped"]["post"]["description"] == "And more."
    assert (found["/v1/shop"]["get"]["operationId"], found["/v1/shop"]["get"]["summary"]) == (
        "v1-shop-handler-get",
        "GET /v1/shop",
    )
    # It says nothing of its reply.
    assert list(found["/v1/shop"]["get"]["responses"]["2XX"]["content"]) == [
        "application/json",
        "*/*",
    ]


@dataclass
class Filled:
    name: str
    tags: list[str] = field(default_factory=list)


def test_a_form_is_described_as_most_send_it_and_its_lists_as_repeated(
    document: Callable[..., Document], penstock_runtime: Start
) -> None:
    def fill(call: Call, form: Annotated[Filled, Form()]) -> list[str]:
        return form.tags

    made = pipeline("shop", fill)
    content = document(made)["paths"]["/v1/shop/fill"]["post"]["requestBody"]["content"]
    client = penstock_runtime(offering(made), policy="any").anonymous()

    assert list(content) == ["application/x-www-form-urlencoded"]
    assert content["application/x-www-form-urlencoded"]["encoding"] == {
        "tags": {"style": "form", "explode": True}
    }
    assert client.post("/v1/shop/fill", data={"name": "a", "tags": ["b", "c"]}).json == ["b", "c"]
    assert client.post(
        "/v1/shop/fill", data={"name": "a", "tags": ["b", "c"]}, content_type="multipart/form-data"
    ).json == ["b", "c"]


def test_the_server_takes_a_path_with_and_without_a_slash_at_its_end(
    penstock_runtime: Start,
) -> None:
    shop = Pipeline("shop", version="1.0.0", trigger=HttpTrigger())
    shop.get("/")(lambda: "all")
    shop.get("/{number}")(lambda call, number: number)
    client = penstock_runtime(offering(shop), policy="any").anonymous()

    assert [
        client.get(path).text for path in ("/v1/shop", "/v1/shop/", "/v1/shop/7", "/v1/shop/7/")
    ] == ["all", "all", "7", "7"]


@pytest.mark.parametrize(
    "key",
    [
        "a",
        "a" * 255,
        "!~#",
        '"quoted"',
        "a" * 256,
        "",
        " ",
        "a b",
        "ü",
        'a"b',
        '"',
        '"a',
        '""',
        "a\tb",
        "a\x7f",
    ],
)
def test_an_idempotency_key_is_described_as_the_server_takes_it(
    document: Callable[..., Document], penstock_runtime: Start, key: str
) -> None:
    keyed = Pipeline("keyed", version="1.0.0", trigger=HttpTrigger(api_key=True, idempotent="key"))
    keyed.post("/")(lambda: "here")
    (schema,) = [
        item["schema"]
        for item in document(keyed)["paths"]["/v1/keyed"]["post"]["parameters"]
        if item["name"] == "Idempotency-Key"
    ]
    client = penstock_runtime(offering(keyed), policy="api-key").client(token=False)
    allowed = (
        re.search(schema["pattern"], key) is not None
        and schema["minLength"] <= len(key) <= schema["maxLength"]
    )

    status = client.post("/v1/keyed/", environ_overrides={"HTTP_IDEMPOTENCY_KEY": key}).status_code

    assert (status == 200) is allowed


def test_a_run_is_typed_where_one_route_alone_can_have_started_it(
    document: Callable[..., Document],
) -> None:
    def looked_up(*routes: str) -> str:
        jobs = Pipeline("jobs", version="1.0.0", trigger=HttpTrigger(api_key=True))
        for route in routes:
            jobs.post(route, mode="durable")(taking(f"work{route[1:]}", Car, Car))
        found = document(jobs)["paths"]["/v1/jobs/runs/{run_id}"]["get"]["responses"]["200"][
            "content"
        ]["application/json"]["schema"]
        return str(found["$ref"]).rpartition("/")[2]

    assert looked_up("/") == "WorkRun"
    assert looked_up("/", "/b") == "Run"


def test_every_process_describes_an_environment_with_the_same_bytes(sqlite_place: Place) -> None:
    sqlite_place.policy("api-key")
    sqlite_place.plugin(
        "hard", (ROOT / "tests" / "generators" / "hard.py").read_text(encoding="utf-8")
    )
    command = [sys.executable, "-m", "penstock", "openapi", "--env", "test"]

    printed = [
        subprocess.run(
            command,
            env={**sqlite_place.environ(), "PYTHONHASHSEED": seed, "PATH": os.environ["PATH"]},
            capture_output=True,
            check=True,
        ).stdout
        for seed in ("1", "2", "3")
    ]

    assert printed[0] == printed[1] == printed[2]
    assert json.loads(printed[0])["paths"]
