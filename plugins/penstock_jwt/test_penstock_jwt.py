"""Tokens at the gate, in login flows and in the key set: what RFC 8725 warns of, and what the
access rules promise."""

from __future__ import annotations

import base64
import hmac
import json
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import permutations
from typing import Any, NamedTuple

import jwt
import pytest
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519

from penstock import (
    Call,
    Caller,
    CredentialRejected,
    HttpTrigger,
    Pipeline,
    PipelineError,
    SigningKey,
    Token,
    TokenNotIssued,
    hookimpl,
)
from penstock.testing import Runtime
from penstock_jwt import tokens
from penstock_jwt.issuing import Issuer
from penstock_jwt.tokens import Tokens

Start = Callable[..., Runtime]
ALGORITHMS = ("EdDSA", "ES256", "RS256", "HS256")
PUBLISHED = ("EdDSA", "ES256", "RS256")
REGISTERED = ("iss", "aud", "sub", "client_id", "iat", "nbf", "exp", "jti", "scope")
ABSENT = object()
LIMIT = 3600
LEEWAY = 30


class Desk:
    """A plugin with one guarded pipeline and four that ask for the tokens a test wants."""

    def __init__(self) -> None:
        self.expected: dict[str, Any] = {"subject": "ann"}

    @hookimpl
    def penstock_pipelines(self) -> list[Pipeline]:
        guarded = Pipeline("guarded", version="1.0.0", trigger=HttpTrigger(api_key=True, jwt=True))

        @guarded.get("/")
        def show(call: Call) -> dict[str, object]:
            caller = call.caller
            return {
                "consumer": caller.consumer,
                "subject": caller.subject,
                "scopes": sorted(caller.scopes),
                "claims": caller.claims,
            }

        return [
            guarded,
            self._asking("login", HttpTrigger(api_key=True, login=True)),
            self._asking("undesignated", HttpTrigger(api_key=True, jwt=True, login=True)),
            self._asking("pretender", HttpTrigger(api_key=True, jwt=True)),
            self._asking("keyless", HttpTrigger(login=True)),
        ]

    def _asking(self, name: str, trigger: HttpTrigger) -> Pipeline:
        pipeline = Pipeline(name, version="1.0.0", trigger=trigger)

        @pipeline.post("/")
        def ask(call: Call) -> Token:
            try:
                return call.issue_token(**self.expected)
            except TokenNotIssued as error:
                raise PipelineError(400, "Not issued", str(error)) from error

        return pipeline


class Answer(NamedTuple):
    """What a caller gets to see, but for the run's id."""

    status: int
    body: dict[str, Any]
    headers: dict[str, str]


def b64(raw: bytes) -> str:
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()


def packed(part: object) -> str:
    """Return a header or claims as a segment of a token; bytes are taken as they are, so that
    they need not be JSON."""
    if isinstance(part, dict):
        part = {name: value for name, value in part.items() if value is not ABSENT}
    return b64(part if isinstance(part, bytes) else json.dumps(part).encode())


def signed(key: SigningKey, claims: object, header: object = None, *, algorithm: str = "") -> str:
    """Sign with the real key what no honest library would."""
    kind = jwt.get_algorithm_by_name(algorithm or key.algorithm)
    text = f"{packed(proper(key) if header is None else header)}.{packed(claims)}"
    return f"{text}.{b64(kind.sign(text.encode(), kind.prepare_key(key.private)))}"


def proper(key: SigningKey, **changes: object) -> dict[str, object]:
    return {"alg": key.algorithm, "typ": "at+jwt", "kid": key.kid, **changes}


def macked(secret: bytes, header: object, claims: object, digest: str = "sha256") -> str:
    text = f"{packed(header)}.{packed(claims)}"
    return f"{text}.{b64(hmac.new(secret, text.encode(), digest).digest())}"


def read(token: str, part: int = 1) -> dict[str, Any]:
    segment = token.split(".")[part]
    matches: dict[str, Any] = json.loads(
        base64.urlsafe_b64decode(segment + "=" * (-len(segment) % 4))
    )
    return matches


@dataclass
class World:
    """A runtime with a key of each algorithm, and a consumer's API key."""

    runtime: Runtime
    desk: Desk
    api_key: str = field(repr=False)

    @property
    def keys(self) -> Mapping[str, SigningKey]:
        return {key.algorithm: key for key in self.runtime.access.signing_keys().values()}

    @property
    def signer(self) -> SigningKey:
        return next(iter(self.runtime.access.signing_keys().values()))

    def claims(self, **changes: Any) -> dict[str, Any]:
        """Make claims that hold; say only what is wrong, times as seconds from now."""
        now = int(time.time())
        changes = {
            name: now + change.seconds if isinstance(change, FromNow) else change
            for name, change in changes.items()
        }
        right = {
            "iss": "penstock",
            "aud": "test",
            "sub": "ann",
            "client_id": "acme",
            "iat": now,
            "nbf": now,
            "exp": now + 600,
        }
        return {**right, "jti": f"jti-{time.monotonic_ns()}", "scope": "read", **changes}

    def token(self, key: SigningKey | None = None, /, **changes: Any) -> str:
        return signed(key or self.signer, self.claims(**changes))

    def knock(self, authorization: str, api_key: str = "") -> Answer:
        headers = {"Authorization": authorization, "X-API-Key": api_key or self.api_key}
        answered = self.runtime.anonymous().get("/v1/guarded/", headers=headers)
        seen = {name: value for name, value in answered.headers.items() if name != "X-Run-Id"}
        return Answer(
            answered.status_code,
            {name: value for name, value in (answered.json or {}).items() if name != "run"},
            seen,
        )

    def take(self, token: str, api_key: str = "") -> int:
        return self.knock(f"Bearer {token}", api_key).status


class FromNow(NamedTuple):
    """A moment, relative to the one in which the claims are made."""

    seconds: float


def make_key(runtime: Runtime, consumer: str) -> str:
    runtime.client(consumer, key=False, token=False)
    key: str = json.loads(
        runtime.operate("key", "create", consumer, "--env", "test", "--format", "json")
    )["key"]
    return key


