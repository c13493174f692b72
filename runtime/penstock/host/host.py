"""The one place where it all meets.

Plugins, policies, the snapshot and the pipelines a process serves.
"""

from __future__ import annotations

import logging
import os
import socket
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from copy import copy
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from hashlib import sha256
from urllib.parse import urlsplit

import structlog

from penstock import clock, forks, logs, metrics, threads
from penstock.access.encryption import SecretBox, load_secret_box
from penstock.access.marks import Marks
from penstock.access.pipelines import pipelines_seen
from penstock.access.snapshot import HistoryChanged, Snapshot
from penstock.contracts.access import LEEWAY, Violation
from penstock.contracts.call import Caller, Token
from penstock.contracts.offered import is_token
from penstock.contracts.pipeline import Pipeline, PluginProblem
from penstock.contracts.rates import OVERRIDDEN_BY_CONSUMER_LIMIT, Rate
from penstock.contracts.responses import ResponsePolicy
from penstock.contracts.withheld import Withheld
from penstock.db import call_counts, migrate, runs
from penstock.db.clock import measure
from penstock.db.engine import (
    DatabaseUnavailable,
    DatabaseUnfit,
    Engine,
    open_engine,
    open_existing,
    trim,
    writes,
)
from penstock.db.idempotency import PURGED_AT_A_TIME, purge
from penstock.db.liveness import SILENCE
from penstock.db.postgres import listen
from penstock.db.unit_of_work import Point, touch_keys
from penstock.durable.engine import Queue, RunStore
from penstock.durable.intake import RunIntake, all_held, queue_of, ticks_of
from penstock.durable.run_endpoints import RunStatusApi, run_endpoints
from penstock.endpoints.compiler import Endpoint, compile_routes
from penstock.errors import (
    BadSetting,
    CannotStart,
    PenstockError,
    Refusal,
    StartDelayed,
    TokenNotIssued,
    UnknownName,
    UsageError,
)
from penstock.gate.compliance import Evaluation, PipelineEvaluator, State
from penstock.gate.evaluation import WHAT_IT_READS, BoundedEvaluator, EvaluatedPipelines
from penstock.gate.policy_change import PolicyChange, change_of
from penstock.gate.rates import Limiter
from penstock.gate.verdicts import FIX
from penstock.host.attendance import Attendance
from penstock.logs import LogThrottle
from penstock.plugins.guard import PluginFault, ask, described
from penstock.plugins.loading import Offer, Plugins, load_plugins
from penstock.runs.failures import Clean, without
from penstock.runs.idempotency import IdempotencyStore
from penstock.runs.ids import new_run_id
from penstock.runs.records import Recorder, first_id, noted
from penstock.runs.redaction import Redactor
from penstock.settings import Settings

POLL = 0.25  # seconds: well inside the bound of one second, also when a poll or two is slow
POLL_BESIDE_LISTENING = 0.5
PAUSE_WHEN_BROKEN = 1.0  # all of the access data is read anew then
# Seconds between writes of when keys were last used, between renewals of claims, and between two
# clearings.
FLUSH = 15.0
BREATH = 0.05  # seconds between two batches that are cleared: calls come first
SILENT = 3 * FLUSH  # seconds without a sign of life, and a serving process counts as gone
FORGOTTEN = 86_400.0  # seconds without one, and nobody mentions it any more
WATCH = 0.5  # seconds between two looks at the other threads and at the database
# Seconds for which a query may wait for a sign of the database before that is logged.
SILENT_S = 4.0
# Seconds without a heartbeat, and a thread counts as stuck; with all time limits of the database no
# round takes half of it.
STUCK = 120.0
PURGE = 5.0  # seconds that one clearing takes at most
SLOW = 0.5  # seconds: a refresh that takes longer is logged at level debug
NEVER = 1e9  # seconds that something is old that never was, or can't be used
AWAY = "database away"
STATES = {
    State.SERVED: "served",
    State.NON_CONFORMANT: "non-conformant",
    State.REFUSED: "blocked",
    State.DISABLED: "disabled",
}
# Seconds that a host's clock may differ by.
CLOCK_LEVELS = (LEEWAY.total_seconds(), logging.ERROR), (2.0, logging.WARNING)
# Seconds past which a host is not ready: credentials would be accepted for so long after their end.
CLOCK_UNFIT = 60.0
MOST_MISTAKES = 500  # that are kept
COUNTED = 8 * 86_400  # seconds that counts are kept at least


OpenRunStore = Callable[[str, str, SecretBox], RunStore]


def open_dbos(url: str, environment: str, box: SecretBox) -> RunStore:
    """Return the engine that holds an environment's durable runs."""
    from penstock.durable.engine_dbos import (  # noqa: PLC0415  it takes half a second, which who has no durable runs need not spend
        DbosRunStore,
    )

    return DbosRunStore(url, environment, box)


def _compiled(
    pipeline: Pipeline, check_replies: str
) -> tuple[list[Endpoint], list[tuple[str, str]]]:
    """Return a pipeline's endpoints, and what is wrong with its declaration, each with its mend."""
    endpoints, problems = compile_routes(pipeline, check_replies=check_replies)
    wrong = list(pipeline.problems())
    return endpoints, [(item.problem, item.fix) for item in problems] + [
        item for item in wrong if item[0] != "it has no handler" or not problems
    ]


@dataclass(frozen=True, slots=True)
class LoadedPipeline:
    """A pipeline as it was loaded: its plugin, its endpoints, and what is wrong with it."""

    plugin: str
    pipeline: Pipeline
    endpoints: tuple[Endpoint, ...]
    broken: tuple[Violation, ...] = ()

    @property
    def durable(self) -> bool:
        """Whether it has durable runs: of calls, or by a schedule."""
        return bool(self.endpoints) and (
            bool(self.pipeline.schedules)
            or any(endpoint.route.durable for endpoint in self.endpoints)
        )


