"""Signatures and certificates over the wire: GitHub's own bodies, replays across workers, TLS
that ends in gunicorn."""

from __future__ import annotations

import hmac
import json
import socket
import ssl
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import httpx
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from support.place import Place, Server, dribble

Serve = Callable[..., Server]
SECRET = "It's a Secret to Everybody"
GITHUB = sorted((Path(__file__).parent / "github").glob("*.json"))

PLUGIN = """
import time

from penstock import Call, HttpTrigger, Pipeline, hookimpl

def made(name, handler, **trigger):
    pipeline = Pipeline(name, version="1.0.0", trigger=HttpTrigger(**trigger))
    pipeline.post("/")(handler)
    return pipeline

def event(call: Call, body: dict):
    return {"consumer": call.caller.consumer, "event": call.headers["X-GitHub-Event"], "sender": body["sender"]["login"]}

def size(call: Call, body: bytes):
    return {"consumer": call.caller.consumer, "bytes": len(body)}

def stick(call: Call, body: bytes):
    time.sleep(1)
    return {}

@hookimpl
def penstock_pipelines():
    return [
        made("stuck", stick, signature="hmac", timeout=0.3),
        made("github", event, signature="github"),
        made("plain", size, signature="hmac", timeout=1),
        made("certified", size, mtls=True),
    ]
"""  # noqa: E501  text as it is


@pytest.fixture
def ready(place: Place) -> Place:
    place.plugin("hooks", PLUGIN)
    place.policy("any")
    place.consumer("octo", "github", "plain", "certified", "stuck")
    for kind in ("github_signature", "hmac_signature"):
        done = place.run(
            "credential",
            "add",
            kind,
            "octo",
            "--env",
            "test",
            "--name",
            "hooks",
            given=SECRET + "\n",
        )
        assert done.returncode == 0, done.stderr
    return place


def mac(message: bytes) -> str:
    return "sha256=" + hmac.new(SECRET.encode(), message, "sha256").hexdigest()


def test_github_s_own_bodies_pass_and_one_byte_more_does_not(ready: Place, serve: Serve) -> None:
    server = serve(ready)
    assert len(GITHUB) == 3

    for path in GITHUB:
        body = path.read_bytes()
        headers = {
            "X-GitHub-Event": path.stem,
            "X-GitHub-Delivery": "72d3162e-cc78-11e3-81ab-4c9367dc0958",
            "X-Hub-Signature-256": mac(body),
            "User-Agent": "GitHub-Hookshot/044aadd",
            "Content-Type": "application/json",
        }
        answered = server.client.post("/v1/github/", content=body, headers=headers)
        assert answered.json() == {
            "consumer": "octo",
            "event": path.stem,
            "sender": json.loads(body)["sender"]["login"],
        }
        assert (
            server.client.post("/v1/github/", content=body + b" ", headers=headers).status_code
            == 401
        )
        assert (
            server.client.post(
                "/v1/github/", content=body, headers=headers | {"X-Hub-Signature-256": mac(b"")}
            ).status_code
            == 401
        )
    assert SECRET not in server.log.read_text()


def test_a_replay_is_known_in_every_worker_and_after_a_restart(ready: Place, serve: Serve) -> None:
    moment = str(int(time.time()))
    headers = {"X-Signature-Timestamp": moment, "X-Signature": mac(f"{moment}.".encode() + b"once")}

    with Server(ready, workers=2) as server:
        statuses = [
            httpx.post(
                f"{server.url}/v1/plain/", content=b"once", headers=headers, timeout=10
            ).status_code
            for _ in range(12)
        ]
    again = serve(ready).client.post("/v1/plain/", content=b"once", headers=headers).status_code

    assert (statuses, again) == ([200] + [401] * 11, 401)


def test_a_call_that_ran_out_of_time_can_be_sent_again_to_any_worker(
    ready: Place, serve: Serve
) -> None:
    server = serve(ready, workers=2)
    moment = str(int(time.time()))
    headers = {
        "X-Signature-Timestamp": moment,
        "X-Signature": mac(f"{moment}.".encode() + b"again"),
    }
    statuses = []
    for _ in range(4):
        statuses.append(
            httpx.post(
                f"{server.url}/v1/stuck/", content=b"again", headers=headers, timeout=10
            ).status_code
        )
        # The mark is given back beside the answer: no other call waits for the database.
        time.sleep(0.2)

    assert statuses == [504] * 4


def test_a_sender_that_dribbles_its_body_has_its_answer_at_the_limit(
    ready: Place, serve: Serve
) -> None:
    server = serve(ready)
    moment = str(int(time.time()))
    head = (
        f"POST /v1/plain/ HTTP/1.1\r\nHost: x\r\nX-Signature-Timestamp: {moment}\r\nX-Signature:"
        f" {mac(b'')}\r\nContent-Length: 100\r\n\r\n"
    )

    with socket.create_connection(("127.0.0.1", server.port), timeout=15) as connection:
        connection.sendall(head.encode() + b"x" * 10)
        received = b"".join(iter(lambda: connection.recv(65536), b""))

    assert received.startswith(b"HTTP/1.1 504 ")
    assert b'"type":"timed-out"' in received


