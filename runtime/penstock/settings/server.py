"""Settings of listeners, processes, time limits and logs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from penstock.settings import parsers
from penstock.settings.declaration import setting


@dataclass(frozen=True)
class ServerSettings:
    """Where a server listens, how many processes it starts, and what they log."""

    bind: str = setting(
        "127.0.0.1:8000", parsers.address, "Address and port of the server, or unix:PATH."
    )
    internal_bind: str = setting(
        "",
        parsers.internal_address,
        "Address and port of a second listener, for internal pipelines only. Empty: internal"
        " pipelines are not served.",
    )
    metrics: Literal["internal", "everywhere", "off"] = setting(
        "internal",
        parsers.one_of("internal", "everywhere", "off"),
        "Where Prometheus can read `/-/metrics`: internal (the second listener only), everywhere or"
        " off.",
    )
    workers: int = setting(
        "2", parsers.whole_number(1, 1024), "Number of web processes, which answer calls."
    )
    threads: int = setting(
        "64", parsers.whole_number(1, 4096), "Calls that one web process answers at a time."
    )
    worker: int = setting(
        "1",
        parsers.whole_number(0, 64),
        "Number of worker processes, which perform durable runs. `penstock serve` starts them if a"
        " pipeline has durable runs.",
    )
    worker_runs: int = setting(
        "16",
        parsers.whole_number(1, 1024),
        "Durable runs of one pipeline that one worker process performs at a time.",
    )
    worker_class: str = setting(
        "penstock",
        parsers.text,
        "Class of the web processes: penstock (an idle client occupies no thread), gthread (stock"
        " gunicorn) or another class of gunicorn.",
    )
    max_header: int = setting(
        "8190",
        parsers.whole_number(2048, 32_768),
        "Longest header field, in bytes with its name and line end; longer ones get 431. Tokens of"
        " login flows fit into it.",
    )
    graceful_timeout: int = setting(
        "30",
        parsers.whole_number(1, 3600),
        "Seconds that active calls and runs have to end when a process stops.",
    )
    drain_delay: int = setting(
        "0",
        parsers.whole_number(0, 3600),
        "Seconds that a stopping server still answers calls while `/-/ready` is 503. Set it longer"
        " than the interval of a load balancer's health check.",
    )
    keep_alive: int = setting(
        "75", parsers.whole_number(0, 3600), "Seconds that an idle connection stays open."
    )
    log_format: Literal["auto", "json", "text"] = setting(
        "auto",
        parsers.one_of("auto", "json", "text"),
        "Format of the log: json, text, or auto (text on a terminal, else json).",
    )
    log_level: Literal["debug", "info", "warning", "error"] = setting(
        "info",
        parsers.one_of("debug", "info", "warning", "error"),
        "Lowest level that Penstock and plugin code log: debug, info, warning or error. Libraries"
        " log warnings and errors only.",
    )
    log_levels: tuple[tuple[str, str], ...] = setting(
        "",
        parsers.levels,
        "Levels of single plugins or loggers, separated by commas: shop=debug,httpx=info. That of a"
        " plugin is the level of all its loggers, and of `call.log` in its pipelines.",
    )
    log_calls: Literal["none", "failed", "all"] = setting(
        "failed",
        parsers.one_of("none", "failed", "all"),
        "Calls that are logged: none, failed (rejected calls and errors) or all.",
    )
