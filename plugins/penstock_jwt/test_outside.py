"""Tokens of outside issuers: what is taken, and every way to cheat."""

from __future__ import annotations

import base64
import hmac
import itertools
import json
import secrets
import socket
import ssl
import threading
import time
import warnings
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from ipaddress import IPv4Address
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import jwt
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.hashes import SHA256
from jwt.algorithms import ECAlgorithm, OKPAlgorithm, RSAAlgorithm
from werkzeug.test import TestResponse

from penstock import (
    Call,
    Caller,
    CredentialRejected,
    HttpTrigger,
    Pipeline,
    TrustedIssuer,
    hookimpl,
    read_key_set,
)
from penstock.testing import CallerClient, Runtime
from penstock_jwt import outside
from penstock_jwt.outside import KeySets
from penstock_jwt.tokens import Tokens
from penstock_jwt.verification import REVERIFY_S

Start = Callable[..., Runtime]
ISSUER = "https://id.example"
RSA_KEY = rsa.generate_private_key(65537, 2048)
OTHER_RSA = rsa.generate_private_key(65537, 2048)
EC_KEY = ec.generate_private_key(ec.SECP256R1())
ED_KEY = ed25519.Ed25519PrivateKey.generate()


def jwk(key: Any, kid: str | None, **more: object) -> dict[str, Any]:
    kinds: dict[type, Any] = {
        rsa.RSAPublicKey: RSAAlgorithm,
        ec.EllipticCurvePublicKey: ECAlgorithm,
        ed25519.Ed25519PublicKey: OKPAlgorithm,
    }
    public = key.public_key()
    kind = next(algorithm for expected, algorithm in kinds.items() if isinstance(public, expected))
    created = {
        name: value
        for name, value in kind.to_jwk(public, as_dict=True).items()
        if name != "key_ops"
    }
    return created | ({"kid": kid} if kid is not None else {}) | more


KEYS = [jwk(RSA_KEY, "r1"), jwk(EC_KEY, "e1"), jwk(ED_KEY, "d1", alg="EdDSA", use="sig")]


def token(
    key: Any = RSA_KEY,
    algorithm: str = "RS256",
    kid: str | None = "r1",
    header: dict[str, Any] | None = None,
    **claims: Any,
) -> str:
    now = int(time.time())
    usual = {
        "iss": ISSUER,
        "aud": "penstock",
        "sub": "ann",
        "client_id": "acme",
        "iat": now,
        "exp": now + 600,
        "scope": "orders:read",
    }
    payload = {name: value for name, value in (usual | claims).items() if value is not None}
    return jwt.encode(
        payload,
        key,
        algorithm=algorithm,
        headers={**({"kid": kid} if kid is not None else {}), **(header or {})},
    )


def offering() -> SimpleNamespace:
    pipeline = Pipeline(
        "orders",
        version="1.0.0",
        trigger=HttpTrigger(api_key=True, jwt=True, scopes={"orders:read"}),
    )

    @pipeline.get("/")
    def show(call: Call) -> dict[str, Any]:
        return {
            "consumer": call.caller.consumer,
            "subject": call.caller.subject,
            "issuer": call.caller.claims["iss"],
        }

    @hookimpl
    def penstock_pipelines() -> list[Pipeline]:
        return [pipeline]

    return SimpleNamespace(__name__="orders", penstock_pipelines=penstock_pipelines)


@pytest.fixture
def runtime(penstock_runtime: Start, tmp_path: Path) -> Runtime:
    created = penstock_runtime(offering())
    created.client("acme")
    trust(created, tmp_path)
    return created


@pytest.fixture
def acme(runtime: Runtime) -> CallerClient:
    return runtime.client("acme", token=False)


def trust(
    runtime: Runtime, folder: Path, *words: str, issuer: str = ISSUER, keys: Any = None
) -> None:
    path = folder / "keys.json"
    path.write_text(json.dumps({"keys": KEYS if keys is None else keys}))
    runtime.operate(
        "issuer",
        "trust",
        issuer,
        "--env",
        "test",
        "--audience",
        "penstock",
        "--jwks-file",
        str(path),
        *words,
    )


def get(client: CallerClient, sent: str) -> TestResponse:
    return client.get("/v1/orders/", headers={"Authorization": f"Bearer {sent}"})


def taken(client: CallerClient, sent: str) -> bool:
    answered = get(client, sent)
    if answered.status_code != 200:
        assert (answered.status_code, (answered.json or {})["type"]) == (401, "invalid-token")
    return answered.status_code == 200


def test_its_tokens_pass_the_same_gate_as_ours(runtime: Runtime, acme: CallerClient) -> None:
    for sent in (
        token(),
        token(algorithm="PS256"),
        token(EC_KEY, "ES256", "e1"),
        token(ED_KEY, "EdDSA", "d1"),
    ):
        assert get(acme, sent).json == {"consumer": "acme", "subject": "ann", "issuer": ISSUER}
    assert get(runtime.client("acme"), "").status_code == 401
    assert (runtime.client("acme", scopes=["orders:read"]).get("/v1/orders/").json or {})[
        "issuer"
    ] == "penstock"


def test_a_key_of_the_consumer_is_still_needed(runtime: Runtime) -> None:
    assert (get(runtime.anonymous(), token()).json or {})["type"] == "credentials-missing"
    assert not taken(runtime.client("other", token=False), token())


@pytest.mark.parametrize("typ", ["JWT", "at+jwt", "application/at+jwt", None])
def test_access_tokens_of_each_typ_are_accepted(acme: CallerClient, typ: str | None) -> None:
    assert taken(acme, token(header={"typ": typ}))


