"""Log lines of plugin code: at the configured level, with their run, and safe for any value."""

from __future__ import annotations

import io
import json
import logging
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import structlog

from penstock import logs
from penstock.logs import throttle
from penstock.logs.lines import MAX_LINE_BYTES
from penstock.plugins.folders import PluginFolders
from penstock.plugins.loading import load_plugins
from penstock.settings import Settings
from penstock.testing import Runtime

KEY = "pk_test_AbCdEfGhIjKlMnOpQrStUvWx012345"
TOKEN = "eyJhbGciOiJFZERTQSJ9.eyJzdWIiOiJhbm4iLCJleHAiOjF9.c2lnbmF0dXJl"
SHOP = """
import logging, threading
from functools import partial
import structlog
from penstock import Call, HttpTrigger, Pipeline, call_pipeline, gather, hookimpl, step
import helping

log = logging.getLogger(__name__)
events = structlog.get_logger(__name__)
shop = Pipeline("shop", version="2.0.0", trigger=HttpTrigger(api_key=True))
inner = Pipeline("inner", version="1.0.0", trigger=HttpTrigger(external=False))

@step()
def price(name: str) -> str:
    log.info("priced", extra={"article": name})
    return name

@step(timeout=5)
def slow() -> None:
    log.info("slow")

def everywhere() -> None:
    log.debug("debugged %s", 1)
    log.info("started", extra={"order": 7})
    log.warning("warned")
    events.info("bound", order=8)
    events.debug("bound low")
    structlog.get_logger().info("nameless")
    logging.getLogger("shop.sub").info("sub")
    logging.getLogger("any.name.at.all").info("any")
    logging.info("root")
    helping.help()
    price("one")
    gather(partial(price, "a"), partial(price, "b"))
    slow()

@shop.post("/")
def run(call: Call) -> None:
    everywhere()
    call_pipeline("inner")

@shop.post("/durable", mode="durable")
def durable(call: Call) -> None:
    everywhere()

@inner.post("/")
def within(call: Call) -> None:
    log.info("within")

@hookimpl
def penstock_call_started(call: Call) -> None:
    log.info("observed")

@hookimpl
def penstock_pipelines():
    return [shop, inner]
"""
HELPING = "import logging\n\ndef help():\n    logging.getLogger(__name__).info('helped')\n"


@pytest.fixture(autouse=True)
def restored() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level, kind, hook = (
        list(root.handlers),
        root.level,
        logging.getLoggerClass(),
        threading.excepthook,
    )
    yield
    structlog.reset_defaults()
    logging.captureWarnings(capture=False)
    logging.setLoggerClass(kind)
    threading.excepthook = hook
    root.handlers[:] = handlers
    root.setLevel(level)
    PluginFolders(()).install()
    for name in ("shop", "shop.sub", "helping", "any.name.at.all", "another.name"):
        root.manager.loggerDict.pop(name, None)


Lines = list[dict[str, Any]]


@pytest.fixture(autouse=True)
def no_quiet_server(monkeypatch: pytest.MonkeyPatch) -> None:
    """Other tests may have imported gunicorn, whose logger then counts as a library's."""
    monkeypatch.setattr(logs, "_quieted", logs._quieted - {"gunicorn.error"})  # noqa: SLF001  it has no other way to reset it


@pytest.fixture
def written(capsys: pytest.CaptureFixture[str]) -> Callable[[], Lines]:
    return lambda: [json.loads(line) for line in capsys.readouterr().err.splitlines()]


def shop(tmp_path: Path, level: str) -> Runtime:
    folder = tmp_path / "plugins"
    folder.mkdir()
    (folder / "shop.py").write_text(SHOP, encoding="utf-8")
    (folder / "helping.py").write_text(HELPING, encoding="utf-8")
    logs.configure(Settings(log_format="json", log_level=level))
    return Runtime(
        tmp_path, policy="api-key", plugin_path=(folder,), log_format="json", log_level=level
    )


def events(lines: Lines, **fields: object) -> list[str]:
    return sorted(
        line["event"]
        for line in lines
        if all(line.get(name) == value for name, value in fields.items())
    )


INFO = [
    "any",
    "bound",
    "helped",
    "nameless",
    "priced",
    "priced",
    "priced",
    "root",
    "slow",
    "started",
    "sub",
    "warned",
]


