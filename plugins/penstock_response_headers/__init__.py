"""Response headers and CORS of all pipelines of an environment, set by two variables."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from penstock import AccessView, Cors, ResponseHeader, ResponsePolicy, hookimpl

HEADERS = "penstock_response_headers"
CORS = "penstock_cors"


def read_headers(text: str) -> tuple[ResponseHeader, ...]:
    """Return the headers of a JSON object. Raises ValueError.

    Each name has a value, or an object with `value` and `override`.
    """
    rules = []
    for name, declared in _object(HEADERS, text).items():
        rule = {"value": declared} if isinstance(declared, str) else declared
        if (
            not isinstance(rule, dict)
            or not {"value"} <= rule.keys() <= {"value", "override"}
            or not isinstance(rule.get("override", False), bool)
        ):
            raise ValueError(
                f'{HEADERS}: {name} needs a text, or {{"value": text, "override": true}}'
            )
        rules.append(ResponseHeader(name, rule["value"], rule.get("override", False)))
    if len({rule.name.lower() for rule in rules}) < len(rules):
        raise ValueError(f"{HEADERS}: a header is named twice")
    return tuple(rules)


def read_cors(text: str) -> tuple[Cors, bool]:
    """Return the CORS of a JSON object with the fields of `Cors`, and whether it overrides.

    Raises ValueError.
    """
    fields = _object(CORS, text)
    override = fields.pop("override", False)
    lists = {
        name: fields.pop(name)
        for name in ("origins", "methods", "headers", "expose")
        if name in fields
    }
    further = {name: fields.pop(name) for name in ("credentials", "max_age") if name in fields}
    if fields:
        raise ValueError(f"{CORS}: {min(fields)!r} is not known")
    if not all(
        isinstance(items, list) and all(isinstance(item, str) for item in items)
        for items in lists.values()
    ) or not lists.get("origins"):
        raise ValueError(
            f"{CORS}: origins, methods, headers and expose are lists of texts, and origins is"
            " needed"
        )
    if not isinstance(override, bool):
        raise ValueError(f"{CORS}: override is true or false")  # noqa: TRY004  the variable is wrong, not a Python type
    cors = Cors(**lists, **further)
    for problem, fix in cors.problems():
        raise ValueError(f"{CORS}: {problem}; {fix}")
    return cors, override


def _object(name: str, text: str) -> dict[str, Any]:
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{name} is no JSON: {error}") from None
    if not isinstance(value, dict):
        raise ValueError(f"{name} is no JSON object")  # noqa: TRY004  the variable is wrong, not a Python type
    return value


@hookimpl
def penstock_response_policy(access: AccessView) -> ResponsePolicy | None:
    """Return the policy that the variables declare, None without any. Raises ValueError."""
    variables: Mapping[str, str] = access.variables
    if HEADERS not in variables and CORS not in variables:
        return None
    headers = read_headers(variables[HEADERS]) if HEADERS in variables else ()
    cors, override = read_cors(variables[CORS]) if CORS in variables else (None, False)
    return ResponsePolicy(headers, cors, override)