def test_a_thumbprint_beside_the_kid_is_not_looked_at(acme: CallerClient) -> None:
    """Providers of Microsoft's send it."""
    assert taken(acme, token(header={"x5t": "r1"}))
    assert taken(acme, token(header={"x5t": "nonsense", "x5t#S256": "nonsense"}))
    assert not taken(acme, token(OTHER_RSA, header={"x5t": "r1"}))


class Moment(int):
    """Seconds from now, whenever that is."""


@pytest.mark.parametrize(
    "claims",
    [
        {"aud": "another"},
        {"aud": None},
        {"aud": []},
        {"iss": ISSUER + "/"},
        {"iss": "https://evil.example"},
        {"iss": None},
        {"sub": None},
        {"sub": ""},
        {"exp": None},
        {"iat": None},
        {"exp": Moment(-60)},
        {"exp": Moment(90_000)},
        {"nbf": Moment(600)},
        {"iat": Moment(600), "exp": Moment(700)},
        {"client_id": None},
        {"client_id": "other"},
        {"client_id": ["acme"]},
        {"scope": 5},
        {"exp": "soon"},
        {"iat": True},
    ],
)
def test_claims_that_do_not_hold_are_a_401(acme: CallerClient, claims: dict[str, Any]) -> None:
    assert taken(acme, token())
    now = int(time.time())
    timed: dict[str, Any] = {
        name: now + value if isinstance(value, Moment) else value for name, value in claims.items()
    }
    assert not taken(acme, token(**timed))


def test_several_audiences_may_be_named(acme: CallerClient) -> None:
    assert taken(acme, token(aud=["another", "penstock"]))


@pytest.mark.parametrize(
    "sent",
    [
        token(OTHER_RSA),
        token(kid="e1"),
        token(kid="unknown"),
        token(kid=None),
        token(EC_KEY, "ES256", "r1"),
        token("", "none"),
        token("", "none", kid=None),
        token(header={"jku": "https://evil.example/jwks"}),
        token(OTHER_RSA, header={"jwk": jwk(OTHER_RSA, "r1")}),
        token(header={"crit": ["exp"]}),
        token(header={"x5u": "https://evil.example/cert"}),
        token(header={"x5c": ["MIIB"], "x5t": "r1"}),
        token(header={"zip": "DEF"}),
        token(header={"typ": "id+jwt"}),
        token(algorithm="RS512"),
        token()[:-6] + "AAAAAA",
    ],
)
def test_what_its_keys_did_not_sign_as_they_should_is_a_401(acme: CallerClient, sent: str) -> None:
    assert not taken(acme, sent)


def test_a_public_key_is_no_shared_secret(acme: CallerClient) -> None:
    """RFC 8725 section 2.1: the algorithm is the key's, not the token's."""
    pem = RSA_KEY.public_key().public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    head = {"alg": "HS256", "typ": "JWT", "kid": "r1"}

    def part(value: object) -> str:
        return base64.urlsafe_b64encode(json.dumps(value).encode()).decode().rstrip("=")

    now = int(time.time())
    claims = {"iss": ISSUER, "aud": "penstock", "sub": "a", "client_id": "acme"}
    signed = f"{part(head)}.{part({**claims, 'iat': now, 'exp': now + 60})}"
    mac = base64.urlsafe_b64encode(hmac.digest(pem, signed.encode(), "sha256")).decode().rstrip("=")

    assert not taken(acme, f"{signed}.{mac}")


def test_our_keys_make_no_outside_tokens_and_theirs_none_of_ours(
    runtime: Runtime, acme: CallerClient
) -> None:
    (own,) = runtime.access.signing_keys().values()
    private = serialization.load_pem_private_key(own.private, None)
    theirs = token(private, "EdDSA", own.kid)
    ours = token(
        iss="penstock", aud="test", jti="x", nbf=int(time.time()), header={"typ": "at+jwt"}
    )

    assert not taken(acme, theirs)
    assert not taken(acme, ours)


def test_what_it_is_trusted_for_elsewhere_is_not_taken_here(
    penstock_runtime: Start, tmp_path: Path
) -> None:
    runtime = penstock_runtime(offering())
    acme = runtime.client("acme", token=False)
    runtime.operate("env", "create", "prod")
    path = tmp_path / "keys.json"
    path.write_text(json.dumps({"keys": KEYS}))
    runtime.operate(
        "issuer",
        "trust",
        ISSUER,
        "--env",
        "prod",
        "--audience",
        "penstock",
        "--jwks-file",
        str(path),
    )

    assert not taken(acme, token())


def test_distrust_is_immediate_and_so_is_another_key(
    runtime: Runtime, acme: CallerClient, tmp_path: Path
) -> None:
    assert taken(acme, token())
    trust(runtime, tmp_path, keys=[jwk(OTHER_RSA, "r1")])
    assert (taken(acme, token()), taken(acme, token(OTHER_RSA))) == (False, True)
    runtime.operate("issuer", "distrust", ISSUER, "--env", "test")
    assert not taken(acme, token(OTHER_RSA))


def test_tokens_can_be_revoked_by_jti_and_by_consumer(runtime: Runtime, acme: CallerClient) -> None:
    first = token(jti="t1")
    assert taken(acme, first)
    runtime.operate("token", "revoke", "t1", "--env", "test")
    assert (taken(acme, first), taken(acme, token(jti="t2"))) == (False, True)
    runtime.operate("token", "revoke", "--consumer", "acme", "--env", "test")
    assert not taken(acme, token(jti="t2", iat=int(time.time()) - 5))


