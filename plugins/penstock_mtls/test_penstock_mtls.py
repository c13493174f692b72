"""Client certificates, as a trusted proxy and strangers send them, through the real gate."""

from __future__ import annotations

import base64
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from ipaddress import ip_network
from types import SimpleNamespace
from typing import Any
from urllib.parse import quote

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding
from openapi_spec_validator import validate
from werkzeug.test import TestResponse

from penstock import Call, HttpTrigger, Pipeline, hookimpl
from penstock.testing import Runtime

Start = Callable[..., Runtime]
PROXY, STRANGER = "10.0.0.1", "198.51.100.1"


def certificate(*names: x509.GeneralName, days: tuple[float, float] = (-1, 1)) -> x509.Certificate:
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "erp")])
    now = datetime.now(UTC)
    made = x509.CertificateBuilder(subject, subject, key.public_key(), x509.random_serial_number())
    made = made.not_valid_before(now + timedelta(days=days[0])).not_valid_after(
        now + timedelta(days=days[1])
    )
    if names:
        made = made.add_extension(x509.SubjectAlternativeName(names), critical=False)
    return made.sign(key, SHA256())


def fingerprint(made: x509.Certificate) -> str:
    return made.fingerprint(SHA256()).hex(":").upper()


def offering(**trigger: Any) -> SimpleNamespace:
    pipeline = Pipeline("orders", version="1.0.0", trigger=HttpTrigger(**{"mtls": True, **trigger}))

    @pipeline.get("/")
    def show(call: Call) -> dict[str, str | None]:
        return {"consumer": call.caller.consumer}

    @hookimpl
    def penstock_pipelines() -> list[Pipeline]:
        return [pipeline]

    return SimpleNamespace(__name__="orders", penstock_pipelines=penstock_pipelines)


@pytest.fixture
def runtime(penstock_runtime: Start) -> Runtime:
    made = penstock_runtime(
        offering(),
        policy="any",
        trusted_proxies=(ip_network("10.0.0.0/8"),),
        client_cert_header="Client-Cert",
    )
    for consumer in ("acme", "other"):
        made.client(consumer, key=False, token=False)
    return made


def enrol(runtime: Runtime, name: str, consumer: str = "acme") -> None:
    runtime.operate("credential", "add", "mtls", consumer, "--env", "test", "--name", name)


def get(
    runtime: Runtime, said: str, peer: str = PROXY, header: str = "Client-Cert"
) -> TestResponse:
    return runtime.anonymous().get(
        "/v1/orders/", headers={header: said}, environ_overrides={"REMOTE_ADDR": peer}
    )


def rfc9440(made: x509.Certificate) -> str:
    return f":{base64.b64encode(made.public_bytes(Encoding.DER)).decode()}:"


def problem(answered: TestResponse) -> tuple[int, str]:
    return answered.status_code, (answered.json or {}).get("type", "")


def test_a_proxy_that_is_trusted_hands_it_over_in_either_form(runtime: Runtime) -> None:
    made = certificate()
    enrol(runtime, fingerprint(made))

    for said in (rfc9440(made), quote(made.public_bytes(Encoding.PEM).decode())):
        assert get(runtime, said).json == {"consumer": "acme"}


def test_what_a_stranger_says_counts_as_nothing(runtime: Runtime) -> None:
    made = certificate()
    enrol(runtime, fingerprint(made))

    assert problem(get(runtime, rfc9440(made), STRANGER)) == (401, "credentials-missing")
    assert problem(get(runtime, rfc9440(made), header="X-Client-Cert")) == (
        401,
        "credentials-missing",
    )


def test_without_trusted_proxies_nobody_is_believed(penstock_runtime: Start) -> None:
    runtime = penstock_runtime(offering(), policy="any", client_cert_header="Client-Cert")
    runtime.client("acme", key=False, token=False)
    made = certificate()
    enrol(runtime, fingerprint(made))

    for peer in (PROXY, "127.0.0.1", ""):
        assert problem(get(runtime, rfc9440(made), peer)) == (401, "credentials-missing")


@pytest.mark.parametrize(
    "header", ["Client-Cert", "X-Client-Cert", "X-SSL-Cert", "X-Forwarded-Client-Cert"]
)
def test_without_a_setting_no_header_is_read_whoever_sends_it(
    penstock_runtime: Start, header: str
) -> None:
    runtime = penstock_runtime(
        offering(), policy="any", trusted_proxies=(ip_network("10.0.0.0/8"),)
    )
    runtime.client("acme", key=False, token=False)
    made = certificate()
    enrol(runtime, fingerprint(made))

    assert problem(get(runtime, rfc9440(made), header=header)) == (401, "credentials-missing")


