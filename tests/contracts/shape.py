"""Measure the shape of the code base: sizes, imports, and the places that run handlers.

`make shape` prints the figures.
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path

ROOT = Path(__file__).parents[2]
CORE = ROOT / "runtime" / "penstock"
SOURCES = (CORE, ROOT / "plugins")
TOP_FILES = frozenset(
    {
        "__init__", "__main__", "clock", "errors", "forks", "header_fields", "hookspecs",
        "threads",
    }
)  # fmt: skip
MAX_MODULE, MAX_FUNCTION, MAX_CLASS, MAX_COLUMNS = 400, 50, 250, 120
README_LINES = 150

Definition = ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef


@dataclass(frozen=True, slots=True)
class Piece:
    """A module, class or function: where it is, and how many lines it has."""

    name: str
    lines: int


def sources() -> list[Path]:
    """Return the modules that ship, tests left out."""
    return [
        path
        for folder in SOURCES
        for path in sorted(folder.rglob("*.py"))
        if not path.name.startswith(("test_", "conftest"))
    ]


@cache
def tree(path: Path) -> ast.Module:
    """Return the syntax tree of a module."""
    return ast.parse(path.read_text(encoding="utf-8"))


def modules() -> list[Piece]:
    """Return all modules."""
    return [
        Piece(str(path.relative_to(ROOT)), len(path.read_text(encoding="utf-8").splitlines()))
        for path in sources()
    ]


def pieces(*kinds: type[Definition]) -> Iterator[Piece]:
    """Yield all definitions of some kinds. A function counts without its docstring."""
    for path in sources():
        for node in ast.walk(tree(path)):
            if isinstance(node, kinds):
                name = f"{path.relative_to(ROOT)}:{node.name}"
                yield Piece(name, (node.end_lineno or 0) - node.lineno + 1 - _docstring(node))


def functions() -> list[Piece]:
    """Return all functions and methods."""
    return list(pieces(ast.FunctionDef, ast.AsyncFunctionDef))


def classes() -> list[Piece]:
    """Return all classes."""
    return list(pieces(ast.ClassDef))


def _docstring(node: Definition) -> int:
    first = node.body[0]
    if isinstance(node, ast.ClassDef) or not isinstance(first, ast.Expr):
        return 0
    value = first.value
    is_text = isinstance(value, ast.Constant) and isinstance(value.value, str)
    return (first.end_lineno or 0) - first.lineno + 1 if is_text else 0


def long_lines() -> list[str]:
    """Return the places of lines of code that are wider than 120 columns."""
    return [
        f"{path.relative_to(ROOT)}:{number}"
        for path in sources()
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1)
        if len(line.partition("  # ")[0]) > MAX_COLUMNS
    ]


def imports() -> Mapping[str, set[str]]:
    """Return the modules of the core that each of them imports when it is loaded."""
    names = {_module(path): path for path in CORE.rglob("*.py")}
    return {
        name: {other for other in _imported(tree(path), names) if other != name}
        for name, path in names.items()
    }


def _module(path: Path) -> str:
    parts = path.relative_to(CORE.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def _imported(module: ast.Module, names: Mapping[str, Path]) -> Iterator[str]:
    for node in _at_load(module):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name in names)
        elif isinstance(node, ast.ImportFrom) and node.module in names:
            for alias in node.names:
                dotted = f"{node.module}.{alias.name}"
                yield dotted if dotted in names else str(node.module)


def _at_load(node: ast.AST) -> Iterator[ast.AST]:
    """Yield what runs when a module is loaded: no functions, nothing for type checkers alone."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef):
            continue
        if isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test):
            continue
        yield child
        yield from _at_load(child)


def cycles() -> list[list[str]]:
    """Return the groups of modules that import each other (Tarjan's strong components)."""
    graph = imports()
    found: list[list[str]] = []
    index: dict[str, int] = {}
    low: dict[str, int] = {}
    stack: list[str] = []

    def visit(name: str) -> None:
        index[name] = low[name] = len(index)
        stack.append(name)
        for other in sorted(graph[name]):
            if other not in index:
                visit(other)
                low[name] = min(low[name], low[other])
            elif other in stack:
                low[name] = min(low[name], index[other])
        if low[name] == index[name]:
            group = stack[stack.index(name) :]
            del stack[stack.index(name) :]
            if len(group) > 1:
                found.append(sorted(group))

    for name in sorted(graph):
        if name not in index:
            visit(name)
    return found


