"""Declare the options of a frozen value once: default, converter and check in one field.

The values that a developer writes in a plugin (`HttpTrigger`, `Cors`, `Schedule` …) accept more
than they store: one text in place of a list, a list in place of a set. `converted` declares a field
with a converter. Its annotation, `Converted[In, Out]`, tells type checkers and editors both types:
the constructor accepts `In`, the attribute is `Out`.

A wrong value is stored all the same. `problems_of_options` reports it when the plugin is loaded,
with all others, so that a developer sees the whole list and not one traceback after another.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import MISSING, field, fields
from typing import Any, Generic, NamedTuple, Self, TypeGuard, TypeVar, cast, get_args, overload

In = TypeVar("In")
Out = TypeVar("Out")
T = TypeVar("T")
In_contra = TypeVar("In_contra", contravariant=True)
Out_co = TypeVar("Out_co", covariant=True)

Problem = tuple[str, str]  # what is wrong, and its fix

CONVERT, CHECK = "convert", "check"


class Check(NamedTuple):
    """What an option accepts.

    `fault` follows "option=value" in the report; `fix` says what to write.
    """

    accepts: Callable[[Any], bool]
    fault: str
    fix: str

    def problems(self, name: str, value: object, form: str = "{}") -> Iterable[Problem]:
        """Yield the problem of a value, if it has one; `form` has a place for "option=value"."""
        if not self.accepts(value):
            yield f"{form.format(f'{name}={value!r}')} {self.fault}", self.fix


class Converted(Generic[In_contra, Out_co]):
    """The type of a field with a converter: assigned as `In_contra`, read as `Out_co`.

    For type checkers only, which treat it as a descriptor. The attribute itself holds the value.
    """

    @overload
    def __get__(self, instance: None, owner: type) -> Self: ...
    @overload
    def __get__(self, instance: object, owner: type) -> Out_co: ...
    def __get__(self, instance: object, owner: type) -> Any:
        raise NotImplementedError

    def __set__(self, instance: object, value: In_contra) -> None:
        raise NotImplementedError


def option(default: T, check: Check | None = None) -> T:
    """Declare an option without a converter."""
    declared: T = field(default=default, metadata={CHECK: check})
    return declared


def converted(convert: Callable[[In], Out], default: Any = MISSING) -> Converted[In, Out]:  # noqa: ANN401  a value that `convert` accepts, or none
    """Declare an option with a converter. Without a default it is required."""
    metadata = {CONVERT: convert}
    if default is MISSING:
        return cast("Converted[In, Out]", field(metadata=metadata))
    return cast("Converted[In, Out]", field(default=default, metadata=metadata))


def flag(*, default: bool) -> bool:
    """Declare an option that is True or False. Another value raises TypeError at once.

    A credential that is required by accident, or not required by accident, must not be a report.
    """
    declared: bool = field(default=default, metadata={CONVERT: _boolean})
    return declared


def _boolean(value: object) -> bool:
    if not isinstance(value, bool):
        raise TypeError(f"takes True or False, not {value!r}")
    return value


def convert_options(declared: Any) -> None:  # noqa: ANN401  an instance of any dataclass
    """Convert the options of a new value. Call it in `__post_init__`.

    The one place that changes a frozen value: it has no other reference yet.
    """
    for item in fields(declared):
        convert = item.metadata.get(CONVERT)
        if convert is None:
            continue
        try:
            value = convert(getattr(declared, item.name))
        except TypeError as error:
            raise TypeError(f"{type(declared).__name__}({item.name}=…) {error}") from None
        object.__setattr__(declared, item.name, value)


def problems_of_options(declared: Any, form: str = "{}") -> Iterable[Problem]:  # noqa: ANN401  an instance of any dataclass
    """Yield the problem of each option whose check does not accept its value, with its fix."""
    for item in fields(declared):
        check: Check | None = item.metadata.get(CHECK)
        if check is not None:
            yield from check.problems(item.name, getattr(declared, item.name), form)


def one_of(literal: object, fix: str = "") -> Check:
    """Return a check that accepts the values of a `Literal` type."""
    values = get_args(literal)
    *others, last = [f'"{value}"' for value in values]
    write = f"write {', '.join(others)} or {last}" if others else f"write {last}"
    return Check(
        lambda value: isinstance(value, str) and value in values, "is not known", fix or write
    )


def whole_number(minimum: int, maximum: int | None = None, *, fault: str, fix: str) -> Check:
    """Return a check that accepts whole numbers within these bounds."""
    return Check(
        lambda value: (
            type(value) is int and value >= minimum and (maximum is None or value <= maximum)
        ),
        fault,
        fix,
    )


def seconds(maximum: float) -> Check:
    """Return a check that accepts a number of seconds above 0."""
    return Check(
        lambda value: type(value) in {int, float} and 0 < value <= maximum,
        "is out of bounds",
        f"give seconds above 0, at most {maximum:.0f}",
    )


def texts(value: str | Iterable[str]) -> tuple[str, ...]:
    """Convert one text, or several, to a tuple. A value of another type is a tuple of itself."""
    return tuple(value) if _is_collection(value) else (cast("str", value),)


def _is_collection(value: object) -> TypeGuard[Iterable[Any]]:
    return isinstance(value, Iterable) and not isinstance(value, str | bytes)


def several(value: object, single: type) -> tuple[Any, ...]:
    """Convert one value, or several, to a tuple. A check reports values of other types."""
    if isinstance(value, single) or not _is_collection(value):
        return (value,)
    return tuple(value)


def text_set(value: str | Iterable[str]) -> frozenset[str]:
    """Convert one text, or several, to a set."""
    return frozenset(texts(value))
