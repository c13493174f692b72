"""Compile the body parameter of a handler: its annotation decides how a body is decoded.

Messages of libraries may quote the body, and refusals are recorded and logged. So none of them is
passed on: each fault is described anew.
"""

from __future__ import annotations

import json
import re
from codecs import BOM_UTF8
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any
from xml.etree.ElementTree import Element, ParseError, TreeBuilder
from xml.parsers import expat

import msgspec
from defusedxml.common import DefusedXmlException
from defusedxml.ElementTree import DefusedXMLParser

from penstock.contracts.call import MAX_EXACT_INTEGER, Call
from penstock.contracts.forms import Form, Header, Upload
from penstock.endpoints.annotation_checks import json_problem, takes_several, texts_problem
from penstock.endpoints.annotations import (
    bare_type,
    find_marker,
    item_type,
    member_types,
    object_fields,
    positional_types,
    union_parts,
)
from penstock.endpoints.media import (
    UTF_8,
    charset_of,
    codec_of,
    marked_codec,
    media_type,
    parameters_of,
)
from penstock.endpoints.models import Fault, member_pointer, model_faults
from penstock.endpoints.validation import (
    decode_custom,
    invalid_body,
    is_unhashable,
    validation_errors,
)
from penstock.errors import Refusal

JSON = ("application/json",)
FORM = ("application/x-www-form-urlencoded",)
MULTIPART = ("multipart/form-data",)
XML = ("application/xml",)
TEXT = ("text/plain",)
BYTES = ("application/octet-stream",)
JSON_ERRORS = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)
SYNTAX_FAULT = re.compile(r"JSON is malformed: (.*) \(byte (\d+)\)")
# That may be written with a point or an exponent.
WHOLE_NUMBER = re.compile(rb"\d(?:\.0|\.?\d*[eE])")
XML_DECLARATION = re.compile(
    rb"""<\?xml[^>]{0,100}?\sencoding\s*=\s*["']([A-Za-z0-9._-]{1,40})["']"""
)
MAX_XML_DEPTH = 100  # of nested elements
Read = Callable[[Call], object]


@dataclass(frozen=True, slots=True)
class Body:
    """The body parameter of a handler: its type, its media types and its decoder.

    A `form` is read part by part.
    """

    name: str
    kind: Any
    media: tuple[str, ...]
    read: Read
    form: bool = False


def compile_body(name: str, hint: Any) -> Body:  # noqa: ANN401  any annotation
    """Return the body parameter. Raises TypeError for an annotation that can't be decoded into."""
    if find_marker(hint, Header) is not None:
        raise TypeError("a header is no body: let it stand after the *")
    if find_marker(hint, Form) is not None:
        return _compile_form(name, hint)
    kind = hint
    if kind is bytes:
        return Body(name, bytes, BYTES, lambda call: call.body)
    if kind is str:
        return Body(name, str, TEXT, _text)
    if kind is Element:
        return Body(name, Element, XML, _xml)
    if hasattr(kind, "model_validate_json"):
        return Body(name, kind, JSON, lambda call: _pydantic(kind, _json(call)))
    decoder = msgspec.json.Decoder(kind, dec_hook=decode_custom)
    if problem := json_problem(kind):
        raise TypeError(problem)
    return Body(name, kind, JSON, lambda call: _decode(decoder, kind, _json(call)))


@lru_cache(256)
def _is_json(content_type: str) -> bool:
    """Return whether a media type is JSON in UTF-8. Raises Refusal (415) for unknown charsets."""
    sent = media_type(content_type)
    return (sent in {"", "application/json"} or sent.endswith("+json")) and charset_of(
        content_type
    ) in {"utf-8", "ascii"}


def _json(call: Call) -> bytes:
    if not _is_json(call.content_type):
        raise Refusal(
            415,
            "unsupported-media-type",
            "Send the body as application/json, in UTF-8.",
            headers=[("Accept", "application/json")],
        )
    body = call.body
    return body.removeprefix(BOM_UTF8)  # RFC 8259 section 8.1 allows to ignore it


