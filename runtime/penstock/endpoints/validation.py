"""List every fault of a body that does not fit its type, each with its JSON Pointer (RFC 6901).

msgspec stops at the first fault and reports its path (`.lines[3].price`). Everything before that
path is valid, so the next conversion starts behind it: in total a value is converted about once,
however many faults it has. The path is a hint, not an address: a field name may hold dots, an
object may have a member twice, and the key of a dict is not in it. So the walk follows the types
and the value, and reports a fault at the value where a conversion failed. Two things bound it: an
explicit stack, because JSON can be nested deeper than Python calls, and a budget of bytes, because
each dict within a dict converts its members again.

Messages say what was expected, never what was sent: they reach callers, records and logs.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
from itertools import islice
from typing import Annotated, Any, get_origin

import msgspec

from penstock.endpoints.annotations import (
    SETS,
    Bounds,
    Fields,
    intended,
    item_type,
    member_types,
    object_fields,
    positional_types,
)
from penstock.endpoints.faults import INDEX, UNHASHABLE, error_path, expected, faults_at, field_at
from penstock.endpoints.models import MAX_FAULTS, Fault, member_pointer
from penstock.errors import Refusal

BATCH = 1_000  # items of a list, or members of a dict, that are converted together
MAX_REREADS = 8  # of a whole value, for dicts within dicts
MIN_REREAD_BYTES = 4 * 1024 * 1024  # that are allowed for a small value

Walk = Iterator["Fault | Walk"]


def decode_custom(kind: type, value: object) -> object:
    """Return a value of a type that msgspec does not know: a Pydantic model in another type."""
    if isinstance(value, kind):
        return value
    # As JSON once more: a strict model takes a date as text from JSON alone.
    if hasattr(kind, "model_validate_json"):
        return kind.model_validate_json(msgspec.json.encode(value))
    if not hasattr(kind, "model_validate"):
        raise msgspec.ValidationError(f"Expected `{kind.__name__}`, got `{type(value).__name__}`")
    return kind.model_validate(value)


def invalid_body(faults: list[Fault]) -> Refusal:
    """Return the answer to a body that does not fit."""
    many = (
        f"{MAX_FAULTS} faults or more"
        if len(faults) >= MAX_FAULTS
        else f"{len(faults)} fault{'s' if len(faults) > 1 else ''}"
    )
    return Refusal(
        422,
        "body-invalid",
        f"The body does not fit: {many}.",
        extra={"errors": faults[:MAX_FAULTS]},
    )


def validation_errors(
    kind: Any,  # noqa: ANN401  any annotation
    value: object,
    first: Exception,
    *,
    strict: bool = True,
) -> list[Fault]:
    """Return the faults of a value, at least one and at most `MAX_FAULTS`.

    `first` is the error that decoding has raised. Unless `strict`, text is converted to numbers,
    booleans and dates.
    """
    faults: list[Fault] = []
    try:
        for fault in islice(_Walker(value, strict=strict).faults(kind, value, first), MAX_FAULTS):
            faults.append(fault)  # noqa: PERF402  those found before an exception are kept
    except Exception:  # noqa: BLE001, S110  `__post_init__` and validators of plugin code may raise anything
        pass
    return faults or faults_at(kind, first, value, "", error_path(first) or "")


def is_unhashable(error: Exception) -> bool:
    """Return whether an error is the one that msgspec raises for a list in a set."""
    return isinstance(error, TypeError) and "unhashable" in str(error)


class _Walker:
    """Walk through a value from one fault to the next."""

    def __init__(self, value: object, *, strict: bool) -> None:
        self._whole = value
        self._strict = strict
        self._left: int | None = None  # bytes of the budget for dicts within dicts

    def faults(self, kind: Any, value: object, first: Exception) -> Iterator[Fault]:  # noqa: ANN401  any annotation
        stack = [self._on(kind, value, "", first, error_path(first))]
        while stack:
            item = next(stack[-1], None)
            if item is None:
                stack.pop()
            elif isinstance(item, dict):
                yield item
            else:
                stack.append(item)

    def _on(
        self,
        kind: Any,  # noqa: ANN401  as above
        value: object,
        pointer: str,
        error: Exception,
        path: str | None,
    ) -> Walk:
        """Return the walk through a value with an error at `path`, which is None where unknown."""
        if isinstance(value, list | dict):
            plain, bounds = intended(kind, value)
            walk: Walk | None = None
            if isinstance(value, dict):
                if (members := member_types(plain)) is not None:
                    walk = self._on_dict(*members, bounds, value, pointer)
                elif (fields := object_fields(plain)) is not None:
                    walk = self._on_fields(fields, value, pointer, error, path)
            elif (item := item_type(plain)) is not None:
                walk = self._on_list(
                    item,
                    bounds,
                    value,
                    pointer,
                    error,
                    path,
                    in_set=(get_origin(plain) or plain) in SETS,
                )
            elif (kinds := positional_types(plain)) is not None:
                walk = self._on_places(kinds, value, pointer, fixed=get_origin(plain) is tuple)
            if walk is not None:
                return self._at_least(walk, kind, value, pointer, error, path)
        return iter(faults_at(kind, error, value, pointer, path or ""))

    def _at_least(
        self,
        walk: Walk,
        kind: Any,  # noqa: ANN401  as above
        value: object,
        pointer: str,
        error: Exception,
        path: str | None,
    ) -> Walk:
        """Yield from a walk, or a fault at the value itself where the walk yields none.

        That happens where a member was sent twice.
        """
        nothing = True
        for item in walk:
            nothing = False
            yield item
        if nothing:
            yield from faults_at(kind, error, value, pointer, path or "")

    def _error(self, kind: Any, value: object) -> Exception | None:  # noqa: ANN401  as above
        """Convert a value and return the error, None if it fits."""
        try:
            # Through JSON: some types, such as msgspec.Raw, can be decoded but not converted.
            if self._strict:
                _decoder(kind).decode(msgspec.json.encode(value))
            else:
                msgspec.convert(value, kind, strict=False, dec_hook=decode_custom)
        except msgspec.ValidationError as error:
            return error
        except TypeError as error:
            if not is_unhashable(error):
                raise
            return error
        return None

    def _on_list(
        self,
        item: Any,  # noqa: ANN401  any annotation
        bounds: Bounds,
        value: list[object],
        pointer: str,
        error: Exception,
        path: str | None,
        *,
        in_set: bool,
    ) -> Walk:
        step = INDEX.match(path or "")
        at = int(step[1]) if step else len(value)
        if step is not None and at < len(value):
            yield self._on(item, value[at], f"{pointer}/{at}", error, (path or "")[step.end() :])
            met = self._next(item, value, at + 1)
        else:
            met = self._next(item, value, 0)
        while met is not None:
            at, error, path = met
            yield self._on(item, value[at], f"{pointer}/{at}", error, path)
            met = self._next(item, value, at + 1)
        for at, member in enumerate(value) if in_set else ():
            if isinstance(member, list | dict) and isinstance(
                self._error(set[item], [member]), TypeError
            ):
                yield {"pointer": f"{pointer}/{at}", "detail": UNHASHABLE}
        yield from self._out_of_bounds(list[Any], bounds, value, pointer)

    def _next(
        self,
        item: Any,  # noqa: ANN401  as above
        value: list[object],
        start: int,
    ) -> tuple[int, Exception, str | None] | None:
        """Return the index of the next item at fault, the error and its path within the item."""
        for begin in range(start, len(value), BATCH):
            error = self._error(list[item], value[begin : begin + BATCH])
            if error is None:
                continue
            step = INDEX.match(error_path(error) or "")
            if step is not None:
                return begin + int(step[1]), error, (error_path(error) or "")[step.end() :]
            for at in range(begin, min(begin + BATCH, len(value))):
                if (error := self._error(item, value[at])) is not None:
                    return at, error, error_path(error)
        return None

    def _on_dict(
        self,
        key: Any,  # noqa: ANN401  as above
        kind: Any,  # noqa: ANN401  as above
        bounds: Bounds,
        value: Mapping[str, object],
        pointer: str,
    ) -> Walk:
        names = list(value)
        for begin in range(0, len(names), BATCH):
            some = {name: value[name] for name in names[begin : begin + BATCH]}
            if not self._within_budget(some):
                return
            if len(some) > 1 and self._error(dict[key, kind], some) is None:
                continue
            for name in some:
                at = member_pointer(pointer, name)
                if (wrong := self._error(dict[key, Any], {name: None})) is not None:
                    yield from faults_at(key, wrong, name, at, "")
                elif (met := self._error(kind, value[name])) is not None:
                    yield self._on(kind, value[name], at, met, error_path(met))
        yield from self._out_of_bounds(dict[str, Any], bounds, value, pointer)

    def _within_budget(self, value: object) -> bool:
        """Return whether members of a dict may be converted one by one; it costs their size."""
        if not self._strict:
            return True
        if self._left is None:
            self._left = max(MIN_REREAD_BYTES, MAX_REREADS * len(msgspec.json.encode(self._whole)))
        self._left -= len(msgspec.json.encode(value))
        return self._left > 0

    def _on_fields(
        self,
        fields: Fields,
        value: Mapping[str, object],
        pointer: str,
        error: Exception,
        path: str | None,
    ) -> Walk:
        names = list(value)
        first = field_at(fields.kinds, path or "")
        if first is not None and first in value:
            kind = fields.kinds[first]
            yield self._on(
                kind,
                value[first],
                member_pointer(pointer, first),
                error,
                (path or "")[1 + len(first) :],
            )
            names = names[names.index(first) + 1 :]
        if (
            fields.tag is not None
            and fields.tag[0] in value
            and value[fields.tag[0]] != fields.tag[1]
        ):
            yield {
                "pointer": member_pointer(pointer, fields.tag[0]),
                "detail": expected(msgspec.json.encode(fields.tag[1]).decode()),
            }
        for name in names:
            kind = fields.kinds.get(name)
            if kind is not None and (met := self._error(kind, value[name])) is not None:
                yield self._on(
                    kind, value[name], member_pointer(pointer, name), met, error_path(met)
                )
        for name, detail in fields.odd(value):
            yield {"pointer": member_pointer(pointer, name), "detail": detail}

    def _on_places(
        self, kinds: Sequence[Any], value: list[object], pointer: str, *, fixed: bool
    ) -> Walk:
        for at, (kind, item) in enumerate(zip(kinds, value, strict=False)):
            if (met := self._error(kind, item)) is not None:
                yield self._on(kind, item, f"{pointer}/{at}", met, error_path(met))
        if fixed and len(kinds) != len(value):
            yield {"pointer": pointer, "detail": f"Expected `array` of length {len(kinds)}"}

    def _out_of_bounds(self, kind: Any, bounds: Bounds, value: object, pointer: str) -> list[Fault]:  # noqa: ANN401  as above
        """Return the fault of a list or dict that has too few or too many items."""
        for bound in bounds:
            if (error := self._error(Annotated[kind, bound], value)) is not None:
                return faults_at(kind, error, value, pointer, "")
        return []


@lru_cache(maxsize=1024)
def _cached_decoder(kind: Any) -> msgspec.json.Decoder[Any]:  # noqa: ANN401  any annotation
    return msgspec.json.Decoder(kind, dec_hook=decode_custom)


def _decoder(kind: Any) -> msgspec.json.Decoder[Any]:  # noqa: ANN401  any annotation
    try:
        hash(kind)
    except TypeError:  # the metadata of an Annotated type may have no hash
        return msgspec.json.Decoder(kind, dec_hook=decode_custom)
    return _cached_decoder(kind)
