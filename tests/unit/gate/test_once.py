"""A signed message counts once for its consumer, and a message that was not taken can be sent
again."""

from __future__ import annotations

import hmac
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace
from typing import Any

import pytest
from werkzeug.test import TestResponse

from penstock import (
    AccessView,
    Authenticator,
    Call,
    Caller,
    Durable,
    HttpTrigger,
    Once,
    Pipeline,
    PipelineError,
    PluginSetup,
    Rate,
    Reply,
    RequestHead,
    hookimpl,
)
from penstock.testing import Runtime

Start = Callable[..., Runtime]
SECRET = "It's a Secret to Everybody"


class Desk:
    """A plugin whose handlers do what a message says, and count how often they do it."""

    def __init__(self) -> None:
        self.done: Counter[str] = Counter()
        self.proceed = threading.Event()
        self.answers: list[Any] = []

    @hookimpl
    def penstock_pipelines(self) -> list[Pipeline]:
        return [
            self._made("plain", signature="hmac", timeout=0.5),
            self._made("rated", signature="hmac", rate=Rate("1/second")),
            self._made("narrow", signature="hmac", in_flight=1),
            self._made("kept", signature="hmac", idempotent="key", timeout=0.5),
            self._made("stripe", signature="stripe"),
            self._made("both", signature="hmac", api_key=True, jwt=True, scopes={"write"}),
            self._made("github", signature="github"),
            self._made("slack", signature="slack"),
            self._durable(),
        ]

    def _made(self, name: str, **trigger: Any) -> Pipeline:
        pipeline = Pipeline(name, version="1.0.0", trigger=HttpTrigger(**trigger))
        pipeline.post("/")(self.take)
        pipeline.post("/{number}")(lambda call, number: self.take(call, {"do": "count"}))
        return pipeline

    def _durable(self) -> Pipeline:
        pipeline = Pipeline(
            "later",
            version="1.0.0",
            trigger=HttpTrigger(signature="hmac", idempotent="key"),
            durable=Durable(backlog=1),
        )

        @pipeline.post("/", mode="durable")
        def later(call: Call, body: dict[str, str]) -> dict[str, str]:
            return body

        return pipeline

    def take(self, call: Call, body: dict[str, str]) -> object:
        what = body["do"]
        self.done[what] += 1
        if what == "wait":
            self.proceed.wait(10)
        elif what == "stick":
            time.sleep(1.0)
        elif what == "raise":
            raise KeyError("made up")
        elif what.startswith("reply "):
            return Reply(int(what[6:]), {}, {"number": self.done[what]})
        elif what.startswith("refuse "):
            raise PipelineError(int(what[7:]), "As the message says")
        return {"number": self.done[what]}


@pytest.fixture
def desk() -> Iterator[Desk]:
    created = Desk()
    yield created
    created.proceed.set()


@pytest.fixture
def runtime(penstock_runtime: Start, desk: Desk) -> Runtime:
    created = penstock_runtime(desk, policy="any")
    created.client("octo", key=False, token=False)
    for kind in ("hmac", "stripe", "github", "slack"):
        enrol(created, kind, SECRET)
    return created


def enrol(
    runtime: Runtime, kind: str, secret: str, consumer: str = "octo", name: str = "first"
) -> None:
    words = ("credential", "add", f"{kind}_signature", consumer, "--env", "test", "--name", name)
    runtime.operate(*words, given=secret + "\n")


def mac(message: bytes, secret: str = SECRET) -> str:
    return hmac.new(secret.encode(), message, "sha256").hexdigest()


def signed(body: bytes, *, moment: float | None = None, secret: str = SECRET) -> dict[str, str]:
    at = str(int(time.time() if moment is None else moment))
    return {
        "X-Signature-Timestamp": at,
        "X-Signature": "sha256=" + mac(f"{at}.".encode() + body, secret),
    }


def message(do: str) -> bytes:
    return b'{"do": "%s"}' % do.encode()


def sender(runtime: Runtime, path: str, body: bytes, **more: str) -> Callable[..., TestResponse]:
    """Return what sends one signed message again and again, byte for byte the same but for
    further headers."""
    headers = (
        signed(body)
        | {"Content-Type": "application/json"}
        | {name.replace("_", "-"): value for name, value in more.items()}
    )

    def send(**extra: str) -> TestResponse:
        further = {name.replace("_", "-"): value for name, value in extra.items()}
        return runtime.anonymous().post(path, data=body, headers=headers | further)

    return send