def rotate(runtime: Runtime, algorithm: str) -> SigningKey:
    runtime.operate("signing-key", "rotate", "--env", "test", "--algorithm", algorithm)
    return next(iter(runtime.access.signing_keys().values()))


def opened(runtime: Runtime, desk: Desk) -> World:
    for name in ("login", "pretender"):
        runtime.designate(name)
    return World(runtime, desk, make_key(runtime, "acme"))


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """A world that all tests share, so none may change it; the EdDSA key signs, the others still
    verify."""
    desk = Desk()
    with Runtime(tmp_path_factory.mktemp("jwt"), desk) as runtime:
        for algorithm in ("ES256", "RS256", "HS256", "EdDSA"):
            rotate(runtime, algorithm)
        yield opened(runtime, desk)


@pytest.fixture
def fresh(penstock_runtime: Start) -> World:
    """A world that a test may change."""
    desk = Desk()
    return opened(penstock_runtime(desk), desk)


@pytest.fixture
def later(monkeypatch: pytest.MonkeyPatch) -> Callable[[float], None]:
    """Move the clock."""
    real = time.time
    return lambda seconds: monkeypatch.setattr(time, "time", lambda: real() + seconds)


Attack = Callable[[World], str]


def claiming(**claims: object) -> Attack:
    """Return an attack by the holder of the real key: only claims can be wrong."""
    return lambda world: world.token(**claims)


def heading(**header: object) -> Attack:
    return lambda world: signed(world.signer, world.claims(), proper(world.signer, **header))


def saying(payload: object) -> Attack:
    return lambda world: signed(world.signer, payload)


def saying_just(text: str) -> Attack:
    return lambda _: text


def twice(part: dict[str, Any], **again: object) -> bytes:
    """Return JSON in which a name comes a second time; RFC 7519 section 4 lets the last one
    count."""
    return (json.dumps(part)[:-1] + ", " + json.dumps(again)[1:]).encode()


def written_as(encoding: str, part: int) -> Attack:
    """Return a token whose header or claims are signed in another encoding; `json.loads` would
    know them."""

    def attack(world: World) -> str:
        parts_value = [proper(world.signer), world.claims()]
        return signed(
            world.signer,
            *reversed(
                [
                    json.dumps(item).encode(encoding) if part == index else item
                    for index, item in enumerate(parts_value)
                ]
            ),
        )

    return attack


def padded(part: int, padding: str) -> Attack:
    """Return a token of which one segment has padding: the same octets, spelled in another way."""

    def attack(world: World) -> str:
        segments = world.token().split(".")
        segments[part] += padding
        return ".".join(segments)

    return attack


def with_stray_bits(world: World) -> str:
    """Return a token whose signature ends in a character with bits that mean nothing."""
    alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
    token = world.token()
    return token[:-1] + alphabet[alphabet.index(token[-1]) | 1]


def unsigned(algorithm: str, signature: str = "") -> Attack:
    return lambda world: (
        f"{packed(proper(world.signer, alg=algorithm))}.{packed(world.claims())}.{signature}"
    )


def reworked(change: Callable[[str, str, str], str]) -> Attack:
    return lambda world: change(*world.token().split("."))


def flipped(segment: str, at: int) -> str:
    return segment[:at] + ("A" if segment[at] != "A" else "B") + segment[at + 1 :]


def confused(algorithm: str, material: Callable[[SigningKey], bytes]) -> Attack:
    """Return a MAC made with what everybody may know of an asymmetric key."""
    return lambda world: macked(
        material(world.keys[algorithm]), proper(world.keys[algorithm], alg="HS256"), world.claims()
    )


def der(key: SigningKey) -> bytes:
    public = serialization.load_pem_public_key(key.public)
    return public.public_bytes(
        serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
    )


def public_jwk(key: SigningKey) -> bytes:
    kind = jwt.get_algorithm_by_name(key.algorithm)
    return json.dumps(kind.to_jwk(kind.prepare_key(key.public), as_dict=True)).encode()


def own_key(**header: object) -> Attack:
    """Return a token whose header brings the key that verifies it, as CVE-2018-0114 had it."""

    def attack(world: World) -> str:
        private = ed25519.Ed25519PrivateKey.generate()
        jwk = {"kty": "OKP", "crv": "Ed25519", "x": b64(private.public_key().public_bytes_raw())}
        brought = {name: jwk if value is Ellipsis else value for name, value in header.items()}
        text = f"{packed(proper(world.signer, **brought))}.{packed(world.claims())}"
        return f"{text}.{b64(private.sign(text.encode()))}"

    return attack


def by_another_key(algorithm: str, *, kid_of: str) -> Attack:
    return lambda world: signed(
        world.keys[algorithm],
        world.claims(),
        proper(world.keys[algorithm], kid=world.keys[kid_of].kid),
    )


def of_another_kind(algorithm: str, used: str) -> Attack:
    """Return a token that is signed in another way than its key is for."""
    return lambda world: signed(
        world.keys[algorithm],
        world.claims(),
        proper(world.keys[algorithm], alg=used),
        algorithm=used,
    )


def kid_as_path(kid: str) -> Attack:
    return lambda world: macked(b"", proper(world.signer, alg="HS256", kid=kid), world.claims())


def detached(world: World) -> str:
    """Make an unencoded, detached payload (RFC 7797)."""
    header = packed(proper(world.signer, b64=False, crit=["b64"]))
    kind = jwt.get_algorithm_by_name(world.signer.algorithm)
    payload = json.dumps(world.claims()).encode()
    key = kind.prepare_key(world.signer.private)
    return f"{header}..{b64(kind.sign(header.encode() + b'.' + payload, key))}"


def psychic(world: World) -> str:
    """Make the ECDSA signature that is all zeros (CVE-2022-21449)."""
    return f"{packed(proper(world.keys['ES256']))}.{packed(world.claims())}.{b64(bytes(64))}"