class TestMapping:
    def test_a_claim_may_mean_a_consumer(
        self, runtime: Runtime, acme: CallerClient, tmp_path: Path
    ) -> None:
        trust(
            runtime,
            tmp_path,
            "--consumer-claim",
            "azp",
            "--map",
            "app=1=acme",
            "--map",
            "app2=acme",
        )

        assert [taken(acme, token(azp=value)) for value in ("app=1", "app2", "acme", "", None)] == [
            True,
            True,
            False,
            False,
            False,
        ]

    def test_all_its_tokens_may_be_of_one(
        self, runtime: Runtime, acme: CallerClient, tmp_path: Path
    ) -> None:
        trust(runtime, tmp_path, "--consumer", "acme")

        assert taken(acme, token(client_id="any"))
        assert not taken(runtime.client("other", token=False), token(client_id="other"))

    def test_scopes_come_from_the_claim_that_holds_them(
        self, runtime: Runtime, acme: CallerClient, tmp_path: Path
    ) -> None:
        trust(runtime, tmp_path, "--scope-claim", "scp")

        assert get(acme, token(scp=["orders:read", "x"])).status_code == 200
        assert get(acme, token(scp="orders:read x")).status_code == 200
        assert (get(acme, token(scp=["x"])).json or {})["type"] == "insufficient-scope"
        assert (get(acme, token()).json or {})["type"] == "insufficient-scope"


@pytest.mark.parametrize(
    ("words", "lines"),
    [
        (("https://id.example", "--jwks-url", "http://id.example/jwks"), "is no https URL"),
        (("https://id.example", "--jwks-url", "ftp://id.example/jwks"), "is no https URL"),
        (
            ("https://id.example", "--jwks-url", "https://u:p@id.example/jwks"),
            "must not contain a user or a password",
        ),
        (("http://id.example",), "is no https URL"),
        (("id.example",), "is no https URL"),
        (("penstock",), "is the issuer of our own tokens"),
        (("https://id.example", "--map", "x"), "as VALUE=CONSUMER"),
        (("https://id.example", "--map", "x=unknown"), "no consumer is named 'unknown'"),
        (("https://id.example", "--consumer", "acne"), "did you mean 'acme'"),
        (("https://id.example", "--consumer", "acme", "--map", "x=acme"), "not both"),
    ],
)
def test_what_makes_no_sense_is_not_trusted(
    runtime: Runtime, words: tuple[str, ...], lines: str
) -> None:
    with pytest.raises(Exception, match=lines):
        runtime.operate("issuer", "trust", *words, "--env", "test", "--audience", "penstock")


def test_what_can_be_no_issuer_is_not_trusted(runtime: Runtime, tmp_path: Path) -> None:
    for issuer in (
        "",
        " ",
        "a b",
        "https://",
        "https:///x",
        ":x",
        "a:b c",
        " https://id.example",
        "https://id.example\n",
        "é",
        "x" * 256,
    ):
        with pytest.raises(Exception, match="can be no issuer"):
            trust(runtime, tmp_path, issuer=issuer)
        with pytest.raises(Exception, match="can be no issuer"):
            runtime.operate("issuer", "trust", issuer, "--env", "test", "--audience", "penstock")
    assert runtime.operate("issuer", "list", "--format", "json").count('"issuer"') == 1


def test_with_its_keys_at_hand_an_issuer_may_have_any_name(
    runtime: Runtime, acme: CallerClient, tmp_path: Path
) -> None:
    for issuer in (
        "accounts.example.com",
        "urn:example:issuer",
        "http://id.example/realms/x",
        "https://id.example/",
        "x",
    ):
        trust(runtime, tmp_path, issuer=issuer)
        assert taken(acme, token(iss=issuer))


def test_an_audience_and_claims_have_names(runtime: Runtime, tmp_path: Path) -> None:
    for words in (
        ("--audience", ""),
        ("--audience", " "),
        ("--audience", "a\nb"),
        ("--consumer-claim", ""),
        ("--scope-claim", ""),
    ):
        with pytest.raises(Exception, match=r"an audience is needed|a claim has a name"):
            trust(runtime, tmp_path, *words)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{}",
        '{"keys": []}',
        '{"keys": [5]}',
        '{"keys": [{"kty": "oct", "k": "AA"}]}',
        '{"keys": [{"kty": "EC", "d": "AA"}]}',
        "[" * 9999,
    ],
)
def test_a_file_without_public_keys_is_refused(runtime: Runtime, tmp_path: Path, text: str) -> None:
    (tmp_path / "bad.json").write_text(text)

    with pytest.raises(Exception, match="JWK set"):
        runtime.operate(
            "issuer",
            "trust",
            ISSUER,
            "--env",
            "test",
            "--audience",
            "a",
            "--jwks-file",
            str(tmp_path / "bad.json"),
        )


def test_only_public_keys_that_verify_are_read_from_a_set() -> None:
    private = RSAAlgorithm.to_jwk(RSA_KEY, as_dict=True) | {"kid": "p"}
    odd = [
        private,
        {"kty": "oct", "k": "AA", "kid": "s"},
        jwk(RSA_KEY, "enc", use="enc"),
        jwk(RSA_KEY, "hs", alg="HS256"),
        {"kty": "RSA", "kid": "b"},
        5,
        None,
    ]

    assert [key.kid for key in read_key_set({"keys": [*odd, *KEYS]}).keys] == ["r1", "e1", "d1"]
    nothings: list[object] = [{}, [], None, {"keys": 5}, {"keys": []}, "x"]
    for nothing in nothings:
        with pytest.raises(ValueError, match="no JWK set"):
            read_key_set(nothing)