def problem(answered: TestResponse) -> tuple[int, str]:
    return answered.status_code, (answered.json or {}).get("type", "")


REPLAY = (401, "invalid-signature")


class TestGivenBack:
    def test_after_a_429(self, runtime: Runtime, desk: Desk) -> None:
        first, second = (sender(runtime, "/v1/rated/", message(do)) for do in ("one", "two"))

        assert (first().status_code, problem(second())) == (200, (429, "rate-limited"))
        time.sleep(1.1)
        assert (problem(first()), second().status_code) == (REPLAY, 200)
        assert problem(second()) == REPLAY
        assert desk.done == {"one": 1, "two": 1}

    def test_after_a_503_because_all_places_are_taken(self, runtime: Runtime, desk: Desk) -> None:
        waits, other = (
            sender(runtime, "/v1/narrow/", message("wait")),
            sender(runtime, "/v1/narrow/", message("other")),
        )
        with ThreadPoolExecutor(1) as pool:
            waiting = pool.submit(waits)
            while not desk.done["wait"]:
                time.sleep(0.01)
            busy = problem(other())
            desk.proceed.set()
            assert waiting.result().status_code == 200

        assert busy == (503, "pipeline-busy")
        assert (other().status_code, problem(other()), desk.done["other"]) == (200, REPLAY, 1)

    def test_after_a_503_because_too_many_runs_wait(self, runtime: Runtime) -> None:
        first, second = (sender(runtime, "/v1/later/", message(do)) for do in ("one", "two"))

        assert (first().status_code, problem(second())) == (202, (503, "pipeline-busy"))
        runtime.work()
        assert (second().status_code, problem(second()), problem(first())) == (202, REPLAY, REPLAY)

    @pytest.mark.parametrize(
        "do",
        [
            "raise",
            "reply 500",
            "reply 503",
            "refuse 500",
            "refuse 503",
            "refuse 429",
            "reply 408",
            "refuse 425",
        ],
    )
    def test_after_a_failure_and_where_the_handler_asks_to_come_again(
        self, runtime: Runtime, desk: Desk, do: str
    ) -> None:
        send = sender(runtime, "/v1/plain/", message(do))

        assert len({send().status_code for _ in range(3)} - {401}) == 1
        assert desk.done[do] == 3

    def test_after_a_call_that_ran_out_of_time(self, runtime: Runtime, desk: Desk) -> None:
        send = sender(runtime, "/v1/plain/", message("stick"))

        assert [problem(send()) for _ in range(2)] == [(504, "timed-out")] * 2
        assert desk.done["stick"] == 2

    @pytest.mark.parametrize(
        ("path", "body", "refusal"),
        [
            ("/v1/plain/", b'{"do": ', (400, "body-malformed")),
            ("/v1/plain/", b"[]", (422, "body-invalid")),
            (
                "/v1/later/?callback_url=https://x.example",
                message("x"),
                (422, "parameters-invalid"),
            ),
        ],
    )
    def test_after_the_body_or_the_parameters_did_not_fit(
        self, runtime: Runtime, path: str, body: bytes, refusal: tuple[int, str]
    ) -> None:
        send = sender(runtime, path, body)

        assert [problem(send()) for _ in range(2)] == [refusal] * 2

    def test_after_a_wrong_media_type(self, runtime: Runtime) -> None:
        send = sender(runtime, "/v1/plain/", message("count"))

        assert problem(send(Content_Type="text/csv")) == (415, "unsupported-media-type")
        assert (send().status_code, problem(send())) == (200, REPLAY)

    def test_after_a_403(self, runtime: Runtime) -> None:
        send = sender(runtime, "/v1/both/", message("count"))
        without, allowed = (
            runtime.client("octo", scopes=scopes).headers for scopes in ((), ("write",))
        )

        assert problem(send(**without)) == (403, "insufficient-scope")
        runtime.operate("address", "allow", "octo", "192.0.2.1", "--env", "test")
        assert problem(send(**allowed)) == (403, "address-not-allowed")
        runtime.operate("address", "remove", "octo", "192.0.2.1", "--env", "test")
        assert send(**allowed).status_code == 200
        assert problem(send(**allowed)) == REPLAY


