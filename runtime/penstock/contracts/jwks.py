"""Read public keys from JSON Web Key Sets (RFC 7517).

The same checks apply when an operator trusts an issuer and when a set is fetched. A key is accepted
only if its owner alone can sign with it. Keys that are too short, have small factors, are not on
their curve or have a small order are rejected. A bad key does not invalidate the set (RFC 7517
section 5): it is listed with the reason.

Checks of RSA keys: size (RFC 7518 section 3.3), an odd exponent from 3 to 64 bits, small factors
(NIST SP 800-89 section 5.3.3), a modulus that is a prime or a square, and the fingerprint of keys
of Infineon's library (ROCA, CVE-2017-15361).
"""

from __future__ import annotations

import base64
import binascii
import math
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import lru_cache

from cryptography.hazmat.primitives.asymmetric.ec import (
    SECP256R1,
    SECP384R1,
    EllipticCurvePublicKey,
    EllipticCurvePublicNumbers,
)
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey, RSAPublicNumbers

MAX_KEYS = 100  # in a set
MAX_KEYS_PER_KID = 4  # a token is verified with each of them in turn
MIN_RSA_BITS, MAX_RSA_BITS = 2048, 8192
MAX_EXPONENT_BITS = 64  # that OpenSSL accepts for every size of key
MAX_PRIME_TEST_BITS = 4096  # a longer test would block the process for a second
PRIVATE_MEMBERS = frozenset({"d", "p", "q", "dp", "dq", "qi", "oth", "k", "priv"})
RSA_ALGORITHMS = frozenset({"RS256", "PS256"})
CURVES = {"P-256": (SECP256R1(), 32, "ES256"), "P-384": (SECP384R1(), 48, "ES384")}
BASE64URL = re.compile(r"[A-Za-z0-9_-]+")
MAX_SHOWN_KID = 64  # characters of a kid in a message


class KeyRejected(ValueError):
    """A key that can't verify signatures; the text says why.

    `private` is True for a key that should not be public.
    """

    def __init__(self, reason: str, *, private: bool = False) -> None:
        super().__init__(reason)
        self.private = private


@dataclass(frozen=True, slots=True)
class PublicKey:
    """A public key, and the algorithms (RFC 7518 section 3.1) that it may verify.

    `jwk` is the JSON Web Key that it was read from.
    """

    kid: str | None
    algorithms: frozenset[str]
    key: RSAPublicKey | EllipticCurvePublicKey | Ed25519PublicKey = field(repr=False)
    jwk: Mapping[str, object] = field(repr=False, compare=False)


@dataclass(frozen=True, slots=True)
class RejectedKey:
    """A rejected key of a set; `position` counts from 1."""

    position: int
    kid: str | None
    reason: str
    private: bool = False

    def __str__(self) -> str:
        """Return its position, its kid and the reason."""
        kid = f" (kid {self.kid[:MAX_SHOWN_KID]!a})" if self.kid is not None else ""
        return f"key {self.position}{kid}: {self.reason}"


@dataclass(frozen=True, slots=True)
class KeySet:
    """The keys of a set that can verify signatures, and the rejected ones."""

    keys: tuple[PublicKey, ...] = ()
    rejected: tuple[RejectedKey, ...] = ()

    def candidates(self, kid: str | None) -> tuple[PublicKey, ...]:
        """Return the keys that a token with this `kid` may be signed with.

        These are the keys with the same `kid`, at most four for an algorithm. A token without a
        `kid` matches the keys without one, or the only key of the set.
        """
        return tuple(key for key in self.keys if key.kid == kid) or (
            self.keys if kid is None and len(self.keys) == 1 else ()
        )


def read_key_set(document: object) -> KeySet:
    """Return the keys of a JWK set.

    Args:
        document: The set as `json.loads` returns it: `{"keys": [...]}`.

    Raises:
        ValueError: The document is no JWK set.

    """
    jwks = document.get("keys") if isinstance(document, dict) else None
    if not isinstance(jwks, list | tuple) or not jwks:
        raise ValueError('it is no JWK set: {"keys": […]}')
    keys: list[PublicKey] = []
    rejected: list[RejectedKey] = []
    for position, jwk in enumerate(jwks[:MAX_KEYS], start=1):
        try:
            keys.append(_checked_count(keys, read_key(jwk)))
        except KeyRejected as error:
            kid = jwk.get("kid") if isinstance(jwk, dict) else None
            rejected.append(
                RejectedKey(
                    position, kid if isinstance(kid, str) else None, str(error), error.private
                )
            )
    if len(jwks) > MAX_KEYS:
        rejected.append(
            RejectedKey(
                MAX_KEYS + 1,
                None,
                f"it and the {len(jwks) - MAX_KEYS - 1} after it are not read: {MAX_KEYS} keys are"
                " enough",
            )
        )
    return KeySet(tuple(keys), tuple(rejected))