class Authority:
    """A certificate authority, and what it signs."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, folder.name)])
        usage = x509.KeyUsage(False, False, False, False, False, True, True, False, False)
        made = self._builder(self._name, self._key).add_extension(
            x509.BasicConstraints(ca=True, path_length=0), critical=True
        )
        made = made.add_extension(
            x509.SubjectKeyIdentifier.from_public_key(self._key.public_key()), critical=False
        ).add_extension(usage, critical=True)
        self.path = folder / "ca.pem"
        self.path.write_bytes(
            made.sign(self._key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)
        )

    def _builder(
        self, subject: x509.Name, key: ec.EllipticCurvePrivateKey
    ) -> x509.CertificateBuilder:
        now = datetime.now(UTC)
        return x509.CertificateBuilder(
            self._name,
            subject,
            key.public_key(),
            x509.random_serial_number(),
            now - timedelta(hours=1),
            now + timedelta(hours=1),
        )

    def issue(self, name: str) -> tuple[str, str]:
        """Return the paths of a certificate for a host's name and its key."""
        key = ec.generate_private_key(ec.SECP256R1())
        made = self._builder(x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)]), key)
        made = made.add_extension(x509.SubjectAlternativeName([x509.DNSName(name)]), critical=False)
        made = made.add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_public_key(self._key.public_key()),
            critical=False,
        )
        paths = self.folder / f"{name}.pem", self.folder / f"{name}.key"
        paths[0].write_bytes(
            made.sign(self._key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)
        )
        paths[1].write_bytes(
            key.private_bytes(
                serialization.Encoding.PEM,
                serialization.PrivateFormat.PKCS8,
                serialization.NoEncryption(),
            )
        )
        return str(paths[0]), str(paths[1])


@pytest.fixture
def tls(tmp_path: Path) -> Authority:
    (tmp_path / "ours").mkdir()
    return Authority(tmp_path / "ours")


def test_a_sender_that_dribbles_over_tls_has_its_answer_at_the_limit_too(
    ready: Place, serve: Serve, tls: Authority
) -> None:
    cert, key = tls.issue("localhost")
    server = serve(ready, wait=False, GUNICORN_CMD_ARGS=f"--certfile {cert} --keyfile {key}")
    trust = ssl.create_default_context(cafile=str(tls.path))
    for _ in range(100):
        try:
            plain = socket.create_connection(("127.0.0.1", server.port), timeout=20)
            break
        except OSError:
            time.sleep(0.1)
    moment = str(int(time.time()))
    head = (
        f"POST /v1/plain/ HTTP/1.1\r\nHost: x\r\nX-Signature-Timestamp: {moment}\r\nX-Signature:"
        f" {mac(b'')}\r\nContent-Length: 1000\r\n\r\n"
    )

    with plain, trust.wrap_socket(plain, server_hostname="localhost") as connection:
        received = dribble(connection, head.encode())

    assert received.startswith(b"HTTP/1.1 504 ")
    assert b'"type":"timed-out"' in received


def test_a_certificate_proves_its_consumer_where_gunicorn_ends_tls(
    ready: Place, serve: Serve, tmp_path: Path
) -> None:
    folders = [tmp_path / name for name in ("ours", "theirs")]
    for folder in folders:
        folder.mkdir()
    ours, theirs = (Authority(folder) for folder in folders)
    cert, key = ours.issue("localhost")
    ready.run(
        "credential", "add", "mtls", "octo", "--env", "test", "--name", "dns:erp.octo.example"
    )
    options = (
        f"--certfile {cert} --keyfile {key} --ca-certs {ours.path} --cert-reqs"
        f" {int(ssl.CERT_OPTIONAL)}"
    )
    server = serve(ready, wait=False, GUNICORN_CMD_ARGS=options)

    def post(pair: tuple[str, str] | None) -> tuple[int, object]:
        trust = ssl.create_default_context(cafile=str(ours.path))
        if pair is not None:
            trust.load_cert_chain(*pair)
        with httpx.Client(verify=trust, timeout=10) as client:
            answered = client.post(
                f"https://localhost:{server.port}/v1/certified/",
                content=b"abc",
                headers={"Client-Cert": ":AAAA:"},
            )
            return answered.status_code, answered.json().get("type", answered.json())

    for _ in range(100):
        try:
            post(None)
            break
        except httpx.TransportError:
            time.sleep(0.1)

    assert post(ours.issue("erp.octo.example")) == (200, {"consumer": "octo", "bytes": 3})
    assert post(ours.issue("erp.other.example")) == (401, "invalid-certificate")
    assert post(None) == (401, "credentials-missing")
    with pytest.raises(httpx.TransportError):
        post(theirs.issue("erp.octo.example"))