class TestKept:
    @pytest.mark.parametrize(
        "do",
        ["count", "reply 200", "reply 404", "reply 409", "refuse 404", "refuse 409", "refuse 422"],
    )
    def test_a_message_that_its_handler_answered_counts_with_any_answer(
        self, runtime: Runtime, desk: Desk, do: str
    ) -> None:
        send = sender(runtime, "/v1/plain/", message(do))

        assert send().status_code != 401
        assert [problem(send()) for _ in range(2)] == [REPLAY] * 2
        assert desk.done[do] == 1

    def test_also_at_another_path_and_pipeline_of_its_consumer(
        self, runtime: Runtime, desk: Desk
    ) -> None:
        headers = signed(message("count")) | {"Content-Type": "application/json"}
        paths = ("/v1/plain/", "/v1/plain/7", "/v1/narrow/", "/v1/kept/", "/v1/later/")

        answers = [
            runtime.anonymous().post(path, data=message("count"), headers=headers) for path in paths
        ]

        assert [answered.status_code for answered in answers] == [200, 401, 401, 401, 401]
        assert desk.done["count"] == 1

    def test_a_rejected_replay_gives_nothing_back(self, runtime: Runtime, desk: Desk) -> None:
        send = sender(runtime, "/v1/plain/", message("count"))

        assert [send().status_code for _ in range(6)] == [200] + [401] * 5
        assert desk.done["count"] == 1

    @pytest.mark.parametrize("order", ["both first", "one first"])
    def test_whichever_secret_of_the_consumer_matched(
        self, runtime: Runtime, desk: Desk, order: str
    ) -> None:
        """A sender that rolls its secret signs with the old and the new one."""
        enrol(runtime, "stripe", "another secret of octo", name="second")
        at = str(int(time.time()))
        old, new = (
            mac(f"{at}.".encode() + message("count"), secret)
            for secret in (SECRET, "another secret of octo")
        )
        both, alone = (
            f"t={at},v1={old},v1={new}",
            [f"t={at},v1={new}", f"t={at},v1={old}", f"t={at},v1={new},v1={old}"],
        )
        sent = (
            [both, *alone, both] if order == "both first" else [alone[0], both, alone[1], alone[2]]
        )

        def send(signature: str) -> int:
            headers = {"Stripe-Signature": signature, "Content-Type": "application/json"}
            return (
                runtime.anonymous()
                .post("/v1/stripe/", data=message("count"), headers=headers)
                .status_code
            )

        assert [send(signature) for signature in sent] == [200] + [401] * (len(sent) - 1)
        assert desk.done["count"] == 1

    def test_another_consumer_s_message_is_its_own(self, runtime: Runtime, desk: Desk) -> None:
        runtime.client("cat", key=False, token=False)
        enrol(runtime, "hmac", "the secret of the cat", "cat", "cat")
        now = time.time()

        def send(secret: str) -> int:
            headers = signed(message("count"), moment=now, secret=secret) | {
                "Content-Type": "application/json"
            }
            return (
                runtime.anonymous()
                .post("/v1/plain/", data=message("count"), headers=headers)
                .status_code
            )

        assert [
            send(secret)
            for secret in (SECRET, "the secret of the cat", SECRET, "the secret of the cat")
        ] == [200, 200, 401, 401]

    def test_of_two_copies_at_once_one_is_performed(self, runtime: Runtime, desk: Desk) -> None:
        send = sender(runtime, "/v1/plain/", message("count"))
        at_once = threading.Barrier(6)

        def copy(_: int) -> int:
            at_once.wait()
            return send().status_code

        with ThreadPoolExecutor(6) as pool:
            statuses = sorted(pool.map(copy, range(6)))

        assert (statuses, desk.done["count"]) == ([200] + [401] * 5, 1)

    def test_a_copy_of_one_that_still_runs_is_rejected(self, runtime: Runtime, desk: Desk) -> None:
        send = sender(runtime, "/v1/narrow/", message("wait"))
        with ThreadPoolExecutor(1) as pool:
            waiting = pool.submit(send)
            while not desk.done["wait"]:
                time.sleep(0.01)
            copy = problem(send())
            desk.proceed.set()
            assert waiting.result().status_code == 200

        assert (copy, problem(send()), desk.done["wait"]) == (REPLAY, REPLAY, 1)