def _checked_count(keys: Iterable[PublicKey], key: PublicKey) -> PublicKey:
    """Return a key if not too many of these have its kid. Raises KeyRejected."""
    if (
        sum(
            other.kid == key.kid and not other.algorithms.isdisjoint(key.algorithms)
            for other in keys
        )
        == MAX_KEYS_PER_KID
    ):
        raise KeyRejected(
            f"{MAX_KEYS_PER_KID} other keys have its kid and algorithm, which is the limit"
        )
    return key


def read_key(jwk: object) -> PublicKey:
    """Return the public key of a JWK. Raises KeyRejected."""
    if not isinstance(jwk, dict):
        raise KeyRejected("it is no JSON object")
    kind, kid, algorithm = jwk.get("kty"), jwk.get("kid"), jwk.get("alg")
    if kind == "oct" or not PRIVATE_MEMBERS.isdisjoint(jwk):
        raise KeyRejected(
            "it is private or symmetric; only public keys belong in a set", private=True
        )
    if not isinstance(kind, str):
        raise KeyRejected("kty is missing, or is no text")
    if "kid" in jwk and not isinstance(kid, str):
        raise KeyRejected("kid is no text")
    read = READERS.get(kind)
    if read is None:
        raise KeyRejected(f"kty {kind[:MAX_SHOWN_KID]!a} is not supported")
    _check_use(jwk)
    key, algorithms = read(jwk)
    if "alg" in jwk and (not isinstance(algorithm, str) or algorithm not in algorithms):
        raise KeyRejected(
            f"alg {str(algorithm)[:MAX_SHOWN_KID]!a} does not fit; supported for this key:"
            f" {', '.join(sorted(algorithms))}"
        )
    return PublicKey(kid, frozenset({str(algorithm)}) if "alg" in jwk else algorithms, key, jwk)


def _check_use(jwk: Mapping[str, object]) -> None:
    """Raise KeyRejected for a key with another use (RFC 7517 sections 4.2 and 4.3)."""
    if jwk.get("use", "sig") != "sig":
        raise KeyRejected(f"use is {str(jwk['use'])[:MAX_SHOWN_KID]!a}, not sig")
    operations = jwk.get("key_ops", ["verify"])
    if (
        not isinstance(operations, list)
        or not all(isinstance(item, str) for item in operations)
        or len(set(operations)) != len(operations)
    ):
        raise KeyRejected("key_ops is no list of different texts")
    if "verify" not in operations:
        raise KeyRejected("key_ops does not include verify")


def _octets(jwk: Mapping[str, object], name: str, size: int | None = None) -> bytes:
    """Return the bytes of a member: base64url without padding (RFC 7515 section 2)."""
    text = jwk.get(name)
    if not isinstance(text, str) or not text:
        raise KeyRejected(f"{name} is missing, or is no text")
    try:
        octets = (
            base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))
            if BASE64URL.fullmatch(text)
            else b""
        )
    except binascii.Error:
        octets = b""
    if base64.urlsafe_b64encode(octets).rstrip(b"=") != text.encode():
        raise KeyRejected(f"{name} is not base64url without padding")
    if size is not None and len(octets) != size:
        raise KeyRejected(f"{name} has {len(octets)} bytes; {size} are required")
    return octets


# RSA.


def _rsa(jwk: Mapping[str, object]) -> tuple[RSAPublicKey, frozenset[str]]:
    n, e = (int.from_bytes(_octets(jwk, name)) for name in ("n", "e"))
    weakness = _rsa_weakness(n, e)
    if weakness is not None:
        raise KeyRejected(weakness)
    try:
        return RSAPublicNumbers(e, n).public_key(), RSA_ALGORITHMS
    except ValueError:
        raise KeyRejected("its numbers are no RSA key") from None


