"""Describe types as JSON Schema (2020-12), in the subset that client generators understand.

msgspec and Pydantic each describe their own types, and neither in a way that client generators can
use as it stands: enums without a `type`, tuples whose `items` are false, times without a `format`,
constants where generators want an enum of one value. So types that msgspec decodes are described
here, from what `msgspec.inspect` says of them, and what Pydantic says of its models is brought into
the same form. The common form has a second use: both describe an enum that a dataclass and a
Pydantic model share alike, so it is one schema.

Classes become parts: `describe_type` returns the schema of a type, and its parts under keys that
hold for that call alone; `penstock.web.openapi.schemas` gives them their names in a document.
"""

from __future__ import annotations

import inspect
import re
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import singledispatchmethod
from typing import Any

import msgspec
from msgspec import inspect as types

from penstock.contracts.forms import Upload

Document = dict[str, Any]

LOCAL = "#/of-one-type/"  # begins a reference whose name is not settled yet
BINARY: Document = {"type": "string", "format": "binary"}
TEXT: Document = {"type": "string"}
NULL: Document = {"type": "null"}
TYPES: Mapping[type, str] = {
    bool: "boolean",
    int: "integer",
    float: "number",
    str: "string",
    type(None): "null",
}
# The names of an enum's values, for generators; Pydantic does not say them.
NAMES = "x-enum-varnames"
OFFSET = re.compile(r"(?:[Zz]|[+-]\d\d:\d\d)$")  # RFC 3339
# Words of a schema that hold values, not schemas.
VALUES = frozenset({"default", "enum", "const", "example", "examples"})
BOUNDS = {
    "ge": "minimum",
    "gt": "exclusiveMinimum",
    "le": "maximum",
    "lt": "exclusiveMaximum",
    "multiple_of": "multipleOf",
}
PLAIN: Mapping[type[types.Type], Document] = {
    types.AnyType: {},
    types.RawType: {},
    types.NoneType: NULL,
    types.BoolType: {"type": "boolean"},
    types.DateType: TEXT | {"format": "date"},
    types.TimeDeltaType: TEXT | {"format": "duration"},
    types.UUIDType: TEXT | {"format": "uuid"},
    types.DecimalType: TEXT | {"format": "decimal"},
}


@dataclass(slots=True)
class Part:
    """The schema of a class, and the name that it should have in a document."""

    name: str
    schema: Document = field(default_factory=dict)


def describe_type(kind: Any, *, reply: bool) -> tuple[Document, dict[str, Part]]:  # noqa: ANN401  any annotation
    """Return the schema of a type as it is sent, or as it is replied, and its parts by key.

    Raises TypeError where msgspec knows no such type.
    """
    describer = _Describer(reply=reply)
    return describer.of(types.type_info(kind)), describer.parts


