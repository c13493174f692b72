"""Write the pages for developers from signatures and docstrings.

Hooks, declarations and the whole surface of `import penstock`.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import penstock
from penstock import hookspecs
from penstock.cli.reference.markdown import code, sentence, table

DECLARED = (
    "Pipeline",
    "HttpTrigger",
    "Schedule",
    "Rate",
    "Cors",
    "Durable",
    "step",
    "Retry",
    "secret",
    "Form",
    "Header",
)
HOOKS_INTRO = """# Hooks

A plugin implements hooks with `@hookimpl`, from `import penstock`. An implementation may accept
fewer arguments than its hook. Arguments are added over time, and never renamed or removed.
"""
DECLARATIONS_INTRO = """# Declarations

Everything on this page comes from `import penstock`. A declaration that makes no sense blocks the
pipeline when its plugin is loaded; `penstock check` reports the fault and the fix.
"""
SURFACE_INTRO = """# Plugin API

This page lists the other public names of `import penstock`. [Declarations](declarations.md) has
the options of pipelines, triggers and steps. Anything that neither page lists may change without
notice.
"""
SECTION = re.compile(r"^(Args|Raises|Returns|Example|Examples):$")


class Documentation(NamedTuple):
    """A docstring in parts: its text, its arguments, and the errors that it names."""

    text: str
    arguments: dict[str, str]
    errors: dict[str, str]


def hooks() -> str:
    """Return the page of hooks."""
    listed = [
        (name, hook)
        for name, hook in vars(hookspecs).items()
        if name.startswith("penstock_") and inspect.isfunction(hook)
    ]
    rows = (
        (f"[{code(_hook_call(name, hook))}](#{name})", read(hook).text.splitlines()[0])
        for name, hook in listed
    )
    parts = [HOOKS_INTRO, table(("hook", "purpose"), rows)]
    for name, hook in listed:
        parts += ["", f"## {name}", "", f"```text\n{_hook_signature(name, hook)}\n```"]
        parts += ["", read(hook).text]
    return "\n".join(parts)


def declarations() -> str:
    """Return the page of what a plugin declares, with the options of each."""
    parts = [DECLARATIONS_INTRO]
    for name in DECLARED:
        parts += [f"## {name}", "", *_entry(name, getattr(penstock, name)), ""]
    return "\n".join(parts)


def surface() -> str:
    """Return the page of the other public names."""
    parts = [SURFACE_INTRO]
    for name in sorted(set(penstock.__all__) - set(DECLARED), key=str.lower):
        parts += [f"## {name}", "", *_entry(name, getattr(penstock, name)), ""]
    return "\n".join(parts)


def read(value: Any) -> Documentation:  # noqa: ANN401  anything with a docstring
    """Return the docstring of a value in parts; Google's sections become tables."""
    text, sections, current = list[str](), dict[str, list[str]](), ""
    for line in (inspect.getdoc(value) or "").splitlines():
        if match := SECTION.match(line):
            current = match[1]
            sections[current] = []
        elif current:
            sections[current].append(line)
        else:
            text.append(line)
    for name in ("Returns", "Example", "Examples"):
        text += sections.pop(name, [])
    return Documentation(
        _inline("\n".join(text).strip()),
        _items(sections.get("Args", [])),
        _items(sections.get("Raises", [])),
    )


def _entry(name: str, value: Any) -> Iterator[str]:  # noqa: ANN401  any public name
    documentation = read(value)
    signature = _signature(value)
    if signature is not None:
        yield f"```text\n{name}{_short(signature)}\n```\n"
    yield documentation.text
    rows = list(_options(signature, documentation)) if signature is not None else []
    if rows:
        yield ""
        yield table(("option", "default", "meaning"), rows)
    if inspect.isclass(value) and (members := list(_members(value))):
        yield ""
        yield table(("member", "meaning"), members)
    if documentation.errors:
        yield ""
        rows_of_errors = (
            (code(error), sentence(_inline(when))) for error, when in documentation.errors.items()
        )
        yield table(("raises", "when"), rows_of_errors)


