"""A worker process: performs durable runs, takes over those of workers that died, and keeps their records true."""

from __future__ import annotations

import os
import random
import socket
import threading
import time
from collections.abc import Mapping
from contextlib import suppress
from datetime import UTC, datetime
from functools import partial
from typing import Any

import msgspec
import structlog

from penstock.contracts.call import Call
from penstock.contracts.triggers import Schedule
from penstock.db import runs as stored
from penstock.db.engine import Engine, open_engine, reading, writing
from penstock.db.rows import Row
from penstock.errors import OutOfTime, PenstockError, Refusal
from penstock.host import Host, Loaded
from penstock.perform import Context, Observers, Starter, client_of, failed, handle
from penstock.runs import callbacks
from penstock.runs.accepting import CALLBACKS, Accepting, Wanted, queue_of, ticks_of
from penstock.runs.durable import DurableRunner, Given, outcome_of
from penstock.runs.engine import Bench, Document, EngineTrouble, Held, Ledger, LetGo, NotKept, PipelineChanged, Queue, State
from penstock.runs.handlers import Endpoint
from penstock.runs.ids import is_run_id, new_run_id
from penstock.runs.plain import as_json
from penstock.runs.records import Exchange, Finished, Recorder, Status, first_id, status_of
from penstock.runs.recovering import Recovery
from penstock.runs.showing import steps_held, told_run
from penstock.runs.steps import StepRecord
from penstock.runs.ticks import left_out, tick_id

BEAT = 1.0  # seconds between two signs of life, each with a look around
SILENT = 6.0  # seconds without one, and a worker counts as dead
LEASE = 6.0  # seconds that taking over from one may take
ORPHANED = 3.0  # seconds after which a run that we hold and do not perform is given back
YOUNG = 5.0  # seconds in which a record is written by whoever performs
CHECKED = 500  # records in one look
LOST = 120.0  # seconds after which a run that the engine does not know never will be
TIDY = 3600.0  # seconds between two looks for old ticks
TICKS_KEPT = 86_400.0  # seconds that the engine remembers them
STARVED = 20  # times that the engine may fail to go on with a run, though it answers
RECOVERIES = 3  # of a run whose pipeline is not loaded here
FRESH = 10.0  # seconds after its acceptance in which a run begins for the first time


class Taken(Exception):
    """Others count this process as dead and have its runs."""


