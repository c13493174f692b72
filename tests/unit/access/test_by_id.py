"""What operators decide counts for a pipeline's id: another major version, or another plugin's
pipeline of that name, starts with nothing."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
import sqlalchemy as sa
from alembic import command
from support.place import ACTOR, Place, Server

from penstock import Call, HttpTrigger, Pipeline, Rate, hookimpl, secret
from penstock.access import by_name, consumers, limits, pipelines, variables
from penstock.access.consumers import Associations
from penstock.access.snapshot import Snapshot
from penstock.contracts.call import Token
from penstock.db import migrate
from penstock.db.engine import Engine, open_engine, writing
from penstock.durable import engine_dbos
from penstock.errors import UnknownName, UsageError
from penstock.testing import Runtime

Start = Callable[..., Runtime]
SHOP = {"v1/orders": "shop", "v2/orders": "shop", "v1/login": "shop"}


def pipeline_of(name: str, version: str = "1.0.0", **more: Any) -> Pipeline:
    needed = more.pop("needs", ())
    pipeline = Pipeline(
        name, version=version, trigger=HttpTrigger(**({"api_key": True} | more)), needs=needed
    )

    @pipeline.get("/")
    def show(call: Call) -> str:
        return "".join(item.reveal() for item in call.secrets.values()) or "here"

    @pipeline.post("/")
    def issue(call: Call) -> Token:
        return call.issue_token(subject="ann")

    return pipeline


def plugin(name: str, *offered: Pipeline) -> object:
    class Plugin:
        @staticmethod
        @hookimpl
        def penstock_pipelines() -> list[Pipeline]:
            return list(offered)

    Plugin.__name__ = name
    return Plugin


def status(client: Any, path: str, method: str = "get") -> int:
    answer: int = getattr(client, method)(path).status_code
    return answer


class TestTwoMajorVersions:
    """Two major versions that one plugin offers."""

    def test_an_id_associates_with_that_one_alone_and_a_name_with_all(
        self, penstock_runtime: Start
    ) -> None:
        runtime = penstock_runtime(
            plugin("shop", pipeline_of("orders"), pipeline_of("orders", "2.0.0")), policy="api-key"
        )
        first, both = (
            runtime.client("one", pipelines=["v1/orders"], token=False),
            runtime.client("both", pipelines=["orders"], token=False),
        )

        assert [status(first, path) for path in ("/v1/orders/", "/v2/orders/")] == [200, 403]
        assert [status(both, path) for path in ("/v1/orders/", "/v2/orders/")] == [200, 200]

    def test_the_command_says_which_ids_a_name_meant(self, penstock_runtime: Start) -> None:
        runtime = penstock_runtime(
            plugin(
                "shop",
                pipeline_of("orders"),
                pipeline_of("orders", "2.0.0"),
                pipeline_of("orders", "10.0.0"),
            ),
            policy="api-key",
        )
        runtime.operate("consumer", "create", "acme")

        output = runtime.operate("consumer", "associate", "acme", "orders", "--env", "test")
        gone = runtime.operate("consumer", "dissociate", "acme", "v2/orders", "--env", "test")
        rest = runtime.operate("consumer", "dissociate", "acme", "orders", "--env", "test")

        assert output == "consumer acme associated in test: v1/orders, v2/orders, v10/orders\n"
        assert gone == "consumer acme dissociated in test: v2/orders\n"
        assert rest == "consumer acme dissociated in test: v1/orders, v10/orders\n"

    def test_designating_one_exempts_no_other_and_lets_it_issue_no_tokens(
        self, penstock_runtime: Start
    ) -> None:
        runtime = penstock_runtime(
            plugin(
                "shop", pipeline_of("login", login=True), pipeline_of("login", "2.0.0", login=True)
            ),
            policy="jwt-api-key",
        )
        client = runtime.client(token=False)
        runtime.designate("v1/login")

        assert [status(client, path, "post") for path in ("/v1/login/", "/v2/login/")] == [200, 503]
        assert (
            "penstock login-flow designate v2/login --env test" in runtime.blocked()["v2/login"][0]
        )
        runtime.policy("api-key")
        assert [status(client, path, "post") for path in ("/v1/login/", "/v2/login/")] == [200, 500]

    def test_disabling_one_leaves_the_other_served(self, penstock_runtime: Start) -> None:
        runtime = penstock_runtime(
            plugin("shop", pipeline_of("orders"), pipeline_of("orders", "2.0.0")), policy="api-key"
        )
        client = runtime.client(token=False)

        output = runtime.operate("pipeline", "disable", "v1/orders", "--env", "test")

        assert output == "disabled in test: v1/orders\n"
        assert [status(client, path) for path in ("/v1/orders/", "/v2/orders/")] == [503, 200]
        runtime.operate("pipeline", "disable", "orders", "--env", "test")
        assert [status(client, path) for path in ("/v1/orders/", "/v2/orders/")] == [503, 503]
        assert (
            runtime.operate("pipeline", "enable", "orders", "--env", "test")
            == "enabled in test: v1/orders, v2/orders\n"
        )
        assert [status(client, path) for path in ("/v1/orders/", "/v2/orders/")] == [200, 200]

    def test_a_limit_counts_for_the_one_it_was_set_for(self, penstock_runtime: Start) -> None:
        runtime = penstock_runtime(
            plugin("shop", pipeline_of("orders"), pipeline_of("orders", "2.0.0")), policy="api-key"
        )
        client = runtime.client("acme", token=False)
        runtime.operate(
            "limit", "set", "acme", "1/hour", "--pipeline", "v1/orders", "--env", "test"
        )

        assert [status(client, "/v1/orders/") for _ in range(2)] == [200, 429]
        assert [status(client, "/v2/orders/") for _ in range(2)] == [200, 200]
        assert runtime.operate(
            "limit", "remove", "acme", "--pipeline", "orders", "--env", "test"
        ).startswith("1 limit")
        assert status(client, "/v1/orders/") == 200

    def test_a_secret_is_for_the_one_it_was_kept_for(self, penstock_runtime: Start) -> None:
        wants = {"needs": {secret("erp_token")}}
        runtime = penstock_runtime(
            plugin("shop", pipeline_of("orders", **wants), pipeline_of("orders", "2.0.0", **wants)),
            policy="api-key",
        )
        client = runtime.client(token=False)
        runtime.operate(
            "secret", "set", "erp_token", "--env", "test", "--pipeline", "v1/orders", given="s3cret"
        )

        assert client.get("/v1/orders/").text == "s3cret"
        assert status(client, "/v2/orders/") == 503
        assert (
            "`penstock secret set erp_token --env test` with `--pipeline v2/orders`"
            in runtime.blocked()["v2/orders"][0]
        )

    def test_a_version_that_appears_later_starts_with_nothing(self, sqlite_place: Place) -> None:
        place = sqlite_place
        pipelines.pipelines_seen(place.engine, "runtime", "test", {"v1/orders": "shop"})
        place.consumer("acme")
        place.consumer("eager")
        consumers.associate(place.engine, ACTOR, "acme", ["orders"], "test", {"v1/orders": "shop"})
        consumers.associate(place.engine, ACTOR, "eager", [], "test", {}, new_pipelines=True)
        pipelines.set_login_flow(
            place.engine, ACTOR, "test", "orders", {"v1/orders": "shop"}, designated=True
        )

        pipelines.pipelines_seen(place.engine, "runtime", "test", SHOP)

        view = place.snapshot()
        acme, eager = (view.consumer_named(name).id for name in ("acme", "eager"))  # type: ignore[union-attr]  # they are there
        assert [view.associated(acme, identifier) for identifier in ("v1/orders", "v2/orders")] == [
            True,
            False,
        ]
        assert [
            view.associated(eager, identifier)
            for identifier in ("v1/orders", "v2/orders", "v1/login")
        ] == [False, True, True]
        assert [
            view.pipeline(identifier).login_flow for identifier in ("v1/orders", "v2/orders")
        ] == [True, False]


class TestASharedName:
    """A name that two plugins share."""

    def test_is_a_violation_of_both_so_a_plugin_can_not_exempt_itself(
        self, penstock_runtime: Start
    ) -> None:
        shop, rogue = (
            plugin("shop", pipeline_of("login", login=True)),
            plugin("rogue", pipeline_of("login", "2.0.0", login=True)),
        )
        runtime = penstock_runtime(shop, rogue, policy="jwt-api-key")
        client = runtime.client(token=False)
        runtime.designate("v1/login")

        assert [status(client, path, "post") for path in ("/v1/login/", "/v2/login/")] == [503, 503]
        assert "the name login is also offered by plugin rogue" in runtime.blocked()["v1/login"][0]
        assert "the name login is also offered by plugin shop" in runtime.blocked()["v2/login"][0]
        assert len([text for text in runtime.problems() if "is also offered" in text]) == 2

    def test_means_neither_in_a_command(self, penstock_runtime: Start) -> None:
        runtime = penstock_runtime(
            plugin("shop", pipeline_of("orders")),
            plugin("rogue", pipeline_of("orders", "2.0.0")),
            policy="api-key",
        )
        runtime.operate("consumer", "create", "acme")

        with pytest.raises(
            UsageError,
            match="'orders' is offered by plugins rogue and shop; write an id, such as v1/orders",
        ):
            runtime.operate("consumer", "associate", "acme", "orders", "--env", "test")
        assert (
            runtime.operate("pipeline", "disable", "orders", "--env", "test")
            == "disabled in test: v1/orders, v2/orders\n"
        )


def test_a_pipeline_that_no_plugin_offered_is_unknown(sqlite_place: Place) -> None:
    sqlite_place.consumer("acme")
    associate = [sqlite_place.engine, ACTOR, "acme"]

    for word, output in (
        ("v3/orders", "did you mean 'v2/orders'"),
        ("orderz", "did you mean 'orders'"),
        ("v1", "no pipeline"),
    ):
        with pytest.raises(UnknownName, match=output):
            consumers.associate(*associate, [word], "test", SHOP)
    sqlite_place.enable("stock")
    with pytest.raises(UsageError, match="no plugin offers 'stock' here; write the id: v1/stock"):
        consumers.associate(*associate, ["stock"], "test", SHOP)
    assert consumers.associate(*associate, ["v1/stock"], "test", SHOP) == ["v1/stock"]


def test_the_matrix_of_the_console_has_ids(sqlite_place: Place) -> None:
    sqlite_place.consumer("acme", "orders")
    seen = Associations(frozenset({("test", "v1/orders")}), frozenset())
    chosen = Associations(frozenset({("test", "v2/orders")}), frozenset())

    assert consumers.save_associations(sqlite_place.engine, ACTOR, "acme", seen, chosen, SHOP) == (
        1,
        1,
        0,
    )
    assert consumers.show_consumer(sqlite_place.engine, "acme").associations == {
        "test": ["v2/orders"]
    }


BEFORE = "20261125_takeovers"  # the schema of the release before


class Old:
    """A database of the release before, with what its operators kept by names."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.engine: Engine = open_engine(url)
        config = migrate._config()  # noqa: SLF001  no release goes backwards
        with writing(self.engine) as connection:
            config.attributes["connection"] = connection
            command.upgrade(config, BEFORE)
            now, key = "2026-11-26 00:00:00", "revision"
            connection.execute(sa.text(f"UPDATE {key} SET value = 7"))
            for number, name in ((1, "test"), (2, "prod")):
                self.insert(
                    connection, "environments", id=number, name=name, policy="jwt-api-key",
                    policy_version=1, token_lifetime=3600,
                    keys_in_query=False, algorithm="EdDSA", created_at=now, revision=1,
                )  # fmt: skip
            self.insert(
                connection,
                "consumers",
                id=1,
                name="acme",
                description="",
                enabled=True,
                created_at=now,
                revision=2,
            )
            for number, name, login, enabled in (
                (1, "orders", False, True),
                (2, "login", True, True),
                (3, "shut", False, False),
            ):
                self.insert(
                    connection,
                    "pipelines",
                    id=number,
                    environment_id=1,
                    name=name,
                    enabled=enabled,
                    login_flow=login,
                    seen=True,
                    revision=3,
                )
            for number, name, active in (
                (1, "orders", True),
                (2, "login", True),
                (3, "gone", True),
                (4, "ended", False),
            ):
                self.insert(
                    connection,
                    "associations",
                    id=number,
                    environment_id=1,
                    consumer_id=1,
                    pipeline=name,
                    active=active,
                    revision=4,
                )
            self.insert(
                connection, "limits", id=1, environment_id=1, consumer_id=1, pipeline="orders",
                by="consumer", seconds=60, rate="5/minute",
                active=True, revision=5,
            )  # fmt: skip
            self.insert(
                connection, "limits", id=2, environment_id=1, consumer_id=1, pipeline="",
                by="consumer", seconds=60, rate="9/minute", active=True,
                revision=5,
            )  # fmt: skip
            self.secrets(connection, 1, "erp_token", ["orders"])
            self.secrets(connection, 2, "lost", ["gone"])
            if connection.dialect.name == "postgresql":
                for table in ("pipelines", "associations", "limits"):
                    connection.execute(
                        sa.text(f"SELECT setval(pg_get_serial_sequence('{table}', 'id'), 100)")
                    )

    @staticmethod
    def insert(connection: Any, table: str, **values: Any) -> None:
        names = ", ".join(f'"{name}"' for name in values)
        connection.execute(
            sa.text(
                f"INSERT INTO {table} ({names}) VALUES ({', '.join(':' + name for name in values)})"
            ),
            values,
        )

    def secrets(self, connection: Any, number: int, name: str, allowed: list[str]) -> None:
        sealed, pipelines = b"", json.dumps(allowed)
        self.insert(
            connection,
            "pipeline_secrets",
            id=number,
            environment_id=1,
            name=name,
            sealed=sealed,
            pipelines=pipelines,
            active=True,
            revision=6,
        )

    def called(self, *identifiers: str) -> None:
        """Have calls counted, as they are for pipelines that were called."""
        with writing(self.engine) as connection:
            for identifier in identifiers:
                self.insert(
                    connection, "call_counts", environment_id=1, span=60, since=1_800_000_000,
                    pipeline=identifier, outcome="succeeded", process="",
                    calls=1, micros=1, buckets="[]",
                )  # fmt: skip

    def upgrade(self) -> None:
        migrate.upgrade(self.engine)

    def by_hand(self, statement: str) -> None:
        """Do what a command of the release before does."""
        with writing(self.engine) as connection:
            connection.execute(sa.text("UPDATE revision SET value = value + 1"))
            connection.execute(sa.text(statement.replace("NOW", "(SELECT value FROM revision)")))

    def names(self, query: str) -> list[Any]:
        with self.engine.connect() as connection:
            return sorted(tuple(row) for row in connection.execute(sa.text(query)))


