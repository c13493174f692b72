"""Receivers of alerts: a real HTTP server, and a real mail server with STARTTLS and sign-in."""

from __future__ import annotations

import base64
import hmac
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from email import message_from_bytes, policy
from email.message import EmailMessage
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from ipaddress import ip_address
from pathlib import Path
from socketserver import StreamRequestHandler, ThreadingTCPServer

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID


@dataclass
class Webhooks:
    """What an HTTP server received; it answers with `status`."""

    url: str = ""
    status: int = 204
    received: list[tuple[dict[str, str], bytes]] = field(default_factory=list)

    def verified(self, secret: str) -> list[bytes]:
        """Return the bodies, each of which must be signed as Standard Webhooks says."""
        key = base64.b64decode(secret.removeprefix("whsec_"))
        for headers, body in self.received:
            text = f"{headers['webhook-id']}.{headers['webhook-timestamp']}.".encode() + body
            mac = base64.b64encode(hmac.digest(key, text, "sha256")).decode()
            assert headers["webhook-signature"] == f"v1,{mac}"
        return [body for _, body in self.received]


@contextmanager
def webhooks() -> Iterator[Webhooks]:
    """Run an HTTP server on a free loopback port."""
    found = Webhooks()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            found.received.append(({k.lower(): v for k, v in self.headers.items()}, body))
            self.send_response(found.status)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *_: object) -> None:
            """Log nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    found.url = f"http://127.0.0.1:{server.server_port}/hooks/T0KEN?key=pathsecret"
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield found
    server.shutdown()
    server.server_close()


@dataclass
class Mailbox:
    """What a mail server received; it rejects recipients with `rejects`, an SMTP reply."""

    port: int = 0
    certificate: Path = Path()
    rejects: str = ""
    letters: list[EmailMessage] = field(default_factory=list)
    plain_commands: list[str] = field(default_factory=list)  # before TLS
    signed_in: list[str] = field(default_factory=list)


@contextmanager
def mailbox(folder: Path) -> Iterator[Mailbox]:
    """Run a mail server on a free loopback port: STARTTLS, AUTH PLAIN, then a message."""
    found = Mailbox(certificate=_certificate(folder))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(found.certificate)

    class Handler(StreamRequestHandler):
        def handle(self) -> None:
            session = _Session(self, found, context)
            try:
                session.run()
            finally:
                session.file.close()
                session.connection.close()

    ThreadingTCPServer.allow_reuse_address = True
    with ThreadingTCPServer(("127.0.0.1", 0), Handler) as server:
        server.daemon_threads = True
        found.port = server.server_address[1]
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield found
        server.shutdown()


class _Session:
    def __init__(
        self, handler: StreamRequestHandler, found: Mailbox, context: ssl.SSLContext
    ) -> None:
        self.connection, self.found, self.context = handler.connection, found, context
        self.file = handler.connection.makefile("rwb")
        self.encrypted = False

    def say(self, text: str) -> None:
        self.file.write(text.encode() + b"\r\n")
        self.file.flush()

    def run(self) -> None:
        self.say("220 mail.test ESMTP")
        while line := self.file.readline():
            words = line.decode().strip()
            if not self.encrypted:
                self.found.plain_commands.append(words)
            if words.upper() == "QUIT":
                self.say("221 bye")
                return
            self.answer(words)

    def answer(self, words: str) -> None:
        command = words.upper()
        if command.startswith("EHLO"):
            self.say("250-mail.test")
            self.say("250 AUTH PLAIN" if self.encrypted else "250 STARTTLS")
        elif command == "STARTTLS":
            self.say("220 go")
            self.connection = self.context.wrap_socket(self.connection, server_side=True)
            self.file, self.encrypted = self.connection.makefile("rwb"), True
        elif command.startswith("AUTH PLAIN"):
            _, user, password = base64.b64decode(words.split()[2]).decode().split("\0")
            if password != "mail-passw0rd":
                self.say("535 no")
                return
            self.found.signed_in.append(user)
            self.say("235 ok")
        elif command.startswith("RCPT") and self.found.rejects:
            self.say(self.found.rejects)
        elif command == "DATA":
            self.say("354 go")
            lines = list(iter(self.file.readline, b".\r\n"))
            self.found.letters.append(
                message_from_bytes(b"".join(lines), policy=policy.default)  # type: ignore[arg-type]  # an EmailMessage under this policy
            )
            self.say("250 kept")
        else:
            self.say("250 ok")


def _certificate(folder: Path) -> Path:
    """Write a certificate of 127.0.0.1 with its key."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "127.0.0.1")])
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(hours=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(
            x509.SubjectAlternativeName([x509.IPAddress(ip_address("127.0.0.1"))]), critical=False
        )
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    path = folder / "mail.pem"
    path.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
        + certificate.public_bytes(serialization.Encoding.PEM)
    )
    return path
