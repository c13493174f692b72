"""Processes report what they serve; a start or reload is one deployment, however many processes
begin it; and what is served in an environment is what its processes report."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta

import pytest
import sqlalchemy as sa
from support.commands import run
from support.deployments import Process, source
from support.place import Place

from penstock.access.variables import set_secret, set_variable
from penstock.db import deployments
from penstock.db.deployment_tables import DeploymentRow, ProcessReportRow
from penstock.db.engine import reading, writing
from penstock.db.failures import DatabaseUnavailable
from penstock.db.run_tables import ProcessRow
from penstock.gate.compliance import State
from penstock.host import reporter
from penstock.host.deployment_list import (
    Deployment,
    deployment_markers,
    find_deployment,
    list_deployments,
    list_processes,
)
from penstock.host.host import Host
from penstock.settings import Settings


def listed(place: Place, env: str | None = None) -> list[Deployment]:
    return list_deployments(place.engine, None if env is None else [env], limit=50)


def texts(place: Place) -> list[str]:
    return [item.what_changed for item in listed(place)]


def test_processes_of_one_start_begin_one_deployment(place: Place) -> None:
    place.policy("api-key")
    first = Process.start(place, "test", {"orders": source("orders")})
    with ThreadPoolExecutor(4) as pool:
        rest = list(pool.map(lambda _: first.another(), range(4)))

    (deployment,) = listed(place)

    with reading(place.engine) as connection:
        reports = connection.scalar(sa.select(sa.func.count()).select_from(ProcessReportRow.table))
    assert (deployment.processes, deployment.served, reports) == (1 + len(rest), 1, 1)
    assert deployment.what_changed == "first deployment"


def test_processes_that_start_at_the_same_moment_begin_one_deployment(place: Place) -> None:
    place.policy("api-key")
    started = [
        Process.start(place, "test", {"orders": source("orders")}, kind="worker") for _ in range(2)
    ]
    with writing(place.engine) as connection:  # as if neither had reported yet
        connection.execute(sa.delete(DeploymentRow.table))
    for process in started:
        process.host.upkeep.reporter.__init__(process.host._parts)  # type: ignore[misc]  # noqa: SLF001  as at its start
        process.host.upkeep.reporter.listed_as(process.id)
    with ThreadPoolExecutor(2) as pool:
        list(pool.map(lambda process: process.report(), started))

    assert len(listed(place)) == 1


def test_a_deployment_lists_what_changed(place: Place) -> None:
    place.policy("api-key")
    Process.start(
        place, "test", {"payments": source("payments", version="2.3.0"), "erp": source("erp-sync")}
    )
    Process.start(
        place,
        "test",
        {
            "payments": source("payments", "refunds", version="2.3.1"),
            "erp": source("erp-sync", needs="ledger"),
        },
    )

    after, before = listed(place)

    text = after.what_changed
    assert after.previous == before.id
    assert (before.served, before.blocked, after.served, after.blocked) == (2, 0, 2, 1)
    assert "+payments 2.3.1+" in text
    assert "\N{MINUS SIGN}payments 2.3.0+" in text
    assert "✕ v1/erp-sync blocked" in text
    assert "✓ v1/refunds served" in text
    assert [change.id for change in after.changes.pipelines] == ["v1/erp-sync", "v1/refunds"]


def test_a_restart_is_a_deployment_and_a_replaced_worker_is_none(place: Place) -> None:
    place.policy("api-key")
    plugins = {"orders": source("orders")}
    first = Process.start(place, "test", plugins)
    first.end()
    first.another().end()  # the arbiter replaces it, by what it has loaded
    Process.start(place, "test", plugins)

    assert texts(place) == ["restart without changes", "first deployment"]


def test_a_change_of_policy_is_reported_and_is_no_deployment(place: Place) -> None:
    place.policy("api-key")
    process = Process.start(place, "prod", {"orders": source("orders")})
    place.policy("jwt-api-key", "prod")
    process.read()
    process.report()

    (deployment,) = listed(place)
    (facts,) = list_processes(place.engine, ["prod"])

    details = find_deployment(place.engine, deployment.id[:8])
    assert details.report is not None
    assert [item.state for item in details.report.pipelines] == ["blocked"]
    assert "jwt" in details.report.pipelines[0].reasons[0].reason
    assert (facts.served, facts.blocked, facts.behind) == (0, 1, False)


def test_a_process_that_has_not_read_a_policy_is_behind(place: Place) -> None:
    Process.start(place, "prod", {"orders": source("orders")})
    place.policy("any", "prod")

    (facts,) = list_processes(place.engine, ["prod"])

    assert facts.behind
    assert "(behind)" in run(place, "ps").stdout


def test_an_evaluation_with_the_same_result_is_not_written_again(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    process = Process.start(place, "test", {"orders": source("orders")})
    written: list[object] = []
    monkeypatch.setattr(reporter, "write_report", lambda *words: written.append(words))
    process.read()
    process.report()
    unchanged = len(written)
    place.policy("any")
    process.read()
    process.report()

    assert (unchanged, len(written)) == (0, 1)


@pytest.mark.parametrize(("pause", "number"), [(0.0, 1), (3600.0, 0)])
def test_a_report_that_can_t_be_written_is_written_after_a_pause(
    sqlite_place: Place, monkeypatch: pytest.MonkeyPatch, pause: float, number: int
) -> None:
    def fail(*_: object) -> None:
        raise DatabaseUnavailable("away")

    process = Process(sqlite_place, Host(Settings.from_env(sqlite_place.environ())), "test", "")
    with monkeypatch.context() as patched:
        patched.setattr(reporter, "INTERVAL_S", pause)
        patched.setattr(reporter, "write_report", fail)
        process.listed()
    process.report()

    assert len(listed(sqlite_place)) == number


def test_a_report_has_no_secrets_and_no_paths(place: Place) -> None:
    set_secret(place.engine, "tester", "test", "ledger", "s3cr3t-of-the-ledger", place.box)
    set_variable(place.engine, "tester", "test", "region", "eu-west-17")
    broken = "raise RuntimeError('s3cr3t-of-the-ledger, password=hunter22')"
    process = Process.start(
        place, "test", {"orders": source("orders", needs="region"), "broken": broken}
    )

    with reading(place.engine) as connection:
        content = connection.execute(sa.select(ProcessReportRow.content)).scalar_one().decode()

    assert "RuntimeError" in content
    files = [plugin["file"] for plugin in json.loads(content)["plugins"]]
    assert any(file.startswith("plugins-") and file.endswith("/orders.py") for file in files)
    assert not [
        text
        for text in ("s3cr3t", "hunter22", "eu-west-17", str(place.folder), place.secret)
        if text in content
    ]
    assert [item.name for item in process.served("test").plugins if item.failed] == ["broken"]


def test_old_deployments_and_unused_reports_are_deleted(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(3):
        Process.start(place, "test", {"orders": source("orders", version=f"{number}.0")}).end()
    running = Process.start(place, "test", {"orders": source("orders", version="3.0")})
    with writing(place.engine) as connection:
        past = timedelta(days=200)
        rows = DeploymentRow.fetch(connection, DeploymentRow.select())
        for row in rows:  # all are old, that of the process which is alive too
            connection.execute(
                sa.update(DeploymentRow.table)
                .where(DeploymentRow.id == row.id)
                .values({DeploymentRow.at: row.at - past})
            )
        connection.execute(
            sa.update(ProcessReportRow.table).values(
                {ProcessReportRow.written_at: rows[0].at - past}
            )
        )

    deployments.purge(place.engine, running.host.view.environment_id)

    (left,) = listed(place)
    with reading(place.engine) as connection:
        reports = connection.scalar(sa.select(sa.func.count()).select_from(ProcessReportRow.table))
    assert (left.processes, reports) == (1, 1)


def test_no_more_deployments_are_kept_than_the_limit(
    sqlite_place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(deployments, "MAX_DEPLOYMENTS", 2)
    for number in range(4):
        process = Process.start(
            sqlite_place, "test", {"orders": source("orders", version=f"{number}.0")}
        )
        process.end()
    newest = [item.id for item in listed(sqlite_place)][:2]

    deployments.purge(sqlite_place.engine, process.host.view.environment_id)

    assert [item.id for item in listed(sqlite_place)] == newest


class TestServed:
    """What is served in an environment, asked from a process of another one (the console)."""

    @pytest.fixture
    def console(self, place: Place) -> Process:
        """The process that asks: it serves `orders` in test, and its plugin `broken` is."""
        place.policy("api-key")
        place.policy("api-key", "prod")
        return Process.start(place, "test", {"orders": source("orders"), "broken": "1 / 0"})

    def test_where_no_process_reports_it_is_what_would_be_served(self, console: Process) -> None:
        served = console.served("prod")

        assert (served.reported, served.processes) == (False, ())
        assert [item.pipeline for item in served.served] == ["v1/orders"]
        assert [item.plugin for item in served.problems] == ["broken"]

    def test_other_plugins_of_its_processes_are_what_is_served(
        self, place: Place, console: Process
    ) -> None:
        Process.start(
            place,
            "prod",
            {"payments": source("payments", version="2.3.1"), "erp": source("erp", needs="ledger")},
        )

        served = console.served("prod")

        assert (served.reported, served.own, served.problems) == (True, False, ())
        assert [item.pipeline for item in served.served] == ["v1/payments"]
        assert served.served[0].plugin_version.startswith("2.3.1+")
        assert served.served[0].requires == {"api_key"}
        assert [(item.pipeline, item.violations[0].fix != "") for item in served.blocked] == [
            ("v1/erp", True)
        ]
        assert served.find("v1/orders") is None

    def test_processes_with_the_plugins_of_the_asker_are_its_own(self, console: Process) -> None:
        served = console.served("test")

        assert (served.reported, served.own, served.disagreements) == (True, True, ())
        assert [item.plugin for item in served.problems] == ["broken"]

    def test_a_change_that_no_process_has_reported_yet_is_shown(
        self, place: Place, console: Process
    ) -> None:
        place.enable("orders", enabled=False)

        served = console.served("test")

        assert [item.pipeline for item in served.in_state(State.DISABLED)] == ["v1/orders"]

    def test_a_rolling_deployment_is_named(self, place: Place, console: Process) -> None:
        Process.start(place, "prod", {"payments": source("payments", version="2.3.0")})
        Process.start(
            place, "prod", {"payments": source("payments", "refunds", version="2.3.1")}
        ).another()

        served = console.served("prod")

        counted = [(item.pipeline, item.serving, item.of) for item in served.pipelines]
        assert counted == [("v1/payments", 3, 3), ("v1/refunds", 2, 3)]
        (sentence,) = served.disagreements
        assert sentence.startswith("Of 3 processes 2 have payments 2.3.1+")
        assert "1 has payments 2.3.0+" in sentence

    def test_processes_that_are_gone_serve_nothing(self, place: Place, console: Process) -> None:
        process = Process.start(place, "prod", {"payments": source("payments")})
        with writing(place.engine) as connection:
            row = ProcessRow.fetch(
                connection, ProcessRow.select().where(ProcessRow.id == process.id)
            )[0]
            connection.execute(
                sa.update(ProcessRow.table)
                .where(ProcessRow.id == process.id)
                .values({ProcessRow.seen_at: row.seen_at - timedelta(minutes=1)})
            )

        assert not console.served("prod").reported
        assert [item.environment for item in list_processes(place.engine, None)] == ["test"]

    def test_a_process_without_pipelines_serves_nothing(self, place: Place) -> None:
        settings = Settings.from_env(
            place.environ("prod", PENSTOCK_PIPELINES="false", PENSTOCK_CONSOLE="true")
        )
        console = Process(place, Host(settings), "prod", "").listed()

        assert not console.served("prod").reported
        assert listed(place) == []
        assert "serve, no pipelines" in run(place, "ps").stdout


class TestCommands:
    """`penstock ps` and `penstock deployments`."""

    @pytest.fixture
    def deployed(self, sqlite_place: Place, monkeypatch: pytest.MonkeyPatch) -> Place:
        """A place with two deployments in prod, and one in test."""
        monkeypatch.setattr(reporter.socket, "gethostname", lambda: "web-1")
        monkeypatch.setattr(reporter, "started_by", lambda: "deploy (systemd)")
        place = sqlite_place
        place.policy("api-key", "prod")
        Process.start(place, "prod", {"payments": source("payments", version="2.3.0")}).end()
        Process.start(place, "prod", {"payments": source("payments", version="2.3.1")})
        monkeypatch.setattr(reporter.socket, "gethostname", lambda: "web-2")
        Process.start(place, "test", {"orders": source("orders")}, kind="worker")
        return place

    def test_ps_lists_processes_of_all_environments(self, deployed: Place) -> None:
        rows = json.loads(run(deployed, "ps", "--format", "json").stdout)

        assert [(row["environment"], row["host"], row["kind"]) for row in rows] == [
            ("test", "web-2", "worker"),
            ("prod", "web-1", "serve"),
        ]
        assert (rows[1]["served"], rows[1]["blocked"]) == (1, 0)
        assert (rows[1]["policy_version"], rows[1]["started_by"]) == (2, "deploy (systemd)")
        assert any(name.startswith("payments 2.3.1+") for name in rows[1]["plugins"])

    @pytest.mark.parametrize(
        ("words", "number"),
        [(("--env", "prod"), 2), (("--search", "2.3.0"), 2), (("--search", "WEB-2"), 1)],
    )
    def test_deployments_are_filtered(
        self, deployed: Place, words: tuple[str, ...], number: int
    ) -> None:
        done = run(deployed, "deployments", "list", "--format", "json", *words)

        assert len(json.loads(done.stdout)) == number

    def test_deployments_have_pages(self, deployed: Place) -> None:
        first = run(deployed, "deployments", "list", "--limit", "2")
        cursor = first.stderr.split()[-1]
        second = run(deployed, "deployments", "list", "--limit", "2", "--cursor", cursor)

        assert [line.split()[3] for line in first.stdout.splitlines()[1:]] == ["test", "prod"]
        assert (second.stdout.count("first deployment"), second.stderr) == (1, "")

    def test_a_deployment_is_shown_by_the_beginning_of_its_id(self, deployed: Place) -> None:
        newest = listed(deployed, "prod")[0].id

        shown = run(deployed, "deployments", "show", newest[:6]).stdout

        assert newest in shown
        assert "deploy (systemd)" in shown
        assert "payments 2.3.1+" in shown
        assert "v1/payments" in shown

    @pytest.mark.parametrize(
        ("words", "message"),
        [
            (("show", "0000"), "no deployment is named"),
            (("show", ""), "no deployment is named"),
            (("show", "%%%%"), "no deployment is named"),
            (("list", "--env", "nope"), "no environment is named"),
        ],
    )
    def test_unknown_names_are_one_line(
        self, deployed: Place, words: tuple[str, ...], message: str
    ) -> None:
        done = run(deployed, "deployments", *words)

        assert (done.code, message in done.stderr, done.stderr.count("\n")) == (2, True, 1)

    def test_markers_are_the_deployments_of_a_time(self, deployed: Place) -> None:
        newest = listed(deployed, "prod")[0].at.timestamp()

        markers = deployment_markers(deployed.engine, "prod", newest, newest + 1)

        ((at, text),) = markers
        assert at == pytest.approx(newest)
        assert text.startswith("web-1: +payments 2.3.1+")


@pytest.mark.parametrize(
    ("variables", "shown"),
    [
        ({"INVOCATION_ID": "1"}, " (systemd)"),
        ({"KUBERNETES_SERVICE_HOST": "10.0.0.1"}, " (Kubernetes)"),
        ({"SUDO_USER": "alice\x1b[2J"}, "alice"),
    ],
)
def test_the_service_that_started_a_process_is_named(
    monkeypatch: pytest.MonkeyPatch, variables: dict[str, str], shown: str
) -> None:
    for name in ("INVOCATION_ID", "KUBERNETES_SERVICE_HOST", "SUDO_USER"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(reporter.Path, "exists", lambda _: False)

    text = reporter.started_by()

    assert shown in text
    assert text.isprintable()