@pytest.fixture(params=["sqlite", "postgresql"])
def old(request: pytest.FixtureRequest, new_database: Callable[..., str]) -> Any:
    database = Old(new_database(request.param))
    yield database
    database.engine.dispose()


class NoBox:
    """Opens anything."""

    def decrypt(self, sealed: bytes) -> bytes:
        return b"secret"


def view_of(old: Old) -> Snapshot:
    view = Snapshot("test", NoBox())  # type: ignore[arg-type]  # nothing is sealed here
    view.refresh(old.engine)
    return view


def granted(view: Snapshot) -> dict[str, Any]:
    """Return all that is granted by id."""
    ids = ("v1/orders", "v2/orders", "v1/login", "v2/login", "v1/gone", "v1/ended", "v1/shut")
    return {
        "associated": [item for item in ids if view.associated(1, item)],
        "login flows": [item for item in ids if view.pipeline(item).login_flow],
        "disabled": [item for item in ids if not view.pipeline(item).enabled],
        "limits": sorted(
            pipeline for _, pipeline in view.limits if "/" in pipeline or not pipeline
        ),
        "secrets": [item for item in ids if view.secrets_for(item)],
    }


OFFERED = {"v1/orders": "shop", "v2/orders": "shop", "v1/login": "shop", "v1/shut": "shop"}


