"""Plugin code that tries to end the process: no command succeeds by it, each names the plugin,
and a server continues with closed gates."""

from __future__ import annotations

import time
from collections.abc import Callable

import pytest
from support.place import ACTOR, Place, Server

from penstock.access import api_keys

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
ENDS = (
    "sys.exit(0)",
    "raise SystemExit",
    "raise KeyboardInterrupt",
    "raise GeneratorExit",
    "raise MemoryError",
    "raise StopIteration",
)
PLACES = {
    "its import": "import sys\n{end}\n",
    "a hook": (
        "import sys\nfrom penstock import hookimpl\n@hookimpl\ndef penstock_{hook}():\n    {end}\n"
    ),
    "a policy": (
        "import sys\nfrom penstock import AccessPolicy, hookimpl\nclass Other(AccessPolicy):\n   "
        " name = 'other'\n    def judge(self, candidate, environment):\n       "
        " {end}\n@hookimpl\ndef penstock_policies():\n    return [Other()]\n"
    ),
    "a declaration": (
        "import sys\nfrom penstock import HttpTrigger, Pipeline, hookimpl\nclass Odd(Pipeline):\n  "
        "  def problems(self):\n        {end}\nodd = Odd('odd', version='1.0.0',"
        " trigger=HttpTrigger(api_key=True, jwt=True))\nodd.get('/')(lambda:"
        " 'here')\n@hookimpl\ndef penstock_pipelines():\n    return [odd]\n"
    ),
    "a text": (
        "import sys\nfrom penstock import hookimpl\nclass Odd(Exception):\n    def __str__(self):\n"
        "        {end}\n@hookimpl\ndef penstock_pipelines():\n    raise Odd\n"
    ),
}


def plugin(where: str, end: str) -> str:
    return PLACES[where].format(end=end, hook="pipelines")


@pytest.mark.parametrize("end", ENDS)
@pytest.mark.parametrize("where", PLACES)
def test_a_check_never_succeeds_for_a_plugin_that_ended_it_and_names_it(
    sqlite_place: Place, where: str, end: str
) -> None:
    sqlite_place.plugin("good", GOOD)
    sqlite_place.plugin("ending", plugin(where, end))

    done = sqlite_place.run("check")

    assert done.returncode in {1, 3}
    assert "plugin ending" in done.stdout + done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("end", ["import os; os._exit(0)", "raise KeyboardInterrupt"])
def test_a_plugin_that_ends_the_check_at_its_import_is_named_with_its_file(
    sqlite_place: Place, end: str
) -> None:
    sqlite_place.plugin("good", GOOD)
    path = sqlite_place.plugin("ending", f"{end}\n")

    done = sqlite_place.run("check")

    assert done.returncode in {1, 3}
    assert "plugin ending" in done.stdout + done.stderr
    assert f"plugins/{path.name}" in done.stdout + done.stderr


@pytest.mark.parametrize(
    "hook",
    [
        "pipelines",
        "policies",
        "authenticators",
        "token_issuers",
        "documents",
        "response_policy",
        "commands",
    ],
)
def test_every_hook_that_ends_is_named(sqlite_place: Place, hook: str) -> None:
    sqlite_place.plugin("good", GOOD)
    sqlite_place.plugin("ending", PLACES["a hook"].format(end="sys.exit(0)", hook=hook))

    done = sqlite_place.run("check") if hook != "commands" else sqlite_place.run("nothing")

    assert done.returncode != 0
    assert hook == "commands" or "plugin ending" in done.stdout
    assert "Traceback" not in done.stderr


COMMANDS = (
    ("pipelines",),
    ("policy", "set", "test", "any", "--yes"),
    ("consumer", "associate", "acme", "good", "--env", "test"),
    ("openapi",),
)


