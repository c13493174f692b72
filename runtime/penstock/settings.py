"""The settings: read once from the environment, strictly, into one frozen value."""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from ipaddress import IPv4Network, IPv6Network
from pathlib import Path
from typing import NamedTuple
from urllib.parse import urlsplit

from penstock.contracts.networks import network_of
from penstock.errors import BadSetting

PREFIX = "PENSTOCK_"
ENVIRONMENT = re.compile(r"[a-z][a-z0-9-]{0,30}")
ADDRESS = re.compile(r"unix:\S+|fd://\d+|(?:\[[0-9A-Fa-f:.]+\]|[^:\s\[\]/]+):(?P<port>\d{1,5})")
URL = re.compile(
    r"https?://(?:\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._-]+)(?::(?P<port>\d{1,5}))?(?P<path>(?:/(?!\.{1,2}(?:/|$))[A-Za-z0-9._~!$&'()*+,;=:@%-]+)*)/*"
)
HEADER = re.compile(r"[A-Za-z][A-Za-z0-9-]*")


class Setting(NamedTuple):
    """One row of the settings table: its name, default as written and meaning."""

    name: str
    default: str
    help: str


SETTINGS = (
    Setting("PENSTOCK_ENVIRONMENT", "test", "the environment this process serves"),
    Setting(
        "PENSTOCK_DATABASE_URL",
        "sqlite:///penstock.db",
        "where access data is kept: SQLite for one host, postgresql:// for more (`_FILE` too)",
    ),
    Setting(
        "PENSTOCK_DATABASE_DIRECT_URL",
        "",
        "the PostgreSQL server itself, where PENSTOCK_DATABASE_URL is a pooler's (PgBouncer): for"
        " migrations and notifications (`_FILE` too); empty: PENSTOCK_DATABASE_URL",
    ),
    Setting(
        "PENSTOCK_SECRET_KEY",
        "",
        "Fernet keys, separated by commas: the first encrypts what is stored, each decrypts it"
        " (`_FILE` too); on SQLite made at first use",
    ),
    Setting(
        "PENSTOCK_PLUGIN_PATH",
        "plugins",
        "folders of plugins, separated by colons; the default counts where it is there",
    ),
    Setting(
        "PENSTOCK_PLUGINS_ALLOW",
        "",
        "load these plugins alone, separated by commas; empty: all that are found",
    ),
    Setting("PENSTOCK_PLUGINS_DENY", "", "leave these plugins out, separated by commas"),
    Setting(
        "PENSTOCK_STRICT",
        "false",
        "true: do not start while any pipeline or plugin is refused (exit 3)",
    ),
    Setting(
        "PENSTOCK_CHECK_REPLIES",
        "off",
        "what happens to a reply that does not match its handler's return annotation: off (no"
        " check), log (a warning) or fail (500)",
    ),
    Setting(
        "PENSTOCK_MAX_STALENESS",
        "60",
        "seconds that calls go on while the database can't be reached, then 503",
    ),
    Setting("PENSTOCK_ISSUER", "penstock", "the `iss` of tokens made here"),
    Setting(
        "PENSTOCK_API_KEY_HEADERS", "X-API-Key,apikey", "request headers that carry an API key"
    ),
    Setting(
        "PENSTOCK_RATE_LIMIT_URL",
        "memory://",
        "where calls are counted: memory:// for each process alone, redis://HOST:PORT for all"
        " together (`_FILE` too)",
    ),
    Setting(
        "PENSTOCK_RATE_LIMIT_AWAY",
        "share",
        "what becomes of rated calls while Redis can't be reached: share (each process of a host"
        " counts its share of each limit), or refuse (503)",
    ),
    Setting(
        "PENSTOCK_FAILED_AUTH_RATE",
        "20/minute",
        "how many bad credentials one address may send before it is told 429; off for no limit",
    ),
    Setting(
        "PENSTOCK_TRUSTED_PROXIES",
        "",
        "networks (CIDR, separated by commas) of proxies that are believed whom they call for;"
        " empty: nobody",
    ),
    Setting(
        "PENSTOCK_FORWARDED_HEADER",
        "X-Forwarded-For",
        "the header in which they say it: X-Forwarded-For or Forwarded (RFC 7239)",
    ),
    Setting(
        "PENSTOCK_CLIENT_CERT_HEADER",
        "",
        "the header in which trusted proxies pass on a client's certificate, such as Client-Cert"
        " (RFC 9440, or escaped PEM); empty: none is read",
    ),
    Setting(
        "PENSTOCK_URL",
        "",
        "where callers reach this environment, with any path prefix of a proxy:"
        " https://api.example.com/orders; empty: URLs in replies are relative",
    ),
    Setting(
        "PENSTOCK_OPENAPI",
        "auto",
        "who may read the OpenAPI document at `/-/openapi.json`: auto (everyone under policy any,"
        " else users of the console), true (everyone), sign-in (users of the console) or false (no"
        " one)",
    ),
    Setting(
        "PENSTOCK_DOCS",
        "auto",
        "who may open the page `/-/docs`, which shows that document and sends trial calls: auto,"
        " true, sign-in or false",
    ),
    Setting("PENSTOCK_PIPELINES", "true", "false: serve the console alone, and no pipeline"),
    Setting("PENSTOCK_CONSOLE", "false", "true: serve the console at `/-/console`"),
    Setting(
        "PENSTOCK_CONSOLE_URL",
        "",
        "where people reach the console's host, such as https://ops.example.com; https makes its"
        " cookies Secure",
    ),
    Setting(
        "PENSTOCK_CONSOLE_SESSION",
        "12",
        "hours after which users must sign in again; after one hour without a request they must in"
        " any case",
    ),
    Setting(
        "PENSTOCK_CONSOLE_SIGN_IN_RATE",
        "10/minute",
        "how many failed sign-ins one address, or all for one user, may make before they are"
        " told 429",
    ),
    Setting(
        "PENSTOCK_CONSOLE_OIDC_ISSUER",
        "",
        "an OpenID Connect provider through which users sign in, such as https://id.example.com;"
        " empty: passwords alone",
    ),
    Setting(
        "PENSTOCK_CONSOLE_OIDC_CLIENT_ID",
        "",
        "the console's client at that provider; its redirect URI is PENSTOCK_CONSOLE_URL and"
        " `/-/console/oidc/back`",
    ),
    Setting("PENSTOCK_CONSOLE_OIDC_CLIENT_SECRET", "", "the secret of that client (`_FILE` too)"),
    Setting(
        "PENSTOCK_CONSOLE_OIDC_CLAIM",
        "email",
        "the claim that names the user; email counts where email_verified is true",
    ),
    Setting("PENSTOCK_BIND", "127.0.0.1:8000", "address and port, or unix:PATH"),
    Setting(
        "PENSTOCK_INTERNAL_BIND",
        "",
        "address and port of a second listener, for internal pipelines alone; empty: they are not"
        " reachable",
    ),
    Setting(
        "PENSTOCK_METRICS",
        "internal",
        "where `/-/metrics` is for Prometheus: internal (that listener alone), everywhere or off",
    ),
    Setting("PENSTOCK_WORKERS", "2", "processes that answer calls"),
    Setting("PENSTOCK_THREADS", "64", "calls that one of them answers at a time"),
    Setting(
        "PENSTOCK_WORKER",
        "1",
        "processes for durable runs that `penstock serve` starts beside them, where a pipeline"
        " has any",
    ),
    Setting(
        "PENSTOCK_WORKER_RUNS",
        "16",
        "durable runs of a pipeline that one such process performs at a time",
    ),
    Setting(
        "PENSTOCK_WORKER_CLASS",
        "penstock",
        "the kind of worker process: penstock (no client holds a thread), gthread (stock gunicorn),"
        " or another class of gunicorn's",
    ),
    Setting(
        "PENSTOCK_MAX_HEADER",
        "8190",
        "bytes of the longest header field, name and line end included: past it 431; tokens made"
        " here fit into it",
    ),
    Setting(
        "PENSTOCK_GRACEFUL_TIMEOUT",
        "30",
        "seconds that calls and runs under way get to end when a process stops",
    ),
    Setting(
        "PENSTOCK_DRAIN_DELAY",
        "0",
        "seconds in which a server that is told to stop is not ready (`/-/ready` is 503) and"
        " answers calls; longer than a load balancer's check",
    ),
    Setting("PENSTOCK_KEEP_ALIVE", "75", "seconds that an idle connection stays open"),
    Setting("PENSTOCK_LOG_FORMAT", "auto", "json, text, or auto: text on a terminal, else json"),
    Setting(
        "PENSTOCK_LOG_LEVEL",
        "info",
        "debug, info, warning or error: what Penstock and plugin code write; libraries write"
        " warnings and errors alone",
    ),
    Setting(
        "PENSTOCK_LOG_CALLS",
        "failed",
        "which calls are logged: none, failed (refused ones and errors) or all",
    ),
)
SECRET = frozenset(
    {
        "PENSTOCK_SECRET_KEY",
        "PENSTOCK_DATABASE_URL",
        "PENSTOCK_DATABASE_DIRECT_URL",
        "PENSTOCK_RATE_LIMIT_URL",
        "PENSTOCK_CONSOLE_OIDC_CLIENT_SECRET",
    }
)


