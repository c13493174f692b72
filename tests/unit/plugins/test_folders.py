"""Plugin folders: helpers are importable whatever their order and names, and a name that means
two things is never taken silently."""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from support.place import Place, Server

from penstock.plugins.folders import PluginFolders
from penstock.plugins.loading import load_plugins
from penstock.plugins.offers import Plugins
from penstock.settings import Settings

PIPELINE = """
from penstock import Call, HttpTrigger, Pipeline, hookimpl
{imports}
pipeline = Pipeline({name!r}, version="1.0.0", trigger=HttpTrigger(api_key=True))

@pipeline.get("/")
def show(call: Call) -> dict:
    {code}

@hookimpl
def penstock_pipelines():
    return [pipeline]
"""
PRODUCT = frozenset(
    {
        "penstock_access_policy",
        "penstock_api_key",
        "penstock_basic",
        "penstock_jwt",
        "penstock_mtls",
    }
)
PRODUCT |= {"penstock_response_headers", "penstock_webhook_signature"}


@pytest.fixture(autouse=True)
def forgotten() -> Iterator[None]:
    before = set(sys.modules)
    yield
    PluginFolders(()).install()
    assert not [
        name for name in set(sys.modules) - before if name in {"shared", "orders", "common"}
    ]


def plugin(folder: Path, name: str, imports: str = "", code: str = "return {}") -> None:
    put(folder, f"{name}.py", PIPELINE.format(name=name, imports=imports, code=code))


def put(folder: Path, name: str, source: str) -> None:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(source, encoding="utf-8")


def loaded(
    *folders: Path, allow: frozenset[str] = frozenset(), deny: frozenset[str] = PRODUCT
) -> Plugins:
    return load_plugins(Settings(plugin_path=folders, plugins_allow=allow, plugins_deny=deny))


def answers(plugins: Plugins) -> dict[str, object]:
    return {offer.pipeline.name: offer.pipeline.routes[0].handler(None) for offer in plugins.offers}


@pytest.mark.parametrize(
    ("file", "imports"),
    [
        ("shared.py", "from shared import ANSWER"),
        ("aaa.py", "from aaa import ANSWER"),
        ("_common.py", "import _common; ANSWER = _common.ANSWER"),
        ("test_data.py", "from test_data import ANSWER"),
        ("conftest.py", "from conftest import ANSWER"),
        ("tools/__init__.py", "from tools import ANSWER"),
        ("tools/deep/inner.py", "from tools.deep.inner import ANSWER"),
        ("lib/answers.py", "from lib.answers import ANSWER"),
        ("shared.py", "import importlib; ANSWER = importlib.import_module('shared').ANSWER"),
    ],
)
def test_a_helper_is_importable_whatever_its_name_and_is_no_broken_plugin(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, file: str, imports: str
) -> None:
    monkeypatch.delitem(sys.modules, "conftest", raising=False)  # pytest's own
    plugin(tmp_path, "orders", imports, 'return {"answer": ANSWER}')
    put(tmp_path, file, "ANSWER = 42\n")
    if file.startswith("tools/deep"):
        put(tmp_path, "tools/__init__.py", "from .deep import inner\n")
        put(tmp_path, "tools/deep/__init__.py", "")

    plugins = loaded(tmp_path)

    assert (answers(plugins), plugins.problems, plugins.notes) == (
        {"orders": {"answer": 42}},
        [],
        [],
    )


def test_a_helper_that_a_handler_imports_when_it_runs_is_one_too(tmp_path: Path) -> None:
    plugin(tmp_path, "orders", code='from shared import ANSWER; return {"answer": ANSWER}')
    put(tmp_path, "shared.py", "from more import ANSWER\n")
    put(tmp_path, "more.py", "ANSWER = 42\n")

    plugins = loaded(tmp_path)

    assert (answers(plugins), plugins.problems, plugins.notes) == (
        {"orders": {"answer": 42}},
        [],
        [],
    )


