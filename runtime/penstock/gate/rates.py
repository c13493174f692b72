"""Count calls against their pipeline's rates.

The `limits` library keeps the windows: in memory, or in Redis for several processes.

While Redis can't be reached each process counts in its own memory, by a share of every limit: the
limit divided by the web processes of its host, at least 1. So one host lets no more through than
before (but for limits smaller than its number of processes), and N hosts let N times the limit
through. The calls that meet the fault first wait for it, `MAX_BUSY_S` at most; after that a thread
asks Redis, and no call does.
"""

from __future__ import annotations

import math
import threading
import time
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

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
from penstock.gate.guesses import Guesses, Look
from penstock.gate.memory_storage import MOST, Memory

PAUSE = 1.0  # seconds between two tries to reach a storage that failed
PATIENCE = 0.25  # seconds that Redis may take
TELL = 60.0  # seconds between two lines of the log about the same caller
TOLD = 1024
ALONE = "counted by each process alone, by its share of each limit"
REFUSED = "rated calls get 503"
EVERYWHERE = "/*"  # the end of a place where calls of all pipelines are counted together

Headers = list[tuple[str, str]]


def _name(place: str, rate: Rate) -> str:
    return f"{rate}, all pipelines" if place.endswith(EVERYWHERE) else str(rate)


def rate_limited(wait: float, headers: Headers) -> Refusal:
    """Return the answer for one call too many; `wait` is in seconds."""
    seconds = max(1, math.ceil(wait))
    detail = (
        f"Too many calls; the next one has room in {seconds} second{'s' if seconds > 1 else ''}."
    )
    return Refusal(429, "rate-limited", detail, headers=[("Retry-After", str(seconds)), *headers])


