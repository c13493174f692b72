"""Count calls against the rates of their pipeline and their consumer.

The `limits` library keeps the windows, in memory or in Redis for several processes.

While Redis is away, each process counts in its own memory, with its share of every limit: the limit
divided by the web processes of its host, at least 1. So one host accepts no more calls than before,
except for limits smaller than its number of processes. N hosts accept N times the limit. The calls
that meet the outage first wait for Redis, `REDIS_TIMEOUT_S` at most. From then on a thread probes
Redis, and no call does.
"""

from __future__ import annotations

import math
import threading
import time
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import NamedTuple

import structlog
from limits import RateLimitItemPerSecond
from limits.errors import StorageError
from limits.storage import Storage, storage_from_string
from limits.strategies import FixedWindowRateLimiter, MovingWindowRateLimiter

from penstock import metrics, threads
from penstock.contracts.call import Caller
from penstock.contracts.networks import caller_network
from penstock.contracts.rates import Rate
from penstock.errors import CannotStart, CredentialRejected, Refusal
from penstock.gate.guesses import Guess, GuessCounter
from penstock.gate.memory_storage import MAX_CALLERS, MemoryStorage

PROBE_INTERVAL_S = 1.0  # between two probes of a storage that is away
REDIS_TIMEOUT_S = 0.25
LOG_INTERVAL_S = 60.0  # between two lines of the log about the same caller
MAX_LOGGED = 1024  # callers that are remembered for that
ALONE = "counted by each process alone, by its share of each limit"
REJECTED = "rated calls get 503"
EVERYWHERE = "/*"  # the end of a place where calls of all pipelines are counted together

Headers = list[tuple[str, str]]
Key = tuple[str, str, str]  # place, kind of caller, and caller


def _name(place: str, rate: Rate) -> str:
    return f"{rate}, all pipelines" if place.endswith(EVERYWHERE) else str(rate)


def rate_limited(wait: float, headers: Headers) -> Refusal:
    """Return the problem for one call too many. `wait` is in seconds."""
    seconds = max(1, math.ceil(wait))
    detail = (
        f"Too many calls; the next one has room in {seconds} second{'s' if seconds > 1 else ''}."
    )
    return Refusal(429, "rate-limited", detail, headers=[("Retry-After", str(seconds)), *headers])


def _storage(url: str) -> Storage:
    """Return the storage of a URL.

    Raises CannotStart, whose text does not contain the URL: it may hold a password.
    """
    if url.partition(":")[0] == "memory":
        return MemoryStorage(MAX_CALLERS)
    options = (
        {"socket_timeout": REDIS_TIMEOUT_S, "socket_connect_timeout": REDIS_TIMEOUT_S}
        if url.startswith("redis")
        else {}
    )
    try:
        storage = storage_from_string(url, wrap_exceptions=True, **options)
    except Exception:  # noqa: BLE001  each library behind it has errors of its own, and their texts may hold the URL
        storage = None
    if not isinstance(storage, Storage):
        raise CannotStart(
            "PENSTOCK_RATE_LIMIT_URL can't be used; write memory://, or redis://HOST:PORT, which"
            " needs `pip install 'limits[redis]'` beside Penstock"
        )
    return storage


def _unavailable() -> Refusal:
    return Refusal(
        503,
        "pipeline-unavailable",
        "This pipeline is not available at the moment.",
        headers=[("Retry-After", "1")],
    )


class Quota(NamedTuple):
    """What is left of a rate: `reset` is when it is whole again, in seconds since the epoch."""

    name: str
    rate: Rate
    item: RateLimitItemPerSecond
    key: Key
    reset: float
    remaining: int


