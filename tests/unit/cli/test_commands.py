"""The command line, as operators type it: one line and an exit code for every error, never
a traceback."""

from __future__ import annotations

import json
import re
import shutil

import pytest
from support.place import ROOT, Place

PLUGIN = """
from penstock import Call, HttpTrigger, Pipeline, hookimpl

def offered(name, **trigger):
    pipeline = Pipeline(name, version="1.0.0", trigger=HttpTrigger(**trigger))

    @pipeline.get("/")
    def show(call: Call) -> dict:
        return {}

    return pipeline

@hookimpl
def penstock_pipelines():
    return [offered("orders", api_key=True, jwt=True), offered("stock", api_key=True), offered("login", api_key=True, login=True)]
"""  # noqa: E501  text as it is


@pytest.fixture
def shop(sqlite_place: Place) -> Place:
    sqlite_place.plugin("shop", PLUGIN)
    return sqlite_place


def states(place: Place, env: str = "test") -> dict[str, str]:
    return {
        row["name"]: row["state"]
        for row in json.loads(place.run("pipelines", "--env", env, "--format", "json").stdout)
    }


def test_check_on_the_demo_names_status_each_missing_toggle_and_the_fix(
    sqlite_place: Place,
) -> None:
    place = sqlite_place
    shutil.copytree(ROOT / "plugins" / "penstock_demo", place.folder / "plugins" / "penstock_demo")
    place.designate("login", "prod")

    done = place.run("check", "--env", "prod")

    assert done.returncode == 1
    assert "v1/status" in done.stdout
    assert "set api_key=True on its HttpTrigger" in done.stdout
    assert "set jwt=True on its HttpTrigger" in done.stdout
    assert place.run("policy", "set", "prod", "any", "--yes").returncode == 0
    done = place.run("check", "--env", "prod")
    assert done.returncode == 0
    assert "warning: v1/status: open to anyone" in done.stdout


def test_a_login_flow_is_exempt_only_if_declared_and_designated(shop: Place) -> None:
    assert states(shop) == {"orders": "served", "stock": "blocked", "login": "blocked"}
    assert "login-flow designate v1/login --env test" in shop.run("check").stdout

    assert shop.run("login-flow", "designate", "login", "--env", "test").returncode == 0
    done = shop.run("login-flow", "designate", "stock", "--env", "test")

    assert "does not declare login=True" in done.stderr
    assert states(shop) == {"orders": "served", "stock": "blocked", "login": "served"}
    assert shop.run("login-flow", "withdraw", "login", "--env", "test").returncode == 0
    assert states(shop)["login"] == "blocked"


def test_a_stricter_policy_lists_what_stops_and_asks_for_confirmation(shop: Place) -> None:
    shop.run("policy", "set", "test", "api-key", "--yes")
    assert states(shop) == {"orders": "served", "stock": "served", "login": "served"}

    preview = shop.run("policy", "set", "test", "jwt-api-key", "--dry-run")
    no = shop.run("policy", "set", "test", "jwt-api-key", given="n\n")

    assert preview.returncode == 0
    assert "stops: v1/stock: set jwt=True on its HttpTrigger" in preview.stdout
    assert "stops: v1/orders" not in preview.stdout
    assert (no.returncode, no.stderr.strip()) == (1, "penstock: stopped; nothing was changed")
    assert states(shop)["stock"] == "served"
    assert shop.run("policy", "set", "test", "jwt-api-key", given="y\n").returncode == 0
    assert states(shop)["stock"] == "blocked"


def test_grace_keeps_served_pipelines_and_marks_them_until_they_comply(shop: Place) -> None:
    shop.run("policy", "set", "test", "api-key", "--yes")

    done = shop.run("policy", "set", "test", "jwt-api-key", "--grace", "7d", "--reason", "audit 12")

    assert done.returncode == 0
    assert states(shop) == {
        "orders": "served",
        "stock": "non-conformant",
        "login": "non-conformant",
    }
    assert "non-conformant: v1/stock" in shop.run("check").stdout
    version, *_ = json.loads(shop.run("policy", "show", "test", "--format", "json").stdout)
    assert (version["version"], version["reason"]) == (3, "audit 12")
    assert version["grace_until"]
    shop.run("policy", "set", "test", "jwt-api-key", "--yes")
    assert states(shop)["stock"] == "blocked"


def test_a_disabled_pipeline_is_marked_and_can_be_enabled(shop: Place) -> None:
    assert shop.run("pipeline", "disable", "orders", "--env", "test").returncode == 0
    assert states(shop)["orders"] == "disabled"
    assert states(shop, "prod")["orders"] == "served"
    assert shop.run("pipeline", "enable", "orders", "--env", "test").returncode == 0
    assert states(shop)["orders"] == "served"