@pytest.mark.parametrize("where", ["its import", "a policy"])
@pytest.mark.parametrize("words", COMMANDS, ids=" ".join)
def test_other_commands_do_what_they_say_or_fail(
    sqlite_place: Place, where: str, words: tuple[str, ...]
) -> None:
    sqlite_place.plugin("good", GOOD)
    sqlite_place.plugin("ending", plugin(where, "sys.exit(0)"))
    sqlite_place.consumer("acme")

    done = sqlite_place.run(*words)

    output = done.stdout + done.stderr
    assert "Traceback" not in output
    assert (
        done.returncode != 0
        or "good" in output
        or "applied" in output.splitlines()[-1]
        or '"openapi"' in output
    )


@pytest.mark.parametrize("end", ["sys.exit(0)", "raise KeyboardInterrupt"])
def test_a_strict_server_does_not_start_and_exits_with_3(sqlite_place: Place, end: str) -> None:
    sqlite_place.plugin("good", GOOD)
    sqlite_place.plugin("ending", plugin("its import", end))

    with Server(sqlite_place, wait=False, PENSTOCK_STRICT="true") as server:
        assert server.process.wait(30) == 3
    assert "ending" in server.log.read_text()


def test_a_command_of_a_plugin_gives_its_exit_code_by_sys_exit_as_well(sqlite_place: Place) -> None:
    for number, end in enumerate(("sys.exit(4)", "sys.exit()", "sys.exit('no')")):
        sqlite_place.plugin(
            f"tool{number}",
            "import sys\nfrom penstock import Command, hookimpl\n@hookimpl\ndef"
            f" penstock_commands():\n    def run(arguments):\n        {end}\n    return"
            f" [Command('tool{number}', 'Ends.', run)]\n",
        )

    assert [sqlite_place.run(f"tool{number}").returncode for number in range(3)] == [4, 0, 1]


MOODY = """
import pathlib, sys, time
from penstock import AccessPolicy, Call, HttpTrigger, Pipeline, Verdict, hookimpl

MOOD = pathlib.Path(__file__).with_suffix(".mood")
orders = Pipeline("orders", version="1.0.0", trigger=HttpTrigger(api_key=True))

@orders.get("/")
def show(call: Call) -> str:
    return "here"

class Moody(AccessPolicy):
    name = "moody"
    def judge(self, candidate, environment):
        mood = MOOD.read_text() if environment.policy == "jwt-api-key" else "good"
        if mood == "exit":
            sys.exit(0)
        if mood == "hang":
            time.sleep(600)
        return "yes" if mood == "garbage" else Verdict()

@hookimpl
def penstock_policies():
    return [Moody()]

@hookimpl
def penstock_pipelines():
    return [orders]
"""


@pytest.mark.parametrize("mood", ["exit", "garbage", "hang"])
def test_a_running_server_is_closed_within_seconds_and_keeps_following(
    sqlite_place: Place, serve: Callable[..., Server], mood: str
) -> None:
    place = sqlite_place
    path = place.plugin("moody", MOODY).with_suffix(".mood")
    path.write_text(mood)
    place.policy("api-key")
    place.consumer("acme", "orders")
    created, other = place.key("acme"), place.key("acme")
    server = serve(place)
    assert server.call("GET", "/v1/orders/", key=created.key).status_code == 200

    place.policy("jwt-api-key")
    time.sleep(1.5)

    assert server.call("GET", "/v1/orders/", key=created.key).status_code == 503
    assert "plugin moody" in server.log.read_text()
    assert server.log.read_text().count('"plugin error"') == 1
    if mood == "hang":  # nothing ends a thread; what it holds up is its own pipeline alone
        return
    place.policy("api-key")
    api_keys.revoke_key(place.engine, ACTOR, other.id)
    time.sleep(1.5)
    assert server.call("GET", "/v1/orders/", key=created.key).status_code == 200
    assert server.call("GET", "/v1/orders/", key=other.key).status_code == 401
    assert server.call("GET", "/-/ready").status_code == 200
