"""Callbacks: notify a consumer that its durable run has finished.

They are signed as the Standard Webhooks specification requires, and sent only to URLs that an
operator has allowed.
"""

from __future__ import annotations

import base64
import socket
import time
from collections.abc import Iterable, Mapping
from contextlib import suppress
from hmac import digest
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network
from urllib.parse import urlsplit, urlunsplit

import httpx

from penstock.access.callbacks import PORTS, CallbackTarget
from penstock.runs.timeouts import TimedOut, run_with_deadline

# before the second attempt, the third, …
PAUSES_S = (5.0, 30.0, 300.0, 1800.0, 7200.0, 28_800.0, 86_400.0)
ATTEMPT_TIMEOUT_S = 15.0  # of one attempt in total
MAX_ANSWER_BYTES = 64 * 1024
NAT64 = ip_network("64:ff9b::/96")
GONE = 410
EVENTS = "run"  # the first part of each event type


class Undeliverable(Exception):
    """The callback was not delivered; with `final` no further attempt can help."""

    def __init__(self, reason: str, *, final: bool = False) -> None:
        super().__init__(reason)
        self.final = final


def event_of(run: Mapping[str, object]) -> dict[str, object]:
    """Return the event of a finished run, from the document that its consumer sees.

    The members are those that the Standard Webhooks specification recommends.
    """
    return {
        "type": f"{EVENTS}.{run['status']}",
        "timestamp": run.get("ended_at", run["accepted_at"]),
        "data": run,
    }


def target_of(url: str, targets: Iterable[CallbackTarget]) -> CallbackTarget | None:
    """Return the target that allows a URL."""
    return next((target for target in targets if target.matches(url)), None)


def signed(target: CallbackTarget, identifier: str, payload: bytes, now: float) -> dict[str, str]:
    """Return the headers of a callback (the Standard Webhooks specification, symmetric signatures).

    `now` is in seconds since the epoch.
    """
    moment = str(int(now))
    mac = digest(
        target.secret, b".".join((identifier.encode(), moment.encode(), payload)), "sha256"
    )
    return {
        "content-type": "application/json",
        "user-agent": "penstock",
        "webhook-id": identifier,
        "webhook-timestamp": moment,
        "webhook-signature": "v1," + base64.b64encode(mac).decode(),
    }


def deliver(url: str, target: CallbackTarget, identifier: str, payload: bytes) -> int:
    """Send a callback once and return the status of its answer, 200 to 299.

    Raises Undeliverable.
    """
    client = httpx.Client(trust_env=False, follow_redirects=False, timeout=ATTEMPT_TIMEOUT_S)
    try:
        return run_with_deadline(
            lambda: _send(client, url, target, identifier, payload),
            time.monotonic() + ATTEMPT_TIMEOUT_S,
        )
    except TimedOut:
        raise Undeliverable(f"no answer within {ATTEMPT_TIMEOUT_S:g} seconds") from None
    finally:
        # This also ends the thread where a server sends its answer slowly.
        with suppress(Exception):
            client.close()


def _send(
    client: httpx.Client, url: str, target: CallbackTarget, identifier: str, payload: bytes
) -> int:
    parts = urlsplit(url)
    host, port = parts.hostname or "", parts.port or PORTS[parts.scheme]
    address = _resolved(host, port, private=target.private)
    where = f"[{address}]" if address.version == 6 else str(address)  # noqa: PLR2004  the version of IP
    headers = signed(target, identifier, payload, time.time()) | {"host": parts.netloc}
    try:
        # Connect to the address that was checked: the name may resolve to another one by now.
        with client.stream(
            "POST",
            urlunsplit((parts.scheme, f"{where}:{port}", parts.path or "/", parts.query, "")),
            content=payload,
            headers=headers,
            extensions={"sni_hostname": host},
        ) as answered:
            for read, _ in enumerate(answered.iter_raw(4096)):
                if read * 4096 > MAX_ANSWER_BYTES:
                    break
    except httpx.InvalidURL as error:
        raise Undeliverable(f"InvalidURL: {error}", final=True) from error
    except (httpx.HTTPError, OSError, RuntimeError, ValueError) as error:
        raise Undeliverable(f"{type(error).__name__}: {error}") from error
    if not answered.is_success:
        raise Undeliverable(f"answered {answered.status_code}", final=answered.status_code == GONE)
    return answered.status_code


def _resolved(host: str, port: int, *, private: bool) -> IPv4Address | IPv6Address:
    """Return the address to connect to.

    Raises Undeliverable where any address of the host is private and that is not allowed.
    """
    try:
        addresses = {
            ip_address(item[4][0])
            for item in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        }
    except (OSError, UnicodeError, ValueError) as error:
        raise Undeliverable(f"{host} has no address: {type(error).__name__}") from error
    if not private and any(not is_public(address) for address in addresses):
        raise Undeliverable(f"{host} is on a private network, which is not allowed", final=True)
    return min(addresses, key=lambda address: (address.version, int(address)))


def is_public(address: IPv4Address | IPv6Address) -> bool:
    """Return whether an address is on the public internet.

    An IPv6 address that contains an IPv4 address is public if that one is.
    """
    if isinstance(address, IPv6Address):
        inner = (
            address.ipv4_mapped
            or address.sixtofour
            or (IPv4Address(int(address) & 0xFFFFFFFF) if address in NAT64 else None)
        )
        if inner is not None:
            return is_public(inner)
        if address.teredo is not None or address.is_site_local:
            return False
    return address.is_global and not address.is_multicast and not address.is_reserved