def test_a_plugin_may_import_another_and_helpers_of_other_folders(tmp_path: Path) -> None:
    plugin(
        tmp_path / "a",
        "orders",
        "from billing import RATE; from shared import ANSWER",
        "return [RATE, ANSWER]",
    )
    plugin(tmp_path / "b", "billing", "RATE = 7")
    put(tmp_path / "b", "shared.py", "ANSWER = 42\n")

    plugins = loaded(tmp_path / "a", tmp_path / "b", tmp_path / "a")

    assert (answers(plugins), plugins.problems, plugins.notes) == (
        {"orders": [7, 42], "billing": {}},
        [],
        [],
    )


def test_a_module_without_a_hook_that_nobody_imports_is_a_note_and_no_fault(tmp_path: Path) -> None:
    plugin(tmp_path, "orders")
    put(tmp_path, "left_over.py", "import left_over\n")

    plugins = loaded(tmp_path)

    assert (plugins.problems, plugins.loaded) == ([], ["orders"])
    (note,) = plugins.notes
    assert str(note).startswith(
        f"plugin left_over ({tmp_path}/left_over.py): it implements no hook, and no plugin imports"
        " it; "
    )


def test_a_module_that_an_operator_names_as_a_plugin_must_have_a_hook(tmp_path: Path) -> None:
    put(tmp_path, "orders.py", "x = 1\n")

    (problem,) = loaded(tmp_path, allow=frozenset({"orders"})).problems

    assert (problem.plugin, problem.problem) == ("orders", "it implements no hook")


def test_an_allow_list_names_plugins_and_not_their_helpers(tmp_path: Path) -> None:
    plugin(tmp_path, "orders", "from shared import ANSWER", "return ANSWER")
    plugin(tmp_path, "other")
    put(tmp_path, "shared.py", "ANSWER = 42\n")

    plugins = loaded(tmp_path, allow=frozenset({"orders"}))

    assert (answers(plugins), plugins.problems, plugins.notes) == ({"orders": 42}, [], [])


@pytest.mark.parametrize("helper", ["shared.py", "shared/__init__.py", "_shared.py", "shared/x.py"])
def test_of_two_helpers_of_one_name_none_is_taken_silently(tmp_path: Path, helper: str) -> None:
    name = helper.partition("/")[0].removesuffix(".py")
    what = f"from {name} import x" if helper.endswith("x.py") else f"from {name} import ANSWER"
    plugin(tmp_path / "a", "orders", what)
    plugin(tmp_path / "b", "billing", what)
    plugin(tmp_path / "b", "sound")
    for folder in ("a", "b"):
        put(tmp_path / folder, helper, f"ANSWER = {folder!r}\n")

    plugins = loaded(tmp_path / "a", tmp_path / "b")

    assert plugins.loaded == ["sound"]
    problems = [
        str(problem) for problem in plugins.problems if problem.plugin in {"orders", "billing"}
    ]
    assert len(problems) == 2
    for problem in problems:
        assert f"there are two modules named {name!r}, {tmp_path}/a/" in problem
        assert f"{tmp_path}/b/" in problem


@pytest.mark.parametrize(
    ("name", "what"),
    [
        ("json", "Python's standard library"),
        ("email", "Python's standard library"),
        ("_json", "Python's"),
        ("httpx", "an installed package"),
    ],
)
def test_a_module_named_as_one_of_python_or_a_package_is_reported_and_replaces_nothing(
    tmp_path: Path, name: str, what: str
) -> None:
    plugin(tmp_path, "orders", f"import {name}", f'return hasattr({name}, "ANSWER")')
    plugin(tmp_path, "billing", f"from {name} import ANSWER")
    put(tmp_path, f"{name}.py", "ANSWER = 42\n")

    plugins = loaded(tmp_path)

    assert answers(plugins) == {"orders": False}
    first, second = sorted(plugins.problems, key=lambda problem: problem.plugin != name)
    assert f"{tmp_path}/{name}.py has the name of the module {name} of {what}" in first.problem
    assert (second.plugin, f"cannot import name 'ANSWER' from '{name}'" in second.problem) == (
        "billing",
        True,
    )


