"""Plugins are found and loaded; faults are reported with plugin, pipeline and fix."""

from __future__ import annotations

import json

import pytest
from support.place import Place

from penstock.host.host import Host
from penstock.settings import Settings

GOOD = """
from penstock import Call, HttpTrigger, Pipeline, hookimpl
good = Pipeline("good", version="1.0.0", trigger=HttpTrigger(api_key=True, jwt=True))

@good.get("/")
def show(call: Call) -> dict:
    return {}

@hookimpl
def penstock_pipelines():
    return [good]
"""
HEAD = (
    "from penstock import Call, HttpTrigger, Pipeline, hookimpl\nSAFE = HttpTrigger(api_key=True,"
    " jwt=True)\n"
)
TAIL = "\n@hookimpl\ndef penstock_pipelines():\n    return [p]\n"
PIPELINE = 'p = Pipeline("bad", version="1.0.0", trigger=SAFE)\n'
MISTAKES = {
    "two handlers for one route": (
        PIPELINE
        + '@p.get("/{a}")\ndef one(call: Call, a: str) -> dict: ...\n@p.get("/{b}")\ndef two(call:'
        " Call, b: str) -> dict: ...\n",
        "can't be reached: GET /{a} takes the same calls",
        "different paths or methods",
    ),
    "bad version": (
        (
            'p = Pipeline("bad", version="1.0", trigger=SAFE)\n@p.get("/")\ndef f(call: Call) ->'
            " dict: ...\n"
        ),
        "is not a version",
        "1.4.0",
    ),
    "bad name": (
        (
            'p = Pipeline("Bad_", version="1.0.0", trigger=SAFE)\n@p.get("/")\ndef f(call: Call) ->'
            " dict: ...\n"
        ),
        "not fit for a URL",
        "lower-case",
    ),
    "a route that can't be reached": (
        PIPELINE + '@p.get("orders")\ndef f(call: Call) -> dict: ...\n',
        "can't be reached",
        '"/orders"',
    ),
    "an odd segment": (
        PIPELINE + '@p.get("/a b?c")\ndef f(call: Call) -> dict: ...\n',
        "can't be reached",
        "letters, digits",
    ),
    "an unannotated body": (
        PIPELINE + '@p.post("/")\ndef f(call: Call, order) -> dict: ...\n',
        "has no annotation",
        "write order:",
    ),
    "a body on GET": (
        PIPELINE + '@p.get("/")\ndef f(call: Call, order: dict) -> dict: ...\n',
        "which GET has not",
        "{order}",
    ),
    "an unknown annotation": (
        PIPELINE + '@p.post("/")\ndef f(call: Call, order: "Nowhere") -> dict: ...\n',
        "can't be understood",
        "import the names",
    ),
    "a parameter that no handler has": (
        PIPELINE + '@p.get("/{id}")\ndef f(call: Call) -> dict: ...\n',
        "does not take 'id'",
        "id: str",
    ),
    "an async handler": (
        PIPELINE + '@p.get("/")\nasync def f(call: Call) -> dict: ...\n',
        "is async",
        "def",
    ),
    "no handler": (PIPELINE, "has no handler", "@pipeline.post"),
    "scopes without a token": (
        (
            'p = Pipeline("bad", version="1.0.0", trigger=HttpTrigger(api_key=True,'
            ' scopes={"x"}))\n@p.get("/")\ndef f(call: Call) -> dict: ...\n'
        ),
        "scopes are asked for but no token",
        "jwt=True",
    ),
    "a time limit out of bounds": (
        (
            'p = Pipeline("bad", version="1.0.0",'
            ' trigger=HttpTrigger(timeout=900))\n@p.get("/")\ndef f(call: Call) -> dict: ...\n'
        ),
        "out of bounds",
        "300",
    ),
    "a duplicate name": (
        PIPELINE
        + '@p.get("/")\ndef f(call: Call) -> dict: ...\nq = Pipeline("bad", version="1.2.0",'
        ' trigger=SAFE)\nq.get("/")(f)\n@hookimpl\ndef penstock_pipelines():\n    return [p,'
        " q]\n",
        "declared 2 times",
        "different major versions",
    ),
}