def _signature(value: Any) -> inspect.Signature | None:  # noqa: ANN401  any public name
    """Return how a value is called, or None where plugin code does not call it."""
    if inspect.isclass(value) and (
        getattr(value, "_is_protocol", False) or inspect.isabstract(value)
    ):
        return None
    try:
        return inspect.signature(value)
    except (TypeError, ValueError):
        return None


def _options(
    signature: inspect.Signature, documentation: Documentation
) -> Iterator[tuple[str, str, str]]:
    """Yield the parameters that the docstring explains."""
    for name, parameter in signature.parameters.items():
        if name in documentation.arguments:
            text = sentence(_inline(documentation.arguments[name]))
            yield code(name), code(_default(parameter)), text


def _members(value: type) -> Iterator[tuple[str, str]]:
    """Yield the public methods and properties of a class that have a docstring."""
    for name, member in vars(value).items():
        if name.startswith("_") or not (
            inspect.isfunction(member) or isinstance(member, property | classmethod | staticmethod)
        ):
            continue
        first = (inspect.getdoc(member) or "").partition("\n\n")[0]
        if name in {"problems", "url_problems"} or not first:
            continue  # the runtime calls them
        shown = name
        if inspect.isfunction(member):
            parameters = list(inspect.signature(member).parameters.values())[1:]
            shown += _short(inspect.Signature(parameters))
        yield code(shown), _inline(first)


def _short(signature: inspect.Signature) -> str:
    """Return a signature without annotations, with its defaults."""
    parameters = [
        parameter.replace(annotation=inspect.Parameter.empty)
        for name, parameter in signature.parameters.items()
        if not name.startswith("_")
    ]
    parts, keyword_only = list[str](), False
    for parameter in parameters:
        if parameter.kind is parameter.KEYWORD_ONLY and not keyword_only:
            keyword_only = True
            parts.append("*")
        default = _default(parameter)
        keyword_only |= parameter.kind is parameter.VAR_POSITIONAL
        name = str(parameter.replace(default=inspect.Parameter.empty))
        parts.append(f"{name}={default}" if default else name)
    line = f"({', '.join(parts)})"
    return line if len(line) < 76 else "(\n    " + ",\n    ".join(parts) + ",\n)"  # noqa: PLR2004  the width of a page


def _default(parameter: inspect.Parameter) -> str:
    """Return a default as a developer would write it."""
    default = parameter.default
    if default is inspect.Parameter.empty:
        return ""
    if isinstance(default, frozenset):
        return "{" + ", ".join(repr(item) for item in sorted(default)) + "}" if default else "()"
    if inspect.isclass(default):
        return default.__name__
    text = repr(default)
    return "…" if text.startswith("<") else re.sub(r"\bpenstock\.\w+\.", "", text)


def _hook_call(name: str, hook: Callable[..., Any]) -> str:
    return f"{name}({', '.join(inspect.signature(hook).parameters)})"


def _hook_signature(name: str, hook: Callable[..., Any]) -> str:
    signature = inspect.signature(hook)
    arguments = ", ".join(str(parameter) for parameter in signature.parameters.values())
    returns = str(signature.return_annotation)
    return f"{name}({arguments}) -> {returns}".replace("'", "")


def _items(lines: list[str]) -> dict[str, str]:
    """Return the entries of a section, `name: text`, by name; deeper lines continue one."""
    items: dict[str, str] = {}
    name = ""
    for line in inspect.cleandoc("\n".join(lines)).splitlines():
        match = re.match(r"(\*{0,2}\w+): (.*)", line)
        if match and not line.startswith(" "):
            name = match[1].lstrip("*")
            items[name] = match[2]
        elif name and line.strip():
            items[name] += f" {line.strip()}"
    return items


def _inline(text: str) -> str:
    """Return reStructuredText's double backticks as Markdown's single ones."""
    return re.sub(r"``([^`]+)``", r"`\1`", text)