WEAK = rsa.generate_private_key(65537, 1024)  # noqa: S505  which is the point
UNUSABLE: dict[str, tuple[dict[str, Any], str]] = {
    "1024 bits": (jwk(WEAK, "k"), "1024 bits"),
    "n is no base64url": (jwk(RSA_KEY, "k") | {"n": "!!!"}, "n is not base64url"),
    "n is missing": ({"kty": "RSA", "kid": "k"}, "n is missing"),
    "off its curve": (jwk(EC_KEY, "k") | {"x": jwk(EC_KEY, "k")["y"]}, "not on the curve P-256"),
    "Ed25519 of 5 bytes": (
        {"kty": "OKP", "crv": "Ed25519", "x": "AAAAAAA", "kid": "k"},
        "x has 5 bytes",
    ),
    "Ed25519 of small order": (
        {"kty": "OKP", "crv": "Ed25519", "x": "AQ" + "A" * 41, "kid": "k"},
        "small order",
    ),
    "an unknown curve": (jwk(EC_KEY, "k") | {"crv": "P-999"}, "crv 'P-999' is not supported"),
    "for encryption": (jwk(RSA_KEY, "k", use="enc"), "use is 'enc'"),
    "key_ops without verify": (
        jwk(RSA_KEY, "k", key_ops=["encrypt"]),
        "key_ops does not include verify",
    ),
    "key_ops of derivation": (
        jwk(EC_KEY, "k", key_ops=["deriveKey"]),
        "key_ops does not include verify",
    ),
    "alg that does not fit": (jwk(RSA_KEY, "k", alg="ES256"), "alg 'ES256' does not fit"),
    "alg of encryption": (jwk(RSA_KEY, "k", alg="RSA-OAEP-256"), "does not fit"),
    "a kid that is a number": (jwk(RSA_KEY, None) | {"kid": 1}, "kid is no text"),
    "an unknown kty": (
        {"kty": "AKP", "kid": "k", "alg": "ML-DSA-44", "pub": "AA"},
        "kty 'AKP' is not supported",
    ),
}