class TestUpgrade:
    """Names that the release before kept become ids."""

    def test_the_migration_knows_the_ids_that_were_called(self, old: Old) -> None:
        old.called("v1/orders", "v1/login", "v1/shut", "v1/ended", "v9/never")
        old.upgrade()

        assert granted(view_of(old)) == {
            "associated": ["v1/orders", "v1/login"],
            "login flows": ["v1/login"],
            "disabled": ["v1/shut"],
            "limits": ["", "v1/orders"],
            "secrets": ["v1/orders"],
        }

    def test_the_first_process_makes_ids_of_what_it_offers_and_drops_the_rest(
        self, old: Old
    ) -> None:
        old.upgrade()
        assert granted(view_of(old))["associated"] == []

        became = pipelines.pipelines_seen(old.engine, "runtime", "test", OFFERED)

        assert became == {
            "gone": [],
            "login": ["v1/login"],
            "orders": ["v1/orders", "v2/orders"],
            "shut": ["v1/shut"],
        }
        assert granted(view_of(old)) == {
            "associated": ["v1/orders", "v2/orders", "v1/login"],
            "login flows": ["v1/login"],
            "disabled": ["v1/shut"],
            "limits": ["", "v1/orders", "v2/orders"],
            "secrets": ["v1/orders", "v2/orders"],
        }

    def test_a_plugin_that_offers_a_dropped_name_later_starts_without_access(
        self, old: Old
    ) -> None:
        old.upgrade()
        pipelines.pipelines_seen(old.engine, "runtime", "test", OFFERED)

        pipelines.pipelines_seen(
            old.engine, "runtime", "test", OFFERED | {"v1/gone": "rogue", "v2/login": "shop"}
        )

        state = granted(view_of(old))
        assert "v1/gone" not in state["associated"] + state["secrets"]
        assert "v2/login" not in state["associated"] + state["login flows"]

    def test_a_name_that_two_plugins_offer_becomes_nothing(self, old: Old) -> None:
        old.upgrade()

        became = pipelines.pipelines_seen(
            old.engine, "runtime", "test", OFFERED | {"v2/login": "rogue"}
        )

        assert became["login"] == []
        assert granted(view_of(old))["login flows"] == []

    def test_what_was_seen_before_is_no_new_pipeline(self, old: Old) -> None:
        with writing(old.engine) as connection:
            old.insert(
                connection, "new_pipelines", id=1, environment_id=1, consumer_id=1, active=True
            )
        old.by_hand(
            "UPDATE associations SET active = false, revision = NOW WHERE pipeline = 'login'"
        )
        old.upgrade()

        pipelines.pipelines_seen(old.engine, "runtime", "test", OFFERED | {"v1/fresh": "shop"})

        view = view_of(old)
        assert [view.associated(1, item) for item in ("v1/orders", "v1/login", "v1/fresh")] == [
            True,
            False,
            True,
        ]

    def test_an_upgrade_with_the_plugins_at_hand_does_it_before_any_process_starts(
        self, old: Old
    ) -> None:
        old.upgrade()

        assert pipelines.convert_names(old.engine, ACTOR, {"v1/orders": "shop"}) == {
            "test": {"orders": ["v1/orders"]}
        }
        assert granted(view_of(old))["associated"] == ["v1/orders"]
        assert pipelines.has_unconverted_names(old.engine)
        pipelines.pipelines_seen(old.engine, "runtime", "test", OFFERED)
        pipelines.pipelines_seen(old.engine, "runtime", "prod", OFFERED)
        assert not pipelines.has_unconverted_names(old.engine)


