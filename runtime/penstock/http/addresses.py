"""The client address of a call. Forwarding headers count only from trusted proxies."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address

Network = IPv4Network | IPv6Network
# RFC 7239 section 4.
PAIR = re.compile(r"""([!#$%&'*+.^_`|~0-9A-Za-z-]+)=("(?:[^"\\]|\\.)*"|[^\s",;]+)""")
ELEMENT = re.compile(rf"\s*{PAIR.pattern}(?:\s*;\s*{PAIR.pattern})*\s*")
MAX_ELEMENT_LENGTH = 512  # characters; proxies write less


def client_address(environ: Mapping[str, object], proxies: tuple[Network, ...], header: str) -> str:
    """Return the address of the nearest peer that is not a trusted proxy.

    `header` is the forwarding header that trusted proxies send. Return an empty string for a Unix
    socket without one.
    """
    peer = str(environ.get("REMOTE_ADDR") or "")
    if not from_trusted_proxy(environ, proxies):
        return _normalized(peer)
    value = environ.get("HTTP_" + header.upper().replace("-", "_"))
    nearest = peer
    for hop in _hops(value, header) if isinstance(value, str) else ():
        # No trusted proxy writes this. Everything before it may be forged.
        if _parsed(hop) is None:
            break
        nearest = hop
        if not _trusted(hop, proxies):
            break
    return _normalized(nearest)


def from_trusted_proxy(environ: Mapping[str, object], proxies: tuple[Network, ...]) -> bool:
    """Return whether a trusted proxy sent this request.

    A Unix socket counts as a trusted proxy if any network is trusted.
    """
    peer = str(environ.get("REMOTE_ADDR") or "")
    return bool(proxies) and (not peer or _trusted(peer, proxies))


def _hops(value: str, header: str) -> Iterator[str]:
    """Yield the client that each proxy names, the nearest proxy first."""
    parts = reversed(value.split(","))
    if header.lower() != "forwarded":
        yield from (part.strip(" \t") for part in parts)
        return
    behind = ""
    for part in parts:
        element = part + behind
        if ELEMENT.fullmatch(element):
            clients = [value for name, value in PAIR.findall(element) if name.lower() == "for"]
            yield clients[0].strip('"') if len(clients) == 1 else "unknown"
            behind = ""
        elif len(element) > MAX_ELEMENT_LENGTH:
            return
        else:
            # The comma was within quotes, or the header is malformed and no element matches.
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


def _normalized(text: str) -> str:
    address = _parsed(text)
    return text if address is None else str(address)
