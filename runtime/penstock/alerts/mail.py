"""Send e-mail through an SMTP server, over TLS."""

from __future__ import annotations

import smtplib
import ssl
from email.message import EmailMessage
from typing import Any

from penstock.settings import Settings

TIMEOUT_S = 15.0  # of each answer of the server
PERMANENT = 500  # SMTP replies from 500 on: another attempt can't help
MAX_SUBJECT = 200


class Undelivered(Exception):
    """The message was not accepted; with `final` another attempt can't help."""

    def __init__(self, reason: str, *, final: bool = False) -> None:
        super().__init__(reason)
        self.final = final


def letter(settings: Settings, identifier: str, target: str, event: dict[str, Any]) -> EmailMessage:
    """Return the e-mail of an event. Its Message-ID stays the same over all attempts."""
    data = event["data"]
    word = event["type"].partition(".")[2].upper()
    subject = f"[{word}] {data['environment']}: {data['rule']}: {data['summary']}"
    message = EmailMessage()
    message["Subject"] = " ".join(subject.split())[:MAX_SUBJECT]
    message["From"] = settings.smtp_sender
    message["To"] = target
    message["Message-ID"] = f"<{identifier}@{settings.smtp_sender.rpartition('@')[2]}>"
    message["Auto-Submitted"] = "auto-generated"  # RFC 3834: no automatic answers, please
    lines = [
        f"Rule {data['rule']} of environment {data['environment']}: {data['summary']}.",
        "",
        f"It fires when {data['condition']}.",
        f"Since {data['since']}.",
    ]
    if data["subjects"]:
        lines += ["", *(f"- {subject}" for subject in data["subjects"])]
    message.set_content("\n".join(lines) + "\n")
    return message


def send(settings: Settings, message: EmailMessage) -> str:
    """Send a message and return what the server answered, in short. Raises Undelivered.

    No error repeats the password.
    """
    context = ssl.create_default_context()
    try:
        with _connected(settings, context) as server:
            if settings.smtp_tls == "starttls":
                server.starttls(context=context)
            if settings.smtp_user:
                server.login(settings.smtp_user, settings.smtp_password)
            server.send_message(message)
    except smtplib.SMTPAuthenticationError as error:
        raise Undelivered(f"the mail server rejects the credentials ({error.smtp_code})") from None
    except smtplib.SMTPRecipientsRefused as error:
        codes = [code for code, _ in error.recipients.values()]
        permanent = bool(codes) and min(codes) >= PERMANENT
        raise Undelivered(f"the recipient is rejected ({codes[0]})", final=permanent) from None
    except smtplib.SMTPResponseException as error:
        raise Undelivered(f"the mail server answered {error.smtp_code}") from None
    except (smtplib.SMTPException, OSError, ValueError) as error:
        raise Undelivered(f"{type(error).__name__} at the mail server") from None
    return "accepted by the mail server"


def _connected(settings: Settings, context: ssl.SSLContext) -> smtplib.SMTP:
    place: dict[str, Any] = {
        "host": settings.smtp_host,
        "port": settings.smtp_port,
        "timeout": TIMEOUT_S,
    }
    if settings.smtp_tls == "tls":
        return smtplib.SMTP_SSL(**place, context=context)
    return smtplib.SMTP(**place)
