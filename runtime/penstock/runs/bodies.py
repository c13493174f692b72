"""Compile what a handler takes as its body: the annotation says how it is decoded."""

from __future__ import annotations

import codecs
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Annotated, Any, get_args, get_origin
from xml.etree.ElementTree import Element, ParseError, TreeBuilder

import msgspec
from defusedxml.common import DefusedXmlException
from defusedxml.ElementTree import DefusedXMLParser

from penstock.contracts.call import Call
from penstock.contracts.forms import Form, Upload
from penstock.errors import Refusal
from penstock.runs.faults import all_faults, decode_custom, invalid, pydantic_faults

JSON = ("application/json",)
FORM = ("application/x-www-form-urlencoded",)
MULTIPART = ("multipart/form-data",)
XML = ("application/xml",)
TEXT = ("text/plain",)
BYTES = ("application/octet-stream",)
CHARSET = re.compile(r'(?i);\s*charset\s*=\s*"?([A-Za-z0-9._-]+)')
ENCODINGS = re.compile(r"utf-(8|16|16-le|16-be|32|32-le|32-be)|ascii|iso8859-\d+|cp125\d|koi8-[ru]|shift_jis|euc_(jp|kr)|gb(2312|k|18030)|big5")
DEEPEST = 100  # elements within elements
Read = Callable[[Call], object]


@dataclass(frozen=True, slots=True)
class Body:
    """How a handler's body is read: its type, the media types it is sent as, and what decodes it. `form` says it is read part by part."""

    name: str
    kind: Any
    media: tuple[str, ...]
    read: Read
    form: bool = False


def compile_body(name: str, hint: Any) -> Body:  # noqa: ANN401  any annotation
    """Return how the body is read. Raises TypeError where the annotation can't be decoded into."""
    kind, form = _unmarked(hint)
    if form:
        return _compile_form(name, kind)
    if kind is bytes:
        return Body(name, bytes, BYTES, lambda call: call.body)
    if kind is str:
        return Body(name, str, TEXT, _text)
    if kind is Element:
        return Body(name, Element, XML, _xml)
    if hasattr(kind, "model_validate_json"):
        return Body(name, kind, JSON, lambda call: _pydantic(kind, _json(call)))
    decoder = msgspec.json.Decoder(kind, dec_hook=decode_custom)
    return Body(name, kind, JSON, lambda call: _decode(decoder, kind, _json(call)))


def _unmarked(hint: Any) -> tuple[Any, bool]:  # noqa: ANN401  any annotation
    if get_origin(hint) is Annotated:
        kind, *marks = get_args(hint)
        if any(mark is Form or isinstance(mark, Form) for mark in marks):
            return kind, True
    return hint, False


@lru_cache(256)
def _is_json(content_type: str) -> bool:
    """Say whether that is JSON in UTF-8. Raises Refusal (415) for a charset that is no text's."""
    sent = content_type.partition(";")[0].strip().lower()
    return (sent in {"", "application/json"} or sent.endswith("+json")) and _charset(content_type) in {"utf-8", "ascii"}


def _json(call: Call) -> bytes:
    if not _is_json(call.content_type):
        raise Refusal(415, "unsupported-media-type", "Send the body as application/json, in UTF-8.", headers=[("Accept", "application/json")])
    return call.body


def _decode(decoder: msgspec.json.Decoder[Any], kind: Any, body: bytes) -> object:  # noqa: ANN401  any annotation
    try:
        return decoder.decode(body)
    except msgspec.ValidationError as error:
        first = error
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise _malformed_json(error) from None
    try:
        whole = msgspec.json.decode(body)  # what did not fit may stand before what is no JSON at all
        raise invalid(all_faults(kind, whole, first))
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise _malformed_json(error) from None


def _malformed_json(error: Exception) -> Refusal:
    return Refusal(400, "body-malformed", f"The body is not JSON: {'nested too deeply' if isinstance(error, RecursionError) else error}.")


def _pydantic(model: Any, body: bytes) -> object:  # noqa: ANN401  a Pydantic model, which the runtime does not import
    try:
        return model.model_validate_json(body)
    except ValueError as error:
        faults = pydantic_faults(error)
        if faults is None:
            raise _malformed_json(error) from None
        raise invalid(faults) from None


