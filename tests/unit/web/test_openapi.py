"""The OpenAPI document says what the environment serves, and what its gates ask, no more and no
less."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from decimal import Decimal
from types import SimpleNamespace
from typing import Annotated, Any, Generic, TypeVar

import httpx
import msgspec
import pydantic
import pytest
from openapi_spec_validator import validate
from support.durable import until
from support.place import ROOT, Place, Server

import penstock_demo
from penstock import Call, HttpTrigger, Pipeline, Rate, Reply, hookimpl
from penstock.testing import Runtime

Start = Callable[..., Runtime]
Item = TypeVar("Item")


class Line(msgspec.Struct, forbid_unknown_fields=True):
    """One article."""

    sku: str
    price: Decimal
    quantity: Annotated[int, msgspec.Meta(ge=1)]


@dataclass
class Order:
    lines: list[Line]


class Tree(pydantic.BaseModel):
    below: list[Tree]


class Page(pydantic.BaseModel, Generic[Item]):
    items: list[Item]


class Chain(msgspec.Struct):
    next: Chain | None


def shop() -> SimpleNamespace:
    orders = Pipeline(
        "orders",
        version="2.1.0",
        summary="Takes orders",
        trigger=HttpTrigger(api_key=True, jwt=True, scopes={"b", "a"}),
    )
    open_one = Pipeline(
        "open", version="1.0.0", trigger=HttpTrigger(rate=Rate("5/minute", by="address"))
    )
    inside = Pipeline("inside", version="1.0.0", trigger=HttpTrigger(external=False))

    @orders.post("/")
    def take(call: Call, order: Order) -> Line:
        """Take an order.

        It is priced at once.
        """
        return order.lines[0]

    @orders.get("/")
    def page(
        call: Call, *, limit: Annotated[int, msgspec.Meta(le=50)] = 50, tag: list[str]
    ) -> list[Line]:
        return []

    @orders.get("/{number}")
    def show(call: Call, number: int) -> dict[str, object]:
        return {"number": number}

    @orders.delete("/{number}")
    def drop(call: Call, number: int) -> None: ...

    @orders.put("/{number}/file")
    def keep(call: Call, number: int, body: bytes) -> Reply:
        return Reply(201)

    @open_one.get("/")
    def look(call: Call) -> str:
        return "here"

    @inside.get("/")
    def hidden(call: Call) -> str:
        return "hidden"

    @hookimpl
    def penstock_pipelines() -> list[Pipeline]:
        return [orders, open_one, inside]

    return SimpleNamespace(__name__="shop", penstock_pipelines=penstock_pipelines)


@pytest.fixture
def document(penstock_runtime: Start) -> Callable[..., dict[str, Any]]:
    def read(*plugins: object, **more: Any) -> dict[str, Any]:
        answered = (
            penstock_runtime(*(plugins or (shop(),)), **more).anonymous().get("/-/openapi.json")
        )
        assert answered.status_code == 200
        found: dict[str, Any] = json.loads(answered.data)
        validate(found)
        return found

    return read


def operations(document: dict[str, Any]) -> Iterator[dict[str, Any]]:
    for path in document["paths"].values():
        yield from path.values()


def test_only_what_is_served_is_in_it(document: Callable[..., dict[str, Any]]) -> None:
    assert list(document(policy="any")["paths"]) == [
        "/v1/open",
        "/v2/orders",
        "/v2/orders/{number}",
        "/v2/orders/{number}/file",
    ]
    assert list(document(policy="jwt-api-key")["paths"]) == [
        "/v2/orders",
        "/v2/orders/{number}",
        "/v2/orders/{number}/file",
    ]


def test_security_is_what_the_gate_requires_here(document: Callable[..., dict[str, Any]]) -> None:
    found = document(policy="any")

    assert {
        json.dumps(operation["security"])
        for operation in operations(found)
        if "v2/orders" in operation["tags"]
    } == {'[{"api_key": [], "jwt": ["a", "b"]}]'}
    assert [
        operation.get("security")
        for operation in operations(found)
        if "v1/open" in operation["tags"]
    ] == [[]]
    assert found["components"]["securitySchemes"] == {
        "api_key": {"type": "apiKey", "in": "header", "name": "X-API-Key"},
        "jwt": {"type": "http", "scheme": "bearer", "bearerFormat": "JWT"},
    }


def test_the_same_pipeline_asks_for_more_under_a_stricter_policy(
    document: Callable[..., dict[str, Any]],
) -> None:
    keyed = Pipeline("keyed", version="1.0.0", trigger=HttpTrigger(api_key=True, login=True))
    keyed.get("/")(lambda: "here")

    @hookimpl
    def penstock_pipelines() -> list[Pipeline]:
        return [keyed]

    plugin = SimpleNamespace(__name__="keyed", penstock_pipelines=penstock_pipelines)

    (operation,) = operations(document(plugin, policy="api-key"))

    assert operation["security"] == [{"api_key": []}]
    assert document(plugin, policy="jwt-api-key")["paths"] == {}


def test_bodies_replies_and_parameters_have_their_schemas(
    document: Callable[..., dict[str, Any]],
) -> None:
    found = document(policy="any")
    take = found["paths"]["/v2/orders"]["post"]
    show, drop = (
        found["paths"]["/v2/orders/{number}"]["get"],
        found["paths"]["/v2/orders/{number}"]["delete"],
    )
    keep, look = (
        found["paths"]["/v2/orders/{number}/file"]["put"],
        found["paths"]["/v1/open"]["get"],
    )

    assert (take["summary"], take["description"]) == ("Take an order.", "It is priced at once.")
    assert take["requestBody"]["content"]["application/json"]["schema"] == {
        "$ref": "#/components/schemas/Order"
    }
    assert take["responses"]["200"]["content"]["application/json"]["schema"] == {
        "$ref": "#/components/schemas/Line"
    }
    assert found["components"]["schemas"]["Line"]["properties"]["quantity"] == {
        "type": "integer",
        "minimum": 1,
    }
    assert found["components"]["schemas"]["Line"]["additionalProperties"] is False
    assert show["parameters"] == [
        {"name": "number", "in": "path", "required": True, "schema": {"type": "integer"}}
    ]
    assert found["paths"]["/v2/orders"]["get"]["parameters"] == [
        {
            "name": "limit",
            "in": "query",
            "required": False,
            "schema": {"type": "integer", "maximum": 50, "default": 50},
        },
        {
            "name": "tag",
            "in": "query",
            "required": True,
            "schema": {"type": "array", "items": {"type": "string"}},
        },
    ]
    assert "204" in drop["responses"]
    assert keep["requestBody"]["content"] == {
        "application/octet-stream": {"schema": {"type": "string", "format": "binary"}}
    }
    assert list(keep["responses"]["2XX"]["content"]) == ["application/json", "*/*"]
    assert look["responses"]["200"]["content"] == {"text/plain": {"schema": {"type": "string"}}}


def test_each_operation_says_which_problems_it_may_answer(
    document: Callable[..., dict[str, Any]],
) -> None:
    found = document(policy="any")

    def problems(path: str, method: str) -> set[str]:
        return {status for status in found["paths"][path][method]["responses"] if status[0] in "45"}

    # A bad key, and operators' bounds.
    assert problems("/v1/open", "get") == {"401", "403", "429", "500", "503", "504"}
    assert problems("/v2/orders", "post") == {
        "400",
        "401",
        "403",
        "413",
        "415",
        "422",
        "429",
        "500",
        "503",
        "504",
    }
    assert problems("/v2/orders/{number}", "get") == {
        "401",
        "403",
        "404",
        "429",
        "500",
        "503",
        "504",
    }


def test_what_a_handler_refuses_for_reasons_of_its_own_is_a_problem_too(
    document: Callable[..., dict[str, Any]],
) -> None:
    problem = {"application/problem+json": {"schema": {"$ref": "#/components/schemas/Problem"}}}

    assert {
        json.dumps(operation["responses"]["default"]["content"])
        for operation in operations(document(policy="any"))
    } == {json.dumps(problem)}


def offering(*handlers: Callable[..., object], **trigger: Any) -> SimpleNamespace:
    """Make a plugin of one pipeline, with each handler on a path of its name."""
    pipeline = Pipeline("made", version="1.0.0", trigger=HttpTrigger(**trigger))
    for handler in handlers:
        pipeline.post(f"/{handler.__name__}")(handler)

    @hookimpl
    def penstock_pipelines() -> list[Pipeline]:
        return [pipeline]

    return SimpleNamespace(__name__="made", penstock_pipelines=penstock_pipelines)


def taking(name: str, body: Any, reply: Any = None) -> Callable[..., object]:
    """Make a handler of these types."""

    def handler(call: Call, body: Any) -> Any:
        return body

    handler.__name__ = name
    handler.__annotations__ = {"call": Call, "body": body, "return": reply}
    return handler


def resolved(document: dict[str, Any], schema: dict[str, Any]) -> dict[str, Any]:
    """Return a schema, or what it refers to."""
    name = schema.get("$ref", "").removeprefix("#/components/schemas/")
    found: dict[str, Any] = document["components"]["schemas"][name] if name else schema
    return found


def sent_content(document: dict[str, Any], name: str) -> dict[str, Any]:
    found: dict[str, Any] = document["paths"][f"/v1/made/{name}"]["post"]["requestBody"]["content"]
    return found


def sent(document: dict[str, Any], name: str) -> dict[str, Any]:
    (content,) = sent_content(document, name).values()
    return resolved(document, content["schema"])


def replied(document: dict[str, Any], name: str) -> dict[str, Any]:
    (content,) = document["paths"][f"/v1/made/{name}"]["post"]["responses"]["200"][
        "content"
    ].values()
    return resolved(document, content["schema"])


def test_types_that_share_a_name_have_a_schema_each(
    document: Callable[..., dict[str, Any]],
) -> None:
    streets, numbers = (
        pydantic.create_model("Address", street=str),
        pydantic.create_model("Address", number=int),
    )
    boxes = msgspec.defstruct("Address", [("box", bool)])
    outer = msgspec.defstruct("Outer", [("at", streets), ("number", boxes)])
    # The same but for what they refer to.
    others = [
        pydantic.create_model("Other", at=numbers),
        pydantic.create_model("Other", at=streets),
    ]
    kinds = {
        "a": streets,
        "b": numbers,
        "c": boxes,
        "outer": outer,
        "other": others[0],
        "another": others[1],
        "lot": list[outer],
    }  # type: ignore[valid-type]  # made above
    found = document(offering(*(taking(name, kind) for name, kind in kinds.items())), policy="any")

    def fields(schema: dict[str, Any]) -> list[str]:
        return list(resolved(found, schema)["properties"])

    whole = {name: sent(found, name) for name in kinds}
    assert (fields(whole["a"]), fields(whole["b"]), fields(whole["c"])) == (
        ["street"],
        ["number"],
        ["box"],
    )
    assert (
        fields(whole["outer"]["properties"]["at"]),
        fields(whole["outer"]["properties"]["number"]),
    ) == (["street"], ["box"])
    assert (
        fields(whole["other"]["properties"]["at"]),
        fields(whole["another"]["properties"]["at"]),
    ) == (["number"], ["street"])
    assert resolved(found, whole["lot"]["items"]) == whole["outer"]
    names = {
        "Problem",
        "Address",
        "MadeV1Address",
        "MadeV1Address2",
        "Outer",
        "Other",
        "MadeV1Other",
    }
    assert set(found["components"]["schemas"]) == names


def test_a_plugin_s_own_problem_is_not_that_of_the_refusals(
    document: Callable[..., dict[str, Any]],
) -> None:
    class Problem(msgspec.Struct):
        x: int

    found = document(offering(taking("a", Problem, Problem)), policy="any")

    assert list(sent(found, "a")["properties"]) == list(replied(found, "a")["properties"]) == ["x"]
    assert "detail" in found["components"]["schemas"]["Problem"]["properties"]


def test_a_pydantic_reply_is_described_as_it_is_sent(
    penstock_runtime: Start, document: Callable[..., dict[str, Any]]
) -> None:
    class Place(pydantic.BaseModel):
        zip_code: int = pydantic.Field(alias="zipCode")
        country: str = pydantic.Field("DE", serialization_alias="land")

    plugin = offering(taking("a", Place, Place), taking("b", list[Place], dict[str, Place]))
    found = document(plugin, policy="any")
    client = penstock_runtime(plugin, policy="any").anonymous()

    assert client.post("/v1/made/a", json={"zipCode": 5}).json == {"zipCode": 5, "land": "DE"}
    assert list(sent(found, "a")["properties"]) == ["zipCode", "country"]
    assert sent(found, "a")["required"] == ["zipCode"]
    assert list(replied(found, "a")["properties"]) == ["zipCode", "land"]
    assert resolved(found, sent(found, "b")["items"]) == sent(found, "a")
    assert resolved(found, replied(found, "b")["additionalProperties"]) == replied(found, "a")
    assert set(found["components"]["schemas"]) == {"Problem", "Place", "PlaceReply"}


def test_types_that_refer_to_themselves_or_have_odd_names_are_described(
    document: Callable[..., dict[str, Any]],
) -> None:
    found = document(
        offering(taking("a", Tree, Tree), taking("b", Page[Tree]), taking("c", Chain)), policy="any"
    )

    tree = sent(found, "a")
    assert resolved(found, tree["properties"]["below"]["items"]) == replied(found, "a") == tree
    assert resolved(found, sent(found, "b")["properties"]["items"]["items"]) == tree
    assert {option.get("$ref") for option in sent(found, "c")["properties"]["next"]["anyOf"]} == {
        None,
        "#/components/schemas/Chain",
    }


def test_a_type_without_a_schema_keeps_the_document(
    document: Callable[..., dict[str, Any]],
) -> None:
    class Strange(pydantic.BaseModel):
        what: Callable[[], int]

    found = document(offering(taking("a", Strange), taking("b", Line)), policy="any")

    assert sent_content(found, "a") == {"application/json": {"schema": {}}}
    assert "sku" in sent(found, "b")["properties"]


def test_a_gate_that_reads_the_body_says_what_can_be_wrong_with_it(
    document: Callable[..., dict[str, Any]],
) -> None:
    def hook(call: Call) -> None: ...

    found = document(offering(hook, signature="slack"), policy="any")

    assert {"400", "413"} <= set(found["paths"]["/v1/made/hook"]["post"]["responses"])
    assert (
        "X-Slack-Request-Timestamp"
        in found["components"]["securitySchemes"]["slack_signature"]["description"]
    )
    assert (
        "413"
        not in document(offering(hook), policy="any")["paths"]["/v1/made/hook"]["post"]["responses"]
    )


def test_plugins_may_add_to_it(document: Callable[..., dict[str, Any]]) -> None:
    plugin = shop()

    @hookimpl
    def penstock_openapi(document: dict[str, Any]) -> None:
        document["info"]["contact"] = {"email": "desk@example.com"}

    plugin.penstock_openapi = penstock_openapi

    assert document(plugin, policy="any")["info"]["contact"] == {"email": "desk@example.com"}


def test_what_a_plugin_changes_there_is_changed_in_one_place_and_once(
    document: Callable[..., dict[str, Any]],
) -> None:
    plugin = shop()
    before = document(plugin, policy="any")

    @hookimpl
    def penstock_openapi(document: dict[str, Any]) -> None:
        document["paths"]["/v1/open"]["get"]["responses"]["200"]["content"]["text/plain"]["schema"][
            "description"
        ] = "mine"
        document["components"]["schemas"]["Problem"]["properties"]["run"]["description"] = "mine"

    changed = shop()
    changed.penstock_openapi = penstock_openapi

    assert json.dumps(document(changed, policy="any")).count('"mine"') == 2
    assert document(plugin, policy="any") == before


def test_a_hook_that_raises_keeps_the_document(
    document: Callable[..., dict[str, Any]],
) -> None:
    plugin = shop()

    @hookimpl
    def penstock_openapi(document: dict[str, Any]) -> None:
        raise RuntimeError("no good")

    plugin.penstock_openapi = penstock_openapi

    assert document(plugin, policy="any")["paths"]


def test_it_can_be_switched_off(penstock_runtime: Start) -> None:
    assert (
        penstock_runtime(shop(), openapi="false").anonymous().get("/-/openapi.json").status_code
        == 404
    )


def test_the_demo_is_described(document: Callable[..., dict[str, Any]]) -> None:
    found = document(penstock_demo)

    orders = [
        "/v1/orders",
        "/v1/orders/import",
        "/v1/orders/{order_id}",
        "/v1/orders/runs/{run_id}",
    ]
    assert list(found["paths"]) == orders  # no login flow is designated, and status is refused


def test_durable_runs_are_described_from_their_acceptance_to_their_end(
    document: Callable[..., dict[str, Any]],
) -> None:
    jobs = Pipeline("jobs", version="1.0.0", trigger=HttpTrigger(api_key=True))

    @jobs.post("/", mode="durable")
    def work(call: Call, line: Line) -> Line:
        return line

    @hookimpl
    def penstock_pipelines() -> list[Pipeline]:
        return [jobs]

    found = document(
        SimpleNamespace(__name__="jobs", penstock_pipelines=penstock_pipelines), policy="api-key"
    )
    started, run = found["paths"]["/v1/jobs"]["post"], found["paths"]["/v1/jobs/runs/{run_id}"]
    accepted = started["responses"]["202"]
    schema = accepted["content"]["application/json"]["schema"]
    event = started["callbacks"]["ended"]["{$request.query.callback_url}"]["post"]["requestBody"][
        "content"
    ]["application/json"]["schema"]

    assert set(accepted["headers"]) == {"Location", "Retry-After"}
    assert event["properties"]["type"]["enum"] == [
        f"run.{status}"
        for status in ("succeeded", "failed", "client_error", "timed_out", "cancelled")
    ]
    data = event["properties"]["data"]
    assert (
        schema
        == data
        == started["responses"]["200"]["content"]["application/json"]["schema"]
        == {"$ref": "#/components/schemas/WorkRun"}
    )
    assert run["get"]["responses"]["200"]["content"]["application/json"]["schema"] == schema
    assert found["components"]["schemas"]["WorkRun"]["allOf"] == [
        {"$ref": "#/components/schemas/Run"},
        {"type": "object", "properties": {"result": {"$ref": "#/components/schemas/Line"}}},
    ]
    assert {item["name"] for item in started["parameters"]} == {"callback_url", "Prefer"}
    assert {
        method: [item["name"] for item in operation["parameters"]]
        for method, operation in run.items()
    } == {
        "get": ["run_id", "Prefer"],
        "delete": ["run_id"],
    }
    assert all(operation["security"] == [{"api_key": []}] for operation in operations(found))


def test_what_happens_is_as_described(penstock_runtime: Start) -> None:
    jobs = Pipeline("jobs", version="1.0.0", trigger=HttpTrigger(api_key=True))

    @jobs.post("/", mode="durable")
    def work(call: Call) -> dict[str, int]:
        call.progress(1, 2, "half")
        return {"done": 1}

    @hookimpl
    def penstock_pipelines() -> list[Pipeline]:
        return [jobs]

    runtime = penstock_runtime(
        SimpleNamespace(__name__="jobs", penstock_pipelines=penstock_pipelines), policy="api-key"
    )
    client = runtime.client(token=False)
    document = json.loads(client.get("/-/openapi.json").data)
    schema = document["components"]["schemas"]["Run"]
    accepted = client.post("/v1/jobs/")
    runtime.work()
    ended = client.get(accepted.headers["Location"])

    assert ended.json["result"] == {"done": 1}
    for answered in (accepted, ended):
        assert set(schema["required"]) <= set(answered.json) <= set(schema["properties"])
        assert answered.json["status"] in schema["properties"]["status"]["enum"]


def test_a_handler_on_several_routes_has_an_operation_for_each(
    document: Callable[..., dict[str, Any]],
) -> None:
    twice = Pipeline("twice", version="1.0.0", trigger=HttpTrigger())

    def look() -> str:
        return "here"

    twice.get("/")(look)
    twice.get("/again")(look)

    @hookimpl
    def penstock_pipelines() -> list[Pipeline]:
        return [twice]

    found = document(
        SimpleNamespace(__name__="twice", penstock_pipelines=penstock_pipelines), policy="any"
    )

    assert sorted(operation["operationId"] for operation in operations(found)) == [
        "v1-twice-look-get",
        "v1-twice-look-get.2",
    ]


def test_a_change_of_policy_changes_the_document_of_a_running_server(
    sqlite_place: Place, serve: Callable[..., Server]
) -> None:
    server = serve(
        sqlite_place, PENSTOCK_PLUGIN_PATH=str(ROOT / "plugins"), PENSTOCK_OPENAPI="true"
    )
    before = list(httpx.get(f"{server.url}/-/openapi.json", timeout=10).json()["paths"])
    sqlite_place.policy("any")
    assert "/v1/status" not in before
    until(lambda: "/v1/status" in httpx.get(f"{server.url}/-/openapi.json").json()["paths"])

    after = httpx.get(f"{server.url}/-/openapi.json").json()["paths"]
    assert after["/v1/status"]["get"]["security"] == []


def test_the_command_prints_the_same_offline(
    sqlite_place: Place, serve: Callable[..., Server]
) -> None:
    plugins = {
        "PENSTOCK_PLUGIN_PATH": str(ROOT / "plugins"),
        "PENSTOCK_URL": "https://api.example.com/orders/",
    }
    server = serve(sqlite_place, **plugins, PENSTOCK_OPENAPI="true")
    served = httpx.get(f"{server.url}/-/openapi.json", timeout=10).json()

    printed = json.loads(sqlite_place.run("openapi", "--env", "test", **plugins).stdout)
    elsewhere = json.loads(sqlite_place.run("openapi", "--env", "prod", **plugins).stdout)

    assert printed == served
    assert list(printed["components"]["schemas"]) == list(served["components"]["schemas"])
    assert served["servers"] == [{"url": "https://api.example.com/orders"}]
    assert elsewhere["info"]["title"] == "Pipelines of prod"