def test_lines_of_plugin_code_have_logger_extra_run_and_pipeline_everywhere(
    tmp_path: Path, written: Callable[[], Lines]
) -> None:
    with shop(tmp_path, "info") as runtime:
        client = runtime.client(token=False)
        written()
        answered = client.post("/v2/shop/")
        accepted = client.post("/v2/shop/durable")
        runtime.work()
        inner = next(run["id"] for run in runtime.runs() if run["pipeline"] == "v1/inner")
        lines = written()

    runs = answered.headers["X-Run-Id"], accepted.json["id"]
    assert events(lines, run=runs[0], pipeline="v2/shop") == sorted([*INFO, "observed"])
    # Accepted, and executed.
    assert events(lines, run=runs[1], pipeline="v2/shop") == sorted([*INFO, "observed", "observed"])
    assert events(lines, run=inner, pipeline="v1/inner") == ["within"]
    by_event = {line["event"]: line for line in lines}
    assert (
        by_event["started"]["order"],
        by_event["started"]["logger"],
        by_event["started"]["level"],
    ) == (7, "shop", "info")
    assert (by_event["bound"]["order"], by_event["bound"]["logger"]) == (8, "shop")
    assert (
        by_event["helped"]["logger"],
        by_event["any"]["logger"],
        by_event["root"]["logger"],
    ) == ("helping", "any.name.at.all", "root")
    assert sorted(
        line["article"] for line in lines if line["event"] == "priced" and line["run"] == runs[0]
    ) == ["a", "b", "one"]


@pytest.mark.parametrize(
    ("level", "seen"),
    [
        ("debug", sorted([*INFO, "bound low", "debugged 1", "observed"])),
        ("warning", ["warned"]),
        ("error", []),
    ],
)
def test_lines_below_the_configured_level_are_dropped(
    tmp_path: Path, written: Callable[[], Lines], level: str, seen: list[str]
) -> None:
    with shop(tmp_path, level) as runtime:
        client = runtime.client(token=False)
        written()
        run = client.post("/v2/shop/").headers["X-Run-Id"]

    assert events(written(), run=run, pipeline="v2/shop") == seen


def test_variables_that_a_handler_binds_end_with_its_call(
    tmp_path: Path, written: Callable[[], Lines]
) -> None:
    with shop(tmp_path, "info") as runtime:
        (tmp_path / "plugins" / "helping.py").write_text("", encoding="utf-8")
        sys.modules["helping"].help = lambda: structlog.contextvars.bind_contextvars(
            customer="northwind"
        )  # type: ignore[attr-defined]
        client = runtime.client(token=False)
        written()
        client.post("/v2/shop/")
        first = written()
        client.post("/v1/nowhere/")
        logging.getLogger("another.name").warning("after")

    assert any(line.get("customer") == "northwind" for line in first)
    assert not any("customer" in line for line in written())


def test_the_level_applies_to_plugin_code_and_not_to_libraries(
    written: Callable[[], Lines],
) -> None:
    logging.setLoggerClass(logging.Logger)
    early = logging.getLogger("werkzeug.made.before")
    logs.configure(Settings(log_format="json", log_level="debug"))
    for name in (
        "httpx",
        "sqlalchemy.engine.Engine",
        "concurrent.futures",
        "asyncio",
        "json",
        early.name,
    ):
        logging.getLogger(name).info("flood of %s", name)
        logging.getLogger(name).warning("trouble of %s", name)
    logging.getLogger("httpx").setLevel("INFO")  # an explicit level is respected
    logging.getLogger("httpx").info("wanted")
    logging.getLogger("httpx").setLevel("NOTSET")

    logged = [line["event"] for line in written()]
    assert [event for event in logged if event.startswith("flood")] == []
    assert (
        len([event for event in logged if event.startswith("trouble")]),
        "wanted" in logged,
    ) == (
        6,
        True,
    )


class Odd:
    def __repr__(self) -> str:
        raise RuntimeError("no repr")


def endless() -> list[object]:
    values: list[object] = []
    values.append(values)
    return values


