"""Calls that must be accepted and calls that must be rejected, durable runs, and what became of
each."""

from __future__ import annotations

import base64
import hashlib
import hmac
import http.client
import json
import random
import threading
import time
from collections import Counter
from dataclasses import dataclass, field
from types import TracebackType
from typing import Self

from benchmarks.chaos.site import ENVIRONMENT, Site, Unit

from penstock.contracts.keys import make_api_key
from penstock.db.failures import DatabaseUnavailable
from penstock.durable.engine import EngineRun
from penstock.endpoints.encoding import unpack
from penstock.host.services import open_dbos

GOOD = "good"
UNAVAILABLE = frozenset({502, 503, 504})  # honest answers of a host that can't tell now
RETRIED = UNAVAILABLE | {409}
PATIENCE_S = 300.0
AT_A_TIME = 500
CLOCK_S = 0.001


def _part(value: object) -> str:
    return base64.urlsafe_b64encode(json.dumps(value).encode()).rstrip(b"=").decode()


def forged(token: str) -> list[str]:
    """Return tokens as an attacker makes them out of a good one: another signature, none, a key
    of their own, other claims."""
    head, payload, signature = token.split(".")
    claims = json.loads(base64.urlsafe_b64decode(payload + "=" * (-len(payload) % 4)))
    own = f"{_part({'alg': 'HS256', 'typ': 'at+jwt'})}.{payload}"
    signed = (
        base64.urlsafe_b64encode(hmac.digest(b"secret", own.encode(), hashlib.sha256))
        .rstrip(b"=")
        .decode()
    )
    return [
        f"{head}.{payload}.{signature[::-1]}",
        f"{_part({'alg': 'none', 'typ': 'at+jwt'})}.{payload}.",
        f"{own}.{signed}",
        f"{head}.{_part(claims | {'exp': claims['exp'] + 86_400, 'sub': 'root'})}.{signature}",
    ]


@dataclass(frozen=True)
class Kind:
    """A kind of call: what it carries, and what it must be answered."""

    name: str
    headers: dict[str, str]
    status: int
    weight: int = 1


def kinds_of(site: Site) -> list[Kind]:
    """Return good calls, wrong keys, forged tokens and calls that the policy forbids."""
    key, bearer = {"X-API-Key": site.key}, {"Authorization": f"Bearer {site.token}"}
    others = {"X-API-Key": site.other_key, "Authorization": f"Bearer {site.other_token}"}
    fakes = [
        Kind(f"forged token {number}", key | {"Authorization": f"Bearer {token}"}, 401)
        for number, token in enumerate(forged(site.token))
    ]
    return [
        Kind(GOOD, key | bearer, 200, weight=8),
        Kind("wrong key", bearer | {"X-API-Key": make_api_key(ENVIRONMENT)}, 401),
        Kind("no token", key, 401),
        Kind("no key", bearer, 401),
        Kind("another's token", key | {"Authorization": others["Authorization"]}, 401),
        Kind("not associated", others, 403),
        *fakes,
    ]


@dataclass
class Tally:
    """What calls were answered, by kind; errors of a connection by their class."""

    answers: Counter[tuple[str, object]] = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)
    failed: int = 0  # good calls that were not answered as they should be
    unreached: int = 0  # no answer came: the process was dead, or refused the connection
    unavailable: int = 0
    longest_s: float = 0.0
    lock: threading.Lock = field(default_factory=threading.Lock)

    @property
    def calls(self) -> int:
        """How many there were."""
        return sum(self.answers.values())

    def unlike(self, name: str, status: int) -> dict[object, int]:
        """Return the answers to a kind of call that are another than this."""
        with self.lock:
            return {
                answer: number
                for (kind, answer), number in self.answers.items()
                if kind == name and answer != status
            }

    def add(self, kind: Kind, answer: object, took_s: float, body: bytes = b"") -> None:
        """Count an answer: a status, or the name of an error."""
        with self.lock:
            self.answers[kind.name, answer] += 1
            self.longest_s = max(self.longest_s, took_s)
            self.failed += kind.name == GOOD and answer != kind.status
            self.unreached += isinstance(answer, str)
            self.unavailable += answer in UNAVAILABLE
            if answer != kind.status and not isinstance(answer, str) and answer not in UNAVAILABLE:
                self.wrong.append(f"{time.strftime('%X')} {kind.name}: {answer} {body[:200]!r}")


class Callers:
    """Threads that call all hosts in turn until the block ends; `rate` is how many calls a
    second they make together at most."""

    def __init__(
        self,
        site: Site,
        kinds: list[Kind],
        *,
        threads: int = 4,
        rate: float = 60.0,
        keep_alive: bool = False,
    ) -> None:
        self.tally = Tally()
        self._site, self._keep_alive = site, keep_alive
        self._pause = threads / rate
        self._kinds = kinds
        self._done = threading.Event()
        self._threads = [
            threading.Thread(target=self._work, args=(number,), daemon=True)
            for number in range(threads)
        ]

    def _work(self, number: int) -> None:
        chance, kept = random.Random(number), dict[str, http.client.HTTPConnection]()
        weights = [kind.weight for kind in self._kinds]
        while not self._done.is_set():
            began = time.monotonic()
            for unit in self._site.units:
                self._call(unit, chance.choices(self._kinds, weights)[0], kept)
            self._done.wait(
                max(0.0, self._pause * len(self._site.units) - (time.monotonic() - began))
            )
        for connection in kept.values():
            connection.close()

    def _call(self, unit: Unit, kind: Kind, kept: dict[str, http.client.HTTPConnection]) -> None:
        began = time.monotonic()
        connection = kept.get(unit.name) or http.client.HTTPConnection(
            "127.0.0.1", unit.port, timeout=30
        )
        answer: object
        body = b""
        try:
            connection.request("GET", "/v1/trial/", headers=kind.headers)
            reply = connection.getresponse()
            answer, body = reply.status, reply.read()
        except (OSError, http.client.HTTPException) as error:
            answer = type(error).__name__
        if self._keep_alive and not isinstance(answer, str):
            kept[unit.name] = connection
        else:
            connection.close()
            kept.pop(unit.name, None)
        self.tally.add(kind, answer, time.monotonic() - began, body)

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._done.set()
        for thread in self._threads:
            thread.join()