def checked(place: Place, **more: str) -> tuple[int, dict[str, object]]:
    done = place.run("check", "--format", "json", **more)
    assert "Traceback" not in done.stderr
    return done.returncode, json.loads(done.stdout)


@pytest.mark.parametrize("case", MISTAKES)
def test_a_fault_is_reported_with_its_plugin_pipeline_and_fix_and_harms_no_other(
    sqlite_place: Place, case: str
) -> None:
    body, problem, fix = MISTAKES[case]
    sqlite_place.plugin("good", GOOD)
    sqlite_place.plugin("bad", HEAD + body + ("" if "return [p, q]" in body else TAIL))

    code, report = checked(sqlite_place)

    assert code == 1
    matches = [
        item for item in report["problems"] if problem in item["problem"] and fix in item["fix"]
    ]  # type: ignore[attr-defined, index]  # JSON
    assert matches, report["problems"]
    assert matches[0]["plugin"] == "bad"
    assert matches[0]["pipeline"].lower().startswith("bad")
    states = {item["name"]: item["state"] for item in report["pipelines"]}  # type: ignore[attr-defined]  # JSON
    assert states.pop("good") == "served"
    assert set(states.values()) <= {"blocked"}


@pytest.mark.parametrize(
    ("source", "problem", "fix"),
    [
        ("import nowhere_at_all\n", "can't be imported: ModuleNotFoundError", "correct the import"),
        (
            "def broken(:\n",
            "can't be imported: SyntaxError: invalid syntax (plugins/bad.py, line 1)",
            "correct the syntax",
        ),
        ("raise SystemExit(4)\n", "can't be imported: SystemExit", "correct what the module does"),
        (
            "from penstock import hookimpl\n@hookimpl\ndef penstock_pipeline():\n    return []\n",
            "unknown hook penstock_pipeline",
            "penstock_pipelines",
        ),
        ("def penstock_pipelines():\n    return []\n", "not marked as a hook", "@hookimpl"),
        (
            (
                "from penstock import hookimpl\n@hookimpl\ndef penstock_pipelines(flask):\n   "
                " return []\n"
            ),
            "flask",
            "arguments",
        ),
        (
            "from penstock import hookimpl\n@hookimpl\ndef penstock_pipelines():\n    return [1]\n",
            "offers a int",
            "Pipeline",
        ),
        (
            (
                "from penstock import hookimpl\n@hookimpl\ndef penstock_pipelines():\n    raise"
                " OSError('disk')\n"
            ),
            "OSError: disk (plugins/bad.py, line 4)",
            "correct it",
        ),
    ],
)
def test_a_plugin_that_does_not_load_is_named(
    sqlite_place: Place, source: str, problem: str, fix: str
) -> None:
    sqlite_place.plugin("good", GOOD)
    sqlite_place.plugin("bad", source)

    code, report = checked(sqlite_place)

    (matches,) = report["problems"]  # type: ignore[misc]  # JSON
    assert code == 1
    assert (matches["plugin"], matches["file"]) == ("bad", "plugins/bad.py")
    assert problem in matches["problem"]
    assert fix in matches["fix"]
    assert [item["name"] for item in report["pipelines"]] == ["good"]  # type: ignore[attr-defined]  # JSON