def test_a_plugin_named_as_a_package_that_it_imports_is_told_so(tmp_path: Path) -> None:
    plugin(tmp_path, "httpx", "import httpx; httpx.Client")

    (problem,) = loaded(tmp_path).problems

    assert "has the name of the module httpx of an installed package" in str(problem)


def test_two_plugins_of_one_name_are_both_left_out(tmp_path: Path) -> None:
    plugin(tmp_path / "a", "orders")
    plugin(tmp_path / "b", "orders")

    plugins = loaded(tmp_path / "a", tmp_path / "b")

    assert (plugins.loaded, len(plugins.problems)) == ([], 1)
    assert f"two modules of its name, {tmp_path}/a/orders.py and {tmp_path}/b/orders.py" in str(
        plugins.problems[0]
    )


def test_an_installed_plugin_wins_over_a_file_of_its_name_and_that_is_said(tmp_path: Path) -> None:
    plugin(tmp_path, "penstock_api_key")

    plugins = loaded(tmp_path, deny=frozenset())

    assert ("penstock_api_key" in plugins.loaded, plugins.offers, plugins.problems) == (
        True,
        [],
        [],
    )
    assert "penstock_api_key.py is not loaded: the installed plugin penstock_api_key is" in str(
        plugins.notes[0]
    )


@pytest.mark.parametrize("helper", ["shared", "_shared"])
def test_a_broken_helper_is_told_once_with_folder_and_place(tmp_path: Path, helper: str) -> None:
    plugin(tmp_path, "orders", f"import {helper}")
    plugin(tmp_path, "billing", f"import {helper}")
    put(tmp_path, f"{helper}.py", "def broken(:\n")

    plugins = loaded(tmp_path)

    said = "\n".join(map(str, plugins.problems))
    assert (
        said.count("SyntaxError")
        == said.count("line 1")
        == said.count(f"{helper}.py, line 1)")
        == 1
    )
    assert "orders" in said
    assert "for the same reason as billing; see billing" in said


@pytest.mark.parametrize(
    ("source", "line", "problem", "fix"),
    [
        (
            "x = 1\nimport nowhere_at_all\n",
            2,
            "ModuleNotFoundError: No module named 'nowhere_at_all'",
            "install nowhere_at_all, or correct the import",
        ),
        (
            "from os import nothing\n",
            1,
            "ImportError: cannot import name 'nothing'",
            "correct the import and reload",
        ),
        (
            "x = 1\ndef broken(:\n",
            2,
            "SyntaxError: invalid syntax (",
            "correct the syntax and reload",
        ),
        ("\n\nx = {}['a']\n", 3, "KeyError: 'a' (", "correct what the module does"),
        (
            "import json\njson.loads('{')\n",
            2,
            "JSONDecodeError: Expecting property name",
            "correct what the module does",
        ),
        ("raise SystemExit(4)\n", 1, "SystemExit: 4", "correct what the module does"),
        ("raise GeneratorExit\n", 1, "GeneratorExit", "correct what the module does"),
        (
            "class E(Exception):\n    def __str__(self): raise OSError\nraise E\n",
            3,
            "E: its text can't be read (",
            "correct what",
        ),
        (
            "from penstock import step\n@step\ndef f(): ...\n",
            2,
            "TypeError: write @step() above a step, with parentheses (",
            "correct what",
        ),
        (
            "from penstock import Retry\n\nr = Retry(attempts=0)\n",
            3,
            "ValueError: Retry(attempts=0)",
            "correct what",
        ),
    ],
)
def test_what_a_module_raises_is_told_at_its_own_line_with_the_right_fix(
    tmp_path: Path, source: str, line: int, problem: str, fix: str
) -> None:
    put(tmp_path, "bad.py", source)

    (found,) = loaded(tmp_path).problems

    assert problem in found.problem
    assert fix in found.fix
    assert str(found).count(f"{tmp_path}/bad.py") == 1
    assert found.problem.endswith(f"({tmp_path}/bad.py, line {line})")