class Worker:
    """Performs the durable runs of one environment, until it is told to stop."""

    def __init__(self, host: Host, bench: Bench) -> None:
        """Take where runs are performed."""
        settings = host.settings
        self._host = host
        self._engine: Engine = open_engine(settings.database_url)
        self._bench = bench
        self._starter = Starter(host)
        self._observers = Observers(host)
        self._process = new_run_id()
        self._active: dict[str, threading.Event] = {}  # what is performed, and what is set when it is to be let go
        self._starved: dict[str, int] = {}  # how often the engine could not go on with a run
        self._orphans: dict[str, float] = {}  # since when nobody performs what is ours
        self._recovering: Recovery | None = None
        self._checked: str | None = None
        self._stop = threading.Event()
        self._closed = threading.Event()
        self._log = structlog.get_logger("penstock.worker")

    @property
    def needed(self) -> bool:
        """Whether there is anything to do: a pipeline with durable runs."""
        return bool(self._host.queues)

    def stop(self) -> None:
        """Have `run` end."""
        self._stop.set()

    def run(self) -> None:
        """Perform runs until told to stop; those that are under way then have the graceful time. Raises CannotStart, Taken."""
        host = self._host
        host.start()
        environment_id = host.environment_id
        stored.appear(self._engine, self._process, kind="worker", environment_id=environment_id, host=socket.gethostname(), pid=os.getpid())
        queues = [*host.queues, Queue(queue_of(host.settings.environment, CALLBACKS), patient=True)]
        self._bench.open(self._process, queues, self.perform, self.tick, at_once=host.settings.worker_runs)
        self._schedule()
        threading.Thread(target=self._tidy_on, name="penstock-tidy", daemon=True).start()
        self._log.info("worker ready", process=self._process, queues=[queue.name for queue in queues])
        try:
            self._watch(environment_id)
        finally:
            threading.Thread(target=self._beat_on, name="penstock-beat", daemon=True).start()
            self._bench.close(host.settings.graceful_timeout)
            self._closed.set()
            host.stop()
            with suppress(PenstockError):
                stored.beat(self._engine, self._process, ended=True)
            self._log.info("worker ended", left=len(self._active))

    # Life

    def _watch(self, environment_id: int) -> None:
        spoke = time.monotonic()
        while not self._stop.is_set():
            try:
                if not stored.beat(self._engine, self._process):
                    raise Taken("others have taken over from this worker; it was silent for too long")  # noqa: TRY301  it ends this
                quiet, spoke = time.monotonic() - spoke, time.monotonic()
                if quiet < SILENT:  # else all were silent, and each may speak before anybody is judged
                    self._take_over(environment_id)
                self._let_go()
                self._give_back_orphans()
                self._reconcile(environment_id)
            except Taken:
                raise
            except PenstockError as error:
                self._log.error("worker can't look around", error=str(error))
            except Exception:  # noqa: BLE001  whatever one run is, the others must be looked after
                self._log.exception("worker can't look around")
            self._stop.wait(BEAT * random.uniform(0.8, 1.2))  # noqa: S311  so that not all look at the same moment

    def _beat_on(self) -> None:
        """Speak while the last runs end; nobody is to take them then."""
        while not self._closed.wait(BEAT):
            with suppress(PenstockError):
                stored.beat(self._engine, self._process)

    def _take_over(self, environment_id: int) -> None:
        """Let the runs of workers that ended go on; each worker is taken over from by one other, so no run is given away twice."""
        for dead in stored.overdue(self._engine, environment_id, self._process, silent=SILENT, lease=LEASE):
            try:
                done = self._recovery.take_over(dead)
            except PenstockError:
                raise
            except Exception:  # noqa: BLE001  as above; it is tried again
                self._log.exception("can't take over from a worker", worker=dead.id)
                continue
            if done:
                stored.disappear(self._engine, dead.id)

    def _give_back_orphans(self) -> None:
        """Give back what the engine counts as ours and nobody performs: it could not be begun, or its end could not be written."""
        now, before = time.monotonic(), self._orphans
        held = [item for item in self._ledger.held_by(self._process) if item.run not in self._active]
        self._orphans = {item.run: before.get(item.run, now) for item in held}
        for item in held:
            if now - self._orphans[item.run] <= ORPHANED:
                continue
            del self._orphans[item.run]
            if item.run not in self._starved:
                self._recovery.give_back(item)
            elif self._starved[item.run] < STARVED or (row := self._find(item.run)) is None:
                self._recovery.go_on(item)
            else:
                number = self._starved.pop(item.run)
                self._recovery.give_up(item, row, "not-kept", f"The engine could not go on with it, {number} times; the log of its worker says why.")
        self._starved = {run: number for run, number in self._starved.items() if run in self._active or run in before or run in self._orphans}

    def _let_go(self) -> None:
        """Tell runs that we perform and that are over for the engine: their time was up, or they were cancelled."""
        for run, item in self._ledger.look(list(self._active)).items():
            active = self._active.get(run)
            if active is not None and item.state is State.CANCELLED:
                active.set()

    def _reconcile(self, environment_id: int) -> None:
        """Note the ends that nobody wrote: of runs whose worker died right after, that were cancelled, or whose time was up."""
        with reading(self._engine) as connection:
            rows = stored.unfinished(connection, environment_id, after=self._checked, before=first_id(time.time() - YOUNG), limit=CHECKED)
        self._checked = rows[-1]["id"] if len(rows) == CHECKED else None
        held = self._ledger.look([row["id"] for row in rows], outcomes=True)
        for row in rows:
            item, loaded = held.get(row["id"]), self._host.loaded.get(row["pipeline"])
            if loaded is None or self._recorder.knows_end(row["id"]):
                continue
            if row["id"] in self._active and (item is None or item.state is not State.CANCELLED):
                continue
            if item is None:
                if row["id"] < first_id(time.time() - LOST):
                    detail = "The engine does not know this run."
                    self._recorder.ended(Finished(row["id"], loaded.pipeline, Status.FAILED, 500, problem="not-begun", detail=detail))
                continue
            if row["cancelled_by"] and not item.state.over:
                self._ledger.cancel([row["id"]])
                self._accepting.close_cancelled([row["id"]])
            elif item.state.over:
                self._recorder.ended(_finished(row, item, loaded, steps_held(self._ledger.steps(row["id"]))))

    # Work

    def perform(self, run: str, document: Document) -> Document:
        """Perform a run: the engine calls this, in a thread of its own. What it returns is how the run ended."""
        let_go = self._active[run] = threading.Event()
        try:
            done = self._call_back(document) if "callback" in document else self._perform_pipeline(run, Given.of(document), let_go)
            self._starved.pop(run, None)
        except LetGo:
            raise
        except EngineTrouble as error:
            self._starved[run] = self._starved.get(run, 0) + 1
            self._log.error("run interrupted", run=run, error=str(error))
            raise
        finally:
            if self._active.get(run) is let_go:
                del self._active[run]
        return done

    def _perform_pipeline(self, run: str, given: Given, let_go: threading.Event) -> Document:
        host = self._host
        began = time.monotonic() - self._spent(run, given)
        item = host.loaded.get(given.pipeline)
        endpoint = _endpoint(item, given.method, given.route)
        if item is None or endpoint is None:
            return outcome_of(_changed("its handler is not there any more"), [], 0)
        pipeline = item.pipeline
        self._recorder.began(run, datetime.now(UTC))
        deadline = began + pipeline.durable.timeout
        call = self._call(run, given, endpoint, deadline)
        context = Context(call, tuple(given.ancestors), given.traceparent)
        say, clean = partial(self._recorder.progress, run), host.sensitive(pipeline).text
        runner = DurableRunner(self._bench, deadline, self._starter.start(context), say, let_go, clean)
        self._observers.started(call)
        outcome = outcome_of(failed(), [], 0)
        try:
            outcome = outcome_of(handle(endpoint, call, runner), runner.steps, _micros(began))
            if time.monotonic() >= deadline:
                raise OutOfTime  # noqa: TRY301  as a step would
        except PipelineChanged as error:
            self._log.error("pipeline changed", pipeline=pipeline.id, run=run, error=str(error))
            outcome = outcome_of(_changed("its steps are not those that it did before"), runner.steps, _micros(began))
        except NotKept as error:
            self._log.error("result not kept", pipeline=pipeline.id, run=run, error=str(error))
            outcome = outcome_of(failed(), runner.steps, _micros(began))
        except EngineTrouble:
            raise
        except Refusal as error:
            outcome = outcome_of(error, runner.steps, _micros(began))
        except BaseException as error:  # noqa: BLE001  a stranger's handler may raise anything; it ends its run, not the worker
            self._log.exception("pipeline failed", pipeline=pipeline.id, run=run, error=type(error).__name__)
            outcome = outcome_of(failed(), runner.steps, _micros(began))
        finally:
            call.end()
            self._observers.finished(call, outcome["status"], time.monotonic() - began)
        if let_go.is_set():  # it was over before this, and its consumer was told so
            raise LetGo
        self._recorder.ended(self._record(run, item, call, outcome, runner))
        return outcome

    def _spent(self, run: str, given: Given) -> float:
        """Return the seconds since a run was first begun, in other workers."""
        if time.time() - given.accepted_at < FRESH:
            return 0.0
        row = self._find(run)
        started = row["started_at"] if row is not None else None
        return max(0.0, time.time() - started.timestamp()) if started is not None else 0.0

    def _find(self, run: str) -> Row | None:
        if not is_run_id(run):  # a tick of a schedule
            return None
        with reading(self._engine) as connection:
            return stored.find(connection, run)

    def _call(self, run: str, given: Given, endpoint: Endpoint, deadline: float) -> Call:
        access = self._host.access
        pipeline = endpoint.pipeline
        return Call(
            method=given.method,
            path=given.path,
            pipeline=pipeline.name,
            version=pipeline.version,
            environment=given.environment,
            run=run,
            deadline=deadline,
            caller=given.caller,
            params=given.params,
            query_string=given.query_string,
            content_type=given.content_type,
            read_headers=lambda: given.headers,
            read_body=lambda: given.body,
            read_form=lambda _: {name: list(values) for name, values in (given.form or {}).items()},
            variables=access.variables if access is not None else {},
            read_secrets=lambda: access.secrets_for(pipeline.name) if access is not None else {},
            read_http=client_of(run, deadline, given.traceparent),
        )

    def _record(self, run: str, item: Loaded, call: Call, outcome: Document, runner: DurableRunner) -> Finished:
        problem = outcome.get("problem") or {}
        exchange = None
        if self._recorder.keeps(item.pipeline, outcome["status"]):
            reply_type = next((value for name, value in outcome.get("headers", ()) if name.lower() == "content-type"), "application/json")
            reply = outcome.get("body") or as_json(problem)
            exchange = Exchange(call.path, call.query_string, call.content_type, call.body, None, reply_type, reply, call.params)
        status = status_of(outcome["status"], problem.get("code"))
        return Finished(
            run, item.pipeline, status, outcome["status"], outcome["micros"], problem.get("code"), problem.get("detail"), runner.steps, exchange
        )

    # Callbacks and schedules

    def _call_back(self, document: Document) -> Document:
        """Make one attempt to tell a consumer of its run's end, and see to the next one."""
        run, attempt, access = document["callback"], document["attempt"], self._host.access
        row = self._find(run)
        held = self._ended(run)
        target = callbacks.target_of(document["url"], access.callbacks.get(document["consumer_id"], ()) if access is not None else ())
        delay: float | None = None
        if row is None:
            said = "the run is not remembered any more"
        elif target is None:
            said = "not allowed any more"
        else:
            try:
                status = callbacks.deliver(document["url"], target, run, as_json(told_run(row, held)))
                said = f"delivered at attempt {attempt} ({status})"
            except callbacks.Undeliverable as error:
                said = f"attempt {attempt}: {error}"
                delay = None if error.final or attempt > len(callbacks.PAUSES) else callbacks.PAUSES[attempt - 1]
        over = delay is None and not said.startswith("delivered")
        with writing(self._engine) as connection:
            stored.set_durable(connection, run, callback_status=f"{'given up: ' if over else ''}{said}"[:255])
            if delay is not None:
                self._accepting.call_back_in(connection, run, document["url"], document["consumer_id"], attempt=attempt + 1, delay=delay)
        return {"status": 200, "headers": [], "body": b"", "steps": [], "micros": 0, "said": said}

    def _ended(self, run: str) -> Held | None:
        """Return a run whose end was noted; the engine writes it a moment later."""
        for _ in range(50):
            held = self._ledger.look([run], outcomes=True).get(run)
            if held is None or held.state.over:
                break
            time.sleep(0.1)
        return held

    def _schedule(self) -> None:
        """Have the engine call us at the ticks of all schedules that are declared, and of no others of these pipelines."""
        declared: set[str] = set()
        for identifier, item in self._host.loaded.items():
            if item.broken:
                continue
            for schedule in item.pipeline.schedules:
                name = f"{queue_of(self._host.settings.environment, identifier)} {schedule.cron} {schedule.timezone} {schedule.path}"
                context = {"pipeline": identifier, "cron": schedule.cron, "path": schedule.path}
                queue = ticks_of(self._host.settings.environment, identifier)
                self._bench.schedule(name, schedule.cron, schedule.timezone, context, queue=queue, make_up=schedule.missed == "once")
                declared.add(name)
        ours = {queue_of(self._host.settings.environment, identifier) for identifier in self._host.loaded}
        self._bench.unschedule(declared, lambda name: name.partition(" ")[0] in ours)

    def tick(self, context: Mapping[str, Any], moment: datetime, now: datetime | None = None) -> None:
        """Accept the run of a tick, once over all processes; `now` is when, if that is not now."""
        identifier = context["pipeline"]
        item = self._host.loaded.get(identifier)
        schedule = _schedule_of(item, context)
        endpoint = _endpoint(item, "POST", context["path"])
        if item is None or schedule is None or endpoint is None or not self._starter.may_start(identifier):
            reason = "the pipeline is refused, disabled or not loaded"
            self._log.warning("schedule skipped", pipeline=identifier, cron=context["cron"], reason=reason)
            return
        why = left_out(schedule, moment, now or datetime.now(UTC))
        if why is not None:
            self._log.info("schedule skipped", pipeline=identifier, cron=context["cron"], tick=moment.isoformat(), reason=why)
            return
        body = b"" if schedule.body is None else msgspec.json.encode(schedule.body)
        given = Given(
            pipeline=identifier,
            method="POST",
            route=endpoint.route.path,
            path=f"/{identifier}{endpoint.route.path}",
            environment=self._host.settings.environment,
            accepted_at=time.time(),
            content_type="application/json" if body else "",
            body=body,
            ancestors=[identifier],
        )
        run = tick_id(self._host.settings.environment, identifier, schedule, moment)
        with suppress(Refusal):  # the backlog is full: this tick is skipped, as the log says
            self._accepting.accept(Wanted(run, given, item.pipeline, endpoint.route))

    def _tidy_on(self) -> None:
        """Forget old ticks, in a thread of its own: it may have to look through many runs."""
        since = 0.0
        while not self._stop.is_set():
            now = time.time()
            with suppress(PenstockError):
                while self._ledger.forget_ticks(since, now - TICKS_KEPT) and not self._stop.is_set():
                    pass
                since = now - 2 * TICKS_KEPT
            self._stop.wait(TIDY)

    @property
    def _recovery(self) -> Recovery:
        if self._recovering is None:
            self._recovering = Recovery(self._engine, self._accepting, self._host.settings.environment, self._recoveries, self._gave_up)
        return self._recovering

    def _recoveries(self, pipeline: str) -> int:
        loaded = self._host.loaded.get(pipeline)
        return loaded.pipeline.durable.recoveries if loaded is not None else RECOVERIES

    def _gave_up(self, pipeline: str) -> None:
        self._recorder.count(pipeline, Status.FAILED.value, None)

    @property
    def _ledger(self) -> Ledger:
        return self._accepting.ledger

    @property
    def _accepting(self) -> Accepting:
        if self._host.accepting is None:
            raise RuntimeError("the worker was not started")
        return self._host.accepting

    @property
    def _recorder(self) -> Recorder:
        if self._host.recorder is None:
            raise RuntimeError("the worker was not started")
        return self._host.recorder


