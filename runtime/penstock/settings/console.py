"""Settings of the console."""

from __future__ import annotations

from dataclasses import dataclass, field

from penstock.settings import parsers
from penstock.settings.declaration import setting


@dataclass(frozen=True, slots=True)
class Oidc:
    """An OpenID Connect provider through which users sign in to the console."""

    issuer: str
    client_id: str
    client_secret: str = field(repr=False)
    claim: str = "email"


@dataclass(frozen=True)
class ConsoleSettings:
    """Whether the console is served, where, and how users sign in."""

    console: bool = setting("false", parsers.flag, "true: serve the console at `/-/console`.")
    console_url: str = setting(
        "",
        parsers.url("https://ops.example.com"),
        "Public URL of the console's host, such as https://ops.example.com. With https its cookies"
        " are Secure.",
    )
    console_session: int = setting(
        "12",
        parsers.whole_number(1, 720),
        "Hours until a session of the console ends. It ends after one hour without a request in any"
        " case.",
    )
    console_sign_in_rate: str = setting(
        "10/minute",
        parsers.text,
        "Failed sign-ins of one address, or for one user, before 429.",
    )
    console_oidc_issuer: str = setting(
        "",
        parsers.url("https://ops.example.com"),
        "OpenID Connect provider for sign-in, such as https://id.example.com. Empty: passwords"
        " only.",
    )
    console_oidc_client_id: str = setting(
        "",
        parsers.text,
        "Client ID of the console at that provider. Its redirect URI is PENSTOCK_CONSOLE_URL"
        " followed by `/-/console/oidc/back`.",
    )
    console_oidc_client_secret: str = setting(
        "", parsers.text, "Secret of that client.", secret=True
    )
    console_oidc_claim: str = setting(
        "email",
        parsers.text,
        "Claim that names the user. email is accepted only if email_verified is true.",
    )

    @property
    def oidc(self) -> Oidc | None:
        """The OpenID Connect provider for sign-in, or None if users have passwords only."""
        if not self.console_oidc_issuer:
            return None
        return Oidc(
            self.console_oidc_issuer,
            self.console_oidc_client_id,
            self.console_oidc_client_secret,
            self.console_oidc_claim,
        )