@pytest.mark.parametrize(
    "hook",
    ["penstock_pipelines", "penstock_commands", "penstock_documents", "penstock_policies(setup)"],
)
@pytest.mark.parametrize("raised", ["SystemExit(0)", "OSError('disk')"])
def test_a_hook_that_raises_anything_is_a_fault_at_load_and_harms_no_other(
    tmp_path: Path, hook: str, raised: str
) -> None:
    name, _, rest = hook.partition("(")
    put(
        tmp_path,
        "bad.py",
        f"from penstock import hookimpl\n@hookimpl\ndef {name}({rest or ')'}:\n    raise"
        f" {raised}\n",
    )
    plugin(tmp_path, "orders")

    plugins = loaded(tmp_path)

    assert [offer.plugin for offer in plugins.offers] == ["orders"]
    (problem,) = plugins.problems
    assert problem.problem.startswith(f"{name} raised {raised.partition('(')[0]}: ")
    assert problem.problem.endswith(f"({tmp_path}/bad.py, line 4)")


SHARED = """
import logging
ANSWER = {}

def told():
    logging.getLogger(__name__).info("told", extra={{"order": 7}})
"""


def logged(place: Place) -> list[dict[str, str]]:
    """Return the lines of a server's log."""
    return [
        json.loads(line)
        for path in place.folder.glob("server-*.log")
        for line in path.read_text().splitlines()
        if line.startswith("{")
    ]


def test_helpers_are_loaded_anew_at_a_hangup_and_log_in_workers_and_faults_are_logged_once_a_start(
    sqlite_place: Place, serve: Callable[..., Server]
) -> None:
    place, folder = sqlite_place, sqlite_place.folder / "plugins"
    plugin(folder, "orders", "from shared import ANSWER, told", 'return {"answer": ANSWER}')
    with (folder / "orders.py").open("a", encoding="utf-8") as file:
        file.write('pipeline.post("/", mode="durable")(lambda call: told())\n')
    put(folder, "shared.py", SHARED.format(41))
    put(folder, "bad.py", "import nowhere_at_all\n")
    os.utime(folder / "shared.py", (1e9, 1e9))
    place.policy("api-key")
    place.consumer("acme", "orders")
    key = place.key("acme").key
    server = serve(place, workers=2, worker=1, PENSTOCK_LOG_LEVEL="info")

    def answer() -> object:
        return server.call("GET", "/v1/orders/", key=key).json()

    assert answer() == {"answer": 41}
    run = server.call("POST", "/v1/orders/", key=key, headers={"Prefer": "wait=15"}).json()
    assert run["status"] == "succeeded"
    put(folder, "shared.py", SHARED.format(42))
    os.utime(folder / "shared.py", (1e9, 1e9))
    server.process.send_signal(signal.SIGHUP)
    for _ in range(200):
        # Until then old workers answer beside new ones.
        if server.log.read_text().count("Worker exiting") == 2:
            break
        time.sleep(0.1)
    assert answer() == {"answer": 42}
    server.stop()
    lines = logged(place)
    faults = [
        (line["event"], line["plugin"], line["file"])
        for line in lines
        if line["event"].startswith(("plugin ", "pipeline "))
    ]
    # Once at the start, once at the reload.
    assert faults == [("plugin error", "bad", "plugins/bad.py")] * 2
    (line,) = [line for line in lines if line["event"] == "told"]
    assert (line["logger"], line["level"], line["order"], line["run"], line["pipeline"]) == (
        "shared",
        "info",
        7,
        run["id"],
        "v1/orders",
    )
