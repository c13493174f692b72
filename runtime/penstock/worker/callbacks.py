"""Send callbacks, one attempt at a time."""

from __future__ import annotations

import time

from penstock.access.callbacks import CallbackTarget
from penstock.contracts.sanitize import as_json
from penstock.db import durable_runs
from penstock.db.engine import writing
from penstock.db.run_tables import DurableRunRow
from penstock.db.runs import FullRunRow
from penstock.durable import callbacks
from penstock.durable.engine import Document, EngineRun, RunStore
from penstock.durable.intake import RunIntake
from penstock.durable.status import run_document
from penstock.host.catalog import Catalog
from penstock.host.view import CurrentView
from penstock.runs.interrupts import KeyMissing


def call_back(
    catalog: Catalog,
    view: CurrentView,
    url: str,
    intake: RunIntake,
    row: FullRunRow | None,
    document: Document,
) -> Document:
    """Make one attempt of a callback, queue the next one where it fails, and return its outcome.

    `row` is the record of the run, `url` the public base URL. Raises KeyMissing.
    """
    run, attempt = document["callback"], document["attempt"]
    engine_run = _ended(intake.run_store, run)
    if engine_run is not None and engine_run.undecryptable:
        raise KeyMissing(engine_run.undecryptable)
    target = _target_of(view, document)
    delay: float | None = None
    if row is None:
        result = "given up: the run was deleted"
    elif target is None:
        result = "given up: not allowed any more"
    else:
        seen = run_document(row, engine_run) | {"url": _url_of(catalog, url, row)}
        result, delay = _attempt(document, target, as_json(callbacks.event_of(seen)))
    with writing(intake.engine) as connection:
        durable_runs.update(connection, run, {DurableRunRow.callback_status: result[:255]})
        if delay is not None:
            intake.call_back_in(
                connection,
                run,
                document["url"],
                document["consumer_id"],
                attempt=attempt + 1,
                delay=delay,
            )
    return {"status": 200, "headers": [], "body": b"", "steps": [], "micros": 0}


def _target_of(view: CurrentView, document: Document) -> CallbackTarget | None:
    """Return the target that allows the URL of a callback now."""
    access = view.access
    targets = access.callbacks.get(document["consumer_id"], ()) if access is not None else ()
    return callbacks.target_of(document["url"], targets)


def _attempt(
    document: Document, target: CallbackTarget, payload: bytes
) -> tuple[str, float | None]:
    """Send a callback; return the result, and the seconds until the next attempt if any."""
    attempt = document["attempt"]
    try:
        status = callbacks.deliver(document["url"], target, document["callback"], payload)
    except callbacks.Undeliverable as error:
        delay = None if error.final else _delay_after(attempt)
        return f"{'given up: ' if delay is None else ''}attempt {attempt}: {error}", delay
    return f"delivered at attempt {attempt} ({status})", None


def _delay_after(attempt: int) -> float | None:
    """Return the seconds until the next attempt, None after the last one."""
    pauses = callbacks.PAUSES_S
    return pauses[attempt - 1] if attempt <= len(pauses) else None


def _url_of(catalog: Catalog, url: str, row: FullRunRow) -> str:
    """Return the URL of a run in the status API."""
    item = catalog.loaded.get(row.pipeline)
    # An internal pipeline has no public URL.
    outside = item is None or item.pipeline.trigger.external
    return f"{url if outside else ''}/{row.pipeline}/runs/{row.id}"


def _ended(run_store: RunStore, run: str) -> EngineRun | None:
    """Return a finished run; the engine stores its end a moment after the record."""
    for _ in range(50):
        engine_run = run_store.look([run], outcomes=True).get(run)
        if engine_run is None or engine_run.state.over:
            break
        time.sleep(0.1)
    return engine_run