def importers_of(symbol: str, module: str) -> list[str]:
    """Return the modules of the core that import a name, type checkers' imports included."""
    return [
        str(path.relative_to(CORE))
        for path in sorted(CORE.rglob("*.py"))
        for node in ast.walk(tree(path))
        if isinstance(node, ast.ImportFrom)
        and node.module == module
        and any(alias.name == symbol for alias in node.names)
    ]


def calls_of(name: str) -> list[str]:
    """Return the places of the core that call a name, or a method of that name."""
    return [
        f"{path.relative_to(CORE)}:{node.lineno}"
        for path in sorted(CORE.rglob("*.py"))
        for node in ast.walk(tree(path))
        if isinstance(node, ast.Call) and _name(node.func) == name
    ]


def _name(node: ast.expr) -> str:
    if isinstance(node, ast.Attribute):
        return node.attr
    return node.id if isinstance(node, ast.Name) else ""


def public_names(path: Path, name: str) -> list[str]:
    """Return the public attributes and methods of a class."""
    (found,) = (
        node
        for node in ast.walk(tree(path))
        if isinstance(node, ast.ClassDef) and node.name == name
    )
    methods = {node.name for node in found.body if isinstance(node, ast.FunctionDef)}
    attributes = {
        target.attr
        for node in ast.walk(found)
        if isinstance(node, ast.Assign | ast.AnnAssign)
        for target in (node.targets if isinstance(node, ast.Assign) else [node.target])
        if isinstance(target, ast.Attribute) and ast.unparse(target.value) == "self"
    }
    return sorted(item for item in methods | attributes if not item.startswith("_"))


def comments_of_two_lines() -> int:
    """Return how many comments of the core have two lines or more."""
    number = 0
    for path in CORE.rglob("*.py"):
        run = 0
        for line in [*path.read_text(encoding="utf-8").splitlines(), ""]:
            if line.lstrip().startswith("#"):
                run += 1
                continue
            number += run > 1
            run = 0
    return number


def percentile(lines: list[int], share: float) -> int:
    """Return the value that a share of all values does not exceed."""
    return sorted(lines)[min(len(lines) - 1, int(share * len(lines)))]


def report() -> Iterator[tuple[str, str, str]]:
    """Yield what is measured, its figure, and the aim."""
    lengths = [piece.lines for piece in modules()]
    bodies = [piece.lines for piece in functions()]
    readme = len((ROOT / "README.md").read_text(encoding="utf-8").splitlines())
    host = CORE / "host" / "host.py"
    yield "lines over 120 columns", str(len(long_lines())), "0"
    yield "module: longest, p90", f"{max(lengths)}, {percentile(lengths, 0.9)}", "400, 300"
    yield "function: longest, p90", f"{max(bodies)}, {percentile(bodies, 0.9)}", "50, 22"
    yield "class: longest", str(max(piece.lines for piece in classes())), "250"
    yield "files at the top of the core", str(len(list(CORE.glob("*.py")))), "11"
    yield (
        "modules that import Host",
        str(len(set(importers_of("Host", "penstock.host.host")))),
        "12",
    )
    yield "public names of Host", str(len(public_names(host, "Host"))), "12"
    yield "places that run a handler", ", ".join(calls_of("response_of")), "1"
    yield "places that build a Call", ", ".join(calls_of("Call")), "1, and stand-ins"
    yield "import cycles", str(len(cycles())), "0"
    yield "comments of two lines or more", str(comments_of_two_lines()), "12"
    yield "README, lines", str(readme), "150"


def main() -> None:
    """Print the table."""
    for what, now, aim in (("", "now", "aim"), *report()):
        sys.stdout.write(f"{what:34}{now:>42}   {aim}\n")


if __name__ == "__main__":
    main()
