"""Prepare the console of a process, so that its first page is as quick as the next.

The first request compiled templates and statements, and evaluated the pipelines of all
environments: that took from half a second to two. A process of a server does it in a thread once it
answers calls, by rendering pages for no one. The code of templates is shared by all applications of
a process, and by the processes that are forked from it.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import suppress

import structlog
from flask import Flask, g
from jinja2.bccache import Bucket, BytecodeCache

from penstock.access.sessions import SignedIn
from penstock.access.users import Role
from penstock.console.context import EXTENSION, ConsoleContext
from penstock.console.pages import ROOT
from penstock.errors import PenstockError

# Pages without side effects, the slowest first; {env} is the environment of the process.
PREPARED = (
    "/",
    "/policies",
    "/pipelines",
    "/e/{env}/runs",
    "/e/{env}/rejected",
    "/e/{env}/usage",
    "/e/{env}/schedules",
    "/e/{env}/queue",
    "/consumers",
    "/keys",
    "/audit",
)
PAUSE_S = 0.01  # between two pages: calls come first
NO_ONE = SignedIn(0, "", Role.ADMIN, 0, "", {})


class TemplateCode(BytecodeCache):
    """The compiled code of templates in memory, by their names and sources."""

    def __init__(self) -> None:
        self._code: dict[str, bytes] = {}

    def load_bytecode(self, bucket: Bucket) -> None:
        """Load the code of a template, if it was compiled before from the same source."""
        code = self._code.get(bucket.key)
        if code is not None:
            bucket.bytecode_from_string(code)

    def dump_bytecode(self, bucket: Bucket) -> None:
        """Keep the code of a template."""
        self._code[bucket.key] = bucket.bytecode_to_string()


TEMPLATE_CODE = TemplateCode()


def prepare(app: Flask, pause: Callable[[float], object] = time.sleep) -> None:
    """Compile the templates of an application, and render the pages that users open first.

    It changes nothing. What fails here fails again where a user asks for it, and is shown there.
    """
    environment = app.jinja_env
    for name in environment.list_templates(extensions=["html"]):
        environment.get_template(name)
        pause(PAUSE_S)
    context: ConsoleContext = app.extensions[EXTENSION]
    log = structlog.get_logger("penstock")
    for pattern in PREPARED:
        path = pattern.format(env=context.settings.environment)
        try:
            _render(app, path)
        except Exception as error:  # noqa: BLE001  plugin code takes part in pages
            log.debug("page not prepared", page=path, error=type(error).__name__)
        pause(PAUSE_S)
    with suppress(PenstockError):
        for row in context.environments():
            for internal in (False, True):
                context.under_each_policy(context.view(row.name), internal=internal)


def _render(app: Flask, path: str) -> None:
    with app.test_request_context(ROOT + path):
        adapter = app.create_url_adapter(None)
        endpoint, arguments = (adapter or app.url_map.bind("")).match(ROOT + path)
        g.user, g.role, g.env = NO_ONE, Role.ADMIN, arguments.get("env")
        app.view_functions[endpoint]()
