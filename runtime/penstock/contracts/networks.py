"""Networks (CIDR): parse them, and admit or deny an address by them."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from ipaddress import IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from typing import Self

# IPv4 addresses as IPv6 writes them (RFC 4291 section 2.5.5.2).
MAPPED = IPv6Network("::ffff:0:0/96")

Network = IPv4Network | IPv6Network


@dataclass(frozen=True, slots=True)
class Networks:
    """A denied network is refused, whatever is allowed.

    Where any is allowed, all others are refused.
    """

    allow: tuple[Network, ...] = ()
    deny: tuple[Network, ...] = ()

    @classmethod
    def of(cls, allow: Iterable[str], deny: Iterable[str]) -> Self:
        """Read the lists. Raises ValueError."""
        return cls(
            tuple(network_of(text) for text in allow), tuple(network_of(text) for text in deny)
        )

    def admit(self, address: str) -> bool:
        """Say whether an address may call.

        One that is not known (a local socket's) only where nothing is allowed in particular.
        """
        try:
            known = ip_address(address)
        except ValueError:
            return not self.allow
        if isinstance(known, IPv6Address) and known.ipv4_mapped is not None:
            known = known.ipv4_mapped
        if any(known in network for network in self.deny):
            return False
        return not self.allow or any(known in network for network in self.allow)


def network_of(text: str) -> IPv4Network | IPv6Network:
    """Return the network that a text names, or the one address.

    Raises ValueError that says what is wrong.

    What is mapped into IPv6 is a network of IPv4: callers' addresses are compared as such.
    """
    if not isinstance(text, str):  # a number would be taken for an address
        raise ValueError(f"{text!r} is no network")  # noqa: TRY004  it is one of the texts that are no network
    network = ip_network(text)
    if isinstance(network, IPv6Network) and network.subnet_of(MAPPED):
        return IPv4Network(
            (int(network.network_address) & 0xFFFF_FFFF, network.prefixlen - MAPPED.prefixlen)
        )
    return network


def caller_network(address: str) -> str:
    """Return what a caller at an address is counted by.

    The address itself, or the /64 network of IPv6, which one caller has as a whole.
    """
    try:
        parsed = ip_address(address)
    except ValueError:
        return address
    return str(ip_network((parsed, 64), strict=False)) if parsed.version == 6 else address  # noqa: PLR2004  the version of IP
