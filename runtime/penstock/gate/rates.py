"""Count calls against their pipeline's rates. The `limits` library keeps the windows: in memory, or in Redis for several processes."""

from __future__ import annotations

import math
import time
from collections import OrderedDict
from collections.abc import Sequence
from ipaddress import ip_address, ip_network

import structlog
from limits import RateLimitItemPerSecond
from limits.errors import ConfigurationError, StorageError
from limits.storage import MemoryStorage, storage_from_string
from limits.strategies import FixedWindowRateLimiter, MovingWindowRateLimiter

from penstock import metrics
from penstock.contracts.call import Caller
from penstock.contracts.rates import Rate
from penstock.errors import CannotStart, Refusal

PAUSE = 1.0  # seconds without asking a storage that failed: its timeout must not slow down every call
PATIENCE = 0.25  # seconds that Redis may take
TELL = 60.0  # seconds between two lines of the log about the same caller
TOLD = 1024
EVERYWHERE = "/*"  # the end of a place where calls of all pipelines are counted together
MOST = 50_000  # callers in memory

Headers = list[tuple[str, str]]


def network_of(address: str) -> str:
    """Return what calls from an address are counted by: itself, or the /64 network of IPv6, which one caller has as a whole."""
    try:
        parsed = ip_address(address)
    except ValueError:
        return address
    return str(ip_network((parsed, 64), strict=False)) if parsed.version == 6 else address  # noqa: PLR2004  the version of IP


def _name(place: str, rate: Rate) -> str:
    return f"{rate}, all pipelines" if place.endswith(EVERYWHERE) else str(rate)


def rate_limited(wait: float, headers: Headers) -> Refusal:
    """Return the answer for one call too many; `wait` is in seconds."""
    seconds = max(1, math.ceil(wait))
    detail = f"Too many calls; the next one has room in {seconds} second{'s' if seconds > 1 else ''}."
    return Refusal(429, "rate-limited", detail, headers=[("Retry-After", str(seconds)), *headers])


class Limiter:
    """Counts calls; one that is refused counts for nothing. And counts failed credentials, by address.

    `failures` is how many an address may fail with, or None for no limit.
    """

    def __init__(self, url: str, *, pass_when_away: bool, failures: Rate | None = None) -> None:
        options = {"socket_timeout": PATIENCE, "socket_connect_timeout": PATIENCE} if url.startswith("redis") else {}
        try:
            self._storage = storage_from_string(url, wrap_exceptions=True, **options)
        except ConfigurationError as error:
            raise CannotStart(f"PENSTOCK_RATE_LIMIT_URL: {error}; use memory:// or redis://HOST:PORT") from None
        except ValueError as error:
            raise CannotStart(f"PENSTOCK_RATE_LIMIT_URL can't be used: {type(error).__name__}; use memory:// or redis://HOST:PORT") from None
        self._windows = MovingWindowRateLimiter(self._storage)
        self._fixed = FixedWindowRateLimiter(self._storage)
        self._failures = failures
        self._told: OrderedDict[tuple[str, str, str], float] = OrderedDict()
        self._pass_when_away = pass_when_away
        self._away_until = 0.0
        self._log = structlog.get_logger("penstock")

    @property
    def shared(self) -> bool:
        """Say whether several processes count together."""
        return not isinstance(self._storage, MemoryStorage)

    @property
    def away(self) -> bool:
        """Say whether the storage failed a moment ago."""
        return time.monotonic() < self._away_until

    def count(self, rates: Sequence[tuple[str, Rate]], caller: Caller, address: str) -> Headers:
        """Count a call against rates, each at its place (`prod/v1/orders`), and return the RateLimit headers of its reply. Raises Refusal.

        The headers are those of draft-ietf-httpapi-ratelimit-headers-10.
        """
        if self.away:
            return self._away()
        whose = {"consumer": caller.consumer or address, "key": caller.key_id or address, "address": network_of(address), "pipeline": ""}
        windows = [(rate, RateLimitItemPerSecond(rate.count, rate.seconds), (place, rate.by, whose[rate.by])) for place, rate in rates]
        try:
            room = all(self._windows.test(item, *who) for _, item, who in windows)
            room = room and all(self._windows.hit(item, *who) for _, item, who in windows)
            found = [(rate, *self._windows.get_window_stats(item, *who)) for rate, item, who in windows]
        except StorageError as error:
            self._away_until = time.monotonic() + PAUSE
            self._log.error("rate limit storage away", error=str(error), calls="pass" if self._pass_when_away else "refused")
            return self._away()
        now = time.time()
        headers = [
            ("RateLimit-Policy", ", ".join(f'"{_name(*item)}";q={item[1].count};w={item[1].seconds}' for item in rates)),
            (
                "RateLimit",
                ", ".join(
                    f'"{_name(*item)}";r={max(0, left)};t={max(0, math.ceil(reset - now))}'
                    for item, (_, reset, left) in zip(rates, found, strict=True)
                ),
            ),
        ]
        if not room:
            for (place, rate), (_, _, left) in zip(rates, found, strict=True):
                if left <= 0:
                    self._tell("rate used up", place, str(rate), whose[rate.by])
            raise rate_limited(max((reset - now for _, reset, left in found if left <= 0), default=1), headers)
        self._prune()
        return headers

    def fail(self, environment: str, address: str) -> None:
        """Count a credential that was no good. Raises Refusal where its address had too many of them."""
        if self._failures is None or self.away:
            return
        item = RateLimitItemPerSecond(self._failures.count, self._failures.seconds)
        who = ("failed", environment, network_of(address))
        try:
            room = self._fixed.hit(item, *who)
            reset = 0.0 if room else self._fixed.get_window_stats(item, *who).reset_time
        except StorageError as error:
            self._away_until = time.monotonic() + PAUSE
            self._log.error("rate limit storage away", error=str(error), calls="pass")
            return
        if not room:
            self._tell("too many failed credentials", environment, str(self._failures), who[-1])
            raise rate_limited(reset - time.time(), [])

    def _tell(self, event: str, place: str, rate: str, who: str) -> None:
        """Log once a minute what would otherwise be a line for each call."""
        now = time.monotonic()
        if now - self._told.get((event, place, who), float("-inf")) < TELL:
            return
        self._told[event, place, who] = now
        self._told.move_to_end((event, place, who))
        if len(self._told) > TOLD:
            self._told.popitem(last=False)
        self._log.warning(event, place=place, rate=rate, who=who)

    def _prune(self) -> None:
        """Forget who has not called for long; the library keeps their names in memory for ever."""
        if isinstance(self._storage, MemoryStorage) and len(self._storage.events) > MOST:
            for name in [name for name, events in list(self._storage.events.items()) if not events]:
                self._storage.events.pop(name, None)

    def _away(self) -> Headers:
        if self._pass_when_away:
            metrics.uncounted()
            return []
        raise Refusal(503, "pipeline-unavailable", "This pipeline is not available at the moment.", headers=[("Retry-After", "1")])