@pytest.mark.parametrize(
    ("left_out", "reason"),
    [
        ("penstock_access_policy", "no loaded plugin enforces the policy"),
        ("penstock_api_key", "no authenticator for 'api_key'"),
        ("penstock_jwt", "no authenticator for 'jwt'"),
    ],
)
def test_without_any_of_the_three_product_plugins_external_pipelines_are_refused(
    sqlite_place: Place, left_out: str, reason: str
) -> None:
    sqlite_place.plugin("good", GOOD)

    code, report = checked(sqlite_place, PENSTOCK_PLUGINS_DENY=left_out)

    assert code == 1
    (pipeline,) = report["pipelines"]  # type: ignore[misc]  # JSON
    assert pipeline["state"] == "blocked"
    assert reason in pipeline["why"][0]


@pytest.mark.parametrize(
    "verdict",
    ["raise RuntimeError('lost')", "return Verdict(violations=(Violation('not today', 'wait'),))"],
)
def test_every_policy_must_agree_and_one_that_raises_refuses(
    sqlite_place: Place, verdict: str
) -> None:
    sqlite_place.plugin("good", GOOD)
    sqlite_place.plugin(
        "other",
        "from penstock import AccessPolicy, Verdict, Violation, hookimpl\nclass"
        " Other(AccessPolicy):\n    name = 'other'\n    def judge(self, candidate, environment):\n"
        f"        {verdict}\n@hookimpl\ndef penstock_policies():\n    return [Other()]\n",
    )

    code, report = checked(sqlite_place)

    assert code == 1
    assert report["pipelines"][0]["state"] == "blocked"  # type: ignore[index]  # JSON


def test_a_second_authenticator_of_one_name_refuses_rather_than_overrides(
    sqlite_place: Place,
) -> None:
    sqlite_place.plugin("good", GOOD)
    sqlite_place.plugin(
        "rogue",
        "from penstock import Authenticator, Caller, hookimpl\n"
        "class Rogue(Authenticator):\n    name, noun, refusal, challenge = 'api_key', 'key', 'x',"
        " 'X'\n"
        "    def find(self, head, access): return 'x'\n    def verify(self, credential, access, caller, now): return Caller(consumer='root', consumer_id=1)\n"  # noqa: E501  a plugin in one line
        "@hookimpl\ndef penstock_authenticators():\n    return [Rogue()]\n",
    )

    code, report = checked(sqlite_place)

    assert code == 1
    assert "two plugins offer" in report["pipelines"][0]["why"][0]  # type: ignore[index]  # JSON


def test_two_major_versions_live_side_by_side(sqlite_place: Place) -> None:
    newer = (
        '\nnewer = Pipeline("good", version="2.1.0", trigger=HttpTrigger(api_key=True,'
        ' jwt=True))\nnewer.get("/")(show)\n@hookimpl'
    )
    sqlite_place.plugin(
        "good", GOOD.replace("return [good]", "return [good, newer]").replace("\n@hookimpl", newer)
    )

    code, report = checked(sqlite_place)

    assert code == 0
    assert [item["url"] for item in report["pipelines"]] == ["/v1/good/", "/v2/good/"]  # type: ignore[attr-defined]  # JSON


def test_allow_and_deny_lists_decide_what_is_loaded_and_a_typo_is_an_error(
    sqlite_place: Place,
) -> None:
    sqlite_place.plugin("good", GOOD)
    product = "penstock_access_policy,penstock_api_key,penstock_jwt"

    assert len(checked(sqlite_place, PENSTOCK_PLUGINS_ALLOW=product)[1]["pipelines"]) == 0  # type: ignore[arg-type]  # JSON
    assert len(checked(sqlite_place, PENSTOCK_PLUGINS_ALLOW=product + ",good")[1]["pipelines"]) == 1  # type: ignore[arg-type]  # JSON
    assert len(checked(sqlite_place, PENSTOCK_PLUGINS_DENY="good")[1]["pipelines"]) == 0  # type: ignore[arg-type]  # JSON
    done = sqlite_place.run("check", PENSTOCK_PLUGINS_ALLOW="goood")
    assert (done.returncode, done.stderr.strip().endswith("did you mean good?")) == (3, True)


