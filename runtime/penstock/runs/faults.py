"""Say every fault of a body that does not fit its type, each with its JSON Pointer (RFC 6901)."""

from __future__ import annotations

import re
import typing
from collections.abc import Collection, Iterable, Iterator, Mapping, MutableMapping, MutableSequence, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from functools import lru_cache
from itertools import islice
from types import UnionType
from typing import Annotated, Any, Union, get_args, get_origin

import msgspec

from penstock.errors import Refusal

MOST = 100  # faults that are listed
MOST_TOLD_BY_PYDANTIC = 5_000  # it makes a dict of each before any can be read
AT_A_TIME = 1_000  # items of a list that are converted together
MAPS = 8  # dicts within dicts: msgspec does not say by which key it went, so each is gone through again
WHERE = re.compile(r" - at (?:`key` in )?`\$?([^`]*)`$")
INDEX = re.compile(r"\[(\d+)\]")
STEP = re.compile(r"\.([^.\[]+)|\[(\d+)\]")
MARKS = {typing.Required, typing.NotRequired, typing.Final}
LISTS = {list, set, frozenset, Collection, Sequence, MutableSequence, AbstractSet}
DICTS = {dict, Mapping, MutableMapping}

Fault = dict[str, str]


def decode_custom(kind: type, value: object) -> object:
    """Decode a type that msgspec does not know: a Pydantic model inside of another type."""
    if isinstance(value, kind):
        return value
    if not hasattr(kind, "model_validate"):
        raise msgspec.ValidationError(f"Expected `{kind.__name__}`, got `{type(value).__name__}`")
    return kind.model_validate(value)


def invalid(faults: list[Fault]) -> Refusal:
    """Return the answer to a body that does not fit."""
    many = f"{MOST} faults or more" if len(faults) >= MOST else f"{len(faults)} fault{'s' if len(faults) > 1 else ''}"
    return Refusal(422, "body-invalid", f"The body does not fit: {many}.", extra={"errors": faults[:MOST]})


def all_faults(kind: Any, value: object, first: Exception, *, strict: bool = True) -> list[Fault]:  # noqa: ANN401  any annotation
    """Return the faults of a value, as many as are listed; `first` is the one that was met decoding it.

    Not `strict`: text may stand for numbers.
    """
    found: list[Fault] = []
    try:
        for fault in islice(_Walk(strict=strict).on(kind, value, "", first, _path(first), MAPS), MOST):
            found.append(fault)  # noqa: PERF402  what was found stays found when the walk goes too deep
    except RecursionError:
        pass
    return found or _told(first, "", _path(first))


def pydantic_faults(error: Any) -> list[Fault] | None:  # noqa: ANN401  Pydantic's ValidationError, which the runtime does not import
    """Return the faults that Pydantic found, or None where the body is no JSON at all."""
    if error.error_count() > MOST_TOLD_BY_PYDANTIC:
        return [{"pointer": "", "detail": f"{error.error_count()} faults, too many to list"}]
    found = error.errors(include_url=False, include_context=False, include_input=False)
    if any(item["type"] == "json_invalid" and not item["loc"] for item in found):
        return None
    return [{"pointer": "".join(_below("", str(part)) for part in item["loc"]), "detail": item["msg"]} for item in found[:MOST]]