class TestIdempotencyKey:
    @pytest.mark.parametrize(
        ("do", "status"),
        [("count", 200), ("reply 201", 201), ("refuse 409", 409), ("reply 404", 404)],
    )
    def test_a_repeat_with_the_same_key_gets_the_stored_reply(
        self, runtime: Runtime, desk: Desk, do: str, status: int
    ) -> None:
        send = sender(runtime, "/v1/kept/", message(do), Idempotency_Key="k1")

        first, repeat = send(), send(Idempotency_Key='"k1"')

        assert (first.status_code, repeat.status_code, repeat.headers["Idempotency-Replayed"]) == (
            status,
            status,
            "true",
        )
        assert (first.json or {}).get("number") == (repeat.json or {}).get("number")
        assert desk.done[do] == 1

    def test_with_another_key_or_none_or_elsewhere_it_is_a_replay(
        self, runtime: Runtime, desk: Desk
    ) -> None:
        headers = signed(message("count")) | {"Content-Type": "application/json"}

        def send(path: str = "/v1/kept/", **more: str) -> TestResponse:
            further = {name.replace("_", "-"): value for name, value in more.items()}
            return runtime.anonymous().post(path, data=message("count"), headers=headers | further)

        assert send(Idempotency_Key="k1").status_code == 200

        assert (
            problem(send(Idempotency_Key="k2"))
            == problem(send())
            == problem(send("/v1/plain/"))
            == REPLAY
        )
        assert problem(send(Idempotency_Key="")) == (400, "idempotency-key-invalid")
        assert problem(send("/v1/kept/7", Idempotency_Key="k1")) == (422, "idempotency-key-reused")
        assert send(Idempotency_Key="k1").headers["Idempotency-Replayed"] == "true"
        assert desk.done["count"] == 1

    def test_a_message_without_a_key_is_no_first_call_for_one_with_a_key(
        self, runtime: Runtime, desk: Desk
    ) -> None:
        send = sender(runtime, "/v1/kept/", message("count"))

        assert (send().status_code, problem(send(Idempotency_Key="k1")), desk.done["count"]) == (
            200,
            REPLAY,
            1,
        )

    def test_where_the_pipeline_keeps_no_replies_the_key_changes_nothing(
        self, runtime: Runtime
    ) -> None:
        send = sender(runtime, "/v1/plain/", message("count"), Idempotency_Key="k1")

        assert (send().status_code, problem(send())) == (200, REPLAY)

    def test_a_failure_with_a_key_can_be_repeated_with_it_or_without(
        self, runtime: Runtime, desk: Desk
    ) -> None:
        send = sender(runtime, "/v1/kept/", message("raise"), Idempotency_Key="k1")

        assert [send(**more).status_code for more in ({}, {}, {"Idempotency_Key": "k2"})] == [
            500
        ] * 3
        assert desk.done["raise"] == 3

    def test_a_repeat_of_a_running_call_gets_409_and_later_the_reply(
        self, runtime: Runtime, desk: Desk
    ) -> None:
        send = sender(runtime, "/v1/kept/", message("stick"), Idempotency_Key="k1")

        assert problem(send()) == (504, "timed-out")
        assert problem(send()) == (409, "idempotency-key-in-use")
        time.sleep(1)
        assert (send().json, send().headers["Idempotency-Replayed"]) == ({"number": 1}, "true")
        assert (desk.done["stick"], problem(send(Idempotency_Key="k2"))) == (1, REPLAY)

    def test_copies_at_once_with_one_key_are_performed_once(
        self, runtime: Runtime, desk: Desk
    ) -> None:
        send = sender(runtime, "/v1/kept/", message("count"), Idempotency_Key="k1")
        at_once = threading.Barrier(6)

        def copy(_: int) -> tuple[int, str]:
            at_once.wait()
            return problem(send())

        with ThreadPoolExecutor(6) as pool:
            answers = set(pool.map(copy, range(6)))

        assert (200, "") in answers
        assert answers <= {(200, ""), (409, "idempotency-key-in-use")}
        assert desk.done["count"] == 1

    def test_a_new_message_that_got_a_stored_reply_counts_too(
        self, runtime: Runtime, desk: Desk
    ) -> None:
        """The sender signs each attempt anew: of none of them there is a second."""
        now = time.time()
        attempts = [
            signed(message("refuse 409"), moment=now - age) | {"Content-Type": "application/json"}
            for age in (9, 5)
        ]

        def send(headers: dict[str, str], key: str) -> tuple[int, str]:
            return problem(
                runtime.anonymous().post(
                    "/v1/kept/",
                    data=message("refuse 409"),
                    headers=headers | {"Idempotency-Key": key},
                )
            )

        assert [send(headers, "k1")[0] for headers in attempts] == [409, 409]
        assert [send(headers, "k2") for headers in attempts] == [REPLAY] * 2
        assert desk.done["refuse 409"] == 1

    def test_a_durable_run_is_accepted_once(self, runtime: Runtime) -> None:
        send = sender(runtime, "/v1/later/", message("count"), Idempotency_Key="k1")

        first, repeat = send(), send()

        assert (first.status_code, repeat.status_code) == (202, 202)
        assert (first.json or {})["id"] == (repeat.json or {})["id"]
        assert problem(send(Idempotency_Key="k2")) == REPLAY

    def test_a_process_that_died_leaves_the_message_taken(
        self, runtime: Runtime, desk: Desk, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """It is not known whether the message was performed."""
        send = sender(runtime, "/v1/kept/", message("raise"), Idempotency_Key="k1")
        monkeypatch.setattr("penstock.access.replay_guard.ReplayGuard.release", lambda *_: None)
        assert send().status_code == 500

        assert (problem(send()), problem(send(Idempotency_Key="k2"))) == (
            (409, "idempotency-key-in-use"),
            REPLAY,
        )
        assert desk.done["raise"] == 1


@pytest.mark.parametrize(
    ("kind", "scheme", "header"),
    [
        ("github", "sha256=", "X-Hub-Signature-256"),
        ("slack", "v0=", "X-Slack-Signature"),
        ("hmac", "sha256=", "X-Signature"),
    ],
)
def test_a_signature_without_the_name_of_its_scheme_is_a_401(
    runtime: Runtime, kind: str, scheme: str, header: str
) -> None:
    at, body = str(int(time.time())), message("count")
    signature = mac(
        {"github": body, "slack": f"v0:{at}:".encode() + body, "hmac": f"{at}.".encode() + body}[
            kind
        ]
    )
    moments = {
        "X-Slack-Request-Timestamp": at,
        "X-Signature-Timestamp": at,
        "Content-Type": "application/json",
    }
    path = {"github": "/v1/github/", "slack": "/v1/slack/", "hmac": "/v1/plain/"}[kind]

    def send(sent: str) -> tuple[int, str]:
        return problem(runtime.anonymous().post(path, data=body, headers={header: sent, **moments}))

    wrong = [
        signature,
        f"={signature}",
        f"{scheme.upper()}{signature}",
        f"{scheme} {signature}",
        f"v1={signature}",
        f"{scheme}{scheme}{signature}",
    ]
    assert [send(sent) for sent in wrong] == [REPLAY] * len(wrong)
    assert send(scheme + signature)[0] == 200


def test_a_plugin_s_own_proof_counts_once_too(penstock_runtime: Start) -> None:
    """The extension point: an authenticator that reads no body says what its proof holds once
    for."""

    class Ticket(Authenticator):
        name, noun, refusal, challenge = "ticket_signature", "ticket", "invalid-ticket", "Ticket"
        only_where_asked = True
        text: object = None

        def find(self, head: RequestHead, access: AccessView) -> str | None:
            return head.header("X-Ticket")

        def verify(self, credential: str, access: AccessView, caller: Caller, now: float) -> Caller:
            (consumer_id,) = {
                item.consumer_id for item in access.credentials("hmac_signature").values()
            }
            return Caller("octo", consumer_id)

        def once(self, credential: str, body: bytes, head: RequestHead) -> Once | None:
            return self.text or Once(credential.encode(), 60)  # type: ignore[return-value]  # what a careless plugin may say

    pipeline = Pipeline("tickets", version="1.0.0", trigger=HttpTrigger(signature="ticket"))
    pipeline.post("/")(lambda call: {"consumer": call.caller.consumer})

    @hookimpl
    def penstock_pipelines() -> list[Pipeline]:
        return [pipeline]

    @hookimpl
    def penstock_authenticators(setup: PluginSetup) -> list[Authenticator]:
        return [Ticket()]

    plugin = SimpleNamespace(
        __name__="tickets",
        penstock_pipelines=penstock_pipelines,
        penstock_authenticators=penstock_authenticators,
    )
    runtime = penstock_runtime(plugin, policy="any")
    runtime.client("octo", key=False, token=False)
    enrol(runtime, "hmac", SECRET)

    def send(ticket: str) -> tuple[int, str]:
        return problem(runtime.anonymous().post("/v1/tickets/", headers={"X-Ticket": ticket}))

    assert [send(ticket) for ticket in ("a", "b", "a")] == [
        (200, ""),
        (200, ""),
        (401, "invalid-ticket"),
    ]
    for odd in (
        True,
        b"a",
        ("a", 60),
        "a",
        Once("a", 60),
        Once(b"a", "60"),
        Once(b"a", float("inf")),
        Once(b"a", -1),
    ):  # type: ignore[arg-type]  # what a careless plugin may say
        Ticket.text = odd
        assert send("c") == (500, "internal")