class TestUnusableKeys:
    """Keys that are too weak, for something else or no keys at all, when an operator trusts them
    and at use."""

    def test_a_file_of_nothing_else_is_not_trusted(self, runtime: Runtime, tmp_path: Path) -> None:
        for key, reason in UNUSABLE.values():
            with pytest.raises(
                Exception, match=f"no key of the JWK set can verify tokens: key 1.*{reason}"
            ) as error:
                trust(runtime, tmp_path, issuer="https://weak.example", keys=[key])
            assert getattr(error.value, "exit_code", 0) == 2
        assert "weak.example" not in runtime.operate("issuer", "list")

    def test_each_reason_is_printed(self, runtime: Runtime, tmp_path: Path) -> None:
        with pytest.raises(Exception, match="JWK set") as error:
            trust(runtime, tmp_path, keys=[key for key, _ in UNUSABLE.values()])
        lines = str(error.value)

        assert [
            number for number in range(1, len(UNUSABLE) + 1) if f"key {number}" not in lines
        ] == []
        assert [reason for _, reason in UNUSABLE.values() if reason not in lines] == []

    def test_beside_a_usable_key_they_are_reported_and_not_used(
        self,
        runtime: Runtime,
        acme: CallerClient,
        tmp_path: Path,
        capsys: pytest.CaptureFixture[str],
    ) -> None:
        trust(runtime, tmp_path, keys=[*(key for key, _ in UNUSABLE.values()), jwk(ED_KEY, "good")])
        lines = [
            line
            for line in capsys.readouterr().err.splitlines()
            if line.startswith("warning: not used: key ")
        ]

        assert [
            reason
            for (_, reason), line in zip(UNUSABLE.values(), lines, strict=True)
            if reason not in line
        ] == []
        assert "1 from a file" in runtime.operate("issuer", "list")
        assert taken(acme, token(ED_KEY, "EdDSA", "good"))
        assert not any(taken(acme, sent) for kid in ("k", "1") for sent in signed_with(kid))

    def test_in_a_set_that_is_fetched_they_are_logged_once_and_not_used(
        self,
        runtime: Runtime,
        acme: CallerClient,
        provider: Provider,
        caplog: pytest.LogCaptureFixture,
    ) -> None:
        provider.keys = [
            *(key for key, _ in UNUSABLE.values()),
            {"kty": "oct", "k": "AAAA"},
            jwk(ED_KEY, "good"),
        ]
        runtime.operate("issuer", "trust", provider.url, "--env", "test", "--audience", "penstock")

        assert not any(
            taken(acme, sent) for kid in ("k", "1") for sent in signed_with(kid, iss=provider.url)
        )
        assert taken(acme, token(ED_KEY, "EdDSA", "good", iss=provider.url))
        logged = [
            record.getMessage()
            for record in caplog.records
            if record.name == "penstock_jwt.outside"
        ]
        assert {line.partition(": key")[0] for line in logged} == {
            f"not used of the keys of {provider.url}"
        }
        reasons = [*(reason for _, reason in UNUSABLE.values()), "private or symmetric"]
        assert [
            reason for reason, line in zip(reasons, logged, strict=True) if reason not in line
        ] == []

    def test_a_set_of_nothing_else_ends_the_keys_before(
        self, provider: Provider, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        sets, trusted = KeySets(), TrustedIssuer(provider.url, "penstock")
        assert has_key(sets, trusted)
        provider.keys = [jwk(WEAK, "r1")]
        later = time.monotonic() + outside.REFRESH_AFTER_S
        monkeypatch.setattr(time, "monotonic", lambda: later)
        has_key(sets, trusted)
        fetches_end()

        assert not has_key(sets, trusted)

    @pytest.mark.parametrize(
        "private",
        [
            RSAAlgorithm.to_jwk(RSA_KEY, as_dict=True) | {"kid": "p"},
            {"kty": "oct", "k": "AAAA", "kid": "s"},
        ],
    )
    def test_a_file_with_a_private_key_is_not_trusted_at_all(
        self, runtime: Runtime, tmp_path: Path, private: dict[str, Any]
    ) -> None:
        with pytest.raises(
            Exception, match="private or symmetric; give public keys alone: key 2"
        ) as error:
            trust(runtime, tmp_path, keys=[jwk(ED_KEY, "good"), private])
        assert str(private.get("d", "AAAA")) not in str(error.value)

    def test_a_key_that_was_trusted_by_an_earlier_release_is_judged_at_use(
        self, caplog: pytest.LogCaptureFixture
    ) -> None:
        sets = KeySets()
        trusted = TrustedIssuer(ISSUER, "penstock", keys=(jwk(WEAK, "w"), jwk(ED_KEY, "good")))

        assert (
            has_key(sets, trusted, "good"),
            has_key(sets, trusted, "w"),
            has_key(sets, trusted, "other"),
        ) == (True, False, False)
        with pytest.raises(
            CredentialRejected, match=r"its issuer's key 1 .kid 'w'.: an RSA key of 1024 bits"
        ):
            sets.named(trusted, "w")
        assert (
            len([record for record in caplog.records if record.name == "penstock_jwt.outside"]) == 1
        )


def signed_with(kid: str, **claims: Any) -> list[str]:
    """Return tokens that somebody could have signed with keys that must not be used."""
    return [
        token(RSA_KEY, "RS256", kid, **claims),
        weakly_signed(kid, **claims),
        token(RSA_KEY, "PS256", kid, **claims),
        token(EC_KEY, "ES256", kid, **claims),
        *(forged_of_small_order(kid, **claims) for _ in range(20)),
    ]


def weakly_signed(kid: str, **claims: Any) -> str:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", jwt.InsecureKeyLengthWarning)
        return token(WEAK, "RS256", kid, **claims)


def forged_of_small_order(kid: str, **claims: Any) -> str:
    """Return a token without a real signature, such as a key of small order verifies about every
    eighth of."""
    text = token(ED_KEY, "EdDSA", kid, jti=secrets.token_hex(4), **claims).rpartition(".")[0]
    return (
        f"{text}."
        f"{base64.urlsafe_b64encode((1).to_bytes(32, 'little') + bytes(32)).decode().rstrip('=')}"
    )


class TestKids:
    """The rule: the keys with the token's `kid`; for a token without one the keys without one,
    or the only key."""

    def test_keys_without_a_kid_are_distinguished_by_what_they_sign(
        self, runtime: Runtime, acme: CallerClient, tmp_path: Path
    ) -> None:
        trust(
            runtime,
            tmp_path,
            keys=[jwk(RSA_KEY, None), jwk(EC_KEY, None), jwk(OTHER_RSA, None), jwk(ED_KEY, "d1")],
        )

        for sent in (
            token(kid=None),
            token(EC_KEY, "ES256", None),
            token(OTHER_RSA, kid=None),
            token(ED_KEY, "EdDSA", "d1"),
        ):
            assert taken(acme, sent)
        assert not taken(acme, token(ED_KEY, "EdDSA", None))
        assert not taken(acme, token(kid="r1"))
        assert not taken(acme, token(rsa.generate_private_key(65537, 2048), kid=None))

    def test_keys_that_share_a_kid_are_tried(
        self, runtime: Runtime, acme: CallerClient, tmp_path: Path
    ) -> None:
        trust(runtime, tmp_path, keys=[jwk(key, "same") for key in (RSA_KEY, EC_KEY, OTHER_RSA)])

        for sent in (
            token(kid="same"),
            token(EC_KEY, "ES256", "same"),
            token(OTHER_RSA, kid="same"),
            token(OTHER_RSA, "PS256", "same"),
        ):
            assert taken(acme, sent)
        assert not taken(acme, token(ED_KEY, "EdDSA", "same"))
        assert not taken(acme, weakly_signed("same"))

    def test_a_token_is_tried_with_four_keys_at_most(
        self, runtime: Runtime, acme: CallerClient, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        private = [ed25519.Ed25519PrivateKey.generate() for _ in range(7)]
        trust(runtime, tmp_path, keys=[jwk(key, "same") for key in private])
        tried: list[object] = []
        real = jwt.decode

        def decode(sent: str, key: Any = None, **more: Any) -> Any:
            tried.extend([key] if key is not None else [])
            return real(sent, key, **more)

        monkeypatch.setattr(jwt, "decode", decode)

        assert [taken(acme, token(key, "EdDSA", "same")) for key in private] == [True] * 4 + [
            False
        ] * 3
        tried.clear()
        assert not taken(acme, token(ED_KEY, "EdDSA", "same"))
        assert len(tried) == 4

    def test_a_kid_that_is_a_number_is_found_by_no_text(
        self, runtime: Runtime, acme: CallerClient, provider: Provider
    ) -> None:
        provider.keys = [jwk(RSA_KEY, None) | {"kid": 1}, jwk(EC_KEY, "e1")]
        runtime.operate("issuer", "trust", provider.url, "--env", "test", "--audience", "penstock")

        assert [taken(acme, token(kid=kid, iss=provider.url)) for kid in ("1", None)] == [
            False,
            False,
        ]
        assert taken(acme, token(EC_KEY, "ES256", "e1", iss=provider.url))


def respelled(sent: str, part: int, change: Callable[[bytes], bytes]) -> str:
    """Return a token signed anew whose header or claims are written in another way."""
    segments = sent.split(".")
    raw = change(base64.urlsafe_b64decode(segments[part] + "=="))
    segments[part] = base64.urlsafe_b64encode(raw).decode().rstrip("=")
    text = ".".join(segments[:2])
    return f"{text}.{base64.urlsafe_b64encode(ED_KEY.sign(text.encode())).decode().rstrip('=')}"


SPELLINGS: dict[str, Callable[[bytes], bytes]] = {
    **{
        encoding: lambda raw, encoding=encoding: raw.decode().encode(encoding)  # type: ignore[misc]  # mypy knows no defaults of lambdas
        for encoding in ("utf-16", "utf-16-le", "utf-16-be", "utf-32")
    },
    "utf-8 with a byte order mark": lambda raw: b"\xef\xbb\xbf" + raw,
    "latin-1": lambda raw: raw[:-1] + b', "x": "\xe9"}',
    "a name twice": lambda raw: raw[:-1] + b', "kid": "d1", "kid": "d1"}',
    "a name twice further in": lambda raw: raw[:-1] + b', "x": [{"a": 1, "a": 1}]}',
    "a constant that is no JSON": lambda raw: raw[:-1] + b', "x": NaN}',
    "a list": lambda raw: b"[" + raw + b"]",
    "more after it": lambda raw: raw + b"x",
}


@pytest.mark.parametrize("part", [0, 1])
def test_header_and_claims_are_strictly_json_in_utf_8(acme: CallerClient, part: int) -> None:
    good = token(ED_KEY, "EdDSA", "d1")

    assert taken(acme, respelled(good, part, lambda raw: raw.replace(b",", b" , ") + b"\n"))
    assert [
        spelling
        for spelling, change in SPELLINGS.items()
        if taken(acme, respelled(good, part, change))
    ] == []


def test_a_kid_is_the_very_text(acme: CallerClient) -> None:
    kids = (b"1", b"null", b"true", b'["d1"]', b'""', b'"D1"', b'"d1 "')

    sent = [respelled(token(ED_KEY, "EdDSA", "d1"), 0, kid_as(kid)) for kid in kids]
    assert [text for text in sent if taken(acme, text)] == []


def kid_as(text: bytes) -> Callable[[bytes], bytes]:
    return lambda raw: raw.replace(b'"d1"', text)


def test_scopes_are_separated_by_the_space_alone(acme: CallerClient) -> None:
    held = ["orders:read", "x orders:read", "x  orders:read ", ["x", "orders:read"]]
    lacking = [
        *(f"x{space}orders:read" for space in ("\u00a0", "\t", "\n", "\u2003", "\x1f", "\u3000")),
        *("orders:read\u00a0", ["x orders:read"], ["x\u00a0orders:read"]),
    ]

    assert [scope for scope in held if get(acme, token(scope=scope)).status_code != 200] == []
    answers = [get(acme, token(scope=scope)) for scope in lacking]
    assert {(answered.status_code, (answered.json or {}).get("type")) for answered in answers} == {
        (403, "insufficient-scope")
    }


class Provider:
    """An identity provider's documents on a real server of this process; counts who asks."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.keys: list[Any] = [jwk(RSA_KEY, "r1")]
        self.replies: dict[str, tuple[int, dict[str, str], bytes]] = {}
        self.hold = threading.Event()
        self.hold.set()
        provider = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                provider.asked.append(self.path)
                provider.hold.wait(10)
                status, headers, body = provider.replies.get(self.path) or provider.usual(self.path)
                self.send_response(status)
                for name, value in headers.items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: object) -> None: ...

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def usual(self, path: str) -> tuple[int, dict[str, str], bytes]:
        if path == "/jwks":
            return 200, {}, json.dumps({"keys": self.keys}).encode()
        if path == "/.well-known/openid-configuration":
            return (
                200,
                {},
                json.dumps({"issuer": self.url, "jwks_uri": f"{self.url}/jwks"}).encode(),
            )
        return 404, {}, b""

    def end(self) -> None:
        self._server.shutdown()
        self._server.server_close()


@pytest.fixture
def provider() -> Iterator[Provider]:
    created = Provider()
    yield created
    created.end()


def has_key(sets: KeySets, trusted: TrustedIssuer, kid: str | None = "r1") -> bool:
    try:
        sets.named(trusted, kid)
    except CredentialRejected:
        return False
    return True


def fetches_end() -> None:
    for thread in threading.enumerate():
        if thread.name == "penstock-jwks":
            thread.join(20)
            assert not thread.is_alive()


@contextmanager
def raw_provider(parts: Iterable[bytes], context: ssl.SSLContext | None = None) -> Iterator[str]:
    """Serve these bytes, a part now and then, to every client; return the URL."""
    ended = threading.Event()

    def answer(connection: socket.socket) -> None:
        with suppress(OSError):
            plain = (
                connection if context is None else context.wrap_socket(connection, server_side=True)
            )
            with plain:
                plain.recv(9999)
                for part in parts:
                    plain.sendall(part)
                    if ended.wait(0.02):
                        break

    def serve() -> None:
        with suppress(OSError):
            while True:
                threading.Thread(target=answer, args=(listening.accept()[0],), daemon=True).start()

    with socket.create_server(("127.0.0.1", 0)) as listening:
        threading.Thread(target=serve, daemon=True).start()
        yield f"{'http' if context is None else 'https'}://127.0.0.1:{listening.getsockname()[1]}"
        ended.set()
        listening.shutdown(socket.SHUT_RDWR)


def certified(folder: Path, monkeypatch: pytest.MonkeyPatch) -> ssl.SSLContext:
    """Return a server's context with a certificate that this process trusts from now on."""
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "provider")])
    now = datetime.now(UTC)
    created = x509.CertificateBuilder(
        name, name, EC_KEY.public_key(), 1, now - timedelta(days=1), now + timedelta(days=1)
    )
    created = created.add_extension(
        x509.SubjectAlternativeName([x509.IPAddress(IPv4Address("127.0.0.1"))]), critical=False
    )
    created = created.add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
    pem = created.sign(EC_KEY, SHA256()).public_bytes(serialization.Encoding.PEM)
    private = EC_KEY.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    (folder / "provider.pem").write_bytes(pem + private)
    monkeypatch.setenv("SSL_CERT_FILE", str(folder / "provider.pem"))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(folder / "provider.pem")
    return context