def _storage(url: str) -> Storage:
    """Return where calls are counted.

    Raises CannotStart, which does not repeat the URL: it may hold a password.
    """
    if url.partition(":")[0] == "memory":
        return Memory(MOST)
    options = (
        {"socket_timeout": PATIENCE, "socket_connect_timeout": PATIENCE}
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


class Counter:
    """Counts in one storage, by a share of each limit.

    The limit divided by `processes`, at least 1.
    """

    def __init__(self, storage: Storage, processes: int = 1) -> None:
        self.storage = storage
        self.windows = MovingWindowRateLimiter(storage)
        self.fixed = FixedWindowRateLimiter(storage)
        self._processes = processes

    def item(self, rate: Rate) -> RateLimitItemPerSecond:
        """Return what the library is asked for."""
        return RateLimitItemPerSecond(max(1, rate.count // self._processes), rate.seconds)

    def guesses(self, failures: Rate) -> Guesses:
        """Return what counts looks at credentials."""
        return Guesses(self.storage, self.item(failures))

    def probe(self) -> None:
        """Raise StorageError unless the storage can be written to, as it is for a call."""
        self.windows.hit(RateLimitItemPerSecond(1, 1), "probe")
        self.fixed.hit(RateLimitItemPerSecond(1, 1), "probe", "fixed")


class Limiter:
    """Counts calls; one that is refused counts for nothing.

    And counts failed credentials, by address.

    `failures` is how many an address may fail with, or None for no limit. `processes` is how many
    of this host count, each its share while the storage is away; `refuse_when_away` refuses rated
    calls then, and guesses of passwords.
    """

    def __init__(
        self,
        url: str,
        *,
        failures: Rate | None = None,
        processes: int = 1,
        refuse_when_away: bool = False,
    ) -> None:
        self._shared = Counter(_storage(url))
        self._alone = Counter(Memory(MOST), processes) if self.shared else self._shared
        self._failures = failures
        self._guesses = (
            None
            if failures is None
            else (self._shared.guesses(failures), self._alone.guesses(failures))
        )
        self._told: OrderedDict[tuple[str, ...], float] = OrderedDict()
        self._refuse_when_away = refuse_when_away
        self._losing = threading.Lock()
        self._stopped = threading.Event()
        self._log = structlog.get_logger("penstock")
        self.away: str | None = None  # what becomes of calls while the storage can't be reached

    @property
    def shared(self) -> bool:
        """Say whether several processes count together."""
        return not isinstance(self._shared.storage, Memory)

    def look(self) -> None:
        """Find out whether the storage answers, before a call has to."""
        try:
            if self.shared:
                self._shared.probe()
        except StorageError as error:
            self._lose(error)

    def stop(self) -> None:
        """Ask for a storage that is away no more."""
        self._stopped.set()

    def count(self, rates: Sequence[tuple[str, Rate]], caller: Caller, address: str) -> Headers:
        """Count a call against rates, each at its place (`prod/v1/orders`).

        Return the RateLimit headers of its reply. Raises Refusal.

        The headers are those of draft-ietf-httpapi-ratelimit-headers-10; their quota is what this
        process lets through.
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

    def _count(
        self, counter: Counter, rates: Sequence[tuple[str, Rate]], caller: Caller, address: str
    ) -> Headers:
        network = caller_network(address)
        consumer = caller.consumer or network
        whose = {
            "consumer": consumer,
            "key": caller.key_id or consumer,
            "address": network,
            "pipeline": "",
        }
        windows = [
            (rate, counter.item(rate), (place, rate.by, whose[rate.by])) for place, rate in rates
        ]
        room = all(counter.windows.test(item, *who) for _, item, who in windows)
        room = room and all(counter.windows.hit(item, *who) for _, item, who in windows)
        found = [
            (_name(who[0], rate), rate, item, *counter.windows.get_window_stats(item, *who))
            for rate, item, who in windows
        ]
        now = time.time()
        headers = [
            (
                "RateLimit-Policy",
                ", ".join(
                    f'"{name}";q={item.amount};w={rate.seconds}' for name, rate, item, _, _ in found
                ),
            ),
            (
                "RateLimit",
                ", ".join(
                    f'"{name}";r={max(0, left)};t={max(0, math.ceil(reset - now))}'
                    for name, _, _, reset, left in found
                ),
            ),
        ]
        if not room:
            for (place, rate), (*_, left) in zip(rates, found, strict=True):
                if left <= 0:
                    self._tell("rate used up", place=place, rate=str(rate), who=whose[rate.by])
            raise rate_limited(
                max((reset - now for *_, reset, left in found if left <= 0), default=1), headers
            )
        if isinstance(counter.storage, Memory) and counter.storage.forgotten:
            counter.storage.forgotten = False
            self._tell(
                "more callers than memory has room for",
                fix="set PENSTOCK_RATE_LIMIT_URL, or who called long ago can call anew",
            )
        return headers

    def fail(self, environment: str, address: str) -> None:
        """Count a credential that was no good.

        Raises Refusal where its address had too many of them.
        """
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
        self, counter: Counter, failures: Rate, environment: str, network: str
    ) -> None:
        item = counter.item(failures)
        who = ("failed", environment, network)
        if not counter.fixed.hit(item, *who):
            reset = counter.fixed.get_window_stats(item, *who).reset_time
            self._tell(
                "too many failed credentials", place=environment, rate=str(failures), who=network
            )
            raise rate_limited(reset - time.time(), [])

    @contextmanager
    def guess(self, environment: str, address: str) -> Iterator[Look]:
        """Count a look at a credential that can be guessed, before it is taken.

        Whoever looks says whether it was right.

        Raises Refusal: 429 where the address has failed too often, 503 where the looks it has left
        are all under way.
        """
        if self._guesses is None:
            yield Look()
            return
        guesses, look = self._begin_look(*self._guesses, environment, caller_network(address))
        try:
            yield look
        except Refusal as error:
            # It was refused before anybody looked.
            look.right = not isinstance(error.__cause__, CredentialRejected)
            raise
        finally:
            try:
                guesses.end(look)
            except StorageError as error:
                self._lose(error)

    def _begin_look(
        self, guesses: Guesses, alone: Guesses, environment: str, network: str
    ) -> tuple[Guesses, Look]:
        """Take a count for a look, and return it with where it was taken. Raises Refusal."""
        look = None
        if self.away is None:
            try:
                look = guesses.begin(environment, network)
            except StorageError as error:
                self._lose(error)
        if look is None:
            if self._refuse_when_away:
                raise _unavailable()
            guesses = alone
            look = guesses.begin(environment, network)
        if isinstance(look, float):
            self._tell(
                "too many failed credentials",
                place=environment,
                rate=str(self._failures),
                who=network,
            )
            raise rate_limited(look, [])
        return guesses, look

    def _lose(self, error: StorageError) -> None:
        """Count without the storage from now on, and ask it now and then whether it is back."""
        with self._losing:
            if self.away is not None:
                return
            self.away = REFUSED if self._refuse_when_away else ALONE
            self._log.error("rate limit storage away", error=str(error), calls=self.away)
            threads.start("penstock-rates", self._regain, limit=PAUSE * 10, essential=False)

    def _regain(self, thread: threads.MonitoredThread) -> None:
        while not self._stopped.wait(PAUSE):
            thread.heartbeat()
            try:
                self._shared.probe()
            except Exception:  # noqa: BLE001, S112  whatever it is, the storage can't be used yet; that was logged when it began
                continue
            self.away = None
            self._log.info("rate limit storage back")
            return

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