def _decode(decoder: msgspec.json.Decoder[Any], kind: Any, body: bytes) -> object:  # noqa: ANN401  any annotation
    try:
        return decoder.decode(body)
    except msgspec.ValidationError as error:
        first: Exception = error
    except JSON_ERRORS as error:
        raise malformed_json(body, error) from None
    except TypeError as error:
        if not is_unhashable(error):
            raise
        first = error
    try:
        whole = msgspec.json.decode(body)  # a syntax error may follow the fault
    except JSON_ERRORS as error:
        raise malformed_json(body, error) from None
    if WHOLE_NUMBER.search(body):
        try:
            whole = _with_whole_numbers(whole)
            return decoder.decode(msgspec.json.encode(whole))
        except (msgspec.ValidationError, TypeError) as error:
            first = error  # any other TypeError was raised the first time
        except RecursionError as error:
            raise malformed_json(body, error) from None
    raise invalid_body(validation_errors(kind, whole, first))


def _with_whole_numbers(value: Any) -> Any:  # noqa: ANN401  any JSON
    """Return a JSON value with 7 in place of 7.0.

    Both are integers in JSON Schema, and some languages write the latter.
    """
    if isinstance(value, float):
        return int(value) if value.is_integer() and abs(value) < MAX_EXACT_INTEGER else value
    if isinstance(value, list):
        return [_with_whole_numbers(item) for item in value]
    return (
        {name: _with_whole_numbers(item) for name, item in value.items()}
        if isinstance(value, dict)
        else value
    )


def _pydantic(model: Any, body: bytes) -> object:  # noqa: ANN401  a Pydantic model, which the runtime does not import
    try:
        # Pydantic accepts them as numbers, JSON does not have them.
        if b"NaN" in body or b"Infinity" in body:
            msgspec.json.decode(body, type=msgspec.Raw)
        return model.model_validate_json(body)
    except JSON_ERRORS as error:
        raise malformed_json(body, error) from None
    except ValueError as error:
        first: Any = error
    try:
        faults = model_faults(first, msgspec.json.decode(body))
    except JSON_ERRORS as error:
        raise malformed_json(body, error) from None
    if faults is None:
        raise malformed_json(body, first)
    raise invalid_body(faults)


def _text(call: Call) -> str:
    charset = charset_of(call.content_type)
    try:
        return call.body.decode(charset)
    except UnicodeError:
        raise Refusal(400, "body-malformed", f"The body is not {charset.upper()} text.") from None


class _TooDeep(Exception):
    """Raised for an XML document with too many nested elements."""


class _Bounded(TreeBuilder):
    """Builds a tree of elements. Raises _TooDeep."""

    def __init__(self) -> None:
        super().__init__()
        self._depth = 0

    def start(self, tag: str, attrs: Mapping[str, str]) -> Element:
        self._depth += 1
        if self._depth > MAX_XML_DEPTH:
            raise _TooDeep
        return super().start(tag, dict(attrs))

    def end(self, tag: str) -> Element:
        self._depth -= 1
        return super().end(tag)


def _xml(call: Call) -> Element:
    sent = media_type(call.content_type)
    if sent not in {"", "application/xml", "text/xml"} and not sent.endswith("+xml"):
        raise Refusal(
            415,
            "unsupported-media-type",
            "Send the body as application/xml.",
            headers=[("Accept", "application/xml")],
        )
    body, codec = call.body, _codec_of_xml(call)
    if codec is not None:
        try:
            body = body.decode(codec).encode()
        except UnicodeError:
            raise Refusal(400, "body-malformed", f"The body is not {codec.upper()} text.") from None
    parser = DefusedXMLParser(
        target=_Bounded(), encoding=UTF_8 if codec is not None else None, forbid_dtd=True
    )
    try:
        parser.feed(body)
        tree: Element = parser.close()
    except DefusedXmlException:
        raise Refusal(
            400,
            "body-malformed",
            "The body is XML with a document type or entities, which are not taken.",
        ) from None
    except ParseError as error:
        line, column = error.position
        raise _malformed_xml(
            f"{expat.ErrorString(error.code)} (line {line}, column {column + 1})"
        ) from None
    except _TooDeep:
        raise _malformed_xml("nested too deeply") from None
    except (ValueError, LookupError):
        raise _malformed_xml("its encoding is not known here; send it in UTF-8") from None
    return tree


def _malformed_xml(reason: str) -> Refusal:
    return Refusal(400, "body-malformed", f"The body is not XML: {reason}.")


