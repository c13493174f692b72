"""A plugin whose description is hard for client generators.

Its handlers reply what they were sent, so that a client can check the types.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from typing import Annotated, Any, Generic, Literal, NamedTuple, NotRequired, TypedDict, TypeVar
from uuid import UUID

import msgspec
import pydantic

from penstock import Call, Form, Header, HttpTrigger, Pipeline, Reply, Upload, hookimpl

Item = TypeVar("Item")

orders = Pipeline(
    "orders",
    version="1.2.0",
    summary="Orders",
    trigger=HttpTrigger(api_key=True, jwt=True, scopes={"read", "write"}),
    deprecated=date(2026, 1, 31),
)
orders2 = Pipeline(
    "orders",
    version="2.0.0",
    summary="Orders, anew",
    trigger=HttpTrigger(api_key=True, idempotent="key"),
)
files = Pipeline("files", version="1.0.0", trigger=HttpTrigger(api_key=True))
animals = Pipeline("animals", version="1.0.0", summary="Animals", trigger=HttpTrigger(api_key=True))
jobs = Pipeline(
    "jobs",
    version="1.0.0",
    summary="Durable runs",
    trigger=HttpTrigger(api_key=True, idempotent="key"),
)


class Level(enum.IntEnum):
    """How urgent it is."""

    LOW = 1
    HIGH = 2


class Colour(enum.StrEnum):
    RED = "red"
    GREEN = "green"


class Point(NamedTuple):
    x: float
    y: float = 0.0


@dataclass
class Address:
    street: str
    zip_code: str | None = None


@dataclass
class Everything:
    """One field of each type."""

    level: Level
    placed: datetime
    day: date
    at: time
    took: timedelta
    id: UUID
    price: Decimal
    raw: bytes
    pair: tuple[int, str]
    point: Point
    address: Address
    colours: list[Colour]
    colour: Colour = Colour.RED
    tags: set[str] = field(default_factory=set)
    either: int | str = 0
    maybe: Address | None = None
    size: Literal["small", "large"] | None = None
    number: Literal[1, 2] = 1
    counts: dict[str, int] = field(default_factory=dict)
    rest: Any = None


class NewOrder(msgspec.Struct, forbid_unknown_fields=True):
    """An order of the first version."""

    reference: Annotated[str, msgspec.Meta(min_length=1, max_length=64, pattern="^[a-z0-9-]+$")]
    quantity: Annotated[int, msgspec.Meta(ge=1, le=1000)] = 1
    level: Level = Level.LOW


def _second() -> type[pydantic.BaseModel]:
    class NewOrder(pydantic.BaseModel):
        """An order of the second version."""

        reference: str
        colour: Colour = Colour.GREEN
        price: Decimal = Decimal("1.5")
        due: datetime | None = None
        zip_code: str = pydantic.Field("", alias="zipCode")
        pair: tuple[int, str] = (1, "a")
        kind: Literal["new"] = "new"

    return NewOrder


NewOrder2: Any = _second()


class Page(pydantic.BaseModel, Generic[Item]):
    """A page of a list."""

    items: list[Item]
    after: str | None = None


class Dog(msgspec.Struct, tag="dog"):
    name: str
    barks: bool = True


class Cat(msgspec.Struct, tag="cat"):
    name: str
    lives: int = 9


class Square(pydantic.BaseModel):
    shape: Literal["square"]
    side: float


class Circle(pydantic.BaseModel):
    shape: Literal["circle"]
    radius: float


class Drawing(pydantic.BaseModel):
    shapes: list[Annotated[Square | Circle, pydantic.Field(discriminator="shape")]]
    background: Colour = Colour.RED
    level: Level = Level.LOW


class Tree(msgspec.Struct):
    """A type that refers to itself."""

    name: str
    below: list[Tree] = []


class Contact(TypedDict):
    """A person to write to."""

    name: str
    email: NotRequired[str]


@dataclass
class Picture:
    title: str
    image: Upload
    more: list[Upload] = field(default_factory=list)
    level: Level = Level.LOW


@dataclass
class SignUp:
    name: str
    age: int
    colours: list[Colour] = field(default_factory=list)
    news: bool = False


@orders.post("/everything")
def reply_everything(call: Call, everything: Everything) -> Everything:
    """Reply what was sent."""
    return everything


@orders.post("/")
def create_order(call: Call, order: NewOrder) -> NewOrder:
    """Create an order.

    It is replied as it was understood.
    """
    return order


@orders.get("/")
def list_orders(  # noqa: PLR0913  one parameter of each kind
    call: Call,
    *,
    limit: Annotated[int, msgspec.Meta(ge=1, le=100)] = 50,
    tag: list[str] = [],  # noqa: B006  a handler's default, never changed
    colour: Colour = Colour.GREEN,
    level: Level | None = None,
    since: date | None = None,
    until: datetime = datetime(2030, 1, 1, tzinfo=UTC),
    if_match: Annotated[str | None, Header()] = None,
    wanted: Annotated[list[int], Header("X-Wanted")] = [],  # noqa: B006  a handler's default, never changed
) -> dict[str, Any]:
    """List orders."""
    return {
        "limit": limit,
        "tag": tag,
        "colour": colour,
        "level": level,
        "since": since,
        "until": until,
        "if_match": if_match,
        "wanted": wanted,
    }


@orders.get("/{number}/{colour}")
def show_order(call: Call, number: int, colour: Colour) -> NewOrder | None:
    """Return an order, or nothing for number 0."""
    return NewOrder(colour, number) if number else None


@orders.delete("/{number}")
def delete_order(call: Call, number: int) -> None:
    """Delete an order."""


@orders2.post("/")
def create_order2(call: Call, order: NewOrder2) -> NewOrder2:
    """Create an order."""
    return order


@orders2.get("/")
def list_orders2(call: Call) -> Page[NewOrder2]:
    """List orders."""
    return Page[NewOrder2](items=[NewOrder2(reference="first")])


@orders2.put("/{number}")
def replace_order(call: Call, number: UUID, order: NewOrder2) -> Reply:
    return Reply(201, {"Location": f"/v2/orders/{number}"}, order)


@files.post("/raw")
def reverse(call: Call, body: bytes) -> bytes:
    """Return the bytes in reverse."""
    return body[::-1]


@files.post("/text")
def shout(call: Call, body: str) -> str:
    """Return the text in capitals."""
    return body.upper()


@files.post("/pictures")
def upload(call: Call, picture: Annotated[Picture, Form()]) -> dict[str, int]:
    """Return how many bytes came."""
    return {
        "image": len(picture.image.read()),
        "more": len(picture.more),
        "level": int(picture.level),
    }


@files.post("/sign-up")
def sign_up(call: Call, form: Annotated[SignUp, Form()]) -> SignUp:
    """Return the form."""
    return form


@files.post("/anything")
def anything(call: Call, body: Any):  # noqa: ANN201  it says nothing of its reply
    return body


@files.post("/object")
def some_object(call: Call, body: dict) -> dict:
    return body


@files.get("/download")
def download(call: Call) -> Reply:
    """Return a file."""
    return Reply(200, {"Content-Type": "application/pdf"}, b"%PDF")


@animals.post("/")
def admit(call: Call, animal: Dog | Cat) -> Dog | Cat:
    """Admit an animal."""
    return animal


@animals.post("/many")
def admit_many(call: Call, animals: list[Dog | Cat | None]) -> list[Dog | Cat | None]:
    """Admit many animals."""
    return animals


@animals.post("/drawing")
def draw(call: Call, drawing: Drawing) -> Drawing:
    """Draw shapes."""
    return drawing


@animals.post("/tree")
def grow(call: Call, tree: Tree) -> Tree:
    """Grow a tree."""
    return tree


@animals.post("/contact")
def write(call: Call, contact: Contact) -> Contact:
    """Return a contact."""
    return contact


@jobs.post("/", mode="durable")
def work(call: Call, order: NewOrder) -> NewOrder:
    """Work an order."""
    return order


@jobs.post("/text", mode="durable")
def write_text(call: Call, body: bytes) -> str | None:
    """Write a text."""
    return body.decode()


@hookimpl
def penstock_pipelines() -> list[Pipeline]:
    """Offer them all."""
    return [jobs, animals, files, orders2, orders]