class TestBesideTheReleaseBefore:
    """Both releases run for a while, each looking at its own rows."""

    @pytest.fixture
    def both(self, old: Old) -> Old:
        old.upgrade()
        pipelines.pipelines_seen(old.engine, "runtime", "test", OFFERED)
        return old

    def theirs(self, both: Old) -> list[Any]:
        """Return what the release before sees: names."""
        state = both.names(
            "SELECT pipeline FROM associations WHERE active = true AND pipeline NOT LIKE '%/%'"
        )
        state += both.names(
            "SELECT name FROM pipelines WHERE enabled = false AND name NOT LIKE '%/%'"
        )
        return state + both.names(
            "SELECT name, 'login' FROM pipelines WHERE login_flow = true AND name NOT LIKE '%/%'"
        )

    def test_it_sees_what_it_saw(self, both: Old) -> None:
        assert self.theirs(both) == [
            ("gone",),
            ("login",),
            ("orders",),
            ("shut",),
            ("login", "login"),
        ]

    def test_what_is_taken_away_by_id_is_taken_away_there_too(self, both: Old) -> None:
        consumers.dissociate(both.engine, ACTOR, "acme", ["v2/orders"], "test")
        pipelines.set_pipeline_enabled(
            both.engine, ACTOR, "test", "v2/orders", OFFERED, enabled=False
        )
        pipelines.set_login_flow(both.engine, ACTOR, "test", "v1/login", OFFERED, designated=False)

        assert self.theirs(both) == [("gone",), ("login",), ("orders",), ("shut",)]
        state = granted(view_of(both))
        assert (state["associated"], state["disabled"], state["login flows"]) == (
            ["v1/orders", "v1/login"],
            ["v2/orders", "v1/shut"],
            [],
        )
        pipelines.set_pipeline_enabled(
            both.engine, ACTOR, "test", "v2/orders", OFFERED, enabled=True
        )
        assert ("orders",) not in self.theirs(both)

    @pytest.mark.parametrize("fresh", [True, False])
    def test_what_it_takes_away_by_name_is_taken_away_here_too(
        self, both: Old, fresh: bool
    ) -> None:
        view = view_of(both)
        both.by_hand(
            "UPDATE associations SET active = false, revision = NOW WHERE pipeline = 'orders'"
        )
        both.by_hand(
            "UPDATE pipelines SET login_flow = false, enabled = false, revision = NOW WHERE name ="
            " 'login'"
        )
        if fresh:
            view = view_of(both)
        else:
            view.refresh(both.engine)

        state = granted(view)
        assert state["associated"] == ["v1/login"]
        assert consumers.show_consumer(both.engine, "acme").associations == {"test": ["v1/login"]}
        assert state["login flows"] == []
        assert state["disabled"] == ["v1/login", "v2/login", "v1/shut"]
        consumers.associate(both.engine, ACTOR, "acme", ["v1/orders"], "test", OFFERED)
        pipelines.set_pipeline_enabled(
            both.engine, ACTOR, "test", "v1/login", OFFERED, enabled=True
        )
        view.refresh(both.engine)
        assert granted(view)["associated"] == ["v1/orders", "v1/login"]
        assert granted(view)["disabled"] == ["v1/shut"]

    def test_what_it_grants_by_name_grants_nothing_here(self, both: Old) -> None:
        before = granted(view_of(both))
        both.by_hand(
            "INSERT INTO associations (environment_id, consumer_id, pipeline, active, revision)"
            " VALUES (1, 1, 'shut', true, NOW)"
        )
        both.by_hand(
            "UPDATE pipelines SET login_flow = true, enabled = true, revision = NOW WHERE name ="
            " 'shut'"
        )

        assert granted(view_of(both)) == before

    def test_listings_show_ids_alone(self, both: Old) -> None:
        assert consumers.show_consumer(both.engine, "acme").associations == {
            "test": ["v1/login", "v1/orders", "v2/orders"]
        }
        assert [row.pipeline for row in limits.list_limits(both.engine)] == [
            "",
            "v1/orders",
            "v2/orders",
        ]
        assert {row.name: row.pipelines for row in variables.list_secrets(both.engine)} == {
            "erp_token": ["v1/orders", "v2/orders"],
            "lost": ["gone"],
        }
        (row,) = consumers.page_consumers(both.engine)
        assert row.pipelines == {"test": 3, "prod": 0}

    def test_removing_an_own_limit_of_a_name_removes_no_other(self, both: Old) -> None:
        assert limits.remove_limits(both.engine, ACTOR, "acme", "test").number == 1
        assert [row.pipeline for row in limits.list_limits(both.engine)] == [
            "v1/orders",
            "v2/orders",
        ]
        assert by_name.is_name("orders")
        limits.set_limit(
            both.engine,
            ACTOR,
            "acme",
            "test",
            Rate("100/hour"),
            pipeline="v1/orders",
            offered=OFFERED,
        )
        removed = limits.remove_limits(both.engine, ACTOR, "acme", "test", pipeline="v1/orders")
        assert removed.number == 2