def in_der_form(world: World) -> str:
    """Make an ECDSA signature that is right, but not in the form of RFC 7518."""
    key = world.keys["ES256"]
    text = f"{packed(proper(key))}.{packed(world.claims())}"
    private = serialization.load_pem_private_key(key.private, None)
    assert isinstance(private, ec.EllipticCurvePrivateKey)
    return f"{text}.{b64(private.sign(text.encode(), ec.ECDSA(hashes.SHA256())))}"


MATERIALS: dict[str, Callable[[SigningKey], bytes]] = {
    "the PEM": lambda key: key.public,
    "the stripped PEM": lambda key: key.public.strip(),
    "the DER": der,
    "the JWK": public_jwk,
    "the kid": lambda key: key.kid.encode(),
    "nothing": lambda _: b"",
}
ALGORITHM_ATTACKS: dict[str, Attack] = {
    **{
        f"alg {name!r}, no signature": unsigned(name)
        for name in ("none", "None", "NONE", "nOnE", "none ", "")
    },
    **{
        f"alg {name!r}, some signature": unsigned(name, b64(b"x" * 64)) for name in ("none", "NONE")
    },
    **{
        f"alg {value!r}": heading(alg=value)
        for value in ("none", None, 1, True, ["EdDSA"], {"EdDSA": 1}, "eddsa", "EdDSA ", "Ed448")
    },
    "no alg": heading(alg=ABSENT),
    **{
        f"HS256 over {what} of {name}": confused(name, material)
        for name in PUBLISHED
        for what, material in MATERIALS.items()
    },
    **{
        f"by the {name} key under the kid of {other}": by_another_key(name, kid_of=other)
        for name, other in permutations(ALGORITHMS, 2)
    },
    "RS512 by the RS256 key": of_another_kind("RS256", "RS512"),
    "PS256 by the RS256 key": of_another_kind("RS256", "PS256"),
    "HS512 by the HS256 key": of_another_kind("HS256", "HS512"),
    "an ECDSA signature of zeros": psychic,
    "an ECDSA signature in DER": in_der_form,
}

KIDS: tuple[object, ...] = (
    None, "", "unknown", "\x00", 0, 1.5, True, [], ["a"], {}, {"kid": "a"}, "../../../../dev/null",
    "__class__", "' UNION SELECT 'secret' --",
    "x' OR '1'='1", "kid; rm -rf /", "k" * 3000,
)  # fmt: skip
EXTRAS: dict[str, dict[str, object]] = {
    "jku": {"jku": "https://evil.example/jwks.json"},
    "x5u": {"x5u": "https://evil.example/cert.pem"},
    "x5c": {"x5c": ["MIIB"]},
    "x5t": {"x5t": "abc"},
    "jwk": {"jwk": {"kty": "OKP"}},
    "crit": {"crit": ["exp"]},
    "an empty crit": {"crit": []},
    "b64": {"b64": False},
    "b64, critical": {"b64": False, "crit": ["b64"]},
    "b64, and it is true": {"b64": True},
    "zip": {"zip": "DEF"},
    "enc": {"enc": "A128GCM"},
}
ENCODINGS = ("utf-16", "utf-16-le", "utf-16-be", "utf-32", "utf-32-le", "utf-32-be", "utf-8-sig")
HEADER_ATTACKS: dict[str, Attack] = {
    "no kid": heading(kid=ABSENT),
    **{f"kid {kid!r:.40}": heading(kid=kid) for kid in KIDS},
    **{
        f"a MAC without a secret under kid {kid!r}": kid_as_path(kid)
        for kid in ("../../../../dev/null", "/dev/null", "")
    },
    **{f"a header with {what}": heading(**extra) for what, extra in EXTRAS.items()},
    "a detached payload": detached,
    "the key in jwk": own_key(jwk=...),
    "the key in jwk and no kid": own_key(jwk=..., kid=ABSENT),
    "the key in jwk under a kid of its own": own_key(jwk=..., kid="mine"),
    "the key behind a jku": own_key(jku="http://127.0.0.1:1/jwks.json"),
    "the key behind an x5u": own_key(x5u="http://127.0.0.1:1/cert.pem"),
    "a key of no environment": own_key(),
    "no typ": heading(typ=ABSENT),
    **{
        f"typ {value!r}": heading(typ=value)
        for value in (
            None,
            "",
            "JWT",
            "jwt",
            "at",
            "at+jwt ",
            "dpop+jwt",
            "id_token",
            ["at+jwt"],
            1,
        )
    },
    "a header that is a list": lambda world: signed(
        world.signer, world.claims(), [proper(world.signer)]
    ),
    "a header that is empty": lambda world: signed(world.signer, world.claims(), b""),
    "a header that is no JSON": lambda world: signed(world.signer, world.claims(), b"{"),
    "a header that is no UTF-8": lambda world: signed(
        world.signer, world.claims(), b'{"alg": "\xff"}'
    ),
    "a header that is nested deep": lambda world: signed(
        world.signer, world.claims(), b'{"a":' + b"[" * 4000
    ),
    "a name twice": lambda world: signed(
        world.signer, world.claims(), twice(proper(world.signer), typ="at+jwt")
    ),
    **{f"a header in {encoding}": written_as(encoding, 0) for encoding in ENCODINGS},
    "alg twice, the last one bad": lambda world: signed(
        world.signer, world.claims(), twice(proper(world.signer), alg="none")
    ),
    "typ twice, the last one bad": lambda world: signed(
        world.signer, world.claims(), twice(proper(world.signer), typ="JWT")
    ),
}

