"""The view of access that a worker inherits from the arbiter: it is fresh only if workers confirm
its revision."""

from __future__ import annotations

import time

import pytest

from penstock.access.snapshot import Snapshot
from penstock.db.history import HistoryPoint
from penstock.server.inherited import InheritedView
from penstock.settings import Settings

MARK = b"m" * 16


@pytest.fixture
def view() -> InheritedView:
    view = InheritedView(Settings(max_staleness=60, database_url="sqlite:////nowhere/at/all.db"))
    view.access = Snapshot("test", None)  # type: ignore[arg-type]  # nothing is decrypted
    view.access._point = HistoryPoint(5, MARK)  # noqa: SLF001  otherwise it is read from a database
    view.access.checked_at = time.monotonic() - 300
    return view


def test_a_confirmed_view_is_as_fresh_as_the_confirmation(view: InheritedView) -> None:
    view.confirm(HistoryPoint(5, MARK), time.monotonic() - 3)
    view.refresh()
    access = view.inherit()

    assert access is not None
    assert (view.contradicted, access.age() < 60) == (False, True)


def test_an_unconfirmed_view_keeps_its_age(view: InheritedView) -> None:
    view.refresh()
    access = view.inherit()

    assert access is not None
    assert access.age() > 250


@pytest.mark.parametrize(
    "point",
    [
        HistoryPoint(4, MARK),
        HistoryPoint(6, MARK),
        HistoryPoint(5, bytes(16)),
        HistoryPoint(5, None),
    ],
    ids=["the database was restored", "a key was revoked", "another history", "no history"],
)
def test_a_view_is_contradicted_by_another_revision(
    view: InheritedView, point: HistoryPoint
) -> None:
    view.confirm(point, time.monotonic() - 3)
    view.refresh()
    access = view.inherit()

    assert access is not None
    assert (view.contradicted, access.age() > 250) == (True, True)


def test_a_confirmation_expires_after_the_staleness_limit(view: InheritedView) -> None:
    view.confirm(HistoryPoint(6, MARK), time.monotonic() - 61)
    view.refresh()

    assert not view.contradicted
