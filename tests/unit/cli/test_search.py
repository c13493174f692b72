"""Search by command: what a text names, and a whole key only where no one else reads it."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest
from support.commands import run
from support.place import Place

from penstock.access.environments import list_environments
from penstock.access.signing_keys import revoke_tokens
from penstock.contracts.keys import make_api_key
from penstock.db import rejected_calls, runs
from penstock.db.engine import writing
from penstock.db.rejected_calls import RejectedCall
from penstock.execution.search import search
from penstock.runs.ids import first_id

RUN, CALL = first_id(1_760_000_000), first_id(1_760_000_500)
KINDS = ("run", "rejected call", "key", "consumer", "pipeline", "revoked token")


@pytest.fixture
def place(sqlite_place: Place) -> Place:
    """A place with a run and a key in prod, and a rejected call in test."""
    place = sqlite_place
    place.plugin("shop", "")
    place.consumer("acme")
    place.consumer("acme-labs")
    numbers = {row.name: row.id for row in list_environments(place.engine)}
    values: dict[str, object] = {
        "id": RUN,
        "environment_id": numbers["prod"],
        "pipeline": "v1/orders",
        "version": "1.0.0",
        "route": "/",
        "durable": False,
        "consumer_id": 1,
        "status": "succeeded",
        "request_id": "request-0001",
    }
    runs.record(place.engine, [tuple(values.get(name) for name in runs.COLUMNS)], [])
    call = RejectedCall(CALL, numbers["test"], "v1/stock", "not-associated", "10.0.0.1", None, 1)
    with writing(place.engine) as connection:
        rejected_calls.record(connection, [call])
    revoke_tokens(place.engine, "tester", "prod", jti="token-4711")
    return place


def found(place: Place, text: str, **more: object) -> list[tuple[str, str]]:
    hits = search(place.engine, text, pipelines=("v1/orders", "v2/orders"), **more)  # type: ignore[arg-type]
    return [(hit.kind, hit.id) for hit in hits]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (RUN, [("run", RUN)]),
        (RUN[:13], [("run", RUN)]),
        (RUN.replace("-", "")[:14], [("run", RUN)]),
        (RUN[:9], [("run", RUN)]),
        (CALL[:13], [("rejected call", CALL)]),
        ("request-0001", [("run", RUN)]),
        ("acme", [("consumer", "acme"), ("consumer", "acme-labs")]),
        ("ORDERS", [("pipeline", "v1/orders"), ("pipeline", "v2/orders")]),
        ("token-4711", [("revoked token", "token-4711")]),
        ("", []),
        ("%", []),
        ("a\nb", []),
        ("\udcff", []),
        ("acme" * 100, []),
        (RUN[:7], []),
        ("ffffffff-ffff-ffff", []),
    ],
)
def test_a_text_finds_what_it_names(
    place: Place, text: str, expected: list[tuple[str, str]]
) -> None:
    assert found(place, text) == expected


def test_a_key_is_found_by_its_end_its_id_and_its_whole_value(place: Place) -> None:
    key = place.key("acme", "prod")
    end = key.key[-4:]

    for text in (end, f"…{end}", f"pk_prod_…{end}", key.id, key.id[:8], key.key, f" {key.key}\n"):
        assert ("key", key.id) in found(place, text), text
    assert found(place, make_api_key("prod")) == []
    assert found(place, key.key[:-1]) == []


def test_other_environments_are_not_searched(place: Place) -> None:
    key = place.key("acme", "prod")

    for text in (RUN, RUN[:13], "request-0001", "token-4711", key.key, key.id):
        assert found(place, text, environments=["prod"])
        assert found(place, text, environments=["test"]) == []


def test_a_key_is_read_from_standard_input_and_rejected_as_an_argument(place: Place) -> None:
    key = place.key("acme", "prod")

    done = run(place, "search", "--format", "json", given=f"{key.key}\n")
    assert [hit["consumer"] for hit in json.loads(done.stdout)] == ["acme"]
    assert key.key not in done.stdout + done.stderr

    done = run(place, "search", key.key)
    assert (done.code, "paste the key at the prompt" in done.stderr) == (2, True)
    assert key.key not in done.stdout + done.stderr


def test_search_prints_tables_and_names_unknown_environments(place: Place) -> None:
    assert "consumer  acme" in run(place, "search", "acme").stdout
    assert run(place, "search", "no-such-thing").stdout == "nothing found\n"
    done = run(place, "search", "acme", "--env", "prd")
    assert (done.code != 0, "did you mean 'prod'" in done.stderr) == (True, True)


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_a_shell_gets_its_script(place: Place, shell: str) -> None:
    done = run(place, "completion", shell)

    assert (done.code, "_PENSTOCK_COMPLETE" in done.stdout) == (0, True)


def completed(place: Place, line: str) -> list[str]:
    """Return what bash offers at the end of a line."""
    words = line.split(" ")
    environ = place.environ(
        _PENSTOCK_COMPLETE="bash_complete", COMP_WORDS=line, COMP_CWORD=str(len(words) - 1)
    )
    done = subprocess.run(
        [sys.executable, "-m", "penstock"],
        env={**os.environ, **environ},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stderr == ""
    return [item.partition(",")[2] for item in done.stdout.splitlines() if item]


def test_commands_and_names_are_completed_beside_a_plugin_that_prints(place: Place) -> None:
    place.plugin("loud", 'print("loaded")\n')

    assert completed(place, "penstock sea") == ["search"]
    assert completed(place, "penstock keys --env p") == ["prod"]
    assert completed(place, "penstock keys --consumer ac") == ["acme", "acme-labs"]


def test_without_a_database_no_name_is_offered(place: Place) -> None:
    place.url = "sqlite:////nowhere/penstock.db"

    assert completed(place, "penstock keys --env p") == []
