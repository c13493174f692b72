"""Count calls against their pipeline's rates. The `limits` library keeps the windows: in memory, or in Redis for several processes."""

from __future__ import annotations

import math
import time
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import structlog
from limits import RateLimitItemPerSecond
from limits.errors import StorageError
from limits.storage import Storage, storage_from_string
from limits.strategies import FixedWindowRateLimiter, MovingWindowRateLimiter

from penstock import metrics
from penstock.cidr import caller_network
from penstock.contracts.call import Caller
from penstock.contracts.rates import Rate
from penstock.errors import CannotStart, CredentialRejected, Refusal
from penstock.gate.guesses import Guesses, Look
from penstock.gate.memory import MOST, Memory

PAUSE = 1.0  # seconds without asking a storage that failed: its timeout must not slow down every call
PATIENCE = 0.25  # seconds that Redis may take
TELL = 60.0  # seconds between two lines of the log about the same caller
TOLD = 1024
EVERYWHERE = "/*"  # the end of a place where calls of all pipelines are counted together

Headers = list[tuple[str, str]]


def _name(place: str, rate: Rate) -> str:
    return f"{rate}, all pipelines" if place.endswith(EVERYWHERE) else str(rate)


def rate_limited(wait: float, headers: Headers) -> Refusal:
    """Return the answer for one call too many; `wait` is in seconds."""
    seconds = max(1, math.ceil(wait))
    detail = f"Too many calls; the next one has room in {seconds} second{'s' if seconds > 1 else ''}."
    return Refusal(429, "rate-limited", detail, headers=[("Retry-After", str(seconds)), *headers])


def _storage(url: str) -> Storage:
    """Return where calls are counted. Raises CannotStart, which does not repeat the URL: it may hold a password."""
    if url.partition(":")[0] == "memory":
        return Memory(MOST)
    options = {"socket_timeout": PATIENCE, "socket_connect_timeout": PATIENCE} if url.startswith("redis") else {}
    try:
        storage = storage_from_string(url, wrap_exceptions=True, **options)
    except Exception:  # noqa: BLE001  each library behind it has errors of its own, and their texts may hold the URL
        storage = None
    if not isinstance(storage, Storage):
        raise CannotStart("PENSTOCK_RATE_LIMIT_URL can't be used; write memory://, or redis://HOST:PORT with penstock[redis] installed")
    return storage


class Limiter:
    """Counts calls; one that is refused counts for nothing. And counts failed credentials, by address.

    `failures` is how many an address may fail with, or None for no limit.
    """

    def __init__(self, url: str, *, pass_when_away: bool, failures: Rate | None = None) -> None:
        self._storage = _storage(url)
        self._windows = MovingWindowRateLimiter(self._storage)
        self._fixed = FixedWindowRateLimiter(self._storage)
        self._failures = failures
        self._guesses = Guesses(self._storage, failures) if failures is not None else None
        self._told: OrderedDict[tuple[str, ...], float] = OrderedDict()
        self._pass_when_away = pass_when_away
        self._away_until = 0.0
        self._log = structlog.get_logger("penstock")

    @property
    def shared(self) -> bool:
        """Say whether several processes count together."""
        return not isinstance(self._storage, Memory)

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
        network = caller_network(address)
        consumer = caller.consumer or network
        whose = {"consumer": consumer, "key": caller.key_id or consumer, "address": network, "pipeline": ""}
        windows = [(rate, RateLimitItemPerSecond(rate.count, rate.seconds), (place, rate.by, whose[rate.by])) for place, rate in rates]
        try:
            room = all(self._windows.test(item, *who) for _, item, who in windows)
            room = room and all(self._windows.hit(item, *who) for _, item, who in windows)
            found = [(rate, *self._windows.get_window_stats(item, *who)) for rate, item, who in windows]
        except StorageError as error:
            self._lose(error)
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
                    self._tell("rate used up", place=place, rate=str(rate), who=whose[rate.by])
            raise rate_limited(max((reset - now for _, reset, left in found if left <= 0), default=1), headers)
        if isinstance(self._storage, Memory) and self._storage.forgotten:
            self._storage.forgotten = False
            self._tell("more callers than memory has room for", mend="set PENSTOCK_RATE_LIMIT_URL, or who called long ago can call anew")
        return headers

    def fail(self, environment: str, address: str) -> None:
        """Count a credential that was no good. Raises Refusal where its address had too many of them."""
        if self._failures is not None and not self.away:
            self._count_failure(self._failures, environment, caller_network(address))

    @contextmanager
    def guess(self, environment: str, address: str) -> Iterator[Look]:
        """Count a look at a credential that can be guessed, before it is taken; whoever looks says whether it was right.

        Raises Refusal: 429 where the address has failed too often, 503 where the looks it has left are all under way.
        """
        look = None if self._guesses is None else self._begin_look(self._guesses, environment, caller_network(address))
        if look is None or self._guesses is None:
            yield Look()
            return
        try:
            yield look
        except Refusal as error:
            look.right = not isinstance(error.__cause__, CredentialRejected)  # it was refused before anybody looked
            raise
        finally:
            try:
                self._guesses.end(look)
            except StorageError as error:
                self._lose(error)

    def _begin_look(self, guesses: Guesses, environment: str, network: str) -> Look | None:
        """Take a count for a look, or return None where that can't be counted and may pass. Raises Refusal."""
        if self.away:
            self._away()
            return None
        try:
            look = guesses.begin(environment, network)
        except StorageError as error:
            self._lose(error)
            self._away()
            return None
        if isinstance(look, float):
            self._tell("too many failed credentials", place=environment, rate=str(self._failures), who=network)
            raise rate_limited(look, [])
        return look

    def _count_failure(self, failures: Rate, environment: str, network: str) -> None:
        item = RateLimitItemPerSecond(failures.count, failures.seconds)
        who = ("failed", environment, network)
        try:
            room = self._fixed.hit(item, *who)
            reset = 0.0 if room else self._fixed.get_window_stats(item, *who).reset_time
        except StorageError as error:
            self._lose(error)
            return
        if not room:
            self._tell("too many failed credentials", place=environment, rate=str(failures), who=network)
            raise rate_limited(reset - time.time(), [])

    def _lose(self, error: StorageError) -> None:
        self._away_until = time.monotonic() + PAUSE
        self._log.error("rate limit storage away", error=str(error), calls="pass" if self._pass_when_away else "refused")

    def _tell(self, event: str, **facts: str) -> None:
        """Log once a minute what would otherwise be a line for each call."""
        now = time.monotonic()
        told = event, *facts.values()
        if now - self._told.get(told, float("-inf")) < TELL:
            return
        self._told[told] = now
        self._told.move_to_end(told)
        if len(self._told) > TOLD:
            self._told.popitem(last=False)
        self._log.warning(event, **facts)

    def _away(self) -> Headers:
        if self._pass_when_away:
            metrics.uncounted()
            return []
        raise Refusal(503, "pipeline-unavailable", "This pipeline is not available at the moment.", headers=[("Retry-After", "1")])
