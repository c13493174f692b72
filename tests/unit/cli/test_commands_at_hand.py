"""Output of commands: the database that they use, what they changed, and everything that
is offered; each once."""

from __future__ import annotations

import json
import subprocess
import time
from collections.abc import Callable
from types import SimpleNamespace

import pytest
from support.place import ZYGOTE, Place, Server
from support.services import Postgres

from penstock import Call, HttpTrigger, Pipeline, hookimpl
from penstock.cli import isolated
from penstock.testing import Runtime

Serve = Callable[..., Server]
Start = Callable[..., Runtime]
DURABLE = """
from penstock import Call, HttpTrigger, Pipeline, hookimpl

jobs = Pipeline("jobs", version="{version}", trigger=HttpTrigger(api_key=True))

@jobs.post("/", mode="durable")
def work(call: Call): return "done"

@jobs.get("/")
def look(call: Call): return "seen"

@hookimpl
def penstock_pipelines(): return [jobs]
"""


def started(place: Place, *words: str, **more: str) -> subprocess.CompletedProcess[str]:
    """Run a command in an empty folder, without the setting of a database unless one is given."""
    environ = {
        name: value
        for name, value in place.environ().items()
        if name not in {"PENSTOCK_DATABASE_URL", "PENSTOCK_SECRET_KEY"}
    } | more
    return ZYGOTE.run(words, environ, place.folder / "plugins", None)


@pytest.mark.parametrize(
    "words",
    [
        "env list",
        "env create x",
        "check",
        "pipelines",
        "runs list",
        "key create acme --env test",
        "serve",
        "worker",
        "db current",
    ],
)
def test_no_other_command_creates_a_database(sqlite_place: Place, words: str) -> None:
    done = started(sqlite_place, *words.split())

    output = done.stdout + done.stderr
    assert (done.returncode, list((sqlite_place.folder / "plugins").iterdir())) == (3, [])
    assert (
        f"there is no database {sqlite_place.folder}/plugins/penstock.db (the default:"
        " PENSTOCK_DATABASE_URL is not set)" in output
    )
    assert output.count("there is no database") == 1


def test_the_setting_that_names_a_missing_database_is_named(sqlite_place: Place) -> None:
    (sqlite_place.folder / "url").write_text("sqlite:///other.db")

    done = [
        started(sqlite_place, "env", "list", PENSTOCK_DATABASE_URL="sqlite:///other.db"),
        started(
            sqlite_place, "env", "list", PENSTOCK_DATABASE_URL_FILE=f"{sqlite_place.folder}/url"
        ),
    ]

    assert [item.stderr.partition("other.db ")[2].partition(";")[0] for item in done] == [
        "(PENSTOCK_DATABASE_URL)",
        "(PENSTOCK_DATABASE_URL_FILE)",
    ]


def test_an_upgrade_names_the_database(sqlite_place: Place) -> None:
    done = started(sqlite_place, "db", "upgrade")

    assert (
        done.stdout.splitlines()[0]
        == f"database: {sqlite_place.folder}/plugins/penstock.db (the default:"
        " PENSTOCK_DATABASE_URL is not set)"
    )
    assert done.returncode == 0


def test_a_missing_environment_is_reported_once(sqlite_place: Place) -> None:
    sqlite_place.plugin("jobs", DURABLE.format(version="1.0.0"))

    done = started(
        sqlite_place,
        "serve",
        "--env",
        "nope",
        PENSTOCK_DATABASE_URL=sqlite_place.url,
        PENSTOCK_SECRET_KEY=sqlite_place.secret,
    )

    assert (done.returncode, done.stderr.count("no environment is named 'nope'")) == (3, 1)


def test_two_plugins_that_share_an_id_are_both_listed_with_the_reason(sqlite_place: Place) -> None:
    sqlite_place.plugin("one", DURABLE.format(version="1.0.0"))
    sqlite_place.plugin("two", DURABLE.format(version="1.2.0"))

    rows = json.loads(sqlite_place.run("pipelines", "--format", "json").stdout)

    assert sorted((row["plugin"], row["version"], row["state"]) for row in rows) == [
        ("one", "1.0.0", "blocked"),
        ("two", "1.2.0", "blocked"),
    ]
    for row in rows:
        assert any("v1/jobs is declared 2 times" in why for why in row["why"])