NO_DATABASE_URL = "the default: PENSTOCK_DATABASE_URL is not set"
LOCAL = frozenset({"dev", "local", "test"})
LOOPBACK = ("127.", "localhost:", "[::1]:")


@dataclass(frozen=True, slots=True)
class Oidc:
    """An OpenID Connect provider through which users of the console sign in."""

    issuer: str
    client_id: str
    client_secret: str = field(repr=False)
    claim: str = "email"


@dataclass(frozen=True, slots=True)
class Settings:
    """All settings of one process; what may hold a secret is not in its repr."""

    environment: str = "test"
    database_url: str = field(default="sqlite:///penstock.db", repr=False)
    database_from: str = NO_DATABASE_URL  # where that URL comes from
    database_direct_url: str = field(default="", repr=False)
    secret_keys: tuple[str, ...] = field(default=(), repr=False)
    plugin_path: tuple[Path, ...] = ()
    allow: frozenset[str] = frozenset()
    deny: frozenset[str] = frozenset()
    strict: bool = False
    check_replies: str = "off"
    max_staleness: float = 60.0
    issuer: str = "penstock"
    api_key_headers: tuple[str, ...] = ("X-API-Key", "apikey")
    rate_limit_url: str = field(default="memory://", repr=False)
    rate_limit_away: str = "share"
    failed_auth_rate: str = "20/minute"
    trusted_proxies: tuple[IPv4Network | IPv6Network, ...] = ()
    forwarded_header: str = "X-Forwarded-For"
    client_cert_header: str = ""
    url: str = ""
    openapi: str = "auto"
    docs: str = "auto"
    pipelines: bool = True
    console: bool = False
    console_url: str = ""
    console_session: int = 12
    console_sign_in_rate: str = "10/minute"
    oidc: Oidc | None = None
    bind: str = "127.0.0.1:8000"
    internal_bind: str = ""
    metrics: str = "internal"
    workers: int = 2
    threads: int = 64
    worker: int = 1
    worker_runs: int = 16
    worker_class: str = "penstock"
    max_header: int = 8190
    graceful_timeout: int = 30
    drain_delay: int = 0
    keep_alive: int = 75
    log_format: str = "auto"
    log_level: str = "info"
    log_calls: str = "failed"

    @property
    def direct_url(self) -> str:
        """The database past any pooler."""
        return self.database_direct_url or self.database_url

    @property
    def console_prefix(self) -> str:
        """The path in front of the console's pages, where a proxy has one for them."""
        return urlsplit(self.console_url or self.url).path

    @property
    def local(self) -> bool:
        """Whether this is a developer's own server."""
        return self.environment in LOCAL and self.bind.startswith(LOOPBACK)

    @classmethod
    def from_env(cls, env: Mapping[str, str]) -> Settings:
        """Read the settings; raise BadSetting for what is unknown, malformed or unreadable."""
        read = _Reader(env)
        read.refuse_unknown()
        environment = read.text("PENSTOCK_ENVIRONMENT")
        if not ENVIRONMENT.fullmatch(environment):
            raise BadSetting(
                f"PENSTOCK_ENVIRONMENT is {environment!r}; an environment's name is like"
                f" {ENVIRONMENT.pattern}"
            )
        headers = read.words("PENSTOCK_API_KEY_HEADERS")
        if not headers or not all(HEADER.fullmatch(name) for name in headers):
            raise BadSetting(
                "PENSTOCK_API_KEY_HEADERS must name at least one header, letters, digits and"
                " dashes, separated by commas"
            )
        if any(name.lower() in {"authorization", "cookie", "host"} for name in headers):
            raise BadSetting(
                "PENSTOCK_API_KEY_HEADERS can't be a header with a meaning of its own; use one such"
                " as X-API-Key"
            )
        certificate = read.text("PENSTOCK_CLIENT_CERT_HEADER")
        if certificate and not HEADER.fullmatch(certificate):
            raise BadSetting(
                "PENSTOCK_CLIENT_CERT_HEADER must be the name of a header, letters, digits and"
                " dashes"
            )
        pipelines, console = read.flag("PENSTOCK_PIPELINES"), read.flag("PENSTOCK_CONSOLE")
        if not pipelines and not console:
            raise BadSetting(
                "PENSTOCK_PIPELINES is false and PENSTOCK_CONSOLE is not true: nothing would be"
                " served"
            )
        for name in ("PENSTOCK_OPENAPI", "PENSTOCK_DOCS"):
            if read.text(name).lower() == "sign-in" and not console:
                raise BadSetting(
                    f"{name} is sign-in, and there is none: set PENSTOCK_CONSOLE=true too"
                )
        return cls(
            environment=environment,
            database_url=read.database("PENSTOCK_DATABASE_URL"),
            database_from=read.source("PENSTOCK_DATABASE_URL") or NO_DATABASE_URL,
            database_direct_url=read.direct_url(),
            secret_keys=read.words("PENSTOCK_SECRET_KEY"),
            plugin_path=read.folders("PENSTOCK_PLUGIN_PATH"),
            allow=frozenset(read.words("PENSTOCK_PLUGINS_ALLOW")),
            deny=frozenset(read.words("PENSTOCK_PLUGINS_DENY")),
            strict=read.flag("PENSTOCK_STRICT"),
            check_replies=read.choice("PENSTOCK_CHECK_REPLIES", "off", "log", "fail"),
            max_staleness=read.number("PENSTOCK_MAX_STALENESS", 1, 86_400),
            issuer=read.text("PENSTOCK_ISSUER"),
            api_key_headers=headers,
            rate_limit_url=read.text("PENSTOCK_RATE_LIMIT_URL"),
            rate_limit_away=read.choice("PENSTOCK_RATE_LIMIT_AWAY", "share", "refuse"),
            failed_auth_rate=read.text("PENSTOCK_FAILED_AUTH_RATE"),
            trusted_proxies=read.networks("PENSTOCK_TRUSTED_PROXIES"),
            forwarded_header=read.choice(
                "PENSTOCK_FORWARDED_HEADER", "x-forwarded-for", "forwarded"
            ),
            client_cert_header=certificate,
            url=read.url("PENSTOCK_URL", "https://api.example.com/orders"),
            openapi=read.choice("PENSTOCK_OPENAPI", "auto", "true", "sign-in", "false"),
            docs=read.choice("PENSTOCK_DOCS", "auto", "true", "sign-in", "false"),
            pipelines=pipelines,
            console=console,
            console_url=read.url("PENSTOCK_CONSOLE_URL"),
            console_session=read.number("PENSTOCK_CONSOLE_SESSION", 1, 720),
            console_sign_in_rate=read.text("PENSTOCK_CONSOLE_SIGN_IN_RATE"),
            oidc=read.oidc(),
            bind=read.address("PENSTOCK_BIND"),
            internal_bind=read.second_address("PENSTOCK_INTERNAL_BIND", "PENSTOCK_BIND"),
            workers=read.number("PENSTOCK_WORKERS", 1, 1024),
            threads=read.number("PENSTOCK_THREADS", 1, 4096),
            worker=read.number("PENSTOCK_WORKER", 0, 64),
            worker_runs=read.number("PENSTOCK_WORKER_RUNS", 1, 1024),
            metrics=read.choice("PENSTOCK_METRICS", "internal", "everywhere", "off"),
            worker_class=read.text("PENSTOCK_WORKER_CLASS"),
            max_header=read.number("PENSTOCK_MAX_HEADER", 2048, 32_768),
            graceful_timeout=read.number("PENSTOCK_GRACEFUL_TIMEOUT", 1, 3600),
            drain_delay=read.number("PENSTOCK_DRAIN_DELAY", 0, 3600),
            keep_alive=read.number("PENSTOCK_KEEP_ALIVE", 0, 3600),
            log_format=read.choice("PENSTOCK_LOG_FORMAT", "auto", "json", "text"),
            log_level=read.choice("PENSTOCK_LOG_LEVEL", "debug", "info", "warning", "error"),
            log_calls=read.choice("PENSTOCK_LOG_CALLS", "none", "failed", "all"),
        )