def test_a_plugin_adds_a_command_that_gets_its_arguments_and_gives_the_exit_code(
    sqlite_place: Place,
) -> None:
    sqlite_place.plugin(
        "tool",
        "from penstock import Command, hookimpl\ndef run(arguments):\n    print('got',"
        " *arguments)\n    return 5\n@hookimpl\ndef penstock_commands():\n    return"
        " [Command('greet', 'Greets.', run)]\n",
    )

    for words in (
        ("ann", "--loud"),
        ("--help",),
        ("-h",),
        ("ann", "--help"),
        ("--", "--actor", "x"),
    ):
        done = sqlite_place.run("greet", *words)
        assert (done.returncode, done.stdout.strip()) == (
            5,
            " ".join(["got", *words[words[0] == "--" :]]),
        )
    assert "greet" in sqlite_place.run("--help").stdout


def test_a_command_whose_name_is_taken_is_a_fault_of_its_plugin(sqlite_place: Place) -> None:
    for plugin, name in (("one", "greet"), ("two", "greet"), ("three", "check")):
        sqlite_place.plugin(
            plugin,
            "from penstock import Command, hookimpl\n@hookimpl\ndef penstock_commands():\n   "
            f" return [Command({name!r}, '', lambda given: 5)]\n",
        )

    code, report = checked(sqlite_place)

    assert code == 1
    assert [(item["plugin"], item["problem"]) for item in report["problems"]] == [  # type: ignore[attr-defined, index]  # JSON
        ("one", "the command 'greet' is there twice"),
        ("two", "the command 'greet' is there twice"),
        ("three", "the command 'check' is one of Penstock's"),
    ]
    assert sqlite_place.run("greet").returncode == 2


BROKEN = HEAD + PIPELINE + '@p.get("orders")\ndef f(call: Call) -> dict: ...\n' + TAIL
NEEDY = GOOD.replace('"good"', '"bad"').replace(
    "jwt=True)", 'jwt=True, internal=True), needs={"erp_url"}'
)


@pytest.mark.parametrize(
    ("source", "reason"), [(BROKEN, "can't be reached"), (NEEDY, "it needs the variable 'erp_url'")]
)
def test_a_fault_is_listed_once_and_a_disabled_pipeline_fails_no_check(
    sqlite_place: Place, source: str, reason: str
) -> None:
    sqlite_place.plugin("good", GOOD)
    sqlite_place.plugin("bad", source)

    before = sqlite_place.run("check")
    disabled = sqlite_place.run("pipeline", "disable", "bad", "--env", "test")
    after, listed = sqlite_place.run("check"), checked(sqlite_place)

    assert (before.returncode, before.stdout.count(f"{reason}"), disabled.returncode) == (1, 1, 0)
    assert (after.returncode, "plugin error" in after.stdout, listed[0], listed[1]["good"]) == (
        0,
        False,
        0,
        True,
    )
    assert {row["name"]: row["state"] for row in listed[1]["pipelines"]} == {
        "good": "served",
        "bad": "disabled",
    }  # type: ignore[attr-defined]  # JSON
    Host(Settings.from_env(sqlite_place.environ(PENSTOCK_STRICT="true"))).rehearse()


def test_the_listing_says_what_is_deprecated(sqlite_place: Place) -> None:
    sqlite_place.plugin(
        "old",
        """
from datetime import date
from penstock import HttpTrigger, Pipeline, hookimpl

old = Pipeline("old", version="1.0.0", trigger=HttpTrigger(), deprecated=date(2026, 1, 31), sunset=date(2027, 1, 31))
old.get("/")(lambda: "still here")

@hookimpl
def penstock_pipelines(): return [old]
""",  # noqa: E501  text as it is
    )

    (row,) = json.loads(sqlite_place.run("pipelines", "--format", "json").stdout)
    table = sqlite_place.run("pipelines").stdout

    assert (row["deprecated"], row["sunset"]) == ("2026-01-31", "2027-01-31")
    assert "2027-01-31" in table
