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
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import singledispatchmethod
from typing import Any

import msgspec
from msgspec import inspect as types

from penstock.contracts.forms import Upload
from penstock.web.openapi.dialect import (
    BINARY,
    NAMES,
    NULL,
    TEXT,
    Document,
    choice_of,
    common_form,
    default_of,
    fitting,
    present,
    tuple_of,
)

LOCAL = "#/of-one-type/"  # begins a reference whose name is not settled yet
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
        return TEXT | present(
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
        return TEXT | {"contentEncoding": "base64"} | present(minLength=least, maxLength=most)

    @of.register(types.DateTimeType)
    @of.register(types.TimeType)
    def _(self, kind: types.DateTimeType | types.TimeType) -> Document:
        # Both formats have an offset (RFC 3339), which such a time must not have.
        if kind.tz is False:
            return dict(TEXT)
        return TEXT | {"format": "date-time" if isinstance(kind, types.DateTimeType) else "time"}

    @of.register
    def _(self, kind: types.LiteralType) -> Document:
        return choice_of(kind.values)

    @of.register
    def _(self, kind: types.CollectionType) -> Document:
        unique = (
            {"uniqueItems": True} if isinstance(kind, types.SetType | types.FrozenSetType) else {}
        )
        return {
            "type": "array",
            "items": self.of(kind.item_type),
            **present(minItems=kind.min_length, maxItems=kind.max_length),
            **unique,
        }

    @of.register
    def _(self, kind: types.TupleType) -> Document:
        return tuple_of([self.of(item) for item in kind.item_types])

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
        return schema | present(minProperties=kind.min_length, maxProperties=kind.max_length)

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
        return self._part(kind.cls, lambda: choice_of([item.value for item in kind.cls]) | names)

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
        fields = {tag: choice_of([tagged])} if tag is not None else {}
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
            return tuple_of(list(fields.values()), least=len(required), more=more)
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
            plain = common_form(part)
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


def _default(item: types.Field) -> Document:
    """Return the default of a field as it would be sent.

    Nothing where it is made by a call or JSON can't hold it.
    """
    value = item.default
    if value is msgspec.NODEFAULT and item.default_factory in {list, dict, set}:
        value = item.default_factory()
    return {} if item.required else default_of(value)