NO_TIMES: tuple[object, ...] = (
    "9999999999",
    "",
    True,
    False,
    None,
    [9999999999],
    {},
    float("nan"),
    float("inf"),
    float("-inf"),
    10.0**300,
)
NO_TEXTS: tuple[object, ...] = (7, 0, True, None, "", ["acme"], {"a": "acme"})
ISSUERS: tuple[object, ...] = (
    "",
    "pen",
    "penstock2",
    "Penstock",
    "https://penstock",
    None,
    1,
    ["penstock"],
    ["penstock", "x"],
    {"penstock": 1},
)
AUDIENCES: tuple[object, ...] = (
    "prod",
    "",
    "TEST",
    "test ",
    "te",
    "https://test",
    None,
    1,
    ["test"],
    ["prod", "test"],
    [],
    {"test": 1},
)
CONSUMERS = ("bolt", "ACME", "acme ", "acme\x00", "unknown", "1")  # 1 is the row of acme
PAYLOADS: dict[str, object] = {
    "a list": [],
    "a text": "ann",
    "a number": 5,
    "null": None,
    "empty": b"",
    "no JSON": b"{",
    "no UTF-8": b'{"sub": "\xff"}',
    "two objects": b"{}{}",
    "objects in objects": b'{"a":' * 1100,
    "lists in lists": b"[" * 4000,
    "a bomb of digits": b'{"exp": ' + b"9" * 5000 + b"}",
}
CLAIM_ATTACKS: dict[str, Attack] = {
    **{f"no {name}": claiming(**{name: ABSENT}) for name in REGISTERED if name != "scope"},
    **{
        f"{name} {value!r}": claiming(**{name: value})
        for name in ("sub", "client_id", "jti")
        for value in NO_TEXTS
    },
    **{
        f"{name} {value!r}": claiming(**{name: value})
        for name in ("exp", "iat", "nbf")
        for value in NO_TIMES
    },
    **{
        f"{name} {value!r}": claiming(**{name: value})
        for name in ("exp", "iat")
        for value in (-1, -(10.0**300))
    },
    **{
        f"scope {value!r}": claiming(scope=value)
        for value in (["read"], 5, True, None, {"read": 1})
    },
    **{f"iss {value!r}": claiming(iss=value) for value in ISSUERS},
    **{f"aud {value!r}": claiming(aud=value) for value in AUDIENCES},
    **{f"client_id {value!r}": claiming(client_id=value) for value in CONSUMERS},
    "expired a moment past the leeway": claiming(
        iat=FromNow(-100), nbf=FromNow(-100), exp=FromNow(-LEEWAY - 1)
    ),
    "expired long ago": claiming(iat=FromNow(-9000), nbf=FromNow(-9000), exp=FromNow(-8000)),
    "not before a moment past the leeway": claiming(nbf=FromNow(LEEWAY + 5)),
    "made a moment past the leeway": claiming(iat=FromNow(LEEWAY + 5)),
    "a second longer than a token may live": claiming(exp=FromNow(LIMIT + 1)),
    "a second longer than a token may live, half of it over": claiming(
        iat=FromNow(-LIMIT // 2), exp=FromNow(LIMIT // 2 + 1)
    ),
    "a life that is short from its start but not from its making": claiming(
        iat=FromNow(-LIMIT), nbf=FromNow(0), exp=FromNow(60)
    ),
    "a name twice": lambda world: signed(world.signer, twice(world.claims(), sub="ann")),
    "a name twice further in": lambda world: signed(
        world.signer, json.dumps(world.claims()).encode()[:-1] + b', "x": {"a": 1, "a": 1}}'
    ),
    "a constant that is no JSON": claiming(x=float("inf")),
    **{f"claims in {encoding}": written_as(encoding, 1) for encoding in ENCODINGS},
    "aud twice, the last one bad": lambda world: signed(
        world.signer, twice(world.claims(), aud="prod")
    ),
    "exp twice, the last one bad": lambda world: signed(world.signer, twice(world.claims(), exp=1)),
    **{f"claims that are {what}": saying(payload) for what, payload in PAYLOADS.items()},
}

GARBAGE = (
    ".",
    "..",
    "...",
    "....",
    "a.b",
    "a.b.c",
    "null",
    "undefined",
    "%00",
    "e30.e30.e30",
    "\xe4\xf6\xfc.\xdf.\xff",
    "." * 100_000,
    "a" * 1_000_000,
)
SHAPE_ATTACKS: dict[str, Attack] = {
    **{f"garbage {text!r:.20}": saying_just(text) for text in GARBAGE},
    "not ASCII at its end": lambda world: world.token() + "\xe9",
    "longer than ours ever are": lambda world: world.token(padding="x" * 7000),
    "no signature": reworked(lambda header, claims, _: f"{header}.{claims}."),
    "no signature and no dot": reworked(lambda header, claims, _: f"{header}.{claims}"),
    "no claims": reworked(lambda header, _, signature: f"{header}..{signature}"),
    "no header": reworked(lambda _, claims, signature: f".{claims}.{signature}"),
    "a signature cut short": reworked(
        lambda header, claims, signature: f"{header}.{claims}.{signature[:-4]}"
    ),
    "a signature flipped at its start": reworked(
        lambda header, claims, signature: f"{header}.{claims}.{flipped(signature, 0)}"
    ),
    "a signature flipped in its middle": reworked(
        lambda header, claims, signature: f"{header}.{claims}.{flipped(signature, 40)}"
    ),
    "a signature with more after it": reworked(
        lambda header, claims, signature: f"{header}.{claims}.{signature}AAAA"
    ),
    "a signature with junk after it": reworked(
        lambda header, claims, signature: f"{header}.{claims}.{signature}!!!!"
    ),
    "a signature of zeros": reworked(
        lambda header, claims, _: f"{header}.{claims}.{b64(bytes(64))}"
    ),
    **{
        f"{['header', 'claims', 'signature'][part]} and {padding}": padded(part, padding)
        for part in range(3)
        for padding in ("=", "==", "===", "%3D")
    },
    "a signature with stray bits": with_stray_bits,
    "four segments": reworked(
        lambda header, claims, signature: f"{header}.{claims}.{signature}.{signature}"
    ),
    "five segments": reworked(
        lambda header, claims, signature: f"{header}.{claims}.{signature}.{claims}.{signature}"
    ),
    "claims flipped": reworked(
        lambda header, claims, signature: f"{header}.{flipped(claims, 20)}.{signature}"
    ),
    "spaces within": reworked(lambda header, claims, signature: f"{header}. {claims}.{signature}"),
    "claims under another token's signature": lambda world: ".".join(
        [*world.token(sub="root").split(".")[:2], world.token().split(".")[2]]
    ),
}
ATTACKS = ALGORITHM_ATTACKS | HEADER_ATTACKS | CLAIM_ATTACKS | SHAPE_ATTACKS


@pytest.fixture(scope="module")
def refusal(world: World) -> Answer:
    """What every bad token gets."""
    return world.knock("Bearer garbage")


def test_a_bad_token_is_a_401_that_says_so_and_no_more(refusal: Answer) -> None:
    status, body, headers = refusal

    assert (status, body["type"], body["status"]) == (401, "invalid-token", 401)
    assert body.keys() == {"type", "title", "status", "detail"}
    assert headers["WWW-Authenticate"] == 'Bearer realm="test", error="invalid_token"'
    assert headers["Content-Type"] == "application/problem+json"
    assert "garbage" not in str(refusal)


def test_the_token_that_all_attacks_start_from_is_good(world: World) -> None:
    answer = world.knock(f"Bearer {world.token()}")

    assert answer.status == 200
    assert {"consumer": "acme", "subject": "ann", "scopes": ["read"]}.items() <= answer.body.items()


@pytest.mark.parametrize("attack", ATTACKS)
def test_every_invalid_token_gets_the_same_answer(
    world: World, refusal: Answer, attack: str
) -> None:
    token = ATTACKS[attack](world)

    answer = world.knock(f"Bearer {token}")

    assert answer == refusal
    assert len(token) < 20 or token not in str(answer)


@pytest.mark.parametrize("claim", ["exp", "iat", "nbf"])
@pytest.mark.parametrize("sign", [1, -1])
def test_a_time_beyond_all_floats_is_an_invalid_token_and_no_failure(
    world: World, refusal: Answer, claim: str, sign: int
) -> None:
    assert world.knock(f"Bearer {world.token(**{claim: sign * 10**400})}") == refusal


@pytest.mark.parametrize(
    "authorization",
    [
        "Bearer", "Bearer ", "Bearer   ", "bearer", "Bearer Bearer", "Bearer Bearer {0}",
        "Bearer bearer {0}", "Bearer {0}, Bearer {0}",
        "Bearer {0},Bearer {1}", "Bearer {0}, Basic YTpi", "Bearer {0} Bearer {1}", "Bearer {0},",
        "Bearer {0} x", "Bearer token={0}", 'Bearer "{0}"',
        "Bearer {0};", "Bearer \xa0{0}\xe9",
    ],
)  # fmt: skip
def test_a_header_that_is_not_one_bearer_token_is_refused(
    world: World, refusal: Answer, authorization: str
) -> None:
    assert world.knock(authorization.format(world.token(), world.token())) == refusal


@pytest.mark.parametrize("authorization", ["Bearer {}", "bearer {}", "BEARER {}", "Bearer  {} "])
def test_the_scheme_is_known_in_any_case_and_with_spaces_around_the_token(
    world: World, authorization: str
) -> None:
    assert world.knock(authorization.format(world.token())).status == 200


@pytest.mark.parametrize("space", ["\t", "\xa0", "\x85", " \xa0", "\t\t", " \t "])
def test_what_separates_scheme_and_token_is_the_space_and_nothing_passes_for_no_token(
    world: World, refusal: Answer, space: str
) -> None:
    answer = world.knock(f"Bearer{space}nonsense")

    assert answer == refusal


@pytest.mark.parametrize(
    "authorization", ["Basic YTpi", "Token {}", "{}", "Negotiate {}", "Bearer,{}"]
)
def test_another_scheme_is_no_token_at_all(world: World, authorization: str) -> None:
    assert world.knock(authorization.format(world.token())).body["type"] == "credentials-missing"


def test_scopes_are_separated_by_the_space_alone(world: World) -> None:
    parts_value = {
        "a b": ["a", "b"],
        " a  b ": ["a", "b"],
        "a\u00a0b": ["a\u00a0b"],
        "a\tb c": ["a\tb", "c"],
        "a\u2003b": ["a\u2003b"],
    }

    assert {
        scope: world.knock(f"Bearer {world.token(scope=scope)}").body["scopes"]
        for scope in parts_value
    } == parts_value


RIGHTS: dict[str, dict[str, Any]] = {
    "expired within the leeway": {
        "iat": FromNow(-100),
        "nbf": FromNow(-100),
        "exp": FromNow(-LEEWAY + 10),
    },
    "not before, within the leeway": {"nbf": FromNow(LEEWAY - 10)},
    "made in the future, within the leeway": {
        "iat": FromNow(LEEWAY - 10),
        "nbf": FromNow(LEEWAY - 10),
    },
    "as long as a token may live": {"exp": FromNow(LIMIT)},
    "times with fractions": {"exp": FromNow(60.5)},
    "no scope": {"scope": ABSENT},
    "an empty scope": {"scope": ""},
    "many claims": {"padding": "x" * 5500},
}


@pytest.mark.parametrize("right", RIGHTS)
def test_what_the_rules_allow_is_accepted(world: World, right: str) -> None:
    assert world.take(world.token(**RIGHTS[right])) == 200


@pytest.mark.parametrize("typ", ["at+jwt", "AT+JWT"])
def test_the_type_is_known_in_any_case(world: World, typ: str) -> None:
    assert world.take(heading(typ=typ)(world)) == 200


@pytest.mark.parametrize(
    ("now", "good"),
    [
        (1000 - LEEWAY - 0.001, False),
        (1000 - LEEWAY, True),
        (1600 + LEEWAY - 0.001, True),
        (1600 + LEEWAY, False),
    ],
)
def test_the_leeway_is_thirty_seconds_on_both_sides_and_not_more(
    world: World, now: float, good: bool
) -> None:
    token = world.token(iat=900, nbf=1000, exp=1600)

    assert verified(world, token, now) == good


def verified(world: World, token: str, now: float, consumer: str = "acme") -> bool:
    try:
        return (
            Tokens("penstock").verify(token, world.runtime.access, Caller(consumer, 1), now).subject
            == "ann"
        )
    except CredentialRejected:
        return False


def test_a_token_is_good_with_a_key_of_its_consumer_alone_also_once_it_is_known(
    world: World, refusal: Answer
) -> None:
    token, bolt = world.token(), make_key(world.runtime, "bolt")

    taken = [world.take(token), world.take(token, make_key(world.runtime, "acme"))]

    assert taken == [200, 200]
    assert world.knock(f"Bearer {token}", bolt) == refusal
    assert world.take(world.token(client_id="bolt"), bolt) == 200


def test_a_token_without_any_consumer_beside_it_proves_nothing(world: World) -> None:
    with pytest.raises(CredentialRejected):
        Tokens("penstock").verify(world.token(), world.runtime.access, Caller(), time.time())


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_each_algorithm_signs_and_verifies(fresh: World, algorithm: str) -> None:
    key = rotate(fresh.runtime, algorithm)

    token = issued(fresh)["access_token"]

    assert read(token, 0) == {"alg": algorithm, "kid": key.kid, "typ": "at+jwt"}
    assert fresh.take(token) == 200
    assert fresh.take(".".join([*token.split(".")[:2], flipped(token.split(".")[2], 5)])) == 401


def issued(world: World, **expected: object) -> dict[str, Any]:
    """Sign in and return the whole reply."""
    world.desk.expected = {"subject": "ann", **expected}
    answered = world.runtime.anonymous().post("/v1/login/", headers={"X-API-Key": world.api_key})
    assert answered.status_code == 200, answered.text
    reply: dict[str, Any] = answered.json or {}
    return reply


def refused_to_issue(world: World, pipeline: str = "login", **expected: object) -> str:
    """Return why no token was made."""
    world.desk.expected = {"subject": "ann", **expected}
    headers = {
        "X-API-Key": world.api_key,
        "Authorization": f"Bearer {world.token(exp=FromNow(60))}",
    }
    answered = world.runtime.anonymous().post(f"/v1/{pipeline}/", headers=headers)
    assert answered.status_code == 400, answered.text
    return str((answered.json or {})["detail"])


class TestKeys:
    def test_rotation_ends_no_session(self, fresh: World) -> None:
        old = issued(fresh)["access_token"]

        rotate(fresh.runtime, "ES256")
        new = issued(fresh)["access_token"]

        assert read(new, 0)["kid"] != read(old, 0)["kid"]
        assert (fresh.take(old), fresh.take(new)) == (200, 200)

    def test_a_dropped_key_takes_its_tokens_with_it_and_another_one_signs(
        self, fresh: World, refusal: Answer
    ) -> None:
        old, kid = fresh.token(), fresh.signer.kid
        assert fresh.take(old) == 200

        fresh.runtime.operate("signing-key", "drop", kid, "--env", "test")

        assert fresh.knock(f"Bearer {old}") == refusal
        assert fresh.signer.kid != kid
        assert fresh.take(issued(fresh)["access_token"]) == 200

    def test_a_key_that_was_rotated_away_verifies_until_its_time_is_up(self, fresh: World) -> None:
        old = fresh.signer
        rotate(fresh.runtime, "EdDSA")
        until = fresh.runtime.access.signing_keys()[old.kid].verify_until
        assert until is not None
        token = fresh.token(old, iat=until - 10, nbf=until - 10, exp=until + 500)

        assert verified(fresh, token, until - 0.1)
        assert not verified(fresh, token, until)
        assert until - time.time() > 24 * 3600


Ending = Callable[[str], tuple[str, ...]]
ENDINGS: dict[str, Ending] = {
    "it is revoked by its jti": lambda token: (
        "token",
        "revoke",
        read(token)["jti"],
        "--env",
        "test",
    ),
    "all of its consumer are revoked": lambda _: (
        "token",
        "revoke",
        "--env",
        "test",
        "--consumer",
        "acme",
    ),
    "its key is dropped": lambda token: (
        "signing-key",
        "drop",
        read(token, 0)["kid"],
        "--env",
        "test",
    ),
    "tokens may not live as long any more": lambda _: (
        "env",
        "set",
        "test",
        "--token-lifetime",
        "9m",
    ),
}


@pytest.mark.parametrize("ending", ENDINGS)
@pytest.mark.parametrize("cached", [False, True])
def test_a_token_ends_at_once_also_when_its_verdict_is_known(
    fresh: World, refusal: Answer, ending: str, cached: bool
) -> None:
    token = fresh.token()
    if cached:
        assert fresh.take(token) == 200

    fresh.runtime.operate(*ENDINGS[ending](token))

    assert fresh.knock(f"Bearer {token}") == refusal


def test_a_token_ends_by_itself_also_when_its_verdict_is_known(
    fresh: World, refusal: Answer, later: Callable[[float], None]
) -> None:
    token = fresh.token()
    assert fresh.take(token) == 200

    later(600 + LEEWAY)

    assert fresh.knock(f"Bearer {token}") == refusal


def test_revocation_takes_the_tokens_it_names_and_no_others(fresh: World) -> None:
    bolt = make_key(fresh.runtime, "bolt")
    each, other, of_bolt = fresh.token(), fresh.token(), fresh.token(client_id="bolt")

    fresh.runtime.operate("token", "revoke", read(each)["jti"], "--env", "test")
    taken = [fresh.take(each), fresh.take(other), fresh.take(of_bolt, bolt)]
    fresh.runtime.operate("token", "revoke", "--env", "test", "--consumer", "acme")
    later = fresh.token(iat=FromNow(2))

    assert taken == [401, 200, 200]
    assert [fresh.take(other), fresh.take(later), fresh.take(of_bolt, bolt)] == [401, 200, 200]


@pytest.fixture
def decoded(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Note each token whose signature is checked."""
    seen: list[str] = []
    real = jwt.decode

    def decode(token: str, *args: Any, **more: Any) -> Any:
        seen.append(token)
        return real(token, *args, **more)

    monkeypatch.setattr(jwt, "decode", decode)
    return seen


class TestCache:
    def test_a_token_is_decoded_once(self, world: World, decoded: list[str]) -> None:
        token = world.token()

        taken = [world.take(token) for _ in range(3)]

        assert (taken, decoded) == ([200] * 3, [token])

    def test_it_is_bounded_and_the_oldest_goes_first(
        self, world: World, decoded: list[str], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(tokens, "MAX_CACHED", 4)
        gate, created = Tokens("penstock"), [world.token() for _ in range(5)]

        for token in (*created, created[4], created[1], created[0]):
            gate.verify(token, world.runtime.access, Caller("acme", 1), time.time())

        assert decoded == [*created, created[0]]

    def test_a_refused_token_takes_no_place_in_it(
        self, world: World, decoded: list[str], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(tokens, "MAX_CACHED", 1)
        gate, good = Tokens("penstock"), world.token()

        for token in (good, world.token(aud="prod"), good):
            with_outcome(gate, world, token)

        assert decoded.count(good) == 1

    def test_an_expired_token_leaves_it(self, world: World, decoded: list[str]) -> None:
        gate, token = Tokens("penstock"), world.token()

        for seconds in (0, 5000, 0):
            with_outcome(gate, world, token, seconds)

        assert decoded == [token, token]


def with_outcome(gate: Tokens, world: World, token: str, seconds: float = 0) -> bool:
    try:
        gate.verify(token, world.runtime.access, Caller("acme", 1), time.time() + seconds)
    except CredentialRejected:
        return False
    return True


class TestKeySet:
    def test_it_holds_public_parts_alone(self, world: World) -> None:
        answered = world.runtime.anonymous().get("/.well-known/jwks.json")

        keys = (answered.json or {})["keys"]
        assert answered.content_type == "application/jwk-set+json"
        # One EdDSA key signs, an older one verifies.
        assert sorted(key["alg"] for key in keys) == sorted([*PUBLISHED, "EdDSA"])
        parts = {"EdDSA": {"crv", "x"}, "ES256": {"crv", "x", "y"}, "RS256": {"n", "e"}}
        for key in keys:
            assert key.keys() == {"kty", "kid", "alg", "use"} | parts[key["alg"]]
            assert key["use"] == "sig"
        assert world.keys["HS256"].kid not in answered.text
        assert b64(world.keys["HS256"].private) not in answered.text

    @pytest.mark.parametrize("algorithm", PUBLISHED)
    def test_other_libraries_verify_tokens_with_it(self, world: World, algorithm: str) -> None:
        document = world.runtime.anonymous().get("/.well-known/jwks.json").json or {}
        key = world.keys[algorithm]
        token = world.token(key)

        matches = jwt.PyJWKSet.from_dict(document)[key.kid]

        assert (
            jwt.decode(token, matches, algorithms=[algorithm], audience="test", issuer="penstock")[
                "sub"
            ]
            == "ann"
        )

    def test_it_follows_rotation_and_drops_what_is_dropped(self, fresh: World) -> None:
        first = fresh.signer.kid
        second = rotate(fresh.runtime, "ES256").kid
        both = published(fresh)

        fresh.runtime.operate("signing-key", "drop", first, "--env", "test")

        assert both == {first, second}
        assert published(fresh) == {second}

    def test_a_key_whose_time_is_up_leaves_it(
        self, fresh: World, later: Callable[[float], None]
    ) -> None:
        first = fresh.signer.kid
        second = rotate(fresh.runtime, "EdDSA").kid
        before = published(fresh)

        later(24 * 3600 + LEEWAY + 5)

        assert before == {first, second}
        assert published(fresh) == {second}


def published(world: World) -> set[str]:
    return {
        key["kid"]
        for key in (world.runtime.anonymous().get("/.well-known/jwks.json").json or {})["keys"]
    }


class TestIssue:
    def test_a_token_has_the_claims_of_the_rules(self, world: World) -> None:
        reply = issued(world, scopes={"b", "a"}, lifetime=90, claims={"tier": "gold"})
        claims = read(reply["access_token"])

        assert reply.keys() == {"access_token", "expires_in", "scope", "token_type"}
        assert (reply["expires_in"], reply["scope"], reply["token_type"]) == (90, "a b", "Bearer")
        assert claims.keys() == {*REGISTERED, "tier"}
        parts_value = {
            "iss": "penstock",
            "aud": "test",
            "sub": "ann",
            "client_id": "acme",
            "scope": "a b",
            "tier": "gold",
        }
        assert parts_value.items() <= claims.items()
        assert claims["exp"] - claims["iat"] == 90
        assert claims["nbf"] == claims["iat"]
        assert abs(claims["iat"] - time.time()) < 5

    def test_it_lets_its_consumer_in(self, world: World) -> None:
        token = issued(
            world, subject="bea", scopes=["orders:write", "read"], claims={"tier": "gold"}
        )["access_token"]

        answer = world.knock(f"Bearer {token}")

        assert {
            "consumer": "acme",
            "subject": "bea",
            "scopes": ["orders:write", "read"],
        }.items() <= answer.body.items()
        assert answer.body["claims"] == read(token)

    def test_no_two_have_the_same_jti(self, world: World) -> None:
        names = {read(issued(world)["access_token"])["jti"] for _ in range(20)}

        assert len(names) == 20
        assert min(map(len, names)) >= 22  # 128 bits

    def test_it_lives_as_long_as_the_environment_allows_by_default(self, fresh: World) -> None:
        usual = issued(fresh)["expires_in"]
        fresh.runtime.operate("env", "set", "test", "--token-lifetime", "5m")
        claims = read(issued(fresh)["access_token"])

        assert usual == LIMIT
        assert claims["exp"] - claims["iat"] == 300
        assert refused_to_issue(fresh, lifetime=301).endswith("1 to 300 seconds, not 301")

    @pytest.mark.parametrize("lifetime", [1, LIMIT])
    def test_the_shortest_and_the_longest_life_are_within(
        self, world: World, lifetime: int
    ) -> None:
        assert issued(world, lifetime=lifetime)["expires_in"] == lifetime

    @pytest.mark.parametrize(
        "lifetime",
        [
            0, -1, 0.9, LIMIT + 1, 10**9, -(10**400), 10**400,
            float("nan"), float("inf"), float("-inf"),
        ],
    )  # fmt: skip
    def test_an_impossible_life_is_refused(self, world: World, lifetime: float) -> None:
        assert f"lives 1 to {LIMIT} seconds" in refused_to_issue(world, lifetime=lifetime)

    @pytest.mark.parametrize("claim", REGISTERED)
    def test_a_claim_that_is_ours_is_refused(self, world: World, claim: str) -> None:
        assert (
            refused_to_issue(world, claims={"tier": "gold", claim: "x"})
            == f"the claim {claim!r} can't be set by a pipeline"
        )

    @pytest.mark.parametrize("subject", ["", None, 7, ["ann"]])
    def test_a_token_is_about_somebody(self, world: World, subject: object) -> None:
        assert refused_to_issue(world, subject=subject) == "a token needs a subject"

    @pytest.mark.parametrize(
        "scope", ["a b", "", " ", "a\tb", "a\n", "a\u00a0b", 'a"b', "a\\b", "é", "a\x7f", 7, None]
    )
    def test_a_scope_is_one_word(self, world: World, scope: object) -> None:
        assert refused_to_issue(world, scopes=["fine", scope]) == "a scope is a word without spaces"

    @pytest.mark.parametrize(
        "claim",
        [
            object(), b"bytes", {1, 2}, time.time, [[{"deep": object()}]], {(1, 2): 3},
            float("nan"), float("inf"), {1: "a", "1": "b"}, [{None: 1, "null": 2}],
        ],
        ids=lambda claim: type(claim).__name__,
    )  # fmt: skip
    def test_claims_that_are_no_json_are_refused(self, world: World, claim: object) -> None:
        assert refused_to_issue(world, claims={"odd": claim}).startswith("a claim is no JSON")

    def test_claims_that_hold_themselves_are_refused(self, world: World) -> None:
        endless: list[object] = []
        endless.append(endless)

        assert refused_to_issue(world, claims={"odd": endless}).startswith("a claim is no JSON")

    def test_claims_that_are_nested_too_deep_are_refused(self, world: World) -> None:
        deep: list[object] = []
        for _ in range(100_000):
            deep = [deep]

        assert refused_to_issue(world, claims={"odd": deep}).startswith("a claim is no JSON")

    def test_a_token_too_long_for_the_gate_is_not_made(self, world: World) -> None:
        assert "a header holds 8166 (PENSTOCK_MAX_HEADER)" in refused_to_issue(
            world, claims={"much": "x" * 9000}
        )

    @pytest.mark.parametrize("longest", [2048, 8190, 32_768])
    def test_every_issued_token_fits_into_the_header_and_passes_the_gate(
        self, world: World, longest: int
    ) -> None:
        issuer, gate = Issuer("penstock", longest), Tokens("penstock", longest)

        def length(padding: int) -> int:
            try:
                created = issuer.issue(
                    world.runtime.access,
                    "acme",
                    subject="ann",
                    scopes=frozenset(),
                    lifetime=None,
                    claims={"x": "x" * padding},
                    now=time.time(),
                )
            except TokenNotIssued:
                return 0
            assert (
                gate.verify(
                    created.access_token, world.runtime.access, Caller("acme", 1), time.time()
                ).subject
                == "ann"
            )
            return len(f"Authorization: Bearer {created.access_token}\r\n")

        lengths = [
            length(padding) for padding in range(longest * 3 // 4 - 420, longest * 3 // 4 - 250)
        ]
        assert lengths[0] > 0
        assert lengths[-1] == 0
        assert longest - 4 <= max(lengths) <= longest

    @pytest.mark.parametrize("pipeline", ["undesignated", "pretender"])
    def test_neither_the_developer_nor_the_operator_alone_makes_a_login_flow(
        self, world: World, pipeline: str
    ) -> None:
        reason = refused_to_issue(world, pipeline)

        assert reason.startswith(f"v1/{pipeline} is no login flow of test")
        assert f"penstock login-flow designate v1/{pipeline} --env test" in reason

    def test_a_withdrawn_login_flow_makes_no_more_tokens(self, fresh: World) -> None:
        fresh.runtime.policy("api-key")
        before = fresh.take(issued(fresh)["access_token"])

        fresh.runtime.operate("login-flow", "withdraw", "login", "--env", "test")

        assert before == 200
        assert "no login flow" in refused_to_issue(fresh)

    def test_a_call_without_a_consumer_gets_no_token(self, fresh: World) -> None:
        fresh.runtime.policy("any")
        fresh.runtime.designate("keyless")

        answered = fresh.runtime.anonymous().post("/v1/keyless/")

        assert (answered.status_code, (answered.json or {})["detail"]) == (
            400,
            "v1/keyless does not know its consumer: set api_key=True on its trigger",
        )


class TestReprs:
    def test_a_token_is_not_in_its_repr(self, world: World) -> None:
        token = Issuer("penstock").issue(
            world.runtime.access, "acme", subject="ann", scopes=frozenset(), lifetime=None,
            claims={}, now=time.time()
        )  # fmt: skip

        assert token.access_token.count(".") == 2
        assert not any(part in f"{token!r} {token}" for part in token.access_token.split("."))

    @pytest.mark.parametrize("algorithm", ALGORITHMS)
    def test_a_private_key_is_not_in_its_repr(self, world: World, algorithm: str) -> None:
        key = world.keys[algorithm]

        shown = f"{key!r} {key} {world.runtime.access.signing_keys()!r}"

        assert key.kid in shown
        assert "PRIVATE" not in shown
        assert not any(
            repr(line)[2:-1] in shown
            for line in key.private.splitlines()
            if b"-----" not in line and len(line) > 4
        )  # HS256 is random bytes, newlines among them
        assert repr(key.private)[2:-1] not in shown

    def test_a_callers_claims_are_not_in_its_repr(self, world: World) -> None:
        caller = Tokens("penstock").verify(
            world.token(secret="hush"), world.runtime.access, Caller("acme", 1), time.time()
        )

        assert caller.claims["secret"] == "hush"
        assert "hush" not in repr(caller)