class _Walk:
    """Goes through a value from one fault to the next.

    msgspec stops at the first fault and says where it is, so what lies before needs no second look: the next conversion begins
    after it. All in all a value is converted about once, however deep it is and however many faults it has.
    """

    def __init__(self, *, strict: bool) -> None:
        self._strict = strict

    def on(self, kind: Any, value: object, pointer: str, error: Exception, path: str, maps: int) -> Iterator[Fault]:  # noqa: ANN401  any annotation; where it is
        """Yield the fault that `path` leads to from this value, and those behind it."""
        plain = _plain(kind, value)
        if isinstance(value, list) and _item_of(plain) is not None:
            return self._on_list(_item_of(plain), value, pointer, error, path, maps)
        if isinstance(value, dict) and get_origin(plain) in DICTS:
            return self._on_dict(plain, value, pointer, error, path, maps)
        if isinstance(value, dict) and (fields := _fields_of(plain)) is not None:
            return self._on_fields(fields, value, pointer, error, path, maps)
        return iter(_told(error, pointer, path))

    def _error(self, kind: Any, value: object) -> msgspec.ValidationError | None:  # noqa: ANN401  any annotation
        try:
            if self._strict:  # as JSON once more: some types, such as msgspec.Raw, can only be decoded
                msgspec.json.decode(msgspec.json.encode(value), type=kind, dec_hook=decode_custom)
            else:
                msgspec.convert(value, kind, strict=False, dec_hook=decode_custom)
        except msgspec.ValidationError as error:
            return error
        return None

    def _on_list(self, item: Any, value: list[object], pointer: str, error: Exception, path: str, maps: int) -> Iterator[Fault]:  # noqa: ANN401  as above
        met = (0, error, path) if INDEX.match(path) else None
        if met is None:  # the list itself is at fault
            yield from _told(error, pointer, path)
            met = self._next(item, value, 0)
        while met is not None:
            start, error, path = met
            step = INDEX.match(path)
            at = start + int(step[1]) if step else len(value)
            if step is None or at >= len(value):
                return
            yield from self.on(item, value[at], f"{pointer}/{at}", error, path[step.end() :], maps)
            met = self._next(item, value, at + 1)

    def _next(self, item: Any, value: list[object], start: int) -> tuple[int, Exception, str] | None:  # noqa: ANN401  any annotation
        """Return the next fault of a list: from which item on it was looked for, and what was met where."""
        for begin in range(start, len(value), AT_A_TIME):
            error = self._error(list[item], value[begin : begin + AT_A_TIME])
            if error is not None:
                return begin, error, _path(error)
        return None

    def _on_dict(self, kind: Any, value: Mapping[str, object], pointer: str, error: Exception, path: str, maps: int) -> Iterator[Fault]:  # noqa: ANN401  as above
        known = True
        for name, item in value.items() if maps else ():
            met = self._error(kind, {name: item})
            if met is None:
                continue
            known = False
            at, below = _below(pointer, name), _path(met)
            if below.startswith("[...]"):
                yield from self.on(get_args(kind)[1], item, at, met, below.removeprefix("[...]"), maps - 1)
            else:
                yield from _told(met, at, "")
        if known:
            yield from _told(error, pointer, path)

    def _on_fields(self, fields: _Fields, value: Mapping[str, object], pointer: str, error: Exception, path: str, maps: int) -> Iterator[Fault]:
        names = list(value)
        first = fields.first(path)
        at_fault = False
        if first in value:
            yield from self.on(fields.kinds[first], value[first], _below(pointer, first), error, path[1 + len(first) :], maps)
            names = names[names.index(first) + 1 :]
            at_fault = True
        elif path:
            yield from _told(error, pointer, path)
            at_fault = True
        for name in names:
            kind = fields.kinds.get(name)
            if kind is not None and (met := self._error(kind, value[name])) is not None:
                yield from self.on(kind, value[name], _below(pointer, name), met, _path(met), maps)
                at_fault = True
        for name, detail in fields.odd(value):
            yield {"pointer": _below(pointer, name), "detail": detail}
            at_fault = True
        if not at_fault:
            yield from _told(error, pointer, path)