@pytest.mark.parametrize("form", ["json", "text"])
def test_no_logged_value_raises_or_shows_a_credential(
    capsys: pytest.CaptureFixture[str], form: str
) -> None:
    logs.configure(Settings(log_format=form, log_level="info"))
    log, structured = logging.getLogger("shop"), structlog.get_logger("shop")
    values = [
        Odd(),
        endless(),
        {(1, 2): {3}},
        b"\xff" * 9,
        float("nan"),
        10**5000,
        "\ud800",
        {"password": "hunter2"},
        object,
    ]
    values += [
        f"key {KEY}",
        {KEY: TOKEN},
        [TOKEN],
        f"Authorization: Basic hunter2, {KEY}",
        {"Authorization": "Bearer hunter2"},
    ]
    for value in values:
        log.info("%s", value)
        log.info("%d", value)
        log.info(value)
        log.info("extra", extra={"value": value, "token": value})
        structured.info("bound", value=value, password=value)
        try:
            raise ValueError(value)  # noqa: TRY301  a line, not a function
        except ValueError:
            log.exception("failed")
            structured.exception("failed", exc_info=True)
    captured = capsys.readouterr().err

    assert "Logging error" not in captured
    assert not [
        part for part in (KEY[8:20], TOKEN[:20], TOKEN[21:40], "hunter2") if part in captured
    ]
    if form == "json":
        assert len([json.loads(line) for line in captured.splitlines()]) == 7 * len(values)


def test_a_plugin_can_not_give_a_line_another_run_pipeline_or_level(
    tmp_path: Path, written: Callable[[], Lines]
) -> None:
    logs.configure(Settings(log_format="json", log_level="info"))
    fake = {
        "run": "fake",
        "pipeline": "fake",
        "level": "fake",
        "event": "fake",
        "timestamp": "fake",
        "logger": "fake",
    }
    logging.getLogger("shop").warning("real", extra=fake)
    structlog.get_logger("shop").warning("real", run="fake", pipeline="fake", logger="fake")

    for line in written():
        assert (line["event"], line["level"], line["logger"], line.get("run"), line["run_"]) == (
            "real",
            "warning",
            "shop",
            None,
            "fake",
        )


EVIL = (
    "a\x1b]0;x\x07b\r\n2026-01-01T00:00:00Z [error    ]"
    " forged\x9b31m\u202eabc\u2066\u200f\u2028c\x7f\0d"
)


def test_text_lines_contain_no_terminal_controls_and_no_forged_line(
    capsys: pytest.CaptureFixture[str],
) -> None:
    logs.configure(Settings(log_format="text", log_level="info"))
    log = logging.getLogger("shop")
    log.warning(EVIL)
    log.warning("%s", EVIL, extra={"path": EVIL, "nested": {EVIL: [EVIL]}})
    structlog.get_logger("penstock.calls").warning("call", path=EVIL)
    structlog.get_logger("shop").warning(EVIL, **{EVIL: EVIL})
    try:
        raise ValueError(EVIL)  # noqa: TRY301  as above
    except ValueError:
        log.exception("failed")
        structlog.get_logger("penstock").exception("failed")
    captured = capsys.readouterr().err

    for line in captured.splitlines():
        plain = line.replace("\x1b[", "")  # the colours of the log itself
        assert line[:1] in {" ", "\x1b", "2"}
        assert "forged" not in line[:40]
        assert not set(plain) & set("\x1b\x07\r\x9b\u202e\u2066\u200f\u2028\x7f\0")
    assert captured.count("forged") >= 9


@pytest.mark.parametrize("form", ["json", "text"])
@pytest.mark.parametrize("character", ["x", "é", "\U0001f600", "\x1b", '"'])
def test_no_line_is_longer_than_the_limit(
    capsys: pytest.CaptureFixture[str], form: str, character: str
) -> None:
    logs.configure(Settings(log_format=form, log_level="info"))
    large = character * 3_000_000
    log = logging.getLogger("shop")

    def deep(left: int) -> None:
        if not left:
            raise ValueError(large) from KeyError(large)
        deep(left - 1)

    log.info(large)
    log.info("many", extra={f"field{number}": large for number in range(300)})
    log.info("nested", extra={"value": [[[[large] * 60] * 60] * 60] * 60})
    structlog.get_logger("penstock.calls").info("call", path=large, problem=large)
    for left in (1, 500):
        try:
            deep(left)
        except ValueError:
            log.exception(large)
            structlog.get_logger("penstock").exception("failed")
    try:
        raise ExceptionGroup(large, [ValueError(large), *[TypeError(large)] * 500])  # noqa: TRY301  as above
    except ExceptionGroup:
        log.exception("group")
    captured = capsys.readouterr().err

    parts = (
        captured.splitlines()
        if form == "json"
        else captured.split("\n\x1b[2m2026-" if "\x1b[2m" in captured else "\n20")
    )
    assert len(parts) >= 9
    assert max(len(part.encode()) for part in parts) <= MAX_LINE_BYTES
    if form == "json":
        lines = [json.loads(part) for part in parts]
        assert lines[0]["event"].endswith("…") or lines[0].get("cut") is True
        assert all("ValueError" in line["exception"] for line in lines if line["event"] == "failed")
        assert lines[1]["cut"] is True


