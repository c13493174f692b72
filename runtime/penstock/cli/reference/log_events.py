"""Write the page of log events from the source: every event that is logged with a fixed text.

The source is read as a syntax tree, because a list beside the code would be wrong soon.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import penstock
from penstock.cli.reference.markdown import code, table

INTRO = """# Log events

The log has one line for each event, on standard error: JSON, or text on a terminal
(`PENSTOCK_LOG_FORMAT`). Each line has `event`, `level`, `timestamp`, `logger`, `environment`,
`host` and `pid`. Lines about a call have its `run` and `pipeline`. An exception adds its traceback.

`…` stands for a part that differs. Plugin code writes lines of its own with its logger's name.
"""
LEVELS = {
    "debug": "debug",
    "info": "info",
    "warning": "warning",
    "error": "error",
    "exception": "error",
    "critical": "critical",
}
IMPLIED = frozenset({"exc_info", None})


class Event(NamedTuple):
    """An event of the log: its text, level, fields, and the module that writes it."""

    text: str
    level: str
    fields: tuple[str, ...]
    module: str


def page() -> str:
    """Return the page."""
    rows = (
        (code(item.text), item.level, ", ".join(code(name) for name in item.fields), item.module)
        for item in events()
    )
    return f"{INTRO}\n{table(('event', 'level', 'fields', 'written by'), rows)}"


def events() -> list[Event]:
    """Return all events of the package, sorted by text, each once a level and module."""
    root = Path(penstock.__file__).parent
    trees = {
        path.relative_to(root).with_suffix("").as_posix(): ast.parse(path.read_text("utf-8"))
        for path in sorted(root.rglob("*.py"))
    }
    constants = {name: dict(_constants(tree)) for name, tree in trees.items()}
    by_key = {
        (event.text, event.level, event.module): event
        for name, tree in trees.items()
        for event in _Reader(name, _visible(tree, name, constants)).read(tree)
    }
    return sorted(by_key.values(), key=lambda event: (event.text.lower(), event.module))


class _Reader:
    """Finds the events of one module; `names` are the constants that it can name."""

    def __init__(self, module: str, names: dict[str, str]) -> None:
        self._module = module.removesuffix("/__init__")
        self._names = names
        self._helpers: dict[str, tuple[int, str]] = {}

    def read(self, tree: ast.Module) -> Iterator[Event]:
        """Yield the events of the module's functions."""
        functions = [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)]
        self._helpers = {
            function.name: (place, _helper_level(function))
            for function in functions
            if (place := _event_place(function)) is not None
        }
        for function in functions:
            local = dict(_assigned(function))
            for node in ast.walk(function):
                for text, level, fields in self._logged(node, local):
                    for event in self._texts(text, local):
                        shown = re.sub(r"%\w", "…", event)
                        if len(shown.strip("… ")) > 3:  # noqa: PLR2004  `…` alone says nothing
                            yield Event(shown, level, fields, self._module)

    def _logged(
        self, node: ast.AST, local: dict[str, ast.expr]
    ) -> Iterator[tuple[ast.expr, str, tuple[str, ...]]]:
        """Yield the text, level and fields of the line that a node writes, if it writes one."""
        if isinstance(node, ast.Tuple) and _is_level(node.elts):
            level = node.elts[0].attr.lower()  # type: ignore[attr-defined]  # as _is_level says
            yield node.elts[1], level, _keys(node.elts[2:])
        if not isinstance(node, ast.Call) or not node.args:
            return
        name = ast.unparse(node.func).rpartition(".")[2]
        place, level = self._helpers.get(name, (0, LEVELS.get(name, "varies")))
        is_alias = name in local and ".log." in ast.unparse(local[name])
        if not (name in self._helpers or is_alias or _is_log(node.func)):
            return
        place = 1 if name == "log" else place
        if place < len(node.args):
            words = (word.arg for word in node.keywords)
            yield node.args[place], level, tuple(word for word in words if word not in IMPLIED)  # type: ignore[misc]  # None is implied

    def _texts(self, node: ast.expr, local: dict[str, ast.expr]) -> Iterator[str]:
        match node:
            case ast.Constant(value=str(text)):
                yield text
            case ast.JoinedStr(values=values):
                yield "".join(
                    item.value
                    if isinstance(item, ast.Constant) and isinstance(item.value, str)
                    else "…"
                    for item in values
                )
            case ast.IfExp(body=body, orelse=other):
                yield from self._texts(body, local)
                yield from self._texts(other, local)
            case ast.Name(id=name) if name in local:
                yield from self._texts(local[name], {})
            case ast.Name(id=name) if name in self._names:
                yield self._names[name]
            case _:
                return


def _event_place(function: ast.FunctionDef) -> int | None:
    """Return which argument of a function is an event's text: the one that is named so."""
    names = [argument.arg for argument in function.args.args if argument.arg != "self"]
    if "kind" in names and "logging." in ast.unparse(function):
        return names.index("kind")
    return names.index("event") if "event" in names and function.name != "__init__" else None


def _helper_level(function: ast.FunctionDef) -> str:
    """Return the level at which a function logs the event that it is given."""
    for node in ast.walk(function):
        if isinstance(node, ast.Call) and node.args and _is_log(node.func):
            return LEVELS.get(ast.unparse(node.func).rpartition(".")[2], "varies")
    return "varies"


def _is_log(function: ast.expr) -> bool:
    """Return whether a function is a method of a logger."""
    if not isinstance(function, ast.Attribute) or function.attr not in {*LEVELS, "log"}:
        return False
    owner = ast.unparse(function.value)
    return owner not in {"sys", "super()"} and "log" in owner.lower()


def _is_level(items: list[ast.expr]) -> bool:
    return (
        len(items) > 1
        and isinstance(items[0], ast.Attribute)
        and isinstance(items[0].value, ast.Name)
        and items[0].value.id == "logging"
        and isinstance(items[1], ast.Constant | ast.JoinedStr)
    )


def _keys(items: list[ast.expr]) -> tuple[str, ...]:
    return tuple(
        key.value
        for item in items
        if isinstance(item, ast.Dict)
        for key in item.keys
        if isinstance(key, ast.Constant) and isinstance(key.value, str)
    )


def _assigned(function: ast.FunctionDef) -> Iterator[tuple[str, ast.expr]]:
    for node in ast.walk(function):
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
            yield node.targets[0].id, node.value


def _constants(tree: ast.Module) -> Iterator[tuple[str, str]]:
    for node in tree.body:
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
            match node.value:
                case ast.Constant(value=str(text)):
                    yield node.targets[0].id, text
                case ast.JoinedStr(values=values):
                    parts = (
                        item.value
                        if isinstance(item, ast.Constant) and isinstance(item.value, str)
                        else "…"
                        for item in values
                    )
                    yield node.targets[0].id, "".join(parts)


def _visible(tree: ast.Module, module: str, constants: dict[str, dict[str, str]]) -> dict[str, str]:
    """Return the constants that a module has or imports by name."""
    names = dict(constants[module])
    for node in tree.body:
        if isinstance(node, ast.ImportFrom) and node.module:
            path = node.module.removeprefix("penstock.").replace(".", "/")
            source = constants.get(path) or constants.get(f"{path}/__init__") or {}
            names |= {
                alias.asname or alias.name: source[alias.name]
                for alias in node.names
                if alias.name in source
            }
    return names