def offering() -> SimpleNamespace:
    jobs = Pipeline("jobs", version="1.0.0", trigger=HttpTrigger(api_key=True), record_bodies="all")

    @jobs.post("/later", mode="durable")
    def work(call: Call) -> str:
        return "done"

    @jobs.post("/")
    def at_once(call: Call) -> str:
        return "done"

    @hookimpl
    def penstock_pipelines() -> list[Pipeline]:
        return [jobs]

    return SimpleNamespace(__name__="jobs", penstock_pipelines=penstock_pipelines)


def test_a_redelivery_names_run_target_and_the_command_that_follows_it(
    penstock_runtime: Start,
) -> None:
    runtime = penstock_runtime(offering(), policy="api-key")
    acme = runtime.client("acme", token=False)
    durable, inline = (
        acme.post(path).headers["X-Run-Id"] for path in ("/v1/jobs/later", "/v1/jobs/")
    )
    runtime.work()
    runtime.runs()

    later, now = (
        runtime.operate("runs", "redeliver", durable).strip(),
        runtime.operate("runs", "redeliver", inline).strip(),
    )

    new, other = later.split()[1], now.split()[1].strip(":")
    what = f"of v1/jobs in test for acme, with the input of run {durable}"
    assert (
        later == f"run {new} accepted: POST /later {what}; `penstock runs follow {new}` follows it"
    )
    assert (
        now
        == f"run {other}: succeeded: POST / {what.replace(durable, inline)}; `penstock runs show"
        f" {other}` shows it"
    )


@pytest.mark.parametrize(
    ("more", "warns"),
    [
        ({"bind": "0.0.0.0:8000"}, True),
        ({"bind": "127.0.0.1:8000"}, False),  # a developer's own
        ({"bind": "0.0.0.0:8000", "console_url": "https://ops.example.com"}, False),
        ({"bind": "0.0.0.0:8000", "console": False}, False),
    ],
)
def test_a_console_whose_cookie_may_not_be_secure_is_reported(
    penstock_runtime: Start,
    capsys: pytest.CaptureFixture[str],
    more: dict[str, object],
    warns: bool,
) -> None:
    penstock_runtime(
        offering(),
        policy="api-key",
        log_format="json",
        log_level="warning",
        **({"console": True} | more),
    )

    lines = [
        json.loads(line)
        for line in capsys.readouterr().err.splitlines()
        if "cookie is Secure only where" in line
    ]

    assert [(line["level"], line["fix"]) for line in lines] == [
        ("warning", "set PENSTOCK_CONSOLE_URL=https://…")
    ] * warns


def test_a_process_for_the_console_only_serves_no_pipeline_and_reports_it(
    sqlite_place: Place, serve: Serve
) -> None:
    sqlite_place.policy("api-key")
    sqlite_place.plugin("jobs", DURABLE.format(version="1.0.0"))
    server = serve(sqlite_place, PENSTOCK_PIPELINES="false", PENSTOCK_CONSOLE="true")

    (loaded,) = [
        line
        for line in map(json.loads, server.log.read_text().splitlines())
        if line["event"] == "loaded"
    ]

    assert (loaded["pipelines"], loaded["served"]) == (1, 0)


