"""Public keys of JWK sets: which of them verify, and why the others are left out."""

from __future__ import annotations

import base64
import math
import secrets
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any

import pytest
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa

from penstock import read_key_set
from penstock.contracts.jwks import KeyRejected, read_key

P = 2**255 - 19
D = -121665 * pow(121666, -1, P) % P
# Of a point whose double has y = 0.
Y8 = 0x7A03AC9277FDC74EC6CC392CFA53202A0F67100D760B3CBA4FD84D3D706A17C7


def b64(raw: bytes) -> str:
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()


def number(value: int) -> str:
    return b64(value.to_bytes((value.bit_length() + 7) // 8))


def rsa_jwk(n: int, e: int = 65537, **more: object) -> dict[str, Any]:
    return {"kty": "RSA", "n": number(n), "e": number(e), **more}


def ec_jwk(curve: ec.EllipticCurve | None = None, **more: object) -> dict[str, Any]:
    curve = curve or ec.SECP256R1()
    point = ec.generate_private_key(curve).public_key().public_numbers()
    size = (curve.key_size + 7) // 8
    names = {
        "secp256r1": "P-256",
        "secp384r1": "P-384",
        "secp521r1": "P-521",
        "secp256k1": "secp256k1",
    }
    return {
        "kty": "EC",
        "crv": names[curve.name],
        "x": b64(point.x.to_bytes(size)),
        "y": b64(point.y.to_bytes(size)),
        **more,
    }


def ed_jwk(x: bytes | None = None, **more: object) -> dict[str, Any]:
    x = ed25519.Ed25519PrivateKey.generate().public_key().public_bytes_raw() if x is None else x
    return {"kty": "OKP", "crv": "Ed25519", "x": b64(x), **more}


# Mersenne primes: keys of them are the same in each process.
M521, M607, M1279, M2203 = (2**exponent - 1 for exponent in (521, 607, 1279, 2203))
MODULUS = M521 * M607 * M1279
GOOD = {
    "RSA": (rsa_jwk(MODULUS), {"RS256", "PS256"}),
    "RSA for PS256": (rsa_jwk(MODULUS, alg="PS256"), {"PS256"}),
    "RSA with the exponent 3": (rsa_jwk(MODULUS, 3), {"RS256", "PS256"}),
    "RSA with a zero in front": (
        {"kty": "RSA", "n": b64(b"\0" + MODULUS.to_bytes(301)), "e": "AQAB"},
        {"RS256", "PS256"},
    ),
    "P-256": (ec_jwk(), {"ES256"}),
    "P-384": (ec_jwk(ec.SECP384R1(), alg="ES384"), {"ES384"}),
    "Ed25519": (ed_jwk(alg="EdDSA", use="sig"), {"EdDSA"}),
    "key_ops": (ed_jwk(key_ops=["verify"]), {"EdDSA"}),
    "key_ops of several": (ed_jwk(key_ops=["sign", "verify"], use="sig"), {"EdDSA"}),
    "unknown members": (ed_jwk(x5c=["MIIB"], exp=5), {"EdDSA"}),
}


@pytest.mark.parametrize("name", GOOD)
def test_a_sound_key_is_taken_for_the_algorithms_that_fit(name: str) -> None:
    jwk, algorithms = GOOD[name]

    assert read_key(jwk).algorithms == algorithms


def without(jwk: Mapping[str, object], name: str) -> dict[str, object]:
    return {other: value for other, value in jwk.items() if other != name}


def off_curve() -> dict[str, Any]:
    jwk = ec_jwk()
    return {**jwk, "y": jwk["x"]}


def roca_modulus() -> int:
    """Make a modulus as the flawed generator did: each prime is a power of 65537, modulo the
    product of the first 126 primes."""
    product = math.prod(
        number
        for number in range(2, 702)
        if all(number % other for other in range(2, math.isqrt(number) + 1))
    )

    def prime() -> int:
        while True:
            candidate = (
                secrets.randbits(1024 - product.bit_length()) | 1 << (1023 - product.bit_length())
            ) * product
            candidate += pow(65537, secrets.randbits(64), product)
            if candidate.bit_length() == 1024 and pow(2, candidate - 1, candidate) == 1:
                return candidate

    while (modulus := prime() * prime()).bit_length() != 2048:
        pass
    return modulus


def small_order() -> list[bytes]:
    """Return all encodings of points of small order, with either sign, and with a y above the
    field's where there is room."""
    points = [0, 1, P - 1, Y8, P - Y8, P, P + 1]
    return [(y | sign << 255).to_bytes(32, "little") for y in points for sign in (0, 1)]


BAD: dict[str, tuple[object, str]] = {
    "no object": (5, "no JSON object"),
    "null": (None, "no JSON object"),
    "nothing": ({}, "kty is missing"),
    "kty of another type": ({"kty": ["RSA"]}, "kty is missing, or is no text"),
    "an unknown kty": (
        {"kty": "AKP", "alg": "ML-DSA-44", "pub": "AA"},
        "kty 'AKP' is not supported",
    ),
    "kty in lower case": (rsa_jwk(MODULUS) | {"kty": "rsa"}, "kty 'rsa' is not supported"),
    "a symmetric key": ({"kty": "oct", "k": "AAAA"}, "private or symmetric"),
    "a symmetric key without its secret": ({"kty": "oct"}, "private or symmetric"),
    **{
        f"a private member {name}": (rsa_jwk(MODULUS) | {name: "AAAA"}, "private or symmetric")
        for name in ("d", "p", "q", "dp", "dq", "qi", "oth", "k")
    },
    "a private Ed25519 key": (ed_jwk(d="AAAA"), "private or symmetric"),
    "a private key of an unknown kind": ({"kty": "AKP", "priv": "AAAA"}, "private or symmetric"),
    **{f"kid {kid!r}": (ed_jwk(kid=kid), "kid is no text") for kid in (1, None, True, ["a"], 1.5)},
    **{f"use {use!r}": (ed_jwk(use=use), "use is") for use in ("enc", "SIG", "", None, 5)},
    **{
        f"key_ops {operations!r}": (ed_jwk(key_ops=operations), "does not include verify")
        for operations in (["encrypt"], ["deriveKey"], ["sign"], [])
    },
    **{
        f"key_ops {operations!r}": (ed_jwk(key_ops=operations), "no list of different texts")
        for operations in ("verify", None, 5, ["verify", "verify"], ["verify", 1], {"verify": 1})
    },
    "alg of another kind of key": (rsa_jwk(MODULUS, alg="ES256"), "alg 'ES256' does not fit"),
    "alg of encryption": (rsa_jwk(MODULUS, alg="RSA-OAEP"), "alg 'RSA-OAEP' does not fit"),
    "alg of a MAC": (rsa_jwk(MODULUS, alg="HS256"), "alg 'HS256' does not fit"),
    "alg none": (rsa_jwk(MODULUS, alg="none"), "alg 'none' does not fit"),
    "alg of another curve": (ec_jwk(alg="ES384"), "alg 'ES384' does not fit"),
    "alg in lower case": (ec_jwk(alg="es256"), "alg 'es256' does not fit"),
    "alg of another type": (ec_jwk(alg=["ES256"]), "does not fit"),
    "alg null": (ec_jwk(alg=None), "does not fit"),
    **{
        f"RSA of {bits} bits": (rsa_jwk(2 ** (bits - 1) + 1), f"{bits} bits; 2048 to 8192")
        for bits in (1024, 1536, 2040)
    },
    "RSA of 2047 bits": (rsa_jwk(2**2046 + 1), "2047 bits"),
    "RSA of 8193 bits": (rsa_jwk(2**8192 + 1), "8193 bits"),
    "RSA of no size": (rsa_jwk(MODULUS) | {"n": "AA"}, "0 bits"),
    "an even modulus": (rsa_jwk(MODULUS - 1), "small factor"),
    "a modulus with a small factor": (rsa_jwk(M2203 * 751), "small factor"),
    "a modulus that is a prime": (rsa_jwk(M2203), "prime or a square"),
    "a modulus that is a square": (rsa_jwk(M1279**2), "prime or a square"),
    **{
        f"the exponent {e}": (rsa_jwk(MODULUS, e), "exponent")
        for e in (1, 2, 4, 65536, 2**64 + 1, MODULUS - 2, MODULUS + 2)
    },
    "the exponent 0": (rsa_jwk(MODULUS) | {"e": "AA"}, "exponent"),
    **{
        f"RSA without {name}": (without(rsa_jwk(MODULUS), name), f"{name} is missing")
        for name in ("n", "e")
    },
    "a point off its curve": (off_curve(), "not on the curve P-256"),
    "the point 0": (ec_jwk() | {"x": b64(bytes(32)), "y": b64(bytes(32))}, "not on the curve"),
    "a coordinate above the field": (ec_jwk() | {"x": b64(b"\xff" * 32)}, "not on the curve"),
    "coordinates of another curve": (
        ec_jwk(ec.SECP384R1()) | {"crv": "P-256"},
        "x has 48 bytes; 32 are required",
    ),
    "a coordinate cut short": (ec_jwk() | {"y": b64(b"\1" * 31)}, "y has 31 bytes"),
    "a coordinate with a zero in front": (
        ec_jwk() | {"y": b64(bytes(1) + b"\1" * 32)},
        "y has 33 bytes",
    ),
    **{
        f"EC without {name}": (without(ec_jwk(), name), f"{name} is missing") for name in ("x", "y")
    },
    **{
        f"crv {crv!r}": (ec_jwk() | {"crv": crv}, "is not supported")
        for crv in ("P-999", "Ed25519", "p-256", None, 5, ["P-256"])
    },
    "P-521": (ec_jwk(ec.SECP521R1()), "crv 'P-521' is not supported"),
    "secp256k1": (ec_jwk(ec.SECP256K1()), "crv 'secp256k1' is not supported"),
    "Ed25519 of 5 bytes": (ed_jwk(b"12345"), "x has 5 bytes; 32 are required"),
    "Ed25519 of 33 bytes": (ed_jwk(b"1" * 33), "x has 33 bytes"),
    "Ed25519 without x": (without(ed_jwk(), "x"), "x is missing"),
    "Ed448": (ed_jwk() | {"crv": "Ed448"}, "crv 'Ed448' is not supported"),
    "X25519": (ed_jwk() | {"crv": "X25519"}, "crv 'X25519' is not supported"),
    "an Ed25519 point off its curve": (
        ed_jwk((2).to_bytes(32, "little")),
        "not on the curve Ed25519",
    ),
    "an Ed25519 point written in another way": (
        ed_jwk((P + 3).to_bytes(32, "little")),
        "not on the curve Ed25519",
    ),
    **{
        f"Ed25519 of small order, {index}": (ed_jwk(x), "small order")
        for index, x in enumerate(small_order())
    },
}
GARBLED: dict[str, Callable[[str], object]] = {
    "other characters": lambda _: "!!!",
    "padding": lambda text: text + "=",
    "the other base64": lambda text: text[:-1] + "+",
    "a space": lambda text: " " + text,
    "a line break": lambda text: text + "\n",
    "what is not ASCII": lambda _: "é",
    "one character": lambda _: "A",
    "a number of characters that can't be": lambda text: text + "A" * ((1 - len(text)) % 4 or 4),
}
NO_TEXT: dict[str, object] = {"empty": "", "null": None, "a number": 5, "a list": ["AQAB"]}


@pytest.mark.parametrize(
    ("kind", "member"),
    [("RSA", "n"), ("RSA", "e"), ("P-256", "x"), ("P-256", "y"), ("Ed25519", "x")],
)
def test_members_are_base64url_without_padding(kind: str, member: str) -> None:
    jwk = dict(GOOD[kind][0])

    for name, garble in GARBLED.items():
        with pytest.raises(KeyRejected, match=f"{member} is not base64url"):
            read_key(jwk | {member: garble(jwk[member])})
        assert name
    for value in NO_TEXT.values():
        with pytest.raises(KeyRejected, match=f"{member} is missing, or is no text"):
            read_key(jwk | {member: value})


@pytest.mark.parametrize("name", BAD)
def test_a_key_that_anybody_could_sign_with_or_that_verifies_nothing_is_left_out(name: str) -> None:
    jwk, reason = BAD[name]

    with pytest.raises(KeyRejected, match=reason):
        read_key(jwk)
    key_set = read_key_set({"keys": [jwk, ed_jwk(kid="good")]})
    assert [key.kid for key in key_set.keys] == ["good"]
    assert [(key.position, key.private) for key in key_set.rejected] == [(1, "private" in reason)]


def test_a_key_of_the_generator_that_infineon_had_is_left_out() -> None:
    modulus = roca_modulus()

    with pytest.raises(KeyRejected, match="ROCA"):
        read_key(rsa_jwk(modulus))
    for _ in range(5):
        assert read_key(
            rsa_jwk(rsa.generate_private_key(65537, 2048).public_key().public_numbers().n)
        )


def test_bits_that_mean_nothing_make_no_second_spelling_of_a_key() -> None:
    jwk = ed_jwk()
    alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
    other = jwk["x"][:-1] + alphabet[alphabet.index(jwk["x"][-1]) | 1]
    assert base64.urlsafe_b64decode(other + "=") == base64.urlsafe_b64decode(jwk["x"] + "=")

    with pytest.raises(KeyRejected, match="not base64url"):
        read_key(jwk | {"x": other})


def test_the_points_of_order_eight_are_those_of_the_curve() -> None:
    assert (D * pow(Y8, 4, P) + 2 * Y8 * Y8 - 1) % P == 0


@pytest.mark.parametrize("x", [(1).to_bytes(32, "little"), bytes(32)])
def test_a_key_of_small_order_would_verify_an_unsigned_message(x: bytes) -> None:
    """What the rule is for: a signature without any secret holds for many messages."""
    key = ed25519.Ed25519PublicKey.from_public_bytes(x)
    neutral_point, zero = (1).to_bytes(32, "little"), bytes(32)
    verified = 0
    for message in range(40):
        with suppress(InvalidSignature):
            key.verify(neutral_point + zero, message.to_bytes(2))
            verified += 1

    assert verified > 0


class TestNames:
    """Which keys a token may be signed with: the rule about `kid`."""

    def names(self, *kids: object) -> list[dict[str, Any]]:
        return [ed_jwk(**({} if kid is None else {"kid": kid})) for kid in kids]

    @pytest.mark.parametrize(
        ("kids", "kid", "positions"),
        [
            (["a", "b"], "a", [0]),
            (["a", "b"], "c", []),
            (["a", "b"], None, []),
            (["a"], None, [0]),
            (["a"], "b", []),
            ([None], None, [0]),
            ([None], "a", []),
            ([None, None], None, [0, 1]),
            ([None, "a"], None, [0]),
            (["a", "a", "b"], "a", [0, 1]),
            (["", None], "", [0]),
            (["A"], "a", []),
        ],
    )
    def test_a_token_s_kid_is_the_key_s(
        self, kids: list[Any], kid: str | None, positions: list[int]
    ) -> None:
        jwks = self.names(*kids)

        candidates = read_key_set({"keys": jwks}).candidates(kid)

        assert [jwks.index(dict(key.jwk)) for key in candidates] == positions

    @pytest.mark.parametrize("kid", ["a", None])
    def test_a_token_is_tried_with_four_keys_of_an_algorithm_at_most(self, kid: str | None) -> None:
        alike = {} if kid is None else {"kid": kid}
        key_set = read_key_set(
            {"keys": [*self.names(*[kid] * 6), ec_jwk(**alike), rsa_jwk(MODULUS, **alike)]}
        )

        assert len(key_set.candidates(kid)) == 6
        assert [
            len([key for key in key_set.candidates(kid) if algorithm in key.algorithms])
            for algorithm in ("EdDSA", "ES256", "RS256")
        ] == [4, 1, 1]
        assert [key.position for key in key_set.rejected] == [5, 6]
        assert "which is the limit" in str(key_set.rejected[0])

    def test_a_set_is_read_up_to_a_hundred_keys(self) -> None:
        key_set = read_key_set({"keys": self.names(*map(str, range(130)))})

        assert (len(key_set.keys), len(key_set.rejected)) == (100, 1)
        assert "key 101: it and the 29 after it are not read" in str(key_set.rejected[0])


def test_a_reason_names_the_key_and_shows_no_control_characters() -> None:
    (rejected,) = read_key_set(
        {"keys": [{"kty": "x\x1b[31m" + "y" * 500, "kid": "k\x1b]0;" + "z" * 500}]}
    ).rejected

    assert str(rejected).startswith("key 1 (kid 'k\\x1b]0;zz")
    assert str(rejected).isprintable()
    assert len(str(rejected)) < 250


@pytest.mark.parametrize(
    "document", [None, 5, "keys", [], {}, {"keys": None}, {"keys": []}, {"keys": {}}, {"keys": "x"}]
)
def test_what_is_no_set_is_no_set(document: object) -> None:
    with pytest.raises(ValueError, match="no JWK set"):
        read_key_set(document)