def _codec_of_xml(call: Call) -> str | None:
    """Return the codec of an XML document, None for UTF-8.

    It is named by the byte order mark, else by the header (RFC 7303), else by the declaration.
    """
    declared = (
        charset_of(call.content_type)
        if any(name == "charset" for name, _ in parameters_of(call.content_type))
        else None
    )
    codec = marked_codec(call.body) or declared
    if codec is not None:
        return codec
    match = XML_DECLARATION.match(call.body)
    codec = codec_of(match[1].decode()) if match else None
    return None if codec is None or codec.startswith(("utf-16", "utf-32")) else codec


def malformed_json(body: bytes, error: Exception) -> Refusal:
    """Return the answer to a body that is not JSON.

    It has the syntax fault with line and column, without any of the text.
    """
    if not body.strip():
        return Refusal(400, "body-malformed", "The body is empty; send JSON.")
    reason, at = _json_syntax_fault(body, error)
    if at is not None:
        before = body[:at]
        column = len(before[before.rfind(b"\n") + 1 :].decode(errors="replace")) + 1
        reason += f" (line {before.count(10) + 1}, column {column})"
    return Refusal(400, "body-malformed", f"The body is not JSON: {reason}.")


def _json_syntax_fault(body: bytes, error: Exception) -> tuple[str, int | None]:
    """Return the syntax fault of a body and its offset in bytes, None if it has no place."""
    if marked_codec(body) is not None:  # that of UTF-8 is removed before
        return "it is in UTF-16 or UTF-32; send it in UTF-8", None
    try:
        body.decode()
    except UnicodeDecodeError as wrong:
        return "it is not UTF-8", wrong.start
    if isinstance(error, msgspec.ValidationError):
        return "a number is out of range", None
    try:
        msgspec.json.decode(body)
    except msgspec.DecodeError as wrong:
        fault = SYNTAX_FAULT.fullmatch(str(wrong))
        if fault is None:
            return _cut_off(body)
        passed = fault[1] == "trailing characters"  # msgspec reports the second of them
        return fault[1], min(int(fault[2]) - passed, len(body) - 1)
    except RecursionError:
        pass
    return "nested too deeply", None  # Pydantic's limit is lower than that of msgspec


def _cut_off(body: bytes) -> tuple[str, int | None]:
    """Return the fault that msgspec calls truncated.

    Either the end or the second half of a surrogate pair is missing.
    """
    try:
        json.loads(body)
    except (ValueError, RecursionError):
        return "it ends too early", len(body)
    return "half of a surrogate pair", None


def _compile_form(name: str, kind: Any) -> Body:  # noqa: ANN401  any annotation
    fields, members = object_fields(bare_type(kind)), member_types(bare_type(kind))
    if fields is None and members is None:
        raise TypeError(
            "a form has fields: annotate a dataclass, TypedDict, msgspec Struct or dict"
        )
    kinds: Mapping[str, Any] = fields.kinds if fields is not None else {}
    other = members[1] if members is not None else None
    for field, needed in (
        {"of any name": other}
        if fields is None
        else {field: kinds[field] for field in fields.required}
    ).items():
        if problem := texts_problem(needed, file=True):
            raise TypeError(f"its field {field}: {problem}")
    many = {field for field, expected in kinds.items() if takes_several(expected)}
    flags = {
        field
        for field, expected in kinds.items()
        if bool in (parts := list(union_parts(expected))) and str not in parts
    }
    files = any(_holds_file(expected) for expected in (*kinds.values(), other))

    def read(call: Call) -> object:
        value: dict[str, object] = {}
        faults: list[Fault] = []
        for field, values in call.form.items():
            if field in many or (field not in kinds and takes_several(other)):
                value[field] = values
            elif len(values) > 1 and (field in kinds or members is not None):
                faults.append(
                    {"pointer": member_pointer("", field), "detail": "Given more than once"}
                )
            else:  # unknown fields are ignored, however often they are sent
                value[field] = "true" if values[0] == "on" and field in flags else values[0]
        try:
            if not faults:
                return msgspec.convert(value, kind, strict=False, dec_hook=decode_custom)
        except msgspec.ValidationError as error:
            faults = validation_errors(kind, value, error, strict=False)
        raise invalid_body(faults)

    return Body(name, bare_type(kind), MULTIPART if files else (*FORM, *MULTIPART), read, form=True)


def _holds_file(kind: Any) -> bool:  # noqa: ANN401  any annotation
    items = (
        part if item is None else item
        for part in union_parts(kind)
        for item in positional_types(part) or (item_type(part),)
    )
    return any(part is Upload for item in items for part in union_parts(item))
