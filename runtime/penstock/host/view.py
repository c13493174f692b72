"""What the calls of a process are answered by: the access snapshot and the evaluated pipelines.

One thread writes, all others read without a lock. Each attribute is replaced as a whole: a reader
takes it once per call and works with that value. `access` is updated in place by the follower, but
its parts are replaced in the same way. Gates, policies and reply headers of one evaluation are one
value, so that no call meets a gate of one policy and headers of another.
"""

from __future__ import annotations

from urllib.parse import urlsplit

from penstock.access.snapshot import Snapshot
from penstock.contracts.pipeline import Pipeline
from penstock.contracts.responses import ResponsePolicy
from penstock.gate.evaluation import EvaluatedPipelines
from penstock.runs.failures import Clean, without
from penstock.runs.redaction import Redactor
from penstock.settings import Settings

REACHABLE_S = 1.0  # age of a view up to which the database counts as reachable

NOTHING_EVALUATED = EvaluatedPipelines({}, {}, ResponsePolicy())


class CurrentView:
    """The access snapshot and the evaluated pipelines of a process. Empty before its start."""

    __slots__ = ("_max_age_s", "_settings", "access", "evaluated")

    def __init__(self, settings: Settings) -> None:
        self.access: Snapshot | None = None
        self.evaluated: EvaluatedPipelines = NOTHING_EVALUATED
        self._max_age_s = settings.max_staleness
        self._settings = settings

    def fresh(self) -> bool:
        """Return whether the snapshot is young enough to answer calls by."""
        access = self.access
        return access is not None and access.age() <= self._max_age_s

    def reachable(self) -> bool:
        """Return whether the database has confirmed the snapshot within the last second."""
        return self.access is not None and self.access.age() <= REACHABLE_S

    def snapshot(self) -> Snapshot:
        """Return the access snapshot. Raises RuntimeError before the start."""
        if self.access is None:
            message = "the host was not started"
            raise RuntimeError(message)
        return self.access

    @property
    def environment_id(self) -> int:
        """The key of this process's environment in the database."""
        return self.snapshot().environment.id

    def redactor(self, pipeline: Pipeline) -> Redactor:
        """Return what hides a pipeline's sensitive fields: the developer's and the operators'."""
        return Redactor.of(pipeline.sensitive | self.snapshot().sensitive)

    def cleaner(self, pipeline: Pipeline) -> Clean:
        """Return a function that removes secrets and sensitive fields from a text."""
        redactor, secrets = self.redactor(pipeline), self._secrets()
        return lambda text: redactor.text(without(secrets, text))

    def secret_cleaner(self) -> Clean:
        """Return a function that removes secrets and sensitive fields from a text of a plugin."""
        redactor, secrets = Redactor.of(self.snapshot().sensitive), self._secrets()
        return lambda text: redactor.text(without(secrets, text))

    def _secrets(self) -> list[str]:
        """Return the secrets of this process: of its settings, and of its environment."""
        settings = self._settings
        passwords = (
            urlsplit(url).password
            for url in (
                settings.database_url,
                settings.database_direct_url,
                settings.rate_limit_url,
            )
        )
        client_secret = settings.oidc.client_secret if settings.oidc is not None else None
        own = (*settings.secret_keys, *passwords, client_secret)
        return [secret for secret in own if secret] + [
            stored.value.reveal() for stored in self.snapshot().secrets.values()
        ]