class Host:
    """A ready runtime. Nothing of it runs before `start`, which belongs after a fork."""

    def __init__(
        self,
        settings: Settings,
        *,
        extra: Iterable[tuple[str, object]] = (),
        open_run_store: OpenRunStore = open_dbos,
    ) -> None:
        self.settings = settings
        self._open_run_store = open_run_store
        self.log = structlog.get_logger("penstock")
        self.plugins: Plugins = load_plugins(settings, extra=extra)
        self.judge = PipelineEvaluator(
            self.plugins.policies, self.plugins.authenticators, self.plugins.silent
        )
        self.loaded: dict[str, LoadedPipeline] = {}
        self._offered: defaultdict[str, list[Offer]] = defaultdict(list)
        self._judging = BoundedEvaluator(self.plugins, self.judge, self.loaded)
        self.problems: list[PluginProblem] = list(self.plugins.problems)
        self.withheld = _withheld(settings, self.plugins)
        self.notes = self.plugins.notes
        self._load()
        self.access: Snapshot | None = None
        self.evaluated: Mapping[str, Evaluation] = {}
        self.evaluated_internal: Mapping[str, Evaluation] = {}
        self.responses = ResponsePolicy()
        self.slots = {
            identifier: threading.BoundedSemaphore(item.pipeline.trigger.in_flight)
            for identifier, item in self.loaded.items()
            if item.pipeline.trigger.in_flight and not item.broken
        }
        self.limiter: Limiter | None = None
        self.log_throttle = LogThrottle(structlog.get_logger("penstock.calls"))
        self.replies: IdempotencyStore | None = None
        self.marks: Marks | None = None
        self.recorder: Recorder | None = None
        self.run_store: RunStore | None = None
        self.run_intake: RunIntake | None = None
        self.run_status_api: RunStatusApi | None = None
        self.attendance = Attendance()
        self.fork: int | None = None
        self.is_draining: Callable[[], bool] = bool  # whether this process is about to end
        # Told when the database has confirmed the view.
        self.confirmed: Callable[[Point, float], object] = lambda _point, _moment: None
        self.started_at = time.time()
        # When the database last answered the follower; a `time.monotonic()` reading.
        self.answered_at = float("-inf")
        self.up_since: float | None = None  # since when it does; None: it does not
        self.away_since: float | None = None  # seconds since the epoch
        # What of the report another process of this start has written; None: all that there is.
        self.told: bytes | None = b""
        self._kind: str | None = None
        self._process: str | None = None
        self._gates_version = -1
        self._trouble: str | None = None
        self._doubts: frozenset[str] = frozenset()
        self._counted_alone = ""
        self._keys: tuple[str, ...] = ()  # of PENSTOCK_SECRET_KEY, as they are called in the log
        self._used: dict[str, float] = {}
        self._starting = threading.Lock()
        self._catching_up = threading.Lock()
        # The last: housekeeping is due at once.
        self._stop, self._wake, self._due_again = (
            threading.Event(),
            threading.Event(),
            threading.Event(),
        )
        self._clock_level = logging.INFO
        self._listening = False  # else changes are looked for more often
        self._engine: Engine | None = None
        self._threads: list[threads.MonitoredThread] = []
        self._stuck: frozenset[str] = frozenset()

    def _load(self) -> None:
        """Compile every pipeline that was offered; what is wrong with one refuses that one."""
        usable = [
            (offer, url) for offer in self.plugins.offers if (url := self._url(offer)) is not None
        ]
        count = Counter(identifier for _, (identifier, _) in usable)
        plugins: defaultdict[str, set[str]] = defaultdict(set)
        for offer, (_, name) in usable:
            plugins[name].add(offer.plugin)
        for offer, (identifier, name) in usable:
            pipeline = offer.pipeline
            try:
                endpoints, found = ask(
                    offer.plugin,
                    "the declaration",
                    partial(_compiled, pipeline, self.settings.check_replies),
                )
            except PluginFault as fault:
                problem = fault.problem.removeprefix("the declaration raised ")
                endpoints, found = (
                    [],
                    [
                        (
                            f"its declaration can't be understood: {problem}",
                            "give each option what its documentation says",
                        )
                    ],
                )
            if count[identifier] > 1:
                found.append(
                    (
                        f"{identifier} is declared {count[identifier]} times",
                        "keep one, or give them different major versions",
                    )
                )
            self._offered[identifier].append(offer)
            found += self._credential_problems(pipeline, endpoints)
            if others := sorted(plugins[name] - {offer.plugin}):
                found.append(
                    (
                        f"the name {name} is also offered by plugin {', '.join(others)}",
                        "a name belongs to one plugin: rename one of them",
                    )
                )
            self.problems += [
                self._mistake(offer, name, *item, identifier=identifier) for item in found
            ]
            if any(endpoint.route.durable for endpoint in endpoints):
                endpoints += run_endpoints(pipeline, self._asking)
            broken = tuple(Violation(*item) for item in found)
            before = self.loaded.get(identifier)
            broken += before.broken if before else ()
            self.loaded[identifier] = LoadedPipeline(
                offer.plugin, pipeline, () if broken else tuple(endpoints), broken
            )

    def _credential_problems(
        self, pipeline: Pipeline, endpoints: Iterable[Endpoint]
    ) -> Iterable[tuple[str, str]]:
        """Yield the parameters of handlers that would hold a credential, which no handler gets.

        Each comes with its fix.
        """
        for endpoint in endpoints:
            for item in endpoint.parameters:
                name = item.sent_as.lower()
                withheld = (
                    item.sent_as in self.withheld.parameters
                    if item.place == "query"
                    else name in self.withheld.headers
                )
                if withheld and not (
                    item.place == "header"
                    and name == "authorization"
                    and pipeline.trigger.forward_token
                ):
                    fix = (
                        "use call.caller; to hand the token on, set forward_token=True on its"
                        " HttpTrigger"
                    )
                    yield (
                        (
                            f"{endpoint.route}: the {item.place} {item.sent_as} holds a credential,"
                            " which handlers don't get"
                        ),
                        fix,
                    )

    def _url(self, offer: Offer) -> tuple[str, str] | None:
        """Return a pipeline's id and name; None, and a mistake, where it has no URL."""
        pipeline = offer.pipeline

        def found() -> tuple[list[tuple[str, str]], str, str]:
            wrong = list(pipeline.url_problems())
            return wrong, "" if wrong else pipeline.id, str(pipeline.name)

        try:
            wrong, identifier, name = ask(offer.plugin, "the declaration of a pipeline", found)
        except PluginFault as fault:
            wrong, identifier, name = (
                [(fault.problem, "give name and version as their documentation says")],
                "",
                "",
            )
        self.problems += [self._mistake(offer, name, *item) for item in wrong]
        return None if wrong else (identifier, name)

    def _asking(self) -> RunStatusApi:
        """Return what answers consumers about their durable runs."""
        if self.run_status_api is None:
            raise Refusal(503, "pipeline-unavailable", "Runs can't be looked up at the moment.")
        return self.run_status_api

    def _mistake(
        self, offer: Offer, name: str, problem: str, fix: str, *, identifier: str = ""
    ) -> PluginProblem:
        return PluginProblem(
            offer.plugin,
            name,
            problem,
            fix,
            file=self.plugins.files.get(offer.plugin, ""),
            id=identifier,
        )

    def faults(self, evaluated: Mapping[str, Evaluation]) -> list[PluginProblem]:
        """Return what is wrong with the plugins.

        Faults of pipelines that operators disabled are left out: those stop nothing.
        """
        return [
            item
            for item in self.problems
            if item.id not in evaluated or evaluated[item.id].state is not State.DISABLED
        ]

    @property
    def offered(self) -> dict[str, str]:
        """All pipelines that were loaded, served or not: the plugin of each, by id."""
        return {identifier: item.plugin for identifier, item in self.loaded.items()}

    def offers(self, identifier: str) -> list[Offer]:
        """Return all that was offered as one pipeline.

        Two, which are both refused, where plugins share an id.
        """
        return self._offered[identifier]

    @property
    def broken(self) -> frozenset[str]:
        """The ids of the pipelines whose declaration is at fault."""
        return frozenset(identifier for identifier, item in self.loaded.items() if item.broken)

    def evaluate_all(self, access: Snapshot, *, policy: str | None = None) -> EvaluatedPipelines:
        """Judge every pipeline for both listeners; `policy` asks what another policy would say."""
        return self._judging.evaluate_all(access, policy=policy)

    def check_variable(
        self, engine: Engine, environment: str, box: SecretBox, name: str, value: str
    ) -> None:
        """Refuse a variable's value that no header policy could work with.

        It would block every pipeline. Raises UsageError.
        """
        if self.access is not None and self.access.environment.name == environment:
            access = copy(self.access)
        else:
            access = Snapshot(environment, box)
            access.read(engine)
        before = self._judging.response_violations(access)
        access.variables = {**access.variables, name: value}
        for violation in self._judging.response_violations(access):
            if violation not in before:
                fix = f"; {violation.fix}" if violation.fix != WHAT_IT_READS else ""
                raise UsageError(
                    f"{name} was not set, for it would block every pipeline of {environment}:"
                    f" {violation.reason}{fix}"
                )

    def look(
        self, engine: Engine, environment: str, box: SecretBox
    ) -> tuple[Snapshot, EvaluatedPipelines]:
        """Read an environment's access data once and judge every pipeline there; for commands."""
        access = Snapshot(environment, box)
        access.read(engine)
        judgement = self.evaluate_all(access)
        for fault in judgement.faults:
            self.note_fault(fault)
        return access, judgement

    def preview(self, access: Snapshot, policy: str, *, internal: bool = False) -> PolicyChange:
        """Say which pipelines would stop and start being served under another policy.

        Raises UnknownName.
        """
        options = self.judge.options
        if policy not in options:
            raise UnknownName(
                "policy", policy, options, fix=f"there are: {', '.join(options) or 'none loaded'}"
            )
        facts = access.environment
        policies = facts.internal_policy if internal else facts.policy, policy
        now, then = (
            self.evaluate_all(access).on(internal=internal),
            self.evaluate_all(access, policy=policy).on(internal=internal),
        )
        return change_of(facts.name, policies, now, then, internal=internal)

    def start(
        self,
        *,
        kind: str | None = None,
        access: Snapshot | None = None,
        respawned: bool = False,
        without_database: bool = False,
    ) -> None:
        """Connect, read the snapshot, judge the pipelines and follow the database from now on.

        Raises CannotStart, StartDelayed among it.

        A process of a kind says from then on that it is alive. `access` is what is known already,
        such as by the process that this one was forked from: only what changed since is read. A
        process that was `respawned` is not judged by PENSTOCK_STRICT, for nobody waits for what it
        says. `without_database` lets it answer calls by `access` where the database is away.
        """
        with self._starting:
            if self.fork == forks.generation():
                return
            self._stop, self._wake, self._due_again = (
                threading.Event(),
                threading.Event(),
                threading.Event(),
            )
            engine = self._engine = self._open(
                access, strict=not respawned, without_database=without_database
            )
            box = load_secret_box(self.settings)
            self._keys = box.fingerprints
            self.replies = IdempotencyStore(engine, box)
            self.marks = Marks(engine, self.settings.environment, self._wake.set)
            self._open_runs(engine, box)
            if self.limiter is not None:
                self.limiter.look()
            self._report()
            served = (
                sum(
                    evaluated.state in {State.SERVED, State.NON_CONFORMANT}
                    for evaluated in self.evaluated.values()
                )
                if self.settings.pipelines
                else 0
            )
            facts = {
                "environment": self.settings.environment,
                "plugins": self.plugins.loaded,
                "secret_keys": list(self._keys),
            }
            self.log.info("loaded", **facts, pipelines=len(self.evaluated), served=served)
            self._kind = kind
            if self._trouble is None:
                self._speak(engine)
            self._start_threads(engine)
            self.fork = forks.generation()

    def _start_threads(self, engine: Engine) -> None:
        """Start what goes on besides calls.

        The first thread is the one that follows the database.
        """
        self._listening = engine.dialect.name == "postgresql"
        vital = (
            open_engine(self.settings.database_url, reserved=True) if self._listening else engine
        )
        targets: list[tuple[str, Callable[[Engine, threads.MonitoredThread], None], bool]] = [
            ("penstock-follow", self._follow, True),
            ("penstock-house", self._keep, True),
            ("penstock-watch", self._watch, True),
        ]
        if self._listening:
            # Without it the follower looks more often.
            targets.append(("penstock-listen", self._listen, False))
        self._threads = [
            threads.start(name, partial(target, vital), limit=STUCK, essential=essential)
            for name, target, essential in targets
        ]

    def _open_runs(self, engine: Engine, box: SecretBox) -> None:
        """Begin to record runs, and get ready to accept durable ones where a pipeline has any."""
        access = self._access()
        environment = access.environment
        if any(item.durable for item in self.loaded.values()):
            self.run_store = self._open_run_store(self.settings.database_url, environment.name, box)
            self._check_ledger(self.run_store)
            self.run_intake = RunIntake(engine, self.run_store, environment.name, environment.id)
            self.run_status_api = RunStatusApi(
                self.run_intake, environment.id, max(1, self.settings.threads // 4)
            )
        relaxed = open_engine(self.settings.database_url, relaxed=True, create=False)
        self.recorder = Recorder(
            relaxed,
            environment.id,
            box,
            self.sensitive,
            lambda: access.environment.record_bodies,
            finish=self.run_intake.finish_in if self.run_intake is not None else noted,
            clean=self.cleaner,
        )

    def _check_ledger(self, ledger: RunStore) -> None:
        """Check whether the engine of durable runs answers, unless the database is known down.

        Raises CannotStart.
        """
        try:
            if self._trouble is None:
                ledger.look([new_run_id()])
        except DatabaseUnfit as error:
            raise CannotStart(f"durable runs can't be held: {error}") from error
        except DatabaseUnavailable as error:
            raise StartDelayed(f"durable runs can't be held: {error}") from error

    @property
    def environment_id(self) -> int:
        """The key of this process's environment in the database."""
        return self._access().environment.id

    def sensitive(self, pipeline: Pipeline) -> Redactor:
        """Return what is hidden of a pipeline's bodies.

        What its developer says, and what operators do.
        """
        return Redactor.of(pipeline.sensitive | self._access().sensitive)

    def cleaner(self, pipeline: Pipeline) -> Clean:
        """Return what takes out of a text whatever this process knows to be secret.

        Tokens, secrets, keys and sensitive fields.
        """
        sensitive, secrets = self.sensitive(pipeline), self._known_secrets()
        return lambda text: sensitive.text(without(secrets, text))

    def _known_secrets(self) -> list[str]:
        settings = self.settings
        urls = (
            urlsplit(url).password
            for url in (
                settings.database_url,
                settings.database_direct_url,
                settings.rate_limit_url,
            )
        )
        known = (
            *settings.secret_keys,
            *urls,
            settings.oidc.client_secret if settings.oidc is not None else None,
        )
        return [secret for secret in known if secret] + [
            stored.value.reveal() for stored in self._access().secrets.values()
        ]

    @property
    def queues(self) -> list[Queue]:
        """Where durable runs of this environment wait, by pipeline."""
        environment = self.settings.environment
        durable = {
            identifier: item.pipeline for identifier, item in self.loaded.items() if item.durable
        }
        runs = [
            Queue(queue_of(environment, identifier), pipeline.durable.concurrency)
            for identifier, pipeline in durable.items()
        ]
        return runs + [
            Queue(ticks_of(environment, identifier), patient=True)
            for identifier, pipeline in durable.items()
            if pipeline.schedules
        ]

    def rehearse(self, access: Snapshot | None = None) -> bytes:
        """Do all that a start needs, without staying.

        Report what is not served, and return what `describe_error` is then. Raises CannotStart.
        """
        self._open(access, strict=True).dispose()
        return self._report()

    def _open(
        self, access: Snapshot | None, *, strict: bool, without_database: bool = False
    ) -> Engine:
        try:
            engine = open_existing(self.settings.database_url, self.settings.database_from)
            self._read(engine, access, forgiving=not strict)
            self._answered()
        except (DatabaseUnavailable, UnknownName) as error:
            if not without_database or access is None:
                kind = (
                    CannotStart if isinstance(error, DatabaseUnfit | UnknownName) else StartDelayed
                )
                raise kind(str(error)) from error
            self._lost(str(error))
            self.answered_at = access.checked_at
            self._use(access)
        except PenstockError:
            raise
        except Exception as error:
            raise CannotStart(f"the access data can't be read: {described(error)}") from error
        if strict and self.settings.strict:
            self._refuse_to_start_if_refused()
        return engine

    def _read(self, engine: Engine, access: Snapshot | None, *, forgiving: bool) -> None:
        at = migrate.current(engine)
        if at is None:
            raise DatabaseUnfit("the database is empty; run `penstock db upgrade`")
        if access is None:
            box = load_secret_box(self.settings)
            access = Snapshot(self.settings.environment, box, forgiving=forgiving)
        access.read(engine)
        measure(engine)
        self._report_names(
            pipelines_seen(engine, "runtime", self.settings.environment, self.offered)
        )
        access.read(engine)
        self._use(access)

    def _use(self, access: Snapshot) -> None:
        """Judge the pipelines by a view of access, and answer calls by it from now on."""
        self.access = access
        self._rejudge()
        self.limiter = Limiter(
            self.settings.rate_limit_url,
            failures=_failures(self.settings.failed_auth_rate),
            processes=self.settings.workers,
            refuse_when_away=self.settings.rate_limit_away == "refuse",
        )

    def _report_names(self, names: Mapping[str, list[str]]) -> None:
        """Log what became of names that the release before kept.

        Ids, or nothing where no plugin, or more than one, offers such a pipeline.
        """
        for name, identifiers in names.items():
            if identifiers:
                self.log.info("name became ids", name=name, pipelines=identifiers)
            else:
                fix = (
                    "no plugin alone offers it; associate, designate or limit pipelines by"
                    " their ids"
                )
                self.log.warning("name counts for nothing any more", name=name, fix=fix)

    def stop(self) -> None:
        """End the threads and write what is left."""
        self._stop.set()
        self._wake.set()
        self._due_again.set()
        for thread in self._threads:
            thread.join(timeout=3)
        if self.limiter is not None:
            self.limiter.stop()
        if self._engine is not None:
            self._engine.dispose()
        if self.recorder is not None:
            self.recorder.stop()
        if self.run_store is not None:
            self.run_store.close()

    def _refuse_to_start_if_refused(self) -> None:
        refused = sorted(
            name
            for evaluated in (self.evaluated, self.evaluated_internal)
            for name, item in evaluated.items()
            if item.state is State.REFUSED
        )
        faults = self.faults(self.evaluated)
        if refused or faults:
            what = ", ".join(refused) or str(faults[0])
            raise CannotStart(
                f"PENSTOCK_STRICT is on and not everything can be served: {what}; `penstock check"
                f" --env {self.settings.environment}` says why"
            )

    def _report(self) -> bytes:
        """Report at start what is not served, and how to correct it. Return a digest of it.

        Each fault is reported once a start, and not in each process.
        """
        lines = list(self._lines())
        digest = sha256(repr(lines).encode("utf-8", "replace")).digest()
        quiet = self.told is None or self.told == digest
        for level, event, facts in lines if not quiet else ():
            self.log.log(level, event, **facts)
        self._report_counts(quiet=quiet)
        self._report_doubts(quiet=quiet)
        return digest

    def _lines(self) -> Iterator[tuple[int, str, dict[str, str]]]:
        """Yield what there is to say at start: level, event and facts.

        A fault of a declaration is no second time one of its pipeline.
        """
        for kind, items in (
            ("plugin mistake", self.faults(self.evaluated)),
            ("plugin note", self.notes),
        ):
            for item in items:
                yield from _lines_of(kind, item)
        told = set()
        for identifier, evaluated in (*self.evaluated.items(), *self.evaluated_internal.items()):
            for violation in () if identifier in self.broken else evaluated.violations:
                if (identifier, violation) not in told:
                    told.add((identifier, violation))
                    facts = {
                        "pipeline": identifier,
                        "reason": violation.reason,
                        "fix": violation.fix,
                    }
                    yield (
                        logging.INFO if evaluated.state is State.DISABLED else logging.WARNING,
                        f"pipeline {evaluated.state}",
                        facts,
                    )
            for warning in evaluated.warnings:
                yield (
                    logging.WARNING,
                    "pipeline warning",
                    {"pipeline": identifier, "reason": warning},
                )
        if not self.settings.internal_bind and any(
            item.pipeline.trigger.internal for item in self.loaded.values()
        ):
            yield (
                logging.WARNING,
                "internal pipelines are not reachable",
                {"fix": "set PENSTOCK_INTERNAL_BIND"},
            )
        if self.settings.client_cert_header and not self.settings.trusted_proxies:
            fix = "set PENSTOCK_TRUSTED_PROXIES"
            yield (
                logging.WARNING,
                "no client certificate is read from a header: no proxy is trusted",
                {"fix": fix},
            )

        if self.settings.console and not self.settings.console_url and not self.settings.local:
            fix = "set PENSTOCK_CONSOLE_URL=https://…"
            yield (
                logging.WARNING,
                (
                    "the console's cookie is Secure only where a trusted proxy sends"
                    " X-Forwarded-Proto: https"
                ),
                {"fix": fix},
            )

    def _report_counts(self, *, quiet: bool = False) -> None:
        """Report what each worker counts alone.

        The limits then apply once for each worker. Limits may be set later.
        """
        if self.limiter is None or self.limiter.shared or self.settings.workers == 1:
            return
        counted = {
            "rates": any(item.pipeline.trigger.rate for item in self.loaded.values()),
            "limits of consumers": bool(self._access().limits),
            "failed credentials": self.settings.failed_auth_rate != "off",
        }
        what = ", ".join(name for name, there in counted.items() if there)
        if what and what != self._counted_alone and not quiet:
            self.log.warning(
                "each worker counts alone",
                what=what,
                workers=self.settings.workers,
                fix="set PENSTOCK_RATE_LIMIT_URL",
            )
        self._counted_alone = what

    def _report_doubts(self, *, quiet: bool = False) -> None:
        """Log which rows can't be read, each once.

        What they might grant is closed, and what they might restrict.
        """
        doubts = frozenset(self._access().doubts)
        for doubt in sorted(doubts - self._doubts) if not quiet else ():
            fix = "set it again with the command that made it, or correct the row"
            if "another PENSTOCK_SECRET_KEY" in doubt:
                fix = (
                    "add that key to PENSTOCK_SECRET_KEY of this host, which has"
                    f" {', '.join(self._keys)}, and restart it"
                )
            self.log.error("access data can't be read", row=doubt, fix=fix)
        self._doubts = doubts

    def catch_up(self, engine: Engine) -> None:
        """Read what changed in the database and judge the pipelines anew where that matters.

        Raises DatabaseUnavailable.
        """
        with self._catching_up:
            access = self._access()
            before, began_at = access.revision, time.monotonic()
            changed = access.refresh(engine)
            took = time.monotonic() - began_at
            if changed or took > SLOW:
                self.log.debug(
                    "revision read",
                    revision=access.revision,
                    before=before,
                    ms=round(took * 1000, 1),
                )
            if changed:
                self._report_counts()
                self._report_doubts()
            if access.gates_version != self._gates_version or self._due():
                self._rejudge(live=True)

    def _rejudge(self, *, live: bool = False) -> None:
        """Judge all pipelines anew.

        While calls are answered, they wait for it where it takes long, and are let through by no
        old gate.
        """
        access = self._access()
        version = access.gates_version
        before = self.evaluated, self.evaluated_internal
        judgement = self._judging.evaluate_all(access, live=self._close_all if live else None)
        for fault in judgement.faults:
            if self.note_fault(fault) and live:
                self._log_mistake(self.problems[-1])
        for old, new in zip(before, (judgement.external, judgement.internal), strict=True):
            self._tell_changes(old, new)
        self.responses, self.evaluated, self.evaluated_internal = (
            judgement.responses,
            judgement.external,
            judgement.internal,
        )
        self._gates_version = version

    def _close_all(self) -> None:
        """Let no call through until all pipelines are judged."""
        self.evaluated = self.evaluated_internal = self._judging.close_all(
            "it is being judged, which takes longer than usual", "look at the log"
        )

    def tell_fault(self, fault: PluginFault) -> None:
        """Tell operators what plugin code did while it was called.

        It is reported once, in the log and among the mistakes.
        """
        if self.note_fault(fault):
            self._log_mistake(self.problems[-1])

    def note_fault(self, fault: PluginFault) -> bool:
        """Add a fault of a plugin to the mistakes, and return whether it is new."""
        problem = PluginProblem(fault.plugin, "", fault.problem, FIX, trace=fault.trace)
        if problem in self.problems or len(self.problems) >= MOST_MISTAKES:
            return False
        self.problems.append(problem)
        return True

    def _log_mistake(self, problem: PluginProblem) -> None:
        for level, event, facts in _lines_of("plugin mistake", problem):
            self.log.log(level, event, **facts)

    def _tell_changes(
        self, before: Mapping[str, Evaluation], evaluated: Mapping[str, Evaluation]
    ) -> None:
        """Log what became of pipelines that were judged before."""
        for identifier, item in evaluated.items():
            old = before.get(identifier)
            if old is not None and (fresh := set(item.warnings) - set(old.warnings)):
                self.log.warning("pipeline warning", pipeline=identifier, reasons=sorted(fresh))
            if old is not None and old.state is not item.state:
                tell = self.log.info if item.state is State.SERVED else self.log.warning
                tell(
                    f"pipeline {item.state}",
                    pipeline=identifier,
                    reasons=[violation.reason for violation in item.violations],
                )

    def _access(self) -> Snapshot:
        if self.access is None:
            message = "the host was not started"
            raise RuntimeError(message)
        return self.access

    def _follow(self, engine: Engine, thread: threads.MonitoredThread) -> None:
        """Keep the snapshot at the database's revision, until stopped.

        Nothing ends it sooner: a view that nobody follows is a stale one.
        """
        while not self._stop.is_set():
            thread.heartbeat()
            with self._told("following the database"):
                self._look_at_clock()
                back = self._catch_up_or_tell(engine)
                self._put_moments()
                if self._trouble is None:
                    access = self._access()
                    self.confirmed(access.point, access.checked_at)
                    if self.marks is not None:
                        self.marks.flush()
                    self._attend(engine)
                if back:
                    self._due_again.set()  # claims may be about to end
            pause = POLL_BESIDE_LISTENING if self._listening else POLL
            self._wake.wait(pause if self._access().broken is None else PAUSE_WHEN_BROKEN)
            self._wake.clear()

    def _keep(self, engine: Engine, thread: threads.MonitoredThread) -> None:
        """Do what is due now and then, until stopped.

        It has a thread of its own, because a view that waits for it would be stale.
        """
        due_at = time.monotonic() + FLUSH
        while not self._stop.is_set():
            thread.heartbeat()
            if not self._due_again.wait(WATCH) and time.monotonic() < due_at:
                continue
            self._due_again.clear()
            due_at = time.monotonic() + FLUSH
            if self._trouble != AWAY and not self._stop.is_set():
                with self._told("housekeeping"):
                    self._keep_house(engine)
        with self._told("housekeeping"):
            self._flush(engine)
            self._speak(engine, ended=True)
        with suppress(ValueError, OSError):  # at the end standard error may be closed
            self.log_throttle.report_expired(float("inf"))

    def _watch(self, _engine: Engine, thread: threads.MonitoredThread) -> None:
        """Look at what would otherwise fail unseen, until stopped.

        A database that is silent, and threads that are stuck.
        """
        while not self._stop.wait(WATCH):
            thread.heartbeat()
            silent = SILENCE.of(self._threads[0].ident) if self._threads else 0.0
            if silent >= SILENT_S:
                since = datetime.fromtimestamp(time.time() - silent, UTC)
                self._lost(
                    f"the database has not answered since {since:%H:%M:%S} UTC", since.timestamp()
                )
            stuck = frozenset(item.name for item in threads.stuck())
            for name in sorted(stuck - self._stuck):
                self.log.error(
                    "a thread is stuck: /-/health is 503, restart this process",
                    thread=name,
                    limit=STUCK,
                )
            self._stuck = stuck
            with self._told("telling the metrics"):
                self._put_gauges()

    def _put_gauges(self) -> None:
        """Have the metrics say how this process is."""
        away = self._trouble == AWAY
        metrics.set_gauge("penstock_start_time_seconds", self.started_at)
        metrics.set_gauge("penstock_database_up", not away)
        metrics.set_gauge("penstock_database_read_only", writes.read_only and not away)
        metrics.set_gauge("penstock_database_disk_full", writes.full)
        metrics.set_gauge(
            "penstock_threads_stuck", sum(thread.stuck for thread in threads.running())
        )
        if self.limiter is not None and self.limiter.shared:
            metrics.set_gauge("penstock_redis_up", not self.limiter.away)
        for listener, evaluated in (
            ("external", self.evaluated),
            ("internal", self.evaluated_internal),
        ):
            states = Counter(
                STATES[item.state] for item in evaluated.values() if item.state in STATES
            )
            for state in STATES.values():
                metrics.set_gauge("penstock_pipelines", states[state], listener, state)

    def _put_moments(self) -> None:
        """Have the metrics say since when the view of access and the answer of the database count.

        Ages are computed when they are read.
        """
        access = self._access()
        metrics.set_gauge(
            "penstock_snapshot_age_seconds",
            access.checked_at if access.broken is None else time.monotonic() - NEVER,
        )
        metrics.set_gauge(
            "penstock_database_answered_age_seconds",
            max(self.answered_at, time.monotonic() - NEVER),
        )

    def _look_at_clock(self) -> None:
        """Log once when this host's clock begins to differ from the database's, and once after.

        Past the leeway the level is higher.
        """
        seconds = clock.seconds_ahead()
        metrics.set_gauge("penstock_clock_difference_seconds", seconds)
        level = next(
            (level for least, level in CLOCK_LEVELS if abs(seconds) >= least), logging.INFO
        )
        before, self._clock_level = self._clock_level, level
        if level > before:
            fix = "synchronise this host's clock (NTP): credentials expire by it"
            self.log.log(
                level, "clock differs from the database's", seconds=round(seconds, 1), fix=fix
            )
        elif level == logging.INFO and before > level:
            self.log.info("clock agrees with the database's again")

    def _attend(self, engine: Engine) -> None:
        """See which processes are alive and which runs wait, where this process answers calls.

        What can't be read now is read later.
        """
        if self._process is not None:
            with suppress(PenstockError):
                self.attendance.look(engine, self.environment_id)

    @contextmanager
    def _told(self, doing: str) -> Iterator[None]:
        """Log what is raised, whatever it is, and go on.

        What is raised again and again is logged once in a while.
        """
        try:
            yield
        except BaseException as error:
            with suppress(BaseException):  # a log that can't be written to is no reason either
                if self.log_throttle.allow(
                    time.monotonic(), doing=doing, error=type(error).__name__
                ):
                    self.log.exception(
                        "background work failed", doing=doing, error=type(error).__name__
                    )

    def _catch_up_or_tell(self, engine: Engine) -> bool:
        """Catch up with the database, and return whether it is back.

        What keeps us from it is logged when it begins, and shown by `checks`.
        """
        before = self._trouble
        try:
            self.catch_up(engine)
        except HistoryChanged as error:
            self._trouble = AWAY
            self.log.warning(
                "database restored: all access data is read anew; calls are answered 503 meanwhile",
                error=str(error),
            )
            return False
        except (DatabaseUnavailable, UnknownName) as error:
            self._lost(str(error))
            return False
        except BaseException as error:
            self._answered()
            self._trouble = (
                f"changes can't be applied: {self._access().broken or type(error).__name__}"
            )
            if before != self._trouble:
                self.log.exception(
                    "changes can't be applied: all calls are answered 503",
                    error=described(error),
                    access=self._access().broken,
                )
            return False
        before = self._trouble
        away_since = self.away_since
        self._trouble = None
        self._answered()
        if before is not None:
            self.log.info(
                "database back",
                away_s=round(time.time() - away_since, 1) if away_since is not None else None,
            )
        return before is not None

    def _answered(self) -> None:
        """Note that the database has answered."""
        self.answered_at = time.monotonic()
        self.up_since, self.away_since = self.up_since or self.answered_at, None

    def _lost(self, error: str, since: float | None = None) -> None:
        """Note that the database does not answer, and log it once an episode."""
        if self._trouble == AWAY:
            return
        self._trouble, self.up_since, self.away_since = AWAY, None, since or time.time()
        self.log.error(AWAY, error=error, max_staleness=self.settings.max_staleness)

    def _keep_house(self, engine: Engine) -> None:
        """Do what is due now and then."""
        self._renew()
        self._flush(engine)
        self._speak(engine)
        self._purge(engine)
        with suppress(PenstockError):
            measure(engine)
        with suppress(PenstockError):
            trim(open_engine(self.settings.database_url))
        self.log_throttle.report_expired(time.monotonic())
        logs.report_dropped_lines(time.monotonic())

    def _due(self) -> bool:
        now = time.time()
        return any(
            item.reevaluate_at is not None and item.reevaluate_at <= now
            for evaluated in (self.evaluated, self.evaluated_internal)
            for item in evaluated.values()
        )

    def _listen(self, _engine: Engine, thread: threads.MonitoredThread) -> None:
        """Wake the follower at each notification; when listening fails, polling goes on."""

        def stopped() -> bool:
            thread.heartbeat()
            return self._stop.is_set()

        while not stopped():
            with self._told("listening to the database"), suppress(OSError):
                if listen(self.settings.direct_url, self._wake.set, stopped):
                    continue
                self._listening = False
                fix = "set PENSTOCK_DATABASE_DIRECT_URL to the server itself"
                self.log.warning(
                    "changes of access are polled: a connection pooler passes no notifications on",
                    fix=fix,
                )
                return
            self._stop.wait(1)

    def _flush(self, engine: Engine) -> None:
        used, self._used = self._used, {}
        if used:
            moments = {
                key: datetime.fromtimestamp(minute * 60, UTC) for key, minute in used.items()
            }
            with suppress(PenstockError):
                touch_keys(engine, moments)

    def _speak(self, engine: Engine, *, ended: bool = False) -> None:
        """Say that this process is alive, or ends."""
        if self._kind is None:
            return
        with suppress(PenstockError):
            if self._process is None:  # at the start, or as soon as the database is there
                process = new_run_id()
                runs.register(
                    engine,
                    process,
                    kind=self._kind,
                    environment_id=self.environment_id,
                    host=socket.gethostname(),
                    pid=os.getpid(),
                )
                self._process = process
            elif ended:
                runs.unregister(engine, self._process)
            # It was counted as gone, or the database was restored.
            elif not runs.heartbeat(engine, self._process):
                self._process = None

    def _renew(self) -> None:
        """Keep the claims of calls that still run."""
        with suppress(PenstockError):
            if self.replies is not None:
                self.replies.renew()

    def _purge(self, engine: Engine) -> None:
        """Forget replies and runs that were kept long enough, a few at a time.

        What is left after a while is for the next time.
        """
        until = time.monotonic() + PURGE
        with suppress(PenstockError):
            while purge(engine, clock.utc_now()) == PURGED_AT_A_TIME and self._goes_on(until):
                pass
            environment = self._access().environment
            now = clock.now()
            oldest = first_id(now - environment.run_retention)
            while self.purge_runs(engine, oldest) == runs.PURGED_AT_A_TIME and self._goes_on(until):
                time.sleep(BREATH)
            while runs.purge_refusals(
                engine, environment.id, oldest
            ) == runs.PURGED_AT_A_TIME and self._goes_on(until):
                time.sleep(BREATH)
            runs.forget_silent(engine, environment.id, silent=FORGOTTEN)
            call_counts.roll_up(engine, environment.id, now)
            call_counts.purge(
                engine, environment.id, int(now - max(environment.run_retention, COUNTED))
            )
            if time.monotonic() >= until:
                self._due_again.set()

    def _goes_on(self, until: float) -> bool:
        return not self._stop.is_set() and time.monotonic() < until

    def purge_runs(self, engine: Engine, before: str) -> int:
        """Forget runs older than an id, a few at a time; return how many."""
        number, durable = runs.purge(engine, self._access().environment.id, before)
        if durable and self.run_store is not None:
            self.run_store.forget(all_held(durable))
        return number

    def note_use(self, key_id: str, now: float) -> None:
        """Note that a key was used, to the minute; written in batches."""
        self._used[key_id] = now // 60

    def fresh(self) -> bool:
        """Say whether the view of access is young enough to answer calls by."""
        access = self.access
        return access is not None and access.age() <= self.settings.max_staleness

    @property
    def trouble(self) -> str | None:
        """What keeps this process from following the database; None while nothing does."""
        return self._trouble

    def reachable(self) -> bool:
        """Say whether the database confirmed the view just now.

        False from the first second that it is away.
        """
        return self.access is not None and self.access.age() <= 1.0

    def checks(self) -> tuple[bool, dict[str, str]]:
        """Say whether this process can answer calls, and how each part of it is."""
        followed = not self._threads or self._threads[0].is_alive()
        applied = self.access is None or self.access.broken is None
        checks = {
            "database": (
                "ok"
                if self.reachable()
                else (
                    "can't be reached"
                    if applied
                    else "its changes can't be applied; the log says why"
                )
            ),
            "snapshot": (
                "ok" if self.fresh() else "too old" if applied else "not usable; the log says why"
            ),
            "plugins": (
                "ok" if not self.plugins.problems else f"{len(self.plugins.problems)} refused"
            ),
        }
        if not followed:
            checks["database"] = (
                "not followed: the thread that does it has ended; restart this process"
            )
        if self.limiter is not None and self.limiter.away is not None:
            checks["rates"] = (
                f"{self.limiter.away}: the storage of PENSTOCK_RATE_LIMIT_URL can't be reached"
            )
        if self.run_intake is not None:
            # Calls are answered all the same, and what is accepted is not lost.
            checks["runs"] = self.attendance.told()
        clock_fits = abs(seconds := clock.seconds_ahead()) <= CLOCK_UNFIT
        if not clock_fits:
            checks["clock"] = (
                f"{abs(seconds):.0f} s {'behind' if seconds > 0 else 'ahead of'} the database's"
            )
        ready = (
            checks["snapshot"] == "ok"
            and followed
            and clock_fits
            and bool(self.plugins.loaded)
            and not self.is_draining()
        )
        if self.is_draining():
            checks["process"] = "about to end"
        if not self.plugins.loaded:
            checks["plugins"] = "none loaded"
        return ready, checks

    def issue(self, pipeline: Pipeline, caller: Caller, **wanted: object) -> Token:
        """Make a token for the consumer that calls a designated login flow.

        Raises TokenNotIssued.
        """
        access = self._access()
        issuers = self.plugins.issuers
        if not pipeline.trigger.login or not access.pipeline(pipeline.id).login_flow:
            raise TokenNotIssued(
                f"{pipeline.id} is no login flow of {access.environment.name}: its trigger must say"
                " login=True, and an operator must designate it (`penstock login-flow designate"
                f" {pipeline.id} --env {access.environment.name}`)"
            )
        if caller.consumer is None:
            raise TokenNotIssued(
                f"{pipeline.id} does not know its consumer: set api_key=True on its trigger"
            )
        if len(issuers) != 1:
            raise TokenNotIssued(
                f"{len(issuers)} token issuers are loaded, there must be one (penstock_jwt)"
            )
        issuer = issuers[0]
        token = issuer.issue(access, caller.consumer, now=time.time(), **wanted)
        if not is_token(token):
            self.tell_fault(
                PluginFault(
                    issuer.plugin, f"its token issuer returned {type(token).__name__}, not a Token"
                )
            )
            raise TokenNotIssued(
                "the token issuer made no token; the log says which plugin it is of"
            )
        return token

    def is_login_flow(self, identifier: str) -> bool:
        """Say whether the trigger of a pipeline says login=True.

        Without login=True a pipeline can't issue tokens, even where it is designated.
        """
        item = self.loaded.get(identifier)
        return item is not None and item.pipeline.trigger.login

    def own_rates(self, identifier: str) -> list[str] | None:
        """Return the rates of a pipeline that a consumer's limit there stands in for.

        None where they are not known.
        """
        item = self.loaded.get(identifier)
        if item is None or item.broken:
            return None
        return [
            str(rate)
            for rate in item.pipeline.trigger.rate
            if rate.by in OVERRIDDEN_BY_CONSUMER_LIMIT
        ]


def _lines_of(kind: str, item: PluginProblem) -> Iterator[tuple[int, str, dict[str, str]]]:
    """Yield what the log has of a plugin's fault, or of a note about one.

    Level, event and facts.
    """
    known = {"plugin": item.plugin, "file": item.file, "pipeline": item.pipeline}
    facts = {name: value for name, value in known.items() if value}
    yield (
        logging.ERROR if kind == "plugin mistake" else logging.WARNING,
        kind,
        {**facts, "problem": item.problem, "fix": item.fix},
    )
    if item.trace:
        yield logging.DEBUG, "plugin traceback", {"plugin": item.plugin, "trace": item.trace}


def _withheld(settings: Settings, plugins: Plugins) -> Withheld:
    """Return which headers and query parameters handlers don't get."""
    offered = plugins.authenticators
    headers = [
        *settings.api_key_headers,
        settings.client_cert_header,
        *(name for item in offered for name in item.credential_headers),
    ]
    return Withheld.of(headers, (name for item in offered for name in item.credential_parameters))


def _failures(text: str) -> Rate | None:
    """Return the rate of failed credentials. Raises BadSetting."""
    if text == "off":
        return None
    rate = Rate(text, by="address")
    for problem, fix in rate.problems():
        raise BadSetting(f"PENSTOCK_FAILED_AUTH_RATE: {problem}; {fix}, or off")
    return rate
