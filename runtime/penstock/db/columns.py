"""The types of columns: what is stored on each database, and what is read of it."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any, ClassVar
from uuid import UUID

from sqlalchemy import (
    JSON,
    BigInteger,
    Boolean,
    DateTime,
    Dialect,
    Integer,
    LargeBinary,
    String,
    TypeDecorator,
    Uuid,
)
from sqlalchemy.types import TypeEngine

# SQLite numbers rows itself only where the key is an INTEGER.
BigId = BigInteger().with_variant(Integer, "sqlite")
# A moment that can't be read: what ends then has ended.
LONG_AGO = datetime.min.replace(tzinfo=UTC)
# Outcomes as the release before writes them, until its last process is replaced. Remove this with
# the release after: its migration converts what is left, as 20261127_outcomes does.
FORMER_OUTCOMES = {"refused": "client_error", "address-refused": "address-not-allowed"}


class _Readable:
    """Reads a value that its type can't represent as `unreadable`.

    One damaged row must not keep all others from being read.

    SQLite stores any value in any column. `unreadable` never grants anything: it is no True, no
    digest, no list, and long ago.
    """

    unreadable: ClassVar[object] = None

    def result_processor(self, dialect: Dialect, coltype: object) -> Callable[[Any], Any]:
        """Return what turns the driver's value into ours."""
        convert = super().result_processor(dialect, coltype) or _same  # type: ignore[misc]  # a mixin of TypeDecorator

        def read(value: Any) -> Any:  # noqa: ANN401  each driver has its own
            try:
                return convert(value)
            except (TypeError, ValueError, OverflowError):
                return self.unreadable

        return read


def _same(value: Any) -> Any:  # noqa: ANN401  each driver has its own
    return value


class Flag(_Readable, TypeDecorator[bool]):
    """True or False; None where neither is stored."""

    impl = Boolean
    cache_ok = True

    def result_processor(self, dialect: Dialect, coltype: object) -> Callable[[Any], Any]:  # noqa: ARG002  the base's signature
        """Return what tells the two apart from all else."""
        return _flag


def _flag(value: object) -> bool | None:
    return bool(value) if value in (0, 1) else None


class Json(_Readable, TypeDecorator[Any]):
    """JSON; text that is none is `Ellipsis`, which is no value of JSON."""

    impl = JSON
    cache_ok = True
    unreadable = ...


class Blob(_Readable, TypeDecorator[bytes]):
    """Bytes; what is none is empty."""

    impl = LargeBinary
    cache_ok = True
    unreadable = b""


class Moment(_Readable, TypeDecorator[datetime]):
    """An aware UTC datetime on every database; SQLite itself keeps no zone."""

    impl = DateTime(timezone=True)
    cache_ok = True
    unreadable = LONG_AGO

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:  # noqa: ARG002  the base's signature
        """Send UTC."""
        return None if value is None else value.astimezone(UTC)

    def process_result_value(self, value: Any, dialect: Dialect) -> datetime | None:  # noqa: ANN401, ARG002  the base's signature
        """Return UTC."""
        if value is None:
            return None
        moment: datetime = value
        return moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)


class RunId(TypeDecorator[str]):
    """A UUID, in text with dashes; sixteen bytes on every database."""

    impl = LargeBinary(16)
    cache_ok = True

    def load_dialect_impl(self, dialect: Dialect) -> TypeEngine[Any]:
        """Use the database's own type where it has one."""
        return dialect.type_descriptor(
            Uuid(as_uuid=False) if dialect.name == "postgresql" else LargeBinary(16)
        )

    def process_bind_param(self, value: str | None, dialect: Dialect) -> Any:  # noqa: ANN401  each database has its own
        """Send it."""
        return value if value is None or dialect.name == "postgresql" else UUID(value).bytes

    def process_result_value(self, value: Any, dialect: Dialect) -> str | None:  # noqa: ANN401  each database has its own
        """Return it as text."""
        return value if value is None or dialect.name == "postgresql" else str(UUID(bytes=value))


class Outcome(TypeDecorator[str]):
    """The status of a run, or the problem type of a rejected call.

    Values that the release before writes are read under their present names. A condition must name
    both, see `spellings`.
    """

    impl = String
    cache_ok = True

    def process_result_value(self, value: str | None, dialect: Dialect) -> str | None:  # noqa: ARG002  the base's signature
        """Return the present name of an outcome."""
        return None if value is None else FORMER_OUTCOMES.get(value, value)


def spellings(outcome: str) -> list[str]:
    """Return an outcome as this release and the release before write it."""
    return [outcome, *(former for former, name in FORMER_OUTCOMES.items() if name == outcome)]
