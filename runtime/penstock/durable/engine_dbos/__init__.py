"""Durable runs on DBOS Transact (MIT): a run is a workflow, in the database of everything else.

No other package knows the engine. It was chosen over a broker (Celery with Redis) because a run is
accepted in one transaction with its record and its idempotency key, because results of finished
steps are stored, and because a process that lost a run can't write to it any more: on SQLite and on
PostgreSQL.
"""

from penstock.durable.engine_dbos import shared_clock
from penstock.durable.engine_dbos.executor import DbosExecutor
from penstock.durable.engine_dbos.schema import is_migrated, migrate
from penstock.durable.engine_dbos.store import DbosRunStore

__all__ = ["DbosExecutor", "DbosRunStore", "is_migrated", "migrate", "shared_clock"]