class _Reader:
    """Reads one setting at a time, and says which one is wrong and how."""

    def __init__(self, env: Mapping[str, str]) -> None:
        self._env = env
        self._defaults = {row.name: row.default for row in SETTINGS}

    def refuse_unknown(self) -> None:
        known = set(self._defaults) | {f"{name}_FILE" for name in SECRET}
        for name in sorted(self._env):
            if name.startswith(PREFIX) and name not in known:
                near = difflib.get_close_matches(name, sorted(known), n=1)
                hint = f"; did you mean {near[0]}?" if near else "; `penstock settings` lists them"
                raise BadSetting(f"{name} is no setting of Penstock{hint}")

    def text(self, name: str) -> str:
        file = self._env.get(f"{name}_FILE") if name in SECRET else None
        if file:
            if self._env.get(name):
                raise BadSetting(f"{name} and {name}_FILE are both set; keep one")
            try:
                return Path(file).read_text(encoding="utf-8").strip()
            except (OSError, UnicodeDecodeError) as error:
                raise BadSetting(
                    f"{name}_FILE: can't read {file}: {error.__class__.__name__}"
                ) from None
        value = self._env.get(name, "").strip()
        return value or self._defaults[name]

    def source(self, name: str) -> str:
        """Return the name of the variable that sets a setting, or nothing where none does."""
        return next(
            (wanted for wanted in (f"{name}_FILE", name) if self._env.get(wanted, "").strip()), ""
        )

    def words(self, name: str) -> tuple[str, ...]:
        return tuple(word for word in re.split(r"[,\s]+", self.text(name)) if word)

    def flag(self, name: str) -> bool:
        return self.choice(name, "true", "false") == "true"

    def choice(self, name: str, *options: str) -> str:
        value = self.text(name).lower()
        if value not in options:
            raise BadSetting(
                f"{name} must be {', '.join(options[:-1])} or {options[-1]}, not {value!r}"
            )
        return value

    def number(self, name: str, least: int, most: int) -> int:
        value = self.text(name)
        if not re.fullmatch(r"\d{1,9}", value, re.ASCII) or not least <= int(value) <= most:
            raise BadSetting(f"{name} must be a whole number from {least} to {most}, not {value!r}")
        return int(value)

    def address(self, name: str) -> str:
        value = self.text(name)
        match = ADDRESS.fullmatch(value)
        if match is None or int(match["port"] or 0) > 65_535:  # noqa: PLR2004  the largest port
            raise BadSetting(
                f"{name} must be like 127.0.0.1:8000, [::1]:8000 or unix:/run/penstock.sock, not"
                f" {value!r}"
            )
        return value

    def second_address(self, name: str, first: str) -> str:
        value = self.text(name)
        if not value:
            return ""
        match = ADDRESS.fullmatch(value)
        if match is None or value.startswith("fd:") or int(match["port"] or 0) > 65_535:  # noqa: PLR2004  the largest port
            raise BadSetting(
                f"{name} must be like 127.0.0.1:9000, [::1]:9000 or"
                f" unix:/run/penstock-internal.sock, not {value!r}"
            )
        other = ADDRESS.fullmatch(self.address(first))
        if value == self.text(first) or (
            other is not None and match["port"] and int(match["port"]) == int(other["port"] or 0)
        ):
            raise BadSetting(
                f"{name} must have another port than {first}: calls are told apart by it"
            )
        return value

    def url(self, name: str, example: str = "https://ops.example.com") -> str:
        value = self.text(name)
        match = URL.fullmatch(value)
        if value and (match is None or int(match["port"] or 0) > 65_535):  # noqa: PLR2004  the largest port
            raise BadSetting(
                f"{name} must be like {example}: scheme, host and at most a path, in ASCII, without"
                " user, query or fragment"
            )
        return value.rstrip("/")

    def database(self, name: str) -> str:
        value = self.text(name)
        try:
            _ = urlsplit(value).port
        except ValueError:
            raise BadSetting(
                f"{name} has no port that there can be; write postgresql://user@host:5432/name"
            ) from None
        return value

    def direct_url(self) -> str:
        value = self.database("PENSTOCK_DATABASE_DIRECT_URL")
        if value and not all(
            url.startswith("postgresql") for url in (value, self.text("PENSTOCK_DATABASE_URL"))
        ):
            raise BadSetting(
                "PENSTOCK_DATABASE_DIRECT_URL is for PostgreSQL: write postgresql://user@host/name,"
                " and in PENSTOCK_DATABASE_URL the pooler's"
            )
        return value

    def oidc(self) -> Oidc | None:
        issuer = self.url("PENSTOCK_CONSOLE_OIDC_ISSUER")
        if not issuer:
            return None
        needed = (
            "PENSTOCK_CONSOLE_URL",
            "PENSTOCK_CONSOLE_OIDC_CLIENT_ID",
            "PENSTOCK_CONSOLE_OIDC_CLIENT_SECRET",
        )
        missing = [name for name in needed if not self.text(name)]
        if missing:
            raise BadSetting(
                f"PENSTOCK_CONSOLE_OIDC_ISSUER is set; set {' and '.join(missing)} too"
            )
        secret = self.text("PENSTOCK_CONSOLE_OIDC_CLIENT_SECRET")
        return Oidc(
            issuer,
            self.text("PENSTOCK_CONSOLE_OIDC_CLIENT_ID"),
            secret,
            self.text("PENSTOCK_CONSOLE_OIDC_CLAIM"),
        )

    def networks(self, name: str) -> tuple[IPv4Network | IPv6Network, ...]:
        try:
            return tuple(network_of(word) for word in self.words(name))
        except ValueError as error:
            raise BadSetting(
                f"{name}: {error}; write networks such as 10.0.0.0/8, 127.0.0.1 or fd00::/8"
            ) from None

    def folders(self, name: str) -> tuple[Path, ...]:
        chosen = self._env.get(name, "").strip()
        if not chosen:
            default = Path(self._defaults[name])
            return (default.resolve(),) if default.is_dir() else ()
        folders = tuple(Path(part).expanduser().resolve() for part in chosen.split(":") if part)
        for folder in folders:
            if not folder.is_dir():
                raise BadSetting(f"{name}: {folder} is no folder")
        return folders
