"""PENSTOCK_SECRET_KEY is rotated while hosts serve and runs are performed: nothing is lost, whichever host has which keys meanwhile."""

from __future__ import annotations

import json
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from durable_kit import NOTE, StartWorker, noted, over, until, workers
from kit import ACTOR, Place, Server

from penstock.access import needs
from penstock.access.secrets import Box, make_secret_key

PLUGIN = (
    NOTE
    + """
from penstock import Call, Durable, HttpTrigger, Pipeline, hookimpl, secret, step

hidden, soon, asked = {secret("hidden")}, Durable(timeout=5), HttpTrigger(api_key=True)
sound = Pipeline("sound", version="1.0.0", trigger=asked, needs=hidden, durable=soon, record_bodies="all")
long = Pipeline("long", version="1.0.0", trigger=HttpTrigger(api_key=True, idempotent="key"))

@step()
def half(text: str) -> str:
    note(f"{text} by {os.getpid()}")
    return text[::-1]

@step()
def rest(text: str) -> str:
    while text == "tiaw" and not (HERE / "go").exists():
        time.sleep(0.05)
    return text

@sound.post("/{word}", mode="durable")
def work(call: Call, word: str) -> str:
    return half(word)

@sound.get("/")
def look(call: Call) -> str:
    return call.secrets["hidden"].reveal()

@long.post("/{word}", mode="durable")
def both(call: Call, word: str) -> str:
    return rest(half(word))

@hookimpl
def penstock_pipelines(): return [sound, long]
"""
)
Serve = Callable[..., Server]


@pytest.fixture
def postgres_place(new_database: Callable[..., str], tmp_path: Path) -> Iterator[Place]:
    """A place on PostgreSQL, for several hosts."""
    place = Place.make(new_database("postgresql", upgraded=True), tmp_path)
    yield place
    place.engine.dispose()


@pytest.fixture
def start_worker() -> Iterator[StartWorker]:
    with workers() as start:
        yield start


def filled(place: Place) -> str:
    """Return a key that may call the plugin's pipelines."""
    place.policy("api-key")
    place.plugin("sound", PLUGIN)
    place.consumer("acme", "sound", "long")
    needs.set_secret(place.engine, ACTOR, "test", "hidden", "treasure", place.box)
    return place.key("acme").key


def keys(*words: str) -> dict[str, str]:
    return {"PENSTOCK_SECRET_KEY": ",".join(words)}


def accepted(server: Server, key: str, path: str = "/v1/sound/abc", **headers: str) -> str:
    answered = server.call("POST", path, key=key, headers=headers)
    assert answered.status_code == 202, answered.text
    return answered.headers["Location"]


def shown(place: Place, location: str, *words: str) -> dict[str, Any]:
    done = place.run("runs", "show", location.rpartition("/")[2], "--format", "json", **keys(*words))
    return dict(json.loads(done.stdout))


class TestRolling:
    def test_a_run_is_given_back_until_a_worker_with_its_key_takes_it(self, postgres_place: Place, serve: Serve) -> None:
        place, new, old = postgres_place, make_secret_key(), postgres_place.secret
        key = filled(place)
        first, second = serve(place, worker=1, **keys(new, old)), serve(place, worker=1)
        until(lambda: all("worker ready" in server.log.read_text() for server in (first, second)))

        begun = [accepted(first, key, f"/v1/sound/a{number}") for number in range(10)]
        ended = [until(over(first, location, key)) for location in begun]

        assert [document["result"] for document in ended] == [f"{number}a" for number in range(10)]
        assert sorted(line.partition(" ")[0] for line in noted(place)) == [f"a{number}" for number in range(10)]

    def test_a_run_waits_for_its_key_and_its_time_does_not_pass(self, sqlite_place: Place, serve: Serve, start_worker: StartWorker) -> None:
        place, new, old, key = sqlite_place, make_secret_key(), sqlite_place.secret, filled(sqlite_place)
        server = serve(place, **keys(new, old))
        start_worker(place)
        location = accepted(server, key)

        until(lambda: "2 times" in str(shown(place, location, new, old)["waits_for"]))
        told = server.call("GET", location, key=key).json()
        said = [
            json.loads(line) for log in place.folder.glob("worker-*.log") for line in log.read_text().splitlines() if "waits for a worker" in line
        ]
        time.sleep(3)  # longer than is left of the pipeline's time limit
        start_worker(place, **keys(new, old))
        ended = until(over(server, location, key))

        assert told["status"] == "accepted"
        assert [(line["level"], line["run"]) for line in said] == [("warning", told["id"])]
        assert Box((old,)).fingerprints[0] in said[0]["reason"]
        assert old not in said[0]["reason"]
        assert (ended["status"], ended["result"]) == ("succeeded", "cba")
        assert shown(place, location, new, old)["waits_for"] is None

    def test_a_worker_without_the_key_of_a_step_fails_no_run(self, postgres_place: Place, serve: Serve, start_worker: StartWorker) -> None:
        place, new, old = postgres_place, make_secret_key(), postgres_place.secret
        key = filled(place)
        server = serve(place)
        before = start_worker(place, **keys(new, old))
        location = accepted(server, key, "/v1/long/wait")
        until(lambda: shown(place, location, new, old)["steps"])
        before.send_signal(signal.SIGKILL)
        start_worker(place)

        until(lambda: shown(place, location, old)["waits_for"])
        (place.folder / "plugins" / "go").touch()
        start_worker(place, **keys(new, old))
        until(lambda: shown(place, location, new, old)["status"] == "succeeded")

        assert len(noted(place)) == 1
        refused = server.call("GET", location, key=key)  # which has no key for the result
        assert (refused.status_code, refused.headers["Retry-After"]) == (503, "10")
        assert "a run's result can't be read" in server.log.read_text()

    def test_a_host_without_the_key_says_so(self, sqlite_place: Place, serve: Serve) -> None:
        place, new, old, key = sqlite_place, make_secret_key(), sqlite_place.secret, filled(sqlite_place)
        first, second = serve(place, **keys(new, old)), serve(place)
        place.run("secret", "set", "hidden", "--env", "test", given="changed", **keys(new, old))
        accepted(first, key, "/v1/long/abc", **{"Idempotency-Key": "k1"})

        until(lambda: "PENSTOCK_SECRET_KEY of this host, which has" in second.log.read_text())
        until(lambda: first.call("GET", "/v1/sound/", key=key).text == "changed")
        repeated = second.call("POST", "/v1/long/abc", key=key, headers={"Idempotency-Key": "k1"})

        assert repeated.status_code == 503
        assert "a kept reply can't be read" in second.log.read_text()
        assert (second.call("GET", "/v1/sound/", key=key).status_code, second.client.get("/-/ready").status_code) == (503, 200)
        assert accepted(second, key, "/v1/long/abc", **{"Idempotency-Key": "k2"})