class TestDurableTables:
    """The engine of durable runs has migrations of its own, which may fail when ours have
    nothing to do."""

    @pytest.fixture
    def url(self, own_postgres: Postgres, sqlite_place: Place) -> str:
        own_postgres.run("create database a")
        url = f"{own_postgres.url}/a"
        done = sqlite_place.run("db", "upgrade", PENSTOCK_DATABASE_URL=url)
        assert done.returncode == 0, done.stderr
        own_postgres.run("drop schema dbos cascade", "a")
        own_postgres.run("create role weak login connection limit 1")
        own_postgres.run("grant select on all tables in schema public to weak", "a")
        return url

    def test_a_failure_is_one_line_and_names_whether_waiting_helps(
        self, own_postgres: Postgres, sqlite_place: Place, url: str
    ) -> None:
        def upgrade(url: str) -> tuple[int, str]:
            done = sqlite_place.run("db", "upgrade", PENSTOCK_DATABASE_URL=url)
            assert done.stderr.count("\n") == 1
            assert "Traceback" not in done.stderr
            return done.returncode, done.stderr

        weak = url.replace("penstock@", "weak@")
        full = upgrade(weak)
        own_postgres.run("alter role weak connection limit -1")
        no_right = upgrade(weak)
        own_postgres.run("alter database a set default_transaction_read_only = on")
        read_only = upgrade(url)

        assert (full[0], no_right[0], read_only[0]) == (75, 3, 75)
        assert "too many connections" in full[1]
        assert "permission denied" in no_right[1]
        assert "read-only transaction" in read_only[1]


class TestPluginsThatEndTheProcess:
    def test_check_reports_it(self, sqlite_place: Place) -> None:
        sqlite_place.plugin("ends", "import os\nos._exit(0)\n")
        done = sqlite_place.run("check", "--env", "test")

        assert (done.returncode, done.stdout) == (1, "")
        assert "plugin ends (plugins/ends.py) ended the process while" in done.stderr

    def test_a_plugin_that_hangs_is_reported(
        self, sqlite_place: Place, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(isolated, "LONGEST_LOAD_S", 0.3)

        with pytest.raises(isolated.Failed, match="hangs while it is imported"):
            isolated.run_isolated(lambda: time.sleep(60), lambda: 0)

    def test_a_process_that_a_plugin_leaves_behind_does_not_delay_the_result(
        self, sqlite_place: Place
    ) -> None:
        leaves = "import os, time\nif not os.fork():\n    time.sleep(400)\n    os._exit(0)\n"
        sqlite_place.plugin("leaves", leaves)
        done = sqlite_place.run("check", "--env", "test")

        assert (done.returncode, "0 of 0 pipelines served" in done.stdout) == (0, True)
        sqlite_place.plugin("leaves", leaves + "os._exit(7)\n")
        assert sqlite_place.run("check", "--env", "test").returncode == 1

    def test_an_error_of_the_work_is_one_line(self) -> None:
        def work() -> int:
            raise RuntimeError("unforeseen")

        with pytest.raises(isolated.Failed, match="stopped by RuntimeError: unforeseen") as error:
            isolated.run_isolated(lambda: None, work)
        assert error.value.exit_code == 3


@pytest.mark.parametrize("name", ["PENSTOCK_DATABASE_URL", "PENSTOCK_DATABASE_DIRECT_URL"])
def test_a_url_with_a_wrong_port_names_its_setting(sqlite_place: Place, name: str) -> None:
    done = sqlite_place.run("env", "list", **{name: "postgresql://u:p@h:1x/db"})

    assert (done.returncode, name in done.stderr, "Error" in done.stderr) == (3, True, False)


@pytest.mark.parametrize("change", ["/nodb", "?nonsense=1"])
def test_a_database_that_can_not_be_there_is_not_waited_for(
    postgres: str, sqlite_place: Place, change: str
) -> None:
    done = sqlite_place.run(
        "env",
        "list",
        PENSTOCK_DATABASE_URL=f"{postgres}{change if change[0] == '/' else '/postgres' + change}",
    )

    assert (done.returncode, done.stderr.count("\n"), "sqlalche.me" in done.stderr) == (3, 1, False)


def test_an_empty_database_is_reported_without_a_statement(
    new_database: Callable[..., str], sqlite_place: Place
) -> None:
    done = sqlite_place.run("db", "restored", PENSTOCK_DATABASE_URL=new_database("postgresql"))

    assert (done.returncode, "UPDATE" in done.stderr, "penstock db upgrade" in done.stderr) == (
        3,
        False,
        True,
    )
