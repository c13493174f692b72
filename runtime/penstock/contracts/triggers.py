"""How a pipeline is started.

Over HTTP, as its environment's access policy allows, or by the clock.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from croniter import CroniterBadDateError, croniter

from penstock.contracts.cors import Cors
from penstock.contracts.networks import network_of
from penstock.contracts.rates import Rate, problems_of

SCOPE = re.compile(r"[\x21\x23-\x5b\x5d-\x7e]+")  # RFC 6749 section 3.3
SIGNATURE = re.compile(r"[a-z][a-z0-9_]*")
MAX_SECONDS = 300.0
# What croniter chooses by itself.
OF_ITS_OWN = re.compile(r"(?<![a-z])[rh](?![a-z])", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class HttpTrigger:
    """How a pipeline is started over HTTP.

    Args:
        api_key: Each call must carry an API key of an associated consumer.
        jwt: Each call must carry a token of that consumer as well.
        basic: Each call must carry the user and password of a consumer (RFC 7617).
        signature: Each call must be signed with a secret of a consumer, as "github", "stripe",
            "slack" or "hmac" (or a plugin of yours) say.
        mtls: Each call must come with a client certificate of a consumer.
        scopes: What the token must allow; asks for `jwt=True`.
        login: The handler issues tokens; an operator must designate the pipeline as a login flow
            too.
        forward_token: The handler gets the token itself, in the header `Authorization`; no other
            credential reaches a handler.
        external: Reachable from outside; otherwise the URL does not exist there.
        internal: Reachable on the internal listener, under the environment's internal access
            policy.
        max_body: The largest body, in bytes.
        timeout: The longest a call may take, in seconds, at most 300.
        cors: Which browser origins may call; none by default.
        rate: How often it may be called; several windows hold together.
        allow: The only networks (CIDR, IPv4 and IPv6) that may call; all where none is named.
        deny: Networks that may not, whatever is allowed.
        idempotent: "key" lets callers send an `Idempotency-Key` with unsafe methods: a repeat gets
            the first call's reply, for 24 hours.
        in_flight: How many calls one process answers at a time, those included that ran out of time
            but did not end; 0 is no limit.

    """

    api_key: bool = False
    jwt: bool = False
    basic: bool = False
    signature: str | None = None
    mtls: bool = False
    scopes: frozenset[str] = frozenset()
    login: bool = False
    external: bool = True
    internal: bool = False
    max_body: int = 1024 * 1024
    timeout: float = 30.0
    cors: Cors | None = None
    rate: tuple[Rate, ...] = ()
    in_flight: int = 0
    allow: tuple[str, ...] = ()
    deny: tuple[str, ...] = ()
    idempotent: str | None = None
    forward_token: bool = False

    def __init__(  # noqa: PLR0913  one argument a promise
        self,
        *,
        api_key: bool = False,
        jwt: bool = False,
        basic: bool = False,
        signature: str | None = None,
        mtls: bool = False,
        scopes: Iterable[str] = (),
        login: bool = False,
        external: bool = True,
        internal: bool = False,
        max_body: int = 1024 * 1024,
        timeout: float = 30.0,
        cors: Cors | None = None,
        rate: Rate | Iterable[Rate] = (),
        in_flight: int = 0,
        allow: str | Iterable[str] = (),
        deny: str | Iterable[str] = (),
        idempotent: str | None = None,
        forward_token: bool = False,
    ) -> None:
        for name, value in (
            ("api_key", api_key),
            ("jwt", jwt),
            ("basic", basic),
            ("mtls", mtls),
            ("login", login),
            ("external", external),
            ("internal", internal),
            ("forward_token", forward_token),
        ):
            if not isinstance(value, bool):
                message = f"HttpTrigger({name}=…) takes True or False, not {value!r}"
                raise TypeError(message)
        object.__setattr__(self, "api_key", api_key)
        object.__setattr__(self, "jwt", jwt)
        object.__setattr__(self, "basic", basic)
        object.__setattr__(self, "signature", signature)
        object.__setattr__(self, "mtls", mtls)
        object.__setattr__(
            self, "scopes", frozenset({scopes} if isinstance(scopes, str) else scopes)
        )
        object.__setattr__(self, "login", login)
        object.__setattr__(self, "external", external)
        object.__setattr__(self, "internal", internal)
        object.__setattr__(self, "max_body", max_body)
        object.__setattr__(self, "timeout", timeout)
        object.__setattr__(self, "cors", cors)
        object.__setattr__(self, "rate", (rate,) if isinstance(rate, Rate) else tuple(rate))
        object.__setattr__(self, "in_flight", in_flight)
        object.__setattr__(self, "allow", (allow,) if isinstance(allow, str) else tuple(allow))
        object.__setattr__(self, "idempotent", idempotent)
        object.__setattr__(self, "forward_token", forward_token)
        object.__setattr__(self, "deny", (deny,) if isinstance(deny, str) else tuple(deny))

    @property
    def toggles(self) -> frozenset[str]:
        """The credentials that the developer asks for, by name."""
        signature = {f"{self.signature}_signature"} if self.signature else set[str]()
        return frozenset(
            {name for name in ("api_key", "jwt", "basic", "mtls") if getattr(self, name)}
            | signature
        )

    def problems(self) -> Iterable[tuple[str, str]]:
        """Yield what makes no sense, each with its mend."""
        if self.scopes and not self.jwt:
            yield "scopes are asked for but no token", "set jwt=True or drop scopes"
        for scope in sorted(self.scopes, key=str):
            if not isinstance(scope, str) or not SCOPE.fullmatch(scope):
                yield (
                    f"scope {scope!r} has characters that RFC 6749 does not allow",
                    "use printable ASCII without spaces",
                )
        if type(self.max_body) is not int or self.max_body < 1:
            yield f"max_body={self.max_body!r} is no size", "give a number of bytes, 1 or more"
        if not isinstance(self.timeout, int | float) or not 0 < self.timeout <= MAX_SECONDS:
            yield (
                f"timeout={self.timeout!r} is out of bounds",
                f"give seconds above 0, at most {MAX_SECONDS:g}",
            )
        if type(self.in_flight) is not int or self.in_flight < 0:
            yield (
                f"in_flight={self.in_flight!r} is no number of calls",
                "give 1 or more, or 0 for no limit",
            )
        yield from problems_of(self.rate, toggles=self.toggles)
        yield from self._caller_problems()
        if isinstance(self.cors, Cors):
            yield from self.cors.problems()
        elif self.cors is not None:
            yield f"cors={self.cors!r} is no CORS", 'write cors=Cors("https://shop.example")'

    def _caller_problems(self) -> Iterable[tuple[str, str]]:
        """Yield what makes no sense about who may call how."""
        if self.basic and self.jwt:
            yield (
                "basic and jwt both come in the header Authorization, so no call could carry both",
                "drop one of them",
            )
        if self.signature is not None and not (
            isinstance(self.signature, str) and SIGNATURE.fullmatch(self.signature)
        ):
            yield (
                f"signature={self.signature!r} is no name of a kind",
                'write "github", "stripe", "slack" or "hmac"',
            )
        if self.idempotent not in (None, "key"):
            yield (
                f"idempotent={self.idempotent!r} is not known",
                'write idempotent="key", or leave it out',
            )
        elif self.idempotent and not self.toggles:
            yield (
                "replies are kept for a consumer, and it does not ask who calls",
                "set api_key=True, or drop idempotent",
            )
        for text in (*self.allow, *self.deny):
            try:
                network_of(text)
            except ValueError as error:
                yield (
                    str(error),
                    'write networks such as "192.0.2.0/24", "2001:db8::/32", or one address',
                )


@dataclass(frozen=True, slots=True)
class Schedule:
    """Starts a pipeline by the clock, outside of any access policy.

    One durable run for each tick, over all processes.

    Args:
        cron: Minute, hour, day of the month, month and day of the week, as in `0 6 * * *`; with six
            fields the first is the second.
        timezone: The IANA time zone that the fields are read in.
        missed: What becomes of ticks while no worker was there: "skip" them, or make up for them
            all "once".
        path: The handler that runs: the one of POST on this path.
        body: What the handler gets as its body, as JSON.

    """

    cron: str
    timezone: str = "UTC"
    missed: str = "skip"
    path: str = "/"
    body: object = None

    def problems(self) -> Iterable[tuple[str, str]]:
        """Yield what makes no sense, each with its mend."""
        if (
            not isinstance(self.cron, str)
            or len(self.cron.split()) not in {5, 6}
            or not croniter.is_valid(self.cron, second_at_beginning=True)
        ):
            yield (
                f"the schedule {self.cron!r} can't be understood",
                'write five fields, such as "0 6 * * *"',
            )
        elif OF_ITS_OWN.search(self.cron):
            yield (
                f"the schedule {self.cron!r} is another one in each process",
                'write numbers in place of R and H, such as "17 6 * * *"',
            )
        elif not _ticks(self.cron):
            yield f"the schedule {self.cron!r} never ticks", "name a day that the month has"
        try:
            ZoneInfo(self.timezone)
        except (ZoneInfoNotFoundError, ValueError, TypeError, OSError):
            yield (
                f"timezone={self.timezone!r} is not known",
                'write one such as "Europe/Lisbon" (IANA)',
            )
        if self.missed not in {"skip", "once"}:
            yield f"missed={self.missed!r} is not known", 'write "skip" or "once"'


def _ticks(cron: str) -> bool:
    try:
        croniter(cron, 0.0, second_at_beginning=True).get_next()
    except CroniterBadDateError:
        return False
    return True
