"""How a setting is declared: once, as a field of a dataclass.

The field's annotation is the setting's type. `setting` adds the default as an operator writes it,
the function that parses the text, and the help. From these come the value of each field, the table
of `penstock settings` and the reference page.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import MISSING, dataclass, field, fields
from typing import Any, NamedTuple, TypeVar, cast

T = TypeVar("T")

PREFIX = "PENSTOCK_"
DECLARATION = "declaration"


class Setting(NamedTuple):
    """One row of the table of settings.

    `default` is the text that an operator would write. A `secret` never appears in a repr, and a
    file can hold it: set `{name}_FILE` to the file's path.
    """

    name: str
    default: str
    help: str
    secret: bool = False


@dataclass(frozen=True, slots=True)
class Declaration:
    """A setting's row, and the functions that parse its text and its default."""

    row: Setting
    parse: Callable[[str], Any]
    parse_default: Callable[[str], Any]


def setting(
    default: str,
    parse: Callable[[str], T],
    help: str,  # noqa: A002  the word of every command line
    *,
    name: str = "",
    secret: bool = False,
    value: Any = MISSING,  # noqa: ANN401  a value of the field's type, or none
    parse_default: Callable[[str], T] | None = None,
) -> T:
    """Declare a setting as a field of a frozen dataclass.

    Args:
        default: The default as an operator would write it.
        parse: Returns the value of a text. Raises ValueError that completes "PENSTOCK_X …".
        help: What it sets, with its unit, in one or two sentences.
        name: The variable's name; by default `PENSTOCK_` and the field's name in capitals.
        secret: Whether it may hold a secret: it is not in a repr and has a `_FILE` variant.
        value: The field's default value; by default what `parse` returns for `default`.
        parse_default: Parses the default where the variable is not set; by default `parse`.

    """
    return cast(
        "T",
        field(
            default=parse(default) if value is MISSING else value,
            repr=not secret,
            metadata={
                DECLARATION: Declaration(
                    Setting(name, default, help, secret), parse, parse_default or parse
                )
            },
        ),
    )


def declarations(settings: type) -> Iterable[tuple[str, Declaration]]:
    """Yield the name of each field of a dataclass that declares a setting, and its declaration."""
    for item in fields(settings):
        declaration = item.metadata.get(DECLARATION)
        if declaration is None:
            continue
        row: Setting = declaration.row
        name = row.name or f"{PREFIX}{item.name.upper()}"
        text = f"{row.help} `{name}_FILE` names a file with it." if row.secret else row.help
        yield (
            item.name,
            Declaration(
                row._replace(name=name, help=text), declaration.parse, declaration.parse_default
            ),
        )
