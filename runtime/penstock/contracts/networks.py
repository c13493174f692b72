"""Which addresses may call: networks that are allowed, and networks that are not."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from ipaddress import IPv4Network, IPv6Address, IPv6Network, ip_address
from typing import Self

from penstock.cidr import network_of

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
