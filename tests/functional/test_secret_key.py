"""PENSTOCK_SECRET_KEY is rotated while hosts serve and runs are performed: nothing is lost, and
the old key can be dropped afterwards."""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from support.durable import NOTE, StartWorker, noted, over, until, workers
from support.place import ACTOR, ZYGOTE, Place, Server

from penstock import audit
from penstock.access import rotation, variables
from penstock.access.encryption import SecretBox, UnknownKey, make_secret_key
from penstock.db.engine import reading, writing
from penstock.db.run_tables import IdempotentReplyRow

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
"""  # noqa: E501  text as it is
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
    variables.set_secret(place.engine, ACTOR, "test", "hidden", "treasure", place.box)
    return place.key("acme").key


def keys(*words: str) -> dict[str, str]:
    return {"PENSTOCK_SECRET_KEY": ",".join(words)}


def accepted(server: Server, key: str, path: str = "/v1/sound/abc", **headers: str) -> str:
    answered = server.call("POST", path, key=key, headers=headers)
    assert answered.status_code == 202, answered.text
    return answered.headers["Location"]


def shown(place: Place, location: str, *words: str) -> dict[str, Any]:
    done = place.run(
        "runs", "show", location.rpartition("/")[2], "--format", "json", **keys(*words)
    )
    return dict(json.loads(done.stdout))


def at_rest(place: Place) -> dict[str, list[bytes]]:
    """Return all that is encrypted in the whole database, by the column that it is in, by any
    made that."""
    found: dict[str, list[bytes]] = {}
    for schema in [None] if place.url.startswith("sqlite") else ["public", "dbos"]:
        known = sa.MetaData()
        known.reflect(place.engine, schema=schema)
        with reading(place.engine) as connection:
            for table in known.tables.values():
                for row in connection.execute(sa.select(table)).mappings():
                    for name, value in row.items():
                        stored = value.encode() if isinstance(value, str) else value
                        if isinstance(stored, bytes) and stored.startswith(b"gAAAA"):
                            found.setdefault(f"{table.name}.{name}", []).append(stored)
    return found


class TestRolling:
    @pytest.mark.timeout(300)  # by chance a run is given back several times
    def test_a_run_is_given_back_until_a_worker_with_its_key_takes_it(
        self, postgres_place: Place, serve: Serve
    ) -> None:
        place, new, old = postgres_place, make_secret_key(), postgres_place.secret
        key = filled(place)
        first, second = serve(place, worker=1, **keys(new, old)), serve(place, worker=1)
        until(lambda: all("worker ready" in server.log.read_text() for server in (first, second)))

        begun = [accepted(first, key, f"/v1/sound/a{number}") for number in range(6)]
        ended = [until(over(first, location, key)) for location in begun]

        assert [document["result"] for document in ended] == [f"{number}a" for number in range(6)]
        assert sorted(line.partition(" ")[0] for line in noted(place)) == [
            f"a{number}" for number in range(6)
        ]

    def test_a_run_waits_for_its_key_and_its_time_does_not_pass(
        self, sqlite_place: Place, serve: Serve, start_worker: StartWorker
    ) -> None:
        place, new, old, key = (
            sqlite_place,
            make_secret_key(),
            sqlite_place.secret,
            filled(sqlite_place),
        )
        server = serve(place, **keys(new, old))
        start_worker(place)
        location = accepted(server, key)

        until(lambda: "2 times" in str(shown(place, location, new, old)["waits_for"]))
        run = server.call("GET", location, key=key).json()
        warnings = [
            json.loads(line)
            for log in place.folder.glob("worker-*.log")
            for line in log.read_text().splitlines()
            if "waits for a worker" in line
        ]
        time.sleep(3)  # longer than is left of the pipeline's time limit
        start_worker(place, **keys(new, old))
        ended = until(over(server, location, key))

        assert run["status"] == "accepted"
        assert [(line["level"], line["run"]) for line in warnings] == [("warning", run["id"])]
        assert SecretBox((old,)).fingerprints[0] in warnings[0]["reason"]
        assert old not in warnings[0]["reason"]
        assert (ended["status"], ended["result"]) == ("succeeded", "cba")
        assert shown(place, location, new, old)["waits_for"] is None

    def test_a_worker_without_the_key_of_a_step_fails_no_run(
        self, postgres_place: Place, serve: Serve, start_worker: StartWorker
    ) -> None:
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
        place, new, old, key = (
            sqlite_place,
            make_secret_key(),
            sqlite_place.secret,
            filled(sqlite_place),
        )
        first, second = serve(place, **keys(new, old)), serve(place)
        place.run("secret", "set", "hidden", "--env", "test", given="changed", **keys(new, old))
        accepted(first, key, "/v1/long/abc", **{"Idempotency-Key": "k1"})

        until(lambda: "PENSTOCK_SECRET_KEY of this host, which has" in second.log.read_text())
        until(lambda: first.call("GET", "/v1/sound/", key=key).text == "changed")
        repeated = second.call("POST", "/v1/long/abc", key=key, headers={"Idempotency-Key": "k1"})

        assert repeated.status_code == 503
        assert "a kept reply can't be read" in second.log.read_text()
        assert (
            second.call("GET", "/v1/sound/", key=key).status_code,
            second.client.get("/-/ready").status_code,
        ) == (503, 200)
        assert accepted(second, key, "/v1/long/abc", **{"Idempotency-Key": "k2"})


class TestRotate:
    def test_nothing_at_rest_needs_the_old_key_afterwards(
        self, place: Place, serve: Serve, start_worker: StartWorker
    ) -> None:
        new, old, key = make_secret_key(), place.secret, filled(place)
        for words in (
            ("credential", "add", "basic", "acme", "--env", "test", "--name", "ann"),
            ("callback", "allow", "acme", "https://example.com/", "--env", "test"),
        ):
            done = place.run(*words, given="s3cret-s3cret-s3cret")
            assert done.returncode == 0, done.stderr
        server = serve(place)
        worker = start_worker(place)
        until(
            over(
                server,
                finished := accepted(server, key, "/v1/long/abc", **{"Idempotency-Key": "k1"}),
                key,
            )
        )
        worker.kill()
        worker.wait()
        pending = accepted(server, key, "/v1/sound/later")
        before = at_rest(place)
        wrong = place.run("secret-key", "rotate", "--check", **keys(new))
        looked = place.run("secret-key", "rotate", "--check", "--format", "json", **keys(new, old))
        untouched = at_rest(place) == before

        done = place.run("secret-key", "rotate", **keys(new, old))
        after = at_rest(place)
        again = place.run("secret-key", "rotate", "--check", **keys(new))

        ours = {
            "signing_keys",
            "credentials",
            "pipeline_secrets",
            "callback_targets",
            "kept_replies",
        }
        assert {name.partition(".")[0] for name in before} >= {*ours, "operation_outputs"}
        assert (wrong.returncode, looked.returncode, untouched) == (1, 1, True)
        assert "can't be decrypted with any of these keys" in wrong.stderr
        assert {row["stored"]: row["older"] for row in json.loads(looked.stdout)} == {
            name: len(values) for name, values in before.items()
        }
        assert (done.returncode, again.returncode) == (0, 0), done.stdout + done.stderr
        assert {name: len(values) for name, values in after.items()} == {
            name: len(values) for name, values in before.items()
        }
        assert all(
            SecretBox((new,)).decrypt(value) for values in after.values() for value in values
        )
        events = audit.events(place.engine, limit=10, action="secret-key:rotated")
        assert {event.subject for event in events} == {SecretBox((new,)).fingerprints[0]}
        assert events[0].detail["older"] == 0
        assert new not in repr(events) + done.stdout + done.stderr

        with pytest.raises(UnknownKey):
            SecretBox((old,)).decrypt(after["pipeline_secrets.sealed"][0])
        alone = serve(place, **keys(new))
        start_worker(place, **keys(new))
        assert alone.call("GET", "/v1/sound/", key=key).text == "treasure"
        assert accepted(alone, key, "/v1/long/abc", **{"Idempotency-Key": "k1"}) == finished
        assert until(over(alone, pending, key))["result"] == "retal"
        assert alone.call("GET", finished, key=key).json()["result"] == "cba"

    def test_hosts_that_serve_meanwhile_fail_no_call(
        self, postgres_place: Place, serve: Serve
    ) -> None:
        place, new, old, key = (
            postgres_place,
            make_secret_key(),
            postgres_place.secret,
            filled(postgres_place),
        )
        server = serve(place, worker=1, **keys(new, old))
        begun = [accepted(server, key, f"/v1/sound/a{number}") for number in range(10)]

        done = place.run("secret-key", "rotate", **keys(new, old))
        statuses = [server.call("GET", "/v1/sound/", key=key).status_code for _ in range(20)]

        assert done.returncode == 0, done.stdout + done.stderr
        assert statuses == [200] * 20
        assert [until(over(server, location, key))["status"] for location in begun] == [
            "succeeded"
        ] * 10
        assert place.run("secret-key", "rotate", "--check", **keys(new)).returncode == 0
        assert "can't be read" not in server.log.read_text()

    def test_a_killed_rotation_continues_when_it_runs_again(self, place: Place) -> None:
        new, old, many = make_secret_key(), place.secret, 4000
        later, kept = datetime.now(UTC) + timedelta(days=1), IdempotentReplyRow.table
        values = [
            {
                "digest": os.urandom(32),
                "body": b"",
                "claim": "",
                "reply": place.box.encrypt(os.urandom(200)),
                "expires_at": later,
            }
            for _ in range(many)
        ]
        with writing(place.engine) as connection:
            connection.execute(sa.insert(kept), values)

        before = {value["reply"] for value in values}

        def left() -> int:
            with reading(place.engine) as connection:
                return len(before.intersection(connection.scalars(sa.select(kept.c.reply))))

        process = ZYGOTE.start(
            ("secret-key", "rotate"),
            place.environ(**keys(new, old)),
            place.folder,
            place.folder / "rotate.log",
        )
        until(lambda: left() < many)
        process.kill()
        process.wait()
        half = left()
        again = place.run("secret-key", "rotate", **keys(new, old))

        assert 0 < half < many
        assert again.returncode == 0, again.stderr
        assert left() == 0

    def test_what_changes_meanwhile_stays_as_it_was_changed(self, place: Place) -> None:
        new = make_secret_key()
        filled(place)

        class Changing(SecretBox):
            """Lets another change the secret between the moment in which it is read and that in
            which it is written."""

            changes = 1

            def renewed(self, sealed: bytes) -> bytes | None:
                if self.decrypt(sealed) == b"treasure" and self.changes:
                    self.changes -= 1
                    variables.set_secret(
                        place.engine, ACTOR, "test", "hidden", "changed", place.box
                    )
                return super().renewed(sealed)

        counts = rotation.rotate(place.engine, ACTOR, Changing((new, place.secret)), lambda _: None)

        assert sum(count.older for count in counts) == 0
        stored = {row.column.table: row.written for row in counts}
        assert stored["pipeline_secrets"] == 1
        place.box = SecretBox((new,))
        assert place.snapshot().secrets["hidden"].value.reveal() == "changed"
