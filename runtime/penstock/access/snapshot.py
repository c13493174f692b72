"""One environment's access data in memory, at a revision of the database.

Why it exists: a gate must not query the database for each call. A process reads all access data of
its environment once, a million keys included, and from then on what has changed. A command or a
page, which answers no calls, leaves out the consumers that it does not ask about.

Threads: one thread refreshes; all others read without a lock, so no call waits for a refresh. That
is safe because each attribute is replaced by one assignment, and because removals are applied
before grants. A reader in between is granted no more than both the old and the new state grant.
Consumers, associations and keys are dictionaries that are changed in place, one operation of the
interpreter for each entry: to replace them would copy a million entries for a change of one.

History: a database that is restored from a backup has another history, in which the same revision
may mean other data (see `db/history.py`). The view is then broken, and the next refresh reads all
data again.

Damage: a row that can't be read grants nothing. A row that restricts (a limit, a network, a
revocation) closes what it may concern (see `access/apply_changes.py`). A refresh that fails
half-way breaks the view until a refresh succeeds: it may contain one half of a change.

Age: `age` is infinite while the view is broken. Callers reject calls by a view that is too old, so
a process without a database stops serving instead of serving revoked keys.
"""

from __future__ import annotations

import time
from collections.abc import Collection, Iterable
from contextlib import suppress

from penstock.access.apply_changes import apply, apply_keys
from penstock.access.encryption import SecretBox
from penstock.access.parsing import Unreadable
from penstock.access.row_parser import RowParser
from penstock.access.view import AccessView
from penstock.db.access_rows import Changes, KeyValues, changed_since, keys_since
from penstock.db.engine import Connection, Engine, reading
from penstock.db.failures import DatabaseUnavailable
from penstock.db.history import HistoryPoint, read_history, require_no_restore
from penstock.db.tables import EnvironmentRow
from penstock.db.unit_of_work import RowReader
from penstock.errors import UnknownName

NEVER_READ = HistoryPoint(-1, None)


class HistoryChanged(DatabaseUnavailable):
    """The database was restored: a view of it is read again at its next refresh."""


class Snapshot(AccessView):
    """A view of access data that follows the database. Only one thread may refresh it."""

    def __init__(
        self,
        environment: str,
        box: SecretBox,
        *,
        forgiving: bool = False,
        consumers: Collection[str] | None = None,
    ) -> None:
        """Create a snapshot of an environment by its name; nothing is read yet.

        With `forgiving`, the first refresh too treats values encrypted with another key as damage.
        `consumers` are the names of those whose data is read; None: all. The others can't call by
        this snapshot, so it is for questions about pipelines, or about single calls.
        """
        self._only = consumers
        self._parser = RowParser(box, forgiving=forgiving)
        self.checked_at = float("-inf")
        self.broken: str | None = None
        self._id: int | None = None
        super().__init__(environment)

    def clear(self) -> None:
        """Remove all data."""
        super().clear()
        self._parser.clear()
        self._point = NEVER_READ

    @property
    def point(self) -> HistoryPoint:
        """The point in the database's history of this view."""
        return self._point

    @property
    def revision(self) -> int:
        """The revision of this view, -1 before the first refresh."""
        return self._point.revision

    @property
    def unreadable_rows(self) -> tuple[str, ...]:
        """A line for each row that can't be read: its table, its key and the column, no value."""
        return self._parser.messages()

    def age(self) -> float:
        """Return the seconds since the database last confirmed this view."""
        return float("inf") if self.broken is not None else time.monotonic() - self.checked_at

    def refresh(self, engine: Engine) -> bool:
        """Read what changed since the last refresh and return whether anything did.

        Raises DatabaseUnavailable, and UnknownName where the environment does not exist: both leave
        the view as it was, and it grows older. HistoryChanged, a DatabaseUnavailable, breaks the
        view, and so does any other error: the changes are not known then.
        """
        if self.broken is not None:  # it may contain one half of a change
            self.clear()
        try:
            return self._refresh(engine)
        except (DatabaseUnavailable, UnknownName):
            raise
        except BaseException as error:
            self.broken = str(error) if isinstance(error, Unreadable) else type(error).__name__
            raise

    def read(self, engine: Engine) -> None:
        """Refresh, also where the database was restored.

        For processes that answer no calls by this view meanwhile. Raises as `refresh`.
        """
        with suppress(HistoryChanged):
            self.refresh(engine)
            return
        self.refresh(engine)

    def _refresh(self, engine: Engine) -> bool:
        asked_at = time.monotonic()
        first = self.revision < 0
        with reading(engine) as connection:
            now, mark = read_history(connection, self.revision)
            if not first and not self._point.leads_to(now, mark):
                require_no_restore(connection)
                # No call begins by this view from here on. Calls that read it at this moment end
                # by it, because the next refresh clears it.
                self.broken = (
                    f"the database was restored: its revision {now.revision} does not follow ours,"
                    f" {self.revision}"
                )
                raise HistoryChanged(self.broken)
            if now.revision == self.revision:
                self.checked_at = asked_at
                return False
            require_no_restore(connection)
            environment, changes = self._read(connection)
            keys: Iterable[KeyValues] = keys_since(
                connection, environment.id, self.revision, self._only
            )
            if first:  # a million must not be in memory at once, and no call reads them yet
                apply_keys(self, self._parser, keys)
            keys = [] if first else list(keys)
        apply(self, self._parser, environment, changes, keys)
        self._parser.forgiving = True
        self._point = now
        self.broken = None
        self.checked_at = asked_at
        return True

    def _read(self, connection: Connection) -> tuple[EnvironmentRow, Changes]:
        reader = RowReader(connection)
        environment = reader.find(EnvironmentRow, {EnvironmentRow.name: self._name})
        if environment is None:
            raise UnknownName(
                "environment",
                self._name,
                reader.names(EnvironmentRow),
                fix=f"`penstock env create {self._name}` creates it",
            )
        # What this process writes belongs to the environment that it began with.
        if self._id not in (None, environment.id):
            raise Unreadable(
                f"environment {self._name} is another one than this process began with; restart it"
            )
        self._id = environment.id
        return environment, changed_since(connection, environment.id, self.revision, self._only)
