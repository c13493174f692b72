"""Networks (CIDR): parse them, and check addresses against them."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from ipaddress import IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from typing import Self

from penstock.errors import quoted

# IPv4 addresses as IPv6 writes them (RFC 4291 section 2.5.5.2).
MAPPED = IPv6Network("::ffff:0:0/96")

Network = IPv4Network | IPv6Network


@dataclass(frozen=True, slots=True)
class Networks:
    """Lists of allowed and denied networks.

    A denied network is rejected even if it is allowed too. If any network is allowed, all others
    are rejected.
    """

    allow: tuple[Network, ...] = ()
    deny: tuple[Network, ...] = ()

    @classmethod
    def of(cls, allow: Iterable[str], deny: Iterable[str]) -> Self:
        """Return the networks of two lists of texts. Raises ValueError."""
        return cls(
            tuple(network_of(text) for text in allow), tuple(network_of(text) for text in deny)
        )

    def admit(self, address: str) -> bool:
        """Return whether an address may call.

        A text that is no address (the peer of a Unix socket) may call only if the list of allowed
        networks is empty.
        """
        try:
            parsed = ip_address(address)
        except ValueError:
            return not self.allow
        if isinstance(parsed, IPv6Address) and parsed.ipv4_mapped is not None:
            parsed = parsed.ipv4_mapped
        if any(parsed in network for network in self.deny):
            return False
        return not self.allow or any(parsed in network for network in self.allow)


def network_of(text: str) -> IPv4Network | IPv6Network:
    """Return the network, or the one address, that a text names.

    An IPv4 network in IPv6 notation becomes the IPv4 network, since the addresses of callers are
    compared as IPv4. Raises ValueError whose text says what is wrong.
    """
    if not isinstance(text, str):  # ip_network accepts numbers
        raise ValueError(f"{quoted(text)} is no network")  # noqa: TRY004  one type for every wrong network
    network = ip_network(text)
    if isinstance(network, IPv6Network) and network.subnet_of(MAPPED):
        return IPv4Network(
            (int(network.network_address) & 0xFFFF_FFFF, network.prefixlen - MAPPED.prefixlen)
        )
    return network


def caller_network(address: str) -> str:
    """Return the key that limits count an address by.

    That is the address itself, or its /64 network for IPv6: one client usually has all of it.
    """
    try:
        parsed = ip_address(address)
    except ValueError:
        return address
    return str(ip_network((parsed, 64), strict=False)) if parsed.version == 6 else address  # noqa: PLR2004  the version of IP