def test_a_consumer_s_life_from_creation_to_revocation(shop: Place) -> None:
    assert shop.run("consumer", "create", "acme", "--description", "ACME Ltd").returncode == 0
    assert (
        shop.run(
            "consumer",
            "associate",
            "acme",
            "orders",
            "stock",
            "--env",
            "test",
            "--new-pipelines",
            "on",
        ).returncode
        == 0
    )
    assert shop.run("consumer", "dissociate", "acme", "stock", "--env", "test").returncode == 0
    key = json.loads(
        shop.run(
            "key",
            "create",
            "acme",
            "--env",
            "test",
            "--expires",
            "90d",
            "--note",
            "erp",
            "--format",
            "json",
        ).stdout
    )
    assert re.fullmatch(r"pk_test_[0-9A-Za-z]{30}", key["key"])
    rotated = json.loads(
        shop.run("key", "rotate", key["id"], "--grace", "2d", "--format", "json").stdout
    )
    assert shop.run("key", "disable", rotated["id"]).returncode == 0
    assert shop.run("key", "enable", rotated["id"]).returncode == 0
    assert shop.run("key", "revoke", key["id"]).returncode == 0

    shown = json.loads(shop.run("consumer", "show", "acme", "--format", "json").stdout)
    listed = shop.run("key", "list", "--env", "test")

    assert shown["associations"] == {"test": ["v1/orders"]}
    assert shown["new_pipelines"] == ["test"]
    assert {row["id"]: row["state"] for row in shown["keys"]} == {
        key["id"]: "revoked",
        rotated["id"]: "usable",
    }
    assert key["key"] not in listed.stdout
    assert f"pk_test_…{key['key'][-4:]}" in listed.stdout
    trail = json.loads(shop.run("audit", "--format", "json").stdout)
    assert [event["action"] for event in trail[:3]] == [
        "key:revoked",
        "key:enabled",
        "key:disabled",
    ]
    assert key["key"] not in json.dumps(trail)


def test_the_actor_of_a_change_is_that_of_the_option(shop: Place) -> None:
    shop.run("--actor", "olga", "consumer", "create", "acme")

    assert (
        json.loads(shop.run("audit", "--limit", "1", "--format", "json").stdout)[0]["actor"]
        == "olga"
    )


def test_the_trail_is_filtered_and_exported(shop: Place) -> None:
    shop.run("--actor", "olga", "consumer", "create", "acme")
    shop.run("--actor", "olga", "variable", "set", "region", "=1+1", "--env", "prod")

    def actions(*words: str) -> list[str]:
        return [
            event["action"]
            for event in json.loads(shop.run("audit", *words, "--format", "json").stdout)
        ]

    assert actions("--by", "olga") == ["variable:set", "consumer:created"]
    assert (
        actions("--by", "olga", "--action", "consumer")
        == actions("--subject", "acme", "--since", "1h")
        == ["consumer:created"]
    )
    assert actions("--by", "olga", "--env", "prod") == ["variable:set"]
    newest = json.loads(shop.run("audit", "--limit", "1", "--format", "json").stdout)[0]["id"]
    assert actions("--cursor", str(newest), "--by", "olga") == ["consumer:created"]
    wrong = shop.run("audit", "--action", "varable:set")
    assert (wrong.returncode, "did you mean variable:set?" in wrong.stderr) == (2, True)
    lines = [
        json.loads(line)
        for line in shop.run("audit", "--by", "olga", "--export", "jsonl").stdout.splitlines()
    ]
    assert [line["action"] for line in lines] == ["variable:set", "consumer:created"]
    assert (
        shop.run("audit", "--by", "olga", "--export", "csv").stdout.splitlines()[0]
        == "id,at,actor,action,environment,subject,detail"
    )