class RateCounter:
    """Counts in one storage, with a share of each limit: the limit divided by `processes`."""

    def __init__(self, storage: Storage, processes: int = 1) -> None:
        self.storage = storage
        self.windows = MovingWindowRateLimiter(storage)
        self.fixed = FixedWindowRateLimiter(storage)
        self._processes = processes

    def item(self, rate: Rate) -> RateLimitItemPerSecond:
        """Return this process's share of a rate, in the type of the library."""
        return RateLimitItemPerSecond(max(1, rate.count // self._processes), rate.seconds)

    def guesses(self, failures: Rate) -> GuessCounter:
        """Return what counts guesses at credentials."""
        return GuessCounter(self.storage, self.item(failures))

    def probe(self) -> None:
        """Raise StorageError unless the storage can be written to, as for a call."""
        self.windows.hit(RateLimitItemPerSecond(1, 1), "probe")
        self.fixed.hit(RateLimitItemPerSecond(1, 1), "probe", "fixed")


class Limiter:
    """Counts accepted calls by rate, and failed credentials by address.

    `failures` is the rate of failed credentials of an address, None for no limit. `processes` are
    the processes of this host, which share each limit while the storage is away. With
    `refuse_when_away`, rated calls and guesses of passwords are rejected then.
    """

    def __init__(
        self,
        url: str,
        *,
        failures: Rate | None = None,
        processes: int = 1,
        refuse_when_away: bool = False,
    ) -> None:
        self._shared = RateCounter(_storage(url))
        self._alone = (
            RateCounter(MemoryStorage(MAX_CALLERS), processes) if self.shared else self._shared
        )
        self._failures = failures
        self._guesses = (
            None
            if failures is None
            else (self._shared.guesses(failures), self._alone.guesses(failures))
        )
        self._logged_at: OrderedDict[tuple[str, ...], float] = OrderedDict()
        self._refuse_when_away = refuse_when_away
        self._losing = threading.Lock()
        self._stopped = threading.Event()
        self._log = structlog.get_logger("penstock")
        self.away: str | None = None  # how calls are counted while the storage is away

    @property
    def shared(self) -> bool:
        """Whether several processes count together."""
        return not isinstance(self._shared.storage, MemoryStorage)

    def probe(self) -> None:
        """Find out whether the storage answers, before a call has to."""
        try:
            if self.shared:
                self._shared.probe()
        except StorageError as error:
            self._lose(error)

    def stop(self) -> None:
        """Stop probing a storage that is away."""
        self._stopped.set()

    def count(self, rates: Sequence[tuple[str, Rate]], caller: Caller, address: str) -> Headers:
        """Count a call against rates, each at its place (`prod/v1/orders`).

        Return the RateLimit headers of its reply, as in draft-ietf-httpapi-ratelimit-headers-10;
        their quota is that of this process. Raises Refusal.
        """
        if self.away is None:
            try:
                return self._count(self._shared, rates, caller, address)
            except StorageError as error:
                self._lose(error)
        if self._refuse_when_away:
            raise _unavailable()
        metrics.count_local_rate_check()
        return self._count(self._alone, rates, caller, address)

    def used(self, place: str, rate: Rate, who: str = "") -> int | None:
        """Return the calls that are counted now; None where other processes count apart."""
        if not self.shared or self.away is not None:
            return None
        try:
            item = self._shared.item(rate)
            stats = self._shared.windows.get_window_stats(item, place, rate.by, who)
        except StorageError as error:
            self._lose(error)
            return None
        return int(item.amount - stats.remaining)

    def _count(
        self,
        counter: RateCounter,
        rates: Sequence[tuple[str, Rate]],
        caller: Caller,
        address: str,
    ) -> Headers:
        windows = list(_windows(counter, rates, caller, address))
        room = all(counter.windows.test(item, *key) for _, item, key in windows)
        room = room and all(counter.windows.hit(item, *key) for _, item, key in windows)
        quotas = [
            Quota(
                _name(key[0], rate), rate, item, key, *counter.windows.get_window_stats(item, *key)
            )
            for rate, item, key in windows
        ]
        now = time.time()
        headers = _headers(quotas, now)
        if not room:
            used_up = [quota for quota in quotas if quota.remaining <= 0]
            for quota in used_up:
                place, _, who = quota.key
                self._log_rarely("rate used up", place=place, rate=str(quota.rate), who=who)
            raise rate_limited(max((quota.reset - now for quota in used_up), default=1), headers)
        if isinstance(counter.storage, MemoryStorage) and counter.storage.forgotten:
            counter.storage.forgotten = False
            self._log_rarely(
                "more callers than memory has room for",
                fix="set PENSTOCK_RATE_LIMIT_URL, or a removed caller has its whole limit again",
            )
        return headers

    def fail(self, environment: str, address: str) -> None:
        """Count a failed credential. Raises Refusal if its address has too many of them."""
        if self._failures is None:
            return
        network = caller_network(address)
        if self.away is None:
            try:
                self._count_failure(self._shared, self._failures, environment, network)
            except StorageError as error:
                self._lose(error)
            else:
                return
        self._count_failure(self._alone, self._failures, environment, network)

    def _count_failure(
        self, counter: RateCounter, failures: Rate, environment: str, network: str
    ) -> None:
        item = counter.item(failures)
        who = ("failed", environment, network)
        if not counter.fixed.hit(item, *who):
            reset = counter.fixed.get_window_stats(item, *who).reset_time
            self._log_rarely(
                "too many failed credentials", place=environment, rate=str(failures), who=network
            )
            raise rate_limited(reset - time.time(), [])

    @contextmanager
    def guess(self, environment: str, address: str) -> Iterator[Guess]:
        """Count a guess at a credential before it is checked; the block sets `right`.

        Raises Refusal: 429 where the address has failed too often, 503 where its other guesses hold
        all counts.
        """
        if self._guesses is None:
            yield Guess()
            return
        counter, guess = self._begin(*self._guesses, environment, caller_network(address))
        try:
            yield guess
        except Refusal as error:
            # A call that was rejected before the check costs no count.
            guess.right = not isinstance(error.__cause__, CredentialRejected)
            raise
        finally:
            try:
                counter.end(guess)
            except StorageError as error:
                self._lose(error)

    def _begin(
        self, shared: GuessCounter, alone: GuessCounter, environment: str, network: str
    ) -> tuple[GuessCounter, Guess]:
        """Take a count for a guess, and return it with its counter. Raises Refusal."""
        counter, guess = shared, None
        if self.away is None:
            try:
                guess = shared.begin(environment, network)
            except StorageError as error:
                self._lose(error)
        if guess is None:
            if self._refuse_when_away:
                raise _unavailable()
            counter, guess = alone, alone.begin(environment, network)
        if isinstance(guess, float):
            self._log_rarely(
                "too many failed credentials",
                place=environment,
                rate=str(self._failures),
                who=network,
            )
            raise rate_limited(guess, [])
        return counter, guess

    def _lose(self, error: StorageError) -> None:
        """Count without the storage from now on, and probe it until it is back."""
        with self._losing:
            if self.away is not None:
                return
            self.away = REJECTED if self._refuse_when_away else ALONE
            self._log.error("rate limit storage away", error=str(error), calls=self.away)
            threads.start(
                "penstock-rates", self._regain, limit=PROBE_INTERVAL_S * 10, essential=False
            )

    def _regain(self, thread: threads.MonitoredThread) -> None:
        while not self._stopped.wait(PROBE_INTERVAL_S):
            thread.heartbeat()
            try:
                self._shared.probe()
            except Exception:  # noqa: BLE001, S112  the storage is still away, which was logged when it began
                continue
            self.away = None
            self._log.info("rate limit storage back")
            return

    def _log_rarely(self, event: str, **facts: str) -> None:
        """Log once a minute what would otherwise be a line for each call."""
        now = time.monotonic()
        key = event, *facts.values()
        if now - self._logged_at.get(key, float("-inf")) < LOG_INTERVAL_S:
            return
        self._logged_at[key] = now
        self._logged_at.move_to_end(key)
        if len(self._logged_at) > MAX_LOGGED:
            self._logged_at.popitem(last=False)
        self._log.warning(event, **facts)


def _windows(
    counter: RateCounter, rates: Sequence[tuple[str, Rate]], caller: Caller, address: str
) -> Iterator[tuple[Rate, RateLimitItemPerSecond, Key]]:
    """Yield the window of each rate: the rate, this process's share, and the counted key."""
    network = caller_network(address)
    consumer = caller.consumer or network
    counted = {
        "consumer": consumer,
        "key": caller.key_id or consumer,
        "address": network,
        "pipeline": "",
    }
    for place, rate in rates:
        yield rate, counter.item(rate), (place, rate.by, counted[rate.by])


def _headers(quotas: Sequence[Quota], now: float) -> Headers:
    policies = (f'"{quota.name}";q={quota.item.amount};w={quota.rate.seconds}' for quota in quotas)
    states = (
        f'"{quota.name}";r={max(0, quota.remaining)};t={max(0, math.ceil(quota.reset - now))}'
        for quota in quotas
    )
    return [("RateLimit-Policy", ", ".join(policies)), ("RateLimit", ", ".join(states))]
