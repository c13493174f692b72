"""Add the console to an application: its pages, its sessions, and the globals of its templates."""

from __future__ import annotations

from flask import Flask
from flask.sessions import SecureCookieSessionInterface
from flask_wtf.csrf import generate_csrf

from penstock.access.encryption import load_secret_box
from penstock.console import (
    addresses,
    alerts,
    audit_trail,
    changes,
    consumer_keys,
    consumer_page,
    consumers,
    deployments,
    environment_settings,
    explain,
    exposure,
    issuers,
    keys,
    limits,
    oidc,
    overview,
    pipeline_access,
    pipeline_details,
    pipeline_gate,
    pipeline_overview,
    pipelines,
    policies,
    queue,
    rejected,
    run_page,
    runs,
    schedules,
    search,
    series,
    settings,
    sign_in,
    tokens,
    usage,
    users,
)
from penstock.console import help as help_pages
from penstock.console.assets import asset
from penstock.console.context import EXTENSION, ClientInfo, ConsoleContext, Describe
from penstock.console.formatting import add_filters
from penstock.console.frame import frame
from penstock.console.labels import add_labels
from penstock.console.pages import blueprint, csrf
from penstock.console.preparation import TEMPLATE_CODE
from penstock.console.time_range import offered_ranges
from penstock.contracts.withheld import CONSOLE_COOKIE
from penstock.host.host import Host

# The modules whose views are the pages; importing a module registers its views.
PAGES = (
    addresses,
    overview,
    pipelines,
    pipeline_overview,
    pipeline_gate,
    pipeline_access,
    pipeline_details,
    exposure,
    consumers,
    consumer_page,
    consumer_keys,
    keys,
    policies,
    rejected,
    explain,
    runs,
    run_page,
    search,
    schedules,
    alerts,
    queue,
    series,
    usage,
    deployments,
    tokens,
    issuers,
    limits,
    settings,
    environment_settings,
    audit_trail,
    changes,
    sign_in,
    users,
    help_pages,
)


class Sessions(SecureCookieSessionInterface):
    """Signed cookies, with the attribute Secure where the browser uses TLS.

    The session itself is in the database; the cookie holds its token.
    """

    def get_cookie_secure(self, app: Flask) -> bool:
        """Return whether browsers must send the cookie over TLS only."""
        context: ConsoleContext = app.extensions[EXTENSION]
        return context.settings.console_url.startswith("https://") or context.client.secure()


def add_console(app: Flask, host: Host, client: ClientInfo, describe: Describe) -> None:
    """Add the console to an application. Raises CannotStart."""
    box = load_secret_box(host.settings)
    app.extensions[EXTENSION] = ConsoleContext(host, box, client, describe)
    newest, *older = box.derived("console")
    app.config.update(
        SECRET_KEY=newest,
        SECRET_KEY_FALLBACKS=older,
        SESSION_COOKIE_NAME=CONSOLE_COOKIE,
        SESSION_COOKIE_PATH=f"{host.settings.console_prefix}/-/",
        SESSION_COOKIE_HTTPONLY=True,
        # An identity provider sends the browser back from another site.
        SESSION_COOKIE_SAMESITE="Lax",
        WTF_CSRF_CHECK_DEFAULT=False,  # the guard in `pages` checks the token
        WTF_CSRF_TIME_LIMIT=None,  # a token is valid as long as its session
        MAX_FORM_MEMORY_SIZE=1 << 20,
    )
    app.session_interface = Sessions()
    app.jinja_env.bytecode_cache = TEMPLATE_CODE
    app.jinja_env.trim_blocks = app.jinja_env.lstrip_blocks = True
    add_filters(app)
    add_labels(app)
    app.jinja_env.globals.update(
        asset=asset,
        csrf_token=generate_csrf,
        help_address=help_pages.help_address,
        help_topic=help_pages.address_of,
        offered_ranges=offered_ranges,
        problem_address=help_pages.problem_address,
    )
    csrf.init_app(app)
    oidc.configure(app, host.settings)
    app.register_blueprint(blueprint)
    app.context_processor(frame)