PLUGIN = """
from penstock import Call, HttpTrigger, Pipeline, hookimpl
orders = Pipeline("orders", version="1.0.0", trigger=HttpTrigger(api_key=True, jwt=True))
login = Pipeline("login", version="1.0.0", trigger=HttpTrigger(api_key=True, login=True))

@orders.get("/")
@login.get("/")
def show(call: Call) -> str:
    return "here"

@hookimpl
def penstock_pipelines():
    return [orders, login]
"""


def test_the_command_makes_ids_with_the_plugins_in_place_so_a_check_is_good_before_the_start(
    new_database: Callable[..., str], sqlite_place: Place, serve: Callable[..., Server]
) -> None:
    old = Old(new_database("sqlite"))
    sqlite_place.plugin("shop", PLUGIN)
    environment = {"PENSTOCK_DATABASE_URL": old.url}
    with writing(old.engine) as connection:  # a box of this place can't open what was never sealed
        connection.execute(sa.text("DELETE FROM pipeline_secrets"))
    engine_dbos.migrate(old.url)

    upgraded = sqlite_place.run("db", "upgrade", **environment)
    checked = sqlite_place.run("check", **environment)

    assert (upgraded.returncode, checked.returncode) == (0, 0), upgraded.stderr + checked.stdout
    assert "test: access data of login applies to v1/login now" in upgraded.stdout
    assert "2 of 2 pipelines served" in checked.stdout
    server = serve(sqlite_place, **environment)
    assert server.call("GET", "/v1/orders/").status_code == 401
    assert "name counts for nothing any more" in server.log.read_text()
    old.engine.dispose()