def test_signing_keys_rotate_and_drop(shop: Place) -> None:
    (first,) = json.loads(
        shop.run("signing-key", "list", "--env", "test", "--format", "json").stdout
    )
    assert (
        shop.run("signing-key", "rotate", "--env", "test", "--algorithm", "RS256").returncode == 0
    )
    assert shop.run("signing-key", "drop", first["kid"], "--env", "test").returncode == 0

    rows = json.loads(shop.run("signing-key", "list", "--env", "test", "--format", "json").stdout)

    assert [(row["algorithm"], row["state"]) for row in rows] == [
        ("EdDSA", "dropped"),
        ("RS256", "signs"),
    ]


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (["env", "create", "test"], 1, "environment 'test' exists already"),
        (["env", "create", "Bad Name"], 2, "can't name an environment"),
        (["check", "--env", "prd"], 2, "did you mean 'prod'?"),
        (["policy", "set", "test", "jwt-apikey"], 2, "did you mean 'jwt-api-key'?"),
        (["policy", "set", "test", "any", "--grace", "soon"], 2, "write 30s, 15m, 12h, 7d or 2w"),
        (["consumer", "show", "unknown"], 2, "no consumer is named 'unknown'"),
        (["consumer", "associate", "acme", "ordrs", "--env", "test"], 2, "did you mean 'orders'?"),
        (["consumer", "create", "bad/name"], 2, "can't name a consumer"),
        (["key", "revoke", "key_none"], 2, "no key is named 'key_none'"),
        (["key", "create", "acme"], 2, "--env"),
        (["signing-key", "drop", "none", "--env", "test"], 2, "no signing key is named"),
        (["token", "revoke", "--env", "test"], 2, "jti or --consumer"),
        (["pipeline", "disable", "odrers", "--env", "test"], 2, "did you mean 'orders'?"),
        (["env", "set", "test", "--token-lifetime", "2d"], 2, "at most 24h"),
        (["chekc"], 2, "did you mean 'check'?"),
        (["key", "revoke", "pk_test_AbCdEfGhIjKlMnOpQrStUvWx012345"], 2, "no key is named '***'"),
        (["user", "create", "vic"], 2, "Choose from: viewer, operator, admin"),
    ],
)
def test_an_error_is_one_line_with_its_exit_code(
    shop: Place, words: list[str], code: int, message: str
) -> None:
    shop.consumer("acme")

    done = shop.run(*words)

    assert done.returncode == code, done.stderr
    assert message in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"PENSTOCK_ENVIRONMENTS": "test"}, "did you mean PENSTOCK_ENVIRONMENT?"),
        ({"PENSTOCK_STRICT": "yes"}, "PENSTOCK_STRICT must be true or false"),
        ({"PENSTOCK_BIND": "127.0.0.1:80x"}, "PENSTOCK_BIND must be like"),
        ({"PENSTOCK_BIND": "127.0.0.1:70000"}, "PENSTOCK_BIND must be like"),
        ({"PENSTOCK_BIND": "unix:/nowhere/x"}, "there is no folder /nowhere"),
        ({"PENSTOCK_WORKERS": "many"}, "PENSTOCK_WORKERS must be a whole number"),
        ({"PENSTOCK_DATABASE_URL": "mysql://x/y"}, "runs on sqlite and postgresql"),
        ({"PENSTOCK_SECRET_KEY": "short"}, "no Fernet key"),
        ({"PENSTOCK_ENVIRONMENT": "prd"}, "did you mean 'prod'?"),
        ({"PENSTOCK_PLUGIN_PATH": "/nowhere"}, "/nowhere is no folder"),
        ({"PENSTOCK_STRICT": "true"}, "not everything can be served"),
    ],
)
def test_a_server_that_can_not_start_prints_why_and_exits_with_3(
    shop: Place, settings: dict[str, str], message: str
) -> None:
    done = shop.run("serve", **{"PENSTOCK_BIND": "127.0.0.1:0"} | settings)

    assert done.returncode == 3, done.stderr
    assert message in done.stderr
    assert "Traceback" not in done.stderr
    assert "hunter2" not in done.stderr


def test_postgresql_needs_a_secret_key(place: Place) -> None:
    done = place.run(
        "serve", "--bind", "127.0.0.1:0", PENSTOCK_SECRET_KEY="", PENSTOCK_STRICT="true"
    )

    assert done.returncode == 3
    assert (
        "is not set; make one with `penstock secret-key`" in done.stderr
    ) == place.url.startswith("postgresql")


def test_on_sqlite_a_secret_key_is_created_beside_the_database_for_its_owner_only(
    shop: Place,
) -> None:
    assert shop.run("env", "create", "stage", PENSTOCK_SECRET_KEY="").returncode == 0

    (path,) = shop.folder.glob("*.db.key")
    assert path.stat().st_mode & 0o777 == 0o600


def test_an_empty_database_is_explained(shop: Place) -> None:
    empty = f"sqlite:///{shop.folder}/empty.db"

    for words in (["serve"], ["check"], ["env", "list"], ["db", "current"]):
        done = shop.run(*words, PENSTOCK_DATABASE_URL=empty)
        assert done.returncode == 3
        assert "penstock db upgrade" in done.stderr
    assert shop.run("db", "upgrade", PENSTOCK_DATABASE_URL=empty).returncode == 0
    assert shop.run("db", "current", PENSTOCK_DATABASE_URL=empty).returncode == 0