class TestFetching:
    def test_keys_are_found_by_discovery_and_fetched_once(self, provider: Provider) -> None:
        sets, trusted = KeySets(), TrustedIssuer(provider.url, "penstock")

        assert [has_key(sets, trusted) for _ in range(50)] == [True] * 50
        assert provider.asked == ["/.well-known/openid-configuration", "/jwks"]

    def test_unknown_kids_cause_no_storm(self, provider: Provider) -> None:
        sets, trusted = (
            KeySets(),
            TrustedIssuer(provider.url, "penstock", jwks_url=f"{provider.url}/jwks"),
        )

        assert not any(has_key(sets, trusted, f"kid{number}") for number in range(200))
        assert provider.asked == ["/jwks"]
        assert has_key(sets, trusted)

    def test_a_new_key_is_found_at_its_first_token(
        self, provider: Provider, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        sets, trusted = (
            KeySets(),
            TrustedIssuer(provider.url, "penstock", jwks_url=f"{provider.url}/jwks"),
        )
        assert has_key(sets, trusted)
        provider.keys = [jwk(OTHER_RSA, "r2")]
        assert not has_key(sets, trusted, "r2")
        later = time.monotonic() + outside.RETRY_AFTER_S
        monkeypatch.setattr(time, "monotonic", lambda: later)

        assert has_key(sets, trusted, "r2")
        assert not has_key(sets, trusted, "r1")
        assert provider.asked == ["/jwks"] * 2

    def test_many_calls_at_once_share_one_fetch(self, provider: Provider) -> None:
        sets, trusted = (
            KeySets(),
            TrustedIssuer(provider.url, "penstock", jwks_url=f"{provider.url}/jwks"),
        )
        provider.hold.clear()
        results: list[bool] = []
        threads = [
            threading.Thread(target=lambda: results.append(has_key(sets, trusted)))
            for _ in range(16)
        ]
        for thread in threads:
            thread.start()
        while not provider.asked:
            time.sleep(0.01)
        provider.hold.set()
        for thread in threads:
            thread.join()

        assert (results, provider.asked) == ([True] * 16, ["/jwks"])

    def test_a_set_is_refreshed_beside_the_calls(
        self, provider: Provider, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        sets, trusted = (
            KeySets(),
            TrustedIssuer(provider.url, "penstock", jwks_url=f"{provider.url}/jwks"),
        )
        assert has_key(sets, trusted)
        provider.keys = [jwk(RSA_KEY, "r1"), jwk(OTHER_RSA, "r2")]
        provider.hold.clear()
        later = time.monotonic() + outside.REFRESH_AFTER_S
        monkeypatch.setattr(time, "monotonic", lambda: later)

        assert [has_key(sets, trusted) for _ in range(20)] == [True] * 20
        provider.hold.set()
        for thread in threading.enumerate():
            if thread.name == "penstock-jwks":
                thread.join()
        assert has_key(sets, trusted, "r2")
        assert provider.asked == ["/jwks"] * 2

    def test_while_it_is_away_its_keys_continue_for_a_day(
        self, provider: Provider, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        sets, trusted = (
            KeySets(),
            TrustedIssuer(provider.url, "penstock", jwks_url=f"{provider.url}/jwks"),
        )
        assert has_key(sets, trusted)
        provider.replies["/jwks"] = (500, {}, b"")
        now = time.monotonic()

        monkeypatch.setattr(time, "monotonic", lambda: now + outside.MAX_AGE_S - 1)
        assert has_key(sets, trusted)
        monkeypatch.setattr(
            time, "monotonic", lambda: now + outside.MAX_AGE_S + outside.RETRY_AFTER_S
        )
        assert not has_key(sets, trusted)

    @pytest.mark.parametrize(
        "reply",
        [
            (302, {"Location": "/elsewhere"}, b""),
            (307, {"Location": "http://127.0.0.1:1/jwks"}, b""),
            (200, {}, b"{" * 10),
            (200, {}, b"[" * 100_000),
            (200, {}, json.dumps({"keys": KEYS}).encode() + b" " * outside.MAX_DOCUMENT_BYTES),
            (404, {}, b"{}"),
            (200, {}, b'{"keys": 5}'),
        ],
    )
    def test_odd_replies_give_no_keys(
        self, provider: Provider, reply: tuple[int, dict[str, str], bytes]
    ) -> None:
        provider.replies["/jwks"] = reply

        assert not has_key(
            KeySets(), TrustedIssuer(provider.url, "penstock", jwks_url=f"{provider.url}/jwks")
        )
        assert provider.asked == ["/jwks"]

    def test_a_token_is_held_against_the_keys_anew_after_a_while(
        self, runtime: Runtime, provider: Provider, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        runtime.operate(
            "issuer",
            "trust",
            provider.url,
            "--env",
            "test",
            "--audience",
            "penstock",
            "--jwks-url",
            f"{provider.url}/jwks",
        )
        tokens, now, caller = Tokens("penstock"), time.time(), Caller("acme", 1, "key_1")
        first, other = (
            token(key, kid=kid, iss=provider.url, exp=int(now) + 3000)
            for key, kid in ((RSA_KEY, "r1"), (OTHER_RSA, "r2"))
        )

        def passes(sent: str, moment: float) -> bool:
            try:
                return tokens.verify(sent, runtime.access, caller, moment).subject == "ann"
            except CredentialRejected:
                return False

        assert passes(first, now)
        provider.keys = [jwk(OTHER_RSA, "r2")]
        later = time.monotonic() + outside.RETRY_AFTER_S
        monkeypatch.setattr(time, "monotonic", lambda: later)
        assert passes(other, now)

        assert [passes(first, now + seconds) for seconds in (REVERIFY_S - 1, REVERIFY_S)] == [
            True,
            False,
        ]

    def test_no_call_waits_longer_than_its_patience(self, monkeypatch: pytest.MonkeyPatch) -> None:
        asked: list[str] = []
        proceed = threading.Event()

        def fetch(url: str) -> object:
            asked.append(url)
            proceed.wait(20)
            return {"keys": KEYS}

        sets, trusted = KeySets(fetch), TrustedIssuer(ISSUER, "penstock", jwks_url=f"{ISSUER}/jwks")
        monkeypatch.setattr(outside, "FETCH_TIMEOUT_S", 0.2)
        with ThreadPoolExecutor(4) as pool:
            answers = list(pool.map(lambda _: has_key(sets, trusted), range(8)))
        proceed.set()
        fetches_end()

        assert (answers, asked, has_key(sets, trusted)) == ([False] * 8, [f"{ISSUER}/jwks"], True)

    @pytest.mark.parametrize("tls", [False, True])
    @pytest.mark.parametrize(
        "begin",
        [
            b"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n",
            b"HTTP/1.1 200 OK\r\n",
            b"",
            b"HTTP/1.1 200 OK\r\nX: ",
        ],
    )
    def test_a_provider_that_sends_a_little_now_and_then_is_left(
        self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, begin: bytes, tls: bool
    ) -> None:
        monkeypatch.setattr(outside, "FETCH_TIMEOUT_S", 0.2)
        context = certified(tmp_path, monkeypatch) if tls else None
        with raw_provider(itertools.chain([begin], itertools.repeat(b" ")), context) as url:
            assert not has_key(KeySets(), TrustedIssuer(url, "penstock", jwks_url=f"{url}/jwks"))
            fetches_end()  # while the provider still sends

    def test_keys_come_over_tls_where_the_certificate_is_trusted(
        self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        body = json.dumps({"keys": KEYS}).encode()
        context = certified(tmp_path, monkeypatch)
        with raw_provider(
            [b"HTTP/1.0 200 OK\r\nContent-Length: %d\r\n\r\n" % len(body), body], context
        ) as url:
            assert has_key(KeySets(), TrustedIssuer(url, "penstock", jwks_url=f"{url}/jwks"))
            monkeypatch.delenv("SSL_CERT_FILE")
            assert not has_key(KeySets(), TrustedIssuer(url, "penstock", jwks_url=f"{url}/jwks"))

    @pytest.mark.parametrize(
        "reply",
        [
            b"garbage\r\n\r\n",
            b"",
            b"HTTP/1.1 200 OK\r\nX: " + b"a" * 70_000 + b"\r\n\r\n{}",
            b"HTTP/1.1 200 OK\r\n" + b"X: y\r\n" * 200 + b"\r\n{}",
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
            b"HTTP/1.1 200 OK\r\nContent-Length: 50\r\n\r\n{}",
        ],
    )
    def test_what_is_no_http_gives_no_keys(
        self, runtime: Runtime, acme: CallerClient, reply: bytes
    ) -> None:
        with raw_provider([reply]) as url:
            runtime.operate(
                "issuer",
                "trust",
                url,
                "--env",
                "test",
                "--audience",
                "penstock",
                "--jwks-url",
                f"{url}/jwks",
            )

            assert not taken(acme, token(iss=url))

    def test_a_configuration_of_another_issuer_is_not_believed(self, provider: Provider) -> None:
        other = json.dumps(
            {"issuer": "https://evil.example", "jwks_uri": f"{provider.url}/jwks"}
        ).encode()
        provider.replies["/.well-known/openid-configuration"] = (200, {}, other)

        assert not has_key(KeySets(), TrustedIssuer(provider.url, "penstock"))
        assert provider.asked == ["/.well-known/openid-configuration"]

    @pytest.mark.parametrize(
        "url", ["http://id.example/jwks", "file:///etc/passwd", "ftp://127.0.0.1/jwks"]
    )
    def test_a_configuration_can_lead_nowhere_but_https(self, provider: Provider, url: str) -> None:
        provider.replies["/.well-known/openid-configuration"] = (
            200,
            {},
            json.dumps({"issuer": provider.url, "jwks_uri": url}).encode(),
        )

        assert not has_key(KeySets(), TrustedIssuer(provider.url, "penstock"))

    def test_a_token_without_kid_fits_one_key_alone(self, provider: Provider) -> None:
        provider.keys = [jwk(RSA_KEY, None)]
        assert has_key(KeySets(), TrustedIssuer(provider.url, "penstock"), None)
        provider.keys = KEYS
        assert not has_key(KeySets(), TrustedIssuer(provider.url, "penstock"), None)
