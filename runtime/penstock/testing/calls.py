"""Calls for tests that call a handler as a function."""

from __future__ import annotations

import inspect
import time
from collections.abc import Mapping
from typing import Any

from penstock.contracts.call import ANONYMOUS, Call, Caller
from penstock.contracts.variables import NamedValues
from penstock.contracts.withheld import Withheld
from penstock.errors import UnknownName
from penstock.settings import Settings

ENVIRONMENT = "test"
WITHHELD = Withheld.of(Settings().api_key_headers)


def a_call(
    *,
    caller: Caller = ANONYMOUS,
    body: bytes = b"",
    headers: Mapping[str, str] | None = None,
    **parts: Any,  # noqa: ANN401  any part of a Call
) -> Call:
    """Return a `Call`, to call a handler as the function that it is.

    Example: `read_order(a_call(caller=Caller(consumer="acme")), order_id="7")`.

    Args:
        caller: The caller. Default: an anonymous one.
        body: The body.
        headers: The request headers. Credentials are removed, as they are for every handler.
        **parts: Further arguments of `Call`, such as `path`, `variables` or `read_secrets`.

    Raises:
        UnknownName: A call has no such part.

    """
    names = set(inspect.signature(Call).parameters)
    if unknown := parts.keys() - names:
        raise UnknownName(
            "part of a call", min(unknown), names, fix=f"there are: {', '.join(sorted(names))}"
        )
    defaults: dict[str, Any] = {
        "method": "GET",
        "path": "/v1/example/",
        "pipeline": "example",
        "version": "1.0.0",
        "environment": ENVIRONMENT,
        "run": "00000000-0000-7000-8000-000000000000",
        "deadline": time.monotonic() + 30,
    }
    parts["variables"] = NamedValues("variable", ENVIRONMENT, parts.get("variables", {}))
    secrets = parts.get("read_secrets", dict)
    parts["read_secrets"] = lambda: NamedValues("secret", ENVIRONMENT, secrets())
    safe = WITHHELD.without({name.lower(): value for name, value in (headers or {}).items()})
    defaults["content_type"] = safe.get("content-type", "")
    return Call(
        **defaults | parts, caller=caller, read_headers=lambda: safe, read_body=lambda: body
    )
