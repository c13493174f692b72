"""Read networks as operators and developers write them (CIDR)."""

from __future__ import annotations

from ipaddress import IPv4Network, IPv6Network, ip_address, ip_network

# IPv4 addresses as IPv6 writes them (RFC 4291 section 2.5.5.2).
MAPPED = IPv6Network("::ffff:0:0/96")


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