@lru_cache(256)
def _rsa_weakness(n: int, e: int) -> str | None:
    """Return why an RSA key is insecure or useless, or None."""
    bits = n.bit_length()
    if not MIN_RSA_BITS <= bits <= MAX_RSA_BITS:
        return f"an RSA key of {bits} bits; {MIN_RSA_BITS} to {MAX_RSA_BITS} are required"
    if e < 3 or e % 2 == 0 or e.bit_length() > MAX_EXPONENT_BITS:  # noqa: PLR2004  the least exponent of RFC 8017
        return "its exponent is no exponent of RSA: an odd number from 3 to 64 bits"
    if math.gcd(n, _SMALL_FACTORS) != 1:
        return "its modulus has a small factor: anyone could compute the private key"
    if math.isqrt(n) ** 2 == n or (bits <= MAX_PRIME_TEST_BITS and pow(2, n - 1, n) == 1):
        return "its modulus is a prime or a square: anyone could compute the private key"
    if all(n % prime in residues for prime, residues in _ROCA_RESIDUES):
        return "its modulus has the fingerprint of a weak key generator (ROCA, CVE-2017-15361)"
    return None


def _primes(limit: int) -> Iterable[int]:
    return (
        number
        for number in range(2, limit)
        if all(number % other for other in range(2, math.isqrt(number) + 1))
    )


_SMALL_FACTORS = math.prod(_primes(752))
# Each factor of such a key is a power of 65537 modulo the product of the first primes, 39 of them
# or more, and so is the modulus.
_ROCA_RESIDUES = tuple(
    (prime, frozenset(pow(65537, power, prime) for power in range(prime)))
    for prime in _primes(168)
    if prime > 2  # noqa: PLR2004  the even prime
)


# Elliptic curves.


def _ec(jwk: Mapping[str, object]) -> tuple[EllipticCurvePublicKey, frozenset[str]]:
    name = jwk.get("crv")
    if not isinstance(name, str) or name not in CURVES:
        raise KeyRejected(
            f"crv {str(name)[:MAX_SHOWN_KID]!a} is not supported; P-256 and P-384 are"
        )
    curve, size, algorithm = CURVES[name]
    x, y = (int.from_bytes(_octets(jwk, coordinate, size)) for coordinate in ("x", "y"))
    try:
        return EllipticCurvePublicNumbers(x, y, curve).public_key(), frozenset({algorithm})
    except ValueError:
        raise KeyRejected(f"its point is not on the curve {name}") from None


_P = 2**255 - 19
_D = -121665 * pow(121666, -1, _P) % _P
# The points of order 8 are those whose double has y = 0: d*y**4 + 2*y**2 - 1 = 0.
_Y8 = 0x05FC536D880238B13933C6D305ACDFD5F098EFF289F4C345B027B2C28F95E826
_SMALL_ORDER = frozenset({0, 1, _P - 1, _Y8, _P - _Y8})


def _okp(jwk: Mapping[str, object]) -> tuple[Ed25519PublicKey, frozenset[str]]:
    if jwk.get("crv") != "Ed25519":
        raise KeyRejected(
            f"crv {str(jwk.get('crv'))[:MAX_SHOWN_KID]!a} is not supported; Ed25519 is"
        )
    octets = _octets(jwk, "x", 32)
    # The last bit is the sign of the other coordinate.
    y = int.from_bytes(octets, "little") & (2**255 - 1)
    if y % _P in _SMALL_ORDER:
        raise KeyRejected("an Ed25519 key of small order: anyone could sign with it")
    square = (y * y - 1) * pow(_D * y * y + 1, -1, _P) % _P
    if y >= _P or pow(square, (_P - 1) // 2, _P) != 1:  # RFC 8032 section 5.1.3
        raise KeyRejected("its point is not on the curve Ed25519")
    return Ed25519PublicKey.from_public_bytes(octets), frozenset({"EdDSA"})


READERS: Mapping[
    str,
    Callable[
        [Mapping[str, object]],
        tuple[RSAPublicKey | EllipticCurvePublicKey | Ed25519PublicKey, frozenset[str]],
    ],
] = {
    "RSA": _rsa,
    "EC": _ec,
    "OKP": _okp,
}
