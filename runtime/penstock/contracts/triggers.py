"""How a pipeline is started: over HTTP, within an access policy, or by a schedule."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from croniter import CroniterBadDateError, croniter

from penstock.contracts.cors import Cors
from penstock.contracts.networks import network_of
from penstock.contracts.options import (
    Check,
    Converted,
    Problem,
    convert_options,
    converted,
    flag,
    one_of,
    option,
    problems_of_options,
    seconds,
    several,
    text_set,
    texts,
    whole_number,
)
from penstock.contracts.rates import Rate, problems_of_rates

SCOPE = re.compile(r"[\x21\x23-\x5b\x5d-\x7e]+")  # RFC 6749 section 3.3
SIGNATURE = re.compile(r"[a-z][a-z0-9_]*")
MAX_CALL_S = 300.0
# Fields of croniter's that each process would resolve differently: R is random, H is hashed.
NOT_REPEATABLE = re.compile(r"(?<![a-z])[rh](?![a-z])", re.IGNORECASE)

Idempotent = Literal["key"]
Missed = Literal["skip", "once"]


def _rates(value: Rate | Iterable[Rate]) -> tuple[Rate, ...]:
    return several(value, Rate)


def _is_signature(value: object) -> bool:
    return value is None or (isinstance(value, str) and SIGNATURE.fullmatch(value) is not None)


@dataclass(frozen=True, slots=True, kw_only=True)
class HttpTrigger:
    """Starts a pipeline over HTTP. Its options declare what each call must present.

    Example: `HttpTrigger(api_key=True, jwt=True, scopes={"orders:read"}, timeout=5)`.

    A wrong option blocks the pipeline and is reported when the plugin is loaded.

    Args:
        api_key: Each call must carry an API key of a consumer with access. Default False.
        jwt: Each call must carry a token of that consumer too. Default False.
        basic: Each call must carry user name and password of a consumer (RFC 7617).
        signature: Each call must be signed with a secret of a consumer. The kinds are "github",
            "stripe", "slack" and "hmac", and those of your plugins.
        mtls: Each call must present a client certificate of a consumer.
        scopes: Scopes that the token must have. Needs `jwt=True`.
        login: The handler issues tokens. An operator must also designate the pipeline as a login
            flow.
        forward_token: The handler receives the token in the header `Authorization`. Handlers
            receive no other credential.
        external: The pipeline has a URL on the external listener. Default True.
        internal: The pipeline has a URL on the internal listener, under the internal access policy
            of the environment. Default False.
        max_body: Largest request body, in bytes. Default 1 MiB.
        timeout: Longest duration of a call, in seconds: 300 at most. Default 30.
        cors: Browser origins that may call, for example `Cors("https://shop.example")`. Default:
            none.
        rate: Rate limits, for example `Rate("100/second")`. All of several apply.
        allow: Networks (CIDR, IPv4 or IPv6) that may call. Default: all.
        deny: Networks that may not call, even if `allow` contains them.
        idempotent: "key" accepts the header `Idempotency-Key` on unsafe methods. A repeated call
            gets the stored reply of the first one for 24 hours.
        in_flight: Calls that one process handles at a time, including calls that timed out and are
            still running. Default 0: no limit.

    """

    api_key: bool = flag(default=False)
    jwt: bool = flag(default=False)
    basic: bool = flag(default=False)
    signature: str | None = option(
        None,
        Check(
            _is_signature,
            "is no name of a kind",
            'write "github", "stripe", "slack" or "hmac"',
        ),
    )
    mtls: bool = flag(default=False)
    scopes: Converted[str | Iterable[str], frozenset[str]] = converted(text_set, ())
    login: bool = flag(default=False)
    external: bool = flag(default=True)
    internal: bool = flag(default=False)
    max_body: int = option(
        1024 * 1024,
        whole_number(1, fault="is no size", fix="give a number of bytes, 1 or more"),
    )
    timeout: float = option(30.0, seconds(MAX_CALL_S))
    cors: Cors | None = option(
        None,
        Check(
            lambda value: value is None or isinstance(value, Cors),
            "is no CORS",
            'write cors=Cors("https://shop.example")',
        ),
    )
    rate: Converted[Rate | Iterable[Rate], tuple[Rate, ...]] = converted(_rates, ())
    in_flight: int = option(
        0,
        whole_number(0, fault="is no number of calls", fix="give 1 or more, or 0 for no limit"),
    )
    allow: Converted[str | Iterable[str], tuple[str, ...]] = converted(texts, ())
    deny: Converted[str | Iterable[str], tuple[str, ...]] = converted(texts, ())
    idempotent: Idempotent | None = option(
        None,
        Check(
            lambda value: value is None or value == "key",
            "is not known",
            'write idempotent="key", or leave it out',
        ),
    )
    forward_token: bool = flag(default=False)

    def __post_init__(self) -> None:
        convert_options(self)

    @property
    def toggles(self) -> frozenset[str]:
        """The kinds of credentials that each call must present, by name."""
        signature = {f"{self.signature}_signature"} if self.signature else set[str]()
        return frozenset(
            {name for name in ("api_key", "jwt", "basic", "mtls") if getattr(self, name)}
            | signature
        )

    def problems(self) -> Iterable[Problem]:
        """Yield what is wrong with the options, each with its fix."""
        yield from problems_of_options(self)
        yield from self._scope_problems()
        yield from problems_of_rates(self.rate, toggles=self.toggles)
        yield from self._caller_problems()
        if isinstance(self.cors, Cors):
            yield from self.cors.problems()

    def _scope_problems(self) -> Iterable[Problem]:
        if self.scopes and not self.jwt:
            yield "scopes are asked for but no token", "set jwt=True or drop scopes"
        for scope in sorted(self.scopes, key=str):
            if not isinstance(scope, str) or not SCOPE.fullmatch(scope):
                yield (
                    f"scope {scope!r} has characters that RFC 6749 does not allow",
                    "use printable ASCII without spaces",
                )

    def _caller_problems(self) -> Iterable[Problem]:
        """Yield options about callers that contradict one another, and networks that are none."""
        if self.basic and self.jwt:
            yield (
                "basic and jwt both use the header Authorization, so no call could carry both",
                "drop one of them",
            )
        if self.idempotent == "key" and not self.toggles:
            yield (
                "idempotent replies are stored by consumer, and the trigger requires no credential",
                "set api_key=True, or drop idempotent",
            )
        for network in (*self.allow, *self.deny):
            try:
                network_of(network)
            except ValueError as error:
                yield (
                    str(error),
                    'write networks such as "192.0.2.0/24", "2001:db8::/32", or one address',
                )


def _is_time_zone(value: object) -> bool:
    try:
        ZoneInfo(value)  # type: ignore[arg-type]  # any value a developer wrote
    except (ZoneInfoNotFoundError, ValueError, TypeError, OSError):
        return False
    return True


@dataclass(frozen=True, slots=True)
class Schedule:
    """Starts a pipeline at times, outside of any access policy: one durable run for each tick.

    Example: `Schedule("0 6 * * 1-5", timezone="Europe/Lisbon", body={"kind": "daily"})`.

    Args:
        cron: Minute, hour, day of the month, month and day of the week, as in `0 6 * * *`. With six
            fields the first one is the second.
        timezone: IANA time zone of the fields. Default UTC.
        missed: What to do with ticks while no worker was running: "skip" them (default), or run
            "once" for all of them.
        path: Path of the POST handler that runs. Default `/`.
        body: JSON value that the handler receives as its body. Default None.

    """

    cron: str
    timezone: str = option(
        "UTC",
        Check(_is_time_zone, "is not known", 'write one such as "Europe/Lisbon" (IANA)'),
    )
    missed: Missed = option("skip", one_of(Missed))
    path: str = option(
        "/",
        Check(lambda value: isinstance(value, str), "is no path", 'write one such as "/daily"'),
    )
    body: object = None

    def problems(self) -> Iterable[Problem]:
        """Yield what is wrong with the schedule, each with its fix."""
        yield from self._cron_problems()
        yield from problems_of_options(self)

    def _cron_problems(self) -> Iterable[Problem]:
        if (
            not isinstance(self.cron, str)
            or len(self.cron.split()) not in {5, 6}
            or not croniter.is_valid(self.cron, second_at_beginning=True)
        ):
            yield (
                f"the schedule {self.cron!r} can't be understood",
                'write five fields, such as "0 6 * * *"',
            )
        elif NOT_REPEATABLE.search(self.cron):
            yield (
                f"the schedule {self.cron!r} is another one in each process",
                'write numbers in place of R and H, such as "17 6 * * *"',
            )
        elif not _ticks(self.cron):
            yield f"the schedule {self.cron!r} never ticks", "name a day that the month has"


def _ticks(cron: str) -> bool:
    try:
        croniter(cron, 0.0, second_at_beginning=True).get_next()
    except CroniterBadDateError:
        return False
    return True