def test_names_in_it_are_looked_up_after_its_fingerprint(runtime: Runtime) -> None:
    enrol(runtime, "DNS:Erp.Acme.Example")
    enrol(runtime, "uri:spiffe://acme/erp")
    by_dns = certificate(x509.DNSName("erp.acme.example"))
    by_uri = certificate(x509.UniformResourceIdentifier("spiffe://acme/erp"))
    mine = certificate(x509.DNSName("erp.acme.example"))
    enrol(runtime, fingerprint(mine), "other")

    assert [get(runtime, rfc9440(item)).json for item in (by_dns, by_uri, mine)] == [
        {"consumer": "acme"},
        {"consumer": "acme"},
        {"consumer": "other"},
    ]


@pytest.mark.parametrize(
    "name", ["acme.example", "xerp.acme.example", "erp.acme.example.evil", "*.acme.example"]
)
def test_other_names_are_nobody_s(runtime: Runtime, name: str) -> None:
    enrol(runtime, "dns:erp.acme.example")

    assert problem(get(runtime, rfc9440(certificate(x509.DNSName(name))))) == (
        401,
        "invalid-certificate",
    )


def test_a_common_name_is_no_name(runtime: Runtime) -> None:
    enrol(runtime, "dns:erp")

    assert problem(get(runtime, rfc9440(certificate()))) == (401, "invalid-certificate")


def test_names_of_two_consumers_in_one_certificate_are_a_401(runtime: Runtime) -> None:
    enrol(runtime, "dns:a.example")
    enrol(runtime, "dns:b.example", "other")

    assert problem(
        get(runtime, rfc9440(certificate(x509.DNSName("a.example"), x509.DNSName("b.example"))))
    ) == (401, "invalid-certificate")


@pytest.mark.parametrize("days", [(-2, -1), (1, 2)])
def test_an_expired_one_and_one_of_tomorrow_are_a_401(
    runtime: Runtime, days: tuple[float, float]
) -> None:
    made = certificate(days=days)
    enrol(runtime, fingerprint(made))

    assert problem(get(runtime, rfc9440(made))) == (401, "invalid-certificate")


@pytest.mark.parametrize("named", [True, False])
def test_one_whose_enrolment_has_expired_is_a_401(
    runtime: Runtime, monkeypatch: pytest.MonkeyPatch, named: bool
) -> None:
    made = certificate(x509.DNSName("erp.acme.example"))
    name = "dns:erp.acme.example" if named else fingerprint(made)
    runtime.operate(
        "credential", "add", "mtls", "acme", "--env", "test", "--name", name, "--expires", "1h"
    )

    before = get(runtime, rfc9440(made)).status_code
    later = time.time() + 3601
    monkeypatch.setattr("time.time", lambda: later)

    assert (before, problem(get(runtime, rfc9440(made)))) == (200, (401, "invalid-certificate"))


@pytest.mark.parametrize(
    "said",
    [
        ":AAAA:",
        "::",
        ":!:",
        "nonsense",
        "-----BEGIN CERTIFICATE-----",
        quote("-----BEGIN CERTIFICATE-----\nAA\n-----END CERTIFICATE-----"),
    ],
)
def test_what_is_no_certificate_is_a_401(runtime: Runtime, said: str) -> None:
    assert problem(get(runtime, said)) == (401, "invalid-certificate")


def test_one_nobody_asked_for_is_not_looked_at(penstock_runtime: Start) -> None:
    proxies = (ip_network("10.0.0.0/8"),)
    runtime = penstock_runtime(
        offering(mtls=False),
        policy="any",
        trusted_proxies=proxies,
        client_cert_header="Client-Cert",
    )

    assert get(runtime, rfc9440(certificate())).status_code == 200


def test_several_certificates_of_one_consumer_rotate(runtime: Runtime) -> None:
    old, new = certificate(), certificate()
    enrol(runtime, fingerprint(old))
    enrol(runtime, sha256(new.public_bytes(Encoding.DER)).hexdigest())
    first = (
        runtime.operate("credential", "list", "--format", "json").split('"id": "')[1].split('"')[0]
    )

    assert [get(runtime, rfc9440(item)).status_code for item in (old, new)] == [200, 200]
    runtime.operate("credential", "revoke", first)
    assert [get(runtime, rfc9440(item)).status_code for item in (old, new)] == [401, 200]


@pytest.mark.parametrize("name", ["", "erp", "dns:", "dns:*.example", "ip:1.2.3.4", "00:11"])
def test_what_names_no_certificate_is_not_enrolled(runtime: Runtime, name: str) -> None:
    with pytest.raises(Exception, match="names no certificate"):
        enrol(runtime, name)


@pytest.mark.parametrize("policy", ["api-key", "jwt-api-key"])
def test_it_satisfies_no_policy(penstock_runtime: Start, policy: str) -> None:
    runtime = penstock_runtime(offering(), policy=policy)

    assert any("requires api_key=True" in reason for reason in runtime.blocked()["v1/orders"])


def test_openapi_says_mutual_tls(runtime: Runtime) -> None:
    document: Any = runtime.anonymous().get("/-/openapi.json").json

    validate(document)
    assert document["components"]["securitySchemes"] == {"mtls": {"type": "mutualTLS"}}
