"""What is logged, and what never is."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator

import pytest
import structlog

from penstock import logs
from penstock.settings import Settings


@pytest.fixture(autouse=True)
def restored() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    yield
    structlog.reset_defaults()
    root.handlers[:] = handlers
    root.setLevel(level)


SECRET = "pk_hidden"


def fail(secret: str) -> None:
    held = secret[::-1]
    raise ValueError(f"{len(held)} characters")


@pytest.mark.parametrize("form", ["text", "json"])
def test_a_traceback_shows_no_variables(capsys: pytest.CaptureFixture[str], form: str) -> None:
    logs.configure(Settings(log_format=form))
    try:
        fail(SECRET)
    except ValueError:
        structlog.get_logger("x").exception("failed")
        logging.getLogger("y").exception("failed too")

    written = capsys.readouterr().err

    assert written.count("9 characters") == 2
    assert SECRET not in written
    assert SECRET[::-1] not in written


def test_json_is_one_line_an_event(capsys: pytest.CaptureFixture[str]) -> None:
    logs.configure(Settings(log_format="json"))
    structlog.get_logger("x").info("one\ntwo", detail="three\nfour")
    logging.getLogger("y").warning("from %s", "a library")

    first, second = [json.loads(line) for line in capsys.readouterr().err.splitlines()]

    assert (first["event"], first["level"]) == ("one\ntwo", "info")
    assert (second["event"], second["level"]) == ("from a library", "warning")


@pytest.mark.parametrize(("level", "seen"), [("debug", 3), ("info", 2), ("warning", 1), ("error", 0)])
def test_the_level_decides_what_is_written(capsys: pytest.CaptureFixture[str], level: str, seen: int) -> None:
    logs.configure(Settings(log_format="json", log_level=level))
    logger = structlog.get_logger("x")
    logger.debug("a")
    logger.info("b")
    logger.warning("c")

    assert len(capsys.readouterr().err.splitlines()) == seen
