"""The start report: which pipelines are not served, why, and what operators should change."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from hashlib import sha256

import structlog

from penstock.access.snapshot import Snapshot
from penstock.gate.compliance import State
from penstock.gate.evaluation import EvaluatedPipelines
from penstock.gate.rates import Limiter
from penstock.host.catalog import Catalog
from penstock.host.events import PLUGIN_ERROR, PLUGIN_NOTE, Event, problem_events
from penstock.settings import Settings


class StartReport:
    """Writes the report to the log, once a start and not once a process."""

    def __init__(self, settings: Settings, catalog: Catalog) -> None:
        # Digest of what another process of this start has written. None: it has written all.
        self.already_written: bytes | None = b""
        self._settings = settings
        self._catalog = catalog
        self._counted_alone = ""
        self._doubts: frozenset[str] = frozenset()
        self._keys: Sequence[str] = ()
        self._log = structlog.get_logger("penstock")

    def write(
        self,
        access: Snapshot,
        evaluated: EvaluatedPipelines,
        limiter: Limiter,
        keys: Sequence[str],
    ) -> bytes:
        """Log the report unless another process has written the same. Return its digest.

        `keys` are the fingerprints of this host's secret keys.
        """
        self._keys = keys
        events = list(self._events(evaluated))
        digest = sha256(repr(events).encode("utf-8", "replace")).digest()
        quiet = self.already_written is None or self.already_written == digest
        for level, event, fields in events if not quiet else ():
            self._log.log(level, event, **fields)
        self.write_counts(access, limiter, quiet=quiet)
        self.write_doubts(access, quiet=quiet)
        return digest

    def write_counts(self, access: Snapshot, limiter: Limiter, *, quiet: bool = False) -> None:
        """Log which limits each worker counts alone, if that has changed.

        Without shared storage a limit applies once for each worker. Operators may set one later.
        """
        if limiter.shared or self._settings.workers == 1:
            return
        loaded = self._catalog.loaded.values()
        counted = {
            "rates": any(item.pipeline.trigger.rate for item in loaded),
            "limits of consumers": bool(access.limits),
            "failed credentials": self._settings.failed_auth_rate != "off",
        }
        what = ", ".join(name for name, is_counted in counted.items() if is_counted)
        if what and what != self._counted_alone and not quiet:
            self._log.warning(
                "each worker counts alone",
                what=what,
                workers=self._settings.workers,
                fix="set PENSTOCK_RATE_LIMIT_URL",
            )
        self._counted_alone = what

    def write_doubts(self, access: Snapshot, *, quiet: bool = False) -> None:
        """Log each row of access data that can't be read, once.

        Such a row grants nothing, and what it may restrict is closed.
        """
        doubts = frozenset(access.unreadable_rows)
        for doubt in sorted(doubts - self._doubts) if not quiet else ():
            fix = "set it again with the command that made it, or correct the row"
            if "another PENSTOCK_SECRET_KEY" in doubt:
                fix = (
                    "add that key to PENSTOCK_SECRET_KEY of this host, which has"
                    f" {', '.join(self._keys)}, and restart it"
                )
            self._log.error("access data can't be read", row=doubt, fix=fix)
        self._doubts = doubts

    def _events(self, evaluated: EvaluatedPipelines) -> Iterator[Event]:
        """Yield all events of the report: plugins, pipelines, settings."""
        for problem in self._catalog.faults(evaluated.external):
            yield from problem_events(PLUGIN_ERROR, problem)
        for note in self._catalog.notes:
            yield from problem_events(PLUGIN_NOTE, note)
        yield from self._pipeline_events(evaluated)
        yield from self._setting_events()

    def _pipeline_events(self, evaluated: EvaluatedPipelines) -> Iterator[Event]:
        """Yield the violations and warnings of pipelines, each once for both listeners.

        The faults of a broken declaration are reported as those of its plugin.
        """
        broken, seen = self._catalog.broken, set()
        for identifier, evaluation in (*evaluated.external.items(), *evaluated.internal.items()):
            for violation in () if identifier in broken else evaluation.violations:
                if (identifier, violation) not in seen:
                    seen.add((identifier, violation))
                    fields = {"reason": violation.reason, "fix": violation.fix}
                    disabled = evaluation.state is State.DISABLED
                    yield (
                        logging.INFO if disabled else logging.WARNING,
                        f"pipeline {evaluation.state}",
                        {"pipeline": identifier, **fields},
                    )
            for warning in evaluation.warnings:
                fields = {"pipeline": identifier, "reason": warning}
                yield logging.WARNING, "pipeline warning", fields

    def _setting_events(self) -> Iterator[Event]:
        """Yield what the settings make impossible without an operator having meant it."""
        settings, loaded = self._settings, self._catalog.loaded.values()
        if not settings.internal_bind and any(item.pipeline.trigger.internal for item in loaded):
            yield (
                logging.WARNING,
                "internal pipelines are not reachable",
                {"fix": "set PENSTOCK_INTERNAL_BIND"},
            )
        if settings.client_cert_header and not settings.trusted_proxies:
            yield (
                logging.WARNING,
                "no client certificate is read from a header: no proxy is trusted",
                {"fix": "set PENSTOCK_TRUSTED_PROXIES"},
            )
        if settings.console and not settings.console_url and not settings.local:
            yield (
                logging.WARNING,
                (
                    "the console's cookie is Secure only where a trusted proxy sends"
                    " X-Forwarded-Proto: https"
                ),
                {"fix": "set PENSTOCK_CONSOLE_URL=https://…"},
            )