@dataclass(frozen=True, slots=True)
class _Fields:
    """The fields of a dataclass, TypedDict or Struct, by the names that callers know; `others` says which may stand beside them, None: any."""

    kinds: Mapping[str, Any]
    required: tuple[str, ...]
    others: frozenset[str] | None
    tag: tuple[str, object] | None

    def first(self, path: str) -> str:
        """Return the field that a path begins with, the longest that can be meant: names may hold dots and brackets. Empty where there is none."""
        meant = (name for name in self.kinds if path.startswith(f".{name}") and path[1 + len(name) :][:1] in {"", ".", "["})
        return max(meant, key=len, default="")

    def odd(self, value: Mapping[str, object]) -> Iterable[tuple[str, str]]:
        """Yield what is missing, and what is there but not known."""
        yield from ((name, "Required, and missing") for name in self.required if name not in value)
        if self.others is not None:
            yield from ((name, "Not known here") for name in sorted(value.keys() - self.kinds.keys() - self.others))


@lru_cache(maxsize=1024)
def _fields_of_class(kind: type) -> _Fields | None:
    info = msgspec.inspect.type_info(kind)
    if not isinstance(info, msgspec.inspect.StructType | msgspec.inspect.DataclassType | msgspec.inspect.TypedDictType):
        return None
    hints = {name: _without(MARKS, hint) for name, hint in typing.get_type_hints(kind, include_extras=True).items()}
    tag = getattr(info, "tag_field", None)
    return _Fields(
        {field.encode_name: hints[field.name] for field in info.fields},
        tuple(field.encode_name for field in info.fields if field.required),
        frozenset({tag} if tag else set[str]()) if getattr(info, "forbid_unknown_fields", False) else None,
        (tag, info.tag) if tag and isinstance(info, msgspec.inspect.StructType) else None,
    )


def _fields_of(kind: Any) -> _Fields | None:  # noqa: ANN401  any annotation
    return _fields_of_class(kind) if isinstance(kind, type) and get_origin(kind) is None else None


def _item_of(kind: Any) -> Any | None:  # noqa: ANN401  any annotation
    parts = get_args(kind)
    if get_origin(kind) is tuple:
        return parts[0] if len(parts) == 2 and parts[1] is Ellipsis else None  # noqa: PLR2004  tuple[int, ...]
    return parts[0] if get_origin(kind) in LISTS else None


def _without(marks: AbstractSet[Any], kind: Any) -> Any:  # noqa: ANN401  any annotation
    while get_origin(kind) in marks:
        kind = get_args(kind)[0]
    return kind


def _plain(kind: Any, value: object) -> Any:  # noqa: ANN401  any annotation
    """Return what a value is meant to be: a type without its marks, and of a union the one part that can be meant, if it is one alone."""
    kind = _without({Annotated}, kind)
    if get_origin(kind) not in {Union, UnionType}:
        return kind
    parts = [part for part in (_plain(part, value) for part in get_args(kind)) if _may_be(part, value)]
    return parts[0] if len(parts) == 1 else None


def _may_be(kind: Any, value: object) -> bool:  # noqa: ANN401  any annotation
    if isinstance(value, list):
        return _item_of(kind) is not None
    fields = _fields_of(kind)
    if not isinstance(value, dict) or fields is None:
        return isinstance(value, dict) and get_origin(kind) in DICTS
    return fields.tag is None or value.get(fields.tag[0]) == fields.tag[1]


def _path(error: Exception) -> str:
    """Return where msgspec met a fault, as it writes it: `.lines[3].price`, and `[...]` for some member of a dict."""
    found = WHERE.search(str(error))
    return found[1] if found else ""


def _told(error: Exception, pointer: str, path: str) -> list[Fault]:
    """Return what an error says of the value that `path` leads to; as far as it leads."""
    end = 0
    while step := STEP.match(path, end):
        pointer = _below(pointer, step[1] or step[2])
        end = step.end()
    if hasattr(error.__cause__, "error_count"):
        inner = pydantic_faults(error.__cause__) or []
        return [{"pointer": pointer + fault["pointer"], "detail": fault["detail"]} for fault in inner]
    return [{"pointer": pointer, "detail": WHERE.sub("", str(error))}]


def _below(pointer: str, name: str) -> str:
    return f"{pointer}/{name.replace('~', '~0').replace('/', '~1')}"
