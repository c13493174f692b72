"""Settings of credentials, clients and public URLs."""

from __future__ import annotations

from dataclasses import dataclass
from ipaddress import IPv4Network, IPv6Network
from typing import Literal

from penstock.settings import parsers
from penstock.settings.declaration import setting


@dataclass(frozen=True)
class AccessSettings:
    """How clients are identified, limited and addressed."""

    issuer: str = setting(
        "penstock", parsers.text, "Issuer (`iss`) of the tokens that login flows issue."
    )
    api_key_headers: tuple[str, ...] = setting(
        "X-API-Key,apikey",
        parsers.key_headers,
        "Request headers that carry an API key, separated by commas.",
    )
    rate_limit_url: str = setting(
        "memory://",
        parsers.text,
        "Where calls are counted: memory:// for each process separately, redis://HOST:PORT for all"
        " processes together.",
        secret=True,
    )
    rate_limit_away: Literal["share", "refuse"] = setting(
        "share",
        parsers.one_of("share", "refuse"),
        "Action for rate-limited calls while Redis is unavailable: share (each process of a host"
        " applies its share of each limit) or refuse (503).",
    )
    failed_auth_rate: str = setting(
        "20/minute",
        parsers.text,
        "Invalid credentials that one address may send before it gets 429. off: no limit.",
    )
    trusted_proxies: tuple[IPv4Network | IPv6Network, ...] = setting(
        "",
        parsers.networks,
        "CIDR networks of trusted reverse proxies, separated by commas; their forwarding header"
        " sets the client address. Empty: none.",
    )
    forwarded_header: Literal["x-forwarded-for", "forwarded"] = setting(
        "X-Forwarded-For",
        parsers.one_of("x-forwarded-for", "forwarded"),
        "Forwarding header of trusted proxies: X-Forwarded-For or Forwarded (RFC 7239).",
    )
    client_cert_header: str = setting(
        "",
        parsers.header_name,
        "Header in which trusted proxies send the client's certificate, such as Client-Cert (RFC"
        " 9440, or escaped PEM). Empty: none is read.",
    )
    url: str = setting(
        "",
        parsers.url("https://api.example.com/orders"),
        "Public URL of this environment, with the path prefix of a proxy if there is one:"
        " https://api.example.com/orders. Empty: URLs in replies are relative.",
    )
    openapi: Literal["auto", "true", "sign-in", "false"] = setting(
        "auto",
        parsers.one_of("auto", "true", "sign-in", "false"),
        "Who may read the OpenAPI document at `/-/openapi.json`: auto (everyone under policy any,"
        " else console users), true (everyone), sign-in (console users) or false (no one).",
    )
    docs: Literal["auto", "true", "sign-in", "false"] = setting(
        "auto",
        parsers.one_of("auto", "true", "sign-in", "false"),
        "Who may open the page `/-/docs`, which shows that document and sends trial calls: auto,"
        " true, sign-in or false.",
    )
    pipelines: bool = setting(
        "true", parsers.flag, "false: serve the console only, and no pipelines."
    )
