"""The choice of gunicorn's worker class: Penstock's own only where it was tested, and a stock class
that is really stock."""

from __future__ import annotations

import select
import subprocess
import sys
from pathlib import Path

import gunicorn
import pytest

from penstock.errors import CannotStart
from penstock.server import worker_class
from penstock.server.worker_class import FALLBACK, PENSTOCK_WORKER, choose_worker_class

# Prints the names of what Penstock's configuration changed in gunicorn's modules.
COMPARE = """
import os, sys
import gunicorn.arbiter, gunicorn.http.message, gunicorn.http.wsgi, gunicorn.sock, gunicorn.util
import gunicorn.workers.base, gunicorn.workers.gthread

def contents():
    modules = [module for name, module in sys.modules.items() if name.startswith("gunicorn")]
    classes = [
        value
        for module in modules
        for value in vars(module).values()
        if isinstance(value, type) and value.__module__.startswith("gunicorn")
    ]
    return {
        (owner.__name__, name): id(value)
        for owner in [*modules, *classes]
        for name, value in vars(owner).items()
        if callable(value)
    }

before = contents()
import penstock.server.config
after = contents()
assert penstock.server.config.worker_class == "gthread"
print([name for name in before if after.get(name) != before[name]])
"""


def test_the_tested_release_runs_penstock_s_worker() -> None:
    assert choose_worker_class("penstock") == (PENSTOCK_WORKER, "")


def test_an_untested_release_runs_stock_gthread_with_a_warning(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(worker_class, "version_info", (26, 3, 0))
    monkeypatch.setattr(worker_class, "__version__", "26.3.0")

    name, warning = choose_worker_class("penstock")

    assert name == FALLBACK == "gthread"
    assert "was not tested with gunicorn 26.3.0" in warning
    assert "install gunicorn 26.2" in warning


def test_a_system_without_epoll_runs_stock_gthread_with_a_warning(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delattr(select, "epoll")

    assert choose_worker_class("penstock")[0] == FALLBACK
    assert "requires epoll" in choose_worker_class("penstock")[1]


@pytest.mark.parametrize("name", ["gthread", "sync"])
def test_a_class_of_gunicorn_s_is_used_as_it_is(name: str) -> None:
    assert choose_worker_class(name) == (name, "")


def test_a_class_whose_package_is_missing_names_the_package() -> None:
    with pytest.raises(CannotStart, match=r"requires the package tornado.*Fix: install tornado"):
        choose_worker_class("tornado")


def test_an_unknown_class_prevents_the_start() -> None:
    with pytest.raises(CannotStart, match="PENSTOCK_WORKER_CLASS=gthreads is not a worker class"):
        choose_worker_class("gthreads")


def test_the_installed_release_is_a_tested_one() -> None:
    assert gunicorn.version_info[:2] in worker_class.TESTED_MINORS


def test_gthread_is_stock_gunicorn_without_a_change(tmp_path: Path) -> None:
    output = subprocess.run(
        [sys.executable, "-c", COMPARE],
        env={
            "PYTHONPATH": ":".join(sys.path),
            "PENSTOCK_WORKER_CLASS": "gthread",
            "PENSTOCK_DATABASE_URL": f"sqlite:///{tmp_path}/absent.db",
            "PROMETHEUS_MULTIPROC_DIR": str(tmp_path),
        },
        capture_output=True,
        text=True,
        check=True,
    ).stdout

    assert output.strip() == "[]"
