"""Whose address a call comes from; what a proxy says counts only where an operator trusts it."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address

Network = IPv4Network | IPv6Network
# RFC 7239 section 4.
PAIR = re.compile(r"""([!#$%&'*+.^_`|~0-9A-Za-z-]+)=("(?:[^"\\]|\\.)*"|[^\s",;]+)""")
ELEMENT = re.compile(rf"\s*{PAIR.pattern}(?:\s*;\s*{PAIR.pattern})*\s*")
LONGEST = 512  # characters of an element: more is nothing a proxy writes


def client_address(environ: Mapping[str, object], proxies: tuple[Network, ...], header: str) -> str:
    """Return the address of the nearest peer that is no trusted proxy.

    Empty for a local socket without one.
    """
    peer = str(environ.get("REMOTE_ADDR") or "")
    if not from_trusted_proxy(environ, proxies):
        return _plain(peer)
    said = environ.get("HTTP_" + header.upper().replace("-", "_"))
    nearest = peer
    for hop in _hops(said, header) if isinstance(said, str) else ():
        # Nobody we trust writes such a thing: it is the last word that can be believed.
        if _parsed(hop) is None:
            break
        nearest = hop
        if not _trusted(hop, proxies):
            break
    return _plain(nearest)


def from_trusted_proxy(environ: Mapping[str, object], proxies: tuple[Network, ...]) -> bool:
    """Say whether a proxy that an operator trusts has sent this request.

    A local socket counts where any is trusted.
    """
    peer = str(environ.get("REMOTE_ADDR") or "")
    return bool(proxies) and (not peer or _trusted(peer, proxies))


def _hops(said: str, header: str) -> Iterator[str]:
    """Yield what each proxy said whom it called for, the nearest proxy first."""
    parts = reversed(said.split(","))
    if header.lower() != "forwarded":
        yield from (part.strip(" \t") for part in parts)
        return
    behind = ""
    for part in parts:
        element = part + behind
        if ELEMENT.fullmatch(element):
            said_for = [value for name, value in PAIR.findall(element) if name.lower() == "for"]
            yield said_for[0].strip('"') if len(said_for) == 1 else "unknown"
            behind = ""
        elif len(element) > LONGEST:
            return
        else:
            # The comma stood within quotes, or it is malformed: then there is no end to it.
            behind = f",{element}"


def _parsed(text: str) -> IPv4Address | IPv6Address | None:
    if text.startswith("["):
        text = text[1:].partition("]")[0]
    elif text.count(":") == 1:
        text = text.partition(":")[0]
    try:
        address = ip_address(text)
    except ValueError:
        return None
    return address.ipv4_mapped or address if isinstance(address, IPv6Address) else address


def _trusted(text: str, proxies: tuple[Network, ...]) -> bool:
    address = _parsed(text)
    return address is not None and any(address in network for network in proxies)


def _plain(text: str) -> str:
    address = _parsed(text)
    return text if address is None else str(address)
