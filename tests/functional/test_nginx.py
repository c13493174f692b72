"""The nginx blocks of the how-to page, in a real nginx: what a caller sends in place of the proxy
does not pass it."""

from __future__ import annotations

import base64
import re
import shutil
import ssl
import subprocess
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import httpx
import pytest
from conftest import CI
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from support.place import ROOT, Place, Server
from support.services import free_port

PAGE = (ROOT / "docs" / "how-to" / "put-a-proxy-in-front.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```nginx\n(.*?)```", PAGE, re.DOTALL)
PLUGIN = """
from penstock import Call, HttpTrigger, Pipeline, hookimpl
cert = Pipeline("cert", version="1.0.0", trigger=HttpTrigger(mtls=True))
seen = Pipeline("seen", version="1.0.0", trigger=HttpTrigger(deny="198.51.100.0/24"))

@cert.get("/")
def who(call: Call) -> dict:
    return {"consumer": call.caller.consumer}

@seen.get("/")
def headers(call: Call) -> dict:
    return dict(call.headers)

@hookimpl
def penstock_pipelines():
    return [cert, seen]
"""


class Certificates:
    """An authority, a server's certificate, and those of two clients, one of which is of another
    authority."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.authority = self.make("authority", None)
        self.make("server", self.authority, "localhost")
        self.make("partner", self.authority, "partner.example")
        self.make("unknown", self.make("other", None), "partner.example")

    def make(
        self, name: str, issuer: tuple[x509.Name, ec.EllipticCurvePrivateKey] | None, dns: str = ""
    ) -> tuple[x509.Name, ec.EllipticCurvePrivateKey]:
        key, subject = (
            ec.generate_private_key(ec.SECP256R1()),
            x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)]),
        )
        now = datetime.now(UTC)
        builder = (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(issuer[0] if issuer else subject)
            .public_key(key.public_key())
        )
        builder = (
            builder.serial_number(x509.random_serial_number())
            .not_valid_before(now - timedelta(days=1))
            .not_valid_after(now + timedelta(days=1))
        )
        builder = builder.add_extension(
            x509.BasicConstraints(ca=issuer is None, path_length=None), critical=True
        )
        if dns:
            builder = builder.add_extension(
                x509.SubjectAlternativeName([x509.DNSName(dns)]), critical=False
            )
        made = builder.sign(issuer[1] if issuer else key, hashes.SHA256())
        pem = serialization.Encoding.PEM
        (self.folder / f"{name}.pem").write_bytes(made.public_bytes(pem))
        (self.folder / f"{name}.der").write_bytes(made.public_bytes(serialization.Encoding.DER))
        private = key.private_bytes(
            pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        (self.folder / f"{name}.key").write_bytes(private)
        return subject, key

    def der(self, name: str) -> bytes:
        return (self.folder / f"{name}.der").read_bytes()


class Nginx:
    """An nginx with a block of the page, on a free port before a server of ours."""

    def __init__(self, block: str, folder: Path, server: Server) -> None:
        program = shutil.which("nginx")
        if program is None:
            if CI:
                pytest.fail("nginx is missing, and CI must not skip")
            pytest.skip("nginx is not installed")
        self.port = free_port()
        block = block.replace("listen 443 ssl", f"listen 127.0.0.1:{self.port} ssl").replace(
            "127.0.0.1:8000", f"127.0.0.1:{server.port}"
        )
        for path, mine in (
            ("api.example.com.pem", "server.pem"),
            ("api.example.com.key", "server.key"),
            ("partners.pem", "authority.pem"),
        ):
            block = block.replace(f"/etc/ssl/{path}", str(folder / mine))
        paths = "".join(
            f"  {name}_temp_path {folder}/{name};\n"
            for name in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
        )
        config = folder / "nginx.conf"
        config.write_text(
            f"pid {folder}/nginx.pid;\nerror_log {folder}/nginx.log;\ndaemon off;\nmaster_process"
            f" off;\nevents {{}}\nhttp {{\n  access_log off;\n{paths}{block}}}\n"
        )
        self.process = subprocess.Popen(
            [program, "-c", str(config), "-p", str(folder)], stderr=subprocess.PIPE
        )
        for _ in range(100):
            try:
                self.get("/-/health")
            except httpx.HTTPError:
                assert self.process.poll() is None, (
                    self.process.stderr.read() if self.process.stderr else b""
                ).decode()
                time.sleep(0.05)
            else:
                return
        raise AssertionError("nginx does not answer")

    def get(self, path: str, *, certificate: Path | None = None, **headers: str) -> httpx.Response:
        context = ssl.create_default_context()
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        if certificate is not None:
            context.load_cert_chain(certificate, certificate.with_suffix(".key"))
        sent = {name.replace("_", "-"): value for name, value in headers.items()}
        return httpx.get(
            f"https://127.0.0.1:{self.port}{path}", headers=sent, verify=context, timeout=10
        )

    def stop(self) -> None:
        self.process.terminate()
        self.process.wait(10)
        if self.process.stderr:
            self.process.stderr.close()


@pytest.fixture
def certificates(tmp_path: Path) -> Certificates:
    folder = tmp_path / "tls"
    folder.mkdir(mode=0o755)
    return Certificates(folder)


@pytest.fixture
def proxied(
    sqlite_place: Place, serve: Callable[..., Server], certificates: Certificates
) -> Iterator[Callable[..., Nginx]]:
    """Start a server and an nginx before it, with a block of the page."""
    started: list[Nginx] = []
    place = sqlite_place
    place.plugin("shapes", PLUGIN)
    place.policy("any")
    place.consumer("partner", "cert")
    assert (
        place.run(
            "credential", "add", "mtls", "partner", "--env", "test", "--name", "dns:partner.example"
        ).returncode
        == 0
    )

    def start(block: str, **settings: str) -> Nginx:
        server = serve(place, PENSTOCK_TRUSTED_PROXIES="127.0.0.1", **settings)
        started.append(Nginx(block, certificates.folder, server))
        return started[-1]

    yield start
    for nginx in started:
        nginx.stop()


def sent(der: bytes) -> list[str]:
    """Return a certificate as callers might send it in place of a proxy: as RFC 9440 says, and
    as nginx does."""
    pem = ssl.DER_cert_to_PEM_cert(der)
    return [f":{base64.b64encode(der).decode()}:", pem.replace("\n", "%0A").replace(" ", "%20")]


def test_there_are_two_blocks_the_usual_one_and_one_for_client_certificates() -> None:
    assert ["ssl_verify_client" in block for block in BLOCKS] == [False, True]


@pytest.mark.parametrize("setting", ["Client-Cert", ""])
def test_a_caller_s_own_certificate_header_does_not_pass_the_usual_block(
    proxied: Callable[..., Nginx], certificates: Certificates, setting: str
) -> None:
    nginx = proxied(BLOCKS[0], PENSTOCK_CLIENT_CERT_HEADER=setting)

    for value in sent(certificates.der("partner")):
        answer = nginx.get("/v1/cert/", Client_Cert=value)
        assert (answer.status_code, answer.json()["type"]) == (401, "credentials-missing")


def test_the_usual_block_sets_what_is_believed_of_the_client(proxied: Callable[..., Nginx]) -> None:
    nginx = proxied(BLOCKS[0])

    answer = nginx.get(
        "/v1/seen/",
        X_Forwarded_For="198.51.100.7",
        Forwarded="for=198.51.100.7",
        X_Forwarded_Proto="ftp",
        Client_Cert="x",
    )

    assert answer.status_code == 200
    headers = answer.json()
    assert (
        headers["x-forwarded-for"],
        headers["x-forwarded-proto"],
        "forwarded" in headers,
        "client-cert" in headers,
    ) == ("127.0.0.1", "https", False, False)


def test_the_block_for_client_certificates_passes_on_the_one_that_it_verified(
    proxied: Callable[..., Nginx], certificates: Certificates
) -> None:
    nginx = proxied(BLOCKS[1], PENSTOCK_CLIENT_CERT_HEADER="Client-Cert")
    forged, escaped = sent(certificates.der("partner"))

    good = nginx.get("/v1/cert/", certificate=certificates.folder / "partner.pem")
    none = nginx.get("/v1/cert/")
    spoofed = [nginx.get("/v1/cert/", Client_Cert=value) for value in (forged, escaped)]
    unknown = nginx.get(
        "/v1/cert/", certificate=certificates.folder / "unknown.pem", Client_Cert=forged
    )

    assert (good.status_code, good.json()) == (200, {"consumer": "partner"})
    assert [answer.status_code for answer in (none, *spoofed)] == [401] * 3
    assert unknown.status_code in {400, 401}