def test_a_traceback_names_causes_and_frames_in_order(capsys: pytest.CaptureFixture[str]) -> None:
    logs.configure(Settings(log_format="json"))
    try:
        try:
            {}["first"]
        except KeyError as error:
            error.add_note("look here")
            raise ValueError("second") from error
    except ValueError:
        logging.getLogger("shop").exception("failed")

    trace = json.loads(capsys.readouterr().err)["exception"]
    assert (
        trace.index("KeyError: 'first'; look here")
        < trace.index("which led to:")
        < trace.index("ValueError: second")
    )
    assert trace.count("Traceback (most recent call last):") == 2
    assert f'File "{__file__}", line ' in trace


@pytest.mark.parametrize(
    "source",
    [
        "import logging\nlogging.basicConfig(level='DEBUG', force=True)\n",
        (
            "import logging.config\nlogging.config.dictConfig({'version': 1, 'root': {'level':"
            " 'DEBUG'}})\n"
        ),
        "import structlog\nstructlog.configure(processors=[structlog.processors.JSONRenderer()])\n",
    ],
)
def test_a_plugin_that_configures_the_log_gets_a_note_and_changes_nothing(
    tmp_path: Path, written: Callable[[], Lines], source: str
) -> None:
    (tmp_path / "shop.py").write_text(
        source + "from penstock import hookimpl\n@hookimpl\ndef penstock_pipelines(): return []\n",
        encoding="utf-8",
    )
    server = logging.getLogger("gunicorn.error")
    server.setLevel(logging.INFO)  # as gunicorn does
    logs.configure(Settings(log_format="json", log_level="info"))
    plugins = load_plugins(Settings(plugin_path=(tmp_path,), plugins_allow=frozenset({"shop"})))
    server.warning("still here")
    structlog.get_logger("penstock").info("ours", key=KEY)
    logging.getLogger("shop").debug("too low")

    assert "which was put back" in str(plugins.notes[0])
    assert [(line["event"], line["level"]) for line in written()] == [
        ("still here", "warning"),
        ("ours", "info"),
    ]


def test_clients_can_not_flood_the_log_through_the_server(written: Callable[[], Lines]) -> None:
    server = logging.getLogger("gunicorn.error")
    server.setLevel(logging.INFO)  # as gunicorn does
    logs.configure(Settings(log_format="json", log_level="info"))
    for number in range(100):
        server.warning("invalid request from %s: %s", f"192.0.2.{number}", "InvalidHeader")
        try:
            raise OSError("chunk")  # noqa: TRY301  as above
        except OSError:
            server.exception("Socket error processing request.")
        server.info("Booting worker with pid: %s", number)
    lines = written()
    logs.report_dropped_lines(float("inf"))
    left_out = written()

    counted = [
        sum(word in line["event"] for line in lines)
        for word in ("invalid request", "Socket error", "Booting")
    ]
    assert counted == [throttle.LINES_PER_WINDOW, throttle.LINES_PER_WINDOW, 100]
    assert [(line["number"], line["what"]) for line in left_out] == [
        (100 - throttle.LINES_PER_WINDOW, "invalid request from %s: %s"),
        (100 - throttle.LINES_PER_WINDOW, "Socket error processing request."),
    ]


def test_a_log_that_can_not_be_written_fails_no_call(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    closed = io.StringIO()
    closed.close()
    monkeypatch.setattr(sys, "stderr", closed)
    with shop(tmp_path, "debug") as runtime:
        assert runtime.client(token=False).post("/v2/shop/").status_code == 204


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_an_exception_that_ends_a_thread_of_plugin_code_is_logged(
    written: Callable[[], Lines],
) -> None:
    logs.configure(Settings(log_format="json", log_level="info"))

    def fail() -> None:
        raise ValueError(f"key {KEY}")

    thread = threading.Thread(target=fail, name="mine")
    thread.start()
    thread.join()

    (line,) = written()
    assert (line["event"], line["thread"]) == ("a thread failed", "mine")
    assert line["exception"].endswith("ValueError: key ***")