def _changed(how: str) -> Refusal:
    return Refusal(500, "pipeline-changed", f"The pipeline was changed while this run was under way: {how}.")


def _micros(began: float) -> int:
    return int((time.monotonic() - began) * 1e6)


def _endpoint(item: Loaded | None, method: str, path: str) -> Endpoint | None:
    endpoints = item.endpoints if item is not None else ()
    return next((one for one in endpoints if (one.route.method, one.route.path) == (method, path)), None)


def _schedule_of(item: Loaded | None, context: Mapping[str, Any]) -> Schedule | None:
    schedules = item.pipeline.schedules if item is not None else ()
    return next((one for one in schedules if (one.cron, one.path) == (context["cron"], context["path"])), None)


def _finished(row: Row, item: Held, loaded: Loaded, steps: list[StepRecord]) -> Finished:
    """Return the end of a run as the engine knows it."""
    outcome, pipeline = item.outcome, loaded.pipeline
    if item.state is State.DONE and outcome is not None:
        problem = outcome.get("problem") or {}
        status = status_of(outcome["status"], problem.get("code"))
        return Finished(row["id"], pipeline, status, outcome["status"], outcome["micros"], problem.get("code"), problem.get("detail"), steps)
    if item.state is State.CANCELLED and row["cancelled_by"]:
        return Finished(row["id"], pipeline, Status.CANCELLED, steps=steps)
    if item.state is State.CANCELLED:
        return Finished(row["id"], pipeline, Status.TIMED_OUT, 504, problem="timed-out", steps=steps)
    return Finished(row["id"], pipeline, Status.FAILED, 500, problem="pipeline-failed", detail=item.error, steps=steps)
