"""The settings of a process: declared once, read once from the environment, frozen.

A setting is one field of `RuntimeSettings`, `AccessSettings`, `ConsoleSettings`, `ServerSettings`
or `MailSettings`. Its declaration holds name, type, default, help and parser. A check that needs
two settings is a function below.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from urllib.parse import urlsplit

from penstock.errors import BadSetting
from penstock.settings.access import AccessSettings
from penstock.settings.console import ConsoleSettings, Oidc
from penstock.settings.declaration import Setting, declarations
from penstock.settings.environment import read, reject_unknown, source
from penstock.settings.mail import MailSettings
from penstock.settings.parsers import ENVIRONMENT, port_of
from penstock.settings.runtime import RuntimeSettings
from penstock.settings.server import ServerSettings

__all__ = ["ENVIRONMENT", "SECRET", "SETTINGS", "Oidc", "Setting", "Settings"]

NO_DATABASE_URL = "the default: PENSTOCK_DATABASE_URL is not set"
LOCAL_ENVIRONMENTS = frozenset({"dev", "local", "test"})
LOOPBACK = ("127.", "localhost:", "[::1]:")
LOOPBACK_HOSTS = frozenset({"localhost", "127.0.0.1", "::1"})


@dataclass(frozen=True)
class Settings(MailSettings, ServerSettings, ConsoleSettings, AccessSettings, RuntimeSettings):
    """All settings of one process; none that may hold a secret is in its repr."""

    database_from: str = NO_DATABASE_URL  # the variable that the database's URL comes from

    @property
    def direct_url(self) -> str:
        """The URL of the database server, without a connection pooler."""
        return self.database_direct_url or self.database_url

    @property
    def console_prefix(self) -> str:
        """The path that a proxy puts in front of the console's pages; usually empty."""
        return urlsplit(self.console_url or self.url).path

    @property
    def local(self) -> bool:
        """Whether this is a developer's own server: a local environment on a loopback address."""
        return self.environment in LOCAL_ENVIRONMENTS and self.bind.startswith(LOOPBACK)

    @classmethod
    def from_env(cls, env: Mapping[str, str]) -> Settings:
        """Return the settings that environment variables hold.

        Raises:
            BadSetting: A variable is unknown, malformed or unreadable, or two contradict.

        """
        reject_unknown(env, SETTINGS)
        settings = cls(
            **{field: read(env, declaration) for field, declaration in declarations(cls)},
            database_from=source(env, "PENSTOCK_DATABASE_URL") or NO_DATABASE_URL,
        )
        for check in (
            _check_served,
            _check_audiences,
            _check_listeners,
            _check_pooler,
            _check_oidc,
            _check_mail,
        ):
            check(settings)
        return settings


SETTINGS = tuple(declaration.row for _, declaration in declarations(Settings))
SECRET = frozenset(row.name for row in SETTINGS if row.secret)


def _check_served(settings: Settings) -> None:
    if not settings.pipelines and not settings.console:
        raise BadSetting(
            "PENSTOCK_PIPELINES is false and PENSTOCK_CONSOLE is not true: nothing would be served"
        )


def _check_audiences(settings: Settings) -> None:
    for name, audience in (
        ("PENSTOCK_OPENAPI", settings.openapi),
        ("PENSTOCK_DOCS", settings.docs),
    ):
        if audience == "sign-in" and not settings.console:
            raise BadSetting(
                f"{name} is sign-in, and the console is off: set PENSTOCK_CONSOLE=true too"
            )


def _check_listeners(settings: Settings) -> None:
    """Raise BadSetting where two listeners have one port: their calls are distinguished by it."""
    bind, internal = settings.bind, settings.internal_bind
    if internal and (internal == bind or port_of(internal) == port_of(bind) != 0):
        raise BadSetting(
            "PENSTOCK_INTERNAL_BIND must have another port than PENSTOCK_BIND: the port decides"
            " which pipelines are served"
        )


def _check_pooler(settings: Settings) -> None:
    urls = (settings.database_direct_url, settings.database_url)
    if settings.database_direct_url and not all(url.startswith("postgresql") for url in urls):
        raise BadSetting(
            "PENSTOCK_DATABASE_DIRECT_URL is for PostgreSQL: write postgresql://user@host/name, and"
            " the pooler's URL in PENSTOCK_DATABASE_URL"
        )


def _check_oidc(settings: Settings) -> None:
    required = {
        "PENSTOCK_CONSOLE_URL": settings.console_url,
        "PENSTOCK_CONSOLE_OIDC_CLIENT_ID": settings.console_oidc_client_id,
        "PENSTOCK_CONSOLE_OIDC_CLIENT_SECRET": settings.console_oidc_client_secret,
    }
    missing = [name for name, value in required.items() if not value]
    if settings.console_oidc_issuer and missing:
        raise BadSetting(f"PENSTOCK_CONSOLE_OIDC_ISSUER is set; set {' and '.join(missing)} too")


def _check_mail(settings: Settings) -> None:
    if not settings.smtp_host:
        return
    if not re.fullmatch(r"[^@\s<>]+@[A-Za-z0-9.-]+", settings.smtp_sender):
        raise BadSetting("PENSTOCK_SMTP_HOST is set; set PENSTOCK_SMTP_SENDER to an address too")
    if bool(settings.smtp_user) != bool(settings.smtp_password):
        raise BadSetting("PENSTOCK_SMTP_USER and PENSTOCK_SMTP_PASSWORD belong together: set both")
    if settings.smtp_tls == "off" and settings.smtp_host not in LOOPBACK_HOSTS:
        raise BadSetting(
            "PENSTOCK_SMTP_TLS is off, and the mail server is not on this host: set starttls or tls"
        )