class _Describer:
    """Describes one type, and each class in it once."""

    def __init__(self, *, reply: bool) -> None:
        self.parts: dict[str, Part] = {}
        self._reply = reply
        self._keys: dict[object, str] = {}

    @singledispatchmethod
    def of(self, kind: types.Type) -> Document:
        """Return the schema of a type."""
        if type(kind) not in PLAIN:
            raise TypeError(f"JSON has no {type(kind).__name__}")
        return dict(PLAIN[type(kind)])

    @of.register
    def _(self, kind: types.Metadata) -> Document:
        extra, inner = kind.extra_json_schema or {}, self.of(kind.type)
        return extra | inner

    @of.register(types.IntType)
    @of.register(types.FloatType)
    def _(self, kind: types.IntType | types.FloatType) -> Document:
        bounds = {
            word: bound
            for name, word in BOUNDS.items()
            if (bound := getattr(kind, name)) is not None
        }
        return {"type": "integer" if isinstance(kind, types.IntType) else "number", **bounds}

    @of.register
    def _(self, kind: types.StrType) -> Document:
        return TEXT | _present(
            minLength=kind.min_length, maxLength=kind.max_length, pattern=kind.pattern
        )

    @of.register(types.BytesType)
    @of.register(types.ByteArrayType)
    @of.register(types.MemoryViewType)
    def _(self, kind: types.BytesType) -> Document:
        least, most = (
            None if length is None else 4 * ((length + 2) // 3)
            for length in (kind.min_length, kind.max_length)
        )
        return TEXT | {"contentEncoding": "base64"} | _present(minLength=least, maxLength=most)

    @of.register(types.DateTimeType)
    @of.register(types.TimeType)
    def _(self, kind: types.DateTimeType | types.TimeType) -> Document:
        # Both formats have an offset (RFC 3339), which such a time must not have.
        if kind.tz is False:
            return dict(TEXT)
        return TEXT | {"format": "date-time" if isinstance(kind, types.DateTimeType) else "time"}

    @of.register
    def _(self, kind: types.LiteralType) -> Document:
        return _choice(kind.values)

    @of.register
    def _(self, kind: types.CollectionType) -> Document:
        unique = (
            {"uniqueItems": True} if isinstance(kind, types.SetType | types.FrozenSetType) else {}
        )
        return {
            "type": "array",
            "items": self.of(kind.item_type),
            **_present(minItems=kind.min_length, maxItems=kind.max_length),
            **unique,
        }

    @of.register
    def _(self, kind: types.TupleType) -> Document:
        return _tuple([self.of(item) for item in kind.item_types])

    @of.register
    def _(self, kind: types.DictType) -> Document:
        schema: Document = {
            "type": "object",
            "additionalProperties": self.of(kind.value_type) or True,
        }
        key = kind.key_type
        while isinstance(key, types.Metadata):
            key = key.type
        if isinstance(key, types.StrType) and (
            names := {word: item for word, item in self.of(kind.key_type).items() if word != "type"}
        ):
            schema["propertyNames"] = names
        return schema | _present(minProperties=kind.min_length, maxProperties=kind.max_length)

    @of.register
    def _(self, kind: types.UnionType) -> Document:
        tagged: dict[str | int | None, Document] = {}
        field = None
        options: list[Document] = []
        for item in kind.types:
            bare = item
            while isinstance(bare, types.Metadata):
                bare = bare.type
            if (
                isinstance(bare, types.StructType)
                and bare.tag_field is not None
                and not bare.array_like
            ):
                field = bare.tag_field
                tagged[bare.tag] = self.of(bare)
            elif not isinstance(bare, types.NoneType):
                schema = self.of(item)
                options += schema["anyOf"] if set(schema) == {"anyOf"} else [schema]
        # OpenAPI knows no other tags.
        if len(tagged) > 1 and all(isinstance(tag, str) for tag in tagged):
            mapping = {tag: schema["$ref"] for tag, schema in tagged.items()}
            options.append(
                {
                    "oneOf": list(tagged.values()),
                    "discriminator": {"propertyName": field, "mapping": mapping},
                }
            )
        else:
            options += tagged.values()
        options += [NULL] if kind.includes_none else []
        return options[0] if len(options) == 1 else {"anyOf": options}

    @of.register
    def _(self, kind: types.EnumType) -> Document:
        names = {NAMES: [item.name for item in kind.cls]}
        return self._part(kind.cls, lambda: _choice([item.value for item in kind.cls]) | names)

    @of.register(types.StructType)
    @of.register(types.DataclassType)
    @of.register(types.TypedDictType)
    @of.register(types.NamedTupleType)
    def _(
        self,
        kind: types.StructType | types.DataclassType | types.TypedDictType | types.NamedTupleType,
    ) -> Document:
        return self._part(kind.cls, lambda: self._fields(kind))

    @of.register
    def _(self, kind: types.CustomType) -> Document:
        if kind.cls is Upload:
            return dict(BINARY)
        if not hasattr(kind.cls, "model_json_schema"):
            return {"description": kind.cls.__name__}
        if kind.cls not in self._keys:
            self._keys[kind.cls] = self._pydantic(kind.cls)
        return {"$ref": self._keys[kind.cls]}

    def _part(self, cls: Any, describe: Any) -> Document:  # noqa: ANN401  a class or an alias of one, and what returns its schema
        if cls not in self._keys:
            key = self._keys[cls] = f"{LOCAL}{len(self.parts)}"
            part = self.parts[key] = Part(_name_of(cls))
            text = _doc_of(cls)
            part.schema = {
                "title": part.name,
                **({"description": text} if text else {}),
                **describe(),
            }
        return {"$ref": self._keys[cls]}

    def _fields(self, kind: Any) -> Document:  # noqa: ANN401  one of four
        """Return the schema of a class with fields.

        An object, or an array where msgspec writes it as one.
        """
        tag, tagged = getattr(kind, "tag_field", None), getattr(kind, "tag", None)
        fields = {tag: _choice([tagged])} if tag is not None else {}
        fields |= {
            item.encode_name: fitting(self.of(item.type) | _default(item)) for item in kind.fields
        }
        required = [
            *([tag] if tag is not None else []),
            *(item.encode_name for item in kind.fields if item.required),
        ]
        closed = getattr(kind, "forbid_unknown_fields", False)
        if isinstance(kind, types.NamedTupleType) or getattr(kind, "array_like", False):
            more = not closed and not isinstance(kind, types.NamedTupleType)
            return _tuple(list(fields.values()), least=len(required), more=more)
        return {
            "type": "object",
            "properties": fields,
            **({"required": required} if required else {}),
            **({"additionalProperties": False} if closed else {}),
        }

    def _pydantic(self, cls: Any) -> str:  # noqa: ANN401  a Pydantic model, which the runtime does not import
        """Add a model and the parts of it, and return its key."""
        begin = f"{LOCAL}{len(self.parts)}."
        schema: Document = cls.model_json_schema(
            ref_template=begin + "{model}", mode="serialization" if self._reply else "validation"
        )
        parts: dict[str, Document] = {
            begin + name: part for name, part in schema.pop("$defs", {}).items()
        }
        key: str = schema.get("$ref", begin)  # it is one of the parts where it refers to itself
        parts.setdefault(key, schema)
        for name, part in parts.items():
            plain = _common(part)
            chosen = sanitized(plain.get("title") or name.removeprefix(begin) or cls.__name__)
            self.parts[name] = Part(chosen, plain | {"title": chosen})
        return key


def sanitized(name: str) -> str:
    """Return a name that a component of an OpenAPI document may have.

    The modules and functions around classes are left out.
    """
    bare = (
        unicodedata.normalize("NFKD", re.sub(r"[\w.<>]+\.(?=\w)", "", name))
        .encode("ascii", "ignore")
        .decode()
    )
    return re.sub(r"[^a-zA-Z0-9]+", "_", bare).strip("_") or "Type"


def _name_of(cls: Any) -> str:  # noqa: ANN401  a class, or an alias of a generic one
    origin = getattr(cls, "__origin__", None)
    if origin is None:
        return sanitized(cls.__name__)
    return sanitized(
        "_".join(
            [
                origin.__name__,
                *(item.__name__ if isinstance(item, type) else repr(item) for item in cls.__args__),
            ]
        )
    )


def _doc_of(cls: Any) -> str:  # noqa: ANN401  the same
    cls = getattr(cls, "__origin__", cls)
    text = inspect.cleandoc(cls.__dict__.get("__doc__") or "")
    # What Python writes by itself.
    return "" if text.startswith(f"{cls.__name__}(") or text == "An enumeration." else text


def _present(**words: object) -> Document:
    return {word: value for word, value in words.items() if value is not None}


def _default(item: types.Field) -> Document:
    """Return the default of a field as it would be sent.

    Nothing where it is made by a call or JSON can't hold it.
    """
    value = item.default
    if value is msgspec.NODEFAULT and item.default_factory in {list, dict, set}:
        value = item.default_factory()
    return {} if item.required else default_of(value)


def default_of(value: object) -> Document:
    """Return a default value as a member of a schema."""
    if value is msgspec.NODEFAULT or value is msgspec.UNSET:
        return {}
    try:
        return {"default": msgspec.json.decode(msgspec.json.encode(value, order="deterministic"))}
    except (TypeError, ValueError, msgspec.MsgspecError):
        return {}


def fitting(schema: Document) -> Document:
    """Return a schema without a default that it does not allow.

    A time without an offset, where the format asks for one.
    """
    default = schema.get("default")
    timed = any(
        item.get("format") in {"date-time", "time"} for item in (schema, *schema.get("anyOf", ()))
    )
    if timed and isinstance(default, str) and not OFFSET.search(default):
        return {word: value for word, value in schema.items() if word != "default"}
    return schema


def _choice(values: Iterable[object]) -> Document:
    """Return the schema of one of these values, each group of one type apart.

    Generators know no enum of several.
    """
    groups: dict[str, list[object]] = {}
    for value in values:
        groups.setdefault(TYPES[type(value)], []).append(value)
    options = [{"type": name, "enum": group} for name, group in groups.items() if name != "null"]
    options += [NULL] if "null" in groups else []
    return dict(options[0]) if len(options) == 1 else {"anyOf": options}


def _tuple(items: Sequence[Document], *, least: int | None = None, more: bool = False) -> Document:
    """Return the schema of an array with items of these types, one by one.

    `items` says it once more, for generators that know no `prefixItems` and fail at `items: false`;
    `maxItems` leaves nothing that it could allow.
    """
    bare = [{word: value for word, value in item.items() if word != "default"} for item in items]
    kinds = [item for index, item in enumerate(bare) if item not in bare[:index]]
    schema: Document = {
        "type": "array",
        **({"prefixItems": list(items)} if items else {}),
        "minItems": len(items) if least is None else least,
    }
    if more:
        return schema | {"items": {}}
    return schema | {
        "items": kinds[0] if len(kinds) == 1 else {"anyOf": kinds} if kinds else {},
        "maxItems": len(items),
    }


def _common(value: Any) -> Any:  # noqa: ANN401  any part of a schema
    """Return what Pydantic says in the form that types of msgspec have."""
    if isinstance(value, list):
        return [_common(item) for item in value]
    if not isinstance(value, dict):
        return value
    schema: Document = {
        word: (
            item if word in VALUES else _properties(item) if word == "properties" else _common(item)
        )
        for word, item in value.items()
    }
    values = schema.get("enum", [schema["const"]] if "const" in schema else None)
    if isinstance(values, list) and all(type(item) in TYPES for item in values):
        return {
            word: item for word, item in schema.items() if word not in {"enum", "const", "type"}
        } | _choice(values)
    if schema.get("format") == "binary":  # in JSON it is text
        del schema["format"]
    if schema.get("type") == "array" and "prefixItems" in schema:
        schema |= _tuple(
            schema["prefixItems"], least=schema.get("minItems", 0), more="maxItems" not in schema
        )
    return fitting(schema)


def _properties(value: Mapping[str, Any]) -> Document:
    """Return the properties of a model, without the titles that Pydantic makes of their names."""
    found = {name: _common(item) for name, item in value.items()}
    for name, item in found.items():
        if isinstance(item, dict) and item.get("title") == name.title().replace("_", " ").strip():
            del item["title"]
    return found
