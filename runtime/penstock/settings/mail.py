"""Settings of the mail server that alerts are sent through."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from penstock.settings import parsers
from penstock.settings.declaration import setting


@dataclass(frozen=True)
class MailSettings:
    """The mail server, and the sender of e-mail."""

    smtp_host: str = setting(
        "", parsers.text, "Mail server for alerts by e-mail. Empty: this process sends none."
    )
    smtp_port: int = setting(
        "587", parsers.whole_number(1, parsers.MAX_PORT), "Port of the mail server."
    )
    smtp_tls: Literal["starttls", "tls", "off"] = setting(
        "starttls",
        parsers.one_of("starttls", "tls", "off"),
        "Encryption of the connection: starttls, tls (from the first byte, port 465) or off"
        " (loopback addresses only).",
    )
    smtp_user: str = setting("", parsers.text, "User at the mail server. Empty: no sign-in.")
    smtp_password: str = setting("", parsers.text, "Password of that user.", secret=True)
    smtp_sender: str = setting("", parsers.text, "Sender of e-mail, such as penstock@example.com.")