def _charset(content_type: str) -> str:
    """Return the codec of the body's charset, UTF-8 where none is said. Raises Refusal (415) for one that is no text's."""
    said = CHARSET.search(content_type)
    if said is None:
        return "utf-8"
    try:
        name = codecs.lookup(said[1]).name
    except LookupError:
        name = ""
    if not ENCODINGS.fullmatch(name):
        raise Refusal(415, "unsupported-media-type", "The charset of the body is not known here; send it in UTF-8.")
    return name


def _text(call: Call) -> str:
    charset = _charset(call.content_type)
    try:
        return call.body.decode(charset)
    except UnicodeDecodeError:
        raise Refusal(400, "body-malformed", f"The body is not {charset.upper()} text.") from None


class _Bounded(TreeBuilder):
    """Builds a tree of elements that is not too deep."""

    def __init__(self) -> None:
        super().__init__()
        self._depth = 0

    def start(self, tag: str, attrs: Mapping[str, str]) -> Element:
        self._depth += 1
        if self._depth > DEEPEST:
            raise ValueError("nested too deeply")
        return super().start(tag, dict(attrs))

    def end(self, tag: str) -> Element:
        self._depth -= 1
        return super().end(tag)


def _xml(call: Call) -> Element:
    sent = call.content_type.partition(";")[0].strip().lower()
    if sent not in {"", "application/xml", "text/xml"} and not sent.endswith("+xml"):
        raise Refusal(415, "unsupported-media-type", "Send the body as application/xml.", headers=[("Accept", "application/xml")])
    charset = _charset(call.content_type) if CHARSET.search(call.content_type) else None
    parser = DefusedXMLParser(target=_Bounded(), encoding=charset, forbid_dtd=True)
    try:
        parser.feed(call.body)
        tree: Element = parser.close()
    except DefusedXmlException:
        raise Refusal(400, "body-malformed", "The body is XML with a document type or entities, which are not taken.") from None
    except (ParseError, ValueError, LookupError) as error:
        raise Refusal(400, "body-malformed", f"The body is not XML: {error}.") from None
    return tree


def _compile_form(name: str, kind: Any) -> Body:  # noqa: ANN401  any annotation
    info = msgspec.inspect.type_info(kind)
    if isinstance(info, msgspec.inspect.StructType | msgspec.inspect.DataclassType | msgspec.inspect.TypedDictType):
        types = {field.encode_name: field.type for field in info.fields}
    elif isinstance(info, msgspec.inspect.DictType):
        types = {}
    else:
        raise TypeError("a form has fields: annotate a dataclass, TypedDict, msgspec Struct or dict")
    other = info.value_type if isinstance(info, msgspec.inspect.DictType) else msgspec.inspect.AnyType()
    files = any(_holds(field, Upload) for field in (*types.values(), other))

    def read(call: Call) -> object:
        value: dict[str, object] = {}
        faults: list[dict[str, str]] = []
        for field, values in call.form.items():
            expected = types.get(field, other)
            if _is_many(expected):
                value[field] = values
            elif len(values) > 1:
                faults.append({"pointer": f"/{field}", "detail": "Given more than once"})
            else:
                value[field] = "true" if values[0] == "on" and isinstance(expected, msgspec.inspect.BoolType) else values[0]
        try:
            if not faults:
                return msgspec.convert(value, kind, strict=False, dec_hook=decode_custom)
        except msgspec.ValidationError as error:
            faults = all_faults(kind, value, error, strict=False)
        raise invalid(faults)

    return Body(name, kind, MULTIPART if files else (*FORM, *MULTIPART), read, form=True)


def _is_many(kind: msgspec.inspect.Type) -> bool:
    return any(isinstance(part, msgspec.inspect.CollectionType) for part in _parts(kind))


def _holds(kind: msgspec.inspect.Type, wanted: type) -> bool:
    for part in _parts(kind):
        if isinstance(part, msgspec.inspect.CustomType) and part.cls is wanted:
            return True
        if isinstance(part, msgspec.inspect.CollectionType) and _holds(part.item_type, wanted):
            return True
    return False


def _parts(kind: msgspec.inspect.Type) -> Iterable[msgspec.inspect.Type]:
    if isinstance(kind, msgspec.inspect.Metadata):
        return _parts(kind.type)
    return kind.types if isinstance(kind, msgspec.inspect.UnionType) else (kind,)