@dataclass
class Verdict:
    """What became of durable runs."""

    accepted: int
    lost: list[str]
    twice: list[str]
    interrupted: int  # steps that a dead worker had under way, and that were begun again


class Runs:
    """Durable calls, each with its own Idempotency-Key and sent until it is accepted, and what
    became of their runs."""

    def __init__(self, site: Site) -> None:
        self.tally = Tally()
        self.accepted: dict[int, str] = {}
        self._site, self._numbers, self._turn = site, 0, 0
        self._done = threading.Event()

    def submit(self, number: int, *, rate: float = 10.0, units: list[Unit] | None = None) -> None:
        """Have so many runs accepted, by the hosts in turn."""
        for _ in range(number):
            if self._done.is_set():
                return
            began = time.monotonic()
            self._numbers += 1
            self._accept(self._numbers, units or self._site.units)
            time.sleep(max(0.0, 1 / rate - (time.monotonic() - began)))

    def beside(self, number: int, *, rate: float = 10.0) -> threading.Thread:
        """Submit in a thread of its own."""
        thread = threading.Thread(
            target=self.submit, args=(number,), kwargs={"rate": rate}, daemon=True
        )
        thread.start()
        return thread

    def end(self) -> None:
        """Submit no more."""
        self._done.set()

    def _accept(self, number: int, units: list[Unit]) -> None:
        kind = Kind(
            "durable",
            self._site.good
            | {
                "Content-Type": "application/json",
                "Idempotency-Key": f"chaos-{number}",
            },
            202,
        )
        body, until = json.dumps({"n": number}).encode(), time.monotonic() + PATIENCE_S
        while time.monotonic() < until:
            self._turn += 1
            began = time.monotonic()
            answer: object
            reply = b""
            try:
                answer, reply = units[self._turn % len(units)].send(
                    "POST", "/v1/trial/", kind.headers, body
                )
            except (OSError, http.client.HTTPException) as error:
                answer = type(error).__name__
            if answer != 409:  # the call before it, of the same key, is still under way
                self.tally.add(kind, answer, time.monotonic() - began, reply)
            if answer == 202:
                self.accepted[number] = json.loads(reply)["id"]
            if answer not in RETRIED and not isinstance(answer, str):
                return
            if self._done.wait(0.2):
                return

    def finish(self, seconds: float = PATIENCE_S) -> None:
        """Wait until all accepted runs are over, for so long."""
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            held = self._look()
            if all(run in held and held[run].state.over for run in self.accepted.values()):
                return
            time.sleep(0.5)

    def _look(self) -> dict[str, EngineRun]:
        ledger = open_dbos(self._site.place.url, ENVIRONMENT, self._site.place.box)
        runs, held = list(self.accepted.values()), dict[str, EngineRun]()
        try:
            for start in range(0, len(runs), AT_A_TIME):
                held |= ledger.look(runs[start : start + AT_A_TIME], outcomes=True)
        except DatabaseUnavailable:
            return {}
        finally:
            ledger.close()
        return held

    def judge(self) -> Verdict:
        """Say which accepted runs are lost, and which steps or calls were performed twice."""
        noted: dict[str, list[tuple[int, str, float]]] = {}
        runs_of: dict[int, set[str]] = {}
        for line in (self._site.place.folder / "steps").read_text().splitlines():
            number, run, step, token, began = json.loads(line)
            noted.setdefault(run, []).append((step, token, began))
            runs_of.setdefault(number, set()).add(run)
        held = self._look()
        verdict = Verdict(len(self.accepted), [], [], 0)
        verdict.twice += [
            f"call {number}: runs {sorted(runs)}"
            for number, runs in runs_of.items()
            if len(runs) > 1
        ]
        ledger = open_dbos(self._site.place.url, ENVIRONMENT, self._site.place.box)
        for number, run in self.accepted.items():
            item = held.get(run)
            if item is None or item.outcome is None or item.outcome["status"] != 200:
                verdict.lost.append(
                    f"call {number}: run {run} {item and (item.state, item.outcome, item.error)}"
                )
                continue
            stored = {
                step.number: (unpack(step.output["value"], str), step.ended_at)
                for step in ledger.steps(run)
            }  # type: ignore[index]  # a document
            done = noted.get(run, [])
            verdict.interrupted += len(done) - len(stored)
            verdict.lost += [
                f"run {run}: its step {step} was stored and never performed"
                for step in stored
                if stored[step][0] not in [t for _, t, _ in done]
            ]
            verdict.lost += (
                [f"run {run}: {len(stored)} steps are stored"] if len(stored) != 3 else []
            )
            verdict.twice += [
                f"run {run}: step {step} was performed again after it was stored"
                for step, token, began in done
                if step in stored and token != stored[step][0] and began > stored[step][1] + CLOCK_S
            ]
        ledger.close()
        return verdict
